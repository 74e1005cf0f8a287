//! What the command line prints: the only place that writes to standard output.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::io::Write as _;

/// A line of a result. A reader that went away is no error.
pub fn line(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}

/// A line about the work, beside the result.
pub fn note(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// What went wrong.
pub fn error(text: &str) {
    let _ = writeln!(std::io::stderr(), "sluice: {text}");
}
