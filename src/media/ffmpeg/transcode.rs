//! From a source to renditions: reads, decodes, and drives the stages behind.

use std::fs::File;
use std::time::{Duration, Instant};

use ffmpeg_next::util::error::{EAGAIN, ENOMEM};
use ffmpeg_next::{Error as FfmpegError, Frame, Packet, Rational, Rescale, decoder, frame};

use super::audio::Sound;
use super::package::{Packager, Tell};
use super::source::{Picture, Source, Track, ticks, too_much_memory};
use super::video::Pictures;
use crate::domain::video::TICKS_PER_SECOND;
use crate::media::grid::{
    AAC_SAMPLES, AAC_TICKS, Grid, Rung, SAMPLE_RATE, aac_frames_until, rungs,
};
use crate::media::{Error, Made, Options, Order, Probe, Told};

/// The least time between two words on progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// The longest silence while work goes on: the parent's watchdog listens.
const SILENCE_MAX: Duration = Duration::from_secs(5);
/// Sound that lags the picture by more than this has a gap, which is filled: waiting on would keep all packets since in memory.
const LAG_TICKS: u64 = 30 * TICKS_PER_SECOND;
/// Sound that outlasts the picture by more than this is played over the last picture; less is cut off.
const OUTLAST_TICKS: u64 = TICKS_PER_SECOND;
/// The smallest side of a picture: a macroblock.
const SIDE_MIN: u32 = 16;

/// Makes an order from its opened source; files go to the order's output directory.
pub(crate) fn transcode(
    order: &Order,
    source: File,
    tell: &mut dyn FnMut(Told) -> Result<(), Error>,
) -> Result<Made, Error> {
    let source = Source::open(source)?;
    let probe = source.probe();
    check(&probe, &order.options)?;
    tell(Told::Probed(probe))?;
    let mut film = Film::begin(order, source, tell)?;
    film.read(tell)?;
    film.finish(tell)
}

/// A film in the making.
struct Film<'a> {
    order: &'a Order,
    source: Source,
    grid: Grid,
    video: Option<VideoIn>,
    audio: Option<AudioIn>,
    packager: Option<Packager<'a>>,
    /// Sound that came before the first picture.
    early: Vec<Packet>,
    packets: u64,
    errors: u64,
    progress: Progress,
}

struct VideoIn {
    picture: Picture,
    decoder: decoder::Opened,
    rungs: Vec<Rung>,
    stage: Option<Pictures>,
    /// The last picture's timestamp and duration.
    last: Option<(i64, i64)>,
    frames: u64,
}

struct AudioIn {
    track: Track,
    decoder: decoder::Opened,
    sound: Sound,
}

struct Progress {
    permille: u32,
    told: Instant,
}

impl<'a> Film<'a> {
    fn begin(order: &'a Order, source: Source, tell: Tell<'_>) -> Result<Self, Error> {
        let options = &order.options;
        let mut video = None;
        let mut grid = Grid::audio(options.segment_ms);
        if let Some(picture) = source.video.clone() {
            grid = Grid::video(picture.rate, options.segment_ms);
            video = Some(VideoIn {
                decoder: source.decoder(&picture.track, options)?,
                rungs: rungs(&options.ladder, picture.width, picture.height),
                picture,
                stage: None,
                last: None,
                frames: 0,
            });
        }
        let mut audio = None;
        if let Some(track) = source.audio {
            let decoder = source.decoder(&track, options)?;
            audio = Some(AudioIn { decoder, sound: Sound::begin(&track)?, track });
        }
        let mut packager = None;
        if video.is_none() {
            let context = audio.as_ref().map(|audio| audio.sound.context());
            packager =
                Some(Packager::begin(&order.output, grid, std::iter::empty(), context, tell)?);
        }
        let progress = Progress { permille: 0, told: Instant::now() };
        Ok(Self {
            order,
            source,
            grid,
            video,
            audio,
            packager,
            early: Vec::new(),
            packets: 0,
            errors: 0,
            progress,
        })
    }

    fn read(&mut self, tell: Tell<'_>) -> Result<(), Error> {
        while let Some(packet) = self.source.next()? {
            self.packets = self.packets.saturating_add(1);
            let stream = packet.stream();
            if self.video.as_ref().is_some_and(|video| video.picture.track.index == stream) {
                self.decode_video(Some(&packet), tell)?;
            } else {
                self.decode_audio(Some(&packet))?;
            }
            self.after(tell)?;
        }
        self.decode_video(None, tell)?;
        self.decode_audio(None)?;
        self.after(tell)
    }

    /// Cuts what is whole and looks at limits, between two packets.
    fn after(&mut self, tell: Tell<'_>) -> Result<(), Error> {
        let Some(packager) = self.packager.as_mut() else { return Ok(()) };
        let sound = self.audio.as_ref().map_or(0, |audio| sound_ticks(audio.sound.samples()));
        let until = packager.video_until();
        let limit = self.order.options.duration_max_seconds.saturating_mul(TICKS_PER_SECOND);
        if until.max(sound) > limit.saturating_add(TICKS_PER_SECOND) {
            return Err(too_long(&self.order.options));
        }
        if let Some(audio) = self.audio.as_mut()
            && until > sound.saturating_add(LAG_TICKS)
        {
            let target = until.saturating_sub(LAG_TICKS / 2) / AAC_TICKS * AAC_SAMPLES;
            audio.sound.fill(target, &mut |packet| {
                packager.audio(packet);
                Ok(())
            })?;
        }
        packager.advance(tell)?;
        let through = if self.video.is_some() { until } else { sound };
        self.progress.tell(through, self.source.duration_us, tell)
    }

    fn decode_video(&mut self, packet: Option<&Packet>, tell: Tell<'_>) -> Result<(), Error> {
        let Some(video) = self.video.as_mut() else { return Ok(()) };
        self.errors = self.errors.saturating_add(send(&mut video.decoder, packet)?);
        loop {
            let mut picture = frame::Video::empty();
            match receive(&mut video.decoder, &mut picture)? {
                Received::Frame => {}
                Received::Nothing => return Ok(()),
                Received::Damage => {
                    self.errors = self.errors.saturating_add(1);
                    return Ok(());
                }
            }
            video.frames = video.frames.saturating_add(1);
            video.stamp(&self.source, &mut picture);
            if video.stage.is_none() {
                let frames = self.grid.frames();
                let options = &self.order.options;
                let stage =
                    Pictures::begin(&video.picture, &video.rungs, frames, &picture, options)?;
                let mut packager = Packager::begin(
                    &self.order.output,
                    self.grid,
                    video.rungs.iter().zip(stage.contexts()),
                    self.audio.as_ref().map(|audio| audio.sound.context()),
                    tell,
                )?;
                self.early.drain(..).for_each(|packet| packager.audio(packet));
                self.packager = Some(packager);
                video.stage = Some(stage);
            }
            if let (Some(stage), Some(packager)) = (video.stage.as_mut(), self.packager.as_mut()) {
                stage.push(&picture, &mut |rung, packet| {
                    packager.video(rung, packet);
                    // A long still is made from one picture: cut while it is filled. Sound may lag; it is waited for.
                    packager.advance(tell)
                })?;
            }
        }
    }

    fn decode_audio(&mut self, packet: Option<&Packet>) -> Result<(), Error> {
        let Some(audio) = self.audio.as_mut() else { return Ok(()) };
        self.errors = self.errors.saturating_add(send(&mut audio.decoder, packet)?);
        loop {
            let mut sound = frame::Audio::empty();
            match receive(&mut audio.decoder, &mut sound)? {
                Received::Frame => {}
                Received::Nothing => return Ok(()),
                Received::Damage => {
                    self.errors = self.errors.saturating_add(1);
                    return Ok(());
                }
            }
            let stamp = sound.timestamp().map(|at| self.source.since_origin(&audio.track, at));
            sound.set_pts(stamp);
            let (packager, early) = (&mut self.packager, &mut self.early);
            audio.sound.push(&sound, &mut |packet| {
                match packager.as_mut() {
                    Some(packager) => packager.audio(packet),
                    None => early.push(packet),
                }
                Ok(())
            })?;
        }
    }

    fn finish(mut self, tell: Tell<'_>) -> Result<Made, Error> {
        let mut heard = 0;
        let Some(mut packager) = self.packager.take() else {
            return Err(Error::Source("No picture of this file could be decoded.".to_owned()));
        };
        if let Some(audio) = self.audio.as_mut() {
            audio.sound.fill(0, &mut |packet| {
                packager.audio(packet);
                Ok(())
            })?;
            heard = sound_ticks(audio.sound.samples());
        }
        let seen = self.video.as_ref().map_or(0, VideoIn::end_ticks);
        self.judge(seen.max(heard))?;
        let mut frames = heard.div_ceil(AAC_TICKS);
        if let Some(video) = self.video.as_mut()
            && let Some(stage) = video.stage.as_mut()
        {
            let end = if heard > seen.saturating_add(OUTLAST_TICKS) { heard } else { seen };
            let end = i64::try_from(end).unwrap_or(i64::MAX);
            let end = end.rescale(ticks(), video.picture.track.time_base);
            stage.finish(end, &mut |rung, packet| {
                packager.video(rung, packet);
                packager.advance(tell)
            })?;
            frames = stage.frames();
        }
        if let Some(audio) = self.audio.as_mut() {
            let samples = aac_frames_until(self.grid.ticks(frames)).saturating_mul(AAC_SAMPLES);
            let mut take = |packet| {
                packager.audio(packet);
                Ok(())
            };
            audio.sound.fill(samples, &mut take)?;
            audio.sound.finish(&mut take)?;
        }
        if frames == 0 {
            return Err(Error::Source("There is nothing to play in this file.".to_owned()));
        }
        let made = packager.finish(frames, tell)?;
        tell(Told::Progress { permille: 1_000 })?;
        Ok(made)
    }

    /// Whether what was decoded is the film that the container promised.
    fn judge(&self, decoded: u64) -> Result<(), Error> {
        if self.video.as_ref().is_some_and(|video| video.frames == 0) {
            return Err(Error::Source("No picture of this file could be decoded.".to_owned()));
        }
        let errors = self.errors.saturating_add(self.source.errors);
        if errors > 10 && errors > self.packets / 2 {
            return Err(Error::Source(
                "This file is damaged: most of it cannot be decoded.".into(),
            ));
        }
        let promised = self.source.promised_ticks().unwrap_or(0);
        let missing = promised.saturating_sub(decoded);
        if missing > TICKS_PER_SECOND / 2 && missing > promised / 10 {
            let seconds = |ticks: u64| ticks / TICKS_PER_SECOND;
            return Err(Error::Source(format!(
                "This file is incomplete: only {} of its {} seconds could be read.",
                seconds(decoded),
                seconds(promised)
            )));
        }
        Ok(())
    }
}

impl VideoIn {
    /// Gives a decoded picture its time on the timeline; times rise strictly.
    fn stamp(&mut self, source: &Source, picture: &mut frame::Video) {
        let track = &self.picture.track;
        let rate = self.picture.rate;
        let frame = Rational::new(
            i32::try_from(rate.den).unwrap_or(1),
            i32::try_from(rate.num).unwrap_or(25),
        );
        let own = picture.packet().duration;
        let duration = if own > 0 { own } else { 1.rescale(frame, track.time_base).max(1) };
        let next = self.last.map(|(at, duration)| at.saturating_add(duration));
        let at = picture.timestamp().map(|at| source.since_origin(track, at));
        let mut at = at.or(next).unwrap_or(0);
        if let Some((last, _)) = self.last {
            at = at.max(last.saturating_add(1));
        }
        picture.set_pts(Some(at));
        self.last = Some((at, duration));
    }

    fn end_ticks(&self) -> u64 {
        let end = self.last.map_or(0, |(at, duration)| at.saturating_add(duration));
        u64::try_from(end.rescale(self.picture.track.time_base, ticks())).unwrap_or(0)
    }
}

impl Progress {
    fn tell(&mut self, ticks: u64, total_us: Option<i64>, tell: Tell<'_>) -> Result<(), Error> {
        let since = self.told.elapsed();
        if since < PROGRESS_EVERY {
            return Ok(());
        }
        let us = u128::from(ticks) * 1_000_000 / u128::from(TICKS_PER_SECOND);
        let total = total_us.and_then(|us| u128::try_from(us).ok()).unwrap_or(0);
        let permille = (us * 1_000).checked_div(total).unwrap_or(0).min(999);
        let permille = u32::try_from(permille).unwrap_or(0).max(self.permille);
        if permille > self.permille || since > SILENCE_MAX {
            self.permille = permille;
            self.told = Instant::now();
            tell(Told::Progress { permille })?;
        }
        Ok(())
    }
}

enum Received {
    Frame,
    Nothing,
    Damage,
}

/// Gives a packet, or the end, to a decoder; how many errors it found.
fn send(decoder: &mut decoder::Opened, packet: Option<&Packet>) -> Result<u64, Error> {
    let sent = match packet {
        Some(packet) => decoder.send_packet(packet),
        None => decoder.send_eof(),
    };
    match sent {
        Ok(()) => Ok(0),
        Err(FfmpegError::Other { errno: ENOMEM }) => Err(too_much_memory()),
        Err(_) => Ok(1),
    }
}

fn receive(decoder: &mut decoder::Opened, frame: &mut Frame) -> Result<Received, Error> {
    match decoder.receive_frame(frame) {
        Ok(()) => Ok(Received::Frame),
        Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => Ok(Received::Nothing),
        Err(FfmpegError::Other { errno: ENOMEM }) => Err(too_much_memory()),
        Err(_) => Ok(Received::Damage),
    }
}

/// Refuses what is beyond the limits before work begins.
fn check(probe: &Probe, options: &Options) -> Result<(), Error> {
    if probe.duration_ms / 1_000 > options.duration_max_seconds {
        return Err(too_long(options));
    }
    if let Some((width, height)) = probe.resolution {
        if width < SIDE_MIN || height < SIDE_MIN {
            return Err(Error::Source(format!(
                "The picture is {width} by {height} pixels; {SIDE_MIN} by {SIDE_MIN} is the least."
            )));
        }
        if u64::from(width) * u64::from(height) > options.pixels_max {
            return Err(Error::Source(format!(
                "The picture is {width} by {height} pixels; at most {} pixels are accepted.",
                options.pixels_max
            )));
        }
    }
    Ok(())
}

fn too_long(options: &Options) -> Error {
    let minutes = options.duration_max_seconds / 60;
    Error::Source(format!("This file is too long: at most {minutes} minutes are accepted."))
}

fn sound_ticks(samples: u64) -> u64 {
    samples.saturating_mul(TICKS_PER_SECOND) / u64::from(SAMPLE_RATE)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use super::*;
    use crate::domain::video::Ticks;
    use crate::media::ffmpeg::{decode, repeat};
    use crate::media::fixture::{self, CLIP};

    fn decoded(bytes: &[u8]) -> crate::media::Decoded {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        decode(file, &fixture::options(), &mut || Ok(())).unwrap()
    }

    fn refusal(bytes: &[u8]) -> String {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        match fixture::make(file.path(), fixture::options()) {
            Err(Error::Source(reason)) => reason,
            Err(error) => format!("{error:?}"),
            Ok(_) => "accepted".to_owned(),
        }
    }

    #[test]
    fn a_clip_becomes_renditions_that_decode_to_every_frame() {
        let clip = fixture::clip();
        let names: Vec<&str> =
            clip.made.renditions.iter().map(|rendition| rendition.name.as_str()).collect();
        assert_eq!(names, ["240p", "120p", "audio"]);
        assert_eq!(clip.made.frames, 132);
        let ticks: Vec<Ticks> = clip.made.timeline.clone().into();
        assert_eq!(ticks, [0, 180_000, 360_000, 475_200].map(Ticks::new));
        for name in ["240p", "120p"] {
            let decoded = decoded(&clip.whole(name));
            assert_eq!((decoded.frames, decoded.errors), (132, 0));
            assert_eq!(decoded.duration, Ticks::new(475_200));
            assert_eq!(decoded.samples, 248 * 1_024);
        }
        let sound = decoded(&clip.whole("audio"));
        assert_eq!((sound.frames, sound.samples, sound.errors), (0, 248 * 1_024, 0));
    }

    #[test]
    fn each_segment_decodes_by_itself() {
        let clip = fixture::clip();
        let mut frames = 0;
        for number in 0..clip.made.timeline.segments() {
            let mut alone = clip.files["120p-init.mp4"].clone();
            alone.extend(&clip.files[&format!("120p-{number}.m4s")]);
            let decoded = decoded(&alone);
            assert_eq!(decoded.errors, 0);
            frames += decoded.frames;
        }
        assert_eq!(frames, 132);
    }

    #[test]
    fn the_first_word_is_the_probe_and_every_file_is_told_of() {
        let clip = fixture::clip();
        let probe = Probe {
            duration_ms: 5_312,
            resolution: Some((1_280, 720)),
            frame_rate_milli: Some(25_000),
            audio: true,
        };
        assert_eq!(clip.told.first(), Some(&Told::Probed(probe)));
        assert_eq!(clip.told.last(), Some(&Told::Progress { permille: 1_000 }));
        let told = clip.told.iter().filter_map(|told| match told {
            Told::Init { file, bytes, .. } | Told::Segment { file, bytes, .. } => {
                Some((file.as_str(), *bytes))
            }
            _ => None,
        });
        let told: std::collections::BTreeMap<&str, u64> = told.collect();
        let files = clip.files.iter().map(|(name, bytes)| (name.as_str(), bytes.len() as u64));
        assert_eq!(told, files.collect());
    }

    #[test]
    fn what_is_no_media_is_refused_in_words() {
        let clip = std::fs::read(CLIP).unwrap();
        let unreadable = "This file is not a video or audio file that Sluice can read.";
        assert_eq!(refusal(b""), "This file is empty.");
        assert_eq!(refusal(&b"hello world\n".repeat(99)), unreadable);
        assert_eq!(refusal(b"#EXTM3U\n#EXTINF:4,\n/etc/passwd\n#EXT-X-ENDLIST\n"), unreadable);
        assert_eq!(refusal(b"ffconcat version 1.0\nfile /etc/passwd\n"), unreadable);
        assert_eq!(refusal(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10"), unreadable);
        assert!(refusal(&clip[..100_000]).contains("index (moov) is missing"));
    }

    #[test]
    fn limits_hold() {
        let make = |change: fn(&mut Options)| {
            let mut options = fixture::options();
            change(&mut options);
            match fixture::make(Path::new(CLIP), options) {
                Err(Error::Source(reason)) => reason,
                other => format!("{:?}", other.map(|fixture| fixture.made)),
            }
        };
        assert!(make(|options| options.duration_max_seconds = 4).contains("too long"));
        assert!(make(|options| options.pixels_max = 1_280 * 719).contains("1280 by 720 pixels"));
    }

    #[test]
    fn a_repeated_clip_has_every_frame_and_sound_without_a_gap() {
        let mut film = tempfile::tempfile().unwrap();
        let clip = File::open(CLIP).unwrap();
        repeat(clip, film.try_clone().unwrap(), 62, &mut || Ok(())).unwrap();
        std::io::Seek::rewind(&mut film).unwrap();
        let decoded = decode(film, &fixture::options(), &mut || Ok(())).unwrap();
        assert_eq!((decoded.frames, decoded.errors), (12 * 132, 0));
        assert_eq!(decoded.duration, Ticks::new(12 * 475_200));
        // Twelve times 5.28 seconds are 2970 AAC frames.
        assert_eq!(decoded.samples, 2_970 * 1_024);
    }

    #[test]
    fn sound_alone_makes_one_rendition_cut_at_its_own_frames() {
        let sound = fixture::clip().whole("audio");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), sound).unwrap();
        let made = fixture::make(file.path(), fixture::options()).unwrap().made;
        assert_eq!(made.frames, 0);
        assert_eq!(made.renditions.len(), 1);
        let ticks: Vec<Ticks> = made.timeline.into();
        // 94 frames of 1024 samples are the first count that is not under two seconds.
        assert_eq!(ticks, [0, 180_480, 360_960, 476_160].map(Ticks::new));
    }
}
