//! Jobs and their tasks. Keys in [`Table::Jobs`]: `{queued_ms, 16 hex digits}/{video}`, so that a scan gives the oldest first. A title has one job at
//! most; all of its tasks are in one record, which for the longest film has some hundreds.

use std::collections::HashMap;

use super::catalog::media_key;
use super::engine::{Engine, Op, Store, Table, put};
use super::{
    Catalog as _, Change, Claimed, Durability, Error, Job, Jobs, Lease, Retired, Setback, Task,
    TaskState,
};
use crate::domain::id::{CreatorId, Version, VideoId};
use crate::domain::video::{Media, Video, VideoState};
use crate::runtime::lock;

/// When creators were last given a task, counted in tasks. Not kept: a restart begins anew.
#[derive(Debug, Default)]
pub(super) struct Turns {
    given: u64,
    last: HashMap<CreatorId, u64>,
}

impl<E: Engine> Store<E> {
    pub(super) fn job_of(&self, video: VideoId) -> Result<Option<Job>, Error> {
        let jobs = self.read_all::<Job>(Table::Jobs, "")?;
        Ok(jobs.into_iter().find(|job| job.video == video))
    }

    /// The job of a claim as it is now, where the task is still held by whom it was claimed.
    fn held(&self, claimed: &Claimed) -> Result<Option<Job>, Error> {
        let Some(job) = self.read::<Job>(Table::Jobs, job_key(&claimed.job))? else {
            return Ok(None);
        };
        let boot = |task: Option<&Task>| match task.map(|task| &task.state) {
            Some(TaskState::Held(lease)) => Some(lease.boot),
            _ => None,
        };
        let same = boot(job.tasks.get(claimed.task)).is_some_and(|held| {
            Some(held) == boot(claimed.task()) && job.version == claimed.job.version
        });
        // A claim that ran out and was taken again is another one.
        let attempts = |task: Option<&Task>| task.map(|task| task.attempts);
        let again = attempts(job.tasks.get(claimed.task)) != attempts(claimed.task());
        Ok((same && !again).then_some(job))
    }

    /// Whether what a job makes can be watched already.
    fn is_published(&self, job: &Job) -> Result<bool, Error> {
        let video = self.video(job.video)?;
        Ok(video.is_some_and(|of| of.state == VideoState::Ready && of.version == job.version))
    }

    /// Ends a job: a version that is not published fails.
    fn end(&self, job: &Job, reason: &str) -> Result<(), Error> {
        let gone = Op::Delete(Table::Jobs, job_key(job).into_bytes());
        if self.is_published(job)? {
            return self.save(vec![gone]);
        }
        let failed = VideoState::Failed { reason: reason.to_owned() };
        match self.advance_with(job.video, failed, vec![gone.clone()])? {
            Change::Done(_) => Ok(()),
            Change::Missing | Change::Refused(_) => self.save(vec![gone]),
        }
    }
}

impl<E: Engine> Jobs for Store<E> {
    fn enqueue(&self, job: &Job) -> Result<Change<Video>, Error> {
        let _guard = lock(&self.catalog);
        let ops = vec![put(Table::Jobs, job_key(job), job)?];
        self.advance_with(job.video, VideoState::Queued, ops)
    }

    fn job(&self, video: VideoId) -> Result<Option<Job>, Error> {
        self.job_of(video)
    }

    fn all_jobs(&self) -> Result<Vec<Job>, Error> {
        self.read_all(Table::Jobs, "")
    }

    fn claim(&self, lease: Lease, now_ms: u64) -> Result<Option<Claimed>, Error> {
        let mut turns = lock(&self.catalog);
        let held = |task: &Task| matches!(&task.state, TaskState::Held(of) if of.boot == lease.boot && of.until_ms > now_ms);
        let free = |task: &Task| {
            !held(task) && task.state != TaskState::Done && task.not_before_ms <= now_ms
        };
        loop {
            let jobs = self.read_all::<Job>(Table::Jobs, "")?;
            let mut busy = HashMap::new();
            for job in &jobs {
                let tasks = job.tasks.iter().filter(|task| held(task)).count();
                let busy = busy.entry(job.creator).or_insert(0_usize);
                *busy = busy.saturating_add(tasks);
            }
            let tasks = jobs.iter().enumerate().flat_map(|(order, job)| {
                let tasks = job.tasks.iter().enumerate();
                tasks.map(move |(index, task)| (order, job, index, task))
            });
            turns.last.retain(|creator, _| busy.contains_key(creator));
            let first =
                tasks.filter(|(.., task)| free(task)).min_by_key(|(order, job, index, task)| {
                    let last = turns.last.get(&job.creator).copied();
                    (task.rank, busy.get(&job.creator), last, *order, *index)
                });
            let Some((_, job, index, _)) = first else { return Ok(None) };
            let mut job = job.clone();
            turns.given = turns.given.saturating_add(1);
            let given = turns.given;
            turns.last.insert(job.creator, given);
            if let Some(task) = job.tasks.get_mut(index) {
                task.attempts = task.attempts.saturating_add(1);
                task.state = TaskState::Held(lease.clone());
            }
            let ops = vec![put(Table::Jobs, job_key(&job), &job)?];
            if self.is_published(&job)? {
                self.save(ops)?;
                return Ok(Some(Claimed { job, task: index }));
            }
            match self.advance_with(job.video, VideoState::Transcoding, ops)? {
                Change::Done(_) => return Ok(Some(Claimed { job, task: index })),
                // A job without a title that could use it.
                Change::Missing | Change::Refused(_) => {
                    self.save(vec![Op::Delete(Table::Jobs, job_key(&job).into_bytes())])?;
                }
            }
        }
    }

    fn renew(&self, claimed: &Claimed, until_ms: u64) -> Result<bool, Error> {
        let _guard = lock(&self.catalog);
        let Some(mut job) = self.held(claimed)? else { return Ok(false) };
        if let Some(TaskState::Held(lease)) = job.tasks.get_mut(claimed.task).map(|t| &mut t.state)
        {
            lease.until_ms = until_ms;
        }
        let ops = vec![put(Table::Jobs, job_key(&job), &job)?];
        // Lost with a power cut, it has run out, and so has the start that held it.
        self.engine.write(ops, Durability::Process)?;
        Ok(true)
    }

    fn planned(
        &self,
        claimed: &Claimed,
        source: &str,
        plan: &str,
        tasks: Vec<Task>,
    ) -> Result<Option<Job>, Error> {
        let _guard = lock(&self.catalog);
        let Some(job) = self.held(claimed)? else { return Ok(None) };
        let job = Job { source: source.to_owned(), plan: plan.to_owned(), tasks, ..job };
        self.save(vec![put(Table::Jobs, job_key(&job), &job)?])?;
        Ok(Some(job))
    }

    fn done(&self, claimed: &Claimed) -> Result<Option<Job>, Error> {
        let _guard = lock(&self.catalog);
        let Some(mut job) = self.held(claimed)? else { return Ok(None) };
        if let Some(task) = job.tasks.get_mut(claimed.task) {
            task.state = TaskState::Done;
        }
        self.save(vec![put(Table::Jobs, job_key(&job), &job)?])?;
        Ok(Some(job))
    }

    fn redo(&self, job: &Job) -> Result<Option<Job>, Error> {
        let _guard = lock(&self.catalog);
        let Some(mut job) = self.read::<Job>(Table::Jobs, job_key(job))? else { return Ok(None) };
        for task in job.tasks.iter_mut().filter(|task| task.state == TaskState::Done) {
            task.state = TaskState::Waiting;
        }
        self.save(vec![put(Table::Jobs, job_key(&job), &job)?])?;
        Ok(Some(job))
    }

    fn publish(
        &self,
        job: &Job,
        media: &Media,
        whole: bool,
        now_ms: u64,
    ) -> Result<Change<Video>, Error> {
        let _guard = lock(&self.catalog);
        let Some(video) = self.video(job.video)? else { return Ok(Change::Missing) };
        let Some(now) = self.read::<Job>(Table::Jobs, job_key(job))? else {
            return Ok(Change::Refused(video.making_state().clone()));
        };
        if now.version != job.version {
            return Ok(Change::Refused(video.making_state().clone()));
        }
        let mut ops = vec![put(Table::Catalog, media_key(job.video, media.version), media)?];
        if whole {
            ops.push(Op::Delete(Table::Jobs, job_key(job).into_bytes()));
        }
        if self.is_published(job)? {
            self.save(ops)?;
            return Ok(Change::Done(video));
        }
        if video.state == VideoState::Ready {
            let old = Retired { video: video.id, version: video.version, at_ms: now_ms };
            ops.push(put(Table::Catalog, retired_key(old.video, old.version), &old)?);
        }
        self.advance_with(job.video, VideoState::Ready, ops)
    }

    fn set_back(
        &self,
        claimed: &Claimed,
        reason: &str,
        retry_ms: Option<u64>,
        attempts_max: u32,
    ) -> Result<Setback, Error> {
        let _guard = lock(&self.catalog);
        let Some(mut job) = self.held(claimed)? else { return Ok(Setback::Gone) };
        if let Some(task) = job.tasks.get_mut(claimed.task)
            && let Some(retry_ms) = retry_ms
            && task.attempts < attempts_max
        {
            task.state = TaskState::Waiting;
            task.not_before_ms = retry_ms;
            let ops = vec![put(Table::Jobs, job_key(&job), &job)?];
            let idle = !job.tasks.iter().any(|task| matches!(task.state, TaskState::Held(_)));
            if idle && !self.is_published(&job)? {
                return Ok(match self.advance_with(job.video, VideoState::Queued, ops)? {
                    Change::Done(_) => Setback::Queued,
                    Change::Missing | Change::Refused(_) => Setback::Gone,
                });
            }
            self.save(ops)?;
            return Ok(Setback::Queued);
        }
        self.end(&job, reason)?;
        Ok(Setback::Failed)
    }

    fn release(&self, claimed: &Claimed) -> Result<(), Error> {
        let _guard = lock(&self.catalog);
        let Some(mut job) = self.held(claimed)? else { return Ok(()) };
        if let Some(task) = job.tasks.get_mut(claimed.task) {
            task.state = TaskState::Waiting;
            task.attempts = task.attempts.saturating_sub(1);
        }
        self.save(vec![put(Table::Jobs, job_key(&job), &job)?])
    }

    fn cancel(&self, video: VideoId, reason: &str) -> Result<Option<Job>, Error> {
        let _guard = lock(&self.catalog);
        let Some(job) = self.job_of(video)? else { return Ok(None) };
        self.end(&job, reason)?;
        Ok(Some(job))
    }

    fn retired(&self, before_ms: u64) -> Result<Vec<Retired>, Error> {
        let mut retired = self.read_all::<Retired>(Table::Catalog, "retired/")?;
        retired.retain(|of| of.at_ms < before_ms);
        Ok(retired)
    }

    fn forget(&self, retired: &Retired) -> Result<(), Error> {
        let _guard = lock(&self.catalog);
        let (video, version) = (retired.video, retired.version);
        self.save(vec![
            Op::Delete(Table::Catalog, media_key(video, version).into_bytes()),
            Op::Delete(Table::Catalog, retired_key(video, version).into_bytes()),
        ])
    }

    fn deleted(&self) -> Result<Vec<VideoId>, Error> {
        self.read_all(Table::Catalog, "deleted/")
    }

    fn removed(&self, video: VideoId) -> Result<(), Error> {
        let _guard = lock(&self.catalog);
        self.save(vec![Op::Delete(Table::Catalog, deleted_key(video).into_bytes())])
    }
}

pub(super) fn deleted_key(video: VideoId) -> String {
    format!("deleted/{video}")
}

pub(super) fn job_key(job: &Job) -> String {
    format!("{:016x}/{}", job.queued_ms, job.video)
}

fn retired_key(video: VideoId, version: Version) -> String {
    format!("retired/{video}/{version}")
}
