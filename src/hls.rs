//! Playlists (RFC 8216) from domain values, written by the `hls_m3u8` crate. Pure: no look-up, no clock.
//!
//! Every URI here is relative and made from typed parts only, so nothing a creator writes can add a tag.

use std::time::Duration;

use hls_m3u8::tags::{ExtInf, ExtXMap, VariantStream};
use hls_m3u8::types::{Codecs, PlaylistType, StreamData, UFloat};
use hls_m3u8::{MasterPlaylist, MediaPlaylist, MediaSegment};

use crate::domain::video::{Media, Rendition, Ticks};

mod beside;

pub use beside::{Beside, IFrames, Subtitles, iframes, subtitles};

/// The media type of a playlist (RFC 8216, section 4).
pub const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";

/// Values that make no playlist.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the playlist could not be written: {0}")]
pub struct Error(String);

/// The multivariant playlist; `prefix` stands before each rendition's path, and `beside` is what there is besides renditions.
///
/// # Errors
/// [`Error`] where the version has no renditions or one that HLS cannot express.
pub fn multivariant(media: &Media, prefix: &str, beside: &Beside<'_>) -> Result<String, Error> {
    let group = beside.group();
    let mut streams: Vec<_> = media.renditions.iter().map(|of| stream(of, prefix, group)).collect();
    streams.extend(beside.iframes.as_ref().map(|of| of.stream(prefix)));
    let playlist = MasterPlaylist::builder()
        .has_independent_segments(true)
        .media(beside.media(prefix)?)
        .variant_streams(streams)
        .build()
        .map_err(|error| Error(error.to_string()))?;
    Ok(playlist.to_string())
}

fn stream(
    rendition: &Rendition,
    prefix: &str,
    subtitles: Option<&'static str>,
) -> VariantStream<'static> {
    let mut data = StreamData::new(rendition.bandwidth);
    data.set_average_bandwidth(Some(rendition.average_bandwidth));
    let codecs: Vec<String> = rendition.codecs.split(',').map(str::to_owned).collect();
    data.set_codecs(Some(Codecs::from(codecs)));
    let size = |(width, height): (u32, u32)| (width as usize, height as usize);
    data.set_resolution(rendition.resolution.map(size));
    VariantStream::ExtXStreamInf {
        uri: format!("{prefix}{}/index.m3u8", rendition.name).into(),
        frame_rate: rendition.frame_rate_milli.map(frame_rate),
        audio: None,
        subtitles: subtitles.map(Into::into),
        closed_captions: None,
        stream_data: data,
    }
}

fn frame_rate(milli: u32) -> UFloat {
    // At most a few hundred thousand, which a float holds exactly enough for three decimals.
    #[allow(clippy::cast_precision_loss)]
    UFloat::new(milli as f32 / 1_000.0)
}

/// The media playlist of a rendition. All renditions of a version share it, because they share their boundaries.
///
/// # Errors
/// [`Error`] never for a valid timeline.
pub fn media(media: &Media) -> Result<String, Error> {
    let lengths: Vec<Duration> = lengths(media).collect();
    let segment = |(n, length): (usize, &Duration)| {
        let mut segment = MediaSegment::builder();
        segment.duration(ExtInf::new(*length)).uri(format!("{n}.m4s"));
        if n == 0 {
            segment.map(ExtXMap::new("init.mp4"));
        }
        segment.build().map_err(|error| Error(error.to_string()))
    };
    let segments = lengths.iter().enumerate().map(segment).collect::<Result<_, _>>()?;
    vod(segments, &lengths, false)
}

/// The length of each segment.
fn lengths(media: &Media) -> impl Iterator<Item = Duration> + '_ {
    media.timeline.spans().map(|(start, end)| duration(end.since(start)))
}

/// A whole playlist of segments and their lengths.
fn vod(
    segments: Vec<MediaSegment<'static>>,
    lengths: &[Duration],
    i_frames_only: bool,
) -> Result<String, Error> {
    let longest = lengths.iter().copied().max().unwrap_or_default();
    // EXTINF, rounded to the nearest second, must not exceed the target (section 4.3.3.1).
    let target = Duration::from_secs(
        longest.as_secs().saturating_add(u64::from(longest.subsec_nanos() > 0)),
    );
    let playlist = MediaPlaylist::builder()
        .target_duration(target)
        .playlist_type(PlaylistType::Vod)
        .has_i_frames_only(i_frames_only)
        .has_end_list(true)
        .segments(segments)
        .build()
        .map_err(|error| Error(error.to_string()))?;
    Ok(exact(&playlist.to_string(), lengths))
}

/// hls_m3u8 prints durations as binary fractions, some of which take more decimals than the six from which a client finds the ticks again.
fn exact(playlist: &str, lengths: &[Duration]) -> String {
    let mut lengths = lengths.iter();
    let mut text = String::with_capacity(playlist.len());
    for line in playlist.lines() {
        match line.strip_prefix("#EXTINF:").and_then(|_| lengths.next()) {
            Some(length) => {
                let decimals = format!("{}.{:06}", length.as_secs(), length.subsec_micros());
                let decimals = decimals.trim_end_matches('0').trim_end_matches('.');
                text.push_str("#EXTINF:");
                text.push_str(decimals);
                text.push(',');
            }
            None => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

/// Whole microseconds: the six decimals from which a client finds the ticks again.
fn duration(ticks: Ticks) -> Duration {
    let micros = u128::from(ticks.get()).saturating_mul(100).saturating_add(4) / 9;
    Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::id::Version;
    use crate::domain::video::Timeline;

    fn version() -> Media {
        // 23.976 frames a second, 96 frames a segment: 4.004 s.
        let boundaries = [0_u64, 360_360, 720_720, 900_900].map(Ticks::new).to_vec();
        let rendition = |name: &str, resolution| Rendition {
            name: name.parse().unwrap(),
            resolution,
            frame_rate_milli: resolution.map(|_| 23_976),
            codecs: "avc1.64001f,mp4a.40.2".to_owned(),
            bandwidth: 2_000_000,
            average_bandwidth: 1_500_000,
        };
        Media {
            version: Version(1),
            timeline: Timeline::new(boundaries).unwrap(),
            renditions: vec![rendition("720p", Some((1280, 720))), rendition("audio", None)],
            frames: 240,
        }
    }

    #[test]
    fn a_duration_has_six_decimals_at_most_and_gives_the_ticks_back() {
        for ticks in [1_437_128_u64, 360_360, 1, 90_001, 5_400_007, 360_000] {
            let timeline = Timeline::new(vec![Ticks::new(0), Ticks::new(ticks)]).unwrap();
            let text = media(&Media { timeline, ..version() }).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("#EXTINF:")).unwrap();
            let (seconds, micros) = line
                .trim_end_matches(',')
                .split_once('.')
                .unwrap_or((line.trim_end_matches(','), "0"));
            assert!(micros.len() <= 6, "{line}");
            let micros: u64 = format!("{micros:0<6}").parse().unwrap();
            let micros = seconds.parse::<u64>().unwrap() * 1_000_000 + micros;
            assert_eq!((micros * 9 + 50) / 100, ticks, "{line}");
        }
    }

    #[test]
    fn the_multivariant_playlist_tells_what_a_player_chooses_by() {
        let text = multivariant(&version(), "1/", &Beside::default()).unwrap();
        for part in [
            "#EXTM3U\n",
            "#EXT-X-INDEPENDENT-SEGMENTS\n",
            "BANDWIDTH=2000000,AVERAGE-BANDWIDTH=1500000",
            "CODECS=\"avc1.64001f,mp4a.40.2\"",
            "RESOLUTION=1280x720",
            "FRAME-RATE=23.976",
            "\n1/720p/index.m3u8\n",
            "\n1/audio/index.m3u8\n",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }

    #[test]
    fn a_client_finds_the_ticks_again() {
        let version = version();
        let text = media(&version).unwrap();
        assert!(text.contains("#EXT-X-TARGETDURATION:5\n"), "{text}");
        assert!(text.contains("#EXT-X-MAP:URI=\"init.mp4\"\n"), "{text}");
        assert!(text.ends_with("#EXT-X-ENDLIST\n"), "{text}");
        let ticks: Vec<u64> = text
            .lines()
            .filter_map(|line| line.strip_prefix("#EXTINF:"))
            .map(|rest| rest.trim_end_matches(','))
            .map(|seconds| (seconds.parse::<f64>().unwrap() * 90_000.0).round() as u64)
            .collect();
        let spans: Vec<u64> =
            version.timeline.spans().map(|(start, end)| end.since(start).get()).collect();
        assert_eq!(ticks, spans);
    }
}
