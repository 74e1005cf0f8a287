//! Real nodes on a private chain, and the executable itself: what is promised of money is asked of the nodes, not of the ledger alone.
//!
//! `make test-rust` sets `BITCOIND_EXE`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(missing_docs)]

mod addresses;
mod chain_sources;
mod closed;
mod demo;
mod demo_kills;
mod ffmpeg;
mod kills;
mod making;
// The same suite as over the fake.
#[path = "../contract/lightning.rs"]
mod lightning;
mod nodes;
mod players;
mod segments;
mod sessions;
mod starts;
mod uploads;
mod watch;
// Shared with tests/soak.rs and benches/paid_segment.rs.
mod world;
