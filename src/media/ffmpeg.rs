//! FFmpeg behind plain functions: the only module that imports `ffmpeg_next`, called in the sandboxed child alone.
//!
//! A piece of pictures is one decode that feeds one filter graph and an encoder per rung; a muxer per rendition is flushed at each
//! boundary. Timestamps of what is made are counted in frames and samples and never taken from the source, so that renditions agree to
//! the tick and a source's own clock, gaps and jumps end at the filter graph.
//!
//! Unsafe code is confined to [`raw`]. All functions are synchronous and take opened files: nothing here opens a path for reading.

use ffmpeg_next::Error as FfmpegError;
use ffmpeg_next::util::error::ENOMEM;

mod audio;
mod copied;
mod decode;
mod extras;
mod fragment;
mod lane;
mod loudness;
mod pictures;
mod raw;
mod reading;
mod repeat;
mod sound;
mod source;
mod survey;
#[cfg(test)]
mod tests;
mod video;

pub(crate) use decode::decode;
pub(crate) use extras::extras;
pub(crate) use repeat::repeat;
pub(crate) use survey::survey;

use std::fs::File;

use self::lane::Tell;
use crate::media::{Error, Order, Piece};

/// Makes a piece of an opened source; files go to the order's output directory. The errors that were passed over are the result.
pub(crate) fn work(order: &Order, source: File, tell: Tell<'_>) -> Result<u64, Error> {
    match &order.piece {
        Piece::Sound => sound::sound(order, source, tell),
        Piece::Pictures { renditions, from, to } => {
            pictures::pictures(order, renditions, (*from, *to), source, tell)
        }
        Piece::Copied { rendition } => copied::copied(order, rendition, source, tell),
        Piece::Extras => Err(lane::misled()),
    }
}

/// Threads of one decoder or encoder. More than eight gain little at these sizes and each one costs buffers of the memory limit.
const THREADS_MAX: usize = 8;

/// Prepares the process: error texts, and nothing but errors in the log, which goes to standard error.
pub(crate) fn begin() {
    // It registers error texts and cannot fail in any version; where it did, the first use of a codec would tell.
    let _ = ffmpeg_next::init();
    ffmpeg_next::log::set_level(ffmpeg_next::log::Level::Error);
}

fn threads() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u16::try_from(cores.min(THREADS_MAX)).unwrap_or(1)
}

/// What a failure that is not the source's means: the worker failed, unless its memory ran out.
fn failed(what: &'static str) -> impl Fn(FfmpegError) -> Error {
    move |error| match error {
        FfmpegError::Other { errno: ENOMEM } => source::too_much_memory(),
        error => Error::Worker(format!("{what}: {error}")),
    }
}
