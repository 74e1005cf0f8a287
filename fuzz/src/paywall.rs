//! Of the server's gate the pure part; `paywall/` is a link to its folder.

pub mod token;
