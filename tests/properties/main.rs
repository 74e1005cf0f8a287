//! What holds for all inputs: the ledger against a plain model, texts that are read back as they were written, prices, and parsers that
//! meet arbitrary bytes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod ledger;
mod model;
mod prices;
mod texts;
