//! Sluice.
pub mod app;
pub mod blobs;
pub mod config;
pub mod domain;
pub mod hls;
pub mod http;
pub mod library;
pub mod lightning;
pub mod media;
pub mod operate;
pub mod paywall;
pub mod payout;
pub mod runtime;
pub mod settlement;
pub mod statements;
pub mod store;
pub mod telemetry;
