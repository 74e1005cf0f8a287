//! Reads a source once more for what viewers expect around the film. Of pictures only key frames are decoded, and of those only the few that
//! become stills; of subtitles the texts; sound where a waveform is wanted.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use ffmpeg_next::{Packet, Rescale, decoder, frame};

use super::source::{Source, Track, ticks};
use super::{failed, raw};
use crate::domain::video::Ticks;
use crate::media::Error;
use crate::media::extras::{Chapter, Extras, ExtrasOrder, NAME_CHARS_MAX, TOLD};

mod cover;
mod iframes;
mod jpeg;
mod pictures;
mod texts;
mod waveform;

/// The longest silence while work goes on.
const BEAT_EVERY: Duration = Duration::from_secs(5);
/// More chapters than are kept are not even read.
const CHAPTERS_READ_MAX: usize = 2_000;

/// Makes everything that an order asks for and the source has, and writes what it made into a file beside the others; its length.
pub(crate) fn extras(
    order: &ExtrasOrder,
    file: File,
    beat: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<u64, Error> {
    let mut source = Source::open(file)?;
    let mut made = Extras { chapters: chapters(&source), ..Extras::default() };
    let mut texts = texts::Texts::begin(&mut source);
    let mut pictures = pictures(&mut source, order)?;
    let mut sound = sound(&mut source, order)?;
    let mut beaten = Instant::now();
    while pictures.is_some() || sound.is_some() || !texts.is_empty() {
        let Some(packet) = source.next()? else { break };
        let index = packet.stream();
        let at = |track: &Track| {
            let pts = packet.pts().or(packet.dts())?;
            Some(source.since_origin(track, pts).rescale(track.time_base, ticks()))
        };
        if let Some(lane) = pictures.as_mut().filter(|lane| lane.track.index == index) {
            let at = at(&lane.track);
            if packet.is_key() && at.is_some_and(|at| lane.stage.wants(at)) {
                lane.feed(Some(&packet))?;
                lane.drain(&source)?;
            }
        } else if let Some(lane) = sound.as_mut().filter(|lane| lane.track.index == index) {
            lane.feed(Some(&packet))?;
            lane.drain(&source)?;
        } else {
            texts.take(&source, &packet);
        }
        if beaten.elapsed() > BEAT_EVERY {
            beaten = Instant::now();
            beat()?;
        }
    }
    if let Some(mut lane) = pictures {
        lane.feed(None)?;
        lane.drain(&source)?;
        let stills = lane.stage.finish()?;
        (made.poster, made.storyboard, made.iframes) =
            (stills.poster, stills.board, stills.iframes);
    }
    if let Some(mut lane) = sound {
        lane.feed(None)?;
        lane.drain(&source)?;
        made.waveform = lane.stage.finish()?;
    }
    made.subtitles = texts.finish();
    if made.poster.is_none() {
        // A cover that cannot be read is no reason to have nothing.
        made.poster = cover::cover(&source, order).unwrap_or_default();
    }
    let told = serde_json::to_vec(&made).map_err(|error| Error::Worker(error.to_string()))?;
    keep(&order.output, TOLD, &told)
}

fn pictures(
    source: &mut Source,
    order: &ExtrasOrder,
) -> Result<Option<Lane<pictures::Stills>>, Error> {
    let Some(picture) = source.video.clone() else { return Ok(None) };
    let index = picture.track.index;
    if !order.pictures {
        source.ignore(index);
        return Ok(None);
    }
    source.want(index, true);
    let decoder = source.decoder(&picture.track, &order.options)?;
    let track = picture.track;
    Ok(Some(Lane { track, decoder, stage: pictures::Stills::begin(picture, order) }))
}

fn sound(source: &mut Source, order: &ExtrasOrder) -> Result<Option<Lane<waveform::Peaks>>, Error> {
    let Some(track) = source.audio else { return Ok(None) };
    if !order.sound {
        source.ignore(track.index);
        return Ok(None);
    }
    let decoder = source.decoder(&track, &order.options)?;
    Ok(Some(Lane { track, decoder, stage: waveform::Peaks::begin(order.duration) }))
}

/// A track, its decoder, and what becomes of its frames.
struct Lane<S> {
    track: Track,
    decoder: decoder::Opened,
    stage: S,
}

/// Takes decoded frames with their time in ticks from the film's beginning.
trait Stage {
    type Frame: std::ops::DerefMut<Target = frame::Frame>;

    fn empty() -> Self::Frame;
    fn take(&mut self, frame: &mut Self::Frame, at: i64) -> Result<(), Error>;
}

impl<S: Stage> Lane<S> {
    fn feed(&mut self, packet: Option<&Packet>) -> Result<(), Error> {
        use ffmpeg_next::Error as FfmpegError;
        let sent = match packet {
            Some(packet) => self.decoder.send_packet(packet),
            None => self.decoder.send_eof(),
        };
        match sent {
            Err(error @ FfmpegError::Other { errno: ffmpeg_next::util::error::ENOMEM }) => {
                Err(failed("decoder")(error))
            }
            // What cannot be decoded is left out.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn drain(&mut self, source: &Source) -> Result<(), Error> {
        let mut frame = S::empty();
        while self.decoder.receive_frame(&mut frame).is_ok() {
            let Some(pts) = frame.timestamp().or(frame.pts()) else { continue };
            let at = source.since_origin(&self.track, pts).rescale(self.track.time_base, ticks());
            self.stage.take(&mut frame, at)?;
        }
        Ok(())
    }
}

fn chapters(source: &Source) -> Vec<Chapter> {
    let at = |time: i64, base| {
        // Chapters count from the container's zero, which the film's timeline does as well but for what was cut off before it.
        Ticks::new(u64::try_from(time.rescale(base, ticks())).unwrap_or(0))
    };
    raw::chapters(source.input(), CHAPTERS_READ_MAX)
        .into_iter()
        .map(|(base, start, end, title)| Chapter {
            start: at(start, base),
            end: at(end, base),
            title: title.chars().take(NAME_CHARS_MAX).collect(),
        })
        .collect()
}

/// Writes a file and gives it its name when it is whole; its length.
fn keep(output: &Path, name: &str, bytes: &[u8]) -> Result<u64, Error> {
    let io = |source| Error::Io { what: "writing an extra", source };
    let part = output.join(format!("{name}.part"));
    fs::write(&part, bytes).map_err(io)?;
    fs::rename(&part, output.join(name)).map_err(io)?;
    Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}

fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
