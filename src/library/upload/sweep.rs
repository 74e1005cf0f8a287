//! What uploads leave behind: at the start, on a timer, and at the end of a title.

use std::path::Path;
use std::sync::Arc;

use tokio::fs;

use super::record::Stage;
use super::{Library, Turn, Upload};
use crate::domain::id::VideoId;
use crate::domain::video::VideoState;
use crate::library::Error;

/// A finished upload is remembered this long, for clients that missed the answer.
const FINISHED_KEPT_MS: u64 = 86_400_000;

impl Library {
    /// Removes what belongs to no upload, ends what expired, and goes on with uploads whose last byte had arrived before the process died.
    pub async fn sweep_spool(self: &Arc<Self>) {
        self.sweep_uploads().await;
        if let Ok(mut entries) = fs::read_dir(&self.parts.spool).await {
            while let Ok(Some(entry)) = entries.next_entry().await {
                let path = entry.path();
                if self.is_left_behind(&path) {
                    tracing::info!(path = %path.display(), "an upload that broke off is removed");
                    remove(&path).await;
                }
            }
        }
    }

    /// Takes the last step of an upload that is whole and was not handed over, unless one is at it. Hashing takes as long as the source is large: not
    /// while somebody waits.
    pub(super) fn go_on_with(self: &Arc<Self>, upload: &Arc<Upload>) {
        if !is_whole(upload) {
            return;
        }
        let Ok(turn) = Arc::clone(&upload.tail).try_lock_owned() else { return };
        let (library, upload) = (Arc::clone(self), Arc::clone(upload));
        tokio::task::spawn_blocking(move || library.go_on(&upload, turn));
    }

    /// Ends uploads to which nothing was added for long, goes on with those whose last step failed, and forgets finished ones.
    pub async fn sweep_uploads(self: &Arc<Self>) {
        let now = self.parts.clock.now_ms();
        for upload in self.uploads.all() {
            self.go_on_with(&upload);
            let over = match upload.record().stage {
                Stage::Arriving => self.expires_ms(&upload) <= now && !is_whole(&upload),
                Stage::Whole { .. } => false,
                Stage::Handed { at_ms } => at_ms.saturating_add(FINISHED_KEPT_MS) <= now,
            };
            // The process may have died while it removed the title.
            let over = over || matches!(self.parts.store.video(upload.names().0), Ok(None));
            // While one writes it has not expired.
            let Some(turn) = Arc::clone(&upload.tail).try_lock_owned().ok().filter(|_| over) else {
                continue;
            };
            let (video, id) = upload.names();
            tracing::info!(%video, upload = %id, "an upload is over");
            self.drop_upload(&upload, turn).await;
        }
    }

    fn go_on(&self, upload: &Upload, mut tail: Turn) {
        let completed = self.complete(upload, &mut tail);
        drop(tail);
        self.forget_if_gone(upload);
        match completed {
            Ok(()) | Err(Error::Missing(_)) => {}
            Err(error) => {
                tracing::error!(video = %upload.names().0, %error, "an upload cannot be finished");
            }
        }
    }

    fn is_left_behind(&self, path: &Path) -> bool {
        let kind = path.extension().and_then(|extension| extension.to_str());
        let id = path.file_stem().and_then(|stem| stem.to_str()?.parse::<VideoId>().ok());
        let stage = id.and_then(|id| self.uploads.of(id)).map(|upload| upload.record().stage);
        match kind {
            Some("upload-new" | "json-new") => true,
            // Its record was read, or nobody can.
            Some("upload" | "part") => stage.is_none(),
            // Renamed and never queued, and its record is not there to say so.
            Some("source") => !matches!(stage, Some(Stage::Whole { .. })) && !self.is_queued(id),
            _ => false,
        }
    }

    /// Whether a job waits for a source, or may: what cannot be told is kept.
    fn is_queued(&self, id: Option<VideoId>) -> bool {
        let Some(Ok(video)) = id.map(|id| self.parts.store.video(id)) else { return true };
        let kept = self.parts.options.keep_sources;
        video.is_some_and(|video| match video.making_state() {
            VideoState::Queued | VideoState::Transcoding => true,
            VideoState::Ready => kept,
            _ => false,
        })
    }
}

/// Whether every byte is there, and the title may not know.
fn is_whole(upload: &Upload) -> bool {
    let record = upload.record();
    match record.stage {
        Stage::Arriving => record.length == Some(upload.offset()),
        Stage::Whole { .. } => true,
        Stage::Handed { .. } => false,
    }
}

/// Removes the source of a title, and what a job made of it, from the spool; not an upload that is under way.
pub(in crate::library) async fn remove_spooled(spool: &Path, id: VideoId) {
    remove(&spool.join(format!("{id}.source"))).await;
    let prefix = format!("{id}.");
    let Ok(mut entries) = fs::read_dir(spool).await else { return };
    while let Ok(Some(entry)) = entries.next_entry().await {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with(&prefix)
            && name.ends_with(".work")
            && let Err(error) = fs::remove_dir_all(entry.path()).await
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(path = %entry.path().display(), %error, "not removed");
        }
    }
}

pub(in crate::library) async fn remove(path: &Path) {
    if let Err(error) = fs::remove_file(path).await
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "not removed");
    }
}
