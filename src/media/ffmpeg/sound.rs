//! The sound of a film, whole: measured, then encoded with one constant gain; or copied.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use ffmpeg_next::{Packet, Rescale, frame};

use super::audio::{Sound, silent_packet};
use super::lane::{SoundLane, Tell, Writer, misled};
use super::loudness::{Gain, Meter};
use super::reading::{Damage, Progress, Received, receive, send};
use super::source::{Source, Track};
use crate::media::grid::{AAC_SAMPLES, SAMPLE_RATE};
use crate::media::{Error, Order};

/// Makes all segments of the sound.
pub(super) fn sound(order: &Order, file: File, tell: Tell<'_>) -> Result<u64, Error> {
    let plan = order.plan.sound.as_ref().ok_or_else(misled)?;
    if plan.copied {
        return copied(order, file, tell);
    }
    let mut progress = Progress::new();
    let (mut gain, mut passes) = (Gain::default(), (0, 1));
    if let Some(target) = plan.normalise_lufs_centi {
        passes = (1, 2);
        let mut meter = Meter::default();
        let mut reader = Reader::open(order, file.try_clone().map_err(reading)?)?;
        let until = order.plan.all_sounds().saturating_mul(AAC_SAMPLES);
        while meter.samples() < until && reader.next(&mut |sound| meter.hear(sound))? {
            progress.tell(meter.samples(), until.saturating_mul(2), tell)?;
        }
        gain = meter.gain(f64::from(target) / 100.0)?;
    }
    let mut reader = Reader::open(order, file)?;
    let all = order.plan.all_sounds();
    let mut sound = Sound::begin(&reader.track, gain, all.saturating_mul(AAC_SAMPLES))?;
    let mut writer = Writer::new(order);
    let mut lane = SoundLane::begin(&order.plan, sound.context(), &mut writer, tell)?;
    while !lane.is_full() {
        let mut take = |packet| lane.push(packet, &mut writer, tell);
        if !reader.next(&mut |heard| sound.push(heard, &mut take))? {
            break;
        }
        let done = all.saturating_mul(passes.0).saturating_add(lane.frames());
        progress.tell(done, all.saturating_mul(passes.1), tell)?;
    }
    let mut take = |packet| lane.push(packet, &mut writer, tell);
    sound.fill(all.saturating_mul(AAC_SAMPLES), &mut take)?;
    sound.finish(&mut take)?;
    lane.finish()?;
    reader.damage.add(reader.source.errors);
    reader.damage.judge()?;
    Ok(reader.damage.errors)
}

/// The source's own packets; silence where it begins late or ends early.
fn copied(order: &Order, file: File, tell: Tell<'_>) -> Result<u64, Error> {
    let mut source = Source::open(file)?;
    let track = source.audio.ok_or_else(misled)?;
    source.only(track.index);
    let context = source.context(&track)?;
    let channels = source.kept(&track).map_or(2, |(_, kept, _)| kept.channels);
    let silence = silent_packet(channels)?;
    let mut writer = Writer::new(order);
    let mut lane = SoundLane::begin(&order.plan, &context, &mut writer, tell)?;
    let frame = i64::try_from(AAC_SAMPLES).unwrap_or(1_024);
    let mut push = |lane: &mut SoundLane<'_>, mut packet: Packet, tell: Tell<'_>| {
        let at = i64::try_from(lane.frames()).ok().map(|at| at.saturating_mul(frame));
        packet.set_pts(at);
        packet.set_dts(at);
        packet.set_duration(frame);
        packet.set_position(-1);
        lane.push(packet, &mut writer, tell)
    };
    let mut progress = Progress::new();
    let mut next = None;
    while let Some(packet) = source.next()? {
        let base =
            (frame.try_into().unwrap_or(1_024), i32::try_from(SAMPLE_RATE).unwrap_or(48_000));
        let at = packet.pts().map(|at| source.since_origin(&track, at));
        // Packets follow each other without a gap, as the survey has seen: the first one's place tells all.
        let number = next.or(at.map(|at| at.rescale(track.time_base, base))).unwrap_or(0);
        next = Some(number.saturating_add(1));
        let Ok(number) = u64::try_from(number) else { continue };
        while lane.frames() < number && !lane.is_full() {
            push(&mut lane, silence.clone(), tell)?;
        }
        push(&mut lane, packet, tell)?;
        if lane.is_full() {
            break;
        }
        progress.tell(lane.frames(), order.plan.all_sounds(), tell)?;
    }
    while !lane.is_full() {
        push(&mut lane, silence.clone(), tell)?;
    }
    lane.finish()?;
    Ok(source.errors)
}

/// Decodes the audio track.
struct Reader {
    source: Source,
    track: Track,
    decoder: ffmpeg_next::decoder::Opened,
    damage: Damage,
}

impl Reader {
    fn open(order: &Order, mut file: File) -> Result<Self, Error> {
        file.seek(SeekFrom::Start(0)).map_err(reading)?;
        let mut source = Source::open(file)?;
        let track = source.audio.ok_or_else(misled)?;
        source.only(track.index);
        let decoder = source.decoder(&track, &order.options)?;
        Ok(Self { source, track, decoder, damage: Damage::default() })
    }

    /// Decodes a packet and gives what is in it, with timestamps from the timeline's zero; whether there may be more.
    fn next(
        &mut self,
        give: &mut dyn FnMut(&mut frame::Audio) -> Result<(), Error>,
    ) -> Result<bool, Error> {
        let packet = self.source.next()?;
        self.damage.packets = self.damage.packets.saturating_add(1);
        let errors = send(&mut self.decoder, packet.as_ref())?;
        self.damage.add(errors);
        loop {
            let mut sound = frame::Audio::empty();
            match receive(&mut self.decoder, &mut sound)? {
                Received::Frame => {}
                Received::Nothing => return Ok(packet.is_some()),
                Received::Damage => {
                    self.damage.add(1);
                    return Ok(packet.is_some());
                }
            }
            let stamp = sound.timestamp().map(|at| self.source.since_origin(&self.track, at));
            sound.set_pts(stamp);
            give(&mut sound)?;
        }
    }
}

fn reading(source: std::io::Error) -> Error {
    Error::Io { what: "reading the source", source }
}
