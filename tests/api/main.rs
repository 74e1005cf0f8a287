//! The wire (docs/PROTOCOL.md), in process: the router over real use cases, with a store in memory and the fake node.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::expect_used,
    clippy::indexing_slicing,
    missing_docs
)]

mod app;
mod engine;
mod services;
mod sse;
mod transcoder;
mod upload_bounds;
mod uploads;

mod addresses;
mod afterwards;
mod claims;
mod connections;
mod credentials;
mod errors;
mod extras;
mod files;
mod l402;
mod limits;
mod making;
mod media;
mod metrics;
mod outbound;
mod payer;
mod payouts;
mod restart;
mod sessions;
mod several;
mod surface;
mod titles;
