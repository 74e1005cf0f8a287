//! Segments of some rungs from one decoding, which begins at a key frame before the first of them.

use std::fs::File;
use std::io::{Seek, SeekFrom};

use ffmpeg_next::{Packet, Rational, Rescale, decoder, frame};

use super::lane::{Lane, Tell, Writer, misled};
use super::reading::{Damage, Progress, Received, receive, send};
use super::source::{Picture, Source, ticks};
use super::video::{Pictures, Range};
use crate::domain::id::{RenditionName, SegmentNumber};
use crate::domain::video::TICKS_PER_SECOND;
use crate::media::{Error, Order, Rung};

/// How long before the first frame that is wanted decoding begins: a second, so that what an open group of pictures or a deinterlacer takes from
/// before is there; if the container's index led astray, half a minute; then the film's beginning.
const LEADS: [Option<u64>; 3] = [Some(TICKS_PER_SECOND), Some(30 * TICKS_PER_SECOND), None];

/// Makes the segments from `from` up to `to` of rungs, pictures only.
pub(super) fn pictures(
    order: &Order,
    renditions: &[RenditionName],
    (from, to): (u32, u32),
    file: File,
    tell: Tell<'_>,
) -> Result<u64, Error> {
    let plan = order.plan.pictures.as_ref().ok_or_else(misled)?;
    let named = |name: &RenditionName| plan.rungs.iter().find(|rung| rung.name == *name).cloned();
    let rungs: Vec<Rung> =
        renditions.iter().map(named).collect::<Option<_>>().ok_or_else(misled)?;
    let (first, _) = order.plan.frames(SegmentNumber(from)).ok_or_else(misled)?;
    let last = to.checked_sub(1).filter(|last| *last >= from).ok_or_else(misled)?;
    let (_, end) = order.plan.frames(SegmentNumber(last)).ok_or_else(misled)?;
    for lead in LEADS {
        let at = lead.map_or(0, |lead| plan.rate().ticks(first).saturating_sub(lead));
        let sought = at > 0 && order.plan.seekable;
        if !sought && lead.is_some() && first > 0 {
            continue;
        }
        let mut again = file.try_clone().map_err(reading)?;
        again.seek(SeekFrom::Start(0)).map_err(reading)?;
        let mut source = Source::open(again)?;
        let picture = source.video.clone().ok_or_else(misled)?;
        source.only(picture.track.index);
        if sought && source.seek(&picture.track, at).is_err() {
            continue;
        }
        let range = Range { rate: plan.rate(), cuts: &plan.cuts, from: first, to: end, sought };
        let reel = Reel {
            order,
            decoder: source.decoder(&picture.track, &order.options)?,
            source,
            picture,
            rungs: &rungs,
            range,
            segments: (SegmentNumber(from), SegmentNumber(to)),
            stage: None,
            lanes: Vec::new(),
            writer: Writer::new(order),
            last: None,
            late: false,
            damage: Damage::default(),
            progress: Progress::new(),
        };
        if let Some(errors) = reel.run(tell)? {
            return Ok(errors);
        }
    }
    Err(Error::Source("No picture of this file could be decoded.".to_owned()))
}

fn reading(source: std::io::Error) -> Error {
    Error::Io { what: "reading the source", source }
}

/// One decoding.
struct Reel<'a> {
    order: &'a Order,
    source: Source,
    picture: Picture,
    decoder: decoder::Opened,
    rungs: &'a [Rung],
    range: Range<'a>,
    segments: (SegmentNumber, SegmentNumber),
    stage: Option<Pictures<'a>>,
    lanes: Vec<Lane<'a>>,
    writer: Writer<'a>,
    /// The last picture's timestamp and duration.
    last: Option<(i64, i64)>,
    /// Whether the first picture came behind the first frame that is wanted.
    late: bool,
    damage: Damage,
    progress: Progress,
}

impl<'a> Reel<'a> {
    /// Decodes as far as is wanted; `None` where it began too late.
    fn run(mut self, tell: Tell<'_>) -> Result<Option<u64>, Error> {
        while !self.is_full() && !self.late {
            let packet = self.source.next()?;
            self.damage.packets = self.damage.packets.saturating_add(1);
            self.decode(packet.as_ref(), tell)?;
            let done = self.stage.as_ref().map_or(0, Pictures::frames);
            self.progress.tell(done, self.range.to.saturating_sub(self.range.from), tell)?;
            if packet.is_none() {
                break;
            }
        }
        if self.late || (self.stage.is_none() && self.range.sought) {
            return Ok(None);
        }
        self.finish(tell).map(Some)
    }

    fn is_full(&self) -> bool {
        self.stage.as_ref().is_some_and(Pictures::is_full)
    }

    fn decode(&mut self, packet: Option<&Packet>, tell: Tell<'_>) -> Result<(), Error> {
        let errors = send(&mut self.decoder, packet)?;
        self.damage.add(errors);
        loop {
            let mut picture = frame::Video::empty();
            match receive(&mut self.decoder, &mut picture)? {
                Received::Frame => {}
                Received::Nothing => return Ok(()),
                Received::Damage => {
                    self.damage.add(1);
                    return Ok(());
                }
            }
            let at = self.stamp(&mut picture);
            if self.stage.is_none() {
                if self.range.sought && self.frame_of(at) > self.range.from {
                    self.late = true;
                    return Ok(());
                }
                self.begin(&picture, tell)?;
            }
            self.push(&picture, tell)?;
            if self.is_full() {
                return Ok(());
            }
        }
    }

    /// The first picture tells what the stage must take.
    fn begin(&mut self, first: &frame::Video, tell: Tell<'_>) -> Result<(), Error> {
        let options = &self.order.options;
        let stage = Pictures::begin(&self.picture, self.rungs, self.range, first, options)?;
        for (rung, context) in self.rungs.iter().zip(stage.contexts()) {
            let (plan, from) = (&self.order.plan, self.segments.0);
            let lane = Lane::begin(plan, &rung.name, from, context, &mut self.writer, tell)?;
            self.lanes.push(lane);
        }
        self.stage = Some(stage);
        Ok(())
    }

    fn push(&mut self, picture: &frame::Video, tell: Tell<'_>) -> Result<(), Error> {
        let Some(stage) = self.stage.as_mut() else { return Ok(()) };
        let (lanes, writer) = (&mut self.lanes, &mut self.writer);
        stage.push(picture, &mut |rung, packet| match lanes.get_mut(rung) {
            Some(lane) => lane.push(packet, writer, tell),
            None => Ok(()),
        })
    }

    fn finish(mut self, tell: Tell<'_>) -> Result<u64, Error> {
        let Some(mut stage) = self.stage.take() else {
            return Err(Error::Source("No picture of this file could be decoded.".to_owned()));
        };
        self.damage.add(self.source.errors);
        self.damage.judge()?;
        // Two frames more than enough: rounding to the source's clock must not lose the last one.
        let end = self.range.rate.ticks(self.range.to.saturating_add(2));
        let end = i64::try_from(end).unwrap_or(i64::MAX);
        let end = end.rescale(ticks(), self.picture.track.time_base);
        let (lanes, writer) = (&mut self.lanes, &mut self.writer);
        stage.finish(end, &mut |rung, packet| match lanes.get_mut(rung) {
            Some(lane) => lane.push(packet, writer, tell),
            None => Ok(()),
        })?;
        for lane in self.lanes {
            lane.finish(self.segments.1, &mut self.writer, tell)?;
        }
        Ok(self.damage.errors)
    }

    /// Gives a decoded picture its time on the timeline; times rise strictly.
    fn stamp(&mut self, picture: &mut frame::Video) -> i64 {
        let track = &self.picture.track;
        let rate = self.range.rate;
        let frame = Rational::new(
            i32::try_from(rate.den).unwrap_or(1),
            i32::try_from(rate.num).unwrap_or(25),
        );
        let own = picture.packet().duration;
        let duration = if own > 0 { own } else { 1.rescale(frame, track.time_base).max(1) };
        let next = self.last.map(|(at, duration)| at.saturating_add(duration));
        let at = picture.timestamp().map(|at| self.source.since_origin(track, at));
        let mut at = at.or(next).unwrap_or(0);
        if let Some((last, _)) = self.last {
            at = at.max(last.saturating_add(1));
        }
        picture.set_pts(Some(at));
        self.last = Some((at, duration));
        at
    }

    fn frame_of(&self, at: i64) -> u64 {
        let at = at.rescale(self.picture.track.time_base, ticks());
        self.range.rate.frame_at(u64::try_from(at).unwrap_or(0))
    }
}
