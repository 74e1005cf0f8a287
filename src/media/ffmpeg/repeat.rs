//! A long film from a short clip, without encoding: packets are copied with their timestamps moved on.

use std::fs::File;

use ffmpeg_next::format::context::{Output, StreamIo};
use ffmpeg_next::{Dictionary, Packet, Rational, Rescale, format};

use super::failed;
use super::source::{Source, Track};
use crate::media::Error;

/// A clip is held in memory while it is repeated; the clips of demos and tests have a few megabytes.
const CLIP_BYTES_MAX: usize = 256 << 20;

/// Writes the clip's pictures and sound to `to`, over and over, until the film has at least so many seconds.
pub(crate) fn repeat(
    clip: File,
    to: File,
    seconds: u64,
    beat: &mut dyn FnMut() -> Result<(), Error>,
) -> Result<(), Error> {
    let mut source = Source::open(clip)?;
    let video = source.video.as_ref().map(|picture| picture.track);
    let tracks: Vec<Track> = [video, source.audio].into_iter().flatten().collect();
    let mut loops = Loops::read(&mut source, &tracks)?;
    let io = StreamIo::from_write_seek(to).map_err(failed("muxer"))?;
    let mut output = format::output_to_stream(io, None, Some("mp4")).map_err(failed("muxer"))?;
    for track in &tracks {
        source.copy_stream(track, &mut output)?;
    }
    let mut options = Dictionary::new();
    options.set("fflags", "+bitexact");
    output.write_header_with(options).map_err(failed("muxer"))?;
    let mut until = 0_i64;
    let wanted = i64::try_from(seconds).unwrap_or(i64::MAX).rescale((1, 1), loops.base);
    while until < wanted {
        loops.write(until, &mut output)?;
        until = until.saturating_add(loops.period);
        beat()?;
    }
    output.write_trailer().map_err(failed("muxer"))
}

/// The clip's packets, and how far apart its repetitions lie.
struct Loops {
    lanes: Vec<Lane>,
    /// In units of `base`, which is the first lane's.
    period: i64,
    base: Rational,
}

struct Lane {
    time_base: Rational,
    packets: Vec<Packet>,
    /// Where the next packet of a lane that runs on by itself begins; `None` for the lane that sets the period.
    clock: Option<i64>,
}

impl Loops {
    fn read(source: &mut Source, tracks: &[Track]) -> Result<Self, Error> {
        let lane = |(number, track): (usize, &Track)| Lane {
            time_base: track.time_base,
            packets: Vec::new(),
            clock: (number > 0).then_some(0),
        };
        let mut lanes: Vec<Lane> = tracks.iter().enumerate().map(lane).collect();
        let mut bytes = 0_usize;
        while let Some(mut packet) = source.next()? {
            bytes = bytes.saturating_add(packet.size());
            if bytes > CLIP_BYTES_MAX {
                return Err(Error::Source("The clip is too large to be repeated.".to_owned()));
            }
            let Some(number) = tracks.iter().position(|t| t.index == packet.stream()) else {
                continue;
            };
            if let (Some(track), Some(lane)) = (tracks.get(number), lanes.get_mut(number)) {
                packet.set_pts(packet.pts().map(|at| source.since_origin(track, at)));
                packet.set_dts(packet.dts().map(|at| source.since_origin(track, at)));
                packet.set_stream(number);
                lane.packets.push(packet);
            }
        }
        let first = lanes.first().filter(|lane| !lane.packets.is_empty());
        let first = first.ok_or_else(|| Error::Source("The clip is empty.".to_owned()))?;
        let period = first.packets.iter().map(|packet| packet.duration().max(1)).sum();
        Ok(Self { period, base: first.time_base, lanes })
    }

    /// Writes one repetition that begins at `start`.
    fn write(&mut self, start: i64, output: &mut Output) -> Result<(), Error> {
        let end = start.saturating_add(self.period);
        let mut batch: Vec<(i64, Packet)> = Vec::new();
        for lane in &mut self.lanes {
            let start = start.rescale(self.base, lane.time_base);
            let end = end.rescale(self.base, lane.time_base);
            for packet in &lane.packets {
                let mut packet = packet.clone();
                let (pts, dts) = match lane.clock.as_mut() {
                    None => {
                        let moved = |at: Option<i64>| at.map(|at| at.saturating_add(start));
                        (moved(packet.pts()), moved(packet.dts()))
                    }
                    // Sound runs on without a gap. The repetition takes as many packets as bring it nearest to the picture.
                    Some(clock) => {
                        let duration = packet.duration().max(1);
                        if packet.pts().is_some_and(|pts| pts < 0) {
                            continue;
                        }
                        if clock.saturating_add(duration / 2) > end {
                            break;
                        }
                        let at = *clock;
                        *clock = at.saturating_add(duration);
                        (Some(at), Some(at))
                    }
                };
                packet.set_pts(pts);
                packet.set_dts(dts.or(pts));
                let order = packet.dts().unwrap_or(0).rescale(lane.time_base, self.base);
                batch.push((order, packet));
            }
        }
        batch.sort_by_key(|(order, _)| *order);
        for (_, mut packet) in batch {
            let lane = self.lanes.get(packet.stream()).map(|lane| lane.time_base);
            let stream = output.stream(packet.stream()).map(|stream| stream.time_base());
            if let (Some(from), Some(to)) = (lane, stream) {
                packet.rescale_ts(from, to);
            }
            packet.set_position(-1);
            packet.write_interleaved(output).map_err(failed("muxer"))?;
        }
        Ok(())
    }
}
