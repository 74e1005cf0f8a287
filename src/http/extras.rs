//! What lies around a film: stills, chapters, a waveform, key frames, and subtitles as renditions. Free, but for subtitles behind the preview.

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::{IntoResponse, Redirect, Response};
use bytes::Bytes;
use serde::Serialize;

use super::error::{Answer, Problem};
use super::extract::{From, Path, named};
use super::play::{Asked, playlist};
use super::{App, Shared};
use crate::domain::id::{SegmentNumber, VideoId};
use crate::domain::subtitle::{Language, VTT_TYPE};
use crate::hls;
use crate::library::extras::{self as library, Around, File, Track};
use crate::library::{Error, Published};
use crate::paywall::Client;

/// The directory of the I-frame rendition's playlist.
const IFRAMES: &str = "iframes";
/// How the name of a rendition of subtitles begins.
const SUBTITLES: &str = "sub-";

/// A file around a film, as paths name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// `poster.jpg`, `sheet-{n}.jpg`, `iframes.mp4`
    File(File),
    /// `storyboard.vtt`
    Storyboard,
    /// `waveform.json`
    Waveform,
    /// `chapters.vtt`
    Chapters,
}

impl Name {
    /// One of the names; `None` for what is none.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "poster.jpg" => Self::File(File::Poster),
            "iframes.mp4" => Self::File(File::IFrames),
            "storyboard.vtt" => Self::Storyboard,
            "waveform.json" => Self::Waveform,
            "chapters.vtt" => Self::Chapters,
            other => {
                let number = other.strip_prefix("sheet-")?.strip_suffix(".jpg")?;
                // One number has one spelling, as a segment's has.
                let number: SegmentNumber = number.parse().ok()?;
                Self::File(File::Sheet(number.0))
            }
        })
    }

    const fn kind(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::File(File::Poster | File::Sheet(_)) => "image/jpeg",
            Self::File(File::IFrames) => "video/mp4",
            Self::Storyboard | Self::Chapters => VTT_TYPE,
            Self::Waveform => "application/json",
        })
    }
}

/// A place under a version that is no rendition's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// `iframes/index.m3u8`
    IFrames,
    /// `sub-{language}/index.m3u8`
    Subtitles(Language),
    /// `sub-{language}/{n}.vtt`
    Cues(Language, SegmentNumber),
}

impl Place {
    /// Of the last two elements of a path; `None` where they are a rendition's.
    ///
    /// # Errors
    /// 404 for what is neither.
    pub fn parse(directory: &str, file: &str) -> Result<Option<Self>, Problem> {
        if directory == IFRAMES {
            return if file == "index.m3u8" {
                Ok(Some(Self::IFrames))
            } else {
                Err(Problem::missing("file"))
            };
        }
        let Some(language) = directory.strip_prefix(SUBTITLES) else { return Ok(None) };
        let parsed: Language = named(language)?;
        if parsed.as_str() != language {
            // One track has one address.
            return Err(Problem::missing("language"));
        }
        if file == "index.m3u8" {
            return Ok(Some(Self::Subtitles(parsed)));
        }
        let number = file.strip_suffix(".vtt").ok_or_else(|| Problem::missing("file"))?;
        Ok(Some(Self::Cues(parsed, named(number)?)))
    }
}

/// `GET /hls/{video}/{file}`: the same of the current version.
pub async fn current_file(
    State(app): State<App>,
    Path((video, file)): Path<(String, String)>,
) -> Answer {
    let video: VideoId = named(&video)?;
    if Name::parse(&file).is_none() {
        return Err(Problem::missing("file"));
    }
    let version = app.library.published(video, None)?.media.version;
    Ok(Redirect::temporary(&format!("/hls/{video}/{version}/{file}")).into_response())
}

/// `GET /s/{play}/{file}`: the same of a session's version.
pub async fn session_file(
    State(app): State<App>,
    Path((play, file)): Path<(String, String)>,
    From(client): From,
    method: Method,
    headers: HeaderMap,
) -> Answer {
    let published = super::sessions::watched(&app, &play)?;
    let name = Name::parse(&file).ok_or_else(|| Problem::missing("file"))?;
    serve(&app, &published, name, &method, &headers, client).await
}

/// A file around a version.
pub async fn serve(
    app: &Shared,
    published: &Published,
    name: Name,
    method: &Method,
    headers: &HeaderMap,
    client: Client,
) -> Answer {
    let missing = || Problem::missing("file");
    let bytes: Bytes = match name {
        Name::File(file) => app.library.extra(published, file).await?,
        Name::Storyboard => {
            let around = app.library.around(published).await?;
            let end = published.media.timeline.duration();
            library::storyboard_vtt(&around.made, end).ok_or_else(missing)?.into()
        }
        Name::Waveform => {
            let around = app.library.around(published).await?;
            library::waveform_json(&around.made).ok_or_else(missing)?.into()
        }
        Name::Chapters => {
            let around = app.library.around(published).await?;
            library::chapters_vtt(&around).ok_or_else(missing)?.into()
        }
    };
    let asked = Asked::made(app, published, bytes, name.kind(), headers, client);
    if *method == Method::HEAD {
        return Ok(asked.head(asked.len().await?));
    }
    Ok(match asked.ready(false).await? {
        Ok(ready) => ready.media(None),
        Err(answer) => answer,
    })
}

/// A playlist of key frames, or of subtitles.
pub async fn media_playlist(app: &Shared, published: &Published, place: &Place) -> Answer {
    let around = app.library.around(published).await?;
    let text = match place {
        Place::IFrames => {
            let frames = frames(&around);
            let of = iframes(&around, published, &frames);
            hls::iframes(&of.ok_or_else(|| Problem::missing("rendition"))?)
        }
        Place::Subtitles(language) | Place::Cues(language, _) => {
            track(&around, language)?;
            hls::subtitles(&published.media)
        }
    };
    Ok(playlist(text.map_err(Error::from)?))
}

/// The multivariant playlist of a version with all that is beside its renditions.
pub async fn multivariant(app: &Shared, published: &Published, prefix: &str) -> Answer {
    let around = app.library.around(published).await?;
    let frames = frames(&around);
    let subtitles = around.subtitles.iter().map(|of| hls::Subtitles {
        language: &of.language,
        name: &of.name,
        default: of.default,
        forced: of.forced,
    });
    let beside = hls::Beside {
        subtitles: subtitles.collect(),
        iframes: iframes(&around, published, &frames),
    };
    let text = hls::multivariant(&published.media, prefix, &beside);
    Ok(playlist(text.map_err(Error::from)?))
}

type Frames = Vec<(u64, u64, crate::domain::video::Ticks)>;

fn frames(around: &Around) -> Frames {
    let frames = around.made.iframes.iter().flat_map(|of| &of.frames);
    frames.map(|frame| (frame.offset, frame.length, frame.start)).collect()
}

fn iframes<'a>(
    around: &'a Around,
    published: &Published,
    frames: &'a Frames,
) -> Option<hls::IFrames<'a>> {
    around.made.iframes.as_ref().map(|of| hls::IFrames {
        resolution: (of.width, of.height),
        codecs: &of.codecs,
        init: of.init,
        frames,
        end: published.media.timeline.duration(),
    })
}

fn track<'a>(around: &'a Around, language: &Language) -> Result<&'a Track, Problem> {
    around.track(language).ok_or_else(|| Problem::missing("language"))
}

/// A segment of subtitles, which is made once it is opened, and whether it is free whatever the film's segment costs.
pub async fn cues<'a>(
    app: &'a Shared,
    published: &'a Published,
    language: &Language,
    number: SegmentNumber,
    headers: &'a HeaderMap,
    client: Client,
) -> Answer<(Asked<'a>, bool)> {
    let around = app.library.around(published).await?;
    let track = track(&around, language)?;
    let span = published.media.timeline.span(number).ok_or_else(|| Problem::missing("segment"))?;
    let kind = HeaderValue::from_static(VTT_TYPE);
    let mut asked = Asked::cues(app, published, (track.clone(), span), kind, headers, client);
    if !around.subtitles_free {
        asked = asked.of_segment(number);
    }
    Ok((asked, around.subtitles_free))
}

/// What a title's description links to.
#[derive(Serialize)]
pub struct Links {
    #[serde(skip_serializing_if = "Option::is_none")]
    poster: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    storyboard: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    waveform: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    chapters: Option<String>,
    subtitles: Vec<Listed>,
    subtitles_free: bool,
}

#[derive(Serialize)]
struct Listed {
    language: Language,
    name: String,
    default: bool,
    forced: bool,
    uploaded: bool,
    playlist: String,
}

/// The links of a published version.
pub async fn links(app: &Shared, published: &Published) -> Answer<Links> {
    let around = app.library.around(published).await?;
    let base = format!("/hls/{}/{}", published.video.id, published.media.version);
    let link = |there: bool, file: &str| there.then(|| format!("{base}/{file}"));
    let made = &around.made;
    let listed = |of: &Track| Listed {
        language: of.language.clone(),
        name: of.name.clone(),
        default: of.default,
        forced: of.forced,
        uploaded: of.upload.is_some(),
        playlist: format!("{base}/{SUBTITLES}{}/index.m3u8", of.language),
    };
    Ok(Links {
        poster: link(made.poster.is_some(), "poster.jpg"),
        storyboard: link(made.storyboard.is_some(), "storyboard.vtt"),
        waveform: link(made.waveform.is_some(), "waveform.json"),
        chapters: link(!made.chapters.is_empty(), "chapters.vtt"),
        subtitles: around.subtitles.iter().map(listed).collect(),
        subtitles_free: around.subtitles_free,
    })
}

/// The headers of what is free: whoever has it may keep it for a while, and asks then whether it is the same.
pub const FREE: HeaderValue = HeaderValue::from_static("public, max-age=600");

/// A redirect to a place of a version; see [`Place`].
pub fn redirect(video: VideoId, version: crate::domain::id::Version, path: &str) -> Response {
    let headers = [(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"))];
    (headers, Redirect::temporary(&format!("/hls/{video}/{version}/{path}"))).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_places_have_one_spelling() {
        assert_eq!(Name::parse("sheet-10.jpg"), Some(Name::File(File::Sheet(10))));
        for bad in
            ["sheet-01.jpg", "sheet-.jpg", "sheet-1.jpg/..", "extras.json", "..", "poster.JPG"]
        {
            assert_eq!(Name::parse(bad), None, "{bad}");
        }
        let place = |directory, file| Place::parse(directory, file).ok().flatten();
        let (english, seven) = ("en".parse().unwrap(), SegmentNumber(7));
        assert_eq!(place("sub-en", "7.vtt"), Some(Place::Cues(english, seven)));
        assert_eq!(place("iframes", "index.m3u8"), Some(Place::IFrames));
        assert_eq!(Place::parse("720p", "7.m4s").ok(), Some(None));
        for (directory, file) in [
            ("sub-EN", "7.vtt"),
            ("sub-", "7.vtt"),
            ("sub-en", "07.vtt"),
            ("iframes", "0.m4s"),
            ("sub-..", "1.vtt"),
        ] {
            assert!(Place::parse(directory, file).is_err(), "{directory}/{file}");
        }
    }
}
