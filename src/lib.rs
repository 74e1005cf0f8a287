//! Sluice: a self-hosted, Lightning-native streaming server.
//!
//! Media is transcoded into HLS segments; each segment that a viewer requests is paid by its own fresh Lightning invoice, so a viewer pays
//! per second watched; the embedded node settles the creator's share.
//!
//! # The layers, from the inside
//! - [`domain`]: the rules, pure. [`runtime`]: time, chance, tasks.
//! - [`store`], [`lightning`], [`media`]: ports, and adapters that never import each other. [`blobs`], [`hls`]: segments and playlists.
//! - Use cases, which see ports only: [`library`] (a source becomes a title), [`paywall`] (may this viewer have this segment?),
//!   [`settlement`] (payments in), [`payout`] (payments out), [`statements`] (the books), [`operate`] (the node).
//! - [`http`] turns requests into use cases, [`cli`] turns arguments into either; [`app`] puts everything together.
//!
//! `tests/tidy.rs` keeps these layers.
//!
//! # Glossary
//! - *Title*, in code [`Video`](domain::video::Video): what a creator uploads; a *version* is made from one source of it.
//! - *Rendition*: one encoding of a version (RFC 8216). *Segment*: one number of the version's one list of boundaries, in any rendition;
//!   what a payment buys. *Multivariant playlist*: names the renditions.
//! - *Challenge*: an invoice and the macaroon that its preimage completes; both together are a *credential* (L402).
//! - *Session*: a playlist behind a secret address for players that cannot pay, and a stream of invoices for the wallet beside them.
//! - *Credit*: what a viewer paid and was not served yet; a liability. *Redeem* (a credential) and *draw* (a session) turn it into
//!   earnings, once. *Again*: serving what was redeemed once more, free within its grace. *Replay*: an event told twice.
//! - *Payable*: earned by a creator and not paid out. *Payout*: a payment to a creator, intended before it is sent.
//! - *Entry*, *posting*, *balance*: double-entry bookkeeping, in millisatoshi.
//!
//! # Three walks through the code
//! 1. **A segment.** `http::play::part` parses the path, asks [`library::Library::published`] for the version, reads the bytes
//!    ([`library::Library::open`]), and only then asks [`paywall::Paywall::redeem`]: a good credential is redeemed in one batch with
//!    what it earns ([`store::Ledger::redeem`]); everything else gets an invoice minted from the node's keys ([`paywall::Paywall::challenge`]).
//! 2. **A payment in.** [`settlement::Settlement`] takes the node's event, books it ([`store::Ledger::credit`], keyed by payment hash),
//!    acknowledges it, and rings whoever waits. A crash between any two of these replays harmlessly.
//! 3. **A payout.** [`payout::Payer`] writes the intent ([`store::Payouts::plan`], on disk before anything is sent), asks the node
//!    whether it knows this payment hash, sends only what it never heard of, and books the outcome ([`store::Payouts::settle`]).

pub mod app;
pub mod blobs;
pub mod cli;
pub mod config;
pub mod domain;
pub mod hls;
pub mod http;
pub mod library;
pub mod lightning;
pub mod media;
pub mod operate;
pub mod payout;
pub mod paywall;
pub mod runtime;
pub mod settlement;
pub mod statements;
pub mod store;
pub mod telemetry;
