//! `sluice keys`: what a stopped server signs with.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::output;
use crate::app;
use crate::config::{Config, Flags};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Void every credential, session and receipt that was issued so far. The server must be stopped. What is paid and not watched opens
    /// nothing any more; it goes to the creators when it expires.
    Rotate {
        /// The server's configuration; without one, the defaults and the environment.
        #[arg(long, short)]
        config: Option<PathBuf>,
        /// Where the server keeps everything; comes before the configuration.
        #[arg(long)]
        data_dir: Option<PathBuf>,
    },
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Command::Rotate { config, data_dir } = &arguments.command;
    let flags = Flags { data_dir: data_dir.clone(), listen: None };
    let config = Config::load(config.as_deref(), &flags)?;
    let epoch = app::rotate_keys(&config.data_dir).await?;
    output::line(&format!("The keys are of epoch {epoch} from the next start on."));
    Ok(ExitCode::SUCCESS)
}
