//! What of an upload outlives the process: a small JSON file beside its bytes, replaced atomically. The length of the bytes on disk is the offset.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::domain::id::{CreatorId, SourceHash, UploadId, VideoId};

/// How far an upload has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "snake_case")]
pub(super) enum Stage {
    /// Bytes are missing.
    Arriving,
    /// Every byte is on the disk; the title may not know yet.
    Whole {
        /// What it hashes to.
        sha256: SourceHash,
    },
    /// The title knows, too.
    Handed {
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
}

/// An upload as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Names it in addresses.
    pub(super) id: UploadId,
    /// The title whose source it is: one upload each.
    pub(super) video: VideoId,
    /// Whose quota it counts for.
    pub(super) creator: CreatorId,
    /// Bytes of the whole; unknown where a plain `PUT` does not say.
    pub(super) length: Option<u64>,
    /// `Upload-Metadata` as it was sent, which a `HEAD` gives back.
    pub(super) metadata: String,
    /// Bytes from here on belong to a request whose checksum was not compared: a crash takes them back.
    pub(super) unverified_from: Option<u64>,
    /// How far it has come.
    #[serde(flatten)]
    pub(super) stage: Stage,
    /// When it was made, in milliseconds since the Unix epoch.
    pub(super) created_ms: u64,
}

/// The files of a title's upload.
#[derive(Debug, Clone)]
pub(super) struct Files {
    /// Bytes that have arrived.
    pub(super) part: PathBuf,
    /// The whole source, which jobs read.
    pub(super) source: PathBuf,
    /// The record.
    pub(super) record: PathBuf,
    new: PathBuf,
    spool: PathBuf,
}

impl Files {
    pub(super) fn of(spool: &Path, video: VideoId) -> Self {
        let file = |kind: &str| spool.join(format!("{video}.{kind}"));
        Self {
            part: file("part"),
            source: file("source"),
            record: file("upload"),
            new: file("upload-new"),
            spool: spool.to_owned(),
        }
    }

    /// Writes the record, whole or not at all, and waits for the disk.
    pub(super) fn save(&self, record: &Record) -> io::Result<()> {
        let mut file = File::create(&self.new)?;
        file.write_all(&serde_json::to_vec(record).map_err(io::Error::other)?)?;
        file.sync_all()?;
        fs::rename(&self.new, &self.record)?;
        self.sync()
    }

    /// Waits until the directory is on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.spool)?.sync_all()
    }

    /// Removes what of an upload that came to nothing is there.
    pub(super) fn remove(&self) {
        // The record last: bytes without one are swept at the next start.
        for path in [&self.part, &self.new, &self.record] {
            remove(path);
        }
    }
}

/// Removes a file; that there is none is well.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "not removed");
    }
}

/// All records of a spool, with the bytes that are there of each and when the last of them came, in milliseconds since the Unix epoch. One that
/// cannot be read is told and left out: what belongs to it is swept.
pub(super) fn load(spool: &Path) -> Vec<(Record, u64, u64)> {
    let entries = fs::read_dir(spool).into_iter().flatten().flatten();
    let records = entries
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "upload"));
    records.filter_map(|path| {
        let told = |error: &dyn std::fmt::Display| {
            tracing::error!(path = %path.display(), %error, "the record of an upload cannot be read");
        };
        let read = fs::read(&path).and_then(|bytes| {
            serde_json::from_slice::<Record>(&bytes).map_err(io::Error::other)
        });
        let record = read.map_err(|error| told(&error)).ok()?;
        arrived(spool, record).map_err(|error| told(&error)).ok()
    }).collect()
}

/// Sources in a spool that are whole: whose they are and how long each is.
pub(super) fn sources(spool: &Path) -> Vec<(VideoId, u64)> {
    let entries = fs::read_dir(spool).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let name = entry.file_name();
        let named = name.to_str()?.strip_suffix(".source")?;
        let video = named.split('.').next()?.parse().ok()?;
        Some((video, entry.metadata().ok()?.len()))
    });
    found.collect()
}

fn arrived(spool: &Path, mut record: Record) -> io::Result<(Record, u64, u64)> {
    let files = Files::of(spool, record.video);
    if record.stage != Stage::Arriving {
        return Ok((record.clone(), record.length.unwrap_or_default(), record.created_ms));
    }
    let part = fs::OpenOptions::new().write(true).open(&files.part)?;
    let metadata = part.metadata()?;
    let touched = metadata.modified()?.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let most = record.unverified_from.take().or(record.length).unwrap_or(u64::MAX);
    if metadata.len() > most {
        part.set_len(most)?;
    }
    let touched = u64::try_from(touched.as_millis()).unwrap_or(u64::MAX);
    Ok((record.clone(), metadata.len().min(most), touched.max(record.created_ms)))
}
