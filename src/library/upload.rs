//! Sources arriving: a stream of bytes into a spool file on local disk, hashed and bounded on the way.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest, Sha256};
use tokio::fs::{self, File};
use tokio::io::AsyncWriteExt as _;

use super::{Error, Library, Progress, changed};
use crate::domain::id::VideoId;
use crate::domain::video::{Video, VideoState};
use crate::runtime::lock;
use crate::store::{Job, Role};

/// How often the progress of an upload is told: not at every chunk.
const TELL_EVERY_BYTES: u64 = 1 << 20;

impl Library {
    /// Takes a source whole: spooled, synced, and queued in one verb. What breaks off leaves the title as it was to be sent again.
    ///
    /// # Errors
    /// [`Error::State`] where the title takes no source now, [`Error::TooLarge`] and [`Error::Broken`] for the stream.
    pub async fn receive<S, E>(
        &self,
        id: VideoId,
        role: Role,
        announced: Option<u64>,
        stream: S,
    ) -> Result<Video, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Send,
    {
        let max = self.parts.options.source_bytes_max;
        if announced.is_some_and(|bytes| bytes > max) {
            return Err(Error::TooLarge { max });
        }
        self.own_video(id, role)?;
        let hint = "a source can be sent for a draft or a failed title";
        let part = self.parts.spool.join(format!("{id}.part"));
        let _turn = self.take_turn(id, part.clone())?;
        changed(self.parts.store.advance(id, VideoState::Uploading)?, hint)?;
        self.tell(id, Progress { received_bytes: Some(0), ..Progress::of(&VideoState::Uploading) });

        let received = self.spool(id, &part, announced, stream).await?;
        let source = format!("{id}.source");
        let io = |what| move |source| Error::Io { what, source };
        fs::rename(&part, self.parts.spool.join(&source))
            .await
            .map_err(io("keeping the source"))?;
        sync_directory(&self.parts.spool).await.map_err(io("keeping the source"))?;
        let video = self.own_video(id, role)?;
        let job = Job {
            video: id,
            version: video.version,
            source,
            attempts: 0,
            lease: None,
            queued_ms: self.parts.clock.now_ms(),
        };
        let video = changed(self.parts.store.enqueue(&job)?, hint)?;
        tracing::info!(video = %id, bytes = received, "source received");
        self.tell(id, Progress::of(&video.state));
        self.jobs.notify_one();
        Ok(video)
    }

    async fn spool<S, E>(
        &self,
        id: VideoId,
        part: &Path,
        announced: Option<u64>,
        mut stream: S,
    ) -> Result<u64, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
    {
        let io = |source| Error::Io { what: "writing the source", source };
        let max = self.parts.options.source_bytes_max;
        let mut file = File::create(part).await.map_err(io)?;
        let mut digest = Sha256::new();
        let (mut received, mut told) = (0_u64, 0_u64);
        while let Some(chunk) = stream.next().await {
            let Ok(chunk) = chunk else { return Err(Error::Broken { received }) };
            received = received.saturating_add(chunk.len() as u64);
            if received > max {
                return Err(Error::TooLarge { max });
            }
            digest.update(&chunk);
            file.write_all(&chunk).await.map_err(io)?;
            if received.saturating_sub(told) >= TELL_EVERY_BYTES {
                told = received;
                let state = Progress::of(&VideoState::Uploading);
                self.tell(id, Progress { received_bytes: Some(received), ..state });
            }
        }
        if received == 0 || announced.is_some_and(|bytes| bytes != received) {
            return Err(Error::Broken { received });
        }
        file.flush().await.map_err(io)?;
        file.sync_all().await.map_err(io)?;
        tracing::debug!(video = %id, sha256 = hex::encode(digest.finalize()), "source spooled");
        Ok(received)
    }

    /// Removes what uploads left behind that a crash, or a client that went away, broke off; before any upload of this start.
    pub async fn sweep_spool(&self) {
        let Ok(mut entries) = fs::read_dir(&self.parts.spool).await else { return };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let path = entry.path();
            let kind = path.extension().and_then(|extension| extension.to_str());
            let broken = match kind {
                Some("part") => true,
                // Renamed, and never queued: the process died between the two.
                Some("source") => !self.is_queued(&path),
                _ => false,
            };
            if broken {
                tracing::info!(path = %path.display(), "an upload that broke off is removed");
                remove(&path).await;
            }
        }
    }

    /// Whether a job waits for a source, or may: what cannot be told is kept.
    fn is_queued(&self, source: &Path) -> bool {
        let id = source.file_stem().and_then(|stem| stem.to_str()?.parse::<VideoId>().ok());
        let Some(Ok(video)) = id.map(|id| self.parts.store.video(id)) else { return true };
        video.is_some_and(|video| {
            matches!(video.state, VideoState::Queued | VideoState::Transcoding)
        })
    }

    /// One upload of a title at a time.
    fn take_turn(&self, id: VideoId, part: PathBuf) -> Result<Turn<'_>, Error> {
        if lock(&self.uploading).insert(id) {
            Ok(Turn { library: self, id, part })
        } else {
            let hint = "another upload of it is under way";
            Err(Error::State { state: VideoState::Uploading, hint })
        }
    }
}

/// An upload under way. However it ends (the client that goes away drops it), what is left of its spool file goes: a source is sent again
/// from its start, and half ones would only fill the disk.
struct Turn<'a> {
    library: &'a Library,
    id: VideoId,
    part: PathBuf,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        // A source that arrived whole has another name by now.
        if let Err(error) = std::fs::remove_file(&self.part)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.part.display(), %error, "not removed");
        }
        lock(&self.library.uploading).remove(&self.id);
    }
}

/// Removes whatever of a title lies in the spool.
pub(super) async fn remove_spooled(spool: &Path, id: VideoId) {
    for kind in ["part", "source"] {
        remove(&spool.join(format!("{id}.{kind}"))).await;
    }
    let work: PathBuf = spool.join(format!("{id}.work"));
    if let Err(error) = fs::remove_dir_all(&work).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %work.display(), %error, "not removed");
    }
}

async fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "not removed");
    }
}

async fn sync_directory(path: &Path) -> std::io::Result<()> {
    File::open(path).await?.sync_all().await
}
