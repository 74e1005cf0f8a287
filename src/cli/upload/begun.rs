//! What the command remembers of an upload until it is finished, so that the same command goes on with it after its own end.

use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use directories::ProjectDirs;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::domain::id::VideoId;

/// An upload that was begun.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Begun {
    pub(super) video: VideoId,
    /// Its path on the server.
    pub(super) at: String,
}

/// Where it is written down; without a place for it, or where that cannot be written, an upload is not found again.
pub(super) struct Memory(Option<PathBuf>);

impl Memory {
    /// Of a file and a server. A file that was changed is another one.
    pub(super) fn of(server: &str, file: &Path) -> Self {
        let dirs = ProjectDirs::from("", "", "sluice");
        let place = dirs
            .map(|dirs| dirs.state_dir().unwrap_or_else(|| dirs.data_local_dir()).join("uploads"));
        Self(place.and_then(|place| Some(place.join(format!("{}.json", name(server, file)?)))))
    }

    pub(super) fn recall(&self) -> Option<Begun> {
        serde_json::from_slice(&std::fs::read(self.0.as_ref()?).ok()?).ok()
    }

    pub(super) fn keep(&self, begun: &Begun) {
        let Some(path) = &self.0 else { return };
        let written = serde_json::to_vec(begun).map_err(std::io::Error::other).and_then(|bytes| {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(path, bytes)
        });
        if let Err(error) = written {
            tracing::warn!(path = %path.display(), %error, "a later run will not find this upload");
        }
    }

    pub(super) fn forget(&self) {
        // It may never have been written.
        self.0.as_ref().map(std::fs::remove_file);
    }
}

fn name(server: &str, file: &Path) -> Option<String> {
    let path = file.canonicalize().ok()?;
    let metadata = path.metadata().ok()?;
    let changed = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
    let mut digest = Sha256::new();
    for part in [
        server.as_bytes(),
        path.as_os_str().as_encoded_bytes(),
        &metadata.len().to_be_bytes(),
        &changed.as_nanos().to_be_bytes(),
    ] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    Some(hex::encode(digest.finalize()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_is_found_by_its_file_and_its_server_until_either_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("film");
        std::fs::write(&file, "a").unwrap();
        let first = name("http://a", &file);
        assert!(first.is_some());
        assert_eq!(name("http://a", &file), first);
        assert_ne!(name("http://b", &file), first);
        std::fs::write(&file, "ab").unwrap();
        assert_ne!(name("http://a", &file), first);
        assert_eq!(name("http://a", &dir.path().join("none")), None);
    }

    #[test]
    fn what_was_begun_is_remembered_until_it_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory(Some(dir.path().join("deep/uploads/x.json")));
        assert!(memory.recall().is_none());
        let video = "0".repeat(32).parse().unwrap();
        memory.keep(&Begun { video, at: "/x".to_owned() });
        assert_eq!(memory.recall().unwrap().at, "/x");
        memory.forget();
        memory.forget();
        assert!(memory.recall().is_none());
    }
}
