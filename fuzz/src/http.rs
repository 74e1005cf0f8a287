//! The server's own file.

#[path = "../../src/http/range.rs"]
pub mod range;
