//! What the headers of an upload say, parsed at the door.

use std::str::FromStr;

use axum::http::{HeaderMap, HeaderName, HeaderValue, header};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::domain::id::VideoId;
use crate::http::error::Problem;
use crate::library::upload::Checksum;

/// Names and values are short; what a client adds beyond this is refused.
const METADATA_BYTES_MAX: usize = 16 << 10;
/// What is said where nothing names the title.
pub(super) const NO_TITLE: &str = "Upload-Metadata must hold `video`, the id of a draft of yours, or a \
                                   `title` or `filename` for a new one, each with its value in base64.";

/// What a source belongs to (tus 1.0.0, "Upload-Metadata").
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Metadata {
    /// A title that takes a source.
    pub(super) video: Option<VideoId>,
    /// Else the name of a new one.
    pub(super) title: Option<String>,
    pub(super) description: String,
    pub(super) msat_per_second: u64,
    pub(super) preview_seconds: u32,
}

impl Metadata {
    /// Pairs of key and base64, with commas between. Keys that say nothing to us are a client's own.
    pub(super) fn parse(text: &str) -> Result<Self, Problem> {
        let (mut metadata, mut filename) = (Self::default(), None);
        let mut seen: Vec<&str> = Vec::new();
        for pair in text.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once(' ').unwrap_or((pair, ""));
            if seen.contains(&key) {
                return Err(Problem::malformed(format!(
                    "Upload-Metadata holds {key:?} twice: say it once."
                )));
            }
            seen.push(key);
            let value = || {
                let bytes = STANDARD.decode(value.trim()).ok();
                bytes.and_then(|bytes| String::from_utf8(bytes).ok()).ok_or_else(|| {
                    Problem::malformed(format!(
                        "Upload-Metadata: the value of {key:?} must be text in base64."
                    ))
                })
            };
            match key {
                "video" => metadata.video = Some(id(&value()?)?),
                "title" | "name" => metadata.title = Some(value()?),
                "filename" => filename = Some(stem(&value()?)),
                "description" => metadata.description = value()?,
                "msat_per_second" => metadata.msat_per_second = number(key, &value()?)?,
                "preview_seconds" => metadata.preview_seconds = number(key, &value()?)?,
                _ => {}
            }
        }
        metadata.title = metadata.title.or(filename);
        Ok(metadata)
    }
}

fn id(text: &str) -> Result<VideoId, Problem> {
    text.parse().map_err(|_| Problem::missing("title"))
}

fn number<T: FromStr>(key: &str, text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        Problem::malformed(format!(
            "Upload-Metadata: {key} must be a whole number that is not negative."
        ))
    })
}

/// The name of a file without folders and ending. It names a title and nothing on a disk.
fn stem(name: &str) -> String {
    let name = name.rsplit(['/', '\\']).next().unwrap_or_default();
    let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
    // What people see: no line breaks, no control characters, not too long.
    let stem: String = stem.chars().filter(|c| !c.is_control()).take(200).collect();
    if stem.trim().is_empty() { "Untitled".to_owned() } else { stem }
}

/// `Upload-Metadata` as it was sent.
pub(super) fn metadata_text(headers: &HeaderMap) -> Result<&str, Problem> {
    let text = text(headers, &HeaderName::from_static("upload-metadata"))?.unwrap_or_default();
    if text.len() > METADATA_BYTES_MAX {
        return Err(Problem::malformed(format!(
            "Upload-Metadata is longer than {METADATA_BYTES_MAX} bytes."
        )));
    }
    Ok(text)
}

/// `Upload-Length`. A length that comes later is not taken: what bounds uploads needs it now.
pub(super) fn length(headers: &HeaderMap) -> Result<u64, Problem> {
    let name = HeaderName::from_static("upload-length");
    let length = count(headers, &name)?.ok_or_else(|| {
        Problem::malformed("Upload-Length must say how many bytes the source has.")
    })?;
    if length == 0 {
        return Err(Problem::malformed("Upload-Length is 0: an empty file is no source."));
    }
    Ok(length)
}

/// `Upload-Offset`.
pub(super) fn offset(headers: &HeaderMap) -> Result<u64, Problem> {
    let name = HeaderName::from_static("upload-offset");
    count(headers, &name)?.ok_or_else(|| {
        Problem::malformed("Upload-Offset must say where the bytes belong: ask with HEAD.")
    })
}

/// `Content-Length`.
pub(super) fn content_length(headers: &HeaderMap) -> Result<Option<u64>, Problem> {
    count(headers, &header::CONTENT_LENGTH)
}

/// `Content-Type`, without its parameters.
pub(super) fn content_type(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    text.split(';').next().map(str::trim)
}

/// `Upload-Checksum` (tus 1.0.0, "Checksum").
pub(super) fn checksum(headers: &HeaderMap) -> Result<Option<Checksum>, Problem> {
    let name = HeaderName::from_static("upload-checksum");
    let Some(text) = text(headers, &name)? else { return Ok(None) };
    let (algorithm, value) = text.split_once(' ').unwrap_or((text, ""));
    let bytes = STANDARD.decode(value.trim()).unwrap_or_default();
    let parsed = match algorithm {
        "sha1" => <[u8; 20]>::try_from(bytes).ok().map(Checksum::Sha1),
        "sha256" => <[u8; 32]>::try_from(bytes).ok().map(Checksum::Sha256),
        _ => None,
    };
    parsed.map(Some).ok_or_else(|| {
        Problem::malformed(
            "Upload-Checksum must be `sha1` or `sha256`, a space, and the checksum in base64.",
        )
    })
}

/// A part of a source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) from: u64,
    pub(super) bytes: u64,
    pub(super) total: u64,
}

/// `Content-Range: bytes FROM-LAST/TOTAL` (RFC 9110, section 14.4).
pub(super) fn content_range(headers: &HeaderMap) -> Result<Option<ContentRange>, Problem> {
    let Some(text) = text(headers, &header::CONTENT_RANGE)? else { return Ok(None) };
    let parse = || {
        let (range, total) = text.strip_prefix("bytes ")?.trim().split_once('/')?;
        let (from, last) = range.split_once('-')?;
        let (from, last, total) = (digits(from)?, digits(last)?, digits(total)?);
        let bytes = last.checked_sub(from)?.checked_add(1)?;
        (last < total).then_some(ContentRange { from, bytes, total })
    };
    parse().map(Some).ok_or_else(|| {
        Problem::malformed("Content-Range must be `bytes FROM-LAST/TOTAL`, with LAST below TOTAL.")
    })
}

fn count(headers: &HeaderMap, name: &HeaderName) -> Result<Option<u64>, Problem> {
    let Some(text) = text(headers, name)? else { return Ok(None) };
    digits(text).map(Some).ok_or_else(|| {
        Problem::malformed(format!("{name} must be a whole number that is not negative."))
    })
}

/// A number as headers have it: digits alone, where `parse` would take a sign, too.
fn digits(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Problem> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    match value.to_str() {
        Ok(text) if values.all(|other: &HeaderValue| other == value) => Ok(Some(text)),
        _ => {
            Err(Problem::malformed(format!("{name} cannot be read: send it once, as plain text.")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> String {
        format!("{key} {}", STANDARD.encode(value))
    }

    fn parsed(pairs: &[(&str, &str)]) -> Option<Metadata> {
        let text: Vec<_> = pairs.iter().map(|(key, value)| pair(key, value)).collect();
        Metadata::parse(&text.join(",")).ok()
    }

    #[test]
    fn metadata_names_a_title_or_describes_one() {
        let id = "0".repeat(32);
        assert_eq!(parsed(&[("video", &id)]).unwrap().video.unwrap().to_string(), id);
        let of = parsed(&[("filename", "a.b.mp4"), ("msat_per_second", "5"), ("x", "y")]).unwrap();
        assert_eq!((of.title.as_deref(), of.msat_per_second), (Some("a.b"), 5));
        let of = parsed(&[("filename", "a.mp4"), ("title", "Film")]).unwrap();
        assert_eq!(of.title.as_deref(), Some("Film"));
        assert_eq!(Metadata::parse("is_confidential, video ").ok(), None, "an id must be one");
        assert_eq!(Metadata::parse("is_confidential").ok(), Some(Metadata::default()));
        for bad in ["title !!", "title /w==", "title QQ==,title QQ==", "msat_per_second LTE="] {
            assert_eq!(Metadata::parse(bad).ok(), None, "{bad}");
        }
    }

    #[test]
    fn a_file_s_name_is_a_title_and_no_path() {
        for (name, title) in [
            ("../../etc/passwd", "passwd"),
            ("C:\\films\\Ada.mkv", "Ada"),
            ("..", "."),
            ("/", "Untitled"),
            ("", "Untitled"),
            (".mp4", "Untitled"),
            ("a\nb\0c.mp4", "abc"),
        ] {
            assert_eq!(stem(name), title, "{name:?}");
        }
        assert_eq!(stem(&"x".repeat(5_000)).len(), 200);
    }

    #[test]
    fn a_number_is_digits_and_fits() {
        for bad in ["-1", "+1", "1e3", "0x1", "1 2", "18446744073709551616", "٣"] {
            assert_eq!(digits(bad), None, "{bad}");
        }
        assert_eq!(digits(" 18446744073709551615 "), Some(u64::MAX));
    }

    #[test]
    fn a_range_lies_within_its_total() {
        let range = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_RANGE, text.parse().unwrap());
            content_range(&headers).ok().flatten()
        };
        let whole = ContentRange { from: 0, bytes: 10, total: 10 };
        assert_eq!(range("bytes 0-9/10"), Some(whole));
        for bad in [
            "bytes 0-10/10",
            "bytes 5-4/10",
            "bytes 0-9/*",
            "bytes */10",
            "items 0-9/10",
            "bytes -1/10",
            "bytes 0-18446744073709551615/18446744073709551615",
            "",
        ] {
            assert_eq!(range(bad), None, "{bad}");
        }
    }
}
