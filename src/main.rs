//! The `sluice` program: arguments in, an exit code out; everything else is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    sluice::cli::main()
}
