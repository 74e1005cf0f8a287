//! Whether there is room for a source: its size, its creator's quotas, the disk.

use std::time::Duration;

use super::record::{Record, Stage, sources};
use crate::domain::id::{CreatorId, VideoId};
use crate::domain::video::{Video, VideoState};
use crate::library::{Error, Library};

impl Library {
    pub(super) fn check_size(&self, length: Option<u64>) -> Result<(), Error> {
        let max = self.parts.options.source_bytes_max;
        if length.is_some_and(|bytes| bytes > max) {
            return Err(Error::TooLarge { max });
        }
        Ok(())
    }

    /// Whether a creator may bring an upload of which so much is there, and the disk can take it beside all that is announced.
    pub(super) fn check_room(
        &self,
        video: &Video,
        length: Option<u64>,
        there: u64,
    ) -> Result<(), Error> {
        let options = self.uploads.limits.options();
        let all = length.unwrap_or_default();
        let wanted = all.saturating_sub(there);
        self.uploads.limits.check_day(video.creator, wanted, self.parts.clock.now_ms())?;
        let (mut unfinished, mut to_come) = (0_usize, 0_u64);
        for upload in self.uploads.all() {
            let record = upload.record();
            // The one that is replaced makes room.
            if record.video == video.id {
                continue;
            }
            let arriving = record.stage == Stage::Arriving;
            if arriving {
                let left = record.length.unwrap_or_default().saturating_sub(upload.offset());
                to_come = to_come.saturating_add(left);
            }
            if record.creator == video.creator {
                unfinished = unfinished.saturating_add(usize::from(arriving));
            }
        }
        if unfinished >= options.unfinished_per_creator_max {
            return Err(Error::Quota {
                retry_after: Duration::from_secs(60),
                detail: format!(
                    "{unfinished} of your uploads are unfinished, as many as this server keeps: finish or \
                     end some first"
                ),
            });
        }
        self.check_spool(self.spooled(video.creator, video.id)?, all)?;
        self.check_disk(to_come.saturating_add(wanted))
    }

    /// Whether a creator's sources may have so much beside what others of them have.
    pub(super) fn check_spool(&self, others: u64, all: u64) -> Result<(), Error> {
        let max = self.uploads.limits.options().spool_bytes_per_creator_max;
        if others.saturating_add(all) > max {
            return Err(Error::SpoolQuota { max });
        }
        Ok(())
    }

    /// What the sources of a creator have in the spool, announced or there, but for those of one title. A source that was handed over counts for as
    /// long as it is there, however long it waits; what the operator keeps of titles that are made is the operator's.
    pub(super) fn spooled(&self, creator: CreatorId, but: VideoId) -> Result<u64, Error> {
        let mut spooled = 0_u64;
        let mut counted = vec![but];
        for upload in self.uploads.all() {
            let Record { video, creator: of, stage, .. } = upload.record();
            if of != creator || video == but {
                continue;
            }
            spooled = spooled.saturating_add(upload.takes());
            if !matches!(stage, Stage::Handed { .. }) {
                counted.push(video);
            }
        }
        for (video, bytes) in sources(&self.parts.spool) {
            if counted.contains(&video) {
                continue;
            }
            let Some(video) = self.parts.store.video(video)? else { continue };
            let kept =
                self.parts.options.keep_sources && *video.making_state() == VideoState::Ready;
            if video.creator == creator && !kept {
                spooled = spooled.saturating_add(bytes);
            }
        }
        Ok(spooled)
    }

    /// Whether the disk has the room that is kept free.
    pub(in crate::library) fn has_room(&self) -> bool {
        self.check_disk(0).is_ok()
    }

    /// Whether the disk keeps what it must keep free beside bytes that are to come.
    pub(super) fn check_disk(&self, to_come: u64) -> Result<(), Error> {
        let io = |source| Error::Io { what: "looking for space", source };
        let free = self.uploads.disk.free_bytes(&self.parts.spool).map_err(io)?;
        let min = self.uploads.limits.options().free_bytes_min;
        if free.saturating_sub(to_come) < min {
            tracing::warn!(free_bytes = free, to_come_bytes = to_come, "no room for uploads");
            return Err(Error::StorageFull);
        }
        Ok(())
    }
}
