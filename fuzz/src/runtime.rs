//! In place of the operating system's generator: an input must always do the same.

pub fn random_bytes<const N: usize>() -> [u8; N] {
    [0x5a; N]
}
