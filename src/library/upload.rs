//! Sources arriving: bytes appended to a spool file on local disk, hashed and bounded on the way, kept whatever breaks off, and handed over
//! to the job loop in one verb once all are there.
//!
//! A title has one upload at a time, whichever way its bytes come (tus or `PUT`). The length of its file is its offset.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedMutexGuard, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Error, Library, Progress, changed};
use crate::domain::id::{CreatorId, UploadId, VideoId};
use crate::domain::video::{Video, VideoState};
use crate::runtime::{lock, new_uuid};
use crate::store::{Change, Role};

mod checksum;
mod limits;
mod record;
mod room;
mod sweep;
mod writer;

pub use checksum::Checksum;
pub use limits::{Disk, Options, SystemDisk};
pub(super) use sweep::{remove, remove_spooled};

use limits::Limits;
use record::{Files, Record, Stage};
use writer::{Incoming, Piece};

/// Who brought a byte this lately is not taken for dead.
const LIVE: Duration = Duration::from_secs(3);
/// A writer that is cut, or one that is about to end, does so within this.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
/// Chunks between the connection and the disk: a few MiB at most, as large as hyper makes them.
const CHUNKS: usize = 16;
/// What is said where a title takes no source.
const HINT: &str = "a source can be sent for a draft, for a title that failed, and for one that is ready and of which nothing is made";

/// Everything that arrives, and what bounds it.
pub(super) struct Uploads {
    by_title: Mutex<HashMap<VideoId, Arc<Upload>>>,
    limits: Limits,
    disk: Arc<dyn Disk>,
    /// One is made at a time, so that two do not take the same room.
    making: tokio::sync::Mutex<()>,
}

impl Uploads {
    /// With what earlier starts left in the spool.
    pub(super) fn load(options: Options, disk: Arc<dyn Disk>, spool: &Path) -> Self {
        let found = record::load(spool).into_iter().map(|(record, offset, touched)| {
            (record.video, Arc::new(Upload::new(record, offset, touched)))
        });
        Self {
            by_title: Mutex::new(found.collect()),
            limits: Limits::new(options, spool),
            disk,
            making: tokio::sync::Mutex::default(),
        }
    }

    fn all(&self) -> Vec<Arc<Upload>> {
        lock(&self.by_title).values().cloned().collect()
    }

    fn of(&self, video: VideoId) -> Option<Arc<Upload>> {
        lock(&self.by_title).get(&video).cloned()
    }

    /// Forgets an upload, unless another one of the title has taken its place.
    fn forget(&self, upload: &Upload) {
        let (video, id) = upload.names();
        let mut all = lock(&self.by_title);
        if all.get(&video).is_some_and(|of| of.names().1 == id) {
            all.remove(&video);
        }
    }
}

/// One upload.
struct Upload {
    record: Mutex<Record>,
    offset: AtomicU64,
    /// When a byte came last, in milliseconds since the Unix epoch.
    touched: AtomicU64,
    /// Held by the one that writes.
    tail: Arc<tokio::sync::Mutex<Tail>>,
    writer: Mutex<Option<Writer>>,
    /// Replaced, ended or expired.
    gone: AtomicBool,
}

/// The end of an upload's file: what its bytes hash to, as far as they were hashed. After a restart that is behind the offset.
struct Tail {
    sha256: Sha256,
    hashed: u64,
}

type Turn = OwnedMutexGuard<Tail>;

/// Who writes.
struct Writer {
    cut: CancellationToken,
    heard: Instant,
}

impl Upload {
    fn new(record: Record, offset: u64, touched: u64) -> Self {
        Self {
            record: Mutex::new(record),
            offset: AtomicU64::new(offset),
            touched: AtomicU64::new(touched),
            tail: Arc::new(tokio::sync::Mutex::new(Tail { sha256: Sha256::new(), hashed: 0 })),
            writer: Mutex::default(),
            gone: AtomicBool::new(false),
        }
    }

    fn record(&self) -> Record {
        lock(&self.record).clone()
    }

    fn names(&self) -> (VideoId, UploadId) {
        let record = lock(&self.record);
        (record.video, record.id)
    }

    fn offset(&self) -> u64 {
        self.offset.load(Ordering::SeqCst)
    }

    fn is_gone(&self) -> bool {
        self.gone.load(Ordering::SeqCst)
    }

    /// The right to write. Whoever has it and brought nothing lately is taken for dead and cut.
    async fn turn(&self) -> Result<Turn, Error> {
        if let Ok(turn) = Arc::clone(&self.tail).try_lock_owned() {
            return self.still(turn);
        }
        match &*lock(&self.writer) {
            Some(writer) if !writer.cut.is_cancelled() && writer.heard.elapsed() < LIVE => {
                return Err(Error::Locked);
            }
            Some(writer) => writer.cut.cancel(),
            None => {}
        }
        self.wait().await
    }

    /// The same, whoever writes.
    async fn seize(&self) -> Result<Turn, Error> {
        if let Some(writer) = &*lock(&self.writer) {
            writer.cut.cancel();
        }
        self.wait().await
    }

    async fn wait(&self) -> Result<Turn, Error> {
        let turn = tokio::time::timeout(ENDS_WITHIN, Arc::clone(&self.tail).lock_owned()).await;
        self.still(turn.map_err(|_| Error::Locked)?)
    }

    fn still(&self, turn: Turn) -> Result<Turn, Error> {
        if self.is_gone() { Err(Error::Missing("upload")) } else { Ok(turn) }
    }

    fn heard(&self) {
        if let Some(writer) = &mut *lock(&self.writer) {
            writer.heard = Instant::now();
        }
    }

    /// Bytes that it takes, or will take, in the spool; of one that was handed over its source does.
    fn takes(&self) -> u64 {
        let record = self.record();
        match record.stage {
            Stage::Arriving | Stage::Whole { .. } => {
                record.length.unwrap_or_default().max(self.offset())
            }
            Stage::Handed { .. } => 0,
        }
    }
}

/// What is known of an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Names it.
    pub id: UploadId,
    /// Its title.
    pub video: VideoId,
    /// Bytes that are there.
    pub offset: u64,
    /// Bytes of the whole, where that is known.
    pub length: Option<u64>,
    /// `Upload-Metadata` as it was sent; empty for none.
    pub metadata: String,
    /// When it is removed unless more comes, in milliseconds since the Unix epoch; `None` once it is finished.
    pub expires_ms: Option<u64>,
}

/// What a request brings.
#[derive(Debug, Clone, Copy, Default)]
pub struct Said {
    /// Where its bytes belong.
    pub offset: u64,
    /// How many they are.
    pub announced: Option<u64>,
    /// What they hash to.
    pub checksum: Option<Checksum>,
}

impl Library {
    /// The largest source, in bytes.
    pub const fn source_bytes_max(&self) -> u64 {
        self.parts.options.source_bytes_max
    }

    /// A new upload for a title, in the place of one that was not finished.
    ///
    /// # Errors
    /// [`Error::State`] where the title takes no source now, [`Error::TooLarge`], [`Error::Quota`], [`Error::SpoolQuota`] and
    /// [`Error::StorageFull`] where there is no room, [`Error::Locked`] while bytes of another one arrive.
    pub async fn create_upload(
        &self,
        video: VideoId,
        role: Role,
        length: u64,
        metadata: &str,
    ) -> Result<Status, Error> {
        let video = self.own_video(video, role)?;
        let (upload, _turn) = self.begin(&video, Some(length), metadata).await?;
        Ok(self.status(&upload))
    }

    /// How far an upload has come.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none, or it is somebody else's.
    pub fn upload(self: &Arc<Self>, id: UploadId, role: Role) -> Result<Status, Error> {
        let upload = self.own_upload(id, role)?;
        // Where the disk or the store failed at the last step, whoever asks takes it for done.
        self.go_on_with(&upload);
        Ok(self.status(&upload))
    }

    /// How far the upload of a title has come; `None` where there is none.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is no such title, or it is somebody else's.
    pub fn upload_of(&self, video: VideoId, role: Role) -> Result<Option<Status>, Error> {
        self.own_video(video, role)?;
        Ok(self.uploads.of(video).map(|upload| self.status(&upload)))
    }

    /// Appends what arrives. What was there before a connection broke stays; the last byte hands the source to the job loop.
    ///
    /// # Errors
    /// [`Error::Offset`] where the bytes belong elsewhere, [`Error::Checksum`] where they are not what they should be, [`Error::Broken`] where
    /// they end early, [`Error::Locked`] while another request brings some; what bounds uploads as in [`Library::create_upload`].
    pub async fn append<S, E>(
        self: &Arc<Self>,
        id: UploadId,
        role: Role,
        said: Said,
        stream: S,
    ) -> Result<Status, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Send,
    {
        let upload = self.own_upload(id, role)?;
        let turn = upload.turn().await?;
        self.take(&upload, turn, said, stream).await
    }

    /// Takes a source, or a range of one, by title. One from the beginning replaces what was there.
    ///
    /// # Errors
    /// As [`Library::create_upload`] and [`Library::append`]; [`Error::Invalid`] where the range is one of another source.
    pub async fn receive<S, E>(
        self: &Arc<Self>,
        id: VideoId,
        role: Role,
        length: Option<u64>,
        said: Said,
        stream: S,
    ) -> Result<Status, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Send,
    {
        let video = self.own_video(id, role)?;
        let (upload, turn) = if said.offset == 0 {
            self.begin(&video, length, "").await?
        } else {
            let upload = self.uploads.of(id).ok_or(Error::Offset { at: 0 })?;
            // Where this tells the length, room is taken for it.
            let making = match upload.record().length {
                Some(_) => None,
                None => Some(self.uploads.making.lock().await),
            };
            let turn = upload.turn().await?;
            let known = upload.record().length;
            if known.is_some_and(|known| Some(known) != length) {
                return Err(Error::Invalid {
                    field: "Content-Range",
                    reason: "its total is another source's: send the source from its start"
                        .to_owned(),
                });
            }
            self.check_size(length)?;
            if known.is_none() {
                self.check_room(&video, length, upload.offset())?;
            }
            lock(&upload.record).length = length;
            drop(making);
            (upload, turn)
        };
        let taken = self.take(&upload, turn, said, stream).await;
        if matches!(taken, Err(Error::TooLarge { .. })) && length.is_none() {
            // It will never fit.
            let turn = upload.turn().await?;
            self.drop_upload(&upload, turn).await;
        }
        taken
    }

    /// Ends an upload and removes its bytes; a source that is whole already stays with its title.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none, or it is somebody else's.
    pub async fn end_upload(&self, id: UploadId, role: Role) -> Result<(), Error> {
        let upload = self.own_upload(id, role)?;
        let turn = upload.seize().await?;
        self.drop_upload(&upload, turn).await;
        Ok(())
    }

    /// Ends the upload of a title that goes.
    pub(super) async fn forget_upload(&self, video: VideoId) {
        let Some(upload) = self.uploads.of(video) else { return };
        match upload.seize().await {
            Ok(turn) => self.drop_upload(&upload, turn).await,
            // It is on its last steps, of which the title's end makes nothing.
            Err(_) => upload.gone.store(true, Ordering::SeqCst),
        }
    }

    async fn drop_upload(&self, upload: &Arc<Upload>, turn: Turn) {
        upload.gone.store(true, Ordering::SeqCst);
        let record = upload.record();
        let files = Files::of(&self.parts.spool, record.video);
        let _ = tokio::task::spawn_blocking(move || files.remove()).await;
        self.uploads.forget(upload);
        drop(turn);
        if record.stage != Stage::Arriving {
            return;
        }
        match self.parts.store.advance(record.video, VideoState::Draft) {
            Ok(Change::Done(video)) => self.tell(video.id, Progress::of(video.making_state())),
            // The title is gone, or has moved on.
            Ok(Change::Missing | Change::Refused(_)) => {}
            Err(error) => {
                tracing::error!(video = %record.video, %error, "the title stays uploading")
            }
        }
    }

    fn own_upload(&self, id: UploadId, role: Role) -> Result<Arc<Upload>, Error> {
        let all = lock(&self.uploads.by_title);
        let found = all.values().find(|upload| upload.names().1 == id).cloned();
        drop(all);
        let upload = found.ok_or(Error::Missing("upload"))?;
        let own = match role {
            Role::Operator => true,
            Role::Creator(creator) => lock(&upload.record).creator == creator,
        };
        if own { Ok(upload) } else { Err(Error::Missing("upload")) }
    }

    fn status(&self, upload: &Upload) -> Status {
        let Record { id, video, length, metadata, stage, .. } = upload.record();
        let expires = self.expires_ms(upload);
        Status {
            id,
            video,
            offset: upload.offset(),
            length,
            metadata,
            expires_ms: Some(expires).filter(|_| stage == Stage::Arriving),
        }
    }

    fn expires_ms(&self, upload: &Upload) -> u64 {
        let kept = self.uploads.limits.options().expire_seconds.saturating_mul(1_000);
        upload.touched.load(Ordering::SeqCst).saturating_add(kept)
    }

    async fn begin(
        &self,
        video: &Video,
        length: Option<u64>,
        metadata: &str,
    ) -> Result<(Arc<Upload>, Turn), Error> {
        self.check_size(length)?;
        let _making = self.uploads.making.lock().await;
        let old = self.uploads.of(video.id);
        let old_turn = match &old {
            Some(old) => Some(old.turn().await?),
            None => None,
        };
        self.check_room(video, length, 0)?;
        changed(self.parts.store.advance(video.id, VideoState::Uploading)?, HINT)?;
        let now = self.parts.clock.now_ms();
        let record = Record {
            id: UploadId::new(new_uuid(&*self.parts.clock)),
            video: video.id,
            creator: video.creator,
            length,
            metadata: metadata.to_owned(),
            unverified_from: None,
            stage: Stage::Arriving,
            created_ms: now,
        };
        if let Some(old) = old {
            old.gone.store(true, Ordering::SeqCst);
            self.uploads.forget(&old);
        }
        let files = Files::of(&self.parts.spool, video.id);
        let kept = record.clone();
        blocking("beginning an upload", move || {
            files.remove();
            File::create(&files.part)?;
            files.save(&kept)
        })
        .await?;
        drop(old_turn);
        let upload = Arc::new(Upload::new(record, 0, now));
        let turn = Arc::clone(&upload.tail).lock_owned().await;
        lock(&self.uploads.by_title).insert(video.id, Arc::clone(&upload));
        let state = Progress::of(&VideoState::Uploading);
        self.tell(video.id, Progress { received_bytes: Some(0), ..state });
        Ok((upload, turn))
    }

    /// Carries bytes from the connection to the thread that writes them, which goes on where this is dropped.
    async fn take<S, E>(
        self: &Arc<Self>,
        upload: &Arc<Upload>,
        turn: Turn,
        said: Said,
        mut stream: S,
    ) -> Result<Status, Error>
    where
        S: Stream<Item = Result<Bytes, E>> + Send + Unpin,
        E: Send,
    {
        let incoming = Incoming::new(upload, said)?;
        let creator: CreatorId = lock(&upload.record).creator;
        let place = self.uploads.limits.place(creator)?;
        let cut = CancellationToken::new();
        *lock(&upload.writer) = Some(Writer { cut: cut.clone(), heard: Instant::now() });
        // A request that is dropped is as good as cut: the next one need not wait for it.
        let _gone = cut.clone().drop_guard();
        let (pieces, receiver) = mpsc::channel(CHUNKS);
        let (library, of) = (Arc::clone(self), Arc::clone(upload));
        let written = tokio::task::spawn_blocking(move || {
            let place = place;
            library.write(&of, turn, receiver, &incoming, &place)
        });
        let carried = async {
            // A place first: nothing is lost where this ends while it waits for one.
            while let Ok(place) = pieces.reserve().await {
                match stream.next().await {
                    Some(Ok(chunk)) => {
                        let bytes = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
                        place.send(Piece::Bytes(chunk));
                        upload.heard();
                        self.slow_down(upload, creator, bytes).await;
                    }
                    Some(Err(_)) => return,
                    None => return place.send(Piece::End),
                }
            }
        };
        tokio::select! {
            () = cut.cancelled() => {}
            () = carried => {}
        }
        drop(pieces);
        let failed =
            |error| Error::Io { what: "writing the source", source: io::Error::other(error) };
        written.await.map_err(failed)??;
        Ok(self.status(upload))
    }

    /// Waits as long as a creator's rate has it; who waits for us is not dead.
    async fn slow_down(&self, upload: &Upload, creator: CreatorId, bytes: u64) {
        let mut left = self.uploads.limits.pace(creator, bytes, Instant::now());
        while !left.is_zero() {
            let step = left.min(LIVE / 2);
            tokio::time::sleep(step).await;
            upload.heard();
            left = left.saturating_sub(step);
        }
    }
}

/// Does what waits for the disk on a thread that may.
async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(io::Error::other(error)))
        .map_err(|source| Error::Io { what, source })
}
