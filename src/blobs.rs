//! Segments and init segments: one struct over the `object_store` crate, with keys made from typed parts only.

use std::path::Path;
use std::sync::Arc;

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
        Ok(Self(Arc::new(LocalFileSystem::new_with_prefix(directory)?.with_fsync(true))))
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
