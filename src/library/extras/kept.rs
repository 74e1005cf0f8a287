//! What is asked for again and again of extras, in memory: records for a second, cues as long as there is room.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Around;
use crate::domain::id::{Version, VideoId};
use crate::domain::subtitle::{Cue, Language};
use crate::domain::video::Ticks;
use crate::runtime::lock;

/// How long a record serves: with several processes over one store, a change is seen by all within this.
const FRESH_MS: u64 = 1_000;
/// Records that are known at once.
const RECORDS: usize = 1_024;
/// Bytes that records may take: the largest are those with a waveform or many stills.
const RECORDS_BYTES: u64 = 16 << 20;
/// Bytes that cues may take: some hundred tracks of films.
const CUES_BYTES: u64 = 32 << 20;
/// Bytes that segments of subtitles may take: a usual one has some hundred.
const SEGMENTS_BYTES: u64 = 8 << 20;

/// Which track's cues: title, version (none for an upload), language, upload.
pub(super) type Key = (VideoId, Option<Version>, Language, Option<u64>);

/// A segment of a track: the span of the film that it shows.
pub(super) type SegmentKey = (Key, (Ticks, Ticks));

type Records = Cache<(VideoId, Version), (u64, Arc<Around>), RecordBytes>;

#[derive(Clone)]
struct RecordBytes;

impl Weighter<(VideoId, Version), (u64, Arc<Around>)> for RecordBytes {
    fn weight(&self, _: &(VideoId, Version), (_, around): &(u64, Arc<Around>)) -> u64 {
        let made = &around.made;
        let tiles = made.storyboard.as_ref().map_or(0, |board| board.tiles.len());
        let frames = made.iframes.as_ref().map_or(0, |of| of.frames.len());
        let peaks = made.waveform.as_ref().map_or(0, |of| of.peaks.len());
        let many = tiles + frames + peaks + made.chapters.len() * 8 + around.subtitles.len() * 8;
        (many as u64).saturating_mul(32).saturating_add(1_024)
    }
}

#[derive(Clone)]
struct CueBytes;

impl Weighter<Key, Arc<[Cue]>> for CueBytes {
    fn weight(&self, _: &Key, cues: &Arc<[Cue]>) -> u64 {
        let text: usize = cues.iter().map(|cue| cue.text().len().saturating_add(64)).sum();
        (text as u64).saturating_add(256)
    }
}

#[derive(Clone)]
struct SegmentBytes;

impl Weighter<SegmentKey, Bytes> for SegmentBytes {
    fn weight(&self, _: &SegmentKey, bytes: &Bytes) -> u64 {
        (bytes.len() as u64).saturating_add(256)
    }
}

/// The caches, and the turn of who changes a title's record.
pub struct Kept {
    records: Records,
    cues: Cache<Key, Arc<[Cue]>, CueBytes>,
    segments: Cache<SegmentKey, Bytes, SegmentBytes>,
    changes: AtomicU64,
    /// Held while a record is put in or taken out: what was read before a change is not put in after it.
    guard: Mutex<()>,
    turn: tokio::sync::Mutex<()>,
}

impl Default for Kept {
    fn default() -> Self {
        Self {
            records: Cache::with_weighter(RECORDS, RECORDS_BYTES, RecordBytes),
            cues: Cache::with_weighter(RECORDS, CUES_BYTES, CueBytes),
            segments: Cache::with_weighter(RECORDS, SEGMENTS_BYTES, SegmentBytes),
            changes: AtomicU64::default(),
            guard: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
        }
    }
}

impl Kept {
    pub(super) fn around(&self, id: VideoId, version: Version, now_ms: u64) -> Option<Arc<Around>> {
        let (at_ms, around) = self.records.get(&(id, version))?;
        // Clocks are set back at times: what was kept after now is not fresh.
        let fresh = at_ms <= now_ms && now_ms.saturating_sub(at_ms) < FRESH_MS;
        fresh.then_some(around)
    }

    /// How many changes there were; for [`Self::keep_around`].
    pub(super) fn changes(&self) -> u64 {
        self.changes.load(Ordering::Acquire)
    }

    pub(super) fn keep_around(
        &self,
        id: VideoId,
        version: Version,
        around: Arc<Around>,
        now_ms: u64,
        changes: u64,
    ) {
        let _guard = lock(&self.guard);
        if self.changes() == changes {
            self.records.insert((id, version), (now_ms, around));
        }
    }

    pub(super) fn cues(&self, key: &Key) -> Option<Arc<[Cue]>> {
        self.cues.get(key)
    }

    pub(super) fn keep_cues(&self, key: Key, cues: Arc<[Cue]>) {
        self.cues.insert(key, cues);
    }

    pub(super) fn segment(&self, key: &SegmentKey) -> Option<Bytes> {
        self.segments.get(key)
    }

    pub(super) fn keep_segment(&self, key: SegmentKey, bytes: Bytes) {
        self.segments.insert(key, bytes);
    }

    /// One after the other: who changes a record reads it first.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    /// A title's records changed.
    pub(super) fn changed(&self, id: VideoId) {
        let _guard = lock(&self.guard);
        self.changes.fetch_add(1, Ordering::AcqRel);
        self.records.retain(|(of, _), _| *of != id);
    }

    /// A title is gone.
    pub(in crate::library) fn gone(&self, id: VideoId) {
        self.changed(id);
        self.cues.retain(|(of, ..), _| *of != id);
        self.segments.retain(|((of, ..), _), _| *of != id);
    }
}
