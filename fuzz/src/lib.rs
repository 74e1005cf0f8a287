//! The parsers that meet arbitrary bytes, without the server around them. Links lead to its own source files.
// What the pure files offer beyond the parsers is not used here.
#![allow(dead_code)]

mod domain;
mod http;
mod paywall;
mod runtime;
pub mod targets;
