//! Opens a source and reads it: which demuxers are let in, which streams are taken, where time begins.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use ffmpeg_next::codec::packet::side_data;
use ffmpeg_next::format::context::{Input, Output, StreamIo};
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::util::error::ENOMEM;
use ffmpeg_next::{
    Dictionary, Error as FfmpegError, Packet, Rational, Rescale, Stream, codec, decoder, format,
    media,
};

use super::{failed, raw, threads};
use crate::domain::video::TICKS_PER_SECOND;
use crate::media::grid::Rate;
use crate::media::{Error, Options, Probe};

/// The containers that are read: no playlists and no pictures, whose demuxers open further files.
const DEMUXERS: &str =
    "mov,matroska,webm,mpegts,mpeg,avi,flv,ogg,mp3,flac,wav,aac,ac3,asf,w64,aiff,caf,mxf";
/// Reading a local file, larger steps than FFmpeg's own 32 KiB save calls.
const BUFFER_BYTES: usize = 256 * 1_024;
/// A jump in a transport stream's clock above this is a splice and no pause (FFmpeg's own threshold).
const SPLICE_US: i64 = 10_000_000;
/// A transport stream has more bytes a second than this, or its timestamps do not tell its length.
const CLOCK_BYTES_MIN: i64 = 4_000;
/// Audio that begins earlier than the picture by more than this is kept, under a still picture; less is cut off.
const LEAD_US: i64 = 500_000;
/// So many damaged packets in a row are a file that goes nowhere.
const DAMAGED_MAX: u32 = 10_000;

/// An opened source.
pub(super) struct Source {
    input: Input,
    pub(super) video: Option<Picture>,
    pub(super) audio: Option<Track>,
    /// Microseconds, where the container or its timestamps tell.
    pub(super) duration_us: Option<i64>,
    /// Where the timeline begins.
    origin: (i64, Rational),
    splices: Option<Splices>,
    /// Further tracks whose packets are given.
    wanted: Vec<Track>,
    damaged: u32,
    /// Damaged packets that were passed over.
    pub(super) errors: u64,
}

/// A stream that is taken.
#[derive(Debug, Clone, Copy)]
pub(super) struct Track {
    pub(super) index: usize,
    pub(super) time_base: Rational,
    start: Option<i64>,
    duration: Option<i64>,
}

/// The video stream.
#[derive(Debug, Clone)]
pub(super) struct Picture {
    pub(super) track: Track,
    /// Pixels as shown: rotated, and square.
    pub(super) width: u32,
    pub(super) height: u32,
    /// The filters that turn it upright.
    pub(super) upright: Vec<&'static str>,
    pub(super) interlaced: bool,
    pub(super) rate: Rate,
}

impl Source {
    /// Opens a file and looks for its streams.
    pub(super) fn open(mut file: File) -> Result<Self, Error> {
        let head = head(&mut file)?;
        let bytes = file.metadata().map_or(0, |metadata| metadata.len());
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        let io = StreamIo::from_read_seek_with_capacity(file, BUFFER_BYTES)
            .map_err(failed("reading the source"))?;
        let mut options = Dictionary::new();
        options.set("format_whitelist", DEMUXERS);
        // The file itself comes through `io`; nothing that it refers to may be opened.
        options.set("protocol_whitelist", "");
        let mut input = format::input_from_stream(io, None, Some(options))
            .map_err(|error| refusal(error, &head))?;

        let video = best(&input, media::Type::Video);
        let audio = best(&input, media::Type::Audio);
        for index in 0..usize::try_from(input.nb_streams()).unwrap_or(0) {
            if Some(index) != video && Some(index) != audio {
                raw::ignore_stream(&mut input, index);
            }
        }
        let shape = video.map(|index| raw::pixel_shape(&mut input, index)).unwrap_or((0, 1));
        let video = video.and_then(|index| input.stream(index)).map(|s| Picture::of(&s, shape));
        let audio = audio.and_then(|index| input.stream(index)).map(|s| Track::of(&s));
        if video.is_none() && audio.is_none() {
            return Err(Error::Source("This file has neither a video nor an audio track.".into()));
        }
        let clock = input.format().name().split(',').any(|name| matches!(name, "mpegts" | "mpeg"));
        let duration = input.duration();
        // Of a spliced transport stream the first and the last timestamp tell nothing; its bytes for each second do.
        let plausible = !clock || bytes.saturating_mul(1_000_000) / CLOCK_BYTES_MIN >= duration;
        let known = duration > 0 && plausible && !raw::duration_is_guessed(&input);
        Ok(Self {
            origin: origin(video.as_ref().map(|p| &p.track), audio.as_ref()),
            video,
            audio,
            duration_us: known.then_some(duration),
            splices: clock.then(Splices::default),
            wanted: Vec::new(),
            damaged: 0,
            errors: 0,
            input,
        })
    }

    /// What it holds.
    pub(super) fn probe(&self) -> Probe {
        Probe {
            duration_ms: u64::try_from(self.duration_us.unwrap_or(0) / 1_000).unwrap_or(0),
            resolution: self.video.as_ref().map(|picture| (picture.width, picture.height)),
            frame_rate_milli: self.video.as_ref().map(|picture| picture.rate.milli()),
            audio: self.audio.is_some(),
        }
    }

    /// A decoder for a track.
    pub(super) fn decoder(
        &self,
        track: &Track,
        options: &Options,
    ) -> Result<decoder::Opened, Error> {
        let unknown = || {
            Error::Source("This file uses a video or audio format that cannot be decoded.".into())
        };
        let stream = self.input.stream(track.index).ok_or_else(unknown)?;
        let mut context = codec::Context::from_parameters(stream.parameters())
            .map_err(failed("decoder"))?
            .decoder();
        context.set_packet_time_base(track.time_base);
        let codec = decoder::find(context.id()).ok_or_else(unknown)?;
        let mut settings = Dictionary::new();
        settings.set("threads", &threads().to_string());
        settings.set("max_pixels", &options.pixels_max.min(i32::MAX as u64).to_string());
        context.open_as_with(codec, settings).map_err(|error| match error {
            FfmpegError::Other { errno: ENOMEM } => too_much_memory(),
            _ => unknown(),
        })
    }

    /// The next packet of a track that is taken; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Packet>, Error> {
        loop {
            let mut packet = Packet::empty();
            match packet.read(&mut self.input) {
                Ok(()) => {}
                Err(FfmpegError::Eof) => return Ok(None),
                Err(FfmpegError::InvalidData) if self.damaged < DAMAGED_MAX => {
                    self.damaged = self.damaged.saturating_add(1);
                    self.errors = self.errors.saturating_add(1);
                    continue;
                }
                Err(FfmpegError::Other { errno: ENOMEM }) => return Err(too_much_memory()),
                // A file that breaks off: what was read is judged by its length at the end.
                Err(_) => {
                    self.errors = self.errors.saturating_add(1);
                    return Ok(None);
                }
            }
            self.damaged = 0;
            let index = packet.stream();
            let video = self.video.as_ref().map(|picture| picture.track);
            let tracks = [video, self.audio].into_iter().flatten();
            let Some(track) = tracks.chain(self.wanted.iter().copied()).find(|t| t.index == index)
            else {
                continue;
            };
            if let Some(splices) = self.splices.as_mut() {
                splices.mend(&mut packet, &track);
            }
            return Ok(Some(packet));
        }
    }

    /// The container, for what it carries beside its tracks.
    pub(super) const fn input(&self) -> &Input {
        &self.input
    }

    /// From now on packets of this stream are given, too; of the video stream then only key frames where `keys_only`.
    pub(super) fn want(&mut self, index: usize, keys_only: bool) -> Option<Track> {
        raw::want_stream(&mut self.input, index, keys_only);
        let track = Track::of(&self.input.stream(index)?);
        self.wanted.push(track);
        Some(track)
    }

    /// From now on no packets of this stream are given.
    pub(super) fn ignore(&mut self, index: usize) {
        raw::ignore_stream(&mut self.input, index);
    }

    /// From now on only packets of this track are given, and the others are not read where the container allows it.
    pub(super) fn only(&mut self, index: usize) {
        for other in 0..usize::try_from(self.input.nb_streams()).unwrap_or(0) {
            if other != index {
                raw::ignore_stream(&mut self.input, other);
            }
        }
        self.video = self.video.take().filter(|picture| picture.track.index == index);
        self.audio = self.audio.take().filter(|track| track.index == index);
    }

    /// Goes to the last key frame that is not behind a time of the timeline.
    pub(super) fn seek(&mut self, track: &Track, at: u64) -> Result<(), Error> {
        let at = i64::try_from(at).unwrap_or(i64::MAX).rescale(ticks(), track.time_base);
        let start = self.origin.0.rescale(self.origin.1, track.time_base);
        raw::seek(&mut self.input, track.index, at.saturating_add(start))
            .map_err(|_| Error::Worker("the source cannot be sought in".to_owned()))
    }

    /// Whether the container has an index by which key frames are found.
    pub(super) fn has_index(&self) -> bool {
        self.input.format().name().split(',').any(|name| matches!(name, "mov" | "matroska"))
    }

    /// What a track's packets could be served by as they are, and its codec.
    pub(super) fn kept(&self, track: &Track) -> Option<(codec::Id, raw::Kept, raw::Coded)> {
        let stream = self.input.stream(track.index)?;
        Some((stream.parameters().id(), raw::kept(&stream), raw::coded(&stream)))
    }

    /// A context with a track's parameters, for a muxer.
    pub(super) fn context(&self, track: &Track) -> Result<codec::Context, Error> {
        let stream = self.input.stream(track.index);
        let parameters = stream.map(|stream| stream.parameters()).unwrap_or_default();
        codec::Context::from_parameters(parameters).map_err(failed("muxer"))
    }

    /// Adds a stream to an output that takes this track's packets as they are.
    pub(super) fn copy_stream(&self, track: &Track, output: &mut Output) -> Result<(), Error> {
        let context = self.context(track)?;
        let mut stream = output.add_stream_with(&context).map_err(failed("muxer"))?;
        stream.set_time_base(track.time_base);
        raw::clear_tag(&mut stream);
        Ok(())
    }

    /// How long the tracks that are taken should be in ticks, by the container's word; `None` where it gives none that is reliable.
    pub(super) fn promised_ticks(&self) -> Option<u64> {
        if self.splices.is_some() {
            return None;
        }
        let whole = self.duration_us?.rescale(microseconds(), ticks());
        let video = self.video.as_ref().map(|picture| picture.track);
        let own = |track: Track| track.duration.map(|d| d.rescale(track.time_base, ticks()));
        // A track without a word of its own may be as long as the container.
        let tracks = [video, self.audio].into_iter().flatten().map(|t| own(t).unwrap_or(whole));
        tracks.max().and_then(|ticks| u64::try_from(ticks.min(whole)).ok())
    }

    /// A timestamp of a track, counted from where the timeline begins.
    pub(super) fn since_origin(&self, track: &Track, timestamp: i64) -> i64 {
        timestamp.saturating_sub(self.origin.0.rescale(self.origin.1, track.time_base))
    }
}

impl Track {
    fn of(stream: &Stream<'_>) -> Self {
        let start = Some(stream.start_time()).filter(|start| *start != i64::MIN);
        let duration = Some(stream.duration()).filter(|duration| *duration > 0);
        Self { index: stream.index(), time_base: stream.time_base(), start, duration }
    }
}

impl Picture {
    fn of(stream: &Stream<'_>, shape: (i32, i32)) -> Self {
        let coded = raw::coded(stream);
        let (turned, upright) = upright(stream);
        let (wide, tall) = square(coded.width, coded.height, shape);
        let (width, height) = if turned { (tall, wide) } else { (wide, tall) };
        let rate = |rate: Rational| {
            let (num, den) = (rate.numerator(), rate.denominator());
            (num > 0 && den > 0).then(|| f64::from(num) / f64::from(den))
        };
        Self {
            track: Track::of(stream),
            width,
            height,
            upright,
            interlaced: coded.interlaced,
            rate: Rate::standard(rate(stream.rate()), rate(stream.avg_frame_rate())),
        }
    }
}

/// The offset that a transport stream's clock has gathered over its splices.
#[derive(Default)]
struct Splices {
    offset_us: i64,
    expected_us: [Option<i64>; 2],
    streams: [Option<usize>; 2],
}

impl Splices {
    fn mend(&mut self, packet: &mut Packet, track: &Track) {
        let slot = self.streams.iter().position(|stream| *stream == Some(track.index));
        let slot = slot.or_else(|| self.streams.iter().position(Option::is_none));
        let Some(slot) = slot else { return };
        if let Some(stream) = self.streams.get_mut(slot) {
            *stream = Some(track.index);
        }
        let Some(dts) = packet.dts().or(packet.pts()) else { return };
        let mut now = dts.rescale(track.time_base, microseconds()).saturating_add(self.offset_us);
        let expected = self.expected_us.get(slot).copied().flatten();
        let gap = expected.map_or(0, |expected| now.saturating_sub(expected));
        if gap.saturating_abs() > SPLICE_US {
            self.offset_us = self.offset_us.saturating_sub(gap);
            now = now.saturating_sub(gap);
        }
        let length = packet.duration().max(0).rescale(track.time_base, microseconds());
        if let Some(expected) = self.expected_us.get_mut(slot) {
            *expected = Some(now.saturating_add(length));
        }
        let offset = self.offset_us.rescale(microseconds(), track.time_base);
        packet.set_pts(packet.pts().map(|pts| pts.saturating_add(offset)));
        packet.set_dts(packet.dts().map(|dts| dts.saturating_add(offset)));
    }
}

/// The stream to take: no cover picture; the default one, then the largest.
fn best(input: &Input, kind: media::Type) -> Option<usize> {
    let usable = |stream: &Stream<'_>| {
        let still = Disposition::ATTACHED_PIC;
        stream.parameters().medium() == kind && !stream.disposition().intersects(still)
    };
    let worth = |stream: &Stream<'_>| {
        let coded = raw::coded(stream);
        let pixels = u64::from(coded.width) * u64::from(coded.height);
        let aside = Disposition::COMMENT
            | Disposition::HEARING_IMPAIRED
            | Disposition::VISUAL_IMPAIRED
            | Disposition::KARAOKE;
        let plain = !stream.disposition().intersects(aside);
        let first = usize::MAX - stream.index();
        (plain, stream.disposition().contains(Disposition::DEFAULT), pixels, first)
    };
    input.streams().filter(usable).max_by_key(worth).map(|stream| stream.index())
}

/// Where the timeline begins: with the picture, unless audio leads it by far.
fn origin(video: Option<&Track>, audio: Option<&Track>) -> (i64, Rational) {
    let of = |track: &Track| track.start.map(|start| (start, track.time_base));
    let us = |(start, base): (i64, Rational)| start.rescale(base, microseconds());
    match (video.and_then(of), audio.and_then(of)) {
        (Some(video), Some(audio)) if us(audio) < us(video).saturating_sub(LEAD_US) => audio,
        (Some(video), _) => video,
        (None, Some(audio)) => audio,
        (None, None) => (0, microseconds()),
    }
}

/// Whether sides are exchanged, and the filters that turn the picture as its display matrix asks (ISO/IEC 14496-12, `tkhd`).
fn upright(stream: &Stream<'_>) -> (bool, Vec<&'static str>) {
    let matrix = stream.side_data().find(|data| data.kind() == side_data::Type::DisplayMatrix);
    let cells: Vec<f64> = matrix
        .map(|data| {
            let number = |bytes: &[u8]| bytes.try_into().map_or(0, i32::from_ne_bytes);
            data.data().chunks_exact(4).map(|bytes| f64::from(number(bytes))).collect()
        })
        .unwrap_or_default();
    let &[a, b, _, c, d, ..] = cells.as_slice() else { return (false, Vec::new()) };
    let (wide, tall) = (a.hypot(c), b.hypot(d));
    if wide <= 0.0 || tall <= 0.0 {
        return (false, Vec::new());
    }
    let quarter = (b / tall).atan2(a / wide).to_degrees().rem_euclid(360.0) / 90.0;
    match quarter.round() as u8 % 4 {
        1 => (true, vec![if c > 0.0 { "transpose=cclock_flip" } else { "transpose=clock" }]),
        2 => (
            false,
            [(a < 0.0, "hflip"), (d < 0.0, "vflip")]
                .into_iter()
                .filter(|f| f.0)
                .map(|f| f.1)
                .collect(),
        ),
        3 => (true, vec![if c < 0.0 { "transpose=clock_flip" } else { "transpose=cclock" }]),
        _ if d < 0.0 => (false, vec!["vflip"]),
        _ => (false, Vec::new()),
    }
}

/// The size in square pixels; a shape beyond 1:4 is taken for damage.
fn square(width: u32, height: u32, (num, den): (i32, i32)) -> (u32, u32) {
    let shape = if num > 0 && den > 0 { f64::from(num) / f64::from(den) } else { 1.0 };
    if !(0.25..=4.0).contains(&shape) || (shape - 1.0).abs() < 0.001 {
        return (width, height);
    }
    ((f64::from(width) * shape).round() as u32, height)
}

fn head(file: &mut File) -> Result<Vec<u8>, Error> {
    let mut read = || -> std::io::Result<Vec<u8>> {
        let mut head = Vec::new();
        file.by_ref().take(16).read_to_end(&mut head)?;
        file.seek(SeekFrom::Start(0))?;
        Ok(head)
    };
    read().map_err(|source| Error::Io { what: "reading the source", source })
}

/// Why a file could not be opened, in words for its creator.
fn refusal(error: FfmpegError, head: &[u8]) -> Error {
    let boxed = head.get(4..8);
    Error::Source(match error {
        FfmpegError::Other { errno: ENOMEM } => return too_much_memory(),
        _ if head.is_empty() => "This file is empty.".to_owned(),
        _ if matches!(boxed, Some(b"ftyp" | b"mdat" | b"wide" | b"free")) => {
            "This MP4 file is incomplete: its index (moov) is missing or damaged. It was probably \
             cut off while it was recorded or copied."
                .to_owned()
        }
        _ => "This file is not a video or audio file that Sluice can read.".to_owned(),
    })
}

/// The time base of the timeline.
pub(super) fn ticks() -> Rational {
    Rational::new(1, i32::try_from(TICKS_PER_SECOND).unwrap_or(90_000))
}

fn microseconds() -> Rational {
    Rational::new(1, 1_000_000)
}

/// The memory limit is the operator's; a source that breaks it will break it again.
pub(super) fn too_much_memory() -> Error {
    Error::Source("This file needs more memory than a media worker is allowed.".to_owned())
}
