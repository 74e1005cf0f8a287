//! A rung whose packets are the source's own: cut at its key frames, with timestamps that count frames.

use std::fs::File;

use ffmpeg_next::Rescale;

use super::lane::{Lane, Tell, Writer, misled};
use super::reading::Progress;
use super::source::{Source, ticks};
use crate::domain::id::{RenditionName, SegmentNumber};
use crate::media::{Error, Order};

/// Copies all segments of a rung, pictures only.
pub(super) fn copied(
    order: &Order,
    name: &RenditionName,
    file: File,
    tell: Tell<'_>,
) -> Result<u64, Error> {
    let plan = order.plan.pictures.as_ref().ok_or_else(misled)?;
    let mut source = Source::open(file)?;
    let track = source.video.as_ref().ok_or_else(misled)?.track;
    source.only(track.index);
    let context = source.context(&track)?;
    let mut writer = Writer::new(order);
    let first = SegmentNumber(0);
    let mut lane = Lane::begin(&order.plan, name, first, &context, &mut writer, tell)?;
    let frames = plan.cuts.last().copied().unwrap_or(0);
    let delay = i64::try_from(plan.copied_delay).unwrap_or(i64::MAX);
    let mut progress = Progress::new();
    for order in 0_u64.. {
        let Some(mut packet) = source.next()? else { break };
        let at = packet.pts().map(|at| source.since_origin(&track, at));
        let at = at.map(|at| at.rescale(track.time_base, ticks()));
        let at = at.and_then(|at| u64::try_from(at).ok()).ok_or_else(changed)?;
        packet.set_pts(i64::try_from(plan.rate().frame_at(at)).ok());
        packet.set_dts(i64::try_from(order).ok().map(|order| order.saturating_sub(delay)));
        packet.set_position(-1);
        lane.push(packet, &mut writer, tell)?;
        progress.tell(order, frames, tell)?;
    }
    lane.finish(SegmentNumber(order.plan.timeline.segments()), &mut writer, tell)?;
    Ok(source.errors)
}

fn changed() -> Error {
    Error::Worker("the source is not what was surveyed".to_owned())
}
