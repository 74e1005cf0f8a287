//! Playlists, init segments and segments by L402.

use std::convert::Infallible;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::OnceCell;

use super::body::{Kept, Media};
use super::error::{Answer, Problem, not_modified};
use super::extract::{From, Path, credentials, named, range};
use super::range::{Range, Unsatisfiable};
use super::{App, Shared, extras};
use crate::blobs::Part;
use crate::domain::id::{RenditionName, SegmentNumber, Version, VideoId};
use crate::domain::video::{SegmentPrice, Ticks};
use crate::library::extras::{SEGMENT_BYTES_MAX, Track};
use crate::library::{self, Published};
use crate::paywall::egress::{Bought, Passage};
use crate::paywall::token::Presented;
use crate::paywall::{Client, Offer};
use crate::{domain, hls};

/// The media type of init segments and segments.
const MP4: HeaderValue = HeaderValue::from_static("video/mp4");
/// Media that was paid for is nobody else's to keep.
const PRIVATE: HeaderValue = HeaderValue::from_static("private, no-transform");

/// `GET /hls/{video}/index.m3u8`
pub async fn multivariant(State(app): State<App>, Path(video): Path<String>) -> Answer {
    let published = app.library.published(named(&video)?, None)?;
    extras::multivariant(&app, &published, &format!("{}/", published.media.version)).await
}

/// `GET /hls/{video}/{rendition}/{file}`: the same of the current version; `GET /hls/{video}/{version}/{file}`: a file around a version.
pub async fn current_version(
    State(app): State<App>,
    Path((video, second, file)): Path<(String, String, String)>,
    From(client): From,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    let video: VideoId = named(&video)?;
    if let (Ok(version), Some(name)) = (second.parse(), extras::Name::parse(&file)) {
        let published = app.library.published(video, Some(version))?;
        return extras::serve(&app, &published, name, &method, &headers, client).await;
    }
    if extras::Place::parse(&second, &file)?.is_none() {
        named::<RenditionName>(&second)?;
        File::parse(&file)?;
    }
    let version = app.library.published(video, None)?.media.version;
    Ok(extras::redirect(video, version, &format!("{second}/{file}")))
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
    let (video, version): (VideoId, Version) = (named(&video)?, named(&version)?);
    let place = extras::Place::parse(&rendition, &file)?;
    let presented = credentials(&headers);
    let published = match app.library.published(video, Some(version)) {
        Err(library::Error::Missing(what)) => return Err(gone(&app, video, &presented, what)?),
        found => found?,
    };
    let name;
    let (number, asked, free) = match &place {
        Some(extras::Place::Cues(language, number)) => {
            let asked = extras::cues(&app, &published, language, *number, &headers, client).await?;
            (*number, asked.0, asked.1)
        }
        Some(place) => return extras::media_playlist(&app, &published, place).await,
        None => {
            name = named::<RenditionName>(&rendition)?;
            match File::parse(&file)? {
                File::Playlist => return media_playlist(&published),
                File::Init => {
                    return init(&app, &published, &name, &method, &headers, client).await;
                }
                File::Segment(number) => {
                    let part = Part::Segment(number);
                    (number, Asked::of(&app, &published, &name, part, &headers, client), false)
                }
            }
        }
    };
    let mut offer = offer(&app, &published, number)?;
    if free {
        offer.price = None;
    }
    // What was paid of it is served for as long as it is there; nobody buys more of a version that another one took the place of.
    let replaced = published.media.version != published.video.version;
    if method == Method::HEAD {
        let len = asked.len().await?;
        return if app.paywall.peek(&offer, &presented)? {
            Ok(asked.head(len))
        } else if replaced {
            Err(replaced_by(&published))
        } else {
            Err(Problem::unpaid_head())
        };
    }
    // What cannot be served is not charged: a challenge needs the segment to be there, a credential its bytes in hand. They are read for a
    // credential that is good, and for nothing else.
    let owed = |amount| {
        if replaced {
            return replaced_by(&published);
        }
        match app.paywall.challenge(&offer, amount, client) {
            Ok(challenge) => Problem::challenge(&challenge),
            Err(error) => error.into(),
        }
    };
    let opening = match offer.price {
        None => None,
        Some(amount) => match app.paywall.opening(&offer, &presented, client).await? {
            Some(opening) => Some((opening, amount)),
            None => {
                asked.len().await?;
                return Err(owed(amount));
            }
        },
    };
    let ready = match asked.ready(opening.is_some()).await? {
        Ok(ready) => ready,
        Err(answer) => return Ok(answer),
    };
    let bought = opening.map(|(opening, _)| Bought::Payment(opening.bound.hash));
    let passage = ready.enter(bought)?;
    if let Some((opening, amount)) = opening
        && !app.paywall.redeem(&opening, client)?
    {
        // Its time ended between the two looks.
        return Err(owed(amount));
    }
    app.metrics.served(begun.elapsed());
    Ok(ready.media(passage))
}

/// What is answered for a title that is not there: where it was removed, who paid and was not served is told.
fn gone(
    app: &Shared,
    video: VideoId,
    presented: &[Presented],
    what: &'static str,
) -> Result<Problem, Problem> {
    let credit = app.paywall.left_over(video, presented)?;
    Ok(credit.map_or_else(|| Problem::missing(what), |credit| Problem::gone(credit.get())))
}

/// What is answered instead of a price for a version that another one took the place of.
fn replaced_by(published: &Published) -> Problem {
    Problem::replaced(&format!("/hls/{}/index.m3u8", published.video.id))
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
    method: &Method,
    headers: &HeaderMap,
    client: Client,
) -> Answer {
    let asked = Asked::of(app, published, rendition, Part::Init, headers, client);
    if *method == Method::HEAD {
        return Ok(asked.head(asked.len().await?));
    }
    Ok(match asked.ready(false).await? {
        Ok(ready) => ready.media(None),
        Err(answer) => answer,
    })
}

/// A playlist's answer.
pub fn playlist(text: String) -> Response {
    let kind = HeaderValue::from_static(hls::PLAYLIST_TYPE);
    let fresh = HeaderValue::from_static("no-cache");
    ([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, fresh)], text).into_response()
}

/// A part of a rendition that a client asks for, and may have.
pub struct Asked<'a> {
    app: &'a Shared,
    published: &'a Published,
    what: What<'a>,
    /// Whose payment opens it; nothing where it is free.
    segment: Option<SegmentNumber>,
    kind: HeaderValue,
    headers: &'a HeaderMap,
    client: Client,
    /// Strong: a version's bytes never change, and of what is made anew the tag is made of the bytes (RFC 9110, section 8.8.3).
    tag: HeaderValue,
}

/// Where bytes come from.
enum What<'a> {
    /// They are kept.
    Kept(&'a RenditionName, Part),
    /// They are at hand.
    Made(Bytes),
    /// Cues of a track within a span; they are made once somebody may have them. With their tag.
    Cues((Track, (Ticks, Ticks)), OnceCell<(Bytes, HeaderValue)>),
}

impl<'a> Asked<'a> {
    /// Of a request.
    pub fn of(
        app: &'a Shared,
        published: &'a Published,
        rendition: &'a RenditionName,
        part: Part,
        headers: &'a HeaderMap,
        client: Client,
    ) -> Self {
        let name = match part {
            Part::Init => "init".to_owned(),
            Part::Segment(number) => number.to_string(),
        };
        let tag = format!("\"{}-{rendition}-{name}\"", published.media.version);
        let tag = HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""));
        let segment = match part {
            Part::Segment(number) => Some(number),
            Part::Init => None,
        };
        let what = What::Kept(rendition, part);
        Self { app, published, what, segment, kind: MP4, headers, client, tag }
    }

    /// Of bytes that are at hand and free.
    pub fn made(
        app: &'a Shared,
        published: &'a Published,
        bytes: Bytes,
        kind: HeaderValue,
        headers: &'a HeaderMap,
        client: Client,
    ) -> Self {
        let tag = tag_of(&bytes);
        let what = What::Made(bytes);
        Self { app, published, what, segment: None, kind, headers, client, tag }
    }

    /// Of cues of a track within a span.
    pub fn cues(
        app: &'a Shared,
        published: &'a Published,
        of: (Track, (Ticks, Ticks)),
        kind: HeaderValue,
        headers: &'a HeaderMap,
        client: Client,
    ) -> Self {
        let what = What::Cues(of, OnceCell::new());
        let tag = HeaderValue::from_static("\"\"");
        Self { app, published, what, segment: None, kind, headers, client, tag }
    }

    /// Opened by the payment of a segment.
    pub const fn of_segment(mut self, number: SegmentNumber) -> Self {
        self.segment = Some(number);
        self
    }

    /// Its length; of cues it is told with them, since nothing is made for who did not pay.
    ///
    /// # Errors
    /// 404 where it is not there.
    pub async fn len(&self) -> Result<Option<u64>, Problem> {
        Ok(match &self.what {
            What::Kept(rendition, part) => {
                Some(self.app.library.part_len(self.published, rendition, *part).await?)
            }
            What::Made(bytes) => Some(len(bytes)),
            What::Cues(_, made) => made.get().map(|(bytes, _)| len(bytes)),
        })
    }

    /// What `HEAD` answers: what `GET` would, without the body.
    pub fn head(&self, len: Option<u64>) -> Response {
        let headers = self.media_headers();
        match len {
            Some(len) => {
                let length = [(header::CONTENT_LENGTH, HeaderValue::from(len))];
                (headers, length, Body::empty()).into_response()
            }
            // What is only known once it is made may be left out (RFC 9110, section 9.3.2).
            None => {
                let unknown = futures::stream::empty::<Result<Bytes, Infallible>>();
                let mut response = (headers, Body::from_stream(unknown)).into_response();
                response.headers_mut().remove(header::ETAG);
                response
            }
        }
    }

    /// Makes what is made for who may have it.
    async fn make(&self, paid: bool) -> Result<(), Problem> {
        let What::Cues((track, span), made) = &self.what else { return Ok(()) };
        let make = || async {
            // The room first; the answer's own is taken once its length is known.
            let _memory = self.memory(SEGMENT_BYTES_MAX as u64, paid).await?;
            let library = &self.app.library;
            let bytes = library.subtitle_segment(self.published, track, *span).await?;
            let tag = tag_of(&bytes);
            Ok::<_, Problem>((bytes, tag))
        };
        made.get_or_try_init(make).await.map(|_| ())
    }

    async fn memory(&self, bytes: u64, paid: bool) -> Result<Kept, Problem> {
        let memory = self.app.memory.take(self.client, bytes, paid).await;
        memory.inspect_err(|_| self.app.metrics.refused("memory"))
    }

    fn tag(&self) -> &HeaderValue {
        match &self.what {
            What::Cues(_, made) => match made.get() {
                Some((_, tag)) => tag,
                None => &self.tag,
            },
            What::Kept(..) | What::Made(_) => &self.tag,
        }
    }

    /// The bytes, in hand, before anything is charged; or an answer that needs none and charges nothing: 304 and 416.
    ///
    /// # Errors
    /// 404 where they are not there, 503 where they cannot be read now.
    pub async fn ready(&self, paid: bool) -> Result<Result<Ready<'_>, Response>, Problem> {
        self.make(paid).await?;
        if self.matches(header::IF_NONE_MATCH) == Some(true) {
            return Ok(Err(not_modified(self.media_headers())));
        }
        let len = self.len().await?.unwrap_or_default();
        // A range of what it was before is no range of this (RFC 9110, section 13.1.5).
        let range = if self.matches(header::IF_RANGE) == Some(false) {
            Range::Whole { of: len }
        } else {
            match range(self.headers, len) {
                Ok(range) => range,
                Err(Unsatisfiable) => return Ok(Err(Problem::bad_range(len))),
            }
        };
        // Without its init segment no paid one plays.
        let paid = paid || matches!(self.what, What::Kept(_, Part::Init));
        let memory = self.memory(len, paid).await?;
        let library = &self.app.library;
        let bytes = match &self.what {
            What::Kept(rendition, part) => library.open(self.published, rendition, *part).await?,
            What::Made(bytes) => bytes.clone(),
            What::Cues(_, made) => made.get().map(|(bytes, _)| bytes.clone()).unwrap_or_default(),
        };
        Ok(Ok(Ready { asked: self, bytes, range, memory }))
    }

    fn media_headers(&self) -> [(HeaderName, HeaderValue); 5] {
        let free = !matches!(self.what, What::Kept(..)) && self.segment.is_none();
        [
            (header::CONTENT_TYPE, self.kind.clone()),
            (header::CACHE_CONTROL, if free { extras::FREE } else { PRIVATE }),
            (header::VARY, HeaderValue::from_static("Authorization")),
            (header::ACCEPT_RANGES, HeaderValue::from_static("bytes")),
            (header::ETAG, self.tag().clone()),
        ]
    }

    /// Whether a condition names what is served now; `None` where there is no such condition.
    fn matches(&self, condition: HeaderName) -> Option<bool> {
        let mut values = self.headers.get_all(condition).iter().peekable();
        values.peek()?;
        let ours = self.tag().as_bytes();
        Some(values.any(|value| {
            let mut tags = value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
            tags.any(|tag| tag == b"*" || tag.strip_prefix(b"W/").unwrap_or(tag) == ours)
        }))
    }
}

/// A strong tag of what is made anew for each request.
fn tag_of(bytes: &[u8]) -> HeaderValue {
    let digest = hex::encode(Sha256::digest(bytes));
    let tag = format!("\"{}\"", digest.get(..32).unwrap_or_default());
    HeaderValue::try_from(tag).unwrap_or(HeaderValue::from_static("\"\""))
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Bytes in hand, and the range of them that is asked for.
pub struct Ready<'a> {
    asked: &'a Asked<'a>,
    bytes: Bytes,
    range: Range,
    memory: Kept,
}

impl Ready<'_> {
    /// Counts the response against what was bought.
    ///
    /// # Errors
    /// 429 where it was fetched often enough; nothing is charged then.
    pub fn enter(&self, bought: Option<Bought>) -> Result<Option<Passage>, Problem> {
        let Some(bought) = bought else { return Ok(None) };
        let media = &self.asked.published.media;
        let entered = self.asked.app.paywall.enter(bought, self.range.len(), largest(media, self));
        entered.map(Some).map_err(Problem::fetched)
    }

    /// The answer.
    pub fn media(self, passage: Option<Passage>) -> Response {
        let headers = self.asked.media_headers();
        let metrics = self.asked.app.metrics.clone();
        let body = |bytes| Media::new(bytes, metrics, passage, self.memory).into_body();
        match self.range {
            Range::Whole { .. } => (headers, body(self.bytes)).into_response(),
            Range::Part { first, last, of } => {
                let (from, to) = (usize::try_from(first), usize::try_from(last.saturating_add(1)));
                let part = match (from, to) {
                    (Ok(from), Ok(to)) if to <= self.bytes.len() => self.bytes.slice(from..to),
                    _ => self.bytes,
                };
                let mut response =
                    (StatusCode::PARTIAL_CONTENT, headers, body(part)).into_response();
                if let Ok(value) = HeaderValue::from_str(&format!("bytes {first}-{last}/{of}")) {
                    response.headers_mut().insert(header::CONTENT_RANGE, value);
                }
                response
            }
        }
    }
}

/// What the segment has in its largest rendition at most: the bit rate that the playlist names is the highest of any segment.
fn largest(media: &domain::video::Media, ready: &Ready<'_>) -> u64 {
    let span = ready.asked.segment.and_then(|number| media.timeline.span(number));
    let ms = span.map_or(0, |(start, end)| end.since(start).millis());
    let bits = media.renditions.iter().map(|of| of.bandwidth).max().unwrap_or_default();
    bits.saturating_mul(ms).div_ceil(8_000)
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
