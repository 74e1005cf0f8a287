//! Looks at everything that a worker tells before anybody acts on it: names, sizes, numbers, and the boxes of each file.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::libc::{O_NOFOLLOW, O_NONBLOCK};

use crate::domain::id::{RenditionName, SegmentNumber};
use crate::domain::video::{Rendition, TICKS_PER_SECOND, Ticks};
use crate::media::boxes::{self, Init, Kind};
use crate::media::grid::{AAC_TICKS, bandwidth};
use crate::media::{Error, Made, Options, Told, init_file, segment_file};

/// The largest segment: minutes at the highest rate of the ladder.
pub(super) const SEGMENT_BYTES_MAX: u64 = 128 << 20;
/// The largest init segment: two tracks without samples.
const INIT_BYTES_MAX: u64 = 64 << 10;
/// The most renditions: a ladder has few rungs.
const RENDITIONS_MAX: usize = 16;
/// Rounding to ticks, twice.
const ROUNDING: u64 = 2;

/// What was told so far of one order.
pub(super) struct Checker {
    output: PathBuf,
    options: Options,
    segments_max: usize,
    probed: bool,
    permille: Option<u32>,
    renditions: BTreeMap<RenditionName, Seen>,
}

/// What was seen of a rendition.
struct Seen {
    init: Init,
    segments: Vec<Part>,
}

struct Part {
    bytes: u64,
    runs: Vec<Span>,
}

/// A track's part of a segment, in ticks.
#[derive(Debug, Clone, Copy)]
struct Span {
    kind: Kind,
    start: u64,
    end: u64,
    samples: u64,
}

impl Checker {
    pub(super) fn new(output: PathBuf, options: Options) -> Self {
        // One for the last, which may be short, one for a film that is a little longer than its container said.
        let segments = options.duration_max_seconds.saturating_mul(1_000);
        let segments = segments.checked_div(options.segment_ms).unwrap_or(0).saturating_add(2);
        Self {
            output,
            options,
            segments_max: usize::try_from(segments).unwrap_or(usize::MAX),
            probed: false,
            permille: None,
            renditions: BTreeMap::new(),
        }
    }

    /// Checks one telling; whether it is worth passing on.
    pub(super) async fn told(&mut self, told: &Told) -> Result<bool, Error> {
        if !self.probed && !matches!(told, Told::Probed(_)) {
            return Err(lie("work without a probe"));
        }
        match told {
            Told::Probed(_) if self.probed => return Err(lie("a second probe")),
            Told::Probed(_) => self.probed = true,
            Told::Init { rendition, file, bytes } => {
                let known = self.renditions.contains_key(rendition);
                let full = self.renditions.len() >= RENDITIONS_MAX;
                if known || full || !is_ours(rendition) || *file != init_file(rendition) {
                    return Err(lie("an init segment out of place"));
                }
                let data = self.read(file, *bytes, INIT_BYTES_MAX).await?;
                let init = Init::parse(&data).map_err(malformed)?;
                self.renditions.insert(rendition.clone(), Seen { init, segments: Vec::new() });
            }
            Told::Segment { rendition, number, file, bytes } => {
                self.segment(rendition, *number, file, *bytes).await?;
            }
            Told::Progress { permille } => {
                let permille = (*permille).min(1_000);
                let news = self.permille.is_none_or(|before| permille > before);
                if news {
                    self.permille = Some(permille);
                }
                return Ok(news);
            }
            Told::Done(_) | Told::Failed { .. } => return Err(lie("an end that is no end")),
        }
        Ok(true)
    }

    async fn segment(
        &mut self,
        rendition: &RenditionName,
        number: SegmentNumber,
        file: &str,
        bytes: u64,
    ) -> Result<(), Error> {
        let Some(seen) = self.renditions.get(rendition) else {
            return Err(lie("a segment without its init segment"));
        };
        let next = seen.segments.len();
        if usize::try_from(number.0) != Ok(next)
            || next >= self.segments_max
            || file != segment_file(rendition, number)
        {
            return Err(lie("a segment out of sequence"));
        }
        let data = self.read(file, bytes, SEGMENT_BYTES_MAX).await?;
        let Some(seen) = self.renditions.get_mut(rendition) else {
            return Err(lie("a segment without its init segment"));
        };
        let part = Part { bytes, runs: spans(&data, &seen.init)? };
        seen.segments.push(part);
        Ok(())
    }

    /// Reads a file that was told of: a plain one of exactly this length.
    async fn read(&self, file: &str, bytes: u64, bytes_max: u64) -> Result<Vec<u8>, Error> {
        if bytes > bytes_max {
            return Err(lie("a file beyond its limit"));
        }
        let path = self.output.join(file);
        let read = tokio::task::spawn_blocking(move || plain(&path, bytes)).await;
        let read = read.map_err(|error| Error::Worker(error.to_string()))?;
        let data = read.map_err(|source| Error::Io { what: "reading a segment", source })?;
        data.ok_or_else(|| lie("a file that is not as it was told"))
    }

    /// Checks the result against all that was seen.
    pub(super) fn made(&self, made: &Made) -> Result<(), Error> {
        let segments = usize::try_from(made.timeline.segments()).unwrap_or(usize::MAX);
        if segments > self.segments_max || made.renditions.len() != self.renditions.len() {
            return Err(lie("a result that was not told of"));
        }
        let nominal = Ticks::from_millis(self.options.segment_ms);
        let spans: Vec<(Ticks, Ticks)> = made.timeline.spans().collect();
        let whole = spans.split_last().map_or(&[][..], |(_, whole)| whole);
        if whole.iter().any(|(start, end)| end.since(*start) < nominal) {
            return Err(lie("a segment that is too short"));
        }
        let heights = |rendition: &Rendition| rendition.resolution.map_or(0, |(_, lines)| lines);
        if !made.renditions.is_sorted_by(|a, b| heights(a) > heights(b)) {
            return Err(lie("renditions out of order"));
        }
        made.renditions.iter().try_for_each(|rendition| self.rendition(rendition, made, &spans))
    }

    fn rendition(
        &self,
        rendition: &Rendition,
        made: &Made,
        spans: &[(Ticks, Ticks)],
    ) -> Result<(), Error> {
        let Some(seen) = self.renditions.get(&rendition.name) else {
            return Err(lie("a rendition that was not told of"));
        };
        if seen.segments.len() != spans.len() || seen.init.codecs() != rendition.codecs {
            return Err(lie("a rendition that is not as it was told"));
        }
        let video = seen.init.tracks.iter().any(|track| track.kind == Kind::Video);
        let shown = rendition.resolution.is_some() && rendition.frame_rate_milli.is_some();
        if video != shown {
            return Err(lie("a rendition with a picture that it has not"));
        }
        let mut frames = 0_u64;
        let mut sizes = Vec::new();
        for (part, (start, end)) in seen.segments.iter().zip(spans) {
            for run in &part.runs {
                let (slack, late) = match run.kind {
                    Kind::Video => (0, ROUNDING),
                    Kind::Audio => (AAC_TICKS / 2 + ROUNDING, AAC_TICKS + ROUNDING),
                };
                if run.start.abs_diff(start.get()) > slack || run.end.abs_diff(end.get()) > late {
                    return Err(lie("a segment that is not where the timeline has it"));
                }
                if run.kind == Kind::Video {
                    frames = frames.saturating_add(run.samples);
                }
            }
            sizes.push((part.bytes, end.since(*start)));
        }
        let rates = (rendition.bandwidth, rendition.average_bandwidth);
        if (video && frames != made.frames) || rates != bandwidth(&sizes) {
            return Err(lie("a rendition that does not measure as it was told"));
        }
        Ok(())
    }
}

/// Where a segment's tracks lie; each must have all tracks of its init segment, and pictures begin with a key frame.
fn spans(data: &[u8], init: &Init) -> Result<Vec<Span>, Error> {
    let runs = boxes::segment(data, init).map_err(malformed)?;
    if runs.len() != init.tracks.len() {
        return Err(lie("a segment without one of its tracks"));
    }
    let span = |run: boxes::Run| {
        let track = init.tracks.iter().find(|track| track.id == run.id);
        let track = track.ok_or_else(|| lie("a track that is none"))?;
        if track.kind == Kind::Video && !run.begins_with_key {
            return Err(lie("a segment that does not begin with a key frame"));
        }
        let ticks = |units: u64| {
            let ticks = u128::from(units) * u128::from(TICKS_PER_SECOND);
            u64::try_from(ticks / u128::from(track.timescale)).unwrap_or(u64::MAX)
        };
        let end = ticks(run.start.saturating_add(run.duration));
        Ok(Span { kind: track.kind, start: ticks(run.start), end, samples: run.samples })
    };
    runs.into_iter().map(span).collect()
}

/// The names that a worker may give: `audio`, and a number of lines.
fn is_ours(rendition: &RenditionName) -> bool {
    let name = rendition.as_str();
    let lines = name.strip_suffix('p').is_some_and(|lines| lines.parse::<u32>().is_ok());
    lines || name == "audio"
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
mod tests {
    use super::*;
    use crate::media::fixture::{self, Fixture};

    /// A worker that tells what it made, but for one change.
    async fn judged(change: impl Fn(&mut Fixture)) -> Result<(), Error> {
        let mut fixture = fixture::clip().clone();
        change(&mut fixture);
        let directory = tempfile::tempdir().unwrap();
        fixture.write(directory.path());
        let options = fixture.options.clone();
        let mut checker = Checker::new(directory.path().to_owned(), options);
        for told in &fixture.told {
            checker.told(told).await?;
        }
        checker.made(&fixture.made)
    }

    fn of<'a>(fixture: &'a mut Fixture, name: &str) -> &'a mut Told {
        let named = |told: &&mut Told| match told {
            Told::Init { file, .. } | Told::Segment { file, .. } => file == name,
            _ => false,
        };
        fixture.told.iter_mut().find(named).unwrap()
    }

    #[tokio::test]
    async fn an_honest_worker_is_believed() {
        judged(|_| ()).await.unwrap();
    }

    #[tokio::test]
    async fn files_that_are_not_as_told_are_refused() {
        let refused = [
            judged(|f| drop(f.files.remove("240p-1.m4s"))).await,
            judged(|f| f.files.get_mut("240p-1.m4s").unwrap().push(0)).await,
            judged(|f| f.files.get_mut("240p-1.m4s").unwrap()[4] ^= 1).await,
            judged(|f| {
                let other = f.files.get("audio-1.m4s").cloned().unwrap();
                let bytes = other.len() as u64;
                f.files.insert("240p-1.m4s".to_owned(), other);
                if let Told::Segment { bytes: told, .. } = of(f, "240p-1.m4s") {
                    *told = bytes;
                }
            })
            .await,
        ];
        assert!(refused.iter().all(Result::is_err));
    }

    #[tokio::test]
    async fn names_and_numbers_out_of_place_are_refused() {
        let rename = |to: &'static str| {
            judged(move |f| {
                if let Told::Segment { file, .. } = of(f, "240p-1.m4s") {
                    *file = to.to_owned();
                }
            })
        };
        for name in ["../240p-1.m4s", "/etc/passwd", "240p-2.m4s", "audio-1.m4s", ""] {
            assert!(rename(name).await.is_err(), "{name}");
        }
        let skipped = judged(|f| {
            if let Told::Segment { number, .. } = of(f, "240p-1.m4s") {
                *number = SegmentNumber(2);
            }
        });
        assert!(skipped.await.is_err());
        assert!(judged(|f| drop(f.told.remove(0))).await.is_err());
        assert!(judged(|f| f.told.push(f.told[1].clone())).await.is_err());
        assert!(judged(|f| f.told.insert(3, f.told[1].clone())).await.is_err());
        let twice = judged(|f| {
            let again = of(f, "240p-2.m4s").clone();
            f.told.push(again);
        });
        assert!(twice.await.is_err());
    }

    #[tokio::test]
    async fn results_that_do_not_fit_what_was_seen_are_refused() {
        use crate::domain::video::Timeline;
        let timeline = |ticks: &'static [u64]| {
            judged(move |f| {
                let ticks = ticks.iter().copied().map(Ticks::new).collect();
                f.made.timeline = Timeline::new(ticks).unwrap();
            })
        };
        assert!(timeline(&[0, 180_000, 360_000, 475_200]).await.is_ok());
        assert!(timeline(&[0, 180_000, 475_200]).await.is_err());
        assert!(timeline(&[0, 180_001, 360_000, 475_200]).await.is_err());
        assert!(timeline(&[0, 180_000, 360_000, 500_000]).await.is_err());
        assert!(judged(|f| f.made.frames += 1).await.is_err());
        assert!(judged(|f| f.made.renditions[0].bandwidth -= 1).await.is_err());
        assert!(judged(|f| f.made.renditions[0].codecs.clear()).await.is_err());
        assert!(judged(|f| f.made.renditions.reverse()).await.is_err());
        assert!(judged(|f| drop(f.made.renditions.pop())).await.is_err());
        assert!(judged(|f| f.made.renditions[0].resolution = None).await.is_err());
        assert!(judged(|f| f.options.segment_ms = 2_001).await.is_err());
    }

    #[test]
    fn links_are_not_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (plain_file, link) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&plain_file, "abc").unwrap();
        std::os::unix::fs::symlink(&plain_file, &link).unwrap();
        assert_eq!(plain(&plain_file, 3).unwrap().unwrap(), b"abc");
        assert!(plain(&link, 3).is_err());
        assert_eq!(plain(&plain_file, 2).unwrap(), None);
        assert_eq!(plain(directory.path(), 0).ok().flatten(), None);
    }
}
