//! How far titles have come, as their creators are told it.

use serde::Serialize;
use tokio::sync::watch;

use super::{Error, Library};
use crate::domain::id::{RenditionName, VideoId};
use crate::domain::video::VideoState;
use crate::runtime::lock;
use crate::store::Role;

/// How far a title has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// `draft`, `uploading`, `queued`, `transcoding`, `ready` or `failed`.
    pub state: &'static str,
    /// Bytes of the source that have arrived, while uploading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub received_bytes: Option<u64>,
    /// How much is transcoded, in thousandths.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub permille: Option<u32>,
    /// How much of each rendition is made.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub renditions: Vec<RenditionProgress>,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// How far a rendition has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RenditionProgress {
    /// Which.
    pub name: RenditionName,
    /// How many of its segments are there, in thousandths.
    pub permille: u32,
}

impl Progress {
    pub(super) fn of(state: &VideoState) -> Self {
        let reason = match state {
            VideoState::Failed { reason } => Some(reason.clone()),
            _ => None,
        };
        Self {
            state: state.word(),
            received_bytes: None,
            permille: None,
            renditions: Vec::new(),
            reason,
        }
    }
}

impl Library {
    /// How far a title has come, now and from now on.
    ///
    /// # Errors
    /// [`Error::Missing`] where there is none, or it is somebody else's.
    pub fn progress(&self, id: VideoId, role: Role) -> Result<watch::Receiver<Progress>, Error> {
        let video = self.own_video(id, role)?;
        let mut progress = lock(&self.progress);
        let sender = progress
            .entry(id)
            .or_insert_with(|| watch::channel(Progress::of(video.making_state())).0);
        Ok(sender.subscribe())
    }

    pub(super) fn tell(&self, id: VideoId, told: Progress) {
        let mut progress = lock(&self.progress);
        match progress.get(&id) {
            Some(sender) => {
                sender.send_replace(told);
            }
            None => {
                progress.insert(id, watch::channel(told).0);
            }
        }
    }

    /// Tells where a title stands by its record.
    pub(super) fn tell_state(&self, id: VideoId) {
        if let Ok(Some(video)) = self.parts.store.video(id) {
            self.tell(id, Progress::of(video.making_state()));
        }
    }
}
