//! What every implementation of a port must keep: one suite for stores, over memory and RocksDB, and one for nodes, over the fake here and
//! over real nodes in `tests/regtest/nodes.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod books;
mod fake;
mod lightning;

mod catalog;
mod jobs;
mod ledger;
mod node_state;
mod payouts;
mod races;
mod rocks;
mod sessions;
