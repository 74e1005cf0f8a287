//! Checksums of single requests (tus 1.0.0, extension "checksum").

use sha1::Sha1;
use sha2::{Digest as _, Sha256};

/// What the bytes of a request hash to, as their sender says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// SHA-1: against errors of the line, not against people.
    Sha1([u8; 20]),
    /// SHA-256.
    Sha256([u8; 32]),
}

/// A checksum of bytes as they arrive.
pub(super) enum Summing {
    Sha1(Sha1, [u8; 20]),
    Sha256(Sha256, [u8; 32]),
}

impl Summing {
    pub(super) fn new(said: Checksum) -> Self {
        match said {
            Checksum::Sha1(said) => Self::Sha1(Sha1::new(), said),
            Checksum::Sha256(said) => Self::Sha256(Sha256::new(), said),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha1(sum, _) => sum.update(bytes),
            Self::Sha256(sum, _) => sum.update(bytes),
        }
    }

    /// Whether the sender was right.
    pub(super) fn holds(self) -> bool {
        match self {
            Self::Sha1(sum, said) => <[u8; 20]>::from(sum.finalize()) == said,
            Self::Sha256(sum, said) => <[u8; 32]>::from(sum.finalize()) == said,
        }
    }
}
