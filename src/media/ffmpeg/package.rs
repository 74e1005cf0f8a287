//! Encoded packets to files: waits until every rendition has a segment whole, cuts it from all of them and tells of it.

use std::collections::VecDeque;
use std::fs;
use std::path::Path;

use ffmpeg_next::{Packet, codec};

use super::fragment::Muxer;
use crate::domain::id::{RenditionName, SegmentNumber};
use crate::domain::video::{Rendition, Ticks, Timeline};
use crate::media::grid::{Grid, Rate, Rung, aac_frame_at, aac_frames_until, bandwidth};
use crate::media::{Error, Made, Told, boxes, init_file, segment_file};

/// Hears what is done.
pub(super) type Tell<'a> = &'a mut dyn FnMut(Told) -> Result<(), Error>;

/// All renditions of a film.
pub(super) struct Packager<'a> {
    grid: Grid,
    output: &'a Path,
    video: Vec<Lane>,
    audio: Option<Lane>,
    /// The segment that is cut next.
    next: u64,
}

/// One rendition.
struct Lane {
    name: RenditionName,
    resolution: Option<(u32, u32)>,
    muxer: Muxer,
    codecs: String,
    /// Packets that are not yet in a segment. Audio waits in the lane of the audio rendition alone.
    queue: VecDeque<Packet>,
    /// Frames that went into segments.
    frames: u64,
    /// The highest frame that a key picture in the queue begins with.
    key: u64,
    sizes: Vec<u64>,
}

impl<'a> Packager<'a> {
    /// Begins all renditions and writes their init segments.
    pub(super) fn begin<'c>(
        output: &'a Path,
        grid: Grid,
        video: impl Iterator<Item = (&'c Rung, &'c codec::Context)>,
        audio: Option<&codec::Context>,
        tell: Tell<'_>,
    ) -> Result<Self, Error> {
        let mut lanes = Vec::new();
        if let Grid::Video { rate, .. } = grid {
            for (rung, context) in video {
                let size = Some((rung.width, rung.height));
                let lane =
                    Lane::begin(output, &rung.name, size, Some((context, rate)), audio, tell)?;
                lanes.push(lane);
            }
        }
        let audio = match audio {
            Some(context) => Some(Lane::begin(output, "audio", None, None, Some(context), tell)?),
            None => None,
        };
        Ok(Self { grid, output, video: lanes, audio, next: 0 })
    }

    /// Takes a packet of a rung.
    pub(super) fn video(&mut self, rung: usize, packet: Packet) {
        if let Some(lane) = self.video.get_mut(rung) {
            if packet.is_key() {
                lane.key = lane.key.max(frame_of(&packet));
            }
            lane.queue.push_back(packet);
        }
    }

    /// Takes a packet of the sound.
    pub(super) fn audio(&mut self, packet: Packet) {
        if let Some(lane) = self.audio.as_mut() {
            lane.queue.push_back(packet);
        }
    }

    /// How far the pictures are through, in ticks.
    pub(super) fn video_until(&self) -> u64 {
        self.video.first().map_or(0, |lane| self.grid.ticks(lane.key))
    }

    /// Cuts what is whole.
    pub(super) fn advance(&mut self, tell: Tell<'_>) -> Result<(), Error> {
        while self.is_whole() {
            let end = self.next.saturating_add(1);
            let audio = aac_frame_at(self.grid.start(end));
            self.cut(end.saturating_mul(self.grid.frames()), audio, tell)?;
        }
        Ok(())
    }

    /// Cuts the rest of a film of so many frames.
    pub(super) fn finish(mut self, frames: u64, tell: Tell<'_>) -> Result<Made, Error> {
        self.advance(tell)?;
        let boundaries = self.grid.boundaries(frames);
        let end = self.grid.ticks(frames);
        if self.next.saturating_add(1) != self.grid.segments(frames) {
            return Err(Error::Worker("the encoders left out a segment".to_owned()));
        }
        self.cut(u64::MAX, aac_frames_until(end), tell)?;
        let lost = self.video.iter().any(|lane| lane.frames != frames);
        if lost {
            return Err(Error::Worker("the encoders left out a frame".to_owned()));
        }
        let timeline = Timeline::new(boundaries)
            .map_err(|error| Error::Worker(format!("no timeline: {error}")))?;
        let rate = match self.grid {
            Grid::Video { rate, .. } => Some(rate),
            Grid::Audio { .. } => None,
        };
        let lanes = self.video.iter().chain(&self.audio);
        Ok(Made {
            renditions: lanes.map(|lane| lane.rendition(&timeline, rate)).collect(),
            frames: if rate.is_some() { frames } else { 0 },
            timeline,
        })
    }

    fn is_whole(&self) -> bool {
        let end = self.next.saturating_add(1);
        let video = end.saturating_mul(self.grid.frames());
        let audio = aac_frame_at(self.grid.start(end));
        // Where there is only sound, the frame behind the cut must be there: else the last segment would stay empty.
        let behind = u64::from(self.video.is_empty());
        self.video.iter().all(|lane| lane.key >= video)
            && self.audio.as_ref().is_none_or(|lane| lane.until() >= audio.saturating_add(behind))
    }

    fn cut(&mut self, video: u64, audio: u64, tell: Tell<'_>) -> Result<(), Error> {
        let mut sound: Vec<Packet> = Vec::new();
        if let Some(lane) = self.audio.as_mut() {
            while lane.frames < audio {
                let Some(packet) = lane.queue.pop_front() else { break };
                lane.frames = lane.frames.saturating_add(1);
                sound.push(packet);
            }
        }
        for lane in self.video.iter_mut().chain(&mut self.audio) {
            if lane.resolution.is_some() {
                lane.pictures(video)?;
            }
            for packet in &mut sound {
                lane.muxer.audio(packet)?;
            }
            let bytes = lane.muxer.cut()?;
            let number = SegmentNumber(u32::try_from(self.next).unwrap_or(u32::MAX));
            let file = segment_file(&lane.name, number);
            let length = write(self.output, &file, &bytes)?;
            lane.sizes.push(length);
            tell(Told::Segment { rendition: lane.name.clone(), number, file, bytes: length })?;
        }
        self.next = self.next.saturating_add(1);
        Ok(())
    }
}

impl Lane {
    fn begin(
        output: &Path,
        name: &str,
        resolution: Option<(u32, u32)>,
        video: Option<(&codec::Context, Rate)>,
        audio: Option<&codec::Context>,
        tell: Tell<'_>,
    ) -> Result<Self, Error> {
        let name: RenditionName =
            name.parse().map_err(|error| Error::Worker(format!("{name}: {error}")))?;
        let (muxer, init) = Muxer::begin(video, audio)?;
        let parsed = boxes::Init::parse(&init)
            .map_err(|error| Error::Worker(format!("init segment: {error}")))?;
        let file = init_file(&name);
        let bytes = write(output, &file, &init)?;
        tell(Told::Init { rendition: name.clone(), file, bytes })?;
        let codecs = parsed.codecs();
        Ok(Self {
            name,
            resolution,
            muxer,
            codecs,
            queue: VecDeque::new(),
            frames: 0,
            key: 0,
            sizes: Vec::new(),
        })
    }

    /// Audio frames that came, in segments or in the queue.
    fn until(&self) -> u64 {
        self.frames.saturating_add(u64::try_from(self.queue.len()).unwrap_or(u64::MAX))
    }

    /// Moves the pictures before a key frame into the segment.
    fn pictures(&mut self, until: u64) -> Result<(), Error> {
        let mut first = true;
        while let Some(packet) = self.queue.front() {
            if packet.is_key() && frame_of(packet) >= until {
                break;
            }
            if first && !packet.is_key() {
                return Err(Error::Worker("a segment does not begin with a key frame".to_owned()));
            }
            first = false;
            if let Some(packet) = self.queue.pop_front() {
                self.frames = self.frames.saturating_add(1);
                self.muxer.video(packet)?;
            }
        }
        Ok(())
    }

    fn rendition(&self, timeline: &Timeline, rate: Option<Rate>) -> Rendition {
        let spans = timeline.spans().map(|(start, end)| end.since(start));
        let segments: Vec<(u64, Ticks)> = self.sizes.iter().copied().zip(spans).collect();
        let (bandwidth, average_bandwidth) = bandwidth(&segments);
        Rendition {
            name: self.name.clone(),
            resolution: self.resolution,
            frame_rate_milli: self.resolution.and(rate).map(Rate::milli),
            codecs: self.codecs.clone(),
            bandwidth,
            average_bandwidth,
        }
    }
}

fn frame_of(packet: &Packet) -> u64 {
    packet.pts().and_then(|pts| u64::try_from(pts).ok()).unwrap_or(0)
}

/// Writes a file under another name and then gives it its own, so that it is whole as soon as it can be seen.
fn write(output: &Path, file: &str, bytes: &[u8]) -> Result<u64, Error> {
    let part = output.join(format!("{file}.part"));
    let failed = |source| Error::Io { what: "writing a segment", source };
    fs::write(&part, bytes).map_err(failed)?;
    fs::rename(&part, output.join(file)).map_err(failed)?;
    Ok(u64::try_from(bytes.len()).unwrap_or(u64::MAX))
}
