//! The job loop: takes a source, has it made, keeps what comes out, and publishes as the last write.

use std::path::Path;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::fs;
use tokio_util::sync::CancellationToken;

use super::{Library, Progress, upload};
use crate::blobs::Part;
use crate::domain::id::{RenditionName, SegmentNumber, VideoId};
use crate::domain::video::{Media, VideoState};
use crate::media::{
    Error as MediaError, Order, Piece, Plan, SOUND, Sink, Told, init_file, segment_file,
};
use crate::runtime::{Backoff, lock, sleep};
use crate::store::{Change, Job, Lease, Setback};

/// A lease outlives the longest job; another start of the process ends it at once.
const LEASE_MS: u64 = 48 * 3_600 * 1_000;
/// How long the chunks are that pictures are made in.
const CHUNK_SECONDS: u64 = 300;
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
            Ok(media) => self.publish(job, media, begun.elapsed()).await,
            // The stop of the server: the next start takes the job again.
            Err(_) if cancel.is_cancelled() => {}
            Err(error) => self.set_back(job, &error).await,
        }
    }

    async fn make(&self, job: &Job, cancel: CancellationToken) -> Result<Media, MediaError> {
        let io = |what| move |source| MediaError::Io { what, source };
        let output = self.parts.spool.join(format!("{}.work", job.video));
        if fs::try_exists(&output).await.unwrap_or(false) {
            fs::remove_dir_all(&output).await.map_err(io("clearing the work directory"))?;
        }
        fs::create_dir_all(&output).await.map_err(io("making the work directory"))?;
        let source = self.parts.spool.join(&job.source);
        let (transcoder, options) = (&self.parts.transcoder, &self.parts.media);
        let survey = transcoder.survey(source.clone(), options.clone(), cancel.clone()).await?;
        tracing::info!(video = %job.video, probe = ?survey.probe, "looked at");
        let plan = Plan::of(&survey, options)?;
        let mut listener = Listener { library: self, video: job.video };
        for piece in plan.pieces(CHUNK_SECONDS, false) {
            if piece == Piece::Extras {
                continue;
            }
            let order = Order {
                source: source.clone(),
                output: output.clone(),
                options: options.clone(),
                plan: plan.clone(),
                piece,
            };
            transcoder.work(order, &mut listener, cancel.clone()).await?;
        }
        let mut renditions = Vec::new();
        for name in plan.renditions() {
            let init = self.keep(job, &output, &plan, &name, None).await?;
            let mut sizes = Vec::new();
            for number in (0..plan.timeline.segments()).map(SegmentNumber) {
                let bytes = self.keep(job, &output, &plan, &name, Some(number)).await?;
                sizes.push(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
            }
            renditions.push(transcoder.rendition(&plan, &name, &init, &sizes)?);
        }
        let frames = plan.pictures.as_ref().and_then(|pictures| pictures.cuts.last()).copied();
        let frames = frames.unwrap_or_default();
        Ok(Media { version: job.version, timeline: plan.timeline, renditions, frames })
    }

    /// Joins a part and keeps it under the key that it will be served by.
    async fn keep(
        &self,
        job: &Job,
        output: &Path,
        plan: &Plan,
        name: &RenditionName,
        number: Option<SegmentNumber>,
    ) -> Result<Bytes, MediaError> {
        let read = |name: RenditionName| async move {
            let file = number.map_or_else(|| init_file(&name), |n| segment_file(&name, n));
            let read = fs::read(output.join(file)).await;
            read.map_err(|source| MediaError::Io { what: "reading a segment", source })
        };
        let sound: Option<RenditionName> = plan.sound.as_ref().and_then(|_| SOUND.parse().ok());
        let picture =
            if sound.as_ref() == Some(name) { None } else { Some(read(name.clone()).await?) };
        let sound = match sound {
            Some(sound) => Some(read(sound).await?),
            None => None,
        };
        let joined = self.parts.transcoder.join(picture.as_deref(), sound.as_deref(), number)?;
        let part = number.map_or(Part::Init, Part::Segment);
        let kept = self.parts.blobs.put(job.video, job.version, name, part, joined.clone()).await;
        kept.map_err(|error| MediaError::Io {
            what: "keeping a segment",
            source: std::io::Error::other(error),
        })?;
        Ok(joined)
    }

    async fn publish(&self, job: &Job, media: Media, after: Duration) {
        match self.parts.store.publish(job, &media) {
            Ok(Change::Done(video)) => {
                let (segments, seconds) = (media.timeline.segments(), after.as_secs());
                tracing::info!(video = %job.video, segments, seconds, "published");
                self.shelf.changed(job.video);
                self.tell(job.video, Progress::of(&video.state));
                upload::remove_spooled(&self.parts.spool, job.video).await;
            }
            Ok(Change::Missing | Change::Refused(_)) => self.discard(job).await,
            Err(error) => tracing::error!(video = %job.video, %error, "could not be published"),
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

/// Passes on how far a piece is.
struct Listener<'a> {
    library: &'a Library,
    video: VideoId,
}

#[async_trait]
impl Sink for Listener<'_> {
    async fn told(&mut self, told: Told) -> Result<(), MediaError> {
        if let Told::Progress { permille } = told {
            let state = Progress::of(&VideoState::Transcoding);
            self.library.tell(self.video, Progress { permille: Some(permille), ..state });
        }
        Ok(())
    }
}
