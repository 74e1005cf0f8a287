//! What is asked for again and again, in memory: published titles, the bytes of hot parts, and the lengths of others.
//!
//! The bytes under a key never change: a version is published once. A title's record does, so it is looked up again after a second, and
//! forgotten at once where this process changes it; with several processes over one store, a change is seen by all within that second.

use std::sync::Mutex;

use bytes::Bytes;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};

use super::{Error, Published};
use crate::blobs::{self, Part};
use crate::domain::id::{RenditionName, Version, VideoId};
use crate::runtime::lock;

/// How long a title's record serves.
const TITLE_MS: u64 = 1_000;
/// How long a length serves: bytes that an operator took away are missed after this.
const LENGTH_MS: u64 = 10_000;
/// Bytes that titles may take: some hundred films of two hours.
const TITLES_BYTES: u64 = 16 << 20;
/// Lengths that are known at once; some hundred bytes each.
const LENGTHS: usize = 16_384;
/// A part is kept where it fits one of these, so that the largest is a quarter of the whole.
const SHARDS: usize = 4;
/// A usual part; only an estimate of how many there will be.
const PART_BYTES: u64 = 256 << 10;

/// A part of a rendition of a version.
pub(super) type Key = (VideoId, Version, RenditionName, Part);

/// Which version of a title was asked for; `None` for the current one.
type Title = (VideoId, Option<Version>);

#[derive(Clone)]
struct Kept<T> {
    what: T,
    at_ms: u64,
}

#[derive(Clone)]
struct PartBytes;

impl Weighter<Key, Bytes> for PartBytes {
    fn weight(&self, _: &Key, bytes: &Bytes) -> u64 {
        // Nothing weighs nothing: the map's entry takes room, too.
        (bytes.len() as u64).saturating_add(256)
    }
}

#[derive(Clone)]
struct TitleBytes;

impl Weighter<Title, Kept<Published>> for TitleBytes {
    fn weight(&self, _: &Title, kept: &Kept<Published>) -> u64 {
        let Published { video, media, .. } = &kept.what;
        let text = video.title.len().saturating_add(video.description.len());
        let ticks = u64::from(media.timeline.segments()).saturating_mul(8);
        ticks.saturating_add(text as u64).saturating_add(1_024)
    }
}

/// The three caches.
pub(super) struct Shelf {
    titles: Cache<Title, Kept<Published>, TitleBytes>,
    /// Counts changes of titles. Held while one is put in or taken out: what was read before a change is not put in after it.
    changes: Mutex<u64>,
    parts: Option<Cache<Key, Bytes, PartBytes>>,
    lengths: Cache<Key, Kept<u64>>,
}

impl Shelf {
    /// With so much room for parts; none keeps none.
    pub(super) fn new(cache_bytes: u64) -> Self {
        let usual = usize::try_from(cache_bytes / PART_BYTES).unwrap_or(usize::MAX);
        // A part that is larger than its shard is not kept: so few shards, and 32 items in each as the crate wants it.
        let options = OptionsBuilder::new()
            .shards(SHARDS)
            .estimated_items_capacity(usual.max(32 * SHARDS))
            .weight_capacity(cache_bytes)
            .build();
        let parts = options.ok().filter(|_| cache_bytes > 0).map(|options| {
            let (hasher, life) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
            Cache::with_options(options, PartBytes, hasher, life)
        });
        Self {
            titles: Cache::with_weighter(1_024, TITLES_BYTES, TitleBytes),
            changes: Mutex::default(),
            parts,
            lengths: Cache::new(LENGTHS),
        }
    }

    /// A published title: as it was read within the last second, else as `read` gives it.
    pub(super) fn title(
        &self,
        id: VideoId,
        version: Option<Version>,
        now_ms: u64,
        read: impl FnOnce() -> Result<Published, Error>,
    ) -> Result<Published, Error> {
        let title = (id, version);
        if let Some(kept) = self.titles.get(&title)
            && is_fresh(kept.at_ms, now_ms, TITLE_MS)
        {
            return Ok(kept.what);
        }
        let before = *lock(&self.changes);
        let published = read()?;
        let changes = lock(&self.changes);
        if *changes == before {
            self.titles.insert(title, Kept { what: published.clone(), at_ms: now_ms });
        }
        drop(changes);
        Ok(published)
    }

    /// The title was changed.
    pub(super) fn changed(&self, id: VideoId) {
        let mut changes = lock(&self.changes);
        *changes = changes.wrapping_add(1);
        self.titles.retain(|(of, _), _| *of != id);
    }

    /// The title is gone, and its bytes with it.
    pub(super) fn gone(&self, id: VideoId) {
        self.changed(id);
        if let Some(parts) = &self.parts {
            parts.retain(|(of, ..), _| *of != id);
        }
        self.lengths.retain(|(of, ..), _| *of != id);
    }

    /// A part's bytes. Where several ask for one that is not here, one of them reads and the others wait.
    pub(super) async fn bytes(
        &self,
        key: &Key,
        read: impl Future<Output = Result<Option<Bytes>, blobs::Error>>,
    ) -> Result<Option<Bytes>, blobs::Error> {
        let Some(parts) = &self.parts else { return read.await };
        match parts.get_value_or_guard_async(key).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(place) => {
                let bytes = read.await?;
                if let Some(bytes) = &bytes {
                    // Refused where the title was deleted meanwhile.
                    let _ = place.insert(bytes.clone());
                }
                Ok(bytes)
            }
        }
    }

    /// A part's length, where it is known.
    pub(super) fn length(&self, key: &Key, now_ms: u64) -> Option<u64> {
        if let Some(bytes) = self.parts.as_ref().and_then(|parts| parts.peek(key)) {
            return Some(bytes.len() as u64);
        }
        let kept = self.lengths.get(key)?;
        is_fresh(kept.at_ms, now_ms, LENGTH_MS).then_some(kept.what)
    }

    /// A part's length, as it was looked up.
    pub(super) fn keep_length(&self, key: Key, len: u64, now_ms: u64) {
        self.lengths.insert(key, Kept { what: len, at_ms: now_ms });
    }
}

/// Clocks are set back at times: what was kept after now is not fresh.
const fn is_fresh(at_ms: u64, now_ms: u64, for_ms: u64) -> bool {
    at_ms <= now_ms && now_ms.saturating_sub(at_ms) < for_ms
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use uuid::Uuid;

    use super::*;
    use crate::domain::amount::{Price, Share};
    use crate::domain::id::{CreatorId, SegmentNumber};
    use crate::domain::ledger::Split;
    use crate::domain::video::{Media, Ticks, Timeline, Video, VideoState};

    fn id() -> VideoId {
        VideoId::new(Uuid::from_u128(7))
    }

    fn published(title: &str) -> Published {
        let creator = CreatorId::new(Uuid::from_u128(1));
        let timeline = Timeline::new(vec![Ticks::new(0), Ticks::new(1)]).unwrap();
        Published {
            video: Arc::new(Video {
                id: id(),
                creator,
                title: title.to_owned(),
                description: String::new(),
                price: Price::FREE,
                preview_seconds: 0,
                state: VideoState::Ready,
                version: Version(1),
                next: None,
                versions: 0,
                created_ms: 0,
                source_sha256: None,
            }),
            media: Arc::new(Media {
                version: Version(1),
                timeline,
                renditions: Vec::new(),
                frames: 1,
            }),
            split: Split { creator, fee: Share::from_ppm(0).unwrap() },
        }
    }

    fn title(shelf: &Shelf, now_ms: u64, stored: &str) -> String {
        let found = shelf.title(id(), None, now_ms, || Ok(published(stored))).unwrap();
        found.video.title.clone()
    }

    #[test]
    fn a_title_is_read_once_a_second_and_after_each_change() {
        let shelf = Shelf::new(0);
        assert_eq!(title(&shelf, 5_000, "old"), "old");
        assert_eq!(title(&shelf, 5_999, "new"), "old");
        assert_eq!(title(&shelf, 6_000, "new"), "new");
        shelf.changed(id());
        assert_eq!(title(&shelf, 6_000, "newest"), "newest");
        assert_eq!(title(&shelf, 4_000, "before"), "before", "the clock was set back");
    }

    #[test]
    fn what_was_read_before_a_change_is_not_kept_after_it() {
        let shelf = Shelf::new(0);
        let read = || {
            shelf.changed(id());
            Ok(published("old"))
        };
        assert_eq!(shelf.title(id(), None, 0, read).unwrap().video.title, "old");
        assert_eq!(title(&shelf, 0, "new"), "new");
    }

    async fn read_again(shelf: &Shelf, len: usize) -> bool {
        let key = (id(), Version(1), "720p".parse().unwrap(), Part::Segment(SegmentNumber(0)));
        let read = |len| async move { Ok(Some(Bytes::from(vec![0; len]))) };
        shelf.bytes(&key, read(len)).await.unwrap();
        shelf.bytes(&key, read(len + 1)).await.unwrap().unwrap().len() > len
    }

    #[tokio::test]
    async fn a_part_is_read_once_where_there_is_room_for_it_and_again_after_its_title_is_gone() {
        assert!(read_again(&Shelf::new(0), 10).await, "no room at all");
        assert!(read_again(&Shelf::new(4_000), 3_000).await, "larger than a quarter");
        let shelf = Shelf::new(1 << 20);
        assert!(!read_again(&shelf, 3_000).await);
        shelf.gone(id());
        assert!(!read_again(&shelf, 2_000).await, "the shorter one was read");
    }
}
