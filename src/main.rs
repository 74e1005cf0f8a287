//! The `sluice` program: arguments in, an exit code out; everything else is in the library.

use std::process::ExitCode;

/// Each request takes and gives back some hundred small pieces of memory. Its feature `override` gives RocksDB the same one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sluice::cli::main()
}
