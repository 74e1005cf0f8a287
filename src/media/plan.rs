//! What is made of a source: the one list of boundaries, the rungs, and the pieces in which workers make them. Pure arithmetic.

use serde::{Deserialize, Serialize};

use super::boxes::{BoxError, Init};
use super::grid::{Grid, Rate, aac_frame_at, aac_frames_until, bandwidth, rate_max, rungs};
use super::{Error, Options, Probe, SOUND};
use crate::domain::id::{RenditionName, SegmentNumber};
use crate::domain::video::{Rendition, TICKS_PER_SECOND, Ticks, Timeline};

/// Sound that outlasts the picture by more than this is played over the last picture; less is cut off.
const OUTLAST_TICKS: u64 = TICKS_PER_SECOND;
/// The smallest side of a picture: a macroblock.
const SIDE_MIN: u32 = 16;

/// What reading a source without decoding it tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Survey {
    /// What the source holds.
    pub probe: Probe,
    /// Its video track.
    pub pictures: Option<Pictured>,
    /// Its audio track.
    pub sound: Option<Heard>,
}

/// A video track.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pictured {
    /// Pixels as shown: rotated, and square.
    pub width: u32,
    /// Lines as shown.
    pub height: u32,
    /// The constant rate that it is encoded at: frames ...
    pub rate_num: u32,
    /// ... in so many seconds.
    pub rate_den: u32,
    /// When the last picture ends, from the timeline's zero.
    pub end: Ticks,
    /// The bytes of all its packets.
    pub bytes: u64,
    /// Whether decoding can begin in the middle, at a key frame that is never far away.
    pub seekable: bool,
    /// What copying it needs; `None` where it cannot be served as it is.
    pub copyable: Option<Copyable>,
}

/// A video track whose packets can be served as they are: each of its frames lies on the grid of its rate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Copyable {
    /// How many frames there are.
    pub frames: u64,
    /// The frames that decoding can begin with (IDR), rising from 0.
    pub keys: Vec<u64>,
    /// How many frames decoding runs ahead of presentation.
    pub delay: u64,
}

/// An audio track.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heard {
    /// When it ends, from the timeline's zero.
    pub end: Ticks,
    /// Whether its packets can be served as they are: AAC-LC at 48 kHz without a gap, in one or two channels.
    pub copyable: bool,
}

/// What is made of a source; everything follows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The boundaries of all segments, the end of the last one included.
    pub timeline: Timeline,
    /// The pictures, where there are any.
    pub pictures: Option<PicturePlan>,
    /// The sound, where there is any.
    pub sound: Option<SoundPlan>,
    /// Whether pictures can be made in chunks.
    pub seekable: bool,
}

/// What is made of the pictures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PicturePlan {
    /// Frames ...
    pub rate_num: u32,
    /// ... in so many seconds.
    pub rate_den: u32,
    /// The frame that each boundary of the timeline lies at; the last is the number of frames.
    pub cuts: Vec<u64>,
    /// The renditions, highest first.
    pub rungs: Vec<Rung>,
    /// The rung whose packets are the source's own.
    pub copied: Option<RenditionName>,
    /// How many frames decoding of that rung runs ahead of presentation.
    #[serde(default)]
    pub copied_delay: u64,
}

/// One rung of the ladder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rung {
    /// Its rendition's name.
    pub name: RenditionName,
    /// Pixels, even.
    pub width: u32,
    /// Lines, even.
    pub height: u32,
}

/// What is made of the sound.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SoundPlan {
    /// Whether its packets are the source's own.
    pub copied: bool,
    /// The loudness that it is brought to, in hundredths of LUFS; `None` leaves it.
    pub normalise_lufs_centi: Option<i32>,
    /// Whether it is a rendition of its own, too.
    #[serde(default = "yes")]
    pub alone: bool,
}

const fn yes() -> bool {
    true
}

/// What one worker makes; pieces know nothing of each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Piece {
    /// The whole sound track: the parts of `audio`.
    Sound,
    /// Segments of these rungs, from one decoding; pictures only.
    Pictures {
        /// The rungs.
        renditions: Vec<RenditionName>,
        /// The first segment.
        from: u32,
        /// The first segment that is not made.
        to: u32,
    },
    /// All segments of the rung whose packets are the source's own; pictures only.
    Copied {
        /// The rung.
        rendition: RenditionName,
    },
    /// What viewers expect around a film.
    Extras,
}

impl Plan {
    /// Plans what becomes of a source.
    ///
    /// # Errors
    /// [`Error::Source`] where the source is beyond the limits, or has nothing to play.
    pub fn of(survey: &Survey, options: &Options) -> Result<Self, Error> {
        let heard = survey.sound.as_ref();
        let normalise_lufs_centi = options.loudness_lufs.centi();
        let sound = heard.map(|heard| SoundPlan {
            copied: heard.copyable && normalise_lufs_centi.is_none(),
            normalise_lufs_centi,
            alone: options.audio_only || survey.pictures.is_none(),
        });
        let until = heard.map_or(0, |heard| heard.end.get());
        let Some(pictured) = &survey.pictures else {
            within(until, options)?;
            let boundaries = Grid::audio(options.segment_ms).boundaries(aac_frames_until(until));
            let timeline = timeline(boundaries, options)?;
            return Ok(Self { timeline, pictures: None, sound, seekable: false });
        };
        fits(pictured.width, pictured.height, options)?;
        let seen = pictured.end.get();
        let end = if until > seen.saturating_add(OUTLAST_TICKS) { until } else { seen };
        within(end.max(until), options)?;
        let rate = Rate::new(pictured.rate_num, pictured.rate_den);
        let frames = rate.frame_at(end).max(1);
        let rungs = rungs(&options.ladder, pictured.width, pictured.height);
        let copied = copied(pictured, frames, end, &rungs, options);
        let grid = Grid::video(rate, options.segment_ms);
        let (cuts, copied, copied_delay) = match copied {
            Some((cuts, copyable)) => {
                (cuts, rungs.first().map(|rung| rung.name.clone()), copyable.delay)
            }
            None => (grid.cuts(frames), None, 0),
        };
        let boundaries = cuts.iter().map(|frame| Ticks::new(rate.ticks(*frame))).collect();
        let timeline = timeline(boundaries, options)?;
        let (rate_num, rate_den) = (rate.num, rate.den);
        let pictures = PicturePlan { rate_num, rate_den, cuts, rungs, copied, copied_delay };
        Ok(Self { timeline, pictures: Some(pictures), sound, seekable: pictured.seekable })
    }

    /// All renditions, highest first, the sound alone last.
    pub fn renditions(&self) -> Vec<RenditionName> {
        let rungs = self.pictures.iter().flat_map(|pictures| &pictures.rungs);
        let mut names: Vec<RenditionName> = rungs.map(|rung| rung.name.clone()).collect();
        if self.sound.as_ref().is_some_and(|sound| sound.alone) {
            names.extend(SOUND.parse());
        }
        names
    }

    /// The pieces in the order in which they are best done. Chunks have about `chunk_seconds`. With `early`, one rung comes first by itself, so
    /// that the title can be watched soon.
    pub fn pieces(&self, chunk_seconds: u64, early: bool) -> Vec<Piece> {
        let mut pieces = Vec::new();
        if self.sound.is_some() {
            pieces.push(Piece::Sound);
        }
        if let Some(pictures) = &self.pictures {
            if let Some(rendition) = pictures.copied.clone() {
                pieces.push(Piece::Copied { rendition });
            }
            let encoded = |rung: &&Rung| pictures.copied.as_ref() != Some(&rung.name);
            let mut rest: Vec<&Rung> = pictures.rungs.iter().filter(encoded).collect();
            let mut groups: Vec<Vec<RenditionName>> = Vec::new();
            // A copy is there at once: no rung needs to go first.
            if early && pictures.copied.is_none() && rest.len() > 1 {
                let first = rest.iter().rposition(|rung| rung.height >= EARLY_LINES).unwrap_or(0);
                groups.push(vec![rest.remove(first).name.clone()]);
            }
            groups.push(rest.into_iter().map(|rung| rung.name.clone()).collect());
            let chunks = self.chunks(chunk_seconds);
            for renditions in groups.into_iter().filter(|group| !group.is_empty()) {
                pieces.extend(chunks.iter().map(|(from, to)| Piece::Pictures {
                    renditions: renditions.clone(),
                    from: *from,
                    to: *to,
                }));
            }
        }
        pieces.push(Piece::Extras);
        pieces
    }

    /// Which segments are made together.
    fn chunks(&self, chunk_seconds: u64) -> Vec<(u32, u32)> {
        let segments = self.timeline.segments();
        if !self.seekable {
            return vec![(0, segments)];
        }
        let chunk = chunk_seconds.max(1).saturating_mul(TICKS_PER_SECOND);
        let mut chunks: Vec<(u32, u32)> = Vec::new();
        let mut from = (0_u32, 0_u64);
        let duration = self.timeline.duration().get();
        for (number, (_, end)) in (1_u32..).zip(self.timeline.spans()) {
            let (long, left) =
                (end.get().saturating_sub(from.1), duration.saturating_sub(end.get()));
            // A rest of less than half a chunk is not worth a worker.
            if number == segments || (long >= chunk && left >= chunk / 2) {
                chunks.push((from.0, number));
                from = (number, end.get());
            }
        }
        chunks
    }

    /// What playlists tell of a rendition, from its served init segment and the length of each served segment.
    pub(crate) fn rendition(
        &self,
        name: &RenditionName,
        init: &[u8],
        sizes: &[u64],
    ) -> Result<Rendition, BoxError> {
        let init = Init::parse(init)?;
        let rungs = self.pictures.iter().flat_map(|pictures| &pictures.rungs);
        let rung = rungs.into_iter().find(|rung| rung.name == *name);
        if sizes.len() != self.timeline.spans().count() {
            return Err(BoxError("segments are missing"));
        }
        let spans = self.timeline.spans().map(|(start, end)| end.since(start));
        let segments: Vec<(u64, Ticks)> = sizes.iter().copied().zip(spans).collect();
        let (bandwidth, average_bandwidth) = bandwidth(&segments);
        Ok(Rendition {
            name: name.clone(),
            resolution: rung.map(|rung| (rung.width, rung.height)),
            frame_rate_milli: rung.and_then(|_| self.rate()).map(Rate::milli),
            codecs: init.codecs(),
            bandwidth,
            average_bandwidth,
        })
    }

    /// The rate of the pictures.
    pub(crate) fn rate(&self) -> Option<Rate> {
        self.pictures.as_ref().map(PicturePlan::rate)
    }

    /// The first frame of a segment and the first one behind it.
    pub(crate) fn frames(&self, number: SegmentNumber) -> Option<(u64, u64)> {
        let cuts = &self.pictures.as_ref()?.cuts;
        let n = usize::try_from(number.0).ok()?;
        Some((*cuts.get(n)?, *cuts.get(n.checked_add(1)?)?))
    }

    /// The first AAC frame of a segment and the first one behind it.
    pub(crate) fn sounds(&self, number: SegmentNumber) -> Option<(u64, u64)> {
        let (start, end) = self.timeline.span(number)?;
        let last = number.0.saturating_add(1) == self.timeline.segments();
        let until = if last { self.all_sounds() } else { aac_frame_at(end.get()) };
        Some((aac_frame_at(start.get()), until))
    }

    /// How many AAC frames the film has.
    pub(crate) fn all_sounds(&self) -> u64 {
        aac_frames_until(self.timeline.duration().get())
    }
}

/// What is made first has this many lines where the source has: enough to be watched, and made soon.
const EARLY_LINES: u32 = 480;

impl PicturePlan {
    /// The constant rate.
    pub(crate) const fn rate(&self) -> Rate {
        Rate::new(self.rate_num, self.rate_den)
    }
}

/// Where a track that can be copied is cut; `None` where it is encoded instead.
fn copied<'a>(
    pictured: &'a Pictured,
    frames: u64,
    end: u64,
    rungs: &[Rung],
    options: &Options,
) -> Option<(Vec<u64>, &'a Copyable)> {
    let copyable = pictured.copyable.as_ref()?;
    let top = rungs.first()?;
    let same = (top.width, top.height) == (pictured.width, pictured.height);
    let rate = Rate::new(pictured.rate_num, pictured.rate_den);
    let bits = u128::from(pictured.bytes) * 8 * u128::from(TICKS_PER_SECOND);
    let ceiling = u128::from(rate_max(top.width, top.height, rate)) * 2 * u128::from(end);
    if !same || copyable.frames != frames || bits > ceiling {
        return None;
    }
    Some((key_cuts(&copyable.keys, frames, rate, options.segment_ms)?, copyable))
}

/// Boundaries on key frames such that each segment but the last has at least the nominal length, and none more than half as much again.
fn key_cuts(keys: &[u64], frames: u64, rate: Rate, segment_ms: u64) -> Option<Vec<u64>> {
    let nominal = Ticks::from_millis(segment_ms).get();
    let longest = nominal.saturating_add(nominal / 2);
    if keys.first() != Some(&0) {
        return None;
    }
    let mut cuts = vec![0];
    let mut begun = 0;
    for key in keys.iter().copied().skip(1).filter(|key| *key < frames) {
        let at = rate.ticks(key);
        if at.saturating_sub(begun) >= nominal {
            cuts.push(key);
            if at.saturating_sub(begun) > longest {
                return None;
            }
            begun = at;
        }
    }
    cuts.push(frames);
    (rate.ticks(frames).saturating_sub(begun) <= longest).then_some(cuts)
}

fn timeline(boundaries: Vec<Ticks>, options: &Options) -> Result<Timeline, Error> {
    let nothing = || Error::Source("There is nothing to play in this file.".to_owned());
    let timeline = Timeline::new(boundaries).map_err(|_| nothing())?;
    if timeline.segments() > options.segments_max {
        return Err(Error::Source(format!(
            "This file is too long: it would have {} segments, and {} are allowed.",
            timeline.segments(),
            options.segments_max
        )));
    }
    Ok(timeline)
}

/// Refuses what is longer than is allowed; containers round, hence the second.
fn within(ticks: u64, options: &Options) -> Result<(), Error> {
    let limit = options.duration_max_seconds.saturating_add(1).saturating_mul(TICKS_PER_SECOND);
    if ticks > limit {
        let minutes = options.duration_max_seconds / 60;
        return Err(Error::Source(format!(
            "This file is too long: at most {minutes} minutes are accepted."
        )));
    }
    Ok(())
}

fn fits(width: u32, height: u32, options: &Options) -> Result<(), Error> {
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
    Ok(())
}

/// Refuses what the container itself says to be beyond the limits, before anything is read.
pub(crate) fn check(probe: &Probe, options: &Options) -> Result<(), Error> {
    within(probe.duration_ms.saturating_mul(TICKS_PER_SECOND) / 1_000, options)?;
    match probe.resolution {
        Some((width, height)) => fits(width, height, options),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
