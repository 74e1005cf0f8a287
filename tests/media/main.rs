//! Files as people upload them, through the real executable's sandboxed worker. Sources are made by the `ffmpeg` of this machine, results are
//! looked at with its `ffprobe`; where they are missing, the tests fail.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)]

mod chunks;
mod inputs;
mod limits;
mod made;
