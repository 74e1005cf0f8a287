//! How much one creator may send, and what the disk must keep free.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::super::Error;
use crate::domain::id::CreatorId;
use crate::runtime::lock;
use crate::runtime::slots::{Full, Slot, Slots};

const DAY_MS: u64 = 86_400_000;
/// A creator whose rate is bounded may be this far ahead of it.
const BURST: Duration = Duration::from_millis(500);

/// How uploads are bounded; a section of the configuration. The size of one source is `library.source_bytes_max`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// How long an upload to which nothing is added is kept, in seconds.
    pub expire_seconds: u64,
    /// What uploads leave free on the spool's disk, in bytes.
    pub free_bytes_min: u64,
    /// Sources of one creator in the spool together, announced or there, in bytes.
    pub spool_bytes_per_creator_max: u64,
    /// What one creator may send in a day (UTC), in bytes; 0: as much as they like.
    pub day_bytes_per_creator_max: u64,
    /// Unfinished uploads of one creator.
    pub unfinished_per_creator_max: usize,
    /// Requests that carry a source at once, in all.
    pub at_once_max: usize,
    /// The same of one creator.
    pub at_once_per_creator_max: usize,
    /// What all uploads of one creator bring together, in bytes per second; 0: as fast as they come.
    pub bytes_per_second_per_creator_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            expire_seconds: 7 * 86_400,
            free_bytes_min: 5 << 30,
            spool_bytes_per_creator_max: 200 << 30,
            day_bytes_per_creator_max: 500 << 30,
            unfinished_per_creator_max: 100,
            at_once_max: 64,
            at_once_per_creator_max: 8,
            bytes_per_second_per_creator_max: 0,
        }
    }
}

/// The space on a disk.
pub trait Disk: Send + Sync {
    /// Bytes that are free for this process in the file system of a path.
    ///
    /// # Errors
    /// Where the system does not tell.
    fn free_bytes(&self, path: &Path) -> io::Result<u64>;
}

/// The machine's own.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

impl Disk for SystemDisk {
    fn free_bytes(&self, path: &Path) -> io::Result<u64> {
        let told = nix::sys::statvfs::statvfs(path)?;
        Ok(told.blocks_available().saturating_mul(told.fragment_size()))
    }
}

/// What creators have used up.
pub(super) struct Limits {
    options: Options,
    slots: Slots<CreatorId>,
    days: Mutex<Day>,
    /// When each has received what was taken so far, at their rate.
    paces: Mutex<HashMap<CreatorId, Instant>>,
    file: PathBuf,
}

/// What was sent in a day.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Day {
    /// Counted from the Unix epoch.
    day: u64,
    sent: HashMap<CreatorId, u64>,
}

impl Limits {
    pub(super) fn new(options: Options, spool: &Path) -> Self {
        let file = spool.join("sent.json");
        let read = fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self {
            slots: Slots::new(options.at_once_max, options.at_once_per_creator_max),
            days: Mutex::new(read.unwrap_or_default()),
            paces: Mutex::default(),
            options,
            file,
        }
    }

    pub(super) const fn options(&self) -> &Options {
        &self.options
    }

    /// A place among the requests that carry a source.
    pub(super) fn place(&self, creator: CreatorId) -> Result<Slot<CreatorId>, Error> {
        self.slots.take(Some(creator), true).map_err(|full| match full {
            Full::ForKey => Error::Quota {
                retry_after: Duration::from_secs(5),
                detail: format!(
                    "{} of your uploads are under way, as many as this server takes at once: wait \
                     until one ends",
                    self.options.at_once_per_creator_max
                ),
            },
            Full::InAll => Error::Crowded,
        })
    }

    /// What a creator may still send today.
    ///
    /// # Errors
    /// [`Error::Quota`] where it is less than wanted.
    pub(super) fn check_day(
        &self,
        creator: CreatorId,
        wanted: u64,
        now_ms: u64,
    ) -> Result<(), Error> {
        let most = self.options.day_bytes_per_creator_max;
        let sent = self.sent_today(creator, now_ms);
        if most == 0 || sent.saturating_add(wanted) <= most {
            return Ok(());
        }
        Err(Error::Quota {
            retry_after: Duration::from_millis(DAY_MS.saturating_sub(now_ms % DAY_MS)),
            detail: format!(
                "you may send {most} bytes a day, and {sent} were sent today: what arrived is kept, go \
                 on tomorrow (UTC)"
            ),
        })
    }

    fn sent_today(&self, creator: CreatorId, now_ms: u64) -> u64 {
        let days = lock(&self.days);
        let today = days.day == now_ms / DAY_MS;
        days.sent.get(&creator).copied().filter(|_| today).unwrap_or_default()
    }

    /// Counts bytes that have arrived.
    pub(super) fn count(&self, creator: CreatorId, bytes: u64, now_ms: u64) {
        let mut days = lock(&self.days);
        let today = now_ms / DAY_MS;
        if days.day != today {
            *days = Day { day: today, sent: HashMap::new() };
        }
        let sent = days.sent.entry(creator).or_default();
        *sent = sent.saturating_add(bytes);
    }

    /// Writes the counts down at the end of a request. A kill forgets what the requests that it cut had brought.
    pub(super) fn save(&self) {
        if self.options.day_bytes_per_creator_max == 0 {
            return;
        }
        let days = lock(&self.days);
        let new = self.file.with_extension("json-new");
        let written = serde_json::to_vec(&*days)
            .map_err(io::Error::other)
            .and_then(|bytes| fs::write(&new, bytes))
            .and_then(|()| fs::rename(&new, &self.file));
        if let Err(error) = written {
            tracing::warn!(path = %self.file.display(), %error, "what was sent today is not kept");
        }
    }

    /// How long to wait until more of a creator's bytes are taken.
    pub(super) fn pace(&self, creator: CreatorId, bytes: u64, now: Instant) -> Duration {
        let rate = self.options.bytes_per_second_per_creator_max;
        if rate == 0 {
            return Duration::ZERO;
        }
        let nanos = u128::from(bytes).saturating_mul(1_000_000_000) / u128::from(rate);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let mut paces = lock(&self.paces);
        // Who is on time counts for nothing; a wait of years would overflow the clock.
        paces.retain(|_, until| *until > now);
        let until = paces.get(&creator).copied().unwrap_or(now);
        let until = until.checked_add(takes).unwrap_or(until);
        paces.insert(creator, until);
        until.saturating_duration_since(now).saturating_sub(BURST)
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const fn creator(number: u128) -> CreatorId {
        CreatorId::new(Uuid::from_u128(number))
    }

    fn limits(change: impl FnOnce(&mut Options), spool: &Path) -> Limits {
        let mut options = Options::default();
        change(&mut options);
        Limits::new(options, spool)
    }

    #[test]
    fn a_day_s_bytes_are_counted_for_each_creator_and_outlive_a_restart() {
        let spool = tempfile::tempdir().unwrap();
        let new = || limits(|options| options.day_bytes_per_creator_max = 100, spool.path());
        let of = new();
        let now = 5 * DAY_MS + 1_000;
        of.count(creator(1), 60, now);
        of.save();
        let of = new();
        assert!(of.check_day(creator(1), 40, now).is_ok());
        assert!(of.check_day(creator(2), 100, now).is_ok());
        let Err(Error::Quota { retry_after, .. }) = of.check_day(creator(1), 41, now) else {
            panic!("more than a day's bytes")
        };
        assert_eq!(retry_after, Duration::from_millis(DAY_MS - 1_000), "until midnight");
        assert!(of.check_day(creator(1), 100, now + DAY_MS).is_ok(), "another day");
    }

    #[test]
    fn a_creator_who_is_faster_than_the_rate_waits_and_no_other_does() {
        let spool = tempfile::tempdir().unwrap();
        let of = limits(|options| options.bytes_per_second_per_creator_max = 1_000, spool.path());
        let now = Instant::now();
        assert_eq!(of.pace(creator(1), 500, now), Duration::ZERO);
        assert_eq!(of.pace(creator(1), 2_000, now), Duration::from_secs(2));
        assert_eq!(of.pace(creator(2), 500, now), Duration::ZERO);
        let later = now + Duration::from_secs(3);
        assert_eq!(of.pace(creator(1), 500, later), Duration::ZERO);
        assert_eq!(limits(|_| {}, spool.path()).pace(creator(1), u64::MAX, now), Duration::ZERO);
    }

    #[test]
    fn the_machine_tells_what_is_free() {
        let spool = tempfile::tempdir().unwrap();
        assert!(SystemDisk.free_bytes(spool.path()).unwrap() > 0);
        assert!(SystemDisk.free_bytes(Path::new("/nowhere/at/all")).is_err());
    }
}
