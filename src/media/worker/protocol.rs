//! What parent and child say to each other, a line of JSON each.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::media::extras::ExtrasOrder;
use crate::media::{Decoded, Options, Order, Survey, Told};

/// The one line to the child.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    /// What it may use.
    pub(super) limits: Options,
    /// What it shall do.
    pub(super) work: Work,
}

/// What a child shall do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Work {
    /// Look at a source.
    Survey {
        /// The source.
        source: PathBuf,
    },
    /// Make a piece.
    Piece(Box<Order>),
    /// Decode and count.
    Decode {
        /// The file.
        file: PathBuf,
    },
    /// Make what viewers expect around a film.
    Extras(ExtrasOrder),
    /// Make a long film from a short clip.
    Repeat {
        /// The clip.
        clip: PathBuf,
        /// The film, which the parent gives its final name.
        to: PathBuf,
        /// Its least length.
        seconds: u64,
    },
}

/// A line from the child.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Line {
    /// Of an order, and of any failure.
    Told(Told),
    /// The answer to [`Work::Survey`].
    Surveyed(Survey),
    /// The answer to [`Work::Decode`].
    Decoded(Decoded),
    /// The answer to [`Work::Repeat`].
    Repeated,
    /// The answer to [`Work::Extras`]: how long the file is that tells what was made.
    Extras {
        /// In bytes.
        bytes: u64,
    },
    /// Work goes on.
    Alive,
}

impl Line {
    /// The line's kind, for messages.
    pub(super) const fn word(&self) -> &'static str {
        match self {
            Self::Told(_) => "told",
            Self::Surveyed(_) => "surveyed",
            Self::Decoded(_) => "decoded",
            Self::Repeated => "repeated",
            Self::Extras { .. } => "extras",
            Self::Alive => "alive",
        }
    }
}
