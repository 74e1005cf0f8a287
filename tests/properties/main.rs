//! What holds for all inputs: the ledger against a plain model, texts that are read back as they were written, prices, and parsers that
//! meet arbitrary bytes.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod addresses;
mod fuzz;
mod ledger;
mod model;
mod prices;
mod texts;
mod window;
// Shared with fuzz/, where these modules are the same files without the server.
#[path = "../../fuzz/src/targets.rs"]
mod targets;
mod domain {
    pub use sluice::domain::{amount, id, ledger, subtitle};
}
mod http {
    pub use sluice::http::range;
}
mod paywall {
    pub use sluice::paywall::token;
}
