//! The job loop: takes a source, has it made, keeps what comes out, and publishes as the last write.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::fs;
use tokio_util::sync::CancellationToken;

use super::{Library, Progress, upload};
use crate::blobs::{Blobs, Part};
use crate::domain::id::{RenditionName, Version, VideoId};
use crate::domain::video::{Media, VideoState};
use crate::media::{Error as MediaError, Made, Order, Sink, Told};
use crate::runtime::{Backoff, lock, sleep};
use crate::store::{Change, Job, Lease, Setback};

/// A lease outlives the longest job; another start of the process ends it at once.
const LEASE_MS: u64 = 48 * 3_600 * 1_000;
/// How often the queue is looked at without being told.
const LOOK_EVERY: Duration = Duration::from_secs(5);

impl Library {
    /// Works through the queue until told to end. One job at a time: the encoder uses every core.
    pub async fn run_jobs(&self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        while !cancel.is_cancelled() {
            let now = self.parts.clock.now_ms();
            let lease = Lease { boot: self.parts.boot, until_ms: now.saturating_add(LEASE_MS) };
            match self.parts.store.claim(lease, now) {
                Ok(Some(job)) => {
                    backoff.reset();
                    self.work(&job, &cancel).await;
                }
                Ok(None) => {
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = self.jobs.notified() => {}
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the queue cannot be read");
                    if !sleep(&cancel, backoff.step()).await {
                        return;
                    }
                }
            }
        }
    }

    async fn work(&self, job: &Job, cancel: &CancellationToken) {
        let id = job.video;
        let own = cancel.child_token();
        lock(&self.running).insert(id, own.clone());
        let state = Progress::of(&VideoState::Transcoding);
        self.tell(id, Progress { permille: Some(0), ..state });
        let begun = std::time::Instant::now();
        let outcome = self.make(job, own.clone()).await;
        lock(&self.running).remove(&id);
        match outcome {
            Ok(made) => self.publish(job, made, begun.elapsed(), cancel).await,
            // The stop of the server: the next start takes the job again.
            Err(_) if cancel.is_cancelled() => {}
            Err(error) => self.set_back(job, &error).await,
        }
    }

    async fn make(&self, job: &Job, cancel: CancellationToken) -> Result<Made, MediaError> {
        let io = |what| move |source| MediaError::Io { what, source };
        let output = self.parts.spool.join(format!("{}.work", job.video));
        if fs::try_exists(&output).await.unwrap_or(false) {
            fs::remove_dir_all(&output).await.map_err(io("clearing the work directory"))?;
        }
        fs::create_dir_all(&output).await.map_err(io("making the work directory"))?;
        let order = Order {
            source: self.parts.spool.join(&job.source),
            output: output.clone(),
            options: self.parts.media.clone(),
        };
        let mut keeper =
            Keeper { library: self, video: job.video, version: job.version, output: &output };
        self.parts.transcoder.transcode(order, &mut keeper, cancel).await
    }

    async fn publish(&self, job: &Job, made: Made, after: Duration, cancel: &CancellationToken) {
        let media = Media {
            version: job.version,
            timeline: made.timeline,
            renditions: made.renditions,
            frames: made.frames,
        };
        match self.parts.store.publish(job, &media) {
            Ok(Change::Done(video)) => {
                let (segments, seconds) = (media.timeline.segments(), after.as_secs());
                tracing::info!(video = %job.video, segments, seconds, "published");
                self.shelf.changed(job.video);
                self.tell(job.video, Progress::of(&video.state));
                self.extras_of(job, &media, cancel).await;
                upload::remove_spooled(&self.parts.spool, job.video).await;
            }
            Ok(Change::Missing | Change::Refused(_)) => self.discard(job).await,
            Err(error) => tracing::error!(video = %job.video, %error, "could not be published"),
        }
    }

    /// What viewers expect around the film. That it cannot be made fails nothing.
    async fn extras_of(&self, job: &Job, media: &Media, cancel: &CancellationToken) {
        let source = self.parts.spool.join(&job.source);
        let work = self.parts.spool.join(format!("{}.work", job.video));
        let own = cancel.child_token();
        lock(&self.running).insert(job.video, own.clone());
        let made = self.make_extras(job.video, media, &source, &work, own).await;
        lock(&self.running).remove(&job.video);
        if let Err(error) = made {
            tracing::warn!(video = %job.video, %error, "no extras");
        }
    }

    async fn set_back(&self, job: &Job, error: &MediaError) {
        let (retry, reason) = match error {
            MediaError::Source(reason) => (false, reason.clone()),
            MediaError::Worker(_) | MediaError::Io { .. } | MediaError::Cancelled => (
                true,
                "Sluice could not work on this file. The operator's log tells why.".to_owned(),
            ),
        };
        tracing::warn!(video = %job.video, attempt = job.attempts, %error, "a job came to nothing");
        let most = self.parts.options.attempts_max;
        match self.parts.store.set_back(job, &reason, retry, most) {
            Ok(Setback::Queued) => self.tell(job.video, Progress::of(&VideoState::Queued)),
            Ok(Setback::Failed) => {
                self.tell(job.video, Progress::of(&VideoState::Failed { reason }));
                self.discard(job).await;
            }
            Ok(Setback::Gone) => self.discard(job).await,
            Err(error) => tracing::error!(video = %job.video, %error, "could not be set back"),
        }
    }

    /// Removes what a job has left behind.
    async fn discard(&self, job: &Job) {
        if let Err(error) = self.parts.blobs.delete(job.video).await {
            tracing::warn!(video = %job.video, %error, "segments were left behind");
        }
        upload::remove_spooled(&self.parts.spool, job.video).await;
    }
}

/// Keeps each part the moment it is done, under the key that it will be served by.
struct Keeper<'a> {
    library: &'a Library,
    video: VideoId,
    version: Version,
    output: &'a std::path::Path,
}

impl Keeper<'_> {
    async fn keep(
        &self,
        rendition: &RenditionName,
        part: Part,
        file: &str,
    ) -> Result<(), MediaError> {
        let io = |what| move |source| MediaError::Io { what, source };
        let path = self.output.join(file);
        let bytes = Bytes::from(fs::read(&path).await.map_err(io("reading a segment"))?);
        let blobs: &Blobs = &self.library.parts.blobs;
        let kept = blobs.put(self.video, self.version, rendition, part, bytes).await;
        kept.map_err(|error| MediaError::Io {
            what: "keeping a segment",
            source: std::io::Error::other(error),
        })?;
        fs::remove_file(&path).await.map_err(io("removing a segment"))
    }
}

#[async_trait]
impl Sink for Keeper<'_> {
    async fn told(&mut self, told: Told) -> Result<(), MediaError> {
        match told {
            Told::Init { rendition, file, .. } => self.keep(&rendition, Part::Init, &file).await,
            Told::Segment { rendition, number, file, .. } => {
                self.keep(&rendition, Part::Segment(number), &file).await
            }
            Told::Progress { permille } => {
                let state = Progress::of(&VideoState::Transcoding);
                self.library.tell(self.video, Progress { permille: Some(permille), ..state });
                Ok(())
            }
            Told::Probed(probe) => {
                tracing::info!(video = %self.video, ?probe, "probed");
                Ok(())
            }
            Told::Done(_) | Told::Failed { .. } => Ok(()),
        }
    }
}
