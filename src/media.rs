//! Media in, segments out: the port behind which FFmpeg works.
//!
//! The process that holds the keys never decodes a creator's file: [`worker`] starts the same executable again as a sandboxed child,
//! and only that child calls [`ffmpeg`]. What the child says is checked before anything is published.

use std::path::PathBuf;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::domain::id::{RenditionName, SegmentNumber};
use crate::domain::video::{Rendition, Ticks};

mod boxes;
pub mod extras;
pub(crate) mod ffmpeg;
#[cfg(test)]
mod fixture;
mod grid;
mod join;
mod loudness;
mod plan;
pub mod worker;

use extras::{Extras, ExtrasOrder};
pub use loudness::Loudness;
pub use plan::{Copyable, Heard, PicturePlan, Pictured, Piece, Plan, Rung, SoundPlan, Survey};

/// The name of the rendition that is the sound alone, and of the sound's parts.
pub(crate) const SOUND: &str = "audio";

/// The name of a rendition's init segment in the output directory.
pub(crate) fn init_file(rendition: &RenditionName) -> String {
    format!("{rendition}-init.mp4")
}

/// The name of a segment in the output directory.
pub(crate) fn segment_file(rendition: &RenditionName, number: SegmentNumber) -> String {
    format!("{rendition}-{number}.m4s")
}

/// How media is made; a section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The nominal length of a segment, in milliseconds.
    pub segment_ms: u64,
    /// The heights of the ladder in lines, highest first; those above the source are left out (never upscaled).
    pub ladder: Vec<u32>,
    /// x264's constant rate factor: lower is better and larger.
    pub crf: u32,
    /// x264's preset.
    pub preset: String,
    /// The loudness that sound is brought to, in LUFS (EBU R128).
    pub loudness_lufs: Loudness,
    /// Whether films with pictures also get a rendition of their sound alone.
    pub audio_only: bool,
    /// The longest source that is accepted, in seconds.
    pub duration_max_seconds: u64,
    /// The largest source that is accepted, in pixels a frame.
    pub pixels_max: u64,
    /// The most bytes that one worker may write in all.
    pub output_max_bytes: u64,
    /// The most segments that a title may have in a rendition.
    pub segments_max: u32,
    /// The worker's memory limit in bytes.
    pub memory_max_bytes: u64,
    /// The worker's limit on processor time, in seconds.
    pub cpu_max_seconds: u64,
    /// How long one worker may take by the clock, in seconds.
    pub piece_max_seconds: u64,
    /// Whether the worker may run where the kernel lacks a part of the sandbox.
    pub allow_weak_sandbox: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            segment_ms: 4_000,
            ladder: vec![1_080, 720, 480, 240],
            crf: 23,
            preset: "veryfast".to_owned(),
            loudness_lufs: Loudness::default(),
            audio_only: true,
            duration_max_seconds: 6 * 3_600,
            pixels_max: 3_840 * 2_160,
            output_max_bytes: 64 << 30,
            segments_max: 30_000,
            memory_max_bytes: 4 << 30,
            cpu_max_seconds: 24 * 3_600,
            piece_max_seconds: 6 * 3_600,
            allow_weak_sandbox: false,
        }
    }
}

/// One piece of a title to be made.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    /// The source file.
    pub source: PathBuf,
    /// An empty directory that takes what is made.
    pub output: PathBuf,
    /// How.
    pub options: Options,
    /// What the whole title will be.
    pub plan: Plan,
    /// Which part of it.
    pub piece: Piece,
}

/// What the worker tells while it works. Files lie in the order's output directory; each is complete when it is told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Told {
    /// The init segment of a rendition is done (EXT-X-MAP).
    Init {
        /// Which rendition.
        rendition: RenditionName,
        /// The file's name in the output directory.
        file: String,
        /// Its length.
        bytes: u64,
    },
    /// A segment is done.
    Segment {
        /// Which rendition.
        rendition: RenditionName,
        /// Which segment.
        number: SegmentNumber,
        /// The file's name in the output directory.
        file: String,
        /// Its length.
        bytes: u64,
    },
    /// How much of the piece is through, in thousandths.
    Progress {
        /// 0 to 1000.
        permille: u32,
    },
    /// All is made; the last thing that is told.
    Done {
        /// Errors in the source that the demuxer and decoders passed over.
        errors: u64,
    },
    /// It cannot be made; the last thing that is told.
    Failed {
        /// Why, in words for the creator, without paths.
        reason: String,
    },
}

/// What a source holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probe {
    /// The container's duration.
    pub duration_ms: u64,
    /// Width and height as shown (rotation applied); `None` without a video track.
    pub resolution: Option<(u32, u32)>,
    /// The frame rate that is encoded, in frames per 1,000 seconds.
    pub frame_rate_milli: Option<u32>,
    /// Whether there is an audio track.
    pub audio: bool,
}

/// What a file decodes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decoded {
    /// Video frames.
    pub frames: u64,
    /// Audio samples per channel.
    pub samples: u64,
    /// From the first video frame's start to the last one's end (or of audio, where there is no video).
    pub duration: Ticks,
    /// Errors that the decoders reported.
    pub errors: u64,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The source cannot be made into media; trying again does not help.
    #[error("{0}")]
    Source(String),
    /// The worker died, hung or broke its protocol; another try may help.
    #[error("the media worker failed: {0}")]
    Worker(String),
    /// It was told to stop.
    #[error("cancelled")]
    Cancelled,
    /// The machine refused something.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

/// Takes what the worker tells, in order; an error stops the worker.
#[async_trait]
pub trait Sink: Send {
    /// One telling. A file that it names may be moved away.
    async fn told(&mut self, told: Told) -> Result<(), Error>;
}

/// Makes renditions from sources, piece by piece.
#[async_trait]
pub trait Transcoder: Send + Sync {
    /// Reads a source once without decoding it: what it is, and all that a [`Plan`] needs.
    async fn survey(
        &self,
        source: PathBuf,
        options: Options,
        cancel: CancellationToken,
    ) -> Result<Survey, Error>;

    /// Makes a piece. `sink` hears everything but the final `Done` or `Failed`, which become the result.
    async fn work(
        &self,
        order: Order,
        sink: &mut dyn Sink,
        cancel: CancellationToken,
    ) -> Result<(), Error>;

    /// Whether a part is what a worker would have made: checked as when it is told of. `number` is `None` for the init segment.
    fn check(
        &self,
        plan: &Plan,
        rendition: &RenditionName,
        number: Option<SegmentNumber>,
        bytes: &[u8],
    ) -> Result<(), Error>;

    /// The form of a part that is served; `sound` is the sound track's part of the same number, where the film has sound.
    fn join(
        &self,
        picture: Option<&[u8]>,
        sound: Option<&[u8]>,
        number: Option<SegmentNumber>,
    ) -> Result<Bytes, Error>;

    /// What playlists tell of a rendition, from its served init segment and the length of each served segment.
    fn rendition(
        &self,
        plan: &Plan,
        name: &RenditionName,
        init: &[u8],
        sizes: &[u64],
    ) -> Result<Rendition, Error>;

    /// Makes what viewers expect around a film: poster, storyboard, waveform, chapters, subtitles, an I-frame rendition. The files lie in
    /// the order's output directory and are checked.
    async fn extras(&self, order: ExtrasOrder, cancel: CancellationToken) -> Result<Extras, Error>;

    /// Decodes a whole media file and counts what is in it.
    async fn decode(&self, file: PathBuf) -> Result<Decoded, Error>;

    /// Writes a film of at least `seconds` to `to` by repeating `clip` without encoding anything anew.
    async fn repeat(&self, clip: PathBuf, to: PathBuf, seconds: u64) -> Result<(), Error>;
}
