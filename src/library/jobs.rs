//! The job loop: looks at a source, plans, has its pieces made by workers side by side, and publishes as the last write.
//!
//! A job's tasks are in the store, each with a lease; what was made is on disk (see [`super::assembly`]). A task that is done again because the
//! process died makes only what is missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::fs;
use tokio_util::sync::CancellationToken;

use super::assembly::{Assembly, io};
use super::leftovers::remove_dir;
use super::{Library, Progress};
use crate::domain::id::{RenditionName, Version, VideoId};
use crate::domain::video::VideoState;
use crate::media::{self, Error as MediaError, Order, Piece, Plan, Sink, Told};
use crate::runtime::{Backoff, lock, sleep};
use crate::store::{self, Change, Claimed, Job, Lease, Setback, Task, TaskState};

/// How long a task is held; renewed well before. A clock that is set forward by less takes no task from whom is at it.
const LEASE: Duration = Duration::from_secs(3_600);
const RENEW_EVERY: Duration = Duration::from_secs(30);
/// A task that fails for want of disk is tried again for as long as it takes, at this pace at last.
const RETRY_MAX_SECONDS: u64 = 3_600;
/// How often the queue is looked at without being told.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// The task of a job that was not looked at. Its others are pieces, as JSON.
pub(super) const LOOK: &str = "look";

/// Which version of which title.
type Key = (VideoId, Version);

/// A job that is worked at here.
#[derive(Default)]
pub(super) struct Running {
    cancel: CancellationToken,
    /// Tasks of it that are under way.
    tasks: usize,
    assembly: Arc<tokio::sync::OnceCell<Arc<Assembly>>>,
}

/// A task that is under way.
struct Under<'a> {
    library: &'a Library,
    claimed: Claimed,
    cancel: CancellationToken,
    assembly: Arc<tokio::sync::OnceCell<Arc<Assembly>>>,
}

impl Library {
    /// Works through the queue until told to end, with as many workers at once as the options say.
    pub async fn run_jobs(&self, cancel: CancellationToken) {
        self.sweep_making().await;
        let workers = self.parts.options.workers();
        futures::future::join_all((0..workers).map(|_| self.run_worker(&cancel))).await;
    }

    async fn run_worker(&self, cancel: &CancellationToken) {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
        while !cancel.is_cancelled() {
            // Listened to before the look, so that no word is lost between the two.
            let told = self.jobs.notified();
            match self.next_task() {
                Ok(Some(claimed)) => {
                    backoff.reset();
                    self.work(claimed, cancel).await;
                }
                Ok(None) => {
                    self.finish_jobs().await;
                    tokio::select! {
                        () = cancel.cancelled() => return,
                        () = told => {}
                        () = tokio::time::sleep(LOOK_EVERY) => {}
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "the queue cannot be read");
                    if !sleep(cancel, backoff.step()).await {
                        return;
                    }
                }
            }
        }
    }

    /// The next task, where the disk has room for what it makes.
    fn next_task(&self) -> Result<Option<Claimed>, store::Error> {
        if !self.has_room() {
            tracing::warn!("films wait: the disk is nearly full");
            return Ok(None);
        }
        self.parts.store.claim(self.lease(), self.parts.clock.now_ms())
    }

    fn lease(&self) -> Lease {
        Lease { boot: self.parts.boot, until_ms: self.lease_end() }
    }

    fn lease_end(&self) -> u64 {
        let lasts = u64::try_from(LEASE.as_millis()).unwrap_or(u64::MAX);
        self.parts.clock.now_ms().saturating_add(lasts)
    }

    /// Publishes jobs of which all is done, and which nobody came to publish: the process died, or the disk refused.
    async fn finish_jobs(&self) {
        let jobs = match self.parts.store.all_jobs() {
            Ok(jobs) => jobs,
            Err(error) => return tracing::error!(%error, "the queue cannot be read"),
        };
        for job in jobs.into_iter().filter(Job::is_done) {
            let key = (job.video, job.version);
            if lock(&self.running).contains_key(&key) {
                continue;
            }
            let under = self.enter(Claimed { job, task: 0 }, &CancellationToken::new());
            let outcome = under.forward().await;
            if let Err(error) = &outcome {
                under.give_up_later(error);
            }
            self.leave(&under, outcome.or(Ok(Outcome::Done))).await;
        }
    }

    async fn work(&self, claimed: Claimed, cancel: &CancellationToken) {
        let id = claimed.job.video;
        let under = self.enter(claimed, cancel);
        if under.claimed.job.plan.is_empty() {
            let state = Progress::of(&VideoState::Transcoding);
            self.tell(id, Progress { permille: Some(0), ..state });
        }
        let made = tokio::select! {
            made = under.run() => made,
            () = under.hold() => Err(MediaError::Cancelled),
        };
        if made.is_err() && cancel.is_cancelled() {
            // The stop of the server: the next start takes the task again.
            if let Err(error) = self.parts.store.release(&under.claimed) {
                tracing::error!(video = %id, %error, "a task could not be given back");
            }
            return;
        }
        let outcome = match made {
            Ok(()) => under.finish().await,
            Err(error) => Err(error),
        };
        self.leave(&under, outcome).await;
    }

    fn enter(&self, claimed: Claimed, cancel: &CancellationToken) -> Under<'_> {
        let mut running = lock(&self.running);
        let key = (claimed.job.video, claimed.job.version);
        let of = running
            .entry(key)
            .or_insert_with(|| Running { cancel: cancel.child_token(), ..Running::default() });
        of.tasks = of.tasks.saturating_add(1);
        let (cancel, assembly) = (of.cancel.child_token(), Arc::clone(&of.assembly));
        Under { library: self, claimed, cancel, assembly }
    }

    /// One task less; whether it was the last.
    fn stop_one(&self, key: Key) -> bool {
        let mut running = lock(&self.running);
        let Some(of) = running.get_mut(&key) else { return true };
        of.tasks = of.tasks.saturating_sub(1);
        let last = of.tasks == 0;
        if last {
            running.remove(&key);
        }
        last
    }

    /// Stops all that is under way for a title.
    pub(super) fn stop(&self, id: VideoId) {
        for (_, of) in lock(&self.running).iter().filter(|((of, _), _)| *of == id) {
            of.cancel.cancel();
        }
    }

    fn stop_version(&self, key: Key) {
        if let Some(of) = lock(&self.running).get(&key) {
            of.cancel.cancel();
        }
    }

    /// What becomes of a task's end.
    async fn leave(&self, under: &Under<'_>, outcome: Result<Outcome, MediaError>) {
        let job = &under.claimed.job;
        let gone = match outcome {
            Ok(Outcome::Done) => false,
            Ok(Outcome::Published) => true,
            Ok(Outcome::Gone) => true,
            Err(error) => self.set_back(under, &error),
        };
        if gone && self.is_over(job) {
            self.stop_version((job.video, job.version));
        }
        // The last one out: nobody writes there any more.
        if self.stop_one((job.video, job.version)) && self.is_over(job) {
            self.clear(job).await;
        }
        self.jobs.notify_waiters();
    }

    /// Whether the job's record is gone, for whatever reason.
    fn is_over(&self, job: &Job) -> bool {
        match self.parts.store.job(job.video) {
            Ok(found) => found.is_none_or(|of| of.version != job.version),
            Err(error) => {
                tracing::error!(%error, "the queue cannot be read");
                false
            }
        }
    }

    /// A task came to nothing; whether its job did. What the disk refused is tried again until it does not: no fault of the film.
    fn set_back(&self, under: &Under<'_>, error: &MediaError) -> bool {
        let id = under.claimed.job.video;
        let task = under.claimed.task();
        let attempt = task.map_or(0, |task| task.attempts);
        let what = task.map_or("", |task| &task.what);
        tracing::warn!(video = %id, what, attempt, %error, "a task came to nothing");
        let seconds = self.parts.options.retry_seconds;
        let wait = seconds.saturating_mul(u64::from(attempt).saturating_pow(2));
        let wait_ms = wait.min(RETRY_MAX_SECONDS).saturating_mul(1_000);
        let again = Some(self.parts.clock.now_ms().saturating_add(wait_ms));
        let ours = "Sluice could not work on this file. The operator's log tells why.".to_owned();
        let most = self.parts.options.attempts_max;
        let (retry, reason, most) = match error {
            MediaError::Source(reason) => (None, reason.clone(), most),
            MediaError::Worker(_) => (again, ours, most),
            MediaError::Io { .. } | MediaError::Cancelled => (again, ours, u32::MAX),
        };
        match self.parts.store.set_back(&under.claimed, &reason, retry, most) {
            Ok(Setback::Queued) => false,
            Ok(Setback::Failed) => {
                self.tell_state(id);
                true
            }
            Ok(Setback::Gone) => true,
            Err(error) => {
                tracing::error!(video = %id, %error, "could not be set back");
                false
            }
        }
    }
}

/// What is made, and with which options.
#[derive(Serialize, Deserialize)]
struct Planned {
    plan: Plan,
    options: media::Options,
}

/// How a task ended well.
enum Outcome {
    /// There is more to be done.
    Done,
    /// It was the last of its job.
    Published,
    /// The job is gone, or the task is somebody else's.
    Gone,
}

impl Under<'_> {
    /// Holds the task for as long as it takes; ends where it is lost.
    async fn hold(&self) {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            let library = self.library;
            match library.parts.store.renew(&self.claimed, library.lease_end()) {
                Ok(true) => {}
                Ok(false) => return,
                Err(error) => tracing::error!(%error, "a lease cannot be renewed"),
            }
        }
    }

    /// Does the task.
    async fn run(&self) -> Result<(), MediaError> {
        let what = self.claimed.task().map_or("", |task| task.what.as_str());
        if what == LOOK {
            return self.look().await;
        }
        let piece: Piece = serde_json::from_str(what).map_err(unreadable)?;
        let begun = Instant::now();
        match (self.make(&piece).await, &piece) {
            (Ok(()), _) => {}
            // A film can be watched without them.
            (Err(error), Piece::Extras) if !self.cancel.is_cancelled() => {
                tracing::warn!(video = %self.claimed.job.video, %error, "made without extras");
            }
            (Err(error), _) => return Err(error),
        }
        let seconds = begun.elapsed().as_secs();
        tracing::debug!(video = %self.claimed.job.video, ?piece, seconds, "made");
        Ok(())
    }

    /// Notes that the task is done, and publishes what that makes watchable. Nobody holds the task any more.
    async fn finish(&self) -> Result<Outcome, MediaError> {
        if self.claimed.task().is_some_and(|task| task.what == LOOK) {
            return Ok(Outcome::Done);
        }
        match self.library.parts.store.done(&self.claimed).map_err(unkept)? {
            Some(_) => match self.forward().await {
                Ok(outcome) => Ok(outcome),
                Err(error) => {
                    // It is done, whatever hinders its publication: that is tried again.
                    self.give_up_later(&error);
                    Ok(Outcome::Done)
                }
            },
            None => Ok(Outcome::Gone),
        }
    }

    /// What is whole could not be published: after some tries it never will be.
    fn give_up_later(&self, error: &MediaError) {
        let job = &self.claimed.job;
        tracing::error!(video = %job.video, %error, "what was made could not be published");
        if matches!(error, MediaError::Io { .. }) {
            return;
        }
        let reason = "Sluice could not publish this film. The operator's log tells why.";
        if let Err(error) = self.library.parts.store.cancel(job.video, reason) {
            tracing::error!(video = %job.video, %error, "could not be given up");
        }
        self.library.tell_state(job.video);
    }

    /// Looks at the source and plans.
    async fn look(&self) -> Result<(), MediaError> {
        let parts = &self.library.parts;
        let job = &self.claimed.job;
        let key = (job.video, job.version);
        // Nothing can be there of this version but by a fault: then it is not of this source.
        let dir = self.library.work_dir(key);
        remove_dir(&dir).await.map_err(io("clearing the work directory"))?;
        parts.blobs.keep_only(job.video, job.version, &[]).await.map_err(|error| {
            MediaError::Io { what: "clearing a version", source: std::io::Error::other(error) }
        })?;
        let name = self.library.own_source(job).await?;
        let source = parts.spool.join(&name);
        let options = parts.media.clone();
        let survey = parts.transcoder.survey(source, options, self.cancel.clone()).await?;
        tracing::info!(video = %self.claimed.job.video, probe = ?survey.probe, "looked at");
        let plan = Plan::of(&survey, &parts.media)?;
        let early = parts.options.early;
        let pieces = plan.pieces(parts.options.chunk_seconds, early);
        // What makes a title watchable goes before all that only makes it better, whosever it is.
        let first = pieces.iter().find_map(pictured);
        let mut tasks = Vec::new();
        for piece in &pieces {
            let later = early && pictured(piece).is_some_and(|of| Some(of) != first);
            let rank = u8::from(later);
            tasks.push(Task::new(serde_json::to_string(piece).map_err(unreadable)?, rank));
        }
        // All pieces are made with the options of now, whatever the operator changes before the last of them.
        let planned = Planned { plan, options: parts.media.clone() };
        let planned = serde_json::to_string(&planned).map_err(unreadable)?;
        // Where the job is gone, whoever ended it removes what is there.
        parts.store.planned(&self.claimed, &name, &planned, tasks).map_err(unkept)?;
        Ok(())
    }

    fn planned(&self) -> Result<Planned, MediaError> {
        serde_json::from_str(&self.claimed.job.plan).map_err(unreadable)
    }

    async fn assembly(&self) -> Result<Arc<Assembly>, MediaError> {
        let open = || async {
            let (parts, job) = (&self.library.parts, &self.claimed.job);
            let Planned { plan, .. } = self.planned()?;
            let key = (job.video, job.version);
            let work = self.library.work_dir(key);
            let transcoder = Arc::clone(&parts.transcoder);
            let assembly =
                Assembly::open(key, plan, &work, parts.blobs.clone(), transcoder).await?;
            if parts.store.media(job.video, job.version).map_err(unkept)?.is_some() {
                assembly.set_watched();
            }
            Ok(Arc::new(assembly))
        };
        self.assembly.get_or_try_init(open).await.cloned()
    }

    async fn make(&self, piece: &Piece) -> Result<(), MediaError> {
        let assembly = self.assembly().await?;
        self.tell_progress(&assembly);
        let Some(piece) = assembly.missing(piece) else { return Ok(()) };
        let (parts, job) = (&self.library.parts, &self.claimed.job);
        let work = self.library.work_dir((job.video, job.version));
        let output = work.join(self.claimed.task.to_string());
        if fs::try_exists(&output).await.unwrap_or(false) {
            fs::remove_dir_all(&output).await.map_err(io("clearing the work directory"))?;
        }
        fs::create_dir_all(&output).await.map_err(io("making the work directory"))?;
        let source = parts.spool.join(&job.source);
        if piece == Piece::Extras {
            let key = (job.video, job.version);
            let of = (assembly.plan.timeline.duration(), assembly.plan.pictures.is_some());
            let cancel = self.cancel.clone();
            let made = self.library.make_extras(key, of, &source, &output, cancel).await;
            return made.map_err(|error| MediaError::Worker(error.to_string()));
        }
        let made_with = self.planned()?.options;
        let (crf, preset) = (made_with.crf, made_with.preset);
        let options = media::Options { crf, preset, ..parts.media.clone() };
        let plan = assembly.plan.clone();
        let order = Order { source, output: output.clone(), options, plan, piece };
        let mut keeper = Keeper { under: self, assembly: &assembly, output: &output };
        parts.transcoder.work(order, &mut keeper, self.cancel.clone()).await?;
        fs::remove_dir_all(&output).await.map_err(io("clearing the work directory"))
    }

    fn tell_progress(&self, assembly: &Assembly) {
        let renditions = assembly.progress();
        let sum = renditions.iter().fold(0_u64, |sum, of| sum.saturating_add(of.permille.into()));
        let count = u64::try_from(renditions.len()).unwrap_or(u64::MAX).max(1);
        let permille = u32::try_from(sum.checked_div(count).unwrap_or_default()).ok();
        let state = if assembly.is_watched() { VideoState::Ready } else { VideoState::Transcoding };
        let told = Progress { permille, renditions, ..Progress::of(&state) };
        self.library.tell(self.claimed.job.video, told);
    }

    /// Publishes what can be watched, where that is due.
    async fn forward(&self) -> Result<Outcome, MediaError> {
        let library = self.library;
        let store = &library.parts.store;
        let id = self.claimed.job.video;
        let Some(job) = store.job(id).map_err(unkept)? else { return Ok(Outcome::Gone) };
        if job.version != self.claimed.job.version {
            return Ok(Outcome::Gone);
        }
        let whole = job.is_done();
        // It can be watched without what lies around it, and early in its first rendition.
        let extras = serde_json::to_string(&Piece::Extras).map_err(unreadable)?;
        let mut due = job.tasks.iter().filter(|task| task.rank == 0 && task.what != extras);
        if !whole && !due.all(|task| task.state == TaskState::Done) {
            return Ok(Outcome::Done);
        }
        let assembly = self.assembly().await?;
        if !whole && assembly.is_watched() {
            return Ok(Outcome::Done);
        }
        let media = assembly.media().await?;
        let is_whole = media.as_ref().is_some_and(|media| assembly.is_whole(media));
        let early = !whole && library.parts.options.early;
        let media = match media {
            Some(media) if is_whole || early => media,
            _ => return self.redo(&job),
        };
        let now = library.parts.clock.now_ms();
        match store.publish(&job, &media, whole, now).map_err(unkept)? {
            Change::Done(video) => {
                let segments = media.timeline.segments();
                let renditions = media.renditions.len();
                let what = if assembly.is_watched() { "all of it is made" } else { "published" };
                tracing::info!(video = %id, version = %job.version, segments, renditions, "{what}");
                library.shelf.changed(id);
                if whole {
                    library.tell(id, Progress::of(video.making_state()));
                    return Ok(Outcome::Published);
                }
                assembly.set_watched();
                Ok(Outcome::Done)
            }
            Change::Missing | Change::Refused(_) => Ok(Outcome::Gone),
        }
    }
}

impl Under<'_> {
    /// All tasks were done and something is not there: a power cut took parts that were not joined, or somebody removed it. Parts are not synced,
    /// since that would cost each film more than this costs one in a thousand.
    fn redo(&self, job: &Job) -> Result<Outcome, MediaError> {
        let store = &self.library.parts.store;
        tracing::error!(video = %job.video, "parts that were made are gone: they are made again");
        let most = self.library.parts.options.attempts_max;
        if job.tasks.iter().any(|task| task.attempts >= most) {
            let reason = "Parts of it were lost. Send the file again.";
            store.cancel(job.video, reason).map_err(unkept)?;
            self.library.tell_state(job.video);
            return Ok(Outcome::Gone);
        }
        match store.redo(job).map_err(unkept)? {
            Some(_) => Ok(Outcome::Done),
            None => Ok(Outcome::Gone),
        }
    }
}

/// Keeps each part the moment it is done.
struct Keeper<'a> {
    under: &'a Under<'a>,
    assembly: &'a Assembly,
    output: &'a std::path::Path,
}

#[async_trait]
impl Sink for Keeper<'_> {
    async fn told(&mut self, told: Told) -> Result<(), MediaError> {
        let (key, file) = match told {
            Told::Init { rendition, file, .. } => ((rendition, None), file),
            Told::Segment { rendition, number, file, .. } => ((rendition, Some(number)), file),
            _ => return Ok(()),
        };
        self.assembly.take(key, &self.output.join(file)).await?;
        self.under.tell_progress(self.assembly);
        Ok(())
    }
}

/// The renditions that a piece makes pictures of.
fn pictured(piece: &Piece) -> Option<&[RenditionName]> {
    match piece {
        Piece::Pictures { renditions, .. } => Some(renditions),
        Piece::Copied { rendition } => Some(std::slice::from_ref(rendition)),
        Piece::Sound | Piece::Extras => None,
    }
}

fn unreadable(error: serde_json::Error) -> MediaError {
    MediaError::Worker(format!("a job's record cannot be read: {error}"))
}

fn unkept(error: crate::store::Error) -> MediaError {
    MediaError::Io { what: "the queue", source: std::io::Error::other(error) }
}
