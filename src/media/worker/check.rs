//! Looks at everything that a worker tells before anybody acts on it: names, sizes, numbers, and the boxes of each file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use crate::domain::id::{RenditionName, SegmentNumber};
use crate::domain::video::TICKS_PER_SECOND;
use crate::media::boxes::{self, Init, Kind};
use crate::media::grid::{AAC_SAMPLES, Rate, rate_max};
use crate::media::{
    Error, Order, Pictured, Piece, Plan, SOUND, Survey, Told, init_file, segment_file,
};

/// The largest segment: minutes at the highest rate of the ladder.
pub(super) const SEGMENT_BYTES_MAX: u64 = 128 << 20;
/// What any segment may have, however short: a picture that is hard to compress.
const SEGMENT_BYTES_MAX_LEAST: u64 = 1 << 20;
/// How many times the highest rate of its rung a segment may have.
const CEILINGS: u64 = 4;
/// What an encoder may send ahead of its rate.
const BUFFER_TICKS: u64 = 2 * TICKS_PER_SECOND;
/// 6,144 bits in each of two channels (ISO/IEC 14496-3, section 4.5.3.1), and its row in the run.
const AAC_FRAME_BYTES_MAX: u64 = 2_048;
/// The largest init segment: two tracks without samples.
const INIT_BYTES_MAX: u64 = 64 << 10;
/// Rounding to ticks, twice.
const ROUNDING: u64 = 2;

/// What was told so far of one order.
pub(super) struct Checker {
    output: PathBuf,
    plan: Arc<Plan>,
    permille: Option<u32>,
    /// What must be told of each rendition.
    renditions: BTreeMap<RenditionName, Expected>,
    bytes_left: u64,
    lossless: bool,
}

/// What is still to come of a rendition.
struct Expected {
    init: bool,
    next: u32,
    to: u32,
}

impl Checker {
    pub(super) fn new(order: &Order) -> Result<Self, Error> {
        let all = order.plan.timeline.segments();
        let (names, from, to) = match &order.piece {
            Piece::Sound => {
                let name = SOUND.parse().map_err(|_| lie("sound without a name"))?;
                (vec![name], 0, all)
            }
            Piece::Pictures { renditions, from, to } => (renditions.clone(), *from, *to),
            Piece::Copied { rendition } => (vec![rendition.clone()], 0, all),
            Piece::Extras => return Err(Error::Worker("extras are no piece of it".to_owned())),
        };
        if from >= to || to > all {
            return Err(Error::Worker("the order does not fit its plan".to_owned()));
        }
        let expected = |name| (name, Expected { init: true, next: from, to });
        Ok(Self {
            output: order.output.clone(),
            plan: Arc::new(order.plan.clone()),
            permille: None,
            renditions: names.into_iter().map(expected).collect(),
            bytes_left: order.options.output_max_bytes,
            lossless: order.options.crf == 0,
        })
    }

    /// Checks one telling; whether it is worth passing on.
    pub(super) async fn told(&mut self, told: &Told) -> Result<bool, Error> {
        match told {
            Told::Init { rendition, file, bytes } => {
                let expected = self.renditions.get_mut(rendition).filter(|of| of.init);
                let expected = expected.ok_or_else(|| lie("an init segment out of place"))?;
                expected.init = false;
                if *file != init_file(rendition) {
                    return Err(lie("an init segment out of place"));
                }
                self.file(rendition, None, file, *bytes).await?;
            }
            Told::Segment { rendition, number, file, bytes } => {
                let expected = self.renditions.get_mut(rendition).filter(|of| !of.init);
                let expected = expected.ok_or_else(|| lie("a segment without its init segment"))?;
                let in_turn = number.0 == expected.next && expected.next < expected.to;
                expected.next = expected.next.saturating_add(1);
                if !in_turn || *file != segment_file(rendition, *number) {
                    return Err(lie("a segment out of sequence"));
                }
                self.file(rendition, Some(*number), file, *bytes).await?;
            }
            Told::Progress { permille } => {
                let permille = (*permille).min(1_000);
                let news = self.permille.is_none_or(|before| permille > before);
                if news {
                    self.permille = Some(permille);
                }
                return Ok(news);
            }
            Told::Done { .. } | Told::Failed { .. } => return Err(lie("an end that is no end")),
        }
        Ok(true)
    }

    /// Whether all that was ordered was told of.
    pub(super) fn done(&self) -> Result<(), Error> {
        let is_done = |of: &Expected| !of.init && of.next == of.to;
        if self.renditions.values().all(is_done) {
            return Ok(());
        }
        Err(lie("an end before the end"))
    }

    async fn file(
        &mut self,
        rendition: &RenditionName,
        number: Option<SegmentNumber>,
        file: &str,
        bytes: u64,
    ) -> Result<(), Error> {
        let most = match number {
            // What is encoded without loss knows no ceiling.
            Some(_) if self.lossless => SEGMENT_BYTES_MAX,
            _ => bytes_max(&self.plan, rendition, number),
        };
        let left = self.bytes_left.checked_sub(bytes).filter(|_| bytes <= most);
        self.bytes_left = left.ok_or_else(|| lie("a file beyond its limit"))?;
        let path = self.output.join(file);
        let (plan, rendition) = (Arc::clone(&self.plan), rendition.clone());
        // Both on a thread that may block: hostile bytes never hold up the runtime.
        let checked = tokio::task::spawn_blocking(move || {
            let data = plain(&path, bytes);
            let data = data.map_err(|source| Error::Io { what: "reading a segment", source })?;
            let data = data.ok_or_else(|| lie("a file that is not as it was told"))?;
            part(&plan, &rendition, number, &data)
        });
        checked.await.map_err(|error| Error::Worker(error.to_string()))?
    }
}

/// The largest that a part can be, by what its rung may have at most in the time that it takes.
fn bytes_max(plan: &Plan, rendition: &RenditionName, number: Option<SegmentNumber>) -> u64 {
    let Some(number) = number else { return INIT_BYTES_MAX };
    let bytes = if rendition.as_str() == SOUND {
        let (from, to) = plan.sounds(number).unwrap_or_default();
        to.saturating_sub(from).saturating_mul(AAC_FRAME_BYTES_MAX)
    } else {
        let rung = plan.pictures.as_ref().and_then(|pictures| {
            let rung = pictures.rungs.iter().find(|rung| rung.name == *rendition)?;
            let bits = rate_max(rung.width, rung.height, pictures.rate());
            // The mean of what is copied may be twice as high.
            let copied = pictures.copied.as_ref() == Some(rendition);
            Some(if copied { bits.saturating_mul(2) } else { bits })
        });
        let (start, end) = plan.timeline.span(number).unwrap_or_default();
        let ticks = end.since(start).get().saturating_add(BUFFER_TICKS);
        let bytes =
            u128::from(rung.unwrap_or(0)) * u128::from(ticks) / u128::from(TICKS_PER_SECOND * 8);
        u64::try_from(bytes).unwrap_or(u64::MAX).saturating_mul(CEILINGS)
    };
    bytes.clamp(SEGMENT_BYTES_MAX_LEAST, SEGMENT_BYTES_MAX)
}

/// Whether a part is where and what the plan has: its one track, its first instant, its length and the number of its frames.
pub(super) fn part(
    plan: &Plan,
    rendition: &RenditionName,
    number: Option<SegmentNumber>,
    bytes: &[u8],
) -> Result<(), Error> {
    let kind = if rendition.as_str() == SOUND { Kind::Audio } else { Kind::Video };
    let known = match (kind, &plan.pictures) {
        (Kind::Audio, _) => plan.sound.is_some(),
        (Kind::Video, Some(pictures)) => pictures.rungs.iter().any(|rung| rung.name == *rendition),
        (Kind::Video, None) => false,
    };
    if !known {
        return Err(lie("a rendition that is not planned"));
    }
    let Some(number) = number else {
        return Init::parse_part(bytes, kind).map(drop).map_err(malformed);
    };
    let runs = boxes::segment(bytes, &Init::of_part(kind)).map_err(malformed)?;
    let &[run] = runs.as_slice() else {
        return Err(lie("a segment without its one track"));
    };
    let (start, end, frames) = match kind {
        Kind::Video => {
            let (from, to) = plan.frames(number).ok_or_else(unplanned)?;
            let (start, end) = plan.timeline.span(number).ok_or_else(unplanned)?;
            (start.get(), end.get(), to.saturating_sub(from))
        }
        Kind::Audio => {
            let (from, to) = plan.sounds(number).ok_or_else(unplanned)?;
            let at = |frame: u64| frame.saturating_mul(AAC_SAMPLES);
            (at(from), at(to), to.saturating_sub(from))
        }
    };
    // Durations of pictures are rounded to ticks; sound is exact.
    let late = if kind == Kind::Video { ROUNDING } else { 0 };
    let ends = run.start.saturating_add(run.duration);
    if run.start != start || run.samples != frames || ends.abs_diff(end) > late {
        return Err(lie("a segment that is not where the plan has it"));
    }
    if kind == Kind::Video && !run.begins_with_key {
        return Err(lie("a segment that does not begin with a key frame"));
    }
    Ok(())
}

/// Whether what was read of a source can be reckoned with; the plan keeps the limits.
pub(super) fn survey(survey: &Survey) -> Result<(), Error> {
    let sane = |of: &Pictured| {
        let copyable = of.copyable.as_ref();
        Rate::new(of.rate_num, of.rate_den).is_standard()
            && of.width > 0
            && of.height > 0
            && copyable.is_none_or(|of| of.keys.is_sorted_by(|a, b| a < b))
    };
    if survey.pictures.as_ref().is_none_or(sane)
        && (survey.pictures.is_some() || survey.sound.is_some())
    {
        return Ok(());
    }
    Err(lie("a source that cannot be"))
}

fn unplanned() -> Error {
    lie("a segment that is not planned")
}

/// A plain file's bytes; `None` where it is none, or of another length.
pub(crate) fn plain(path: &Path, bytes: u64) -> std::io::Result<Option<Vec<u8>>> {
    let file = OpenOptions::new().read(true).custom_flags(O_NOFOLLOW | O_NONBLOCK).open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() != bytes {
        return Ok(None);
    }
    let mut data = Vec::new();
    file.take(bytes.saturating_add(1)).read_to_end(&mut data)?;
    Ok((u64::try_from(data.len()) == Ok(bytes)).then_some(data))
}

fn lie(what: &str) -> Error {
    Error::Worker(format!("it told of {what}"))
}

fn malformed(error: boxes::BoxError) -> Error {
    Error::Worker(error.to_string())
}

#[cfg(test)]
mod tests;
