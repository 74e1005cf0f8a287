//! What is there of a version in the making: parts as workers made them, and parts as they are served, joined from those.
//!
//! Nothing of it is written down: what was made is found again on disk. A part of a worker is looked at once more after a restart, since a power
//! cut may have torn it; what is served was synced before it was seen. So any number of tasks may bring parts in any order, twice, and after a
//! kill at any point, and each is made once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use tokio::fs;
use tokio::io::AsyncReadExt as _;

use super::RenditionProgress;
use crate::blobs::{Blobs, Part};
use crate::domain::id::{RenditionName, SegmentNumber, Version, VideoId};
use crate::domain::video::{Media, Rendition};
use crate::media::{Error, Piece, Plan, Transcoder, init_file, segment_file};
use crate::runtime::lock;

/// The rendition that is the sound track.
const SOUND: &str = "audio";
/// No part is larger than a worker may make it; what is cut off here is refused.
const PART_BYTES_MAX: u64 = 128 << 20;
/// Where parts of workers lie until they are joined, in the job's work directory.
const PARTS: &str = "parts";

/// A part of a rendition; `None` is its init segment.
type Key = (RenditionName, Option<SegmentNumber>);

/// A version in the making.
pub(super) struct Assembly {
    video: VideoId,
    version: Version,
    pub(super) plan: Plan,
    sound: RenditionName,
    renditions: Vec<RenditionName>,
    parts: PathBuf,
    blobs: Blobs,
    transcoder: Arc<dyn Transcoder>,
    there: Mutex<There>,
    /// Whether a part of its renditions is published already.
    watched: AtomicBool,
}

#[derive(Default)]
struct There {
    /// As workers made them.
    parts: BTreeSet<Key>,
    /// As they are served, with their lengths.
    served: BTreeMap<Key, u64>,
    /// Being joined now.
    joining: BTreeSet<Key>,
}

impl Assembly {
    /// Looks at what is there.
    pub(super) async fn open(
        (video, version): (VideoId, Version),
        plan: Plan,
        work: &Path,
        blobs: Blobs,
        transcoder: Arc<dyn Transcoder>,
    ) -> Result<Self, Error> {
        let parts = work.join(PARTS);
        fs::create_dir_all(&parts).await.map_err(io("making the work directory"))?;
        let sound = SOUND.parse().map_err(|_| Error::Worker("no name for sound".to_owned()))?;
        let renditions = plan.renditions();
        let assembly = Self {
            video,
            version,
            plan,
            sound,
            renditions,
            parts,
            blobs,
            transcoder,
            there: Mutex::default(),
            watched: AtomicBool::new(false),
        };
        assembly.find_served().await?;
        assembly.find_parts().await?;
        Ok(assembly)
    }

    async fn find_served(&self) -> Result<(), Error> {
        let found = self.blobs.list(self.video, self.version).await.map_err(kept)?;
        let mut there = lock(&self.there);
        for (rendition, part, len) in found {
            there.served.insert((rendition, number_of(part)), len);
        }
        Ok(())
    }

    async fn find_parts(&self) -> Result<(), Error> {
        for key in self.all_parts() {
            let path = self.path(&key);
            let bytes = match fs::read(&path).await {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(source) => return Err(Error::Io { what: "reading a part", source }),
            };
            match self.transcoder.check(&self.plan, &key.0, key.1, &bytes) {
                Ok(()) => {
                    lock(&self.there).parts.insert(key);
                }
                Err(error) => {
                    tracing::warn!(video = %self.video, %error, "a part is made again");
                    fs::remove_file(&path).await.map_err(io("removing a part"))?;
                }
            }
        }
        for key in self.all_parts() {
            self.join_with(&key).await?;
        }
        Ok(())
    }

    /// Every part that workers may make.
    fn all_parts(&self) -> Vec<Key> {
        let sound = self.plan.sound.is_some().then(|| self.sound.clone());
        let pictures = self.renditions.iter().filter(|name| **name != self.sound).cloned();
        let of = |name: RenditionName| {
            let segments = (0..self.segments()).map(|n| Some(SegmentNumber(n)));
            std::iter::once(None).chain(segments).map(move |number| (name.clone(), number))
        };
        sound.into_iter().chain(pictures).flat_map(of).collect()
    }

    pub(super) fn set_watched(&self) {
        self.watched.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed)
    }

    fn segments(&self) -> u32 {
        self.plan.timeline.segments()
    }

    fn path(&self, (rendition, number): &Key) -> PathBuf {
        let file = number.map_or_else(|| init_file(rendition), |n| segment_file(rendition, n));
        self.parts.join(file)
    }

    /// What of a piece is still to be made; `None` where nothing is.
    pub(super) fn missing(&self, piece: &Piece) -> Option<Piece> {
        let there = lock(&self.there);
        let has = |name: &RenditionName, number| {
            let key = (name.clone(), number);
            there.parts.contains(&key) || (*name != self.sound && there.served.contains_key(&key))
        };
        match piece {
            Piece::Pictures { renditions, from, to } => {
                let lacks =
                    |n: &u32| renditions.iter().any(|name| !has(name, Some(SegmentNumber(*n))));
                let first = (*from..*to).find(lacks);
                let last = (*from..*to).rev().find(lacks);
                let (from, to) = match (first, last) {
                    (Some(first), Some(last)) => (first, last.saturating_add(1)),
                    _ if renditions.iter().all(|name| has(name, None)) => return None,
                    _ => (*from, *to),
                };
                Some(Piece::Pictures { renditions: renditions.clone(), from, to })
            }
            Piece::Sound => {
                let all = (0..self.segments()).map(|n| Some(SegmentNumber(n))).chain([None]);
                let is_there = all.into_iter().all(|number| has(&self.sound, number));
                // Parts of the sound go last: where they are gone, all of them were joined.
                let is_over = self.renditions.iter().all(|name| self.is_complete(&there, name));
                (!is_there && !is_over).then_some(Piece::Sound)
            }
            Piece::Copied { rendition } => {
                let all = (0..self.segments()).map(|n| Some(SegmentNumber(n))).chain([None]);
                let is_there = all.into_iter().all(|number| has(rendition, number));
                (!is_there).then(|| piece.clone())
            }
            Piece::Extras => Some(Piece::Extras),
        }
    }

    /// Takes what a worker made, and joins and keeps what is whole by it.
    pub(super) async fn take(&self, key: Key, file: &Path) -> Result<(), Error> {
        let known = {
            let there = lock(&self.there);
            there.parts.contains(&key) || (key.0 != self.sound && there.served.contains_key(&key))
        };
        let path = self.path(&key);
        if known {
            if key.1.is_none() {
                self.same_init(&key, &path, file).await?;
            }
            // Made by a task that another one of the same piece came before.
            return fs::remove_file(file).await.map_err(io("removing a part"));
        }
        fs::rename(file, &path).await.map_err(io("keeping a part"))?;
        lock(&self.there).parts.insert(key.clone());
        self.join_with(&key).await
    }

    /// All pieces of a rendition begin alike: a player loads one init segment.
    async fn same_init(&self, key: &Key, path: &Path, file: &Path) -> Result<(), Error> {
        if !lock(&self.there).parts.contains(key) {
            return Ok(());
        }
        let read =
            |path: PathBuf| async move { fs::read(path).await.map_err(io("reading a part")) };
        if read(path.to_owned()).await? == read(file.to_owned()).await? {
            return Ok(());
        }
        Err(Error::Worker(format!("two pieces of {} have different init segments", key.0)))
    }

    /// Joins what a part makes whole: itself, or each rendition's part of the same number where it is sound.
    async fn join_with(&self, (rendition, number): &Key) -> Result<(), Error> {
        if rendition != &self.sound {
            return self.join(rendition, *number).await;
        }
        for rendition in &self.renditions {
            self.join(rendition, *number).await?;
        }
        Ok(())
    }

    async fn join(
        &self,
        rendition: &RenditionName,
        number: Option<SegmentNumber>,
    ) -> Result<(), Error> {
        let key = (rendition.clone(), number);
        let sound = (self.sound.clone(), number);
        let shown = *rendition != self.sound;
        {
            let mut there = lock(&self.there);
            let heard = self.plan.sound.is_some();
            let lacks =
                (shown && !there.parts.contains(&key)) || (heard && !there.parts.contains(&sound));
            if lacks || there.served.contains_key(&key) || !there.joining.insert(key.clone()) {
                return Ok(());
            }
        }
        // However it ends: a task may be dropped while it waits for the disk.
        let place = Joining { there: &self.there, key: &key };
        let len = self.join_parts(shown.then_some(&key), &sound).await?;
        lock(&self.there).served.insert(key.clone(), len);
        drop(place);
        // The init segment stays: those of other pieces are held against it.
        if shown && number.is_some() {
            lock(&self.there).parts.remove(&key);
            fs::remove_file(self.path(&key)).await.map_err(io("removing a part"))?;
        }
        Ok(())
    }

    async fn join_parts(&self, picture: Option<&Key>, sound: &Key) -> Result<u64, Error> {
        let heard = self.plan.sound.is_some().then_some(sound);
        let pictures = self.read_part(picture).await?;
        let sounds = self.read_part(heard).await?;
        let (rendition, number) = picture.unwrap_or(sound);
        let bytes: Bytes = self.transcoder.join(pictures.as_deref(), sounds.as_deref(), *number)?;
        let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let part = number.map_or(Part::Init, Part::Segment);
        let put = self.blobs.put(self.video, self.version, rendition, part, bytes);
        put.await.map_err(kept)?;
        Ok(len)
    }

    /// A part, looked at once more: whoever made it may still have it open.
    async fn read_part(&self, key: Option<&Key>) -> Result<Option<Vec<u8>>, Error> {
        let Some(key) = key else { return Ok(None) };
        let file = fs::File::open(self.path(key)).await.map_err(io("reading a part"))?;
        let mut bytes = Vec::new();
        let read = file.take(PART_BYTES_MAX).read_to_end(&mut bytes).await;
        read.map_err(io("reading a part"))?;
        let checked = self.transcoder.check(&self.plan, &key.0, key.1, &bytes);
        if let Err(error) = checked {
            lock(&self.there).parts.remove(key);
            fs::remove_file(self.path(key)).await.map_err(io("removing a part"))?;
            return Err(error);
        }
        Ok(Some(bytes))
    }

    fn is_complete(&self, there: &There, name: &RenditionName) -> bool {
        let all = (0..self.segments()).map(|n| Some(SegmentNumber(n))).chain([None]);
        all.into_iter().all(|number| there.served.contains_key(&(name.clone(), number)))
    }

    /// How far each rendition has come.
    pub(super) fn progress(&self) -> Vec<RenditionProgress> {
        let there = lock(&self.there);
        let mut made: HashMap<&RenditionName, u64> = HashMap::new();
        for (name, number) in there.served.keys() {
            if number.is_some() {
                let made = made.entry(name).or_default();
                *made = made.saturating_add(1);
            }
        }
        let all = u64::from(self.segments()).max(1);
        let of = |name: &RenditionName| {
            let made = made.get(name).copied().unwrap_or_default();
            let permille = made.saturating_mul(1_000).checked_div(all).unwrap_or_default();
            let permille = u32::try_from(permille.min(1_000)).unwrap_or(1_000);
            RenditionProgress { name: name.clone(), permille }
        };
        self.renditions.iter().map(of).collect()
    }

    /// The version with those renditions that are whole; `None` where none is.
    pub(super) async fn media(&self) -> Result<Option<Media>, Error> {
        let whole: Vec<(RenditionName, Vec<u64>)> = {
            let there = lock(&self.there);
            let sizes = |name: &RenditionName| {
                let size = |n| there.served.get(&(name.clone(), Some(SegmentNumber(n)))).copied();
                (0..self.segments()).filter_map(size).collect()
            };
            let whole = self.renditions.iter().filter(|name| self.is_complete(&there, name));
            whole.map(|name| (name.clone(), sizes(name))).collect()
        };
        let mut renditions: Vec<Rendition> = Vec::new();
        for (name, sizes) in whole {
            let init = self.blobs.get(self.video, self.version, &name, Part::Init).await;
            let init = init.map_err(kept)?.unwrap_or_default();
            renditions.push(self.transcoder.rendition(&self.plan, &name, &init, &sizes)?);
        }
        let frames = self.plan.pictures.as_ref().and_then(|of| of.cuts.last()).copied();
        Ok((!renditions.is_empty()).then(|| Media {
            version: self.version,
            timeline: self.plan.timeline.clone(),
            renditions,
            frames: frames.unwrap_or_default(),
        }))
    }

    /// Whether every rendition of the plan is in there.
    pub(super) fn is_whole(&self, media: &Media) -> bool {
        media.renditions.len() == self.renditions.len()
    }
}

/// A part that is being joined.
struct Joining<'a> {
    there: &'a Mutex<There>,
    key: &'a Key,
}

impl Drop for Joining<'_> {
    fn drop(&mut self) {
        lock(self.there).joining.remove(self.key);
    }
}

const fn number_of(part: Part) -> Option<SegmentNumber> {
    match part {
        Part::Init => None,
        Part::Segment(number) => Some(number),
    }
}

pub(super) fn io(what: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::Io { what, source }
}

fn kept(error: crate::blobs::Error) -> Error {
    Error::Io { what: "keeping a segment", source: std::io::Error::other(error) }
}
