//! Reads a server's playlists, and writes the ones that the player gets. Pure.
//!
//! The player never sees a byte of the server's playlists: what is understood is written anew, so that a server cannot send it elsewhere.
//! Only what Sluice writes is understood (PROTOCOL.md, Play); everything else is refused in words.

use std::fmt::Write as _;

use crate::domain::id::RenditionName;
use crate::domain::video::{TICKS_PER_SECOND, Ticks, Timeline};

/// A playlist of a day in segments of two seconds is smaller.
pub(super) const PLAYLIST_BYTES_MAX: usize = 4 << 20;
/// A day in segments of two seconds.
const SEGMENTS_MAX: usize = 43_200;
/// More than any ladder has.
const RENDITIONS_MAX: usize = 32;
/// An hour for one segment is no segment.
const SEGMENT_SECONDS_MAX: u64 = 3_600;
/// Six are written; a binary fraction that is printed has up to seventeen.
const DECIMALS_MAX: usize = 17;

/// One rendition of a multivariant playlist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Variant {
    /// Its name, as it stands in paths.
    pub(super) name: RenditionName,
    /// The attributes of its `EXT-X-STREAM-INF`, checked to be harmless.
    attributes: String,
}

/// The renditions of a multivariant playlist, in its order.
pub(super) fn multivariant(text: &str) -> Result<Vec<Variant>, String> {
    let mut lines = begun(text)?;
    let mut variants = Vec::new();
    while let Some(line) = lines.next() {
        let Some(attributes) = line.strip_prefix("#EXT-X-STREAM-INF:") else {
            if line.starts_with('#') {
                continue;
            }
            return Err("the playlist names an address without its attributes".to_owned());
        };
        let address = lines.next().unwrap_or_default();
        let name = address.strip_suffix("/index.m3u8").and_then(|name| name.parse().ok());
        let name = name.ok_or("the playlist names a rendition in a way that is not Sluice's")?;
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.,:=\"/ @+".contains(&byte);
        if !attributes.bytes().all(harmless) || attributes.contains("URI") {
            return Err("the playlist describes a rendition with odd signs".to_owned());
        }
        // The player gets renditions alone: a group that is not there must not be named either.
        let kept = attributes.split(',').filter(|of| !of.starts_with("SUBTITLES="));
        let attributes = kept.collect::<Vec<_>>().join(",");
        variants.push(Variant { name, attributes });
        if variants.len() > RENDITIONS_MAX {
            return Err("the playlist names too many renditions".to_owned());
        }
    }
    if variants.is_empty() {
        return Err("the playlist names no rendition".to_owned());
    }
    Ok(variants)
}

/// The boundaries that a media playlist tells, in ticks: `EXTINF` has six decimals, finer than a tick, so each duration rounds to its own.
pub(super) fn timeline(text: &str) -> Result<Timeline, String> {
    let mut boundaries = vec![Ticks::new(0)];
    let mut at = 0_u64;
    let mut duration = None;
    let (mut has_init, mut ended) = (false, false);
    for line in begun(text)? {
        if let Some(told) = line.strip_prefix("#EXTINF:") {
            let told = told.split(',').next().unwrap_or_default();
            duration = Some(ticks(told).ok_or("the playlist has a duration that cannot be read")?);
        } else if line == "#EXT-X-MAP:URI=\"init.mp4\"" {
            has_init = true;
        } else if line == "#EXT-X-ENDLIST" {
            ended = true;
        } else if line.starts_with("#EXT-X-MAP") || line.starts_with("#EXT-X-KEY") {
            return Err("the playlist needs what this player's side does not know".to_owned());
        } else if !line.starts_with('#') {
            let number = boundaries.len().saturating_sub(1);
            let length = duration.take().ok_or("the playlist has a segment without duration")?;
            if line != format!("{number}.m4s") || number >= SEGMENTS_MAX {
                return Err("the playlist names its segments in a way that is not Sluice's".into());
            }
            at = at.checked_add(length).ok_or("the playlist is too long")?;
            boundaries.push(Ticks::new(at));
        }
    }
    if !has_init || !ended {
        return Err("the playlist is not whole".to_owned());
    }
    Timeline::new(boundaries).map_err(|_| "the playlist has no segments, or empty ones".to_owned())
}

/// The lines of a playlist after its first, which must be the tag that says so.
fn begun(text: &str) -> Result<impl Iterator<Item = &str>, String> {
    if text.len() > PLAYLIST_BYTES_MAX {
        return Err("the playlist is too large".to_owned());
    }
    let mut lines = text.lines().map(|line| line.trim_end_matches('\r'));
    if lines.next() != Some("#EXTM3U") {
        return Err("this is no playlist".to_owned());
    }
    Ok(lines.filter(|line| !line.is_empty()))
}

/// To the nearest tick, because the crate that writes playlists prints some durations as 15.968088999999999.
fn ticks(seconds: &str) -> Option<u64> {
    let (whole, part) = seconds.split_once('.').unwrap_or((seconds, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || part.len() > DECIMALS_MAX {
        return None;
    }
    let unit = 10_u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let part = if part.is_empty() { 0 } else { part.parse::<u128>().ok()? };
    let whole = whole.parse::<u64>().ok().filter(|whole| *whole <= SEGMENT_SECONDS_MAX)?;
    let scaled = u128::from(whole).checked_mul(unit)?.checked_add(part)?;
    let ticks = scaled.checked_mul(TICKS_PER_SECOND.into())?.checked_add(unit / 2)?;
    u64::try_from(ticks.checked_div(unit)?).ok()
}

/// The multivariant playlist for the player.
pub(super) fn write_multivariant(variants: &[Variant]) -> String {
    let mut text = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-INDEPENDENT-SEGMENTS\n".to_owned();
    for Variant { name, attributes } in variants {
        let _ = write!(text, "#EXT-X-STREAM-INF:{attributes}\n{name}/index.m3u8\n");
    }
    text
}

/// The media playlist for the player, the same for all renditions.
pub(super) fn write_media(timeline: &Timeline) -> String {
    let micros = |ticks: Ticks| u128::from(ticks.get()).saturating_mul(100).saturating_add(4) / 9;
    let longest = timeline.spans().map(|(start, end)| end.since(start)).max().unwrap_or_default();
    let target = micros(longest).div_ceil(1_000_000);
    let mut text = format!(
        "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:{target}\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-MAP:URI=\"init.mp4\"\n"
    );
    for (n, (start, end)) in timeline.spans().enumerate() {
        let length = micros(end.since(start));
        let (seconds, rest) = (length / 1_000_000, length % 1_000_000);
        let _ = write!(text, "#EXTINF:{seconds}.{rest:06},\n{n}.m4s\n");
    }
    text.push_str("#EXT-X-ENDLIST\n");
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::video::{Media, Rendition};
    use crate::hls;

    fn media(boundaries: Vec<Ticks>) -> Media {
        let rendition = |name: &str| Rendition {
            name: name.parse().unwrap(),
            resolution: Some((426, 240)),
            frame_rate_milli: Some(29_970),
            codecs: "avc1.64001f,mp4a.40.2".to_owned(),
            bandwidth: 1_000_000,
            average_bandwidth: 900_000,
        };
        Media {
            version: crate::domain::id::Version(1),
            timeline: Timeline::new(boundaries).unwrap(),
            renditions: vec![rendition("480p"), rendition("240p")],
            frames: 1,
        }
    }

    proptest! {
        #[test]
        fn the_ticks_are_found_again_from_the_servers_playlist_and_from_ours(
            lengths in prop::collection::vec(1_u64..40_000_000, 1..60)
        ) {
            let mut boundaries = vec![Ticks::new(0)];
            for length in lengths {
                boundaries.push(Ticks::new(boundaries.last().unwrap().get() + length));
            }
            let media = media(boundaries);
            let theirs = timeline(&hls::media(&media).unwrap()).unwrap();
            prop_assert_eq!(&theirs, &media.timeline);
            let ours = timeline(&write_media(&theirs)).unwrap();
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn no_text_makes_the_reader_panic(text in "(?s)(#EXTM3U\n)?.{0,400}") {
            let _ = timeline(&text);
            let _ = multivariant(&text);
        }
    }

    #[test]
    fn the_servers_renditions_are_read_and_written_anew() {
        let media = media([0, 90_000].map(Ticks::new).to_vec());
        let language = "en".parse().unwrap();
        let track =
            hls::Subtitles { language: &language, name: "English", default: true, forced: false };
        let frames = [(100, 200, Ticks::new(0))];
        let iframes = hls::IFrames {
            resolution: (320, 180),
            codecs: "avc1.64000d",
            init: 100,
            frames: &frames,
            end: Ticks::new(90_000),
        };
        let beside = hls::Beside { subtitles: vec![track], iframes: Some(iframes) };
        let text = hls::multivariant(&media, "", &beside).unwrap();
        assert!(text.contains("SUBTITLES"), "{text}");
        let variants = multivariant(&text).unwrap();
        let names: Vec<_> = variants.iter().map(|variant| variant.name.as_str()).collect();
        assert_eq!(names, ["480p", "240p"]);
        let again = write_multivariant(&variants);
        assert!(again.contains("RESOLUTION=426x240"), "{again}");
        assert!(!again.contains("SUBTITLES") && !again.contains("FRAME-STREAM"), "{again}");
        assert_eq!(multivariant(&again).unwrap(), variants);
    }

    #[test]
    fn what_would_lead_the_player_elsewhere_is_refused() {
        let head = "#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4\"\n";
        for bad in [
            "#EXTINF:4.0,\nhttp://elsewhere/0.m4s\n#EXT-X-ENDLIST\n",
            "#EXTINF:4.0,\n1.m4s\n#EXT-X-ENDLIST\n",
            "#EXTINF:4.0,\n0.m4s\n",
            "#EXTINF:nan,\n0.m4s\n#EXT-X-ENDLIST\n",
            "#EXTINF:-4,\n0.m4s\n#EXT-X-ENDLIST\n",
            "#EXTINF:0,\n0.m4s\n#EXT-X-ENDLIST\n",
            "#EXTINF:9999999999,\n0.m4s\n#EXT-X-ENDLIST\n",
            "#EXT-X-KEY:METHOD=NONE\n#EXTINF:4,\n0.m4s\n#EXT-X-ENDLIST\n",
            "#EXT-X-MAP:URI=\"file:///etc/passwd\"\n#EXTINF:4,\n0.m4s\n#EXT-X-ENDLIST\n",
            "0.m4s\n#EXT-X-ENDLIST\n",
            "#EXT-X-ENDLIST\n",
        ] {
            assert!(timeline(&format!("{head}{bad}")).is_err(), "{bad}");
        }
        for bad in [
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\nfile:///x/index.m3u8\n",
            "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n../index.m3u8\n",
            "#EXTM3U\n480p/index.m3u8\n",
            "#EXTM3U\n",
            "<html>",
        ] {
            assert!(multivariant(bad).is_err(), "{bad}");
        }
    }
}
