//! Creators, keys and titles. Keys in [`Table::Catalog`]: `creator/{id}`, `key/{hash}`, `video/{id}`, `media/{id}/{version}`,
//! `retired/{id}/{version}`, `deleted/{id}`.

use super::engine::{Engine, Op, Store, Table, put};
use super::payouts::setbacks_key;
use super::{Catalog, Change, Creator, Durability, Error, KeyHash, Role, VideoEdit};
use crate::domain::destination::Destination;
use crate::domain::id::{CreatorId, Version, VideoId};
use crate::domain::video::{Media, Video, VideoState};
use crate::runtime::lock;

impl<E: Engine> Store<E> {
    pub(super) fn save(&self, ops: Vec<Op>) -> Result<(), Error> {
        self.engine.write(ops, Durability::Disk)
    }

    /// Moves the version in the making on together with other changes.
    pub(super) fn advance_with(
        &self,
        id: VideoId,
        to: VideoState,
        ops: Vec<Op>,
    ) -> Result<Change<Video>, Error> {
        let Some(mut video) = self.read::<Video>(Table::Catalog, video_key(id))? else {
            return Ok(Change::Missing);
        };
        if let Err(state) = video.move_on(to) {
            return Ok(Change::Refused(state));
        }
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
        video.source_sha256 = edit.source_sha256.or(video.source_sha256);
        self.save(vec![put(Table::Catalog, video_key(id), &video)?])?;
        Ok(Some(video))
    }

    fn advance(&self, id: VideoId, next: VideoState) -> Result<Change<Video>, Error> {
        let _guard = lock(&self.catalog);
        // A version that is served already may still lack renditions: another source waits until they are made.
        if next == VideoState::Uploading && self.job_of(id)?.is_some() {
            return Ok(Change::Refused(VideoState::Transcoding));
        }
        self.advance_with(id, next, Vec::new())
    }

    fn delete_video(&self, id: VideoId) -> Result<Option<Video>, Error> {
        let _guard = lock(&self.catalog);
        let Some(video) = self.video(id)? else { return Ok(None) };
        let mut batch = vec![
            Op::Delete(Table::Catalog, video_key(id).into_bytes()),
            put(Table::Catalog, super::jobs::deleted_key(id), &id)?,
        ];
        for prefix in [format!("media/{id}/"), format!("retired/{id}/")] {
            for (key, _) in self.engine.scan(Table::Catalog, prefix.as_bytes(), None, usize::MAX)? {
                batch.push(Op::Delete(Table::Catalog, key));
            }
        }
        if let Some(job) = self.job_of(id)? {
            batch.push(Op::Delete(Table::Jobs, super::jobs::job_key(&job).into_bytes()));
        }
        self.save(batch)?;
        Ok(Some(video))
    }

    fn media(&self, id: VideoId, version: Version) -> Result<Option<Media>, Error> {
        self.read(Table::Catalog, media_key(id, version))
    }
}

fn creator_key(id: CreatorId) -> String {
    format!("creator/{id}")
}

fn key_key(key: KeyHash) -> String {
    format!("key/{}", hex::encode(key.0))
}

pub(super) fn video_key(id: VideoId) -> String {
    format!("video/{id}")
}

pub(super) fn media_key(id: VideoId, version: Version) -> String {
    format!("media/{id}/{version}")
}
