//! Segments and init segments: one struct over the `object_store` crate, with keys made from typed parts only.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path as Key;
use object_store::{GetResult, GetResultPayload, ObjectStore, ObjectStoreExt as _, PutPayload};

use crate::domain::id::{RenditionName, SegmentNumber, Version, VideoId};
use crate::domain::subtitle::Language;
use crate::runtime::filed;

/// Why bytes could not be kept or given.
#[derive(Debug, thiserror::Error)]
#[error("the object store failed: {0}")]
pub struct Error(#[from] object_store::Error);

/// Which part of a rendition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Part {
    /// The init segment (EXT-X-MAP).
    Init,
    /// A segment.
    Segment(SegmentNumber),
}

/// What lies around a film: of one version, or of the title whatever its version is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Extra {
    /// What there is (JSON).
    Record,
    /// One picture for the whole.
    Poster,
    /// A sheet of the storyboard.
    Sheet(u32),
    /// The I-frame rendition, one file.
    IFrames,
    /// Subtitles (WebVTT).
    Subtitles(Language),
}

/// Where media lies.
#[derive(Debug, Clone)]
pub struct Blobs(Arc<dyn ObjectStore>);

impl Blobs {
    /// In a directory; each write is on disk when it returns.
    ///
    /// # Errors
    /// [`Error`] where the directory cannot be used.
    pub fn on_disk(directory: &Path) -> Result<Self, Error> {
        let files = LocalFileSystem::new_with_prefix(directory)?;
        Ok(Self(Arc::new(files.with_fsync(true).with_automatic_cleanup(true))))
    }

    /// In memory, for fast tests.
    pub fn in_memory() -> Self {
        Self(Arc::new(InMemory::new()))
    }

    /// Keeps a part.
    ///
    /// # Errors
    /// [`Error`] where it cannot be written.
    pub async fn put(
        &self,
        video: VideoId,
        version: Version,
        rendition: &RenditionName,
        part: Part,
        bytes: Bytes,
    ) -> Result<(), Error> {
        let payload = PutPayload::from_bytes(bytes);
        self.0.put(&key(video, version, rendition, part), payload).await?;
        Ok(())
    }

    /// A whole part; `None` where there is none.
    ///
    /// # Errors
    /// [`Error`] where it cannot be read.
    pub async fn get(
        &self,
        video: VideoId,
        version: Version,
        rendition: &RenditionName,
        part: Part,
    ) -> Result<Option<Bytes>, Error> {
        match self.0.get(&key(video, version, rendition, part)).await {
            Ok(found) => Ok(Some(read(found).await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The length of a part; `None` where there is none.
    ///
    /// # Errors
    /// [`Error`] where it cannot be looked up.
    pub async fn len(
        &self,
        video: VideoId,
        version: Version,
        rendition: &RenditionName,
        part: Part,
    ) -> Result<Option<u64>, Error> {
        match self.0.head(&key(video, version, rendition, part)).await {
            Ok(found) => Ok(Some(found.size)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a part.
    ///
    /// # Errors
    /// [`Error`] where it cannot be removed.
    pub async fn remove(
        &self,
        video: VideoId,
        version: Version,
        rendition: &RenditionName,
        part: Part,
    ) -> Result<(), Error> {
        Ok(self.0.delete(&key(video, version, rendition, part)).await?)
    }

    /// What is there of a version: each part and its length.
    ///
    /// # Errors
    /// [`Error`] where it cannot be looked up.
    pub async fn list(
        &self,
        video: VideoId,
        version: Version,
    ) -> Result<Vec<(RenditionName, Part, u64)>, Error> {
        let prefix = Key::from(format!("media/{video}/{version}"));
        let found: Vec<_> = self.0.list(Some(&prefix)).try_collect().await?;
        Ok(found
            .iter()
            .filter_map(|of| parsed(&of.location).map(|(r, p)| (r, p, of.size)))
            .collect())
    }

    /// Removes all parts of a version but those of some renditions; all that belongs to it where none is kept.
    ///
    /// # Errors
    /// [`Error`] where one cannot be removed.
    pub async fn keep_only(
        &self,
        video: VideoId,
        version: Version,
        renditions: &[RenditionName],
    ) -> Result<(), Error> {
        let prefix = Key::from(format!("media/{video}/{version}"));
        let goes = |of: &Key| match parsed(of) {
            Some((rendition, _)) => !renditions.contains(&rendition),
            None => renditions.is_empty(),
        };
        let keys: Vec<Key> =
            self.0.list(Some(&prefix)).map_ok(|found| found.location).try_collect().await?;
        for key in keys.iter().filter(|key| goes(key)) {
            self.0.delete(key).await?;
        }
        Ok(())
    }

    /// Keeps an extra of a version, or of the title itself.
    ///
    /// # Errors
    /// [`Error`] where it cannot be written.
    pub async fn put_extra(
        &self,
        video: VideoId,
        version: Option<Version>,
        extra: &Extra,
        bytes: Bytes,
    ) -> Result<(), Error> {
        self.0.put(&extra_key(video, version, extra), PutPayload::from_bytes(bytes)).await?;
        Ok(())
    }

    /// A whole extra; `None` where there is none.
    ///
    /// # Errors
    /// [`Error`] where it cannot be read.
    pub async fn extra(
        &self,
        video: VideoId,
        version: Option<Version>,
        extra: &Extra,
    ) -> Result<Option<Bytes>, Error> {
        match self.0.get(&extra_key(video, version, extra)).await {
            // Unlike segments some of them are written again, so that sockets must not take them from their files.
            Ok(found) => Ok(Some(found.bytes().await?)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes an extra, if it is there.
    ///
    /// # Errors
    /// [`Error`] where it cannot be removed.
    pub async fn delete_extra(
        &self,
        video: VideoId,
        version: Option<Version>,
        extra: &Extra,
    ) -> Result<(), Error> {
        match self.0.delete(&extra_key(video, version, extra)).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes all parts of a title; how many there were.
    ///
    /// # Errors
    /// [`Error`] where one cannot be removed.
    pub async fn delete(&self, video: VideoId) -> Result<usize, Error> {
        let prefix = Key::from(format!("media/{video}"));
        let keys: Vec<Key> =
            self.0.list(Some(&prefix)).map_ok(|found| found.location).try_collect().await?;
        for key in &keys {
            self.0.delete(key).await?;
        }
        Ok(keys.len())
    }
}

/// All of it. What lies on this disk is put there whole and never changed, so that sockets may take it from its file.
async fn read(found: GetResult) -> Result<Bytes, object_store::Error> {
    let (file, path) = match found.payload {
        GetResultPayload::File(file, path) => (file, path),
        GetResultPayload::Stream(_) => return found.bytes().await,
    };
    let read = tokio::task::spawn_blocking(move || filed::read(file)).await;
    let failed = |source: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic {
        store: "media",
        source: format!("{}: {source}", path.display()).into(),
    };
    read.map_err(|error| failed(error.into()))?.map_err(|error| failed(error.into()))
}

fn extra_key(video: VideoId, version: Option<Version>, extra: &Extra) -> Key {
    let of = version.map_or_else(|| "title".to_owned(), |version| version.to_string());
    let name = match extra {
        Extra::Record => "extras.json".to_owned(),
        Extra::Poster => "poster.jpg".to_owned(),
        Extra::Sheet(number) => format!("sheet-{number}.jpg"),
        Extra::IFrames => "iframes.mp4".to_owned(),
        Extra::Subtitles(language) => format!("sub-{language}.vtt"),
    };
    Key::from(format!("media/{video}/{of}/extras/{name}"))
}

fn key(video: VideoId, version: Version, rendition: &RenditionName, part: Part) -> Key {
    Key::from(match part {
        Part::Init => format!("media/{video}/{version}/{rendition}/init.mp4"),
        Part::Segment(number) => format!("media/{video}/{version}/{rendition}/{number}.m4s"),
    })
}

/// Removes what writes left behind in a directory of media when their process was killed before a time: `object_store` writes beside a file's place, under its
/// name with `#` and a number, neither lists nor deletes such files, and leaves them for ever. How many there were.
///
/// # Errors
/// Where the directory cannot be read.
pub fn sweep(directory: &Path, before: SystemTime) -> std::io::Result<usize> {
    // What goes meanwhile is gone.
    let gone = |error: &std::io::Error| error.kind() == std::io::ErrorKind::NotFound;
    let mut removed = 0_usize;
    let entries = match std::fs::read_dir(directory) {
        Err(error) if gone(&error) => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let (path, name) = (entry.path(), entry.file_name());
        if entry.file_type()?.is_dir() {
            removed = removed.saturating_add(sweep(&path, before)?);
            continue;
        }
        let staged = name
            .to_str()
            .and_then(|name| name.rsplit_once('#'))
            .is_some_and(|(_, of)| !of.is_empty() && of.bytes().all(|byte| byte.is_ascii_digit()));
        if !staged {
            continue;
        }
        let modified = entry.metadata().and_then(|metadata| metadata.modified());
        match modified.and_then(|at| if at < before { std::fs::remove_file(&path) } else { Ok(()) })
        {
            Err(error) if gone(&error) => {}
            Ok(()) if !path.exists() => removed = removed.saturating_add(1),
            outcome => outcome?,
        }
    }
    Ok(removed)
}

/// What a key of a rendition's part names; `None` for others.
fn parsed(key: &Key) -> Option<(RenditionName, Part)> {
    let mut parts = key.as_ref().rsplit('/');
    let (file, rendition) = (parts.next()?, parts.next()?);
    let part = match file {
        "init.mp4" => Part::Init,
        file => Part::Segment(file.strip_suffix(".m4s")?.parse().ok()?),
    };
    Some((rendition.parse().ok()?, part))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_killed_write_left_is_removed_and_nothing_else() {
        let media = tempfile::tempdir().unwrap();
        let rendition = media.path().join("media/1/1/480p");
        std::fs::create_dir_all(&rendition).unwrap();
        for name in ["0.m4s", "1.m4s#1", "2.m4s#x", "3#.m4s", "4.m4s#"] {
            std::fs::write(rendition.join(name), name).unwrap();
        }
        let now = SystemTime::now();
        assert_eq!(sweep(media.path(), now - Duration::from_secs(60)).unwrap(), 0, "in use");
        assert_eq!(sweep(media.path(), now + Duration::from_secs(60)).unwrap(), 1);
        assert!(!rendition.join("1.m4s#1").exists());
        assert_eq!(std::fs::read_dir(rendition).unwrap().count(), 4);
    }
}
