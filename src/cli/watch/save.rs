//! Keeps what was paid for as one playable file: the init segment, then each segment once, in the order of the film.
//!
//! Segments are written down as they arrive, beside the file, and moved into place at the end. Where the viewer jumped, the file is written
//! once more in order; what was never fetched is missing, and players go over the gap, because each segment carries its own times.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _};

use super::receipt::Saved;
use crate::domain::id::SegmentNumber;

/// A film that is being kept.
pub(super) struct Saver {
    target: PathBuf,
    part: PathBuf,
    file: File,
    /// The length of the init segment; 0 before it is there.
    init: u64,
    at: u64,
    /// Where each segment lies in the part file, and how long it is.
    segments: BTreeMap<SegmentNumber, (u64, u64)>,
    in_order: bool,
}

impl Saver {
    /// Begins a file that must not be there yet.
    pub(super) fn create(target: &Path) -> anyhow::Result<Self> {
        ensure!(
            !target.exists(),
            "{} exists already: remove it, or give --save another name",
            target.display()
        );
        let mut part = target.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = std::fs::File::options()
            .create(true)
            .truncate(true)
            .read(true)
            .write(true)
            .open(&part)
            .with_context(|| format!("{} cannot be written", part.display()))?;
        Ok(Self {
            target: target.to_owned(),
            part,
            file: File::from_std(file),
            init: 0,
            at: 0,
            segments: BTreeMap::new(),
            in_order: true,
        })
    }

    pub(super) const fn has_init(&self) -> bool {
        self.init > 0
    }

    pub(super) fn has(&self, n: SegmentNumber) -> bool {
        self.segments.contains_key(&n)
    }

    pub(super) async fn init(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.append(bytes).await?;
        self.init = self.at;
        Ok(())
    }

    pub(super) async fn segment(&mut self, n: SegmentNumber, bytes: &[u8]) -> anyhow::Result<()> {
        if self.has(n) {
            return Ok(());
        }
        let at = self.at;
        self.append(bytes).await?;
        let last = self.segments.last_key_value().map(|(last, _)| *last);
        self.in_order &= last.is_none_or(|last| last < n);
        self.segments.insert(n, (at, self.at.saturating_sub(at)));
        Ok(())
    }

    async fn append(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        self.file.write_all(bytes).await?;
        self.at = self.at.saturating_add(bytes.len() as u64);
        Ok(())
    }

    /// Puts the file in place; nothing where no segment came.
    pub(super) async fn finish(mut self) -> anyhow::Result<Option<Saved>> {
        if self.segments.is_empty() {
            // Its end removes the part file.
            return Ok(None);
        }
        if self.in_order {
            self.file.sync_all().await?;
        } else {
            self.write_in_order().await?;
        }
        tokio::fs::rename(&self.part, &self.target).await?;
        Ok(Some(Saved {
            file: self.target.clone(),
            bytes: self.at,
            segments: u32::try_from(self.segments.len()).unwrap_or(u32::MAX),
            gaps: gaps(self.segments.keys().map(|SegmentNumber(n)| *n)),
        }))
    }

    async fn write_in_order(&mut self) -> anyhow::Result<()> {
        let mut ordered = self.part.clone().into_os_string();
        ordered.push("2");
        let mut out = File::create(&ordered).await?;
        let spans = [(0, self.init)].into_iter().chain(self.segments.values().copied());
        for (at, len) in spans.collect::<Vec<_>>() {
            self.file.seek(std::io::SeekFrom::Start(at)).await?;
            tokio::io::copy(&mut (&mut self.file).take(len), &mut out).await?;
        }
        out.flush().await?;
        out.sync_all().await?;
        tokio::fs::rename(&ordered, &self.part).await?;
        Ok(())
    }
}

impl Drop for Saver {
    /// A file without a segment is of no use to anybody.
    fn drop(&mut self) {
        if self.segments.is_empty() {
            let _ = std::fs::remove_file(&self.part);
        }
    }
}

/// How often the next segment is not the one that follows.
fn gaps(numbers: impl Iterator<Item = u32>) -> u32 {
    let mut next = None;
    let mut gaps = 0_u32;
    for n in numbers {
        if next.is_some_and(|next| next != n) {
            gaps = gaps.saturating_add(1);
        }
        next = n.checked_add(1);
    }
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn saved(order: &[u32]) -> (Option<Saved>, String) {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("film.mp4");
        let mut saver = Saver::create(&target).unwrap();
        saver.init(b"init ").await.unwrap();
        for n in order {
            let bytes = format!("{n} ").repeat(3);
            saver.segment(SegmentNumber(*n), bytes.as_bytes()).await.unwrap();
        }
        let saved = saver.finish().await.unwrap();
        let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().collect();
        assert_eq!(left.len(), usize::from(saved.is_some()), "nothing is left beside it: {left:?}");
        (saved, std::fs::read_to_string(target).unwrap_or_default())
    }

    #[tokio::test]
    async fn segments_lie_in_the_films_order_each_once_however_they_came() {
        for order in [&[0, 1, 2, 3][..], &[2, 3, 0, 1], &[0, 1, 1, 0, 2, 3], &[3, 2, 1, 0]] {
            let (saved, text) = saved(order).await;
            assert_eq!(text, "init 0 0 0 1 1 1 2 2 2 3 3 3 ", "{order:?}");
            let saved = saved.unwrap();
            assert_eq!((saved.segments, saved.gaps, saved.bytes), (4, 0, text.len() as u64));
        }
        let (gapped, text) = saved(&[5, 0, 1]).await;
        assert_eq!(text, "init 0 0 0 1 1 1 5 5 5 ");
        assert_eq!(gapped.unwrap().gaps, 1);
        assert!(saved(&[]).await.0.is_none());
    }

    #[tokio::test]
    async fn a_file_that_is_there_is_never_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("film.mp4");
        std::fs::write(&target, "dear").unwrap();
        assert!(Saver::create(&target).is_err());
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "dear");
    }
}
