//! The end of an upload's file: one thread appends what arrives, hashes it from memory, and takes the last step itself, so that a client that
//! goes away after its last byte changes nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use sha2::Digest as _;
use tokio::sync::mpsc;

use super::checksum::Summing;
use super::record::{Files, Record, Stage};
use super::{HINT, Said, Tail, Turn, Upload};
use crate::domain::id::{CreatorId, SourceHash};
use crate::domain::video::VideoState;
use crate::library::{Error, Library, Progress, changed};
use crate::runtime::lock;
use crate::runtime::slots::Slot;
use crate::store::{Change, Job, VideoEdit};

/// Progress is told, and quotas are looked at, this often.
const TELL_EVERY_BYTES: u64 = 4 << 20;
/// How often the disk is asked for its space.
const GUARD_EVERY_BYTES: u64 = 64 << 20;
/// What is read at once of bytes that an earlier process wrote.
const READ_BYTES: usize = 1 << 20;
/// For each byte that arrives this many older ones are hashed, until none is left.
const CATCH_UP: u64 = 4;

/// What is handed to the thread.
pub(super) enum Piece {
    Bytes(Bytes),
    /// The request ended as it should.
    End,
}

/// What a request brings, checked against the upload.
pub(super) struct Incoming {
    start: u64,
    /// How many bytes it has.
    expected: Option<u64>,
    /// Where the upload ends at most.
    end: Option<u64>,
    sum: Option<super::Checksum>,
}

impl Incoming {
    pub(super) fn new(upload: &Upload, said: Said) -> Result<Self, Error> {
        let Record { length, stage, .. } = upload.record();
        let at = upload.offset();
        if said.offset != at {
            return Err(Error::Offset { at });
        }
        if stage != Stage::Arriving && said.announced != Some(0) {
            return Err(Error::Excess { length: at });
        }
        let fits =
            |length: u64| said.announced.is_none_or(|bytes| bytes <= length.saturating_sub(at));
        if let Some(length) = length.filter(|length| !fits(*length)) {
            return Err(Error::Excess { length });
        }
        Ok(Self { start: at, expected: said.announced, end: length, sum: said.checksum })
    }
}

/// A request's bytes on their way to the file.
struct Appending<'a> {
    library: &'a Library,
    upload: &'a Upload,
    creator: CreatorId,
    file: File,
    /// What other sources of the creator have in the spool; looked at where this one's length is not known, since no room was taken for it.
    others: Option<u64>,
    /// Bytes of this request.
    received: u64,
    told: u64,
    guarded: u64,
}

impl Library {
    /// Appends until the request ends, and completes the upload where that was its last byte. `place` is held until then.
    pub(super) fn write(
        &self,
        upload: &Upload,
        mut tail: Turn,
        pieces: mpsc::Receiver<Piece>,
        incoming: &Incoming,
        _place: &Slot<CreatorId>,
    ) -> Result<(), Error> {
        let written = self.write_on(upload, &mut tail, pieces, incoming);
        self.uploads.limits.save();
        // Before the next one may write.
        lock(&upload.writer).take();
        drop(tail);
        self.forget_if_gone(upload);
        written
    }

    fn write_on(
        &self,
        upload: &Upload,
        tail: &mut Tail,
        pieces: mpsc::Receiver<Piece>,
        incoming: &Incoming,
    ) -> Result<(), Error> {
        let Record { video, creator, length, stage, .. } = upload.record();
        if stage != Stage::Arriving {
            return Ok(());
        }
        let files = Files::of(&self.parts.spool, video);
        let before = (tail.sha256.clone(), tail.hashed);
        if incoming.sum.is_some() {
            // Should the process die, these bytes are no one's word.
            self.keep(upload, &files, |record| record.unverified_from = Some(incoming.start))?;
        } else if length.is_some() {
            // A range may have told it.
            self.keep(upload, &files, |_| {})?;
        }
        let file = OpenOptions::new().append(true).open(&files.part).map_err(io_error)?;
        let mut appending = Appending {
            library: self,
            upload,
            creator,
            file,
            others: None,
            received: 0,
            told: 0,
            guarded: 0,
        };
        let outcome = appending.run(tail, pieces, incoming);
        if incoming.sum.is_some() {
            if outcome.is_err() {
                appending.take_back(incoming.start)?;
                (tail.sha256, tail.hashed) = before;
            }
            self.keep(upload, &files, |record| record.unverified_from = None)?;
        } else if matches!(outcome, Err(Error::Excess { .. })) {
            appending.take_back(incoming.start)?;
            (tail.sha256, tail.hashed) = before;
        }
        let at = upload.offset();
        if length.is_none() && outcome.is_ok() {
            if at == 0 {
                return Err(Error::Broken { received: 0 });
            }
            lock(&upload.record).length = Some(at);
        }
        // Also where the connection broke after the last byte.
        if upload.record().length == Some(at) && at > 0 {
            return self.complete(upload, tail);
        }
        outcome
    }

    /// Changes the record, on the disk first.
    fn keep(
        &self,
        upload: &Upload,
        files: &Files,
        change: impl FnOnce(&mut Record),
    ) -> Result<(), Error> {
        let mut record = upload.record();
        change(&mut record);
        files.save(&record).map_err(io_error)?;
        *lock(&upload.record) = record;
        Ok(())
    }

    /// Hands a source that is whole to the job loop. Each step may be the last one of this process: the next start goes on from it, and none is
    /// done twice.
    pub(super) fn complete(&self, upload: &Upload, tail: &mut Tail) -> Result<(), Error> {
        let Record { video: id, stage, .. } = upload.record();
        let files = Files::of(&self.parts.spool, id);
        let bytes = upload.offset();
        let sha256 = match stage {
            Stage::Whole { sha256 } => sha256,
            Stage::Handed { .. } => return Ok(()),
            Stage::Arriving => {
                tail.catch_up(&files.part, bytes, u64::MAX).map_err(io_error)?;
                File::open(&files.part).and_then(|file| file.sync_all()).map_err(io_error)?;
                let sha256 = SourceHash::new(tail.sha256.clone().finalize().into());
                self.keep(upload, &files, |record| {
                    record.length = Some(bytes);
                    record.stage = Stage::Whole { sha256 };
                })?;
                sha256
            }
        };
        if files.part.exists() {
            fs::rename(&files.part, &files.source)
                .and_then(|()| files.sync())
                .map_err(|source| Error::Io { what: "keeping the source", source })?;
        }
        crate::failpoint!("source-kept");
        let handed = self.hand_over(upload, sha256);
        handed?;
        let at_ms = self.parts.clock.now_ms();
        self.keep(upload, &files, |record| record.stage = Stage::Handed { at_ms })
    }

    /// Removes what was written of an upload while its title was deleted: who deletes one does not wait for its last steps. Called without the
    /// turn, so that either this sees that the title is gone, or who deletes it gets the turn.
    pub(super) fn forget_if_gone(&self, upload: &Upload) {
        let (id, _) = upload.names();
        // Another upload has the files where the title is there.
        if matches!(self.parts.store.video(id), Ok(None)) {
            upload.gone.store(true, Ordering::SeqCst);
            self.uploads.forget(upload);
            let files = Files::of(&self.parts.spool, id);
            files.remove();
            super::record::remove(&files.source);
        }
    }

    /// Queues the source in one verb, unless that was done.
    fn hand_over(&self, upload: &Upload, sha256: SourceHash) -> Result<(), Error> {
        let (id, _) = upload.names();
        let video = self.parts.store.video(id)?.ok_or(Error::Missing("title"))?;
        if *video.making_state() != VideoState::Uploading {
            return Ok(());
        }
        let edit = VideoEdit { source_sha256: Some(sha256), ..VideoEdit::default() };
        let video = self.parts.store.edit_video(id, edit)?.ok_or(Error::Missing("title"))?;
        let now = self.parts.clock.now_ms();
        let job =
            Job::new(&video, format!("{id}.source"), crate::library::jobs::LOOK.to_owned(), now);
        let change: Change<_> = self.parts.store.enqueue(&job)?;
        let video = changed(change, HINT)?;
        tracing::info!(video = %id, bytes = upload.offset(), %sha256, "source received");
        self.tell(id, Progress::of(video.making_state()));
        self.jobs.notify_one();
        Ok(())
    }
}

impl Appending<'_> {
    fn run(
        &mut self,
        tail: &mut Tail,
        mut pieces: mpsc::Receiver<Piece>,
        incoming: &Incoming,
    ) -> Result<(), Error> {
        let mut sum = incoming.sum.map(Summing::new);
        self.look(1)?;
        loop {
            match pieces.blocking_recv() {
                Some(Piece::Bytes(bytes)) => {
                    self.check(&bytes, incoming)?;
                    if let Some(sum) = &mut sum {
                        sum.update(&bytes);
                    }
                    self.append(tail, &bytes)?;
                }
                Some(Piece::End) if incoming.expected.is_none_or(|of| of == self.received) => break,
                Some(Piece::End) | None => {
                    return Err(Error::Broken { received: self.upload.offset() });
                }
            }
        }
        if sum.is_none_or(Summing::holds) { Ok(()) } else { Err(Error::Checksum) }
    }

    /// Whether these bytes still fit.
    fn check(&mut self, bytes: &Bytes, incoming: &Incoming) -> Result<(), Error> {
        if self.upload.is_gone() {
            return Err(Error::Missing("upload"));
        }
        let after = self.upload.offset().saturating_add(len(bytes));
        let max = self.library.parts.options.source_bytes_max;
        match incoming.end {
            Some(length) if after > length => return Err(Error::Excess { length }),
            None if after > max => return Err(Error::TooLarge { max }),
            _ => {}
        }
        if self.received.saturating_sub(self.told) >= TELL_EVERY_BYTES {
            self.told = self.received;
            let state = Progress::of(&VideoState::Uploading);
            let received_bytes = Some(self.upload.offset());
            self.library.tell(self.upload.names().0, Progress { received_bytes, ..state });
            self.look(1)?;
        }
        match self.others {
            Some(others) => self.library.check_spool(others, after),
            None => Ok(()),
        }
    }

    /// Whether quota and disk have room for more.
    fn look(&mut self, more: u64) -> Result<(), Error> {
        let (limits, now) = (&self.library.uploads.limits, self.library.parts.clock.now_ms());
        limits.check_day(self.creator, more, now)?;
        let record = self.upload.record();
        if record.length.is_none() {
            self.others = Some(self.library.spooled(self.creator, record.video)?);
        }
        if self.received == 0 || self.received.saturating_sub(self.guarded) >= GUARD_EVERY_BYTES {
            self.guarded = self.received;
            self.library.check_disk(0)?;
        }
        Ok(())
    }

    fn append(&mut self, tail: &mut Tail, bytes: &Bytes) -> Result<(), Error> {
        let at = self.upload.offset();
        if let Err(error) = self.file.write_all(bytes) {
            // As much as was written counts.
            let there = self.file.metadata().map(|of| of.len()).unwrap_or(at);
            self.upload.offset.store(there, Ordering::SeqCst);
            let full =
                matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded);
            return Err(if full { Error::StorageFull } else { io_error(error) });
        }
        let (more, now) = (len(bytes), self.library.parts.clock.now_ms());
        let to = at.saturating_add(more);
        if tail.hashed == at {
            tail.sha256.update(bytes);
            tail.hashed = to;
        } else {
            let files = Files::of(&self.library.parts.spool, self.upload.names().0);
            let most = more.saturating_mul(CATCH_UP);
            tail.catch_up(&files.part, to, most).map_err(io_error)?;
        }
        self.received = self.received.saturating_add(more);
        self.upload.offset.store(to, Ordering::SeqCst);
        self.upload.touched.store(now, Ordering::SeqCst);
        self.library.uploads.limits.count(self.creator, more, now);
        Ok(())
    }

    /// Takes the bytes of this request back.
    fn take_back(&mut self, to: u64) -> Result<(), Error> {
        self.file.set_len(to).map_err(io_error)?;
        self.upload.offset.store(to, Ordering::SeqCst);
        Ok(())
    }
}

impl Tail {
    /// Hashes bytes that are on the disk, up to an offset, `most` of them.
    fn catch_up(&mut self, file: &Path, to: u64, most: u64) -> io::Result<()> {
        let to = to.min(self.hashed.saturating_add(most));
        if self.hashed >= to {
            return Ok(());
        }
        let mut file = File::open(file)?;
        file.seek(SeekFrom::Start(self.hashed))?;
        let mut from = file.take(to.saturating_sub(self.hashed));
        let mut buffer = vec![0_u8; READ_BYTES];
        while self.hashed < to {
            let read = from.read(&mut buffer)?;
            let bytes = buffer.get(..read).unwrap_or_default();
            if bytes.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.sha256.update(bytes);
            self.hashed = self.hashed.saturating_add(len(bytes));
        }
        Ok(())
    }
}

fn len(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

const fn io_error(source: io::Error) -> Error {
    Error::Io { what: "writing the source", source }
}
