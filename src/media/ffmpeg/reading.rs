//! What all readers of a source share: decoding packet by packet, judging damage, and telling how far they are.

use std::time::{Duration, Instant};

use ffmpeg_next::util::error::{EAGAIN, ENOMEM};
use ffmpeg_next::{Error as FfmpegError, Frame, Packet, decoder};

use super::lane::Tell;
use super::source::too_much_memory;
use crate::media::{Error, Told};

/// The least time between two words on progress.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);
/// The longest silence while work goes on: the parent's watchdog listens.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// How far a piece is.
pub(super) struct Progress {
    permille: u32,
    told: Instant,
}

impl Progress {
    pub(super) fn new() -> Self {
        Self { permille: 0, told: Instant::now() }
    }

    /// Tells that so many of so many parts are done, unless that was told a moment ago.
    pub(super) fn tell(&mut self, done: u64, of: u64, tell: Tell<'_>) -> Result<(), Error> {
        let since = self.told.elapsed();
        if since < PROGRESS_EVERY {
            return Ok(());
        }
        let permille = (u128::from(done) * 1_000).checked_div(u128::from(of)).unwrap_or(0);
        let permille = u32::try_from(permille.min(999)).unwrap_or(0).max(self.permille);
        if permille > self.permille || since > SILENCE_MAX {
            self.permille = permille;
            self.told = Instant::now();
            tell(Told::Progress { permille })?;
        }
        Ok(())
    }
}

/// Errors that were passed over.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Damage {
    pub(super) packets: u64,
    pub(super) errors: u64,
}

impl Damage {
    /// Refuses a source of which most is damaged.
    pub(super) fn judge(self) -> Result<(), Error> {
        if self.errors > 10 && self.errors > self.packets / 2 {
            return Err(Error::Source(
                "This file is damaged: most of it cannot be decoded.".to_owned(),
            ));
        }
        Ok(())
    }

    pub(super) fn add(&mut self, errors: u64) {
        self.errors = self.errors.saturating_add(errors);
    }
}

pub(super) enum Received {
    Frame,
    Nothing,
    Damage,
}

/// Gives a packet, or the end, to a decoder; how many errors it found.
pub(super) fn send(decoder: &mut decoder::Opened, packet: Option<&Packet>) -> Result<u64, Error> {
    let sent = match packet {
        Some(packet) => decoder.send_packet(packet),
        None => decoder.send_eof(),
    };
    match sent {
        Ok(()) => Ok(0),
        Err(FfmpegError::Other { errno: ENOMEM }) => Err(too_much_memory()),
        Err(_) => Ok(1),
    }
}

pub(super) fn receive(decoder: &mut decoder::Opened, frame: &mut Frame) -> Result<Received, Error> {
    match decoder.receive_frame(frame) {
        Ok(()) => Ok(Received::Frame),
        Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => Ok(Received::Nothing),
        Err(FfmpegError::Other { errno: ENOMEM }) => Err(too_much_memory()),
        Err(_) => Ok(Received::Damage),
    }
}
