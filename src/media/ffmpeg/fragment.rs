//! One long-lived fragmenting mp4 muxer per rendition, writing to memory: an init segment at once, then a fragment at each cut.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};

use ffmpeg_next::format::context::{Output, StreamIo};
use ffmpeg_next::{Dictionary, Packet, codec, format};

use super::{failed, raw};
use crate::domain::id::SegmentNumber;
use crate::domain::video::TICKS_PER_SECOND;
use crate::media::Error;
use crate::media::grid::{Rate, SAMPLE_RATE};

/// `frag_discont`: without it the first fragment's decode time is shifted to zero without a word; `negative_cts_offsets`: a key
/// frame's decode time is its presentation time, so that `tfdt` is the boundary.
const MOVFLAGS: &str = "+frag_custom+cmaf+empty_moov+default_base_moof+negative_cts_offsets\
                        +skip_trailer+frag_discont";

/// Takes what the muxer writes.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The muxer of one rendition. Video, where there is any, is its first stream.
pub(super) struct Muxer {
    output: Output,
    memory: Memory,
    video: Option<Timing>,
    audio: Option<usize>,
}

/// How frame numbers become ticks.
struct Timing {
    rate: Rate,
    /// How many frames decoding runs ahead of presentation; known with the first packet.
    delay: Option<u64>,
    /// The frame that the first packet shows.
    first: u64,
}

impl Muxer {
    /// Begins a rendition; also returns its init segment.
    pub(super) fn begin(
        video: Option<(&codec::Context, Rate)>,
        audio: Option<&codec::Context>,
    ) -> Result<(Self, Vec<u8>), Error> {
        Self::begin_at(video, audio, SegmentNumber(0), 0)
    }

    /// Begins in the middle: with a segment, and the film's frame that it begins with.
    pub(super) fn begin_at(
        video: Option<(&codec::Context, Rate)>,
        audio: Option<&codec::Context>,
        from: SegmentNumber,
        first: u64,
    ) -> Result<(Self, Vec<u8>), Error> {
        let memory = Memory::default();
        let io = StreamIo::from_write(memory.clone()).map_err(failed("muxer"))?;
        let mut output =
            format::output_to_stream(io, None, Some("mp4")).map_err(failed("muxer"))?;
        if let Some((context, rate)) = video {
            let mut stream = output.add_stream_with(context).map_err(failed("muxer"))?;
            stream.set_time_base((1, i32::try_from(TICKS_PER_SECOND).unwrap_or(90_000)));
            let rate =
                (i32::try_from(rate.num).unwrap_or(25), i32::try_from(rate.den).unwrap_or(1));
            stream.set_avg_frame_rate(rate);
            raw::clear_tag(&mut stream);
        }
        if let Some(context) = audio {
            let mut stream = output.add_stream_with(context).map_err(failed("muxer"))?;
            stream.set_time_base((1, i32::try_from(SAMPLE_RATE).unwrap_or(48_000)));
            raw::clear_tag(&mut stream);
        }
        let mut options = Dictionary::new();
        options.set("movflags", MOVFLAGS);
        options.set("use_editlist", "0");
        options.set("avoid_negative_ts", "disabled");
        options.set("video_track_timescale", "90000");
        options.set("fragment_index", &from.0.saturating_add(1).to_string());
        // The muxer's version in every init segment would serve nobody.
        options.set("fflags", "+bitexact");
        output.write_header_with(options).map_err(failed("muxer"))?;
        raw::flush_fragment(&mut output).map_err(failed("muxer"))?;
        let init = memory.take();
        let video = video.map(|(_, rate)| Timing { rate, delay: None, first });
        let audio = audio.map(|_| usize::from(video.is_some()));
        Ok((Self { output, memory, video, audio }, init))
    }

    /// Takes a video packet whose timestamps count frames, in decoding order.
    pub(super) fn video(&mut self, mut packet: Packet) -> Result<(), Error> {
        let Some(timing) = self.video.as_mut() else { return Ok(()) };
        let (Some(pts), Some(dts)) = (packet.pts(), packet.dts()) else {
            return Err(Error::Worker("the encoder left out a timestamp".to_owned()));
        };
        let ahead = signed(timing.first).saturating_sub(dts);
        let delay = *timing.delay.get_or_insert(u64::try_from(ahead).unwrap_or(0));
        let order = u64::try_from(dts.saturating_add_unsigned(delay)).unwrap_or(0);
        let shown = u64::try_from(pts).unwrap_or(0);
        // Decoding times are rounded from zero on and shifted as a whole by what the muxer takes back in the first packet, so that
        // a key frame's `tfdt` is exactly the tick of its boundary. The tick in excess keeps dts <= pts under rounding.
        let shift = if delay == 0 { 0 } else { signed(timing.rate.ticks(delay)).saturating_add(1) };
        let decoded = timing.rate.ticks(order);
        let next = timing.rate.ticks(order.saturating_add(1));
        packet.set_pts(Some(signed(timing.rate.ticks(shown))));
        packet.set_dts(Some(signed(decoded).saturating_sub(shift)));
        packet.set_duration(signed(next.saturating_sub(decoded)));
        packet.set_stream(0);
        packet.write(&mut self.output).map_err(failed("muxer"))?;
        Ok(())
    }

    /// Takes a key frame of a rendition that has no others, with its own times in ticks.
    pub(super) fn still(
        &mut self,
        mut packet: Packet,
        start: u64,
        duration: u64,
    ) -> Result<(), Error> {
        packet.set_pts(Some(signed(start)));
        packet.set_dts(Some(signed(start)));
        packet.set_duration(signed(duration));
        packet.set_stream(0);
        packet.write(&mut self.output).map_err(failed("muxer"))?;
        Ok(())
    }

    /// Takes an audio packet whose timestamps count samples.
    pub(super) fn audio(&mut self, packet: &mut Packet) -> Result<(), Error> {
        let Some(stream) = self.audio else { return Ok(()) };
        packet.set_stream(stream);
        packet.write(&mut self.output).map_err(failed("muxer"))?;
        Ok(())
    }

    /// Ends the segment and returns its bytes.
    pub(super) fn cut(&mut self) -> Result<Vec<u8>, Error> {
        raw::flush_fragment(&mut self.output).map_err(failed("muxer"))?;
        Ok(self.memory.take())
    }
}

fn signed(ticks: u64) -> i64 {
    i64::try_from(ticks).unwrap_or(i64::MAX)
}
