//! `sluice init`: the commented configuration.

use std::io::{ErrorKind, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{anyhow, bail};
use clap::Args;

use super::output;
use crate::config::REFERENCE;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where to write it.
    #[arg(default_value = "sluice.toml")]
    file: PathBuf,
    /// Print it instead.
    #[arg(long)]
    print: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    if arguments.print {
        output::line(REFERENCE.trim_end());
        return Ok(ExitCode::SUCCESS);
    }
    let path = arguments.file.display();
    let mut file =
        match std::fs::OpenOptions::new().write(true).create_new(true).open(&arguments.file) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                bail!("{path} is there already: remove it first, or name another file")
            }
            Err(error) => return Err(anyhow!("{path} cannot be written: {error}")),
        };
    file.write_all(REFERENCE.as_bytes())?;
    output::line(&format!(
        "Wrote {path}. Set [lightning] in it, then: sluice serve --config {path}"
    ));
    Ok(ExitCode::SUCCESS)
}
