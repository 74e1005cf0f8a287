//! Playlists, init segments and segments by L402.

use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;

use super::error::{Answer, Problem};
use super::extract::{From, Path, credentials, named, range};
use super::range::{Range, Unsatisfiable};
use super::{App, Shared};
use crate::blobs::Part;
use crate::domain::id::{RenditionName, SegmentNumber, Version, VideoId};
use crate::domain::video::SegmentPrice;
use crate::hls;
use crate::library::Published;
use crate::paywall::{Decision, Offer};

/// The media type of init segments and segments.
const MP4: HeaderValue = HeaderValue::from_static("video/mp4");
/// Media that was paid for is nobody else's to keep.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-transform");

/// `GET /hls/{video}/index.m3u8`
pub async fn multivariant(State(app): State<App>, Path(video): Path<String>) -> Answer {
    let published = app.library.published(named(&video)?, None)?;
    let text = hls::multivariant(&published.media, &format!("{}/", published.media.version));
    Ok(playlist(text.map_err(crate::library::Error::from)?))
}

/// `GET /hls/{video}/{rendition}/{file}`: the same of the current version.
pub async fn current_version(
    State(app): State<App>,
    Path((video, rendition, file)): Path<(String, String, String)>,
) -> Answer {
    let video: VideoId = named(&video)?;
    let rendition: RenditionName = named(&rendition)?;
    let file = File::parse(&file)?;
    let version = app.library.published(video, None)?.media.version;
    Ok(Redirect::temporary(&format!("/hls/{video}/{version}/{rendition}/{file}")).into_response())
}

/// `GET /hls/{video}/{version}/{rendition}/{file}`
pub async fn part(
    State(app): State<App>,
    Path((video, version, rendition, file)): Path<(String, String, String, String)>,
    From(client): From,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    let begun = Instant::now();
    let version: Version = named(&version)?;
    let rendition: RenditionName = named(&rendition)?;
    let file = File::parse(&file)?;
    let published = app.library.published(named(&video)?, Some(version))?;
    let number = match file {
        File::Playlist => return media_playlist(&published),
        File::Init => return init(&app, &published, &rendition, &headers).await,
        File::Segment(number) => number,
    };
    let presented = credentials(&headers);
    let offer = offer(&app, &published, number)?;
    if method == Method::HEAD {
        let len = app.library.part_len(&published, &rendition, Part::Segment(number)).await?;
        return if app.paywall.peek(&offer, &presented)? {
            Ok(head(len))
        } else {
            Err(Problem::unpaid_head())
        };
    }
    // What cannot be served is not charged: a challenge needs the segment to be there, a credential its bytes in hand. They are read for a
    // credential that is good, and for nothing else.
    let opening = app.paywall.opening(&offer, &presented).await?;
    if opening.is_none() && offer.price.is_some() {
        app.library.part_len(&published, &rendition, Part::Segment(number)).await?;
        return match app.paywall.admit(&offer, None, client)? {
            Decision::Owed(challenge) => Err(Problem::challenge(&challenge)),
            Decision::Free | Decision::Granted => Err(Problem::unpaid_head()),
        };
    }
    let bytes = app.library.open(&published, &rendition, Part::Segment(number)).await?;
    let range = match range(&headers, bytes.len() as u64) {
        Ok(range) => range,
        Err(Unsatisfiable) => return Ok(Problem::bad_range(bytes.len() as u64)),
    };
    match app.paywall.admit(&offer, opening.as_ref(), client)? {
        Decision::Free | Decision::Granted => {
            app.metrics.served(range.len(), begun.elapsed());
            Ok(media(bytes, &range))
        }
        Decision::Owed(challenge) => Err(Problem::challenge(&challenge)),
    }
}

/// What a segment costs now.
fn offer(app: &Shared, published: &Published, number: SegmentNumber) -> Result<Offer, Problem> {
    let terms = app.library.terms(&published.video);
    let price = match terms.price_of(&published.media.timeline, number)? {
        Some(SegmentPrice::Free) => None,
        Some(SegmentPrice::Paid(amount)) => Some(amount),
        None => return Err(Problem::missing("segment")),
    };
    let segment = app.library.segment(published, number);
    Ok(Offer { segment, price, split: published.split })
}

/// The media playlist of a version; the same for all its renditions.
pub fn media_playlist(published: &Published) -> Answer {
    Ok(playlist(hls::media(&published.media).map_err(crate::library::Error::from)?))
}

/// An init segment; free.
pub async fn init(
    app: &Shared,
    published: &Published,
    rendition: &RenditionName,
    headers: &HeaderMap,
) -> Answer {
    let bytes = app.library.open(published, rendition, Part::Init).await?;
    Ok(match range(headers, bytes.len() as u64) {
        Ok(range) => media(bytes, &range),
        Err(Unsatisfiable) => Problem::bad_range(bytes.len() as u64),
    })
}

/// A playlist's answer.
pub fn playlist(text: String) -> Response {
    let kind = HeaderValue::from_static(hls::PLAYLIST_TYPE);
    let fresh = HeaderValue::from_static("no-cache");
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, fresh)], text).into_response()
}

/// Media bytes, or the range of them that was asked for.
pub fn media(bytes: Bytes, range: &Range) -> Response {
    let headers = media_headers();
    match range {
        Range::Whole { .. } => (headers, Body::from(bytes)).into_response(),
        Range::Part { first, last, of } => {
            let (from, to) = (usize::try_from(*first), usize::try_from(last.saturating_add(1)));
            let part = match (from, to) {
                (Ok(from), Ok(to)) if to <= bytes.len() => bytes.slice(from..to),
                _ => bytes,
            };
            let mut response =
                (StatusCode::PARTIAL_CONTENT, headers, Body::from(part)).into_response();
            if let Ok(value) = HeaderValue::from_str(&format!("bytes {first}-{last}/{of}")) {
                response.headers_mut().insert(header::CONTENT_RANGE, value);
            }
            response
        }
    }
}

/// What `HEAD` answers for media that is paid or free: what `GET` would, without the body.
pub fn head(len: u64) -> Response {
    let length = [(header::CONTENT_LENGTH, HeaderValue::from(len))];
    (media_headers(), length, Body::empty()).into_response()
}

fn media_headers() -> [(header::HeaderName, HeaderValue); 4] {
    [
        (header::CONTENT_TYPE, MP4),
        (header::CACHE_CONTROL, PRIVATE),
        (header::VARY, HeaderValue::from_static("Authorization")),
        (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
    ]
}

/// The last element of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum File {
    /// `index.m3u8`
    Playlist,
    /// `init.mp4`
    Init,
    /// `{n}.m4s`
    Segment(SegmentNumber),
}

impl File {
    /// Exactly one of the three.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        match text {
            "index.m3u8" => Ok(Self::Playlist),
            "init.mp4" => Ok(Self::Init),
            other => match other.strip_suffix(".m4s") {
                Some(number) => Ok(Self::Segment(named(number)?)),
                None => Err(Problem::missing("file")),
            },
        }
    }
}

impl std::fmt::Display for File {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Playlist => f.write_str("index.m3u8"),
            Self::Init => f.write_str("init.mp4"),
            Self::Segment(number) => write!(f, "{number}.m4s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_three_kinds_of_file_can_be_named() {
        assert_eq!(File::parse("7.m4s").ok(), Some(File::Segment(SegmentNumber(7))));
        for bad in ["..", "07.m4s", "-1.m4s", ".m4s", "init.mp4/", "x"] {
            assert!(File::parse(bad).is_err(), "{bad}");
        }
    }
}
