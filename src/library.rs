//! Use case: creators, their titles, and how a source becomes something to watch.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, watch};

use crate::blobs::{self, Blobs, Part};
use crate::domain::amount::{AmountError, Granularity, Price, Share};
use crate::domain::destination::Destination;
use crate::domain::id::{CreatorId, RenditionName, SegmentNumber, SegmentRef, Version, VideoId};
use crate::domain::ledger::Split;
use crate::domain::video::{Media, Terms, Ticks, Video, VideoState};
use crate::hls;
use crate::media::{self, Transcoder};
use crate::runtime::{Clock, lock, new_uuid, random_bytes};
use crate::store::{self, Change, Creator, KeyHash, Role, VideoEdit};

mod assembly;
pub mod extras;
pub mod jobs;
mod leftovers;
mod progress;
mod shelf;
pub mod upload;

pub use progress::{Progress, RenditionProgress};
use shelf::Shelf;

/// How sources are taken; a section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The largest source, in bytes.
    pub source_bytes_max: u64,
    /// How often a source is tried before its title fails.
    pub attempts_max: u32,
    /// Memory for the segments that are asked for most, in bytes.
    pub cache_bytes: u64,
    /// How many media workers run at once; 0 is one for each two processors, two at least.
    pub workers: usize,
    /// A film is cut into chunks of this length that are encoded apart, in seconds.
    pub chunk_seconds: u64,
    /// Whether a title can be watched in its first rendition while the others are made, which costs a second decoding.
    pub early: bool,
    /// Whether sources are kept after their titles are made.
    pub keep_sources: bool,
    /// How long a task that came to nothing waits before it is tried again, in seconds: four times as long the second time, nine times the third.
    pub retry_seconds: u64,
}

impl Options {
    /// How many media workers run at once.
    pub fn workers(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        if self.workers > 0 { self.workers } else { (cores() / 2).max(2) }
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            source_bytes_max: 50 << 30,
            attempts_max: 3,
            cache_bytes: 256 << 20,
            workers: 0,
            chunk_seconds: 300,
            early: false,
            keep_sources: false,
            retry_seconds: 10,
        }
    }
}

/// Names are cut off at nothing: longer ones are refused.
const TITLE_CHARS_MAX: usize = 200;
const DESCRIPTION_CHARS_MAX: usize = 5_000;
/// Titles of one page of a list.
pub const PAGE_MAX: usize = 100;

/// Why the library did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no such thing, or it is somebody else's.
    #[error("there is no {0} of this id")]
    Missing(&'static str),
    /// A value cannot be accepted.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// Why, and what would be.
        reason: String,
    },
    /// The state of the title does not allow that.
    #[error("the title is {}: {hint}", .state.word())]
    State {
        /// The state it is in.
        state: VideoState,
        /// What to do.
        hint: &'static str,
    },
    /// A source is larger than accepted.
    #[error("the source is larger than {max} bytes, which this server accepts at most")]
    TooLarge {
        /// The limit.
        max: u64,
    },
    /// The connection broke before the source was whole.
    #[error(
        "the upload broke off after {received} bytes, which are kept: go on from there, or send it again"
    )]
    Broken {
        /// What had arrived.
        received: u64,
    },
    /// Bytes came that belong elsewhere.
    #[error("{at} bytes of this upload are there: go on from there")]
    Offset {
        /// Where the next byte belongs.
        at: u64,
    },
    /// More came than was announced.
    #[error("the upload was announced with {length} bytes: send no more, or begin another")]
    Excess {
        /// What was announced.
        length: u64,
    },
    /// Another request brings bytes of the same upload.
    #[error("another request brings this upload's bytes: wait until it ends, then go on")]
    Locked,
    /// The bytes are not what they should be.
    #[error("the bytes do not match their checksum and were dropped: send them again")]
    Checksum,
    /// A creator has sent as much as they may for now.
    #[error("{detail}")]
    Quota {
        /// When there is room again, as far as is known.
        retry_after: Duration,
        /// Of what, and what to do.
        detail: String,
    },
    /// A creator's sources would take too much of the spool.
    #[error(
        "your sources that are on their way or wait for a worker may have {max} bytes together: let some be finished, or end an upload"
    )]
    SpoolQuota {
        /// The limit.
        max: u64,
    },
    /// Too many upload at once.
    #[error("too many sources are arriving: what is there is kept, try again soon")]
    Crowded,
    /// The disk has no room.
    #[error(
        "the server's disk has no room for this source: what arrived is kept; ask its operator, and go on later"
    )]
    StorageFull,
    /// The disk failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The object store failed.
    #[error(transparent)]
    Blobs(#[from] blobs::Error),
    /// A playlist could not be written.
    #[error(transparent)]
    Hls(#[from] hls::Error),
    /// The media worker made nothing.
    #[error(transparent)]
    Media(#[from] media::Error),
    /// A price does not fit.
    #[error(transparent)]
    Amount(#[from] AmountError),
}

/// The ports of the store that the library uses.
pub trait Books: store::Catalog + store::Jobs {}
impl<T: store::Catalog + store::Jobs + ?Sized> Books for T {}

/// What the library needs.
pub struct Parts {
    /// Creators, titles, jobs.
    pub store: Arc<dyn Books>,
    /// Segments.
    pub blobs: Blobs,
    /// Makes them.
    pub transcoder: Arc<dyn Transcoder>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where sources arrive and are worked at; local disk.
    pub spool: PathBuf,
    /// How sources are taken.
    pub options: Options,
    /// How uploads are bounded.
    pub uploads: upload::Options,
    /// The disk that the spool lies on.
    pub disk: Arc<dyn upload::Disk>,
    /// How media is made.
    pub media: media::Options,
    /// What invoices are rounded up to.
    pub granularity: Granularity,
    /// The operator's share.
    pub fee: Share,
    /// The number of this start of the process.
    pub boot: u64,
    /// How long after a version was replaced somebody may still have a claim on it.
    pub owed_ms: u64,
}

/// A new title, as its creator describes it.
#[derive(Debug, Clone, Default)]
pub struct NewVideo {
    /// Its name.
    pub title: String,
    /// What it is about.
    pub description: String,
    /// What a second costs.
    pub msat_per_second: u64,
    /// What is free at its beginning.
    pub preview_seconds: u32,
}

/// A change of a title.
#[derive(Debug, Clone, Default)]
pub struct EditVideo {
    /// A new name.
    pub title: Option<String>,
    /// A new text.
    pub description: Option<String>,
    /// A new price.
    pub msat_per_second: Option<u64>,
    /// A new preview.
    pub preview_seconds: Option<u32>,
}

/// A published title and the version that is served.
#[derive(Debug, Clone)]
pub struct Published {
    /// The title.
    pub video: Arc<Video>,
    /// The version.
    pub media: Arc<Media>,
    /// Who earns from it.
    pub split: Split,
}

/// Creators and titles.
pub struct Library {
    parts: Parts,
    progress: Mutex<HashMap<VideoId, watch::Sender<Progress>>>,
    uploads: upload::Uploads,
    running: Mutex<HashMap<(VideoId, Version), jobs::Running>>,
    jobs: Notify,
    shelf: Shelf,
    extras: extras::Kept,
}

impl Library {
    /// A library over its parts.
    pub fn new(parts: Parts) -> Self {
        Self {
            shelf: Shelf::new(parts.options.cache_bytes),
            uploads: upload::Uploads::load(
                parts.uploads.clone(),
                Arc::clone(&parts.disk),
                &parts.spool,
            ),
            parts,
            progress: Mutex::default(),
            running: Mutex::default(),
            jobs: Notify::new(),
            extras: extras::Kept::default(),
        }
    }

    /// A new creator and the key that is shown once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that cannot be accepted.
    pub fn create_creator(
        &self,
        name: &str,
        payout: Option<Destination>,
    ) -> Result<(Creator, String), Error> {
        let name = checked("name", name, TITLE_CHARS_MAX, false)?;
        let creator = Creator {
            id: CreatorId::new(new_uuid(&*self.parts.clock)),
            name,
            payout,
            payout_from_ms: 0,
            created_ms: self.parts.clock.now_ms(),
        };
        let (key, hash) = new_key("creator");
        self.parts.store.create_creator(&creator, hash)?;
        Ok((creator, key))
    }

    /// A new key of the operator, shown once.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn create_operator_key(&self) -> Result<String, Error> {
        let (key, hash) = new_key("operator");
        self.parts.store.grant(hash, Role::Operator)?;
        Ok(key)
    }

    /// Whom a key belongs to.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn role(&self, key: &str) -> Result<Option<Role>, Error> {
        Ok(self.parts.store.role(hash_key(key))?)
    }

    /// A creator.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none.
    pub fn creator(&self, id: CreatorId) -> Result<Creator, Error> {
        self.parts.store.creator(id)?.ok_or(Error::Missing("creator"))
    }

    /// Changes a creator's name or destination; one that takes another's place is paid after a wait.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a name that cannot be accepted.
    pub fn edit_creator(
        &self,
        id: CreatorId,
        name: Option<&str>,
        payout: Option<Destination>,
        wait_seconds: u64,
    ) -> Result<Creator, Error> {
        let name = name.map(|name| checked("name", name, TITLE_CHARS_MAX, false)).transpose()?;
        let from_ms = match wait_seconds {
            0 => 0,
            wait => self.parts.clock.now_ms().saturating_add(wait.saturating_mul(1_000)),
        };
        let payout = payout.map(|to| (to, from_ms));
        self.parts.store.edit_creator(id, name, payout)?.ok_or(Error::Missing("creator"))
    }

    /// A new title, as a draft.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::Amount`] for what cannot be accepted.
    pub fn create_video(&self, creator: CreatorId, new: &NewVideo) -> Result<Video, Error> {
        let video = Video {
            id: VideoId::new(new_uuid(&*self.parts.clock)),
            creator,
            title: checked("title", &new.title, TITLE_CHARS_MAX, false)?,
            description: checked("description", &new.description, DESCRIPTION_CHARS_MAX, true)?,
            price: self.price(new.msat_per_second)?,
            preview_seconds: new.preview_seconds,
            state: VideoState::Draft,
            version: Version(1),
            next: None,
            versions: 0,
            created_ms: self.parts.clock.now_ms(),
            source_sha256: None,
        };
        self.parts.store.create_video(&video)?;
        Ok(video)
    }

    /// A title, for whoever may know of it: a draft is its creator's and the operator's own business.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none, or none for this role.
    pub fn video(&self, id: VideoId, role: Option<Role>) -> Result<Video, Error> {
        let video = self.parts.store.video(id)?.ok_or(Error::Missing("title"))?;
        if video.state == VideoState::Ready || owns(role, &video) {
            Ok(video)
        } else {
            Err(Error::Missing("title"))
        }
    }

    /// A title that this role may change.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none, or it is somebody else's.
    pub fn own_video(&self, id: VideoId, role: Role) -> Result<Video, Error> {
        let video = self.parts.store.video(id)?.ok_or(Error::Missing("title"))?;
        if owns(Some(role), &video) { Ok(video) } else { Err(Error::Missing("title")) }
    }

    /// The titles of a role, oldest first.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn videos(
        &self,
        role: Role,
        after: Option<VideoId>,
        limit: usize,
    ) -> Result<Vec<Video>, Error> {
        let of = match role {
            Role::Operator => None,
            Role::Creator(creator) => Some(creator),
        };
        Ok(self.parts.store.videos(of, after, limit.min(PAGE_MAX))?)
    }

    /// Changes a title. A price holds for later sales.
    ///
    /// # Errors
    /// [`Error::Invalid`] or [`Error::Amount`] for what cannot be accepted.
    pub fn edit_video(&self, id: VideoId, role: Role, edit: EditVideo) -> Result<Video, Error> {
        self.own_video(id, role)?;
        let text = |field, text: Option<String>, max, empty| {
            text.map(|text| checked(field, &text, max, empty)).transpose()
        };
        let edit = VideoEdit {
            title: text("title", edit.title, TITLE_CHARS_MAX, false)?,
            description: text("description", edit.description, DESCRIPTION_CHARS_MAX, true)?,
            price: edit.msat_per_second.map(|price| self.price(price)).transpose()?,
            preview_seconds: edit.preview_seconds,
            source_sha256: None,
        };
        let edited = self.parts.store.edit_video(id, edit);
        // Also where it failed: what is stored then is not known.
        self.shelf.changed(id);
        edited?.ok_or(Error::Missing("title"))
    }

    /// Removes a title and every byte of it.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none, or it is somebody else's.
    pub async fn delete_video(&self, id: VideoId, role: Role) -> Result<(), Error> {
        self.own_video(id, role)?;
        self.parts.store.delete_video(id)?;
        self.shelf.gone(id);
        self.extras.gone(id);
        // Where tasks are under way, the last of them removes what they still write.
        self.stop(id);
        lock(&self.progress).remove(&id);
        self.forget_upload(id).await;
        self.remove_bytes(id).await
    }

    /// A published title; the version that is current where none is asked for.
    ///
    /// # Errors
    /// [`Error::Missing`] where it is not there or not published.
    pub fn published(&self, id: VideoId, version: Option<Version>) -> Result<Published, Error> {
        self.shelf.title(id, version, self.parts.clock.now_ms(), || {
            let video = self.video(id, None)?;
            let version = version.unwrap_or(video.version);
            let media = self.parts.store.media(id, version)?.ok_or(Error::Missing("version"))?;
            let split = Split { creator: video.creator, fee: self.parts.fee };
            Ok(Published { video: Arc::new(video), media: Arc::new(media), split })
        })
    }

    /// The terms under which a title is sold now.
    pub const fn terms(&self, video: &Video) -> Terms {
        Terms {
            price: video.price,
            preview_seconds: video.preview_seconds,
            granularity: self.parts.granularity,
        }
    }

    /// A part of a rendition, whole: read before anything is charged.
    ///
    /// # Errors
    /// [`Error::Missing`] where the version has no such rendition, segment or bytes.
    pub async fn open(
        &self,
        published: &Published,
        rendition: &RenditionName,
        part: Part,
    ) -> Result<Bytes, Error> {
        self.check_part(published, rendition, part)?;
        let (id, version) = (published.video.id, published.media.version);
        let read = self.parts.blobs.get(id, version, rendition, part);
        let key = (id, version, rendition.clone(), part);
        self.shelf.bytes(&key, read).await?.ok_or(Error::Missing("segment"))
    }

    /// The length of a part, without reading it.
    ///
    /// # Errors
    /// [`Error::Missing`] where the version has no such rendition, segment or bytes.
    pub async fn part_len(
        &self,
        published: &Published,
        rendition: &RenditionName,
        part: Part,
    ) -> Result<u64, Error> {
        self.check_part(published, rendition, part)?;
        let (id, version) = (published.video.id, published.media.version);
        let key = (id, version, rendition.clone(), part);
        let now = self.parts.clock.now_ms();
        if let Some(len) = self.shelf.length(&key, now) {
            return Ok(len);
        }
        let len = self.parts.blobs.len(id, version, rendition, part).await?;
        let len = len.ok_or(Error::Missing("segment"))?;
        self.shelf.keep_length(key, len, now);
        Ok(len)
    }

    fn check_part(
        &self,
        published: &Published,
        rendition: &RenditionName,
        part: Part,
    ) -> Result<(), Error> {
        if !published.media.renditions.iter().any(|of| of.name == *rendition) {
            return Err(Error::Missing("rendition"));
        }
        match part {
            Part::Segment(number) if published.media.timeline.span(number).is_none() => {
                Err(Error::Missing("segment"))
            }
            Part::Segment(_) | Part::Init => Ok(()),
        }
    }

    /// What names a segment of a published version.
    pub fn segment(&self, published: &Published, number: SegmentNumber) -> SegmentRef {
        SegmentRef { video: published.video.id, version: published.media.version, number }
    }

    fn price(&self, msat_per_second: u64) -> Result<Price, Error> {
        let nominal = Ticks::from_millis(self.parts.media.segment_ms);
        Ok(Price::new(msat_per_second, self.parts.granularity, nominal)?)
    }
}

/// Whether a title is a caller's own, or the caller is the operator.
pub fn owns(role: Option<Role>, video: &Video) -> bool {
    match role {
        Some(Role::Operator) => true,
        Some(Role::Creator(creator)) => creator == video.creator,
        None => false,
    }
}

/// Text as it is kept: trimmed, without control characters but line breaks, and not too long.
fn checked(field: &'static str, text: &str, max: usize, empty: bool) -> Result<String, Error> {
    let text = text.trim();
    let invalid = |reason: String| Error::Invalid { field, reason };
    if text.is_empty() && !empty {
        return Err(invalid("must not be empty".to_owned()));
    }
    if text.chars().count() > max {
        return Err(invalid(format!("must have {max} characters at most")));
    }
    if text.chars().any(|c| c.is_control() && c != '\n') {
        return Err(invalid("must not hold control characters".to_owned()));
    }
    Ok(text.to_owned())
}

/// A fresh key with 256 bits of chance, and what is stored of it.
fn new_key(role: &str) -> (String, KeyHash) {
    let key = format!("sluice_{role}_{}", hex::encode(random_bytes::<32>()));
    let hash = hash_key(&key);
    (key, hash)
}

/// Keys have 256 bits of chance, so a plain hash is enough.
fn hash_key(key: &str) -> KeyHash {
    KeyHash(Sha256::digest(key.as_bytes()).into())
}

/// What a change of state came to, as this module's error.
fn changed(change: Change<Video>, hint: &'static str) -> Result<Video, Error> {
    match change {
        Change::Done(video) => Ok(video),
        Change::Missing => Err(Error::Missing("title")),
        Change::Refused(state) => Err(Error::State { state, hint }),
    }
}
