//! Creators, keys, titles and jobs. Keys in [`Table::Catalog`]: `creator/{id}`, `key/{hash}`, `video/{id}`, `media/{id}/{version}`; in
//! [`Table::Jobs`]: `{queued_ms, 16 hex digits}/{video}`, so that a scan gives the oldest first.

use super::engine::{Engine, Op, Store, Table, put};
use super::payouts::setbacks_key;
use super::{
    Catalog, Change, Creator, Durability, Error, Job, Jobs, KeyHash, Lease, Role, Setback,
    VideoEdit,
};
use crate::domain::destination::Destination;
use crate::domain::id::{CreatorId, Version, VideoId};
use crate::domain::video::{Media, Video, VideoState};
use crate::runtime::lock;

impl<E: Engine> Store<E> {
    fn save(&self, ops: Vec<Op>) -> Result<(), Error> {
        self.engine.write(ops, Durability::Disk)
    }

    /// Moves a title on together with other changes.
    fn advance_with(
        &self,
        id: VideoId,
        next: VideoState,
        ops: Vec<Op>,
    ) -> Result<Change<Video>, Error> {
        let Some(mut video) = self.read::<Video>(Table::Catalog, video_key(id))? else {
            return Ok(Change::Missing);
        };
        if !video.state.allows(&next) {
            return Ok(Change::Refused(video.state));
        }
        video.state = next;
        let mut batch = vec![put(Table::Catalog, video_key(id), &video)?];
        batch.extend(ops);
        self.save(batch)?;
        Ok(Change::Done(video))
    }
}

impl<E: Engine> Catalog for Store<E> {
    fn create_creator(&self, creator: &Creator, key: KeyHash) -> Result<(), Error> {
        let _guard = lock(&self.catalog);
        self.save(vec![
            put(Table::Catalog, creator_key(creator.id), creator)?,
            put(Table::Catalog, key_key(key), &Role::Creator(creator.id))?,
        ])
    }

    fn creator(&self, id: CreatorId) -> Result<Option<Creator>, Error> {
        self.read(Table::Catalog, creator_key(id))
    }

    fn creators(&self) -> Result<Vec<Creator>, Error> {
        self.read_all(Table::Catalog, "creator/")
    }

    fn edit_creator(
        &self,
        id: CreatorId,
        name: Option<String>,
        payout: Option<(Destination, u64)>,
    ) -> Result<Option<Creator>, Error> {
        let _guard = lock(&self.catalog);
        let Some(mut creator) = self.creator(id)? else { return Ok(None) };
        if let Some(name) = name {
            creator.name = name;
        }
        let mut batch = Vec::new();
        // An outcome that is booked meanwhile counts its setbacks from what is written here.
        let _money = lock(&self.money);
        match payout {
            Some((to, from_ms)) if creator.payout.as_ref() == Some(&to) => {
                creator.payout_from_ms = creator.payout_from_ms.min(from_ms);
            }
            Some((to, from_ms)) => {
                // The first one replaces nothing that a thief could take away.
                creator.payout_from_ms = if creator.payout.is_some() { from_ms } else { 0 };
                creator.payout = Some(to);
                batch.push(Op::Delete(Table::Payouts, setbacks_key(id).into_bytes()));
            }
            None => {}
        }
        batch.push(put(Table::Catalog, creator_key(id), &creator)?);
        self.save(batch)?;
        Ok(Some(creator))
    }

    fn grant(&self, key: KeyHash, role: Role) -> Result<(), Error> {
        let _guard = lock(&self.catalog);
        self.save(vec![put(Table::Catalog, key_key(key), &role)?])
    }

    fn role(&self, key: KeyHash) -> Result<Option<Role>, Error> {
        self.read(Table::Catalog, key_key(key))
    }

    fn create_video(&self, video: &Video) -> Result<(), Error> {
        let _guard = lock(&self.catalog);
        self.save(vec![put(Table::Catalog, video_key(video.id), video)?])
    }

    fn video(&self, id: VideoId) -> Result<Option<Video>, Error> {
        self.read(Table::Catalog, video_key(id))
    }

    fn videos(
        &self,
        of: Option<CreatorId>,
        after: Option<VideoId>,
        limit: usize,
    ) -> Result<Vec<Video>, Error> {
        /// Titles read at once while looking for those of one creator.
        const PAGE: usize = 256;
        let mut after = after.map(video_key).map(String::into_bytes);
        let mut found = Vec::new();
        loop {
            let rows = self.engine.scan(Table::Catalog, b"video/", after.as_deref(), PAGE)?;
            for (_, value) in &rows {
                let video: Video = super::engine::decode(value)?;
                if of.is_none_or(|creator| creator == video.creator) {
                    found.push(video);
                }
                if found.len() >= limit {
                    return Ok(found);
                }
            }
            match rows.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => return Ok(found),
            }
        }
    }

    fn edit_video(&self, id: VideoId, edit: VideoEdit) -> Result<Option<Video>, Error> {
        let _guard = lock(&self.catalog);
        let Some(mut video) = self.video(id)? else { return Ok(None) };
        video.title = edit.title.unwrap_or(video.title);
        video.description = edit.description.unwrap_or(video.description);
        video.price = edit.price.unwrap_or(video.price);
        video.preview_seconds = edit.preview_seconds.unwrap_or(video.preview_seconds);
        self.save(vec![put(Table::Catalog, video_key(id), &video)?])?;
        Ok(Some(video))
    }

    fn advance(&self, id: VideoId, next: VideoState) -> Result<Change<Video>, Error> {
        let _guard = lock(&self.catalog);
        self.advance_with(id, next, Vec::new())
    }

    fn delete_video(&self, id: VideoId) -> Result<Option<Video>, Error> {
        let _guard = lock(&self.catalog);
        let Some(video) = self.video(id)? else { return Ok(None) };
        let mut batch = vec![Op::Delete(Table::Catalog, video_key(id).into_bytes())];
        let media = format!("media/{id}/");
        for (key, _) in self.engine.scan(Table::Catalog, media.as_bytes(), None, usize::MAX)? {
            batch.push(Op::Delete(Table::Catalog, key));
        }
        for job in self.read_all::<Job>(Table::Jobs, "")?.iter().filter(|job| job.video == id) {
            batch.push(Op::Delete(Table::Jobs, job_key(job).into_bytes()));
        }
        self.save(batch)?;
        Ok(Some(video))
    }

    fn media(&self, id: VideoId, version: Version) -> Result<Option<Media>, Error> {
        self.read(Table::Catalog, media_key(id, version))
    }
}

impl<E: Engine> Jobs for Store<E> {
    fn enqueue(&self, job: &Job) -> Result<Change<Video>, Error> {
        let _guard = lock(&self.catalog);
        let ops = vec![put(Table::Jobs, job_key(job), job)?];
        self.advance_with(job.video, VideoState::Queued, ops)
    }

    fn claim(&self, lease: Lease, now_ms: u64) -> Result<Option<Job>, Error> {
        let _guard = lock(&self.catalog);
        let held = |job: &Job| {
            job.lease.as_ref().is_some_and(|of| of.boot == lease.boot && of.until_ms > now_ms)
        };
        let jobs = self.read_all::<Job>(Table::Jobs, "")?;
        let Some(mut job) = jobs.into_iter().find(|job| !held(job)) else { return Ok(None) };
        job.attempts = job.attempts.saturating_add(1);
        job.lease = Some(lease);
        let ops = vec![put(Table::Jobs, job_key(&job), &job)?];
        match self.advance_with(job.video, VideoState::Transcoding, ops)? {
            Change::Done(_) => Ok(Some(job)),
            Change::Missing | Change::Refused(_) => {
                // A job without a title that could use it: drop it, the next claim looks at the next one.
                self.save(vec![Op::Delete(Table::Jobs, job_key(&job).into_bytes())])?;
                Ok(None)
            }
        }
    }

    fn publish(&self, job: &Job, media: &Media) -> Result<Change<Video>, Error> {
        let _guard = lock(&self.catalog);
        let ops = vec![
            put(Table::Catalog, media_key(job.video, media.version), media)?,
            Op::Delete(Table::Jobs, job_key(job).into_bytes()),
        ];
        self.advance_with(job.video, VideoState::Ready, ops)
    }

    fn set_back(
        &self,
        job: &Job,
        reason: &str,
        retry: bool,
        attempts_max: u32,
    ) -> Result<Setback, Error> {
        let _guard = lock(&self.catalog);
        let again = retry && job.attempts < attempts_max;
        let (next, ops) = if again {
            let waiting = Job { lease: None, ..job.clone() };
            (VideoState::Queued, vec![put(Table::Jobs, job_key(job), &waiting)?])
        } else {
            let gone = Op::Delete(Table::Jobs, job_key(job).into_bytes());
            (VideoState::Failed { reason: reason.to_owned() }, vec![gone])
        };
        Ok(match self.advance_with(job.video, next, ops)? {
            Change::Done(_) if again => Setback::Queued,
            Change::Done(_) => Setback::Failed,
            Change::Missing | Change::Refused(_) => Setback::Gone,
        })
    }
}

fn creator_key(id: CreatorId) -> String {
    format!("creator/{id}")
}

fn key_key(key: KeyHash) -> String {
    format!("key/{}", hex::encode(key.0))
}

fn video_key(id: VideoId) -> String {
    format!("video/{id}")
}

fn media_key(id: VideoId, version: Version) -> String {
    format!("media/{id}/{version}")
}

fn job_key(job: &Job) -> String {
    format!("{:016x}/{}", job.queued_ms, job.video)
}
