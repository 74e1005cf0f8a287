//! Of the server's HTTP the pure part; `http/` is a link to its folder.

pub mod range;
