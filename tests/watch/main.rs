//! `sluice watch` as a whole, against a real server in this process, against servers that lie, and with wallets that misbehave.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)]

mod honest;
mod liar;
mod lies;
mod nwc;
mod server;
mod wallets;
