//! Looks at a source by its packets, without decoding: how long its tracks are, whether it can be cut into chunks, whether it can be copied.

use std::fs::File;
use std::time::{Duration, Instant};

use ffmpeg_next::{Packet, Rescale, codec};

use super::source::{Picture, Source, Track, ticks};
use crate::domain::video::{TICKS_PER_SECOND, Ticks};
use crate::media::grid::{AAC_SAMPLES, Rate, SAMPLE_RATE};
use crate::media::plan;
use crate::media::{Copyable, Error, Heard, Options, Pictured, Survey};

/// The longest silence while work goes on.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// A chunk is not begun where the next key frame may be further away than this: too much would be decoded for nothing.
const KEY_GAP_MAX: u64 = 30 * TICKS_PER_SECOND;
/// More key frames than any film that is worth copying has.
const KEYS_MAX: usize = 200_000;
/// The coarsest clock whose frames can be told apart, in ticks: a millisecond.
const CLOCK_MAX: u64 = 90;

/// Reads an opened source to its end. `beat` is called every few seconds.
pub(crate) fn survey(
    file: File,
    options: &Options,
    beat: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<Survey, Error> {
    let mut source = Source::open(file)?;
    plan::check(&source.probe(), options)?;
    let mut video = match source.video.clone() {
        Some(picture) => {
            // Whether there is a decoder is told before anything is made.
            drop(source.decoder(&picture.track, options)?);
            Some(Video::new(&source, picture))
        }
        None => None,
    };
    let mut audio = match source.audio {
        Some(track) => {
            drop(source.decoder(&track, options)?);
            Some(Audio::new(&source, track))
        }
        None => None,
    };
    let mut beaten = Instant::now();
    while let Some(packet) = source.next()? {
        let index = packet.stream();
        if let Some(video) = video.as_mut().filter(|of| of.picture.track.index == index) {
            video.packet(&source, &packet);
        } else if let Some(audio) = audio.as_mut() {
            audio.packet(&source, &packet);
        }
        if beaten.elapsed() > BEAT_EVERY {
            beaten = Instant::now();
            beat()?;
        }
    }
    let seen = video.as_ref().map_or(0, |video| video.end);
    let heard = audio.as_ref().map_or(0, |audio| audio.end);
    judge(&source, seen.max(heard))?;
    let pictures = video.map(|video| video.finish(&source)).transpose()?;
    Ok(Survey { probe: source.probe(), pictures, sound: audio.map(Audio::finish) })
}

/// Whether what was read is the film that the container promised.
fn judge(source: &Source, read: u64) -> Result<(), Error> {
    let promised = source.promised_ticks().unwrap_or(0);
    let missing = promised.saturating_sub(read);
    if missing > TICKS_PER_SECOND / 2 && missing > promised / 10 {
        return Err(Error::Source(format!(
            "This file is incomplete: only {} of its {} seconds could be read.",
            read / TICKS_PER_SECOND,
            promised / TICKS_PER_SECOND
        )));
    }
    Ok(())
}

struct Video {
    picture: Picture,
    end: u64,
    bytes: u64,
    /// When each packet is shown, from the timeline's zero in the track's units.
    shown: Vec<i64>,
    /// When key frames are shown, in ticks.
    keys: Vec<u64>,
    decoded: Option<i64>,
    /// Whether timestamps are there and rise.
    sane: bool,
    copy: Option<Copy>,
}

/// What is seen of a track that may be copied.
struct Copy {
    /// Bytes of a NAL unit's length.
    length: usize,
    /// The packets that begin with an IDR picture.
    idr: Vec<usize>,
}

impl Video {
    fn new(source: &Source, picture: Picture) -> Self {
        let copy = Copy::begin(source, &picture);
        Self {
            picture,
            end: 0,
            bytes: 0,
            shown: Vec::new(),
            keys: Vec::new(),
            decoded: None,
            sane: true,
            copy,
        }
    }

    fn packet(&mut self, source: &Source, packet: &Packet) {
        let track = self.picture.track;
        self.bytes = self.bytes.saturating_add(u64::try_from(packet.size()).unwrap_or(0));
        let stamp = packet.pts().or(packet.dts());
        let at = source.since_origin(&track, stamp.unwrap_or(0));
        self.end = self.end.max(after(&track, at, packet.duration(), frame(self.picture.rate)));
        let rises = match (packet.dts(), self.decoded) {
            (Some(now), Some(before)) => now > before,
            // Matroska tells no decoding times, and the demuxer cannot make up the first ones.
            (None, Some(_)) => false,
            (_, None) => true,
        };
        let rises = rises && (packet.is_key() || !self.shown.is_empty());
        self.decoded = packet.dts().or(self.decoded);
        self.sane &= rises && packet.pts().is_some() && !packet.is_corrupt();
        if packet.is_key() {
            self.keys.push(u64::try_from(at.rescale(track.time_base, ticks())).unwrap_or(0));
        }
        if let Some(copy) = self.copy.as_mut() {
            let changes = packet
                .side_data()
                .any(|data| data.kind() == codec::packet::side_data::Type::NewExtraData);
            match copy.is_idr(packet.data().unwrap_or_default()) {
                Some(idr) if self.sane && !changes => {
                    if idr && packet.is_key() {
                        copy.idr.push(self.shown.len());
                    }
                }
                _ => self.copy = None,
            }
        }
        self.shown.push(at);
    }

    fn finish(mut self, source: &Source) -> Result<Pictured, Error> {
        if self.shown.is_empty() {
            return Err(Error::Source("No picture of this file could be decoded.".to_owned()));
        }
        let copyable = self.copy.take().and_then(|copy| self.copyable(&copy));
        self.shown.sort_unstable();
        let distinct = self.shown.windows(2).all(|pair| pair.first() != pair.last());
        self.keys.sort_unstable();
        let next = self.keys.iter().copied().skip(1).chain([self.end]);
        let dense =
            self.keys.iter().zip(next).all(|(key, next)| next.saturating_sub(*key) <= KEY_GAP_MAX);
        Ok(Pictured {
            width: self.picture.width,
            height: self.picture.height,
            rate_num: self.picture.rate.num,
            rate_den: self.picture.rate.den,
            end: Ticks::new(self.end),
            bytes: self.bytes,
            seekable: source.has_index() && self.sane && distinct && dense,
            copyable,
        })
    }

    /// Whether each packet is one frame of the grid, and which are key frames.
    fn copyable(&self, copy: &Copy) -> Option<Copyable> {
        let (base, rate) = (self.picture.track.time_base, self.picture.rate);
        let unit = 1.rescale(base, ticks()).unsigned_abs().clamp(1, CLOCK_MAX);
        let mut frames = Vec::with_capacity(self.shown.len());
        let mut delay = 0;
        for (order, at) in self.shown.iter().enumerate() {
            let at = u64::try_from(at.rescale(base, ticks())).ok()?;
            let frame = rate.frame_at(at);
            if rate.ticks(frame).abs_diff(at) > unit {
                return None;
            }
            delay = delay.max(u64::try_from(order).ok()?.saturating_sub(frame));
            frames.push(frame);
        }
        let keys: Vec<u64> = copy.idr.iter().filter_map(|at| frames.get(*at).copied()).collect();
        frames.sort_unstable();
        let each = (0..).zip(&frames).all(|(number, frame): (u64, &u64)| number == *frame);
        let rises = keys.is_sorted_by(|a, b| a < b) && keys.len() <= KEYS_MAX;
        let count = u64::try_from(frames.len()).ok()?;
        (each && rises).then_some(Copyable { frames: count, keys, delay })
    }
}

impl Copy {
    /// H.264 in 8 bits and 4:2:0, progressive, upright, with square pixels, and configured by its container.
    fn begin(source: &Source, picture: &Picture) -> Option<Self> {
        let (id, kept, coded) = source.kept(&picture.track)?;
        let plain = kept.yuv420
            && matches!(kept.profile & 0xff, 66 | 77 | 100)
            && !kept.hdr
            && !coded.interlaced;
        let as_shown = picture.upright.is_empty()
            && (picture.width, picture.height) == (coded.width, coded.height);
        let &[1, _, _, _, length, _, ..] = kept.configuration.as_slice() else { return None };
        let length = usize::from(length & 3).saturating_add(1);
        let ours = id == codec::Id::H264 && plain && as_shown;
        ours.then_some(Self { length, idr: Vec::new() })
    }

    /// Whether a packet's picture is an IDR picture (ISO/IEC 14496-10, table 7-1: the type of its first slice); `None` where it has none.
    fn is_idr(&self, mut data: &[u8]) -> Option<bool> {
        loop {
            let (length, rest) = data.split_at_checked(self.length)?;
            let length = length.iter().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte));
            let (unit, rest) = rest.split_at_checked(length)?;
            match unit.first().map(|byte| byte & 0x1f) {
                Some(5) => return Some(true),
                Some(1) => return Some(false),
                _ => data = rest,
            }
        }
    }
}

struct Audio {
    track: Track,
    end: u64,
    copyable: bool,
    next: Option<i64>,
}

impl Audio {
    fn new(source: &Source, track: Track) -> Self {
        let copyable = source.kept(&track).is_some_and(|(id, kept, _)| {
            // An AudioSpecificConfig; AAC-LC is profile 1 (ISO/IEC 14496-3).
            id == codec::Id::AAC
                && kept.profile == 1
                && kept.configuration.len() >= 2
                && Ok(kept.sample_rate) == i32::try_from(SAMPLE_RATE)
                && matches!(kept.channels, 1 | 2)
                && matches!(kept.frame_size, 0 | 1_024)
        });
        Self { track, end: 0, copyable, next: None }
    }

    fn packet(&mut self, source: &Source, packet: &Packet) {
        let Some(at) = packet.pts().or(packet.dts()) else {
            self.copyable = false;
            return;
        };
        let at = source.since_origin(&self.track, at);
        self.end = self.end.max(after(&self.track, at, packet.duration(), 0));
        let base = self.track.time_base;
        let at = at.rescale(base, (1, i32::try_from(SAMPLE_RATE).unwrap_or(48_000)));
        // Half a frame: a millisecond's clock rounds, and a lost packet is a whole one.
        let half = i64::try_from(AAC_SAMPLES / 2).unwrap_or(512);
        self.copyable &= self.next.is_none_or(|next| at.abs_diff(next) < half.unsigned_abs());
        self.copyable &= !packet.is_corrupt();
        let next = self.next.unwrap_or(at);
        self.next = Some(next.saturating_add(half.saturating_mul(2)));
    }

    fn finish(self) -> Heard {
        Heard { end: Ticks::new(self.end), copyable: self.copyable }
    }
}

/// When a packet ends, in ticks from the timeline's zero.
fn after(track: &Track, at: i64, duration: i64, usual: u64) -> u64 {
    let duration = if duration > 0 {
        duration.rescale(track.time_base, ticks())
    } else {
        i64::try_from(usual).unwrap_or(0)
    };
    let at = at.rescale(track.time_base, ticks());
    u64::try_from(at.saturating_add(duration)).unwrap_or(0)
}

/// How long a frame is shown, in ticks.
fn frame(rate: Rate) -> u64 {
    rate.ticks(1)
}
