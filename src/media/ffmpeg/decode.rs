//! Decodes a whole file and counts what is in it.

use std::fs::File;
use std::time::{Duration, Instant};

use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::{Error as FfmpegError, Packet, Rescale, decoder, frame};

use super::source::{Source, Track, ticks};
use crate::domain::video::Ticks;
use crate::media::{Decoded, Error, Options};

/// The longest silence while work goes on.
const BEAT_EVERY: Duration = Duration::from_secs(5);

/// Decodes the best video and the best audio stream of an opened file. `beat` is called every few seconds.
pub(crate) fn decode(
    file: File,
    options: &Options,
    beat: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<Decoded, Error> {
    let mut source = Source::open(file)?;
    let video = source.video.as_ref().map(|picture| picture.track);
    let mut count = Count { video: true, ..Count::default() };
    let mut video = match video {
        Some(track) => Some((source.decoder(&track, options)?, track)),
        None => None,
    };
    let mut sound = Count::default();
    let mut audio = match source.audio {
        Some(track) => Some((source.decoder(&track, options)?, track)),
        None => None,
    };
    let mut beaten = Instant::now();
    while let Some(packet) = source.next()? {
        let stream = packet.stream();
        for (lane, count) in [(&mut video, &mut count), (&mut audio, &mut sound)] {
            if let Some((decoder, track)) = lane.as_mut().filter(|(_, t)| t.index == stream) {
                count.feed(decoder, track, Some(&packet));
            }
        }
        if beaten.elapsed() > BEAT_EVERY {
            beaten = Instant::now();
            beat()?;
        }
    }
    for (lane, count) in [(&mut video, &mut count), (&mut audio, &mut sound)] {
        if let Some((decoder, track)) = lane.as_mut() {
            count.feed(decoder, track, None);
        }
    }
    let span = if video.is_some() { count.span } else { sound.span };
    let duration = span.map_or(0, |(start, end)| end.saturating_sub(start));
    Ok(Decoded {
        frames: count.units,
        samples: sound.units,
        duration: Ticks::new(u64::try_from(duration).unwrap_or(0)),
        errors: count.errors.saturating_add(sound.errors).saturating_add(source.errors),
    })
}

#[derive(Default)]
struct Count {
    video: bool,
    units: u64,
    errors: u64,
    /// From the first frame's start to the last one's end, in ticks.
    span: Option<(i64, i64)>,
}

impl Count {
    fn feed(&mut self, decoder: &mut decoder::Opened, track: &Track, packet: Option<&Packet>) {
        let sent = match packet {
            Some(packet) => decoder.send_packet(packet),
            None => decoder.send_eof(),
        };
        self.errors = self.errors.saturating_add(u64::from(sent.is_err()));
        loop {
            let mut frame = frame::Audio::empty();
            match decoder.receive_frame(&mut frame) {
                Ok(()) => self.frame(&frame, track),
                Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => return,
                Err(_) => {
                    self.errors = self.errors.saturating_add(1);
                    return;
                }
            }
        }
    }

    fn frame(&mut self, frame: &frame::Audio, track: &Track) {
        let samples = u64::try_from(frame.samples()).unwrap_or(0);
        self.units = self.units.saturating_add(if self.video { 1 } else { samples });
        let damaged = frame.is_corrupt() || frame.has_decode_errors();
        self.errors = self.errors.saturating_add(u64::from(damaged));
        let Some(at) = frame.timestamp() else { return };
        let end = at.saturating_add(frame.packet().duration.max(0));
        let at = at.rescale(track.time_base, ticks());
        let end = end.rescale(track.time_base, ticks());
        let (first, last) = self.span.unwrap_or((at, end));
        self.span = Some((first.min(at), last.max(end)));
    }
}
