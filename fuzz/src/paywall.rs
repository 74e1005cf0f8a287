//! The server's own file.

#[path = "../../src/paywall/token.rs"]
pub mod token;
