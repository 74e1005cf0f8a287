//! Encoded packets to files: a lane for each rendition of a piece cuts its segments where the plan has them, writes them and tells of them.

use std::fs;
use std::path::Path;

use ffmpeg_next::{Packet, codec};

use super::fragment::Muxer;
use crate::domain::id::{RenditionName, SegmentNumber};
use crate::media::{Error, Order, Plan, SOUND, Told, init_file, segment_file};

/// Hears what is done.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Told) -> Result<(), Error>;

/// Writes a piece's files, within its limits.
pub(super) struct Writer<'a> {
    output: &'a Path,
    bytes_left: u64,
    segments_left: u64,
}

impl<'a> Writer<'a> {
    pub(super) fn new(order: &'a Order) -> Self {
        let renditions = u64::try_from(order.plan.renditions().len()).unwrap_or(1).max(1);
        let segments_left = u64::from(order.options.segments_max).saturating_mul(renditions);
        Self { output: &order.output, bytes_left: order.options.output_max_bytes, segments_left }
    }

    /// Writes a file under another name and then gives it its own, so that it is whole as soon as it can be seen.
    fn write(&mut self, file: &str, bytes: &[u8]) -> Result<u64, Error> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes_left = self.bytes_left.checked_sub(length).ok_or_else(|| {
            Error::Source("What is made of this file is larger than is allowed.".to_owned())
        })?;
        let part = self.output.join(format!("{file}.part"));
        let failed = |source| Error::Io { what: "writing a segment", source };
        fs::write(&part, bytes).map_err(failed)?;
        fs::rename(&part, self.output.join(file)).map_err(failed)?;
        Ok(length)
    }

    fn init(&mut self, name: &RenditionName, bytes: &[u8], tell: Tell<'_>) -> Result<(), Error> {
        let file = init_file(name);
        let bytes = self.write(&file, bytes)?;
        tell(Told::Init { rendition: name.clone(), file, bytes })
    }

    fn segment(
        &mut self,
        name: &RenditionName,
        number: SegmentNumber,
        bytes: &[u8],
        tell: Tell<'_>,
    ) -> Result<(), Error> {
        self.segments_left = self.segments_left.checked_sub(1).ok_or_else(|| {
            Error::Source("What is made of this file has more segments than are allowed.".into())
        })?;
        let file = segment_file(name, number);
        let bytes = self.write(&file, bytes)?;
        tell(Told::Segment { rendition: name.clone(), number, file, bytes })
    }
}

/// The pictures of one rung, from a segment on.
pub(super) struct Lane<'a> {
    plan: &'a Plan,
    name: RenditionName,
    muxer: Muxer,
    /// The segment that is cut next.
    next: SegmentNumber,
    /// Frames that went into it.
    frames: u64,
}

impl<'a> Lane<'a> {
    /// Begins with segment `from` and writes the init segment.
    pub(super) fn begin(
        plan: &'a Plan,
        name: &RenditionName,
        from: SegmentNumber,
        context: &codec::Context,
        writer: &mut Writer<'_>,
        tell: Tell<'_>,
    ) -> Result<Self, Error> {
        let rate = plan.rate().ok_or_else(misled)?;
        let (first, _) = plan.frames(from).ok_or_else(misled)?;
        let (muxer, init) = Muxer::begin_at(Some((context, rate)), None, from, first)?;
        writer.init(name, &init, tell)?;
        Ok(Self { plan, name: name.clone(), muxer, next: from, frames: 0 })
    }

    /// Takes the next packet in decoding order; its timestamps count frames of the film.
    pub(super) fn push(
        &mut self,
        packet: Packet,
        writer: &mut Writer<'_>,
        tell: Tell<'_>,
    ) -> Result<(), Error> {
        let at = packet.pts().and_then(|pts| u64::try_from(pts).ok());
        let (begin, end) = self.plan.frames(self.next).ok_or_else(left_out)?;
        if packet.is_key() && at == Some(end) {
            self.cut(writer, tell)?;
        } else if self.frames == 0 && !(packet.is_key() && at == Some(begin)) {
            return Err(Error::Worker("a segment does not begin with a key frame".to_owned()));
        }
        self.frames = self.frames.saturating_add(1);
        self.muxer.video(packet)
    }

    /// Cuts the last segment, the one before `to`.
    pub(super) fn finish(
        mut self,
        to: SegmentNumber,
        writer: &mut Writer<'_>,
        tell: Tell<'_>,
    ) -> Result<(), Error> {
        self.cut(writer, tell)?;
        if self.next == to { Ok(()) } else { Err(left_out()) }
    }

    fn cut(&mut self, writer: &mut Writer<'_>, tell: Tell<'_>) -> Result<(), Error> {
        let (begin, end) = self.plan.frames(self.next).ok_or_else(left_out)?;
        if self.frames != end.saturating_sub(begin) {
            return Err(left_out());
        }
        let bytes = self.muxer.cut()?;
        writer.segment(&self.name, self.next, &bytes, tell)?;
        self.next = SegmentNumber(self.next.0.saturating_add(1));
        self.frames = 0;
        Ok(())
    }
}

/// The sound of a film, whole.
pub(super) struct SoundLane<'a> {
    plan: &'a Plan,
    name: RenditionName,
    muxer: Muxer,
    next: SegmentNumber,
    /// AAC frames so far.
    frames: u64,
}

impl<'a> SoundLane<'a> {
    pub(super) fn begin(
        plan: &'a Plan,
        context: &codec::Context,
        writer: &mut Writer<'_>,
        tell: Tell<'_>,
    ) -> Result<Self, Error> {
        let name: RenditionName = SOUND.parse().map_err(|_| misled())?;
        let (muxer, init) = Muxer::begin(None, Some(context))?;
        writer.init(&name, &init, tell)?;
        Ok(Self { plan, name, muxer, next: SegmentNumber(0), frames: 0 })
    }

    /// Whether the film has all its sound.
    pub(super) fn is_full(&self) -> bool {
        self.frames >= self.plan.all_sounds()
    }

    /// AAC frames so far.
    pub(super) const fn frames(&self) -> u64 {
        self.frames
    }

    /// Takes the next packet; what comes after the film's end is left out.
    pub(super) fn push(
        &mut self,
        mut packet: Packet,
        writer: &mut Writer<'_>,
        tell: Tell<'_>,
    ) -> Result<(), Error> {
        if self.is_full() {
            return Ok(());
        }
        self.muxer.audio(&mut packet)?;
        self.frames = self.frames.saturating_add(1);
        let (_, end) = self.plan.sounds(self.next).ok_or_else(left_out)?;
        if self.frames == end {
            let bytes = self.muxer.cut()?;
            writer.segment(&self.name, self.next, &bytes, tell)?;
            self.next = SegmentNumber(self.next.0.saturating_add(1));
        }
        Ok(())
    }

    pub(super) fn finish(self) -> Result<(), Error> {
        if self.is_full() { Ok(()) } else { Err(left_out()) }
    }
}

fn left_out() -> Error {
    Error::Worker("the encoders left out a frame".to_owned())
}

/// The order asks for what its plan does not have.
pub(super) fn misled() -> Error {
    Error::Worker("the order does not fit its plan".to_owned())
}
