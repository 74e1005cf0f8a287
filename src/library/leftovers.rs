//! What making films leaves behind, and when it goes: at the end of a job, with its title, and at the start after a process that died in between.

use std::path::{Path, PathBuf};

use tokio::fs;

use super::{Error, Library, upload};
use crate::domain::id::{Version, VideoId};
use crate::domain::video::VideoState;
use crate::media::Error as MediaError;
use crate::runtime::lock;
use crate::store::{Job, Role};

/// A version of a title.
type Key = (VideoId, Version);

impl Library {
    /// Where a version is worked at.
    pub(super) fn work_dir(&self, (id, version): Key) -> PathBuf {
        self.parts.spool.join(format!("{id}.{version}.work"))
    }

    /// Gives a source that arrived the name of the version that it is made into, so that the next one to arrive is another file; the name.
    ///
    /// # Errors
    /// [`MediaError::Source`] where it is not there.
    pub(super) async fn own_source(&self, job: &Job) -> Result<String, MediaError> {
        let own = source_name((job.video, job.version));
        if job.source == own {
            return Ok(own);
        }
        let (from, to) = (self.parts.spool.join(&job.source), self.parts.spool.join(&own));
        match fs::rename(&from, &to).await {
            Ok(()) => Ok(own),
            // Renamed before the process died.
            Err(error) if is_missing(&error) && to.exists() => Ok(own),
            Err(error) if is_missing(&error) => {
                Err(MediaError::Source("The file is not here any more: send it again.".to_owned()))
            }
            Err(source) => Err(MediaError::Io { what: "keeping the source", source }),
        }
    }

    /// Removes what a job that is over left behind: its work directory, its source, and renditions that are not published.
    pub(super) async fn clear(&self, job: &Job) {
        let (id, version) = (job.video, job.version);
        told(remove_dir(&self.work_dir((id, version))).await, "a work directory");
        let published = match self.parts.store.media(id, version) {
            Ok(media) => media,
            Err(error) => return tracing::error!(%error, "the catalogue cannot be read"),
        };
        if published.is_none() || !self.parts.options.keep_sources {
            upload::remove(&self.parts.spool.join(source_name((id, version)))).await;
        }
        // One that was never looked at still has the name under which the next one arrives.
        if job.plan.is_empty() && self.takes_no_source(id) {
            upload::remove(&self.parts.spool.join(&job.source)).await;
        }
        let kept = published.map(|media| media.renditions).unwrap_or_default();
        let kept: Vec<_> = kept.into_iter().map(|of| of.name).collect();
        if let Err(error) = self.parts.blobs.keep_only(id, version, &kept).await {
            tracing::warn!(video = %id, %error, "segments were left behind");
        }
    }

    /// Whether nobody sends a source for a title, or has just sent one.
    fn takes_no_source(&self, id: VideoId) -> bool {
        match self.parts.store.video(id) {
            Ok(Some(video)) => !matches!(
                video.making_state(),
                VideoState::Uploading | VideoState::Queued | VideoState::Transcoding
            ),
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Ends the making of a title, as its creator wants it.
    ///
    /// # Errors
    /// [`Error::Missing`] where nothing is being made.
    pub async fn cancel_job(&self, id: VideoId, role: Role) -> Result<(), Error> {
        self.own_video(id, role)?;
        let ended = self.parts.store.cancel(id, "It was cancelled.")?;
        let job = ended.ok_or(Error::Missing("job"))?;
        self.stop(id);
        self.tell_state(id);
        // Where tasks are under way, the last of them does it.
        let busy = lock(&self.running).contains_key(&(id, job.version));
        if !busy {
            self.clear(&job).await;
        }
        Ok(())
    }

    /// Removes every byte of a title whose record is gone.
    pub(super) async fn remove_bytes(&self, id: VideoId) -> Result<(), Error> {
        self.parts.blobs.delete(id).await?;
        upload::remove_spooled(&self.parts.spool, id).await;
        for (path, (of, _), _) in self.made_here().await {
            if of == id {
                self.remove_made(&path).await;
            }
        }
        // A task that still writes removes what it wrote when it ends, and if the process dies before that, the next start does.
        if !lock(&self.running).keys().any(|(of, _)| *of == id) {
            self.parts.store.removed(id)?;
        }
        Ok(())
    }

    /// Removes versions whose place another one took so long ago that nothing of them is owed any more.
    ///
    /// # Errors
    /// [`Error`] where one cannot be removed.
    pub async fn sweep_versions(&self) -> Result<usize, Error> {
        let before = self.parts.clock.now_ms().saturating_sub(self.parts.owed_ms);
        let retired = self.parts.store.retired(before)?;
        for of in &retired {
            // The bytes first: where the process dies between the two, they are looked for again.
            self.parts.blobs.keep_only(of.video, of.version, &[]).await?;
            upload::remove(&self.parts.spool.join(source_name((of.video, of.version)))).await;
            self.parts.store.forget(of)?;
            self.shelf.gone(of.video);
            tracing::info!(video = %of.video, version = %of.version, "a replaced version is removed");
        }
        for id in self.parts.store.deleted()? {
            self.remove_bytes(id).await?;
        }
        Ok(retired.len())
    }

    /// Removes what jobs left behind that ended while no process was there to see to it; before any task of this start.
    pub(super) async fn sweep_making(&self) {
        let jobs = match self.parts.store.all_jobs() {
            Ok(jobs) => jobs,
            Err(error) => return tracing::error!(%error, "the queue cannot be read"),
        };
        let waits = |key: Key| jobs.iter().any(|job| (job.video, job.version) == key);
        for (path, key, is_source) in self.made_here().await {
            let published = matches!(self.parts.store.media(key.0, key.1), Ok(Some(_)));
            let kept = is_source && published && self.parts.options.keep_sources;
            if !waits(key) && !kept {
                tracing::info!(path = %path.display(), "what a job left behind is removed");
                self.remove_made(&path).await;
                if !published {
                    told(self.parts.blobs.keep_only(key.0, key.1, &[]).await, "segments");
                }
            }
        }
        told(self.sweep_versions().await, "a version");
    }

    /// Work directories and sources of versions in the spool; whether each is a source.
    async fn made_here(&self) -> Vec<(PathBuf, Key, bool)> {
        let mut found = Vec::new();
        let Ok(mut entries) = fs::read_dir(&self.parts.spool).await else { return found };
        while let Ok(Some(entry)) = entries.next_entry().await {
            let name = entry.file_name();
            let mut parts = name.to_str().unwrap_or_default().split('.');
            let (id, version, kind) = (parts.next(), parts.next(), parts.next());
            let id = id.and_then(|id| id.parse::<VideoId>().ok());
            let version = version.and_then(|version| version.parse::<u32>().ok()).map(Version);
            let is_source = match kind {
                Some("source") => true,
                Some("work") => false,
                _ => continue,
            };
            if let (Some(id), Some(version), None) = (id, version, parts.next()) {
                found.push((entry.path(), (id, version), is_source));
            }
        }
        found
    }

    async fn remove_made(&self, path: &Path) {
        if path.is_dir() {
            told(remove_dir(path).await, "a work directory");
        } else {
            upload::remove(path).await;
        }
    }
}

/// The file of a source that is made into a version.
fn source_name((id, version): Key) -> String {
    format!("{id}.{version}.source")
}

/// Removes a directory with what is in it; that there is none is well.
pub(super) async fn remove_dir(path: &Path) -> std::io::Result<()> {
    match fs::remove_dir_all(path).await {
        Err(error) if !is_missing(&error) => Err(error),
        _ => Ok(()),
    }
}

fn is_missing(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

fn told<T, E: std::fmt::Display>(outcome: Result<T, E>, what: &str) {
    if let Err(error) = outcome {
        tracing::warn!(%error, "{what} was left behind");
    }
}
