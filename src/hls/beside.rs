//! What stands beside the renditions: subtitles (RFC 8216, section 4.3.4.1), and key frames for scrubbing (sections 4.3.3.6 and 4.3.4.3).

use hls_m3u8::MediaSegment;
use hls_m3u8::tags::{ExtInf, ExtXMap, ExtXMedia, VariantStream};
use hls_m3u8::types::{Codecs, MediaType, StreamData};

use super::{Error, duration, lengths, vod};
use crate::domain::subtitle::Language;
use crate::domain::video::{Media, Ticks};

/// The one group of subtitles.
const GROUP: &str = "subs";

/// What there is besides renditions.
#[derive(Debug, Clone, Default)]
pub struct Beside<'a> {
    /// Tracks of subtitles; one at most is shown by default, and their names differ.
    pub subtitles: Vec<Subtitles<'a>>,
    /// Key frames for scrubbing.
    pub iframes: Option<IFrames<'a>>,
}

/// A track of subtitles.
#[derive(Debug, Clone, Copy)]
pub struct Subtitles<'a> {
    /// Its language; also what names it in paths.
    pub language: &'a Language,
    /// Its name: one line without quotes.
    pub name: &'a str,
    /// Whether it is shown to who chose nothing.
    pub default: bool,
    /// Whether it translates only what is foreign in the film.
    pub forced: bool,
}

/// A rendition of key frames alone, in one file.
#[derive(Debug, Clone, Copy)]
pub struct IFrames<'a> {
    /// Width and height in pixels.
    pub resolution: (u32, u32),
    /// RFC 6381 codec strings.
    pub codecs: &'a str,
    /// The length of the init segment, with which the file begins.
    pub init: u64,
    /// Each picture: where its bytes begin in the file, how many they are, and when it is shown.
    pub frames: &'a [(u64, u64, Ticks)],
    /// When the last one ends.
    pub end: Ticks,
}

impl Beside<'_> {
    /// The group that renditions name; `None` without subtitles.
    pub(super) fn group(&self) -> Option<&'static str> {
        (!self.subtitles.is_empty()).then_some(GROUP)
    }

    pub(super) fn media(&self, prefix: &str) -> Result<Vec<ExtXMedia<'static>>, Error> {
        let tag = |of: &Subtitles<'_>| {
            ExtXMedia::builder()
                .media_type(MediaType::Subtitles)
                .group_id(GROUP)
                .language(of.language.spoken().to_owned())
                .name(of.name.to_owned())
                .is_default(of.default)
                .is_autoselect(true)
                .is_forced(of.forced)
                .uri(format!("{prefix}sub-{}/index.m3u8", of.language))
                .build()
                .map_err(|error| Error(error.to_string()))
        };
        self.subtitles.iter().map(tag).collect()
    }
}

impl IFrames<'_> {
    /// When each picture begins and ends.
    fn spans(&self) -> impl Iterator<Item = (Ticks, Ticks)> + '_ {
        let starts = || self.frames.iter().map(|(_, _, start)| *start);
        starts().zip(starts().skip(1).chain([self.end]))
    }

    pub(super) fn stream(&self, prefix: &str) -> VariantStream<'static> {
        let rate = |bytes: u64, ticks: Ticks| {
            let bits = u128::from(bytes).saturating_mul(8 * 90_000);
            u64::try_from(bits.div_ceil(u128::from(ticks.get().max(1)))).unwrap_or(u64::MAX)
        };
        let sizes = self.frames.iter().map(|(_, bytes, _)| *bytes);
        let rates = sizes
            .clone()
            .zip(self.spans())
            .map(|(bytes, (start, end))| rate(bytes, end.since(start)));
        let mut data = StreamData::new(rates.max().unwrap_or_default());
        data.set_average_bandwidth(Some(rate(sizes.sum(), self.end)));
        data.set_codecs(Some(Codecs::from(vec![self.codecs.to_owned()])));
        let (width, height) = self.resolution;
        data.set_resolution(Some((width as usize, height as usize)));
        VariantStream::ExtXIFrame {
            uri: format!("{prefix}iframes/index.m3u8").into(),
            stream_data: data,
        }
    }
}

/// The media playlist of key frames: ranges of one file, which lies beside the playlist's directory.
///
/// # Errors
/// [`Error`] where a number does not fit.
pub fn iframes(of: &IFrames<'_>) -> Result<String, Error> {
    const FILE: &str = "../iframes.mp4";
    let large = || Error("a file that is too large".to_owned());
    let place = |at: u64| usize::try_from(at).map_err(|_| large());
    let lengths: Vec<_> = of.spans().map(|(start, end)| duration(end.since(start))).collect();
    let mut segments = Vec::new();
    for (n, ((offset, bytes, _), length)) in of.frames.iter().zip(&lengths).enumerate() {
        let mut segment = MediaSegment::builder();
        let end = offset.checked_add(*bytes).ok_or_else(large)?;
        segment.duration(ExtInf::new(*length)).byte_range(place(*offset)?..place(end)?).uri(FILE);
        if n == 0 {
            segment.map(ExtXMap::with_range(FILE, 0..place(of.init)?));
        }
        segments.push(segment.build().map_err(|error| Error(error.to_string()))?);
    }
    vod(segments, &lengths, true)
}

/// The media playlist of a track of subtitles, on the film's own boundaries.
///
/// # Errors
/// [`Error`] never for a valid timeline.
pub fn subtitles(media: &Media) -> Result<String, Error> {
    let lengths: Vec<_> = lengths(media).collect();
    let segment = |(n, length): (usize, &std::time::Duration)| {
        let mut segment = MediaSegment::builder();
        segment.duration(ExtInf::new(*length)).uri(format!("{n}.vtt"));
        segment.build().map_err(|error| Error(error.to_string()))
    };
    let segments = lengths.iter().enumerate().map(segment).collect::<Result<_, _>>()?;
    vod(segments, &lengths, false)
}

#[cfg(test)]
mod tests {
    use super::super::multivariant;
    use super::*;
    use crate::domain::id::Version;
    use crate::domain::video::{Rendition, Timeline};

    fn film() -> Media {
        let boundaries = [0, 4_000, 8_000, 12_500].map(Ticks::from_millis).to_vec();
        Media {
            version: Version(1),
            timeline: Timeline::new(boundaries).unwrap(),
            renditions: vec![Rendition {
                name: "audio".parse().unwrap(),
                resolution: None,
                frame_rate_milli: None,
                codecs: "mp4a.40.2".to_owned(),
                bandwidth: 130_000,
                average_bandwidth: 128_000,
            }],
            frames: 0,
        }
    }

    #[test]
    fn subtitles_and_key_frames_are_named_beside_the_renditions() {
        let (english, other) = ("en".parse().unwrap(), "pt-BR-x-2".parse().unwrap());
        let track =
            |language, default| Subtitles { language, name: "Ünï", default, forced: !default };
        let frames = [(800, 1_000, Ticks::new(0)), (1_800, 3_000, Ticks::from_millis(5_000))];
        let iframes = IFrames {
            resolution: (426, 240),
            codecs: "avc1.64000d",
            init: 800,
            frames: &frames,
            end: Ticks::from_millis(12_500),
        };
        let beside = Beside {
            subtitles: vec![track(&english, true), track(&other, false)],
            iframes: Some(iframes),
        };
        let text = multivariant(&film(), "1/", &beside).unwrap();
        assert_eq!(
            text,
            "#EXTM3U\n\
             #EXT-X-MEDIA:TYPE=SUBTITLES,URI=\"1/sub-en/index.m3u8\",GROUP-ID=\"subs\",LANGUAGE=\"en\",\
             NAME=\"Ünï\",DEFAULT=YES,AUTOSELECT=YES\n\
             #EXT-X-MEDIA:TYPE=SUBTITLES,URI=\"1/sub-pt-BR-x-2/index.m3u8\",GROUP-ID=\"subs\",\
             LANGUAGE=\"pt-BR\",NAME=\"Ünï\",AUTOSELECT=YES,FORCED=YES\n\
             #EXT-X-STREAM-INF:BANDWIDTH=130000,AVERAGE-BANDWIDTH=128000,CODECS=\"mp4a.40.2\",SUBTITLES=\"subs\"\n\
             1/audio/index.m3u8\n\
             #EXT-X-I-FRAME-STREAM-INF:URI=\"1/iframes/index.m3u8\",BANDWIDTH=3200,AVERAGE-BANDWIDTH=2560,\
             CODECS=\"avc1.64000d\",RESOLUTION=426x240\n\
             #EXT-X-INDEPENDENT-SEGMENTS\n"
        );
        let text = super::iframes(&iframes).unwrap();
        assert_eq!(
            text,
            "#EXTM3U\n#EXT-X-VERSION:6\n#EXT-X-TARGETDURATION:8\n#EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-I-FRAMES-ONLY\n\
             #EXT-X-MAP:URI=\"../iframes.mp4\",BYTERANGE=\"800@0\"\n\
             #EXT-X-BYTERANGE:1000@800\n#EXTINF:5,\n../iframes.mp4\n\
             #EXT-X-BYTERANGE:3000@1800\n#EXTINF:7.5,\n../iframes.mp4\n#EXT-X-ENDLIST\n"
        );
    }

    #[test]
    fn subtitles_are_cut_where_the_film_is() {
        let text = subtitles(&film()).unwrap();
        let expected =
            "#EXTINF:4,\n0.vtt\n#EXTINF:4,\n1.vtt\n#EXTINF:4.5,\n2.vtt\n#EXT-X-ENDLIST\n";
        assert!(text.ends_with(expected) && !text.contains("EXT-X-MAP"), "{text}");
    }
}
