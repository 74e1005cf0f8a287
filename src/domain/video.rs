//! Titles, their versions and what a version is made of.

use serde::{Deserialize, Serialize};

use super::amount::{AmountError, Granularity, Msat, Price};
use super::id::{CreatorId, RenditionName, SegmentNumber, SourceHash, Version, VideoId};

/// The time base of segment boundaries: MPEG's 90 kHz clock.
pub const TICKS_PER_SECOND: u64 = 90_000;

/// A time in 90 kHz ticks.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Ticks(u64);

impl Ticks {
    /// From a count of ticks.
    pub const fn new(ticks: u64) -> Self {
        Self(ticks)
    }

    /// From whole milliseconds.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(90))
    }

    /// The count of ticks.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whole milliseconds, rounded down.
    pub const fn millis(self) -> u64 {
        self.0 / 90
    }

    /// The time since an earlier one, zero where it is later.
    pub const fn since(self, earlier: Self) -> Self {
        Self(self.0.saturating_sub(earlier.0))
    }
}

/// The one list of segment boundaries of a version, shared by all its renditions: segment `n` covers `[n, n + 1)` of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<Ticks>", into = "Vec<Ticks>")]
pub struct Timeline(Vec<Ticks>);

/// Boundaries that are no timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("segment boundaries must start at 0 and rise, two at least")]
pub struct TimelineError;

impl Timeline {
    /// From boundaries that start at zero and rise strictly.
    ///
    /// # Errors
    /// [`TimelineError`] where they do not, or where there are fewer than two.
    pub fn new(boundaries: Vec<Ticks>) -> Result<Self, TimelineError> {
        let rising = boundaries.iter().zip(boundaries.iter().skip(1)).all(|(a, b)| a < b);
        let starts = boundaries.first() == Some(&Ticks::new(0));
        if rising && starts && boundaries.len() >= 2 && boundaries.len() <= u32::MAX as usize {
            Ok(Self(boundaries))
        } else {
            Err(TimelineError)
        }
    }

    /// How many segments there are.
    pub fn segments(&self) -> u32 {
        u32::try_from(self.0.len().saturating_sub(1)).unwrap_or(u32::MAX)
    }

    /// The `[start, end)` of a segment; `None` where there is none of this number.
    pub fn span(&self, number: SegmentNumber) -> Option<(Ticks, Ticks)> {
        let n = usize::try_from(number.0).ok()?;
        Some((*self.0.get(n)?, *self.0.get(n.checked_add(1)?)?))
    }

    /// All spans in order.
    pub fn spans(&self) -> impl Iterator<Item = (Ticks, Ticks)> + '_ {
        self.0.iter().copied().zip(self.0.iter().copied().skip(1))
    }

    /// The end of the last segment.
    pub fn duration(&self) -> Ticks {
        self.0.last().copied().unwrap_or_default()
    }
}

impl TryFrom<Vec<Ticks>> for Timeline {
    type Error = TimelineError;

    fn try_from(boundaries: Vec<Ticks>) -> Result<Self, TimelineError> {
        Self::new(boundaries)
    }
}

impl From<Timeline> for Vec<Ticks> {
    fn from(timeline: Timeline) -> Self {
        timeline.0
    }
}

/// One encoding of a version: what a `EXT-X-STREAM-INF` tag tells (RFC 8216, section 4.3.4.2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rendition {
    /// Its name in paths, such as `720p`.
    pub name: RenditionName,
    /// Width and height in pixels; `None` for audio only.
    pub resolution: Option<(u32, u32)>,
    /// Frames per 1,000 seconds; `None` for audio only.
    pub frame_rate_milli: Option<u32>,
    /// RFC 6381 codec strings, joined by commas.
    pub codecs: String,
    /// The highest bit rate of any segment, in bits per second, as measured.
    pub bandwidth: u64,
    /// The mean bit rate, in bits per second, as measured.
    pub average_bandwidth: u64,
}

/// A published version: everything that playlists and prices are computed from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Media {
    /// Which version of the title this is.
    pub version: Version,
    /// Segment boundaries.
    pub timeline: Timeline,
    /// Renditions, highest first.
    pub renditions: Vec<Rendition>,
    /// How many video frames the timeline holds; zero for audio only.
    pub frames: u64,
}

/// Where a title stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum VideoState {
    /// Announced; no source yet.
    Draft,
    /// The source is arriving.
    Uploading,
    /// The source is here and waits for a worker.
    Queued,
    /// A worker is at it.
    Transcoding,
    /// It can be watched.
    Ready,
    /// It cannot be made from this source.
    Failed {
        /// Why, for the creator.
        reason: String,
    },
}

impl VideoState {
    /// The word used on the wire.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Draft => "draft",
            Self::Uploading => "uploading",
            Self::Queued => "queued",
            Self::Transcoding => "transcoding",
            Self::Ready => "ready",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether a new source may be sent in this state.
    pub const fn takes_source(&self) -> bool {
        matches!(self, Self::Draft | Self::Uploading | Self::Failed { .. })
    }

    /// Whether `next` may follow. A retried job goes back from transcoding to queued.
    pub const fn allows(&self, next: &Self) -> bool {
        match next {
            Self::Draft => matches!(self, Self::Uploading),
            Self::Uploading => self.takes_source(),
            Self::Queued => matches!(self, Self::Uploading | Self::Transcoding),
            Self::Transcoding => matches!(self, Self::Queued | Self::Transcoding),
            Self::Ready => matches!(self, Self::Transcoding),
            Self::Failed { .. } => matches!(self, Self::Queued | Self::Transcoding),
        }
    }
}

/// A title.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Video {
    /// Its id.
    pub id: VideoId,
    /// Who uploads it and is paid for it.
    pub creator: CreatorId,
    /// Its name, as the creator wrote it: hostile wherever it is shown.
    pub title: String,
    /// What it is about, equally hostile.
    pub description: String,
    /// What a second costs.
    pub price: Price,
    /// Segments that start before this many seconds are free.
    pub preview_seconds: u32,
    /// Where it stands.
    pub state: VideoState,
    /// The version that is served, or the first one, which is being made.
    pub version: Version,
    /// The version that shall take its place, while it is being made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Next>,
    /// The highest number that was ever given to a version of it: none is given twice.
    #[serde(default)]
    pub versions: u32,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// SHA-256 of the last source that arrived whole.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_sha256: Option<SourceHash>,
}

/// A version in the making of a title that is already served in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Next {
    /// Which.
    pub version: Version,
    /// Where it stands: anything but `Draft` and `Ready`.
    pub state: VideoState,
}

impl Video {
    /// The version that a source is made into.
    pub fn making(&self) -> Version {
        self.next.as_ref().map_or(self.version, |next| next.version)
    }

    /// Where that version stands.
    pub fn making_state(&self) -> &VideoState {
        self.next.as_ref().map_or(&self.state, |next| &next.state)
    }

    /// Moves the version that is being made on; a source for a title that is served begins its next version, and what becomes ready takes the
    /// place of what was.
    ///
    /// # Errors
    /// The state that does not allow it.
    pub fn move_on(&mut self, to: VideoState) -> Result<(), VideoState> {
        // What failed may have left something behind: another source is made under another number.
        if to == VideoState::Uploading {
            let highest = self.versions.max(self.making().0);
            let anew = Version(highest.saturating_add(1));
            match (&self.state, &self.next) {
                (VideoState::Ready, None | Some(Next { state: VideoState::Failed { .. }, .. })) => {
                    self.versions = anew.0;
                    self.next = Some(Next { version: anew, state: to });
                    return Ok(());
                }
                (VideoState::Failed { .. }, None) => {
                    self.versions = anew.0;
                    self.version = anew;
                }
                _ => {}
            }
        }
        if !self.making_state().allows(&to) {
            return Err(self.making_state().clone());
        }
        match (self.next.as_mut(), to) {
            (None, to) => self.state = to,
            // Nothing is left of it.
            (Some(_), VideoState::Draft) => self.next = None,
            (Some(next), VideoState::Ready) => {
                self.version = next.version;
                self.next = None;
            }
            (Some(next), to) => next.state = to,
        }
        Ok(())
    }
}

/// What a segment costs, or that it costs nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SegmentPrice {
    /// Preview, or a free title.
    Free,
    /// The amount of its invoice.
    Paid(Msat),
}

/// The terms under which a version is sold: with these and the timeline every price is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terms {
    /// What a second costs.
    pub price: Price,
    /// The free preview.
    pub preview_seconds: u32,
    /// What invoices are rounded up to.
    pub granularity: Granularity,
}

impl Terms {
    /// The first segment that is not free; `None` where all are.
    pub fn first_paid(&self, timeline: &Timeline) -> Option<SegmentNumber> {
        if self.price.is_free() {
            return None;
        }
        let preview = Ticks::from_millis(u64::from(self.preview_seconds).saturating_mul(1_000));
        timeline
            .spans()
            .position(|(start, _)| start >= preview)
            .and_then(|n| u32::try_from(n).ok())
            .map(SegmentNumber)
    }

    /// What a segment costs; `None` where the timeline has none of this number.
    ///
    /// # Errors
    /// [`AmountError::Overflow`] where the amount does not fit.
    pub fn price_of(
        &self,
        timeline: &Timeline,
        number: SegmentNumber,
    ) -> Result<Option<SegmentPrice>, AmountError> {
        let Some((start, end)) = timeline.span(number) else { return Ok(None) };
        let Some(first) = self.first_paid(timeline).filter(|first| *first <= number) else {
            return Ok(Some(SegmentPrice::Free));
        };
        let origin = timeline.span(first).map(|(start, _)| start).unwrap_or_default();
        let amount =
            self.price.of_segment(self.granularity, start.since(origin), end.since(origin))?;
        Ok(Some(SegmentPrice::Paid(amount)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeline() -> Timeline {
        let second = TICKS_PER_SECOND;
        Timeline::new([0, 4, 8, 12, 14].map(|s| Ticks::new(s * second)).to_vec()).unwrap()
    }

    fn terms(preview_seconds: u32) -> Terms {
        let price = Price::new(500, Granularity::SAT, Ticks::from_millis(4_000)).unwrap();
        Terms { price, preview_seconds, granularity: Granularity::SAT }
    }

    #[test]
    fn a_segment_that_starts_before_the_preview_ends_is_free_and_no_other() {
        let of = |preview, n| terms(preview).price_of(&timeline(), SegmentNumber(n)).unwrap();
        assert_eq!(of(5, 0), Some(SegmentPrice::Free));
        assert_eq!(of(5, 1), Some(SegmentPrice::Free));
        assert_eq!(of(5, 2), Some(SegmentPrice::Paid(Msat::new(2_000))));
        assert_eq!(of(4, 1), Some(SegmentPrice::Paid(Msat::new(2_000))));
        assert_eq!(of(0, 3), Some(SegmentPrice::Paid(Msat::new(1_000))));
        assert_eq!(of(0, 4), None);
        assert_eq!(terms(60).first_paid(&timeline()), None);
    }

    #[test]
    fn boundaries_that_do_not_rise_are_no_timeline() {
        let of = |ticks: &[u64]| Timeline::new(ticks.iter().copied().map(Ticks::new).collect());
        assert!(of(&[0, 1]).is_ok());
        for bad in [&[][..], &[0], &[1, 2], &[0, 2, 2], &[0, 3, 2]] {
            assert_eq!(of(bad), Err(TimelineError));
        }
    }

    fn video(state: VideoState) -> Video {
        Video {
            id: VideoId::new(uuid::Uuid::from_u128(1)),
            creator: CreatorId::new(uuid::Uuid::from_u128(2)),
            title: "Film".to_owned(),
            description: String::new(),
            price: Price::FREE,
            preview_seconds: 0,
            state,
            version: Version(1),
            next: None,
            versions: 0,
            created_ms: 0,
            source_sha256: None,
        }
    }

    #[test]
    fn a_new_source_for_a_title_that_is_served_becomes_its_next_version() {
        use VideoState::{Draft, Failed, Queued, Ready, Transcoding, Uploading};
        let mut video = video(Ready);
        assert_eq!(video.move_on(Queued), Err(Ready));
        let failed = Failed { reason: "why".to_owned() };
        for to in [Uploading, Queued, Transcoding, failed.clone(), Uploading, Draft] {
            video.move_on(to).unwrap();
            assert_eq!((&video.state, video.version), (&Ready, Version(1)), "it is served on");
        }
        assert_eq!(video.next, None, "given up");
        for to in [Uploading, Queued, Transcoding] {
            video.move_on(to.clone()).unwrap();
            assert_eq!((video.making_state(), video.making()), (&to, Version(4)), "never twice");
        }
        assert_eq!(video.move_on(Uploading), Err(Transcoding));
        video.move_on(Ready).unwrap();
        assert_eq!((video.state, video.version, video.next), (Ready, Version(4), None));
    }

    #[test]
    fn a_source_after_one_that_failed_is_made_under_another_number() {
        use VideoState::{Failed, Queued, Ready, Uploading};
        for mut video in [video(VideoState::Draft), video(Ready)] {
            let mut seen = Vec::new();
            for _ in 0..3 {
                video.move_on(Uploading).unwrap();
                video.move_on(Queued).unwrap();
                seen.push(video.making());
                video.move_on(Failed { reason: "why".to_owned() }).unwrap();
            }
            assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "{seen:?}");
        }
    }

    #[test]
    fn a_ready_title_only_becomes_ready_by_way_of_a_worker() {
        assert!(VideoState::Transcoding.allows(&VideoState::Ready));
        for from in [VideoState::Draft, VideoState::Uploading, VideoState::Queued] {
            assert!(!from.allows(&VideoState::Ready));
        }
        assert!(VideoState::Failed { reason: String::new() }.allows(&VideoState::Uploading));
    }
}
