//! `sluice serve`: the server on the operator's own chain source.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;

use clap::Args;

use super::{interrupted, output};
use crate::app;
use crate::config::{Config, Flags};
use crate::telemetry;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// The configuration; without one, the defaults and the environment.
    #[arg(long, short)]
    config: Option<PathBuf>,
    /// Where everything is kept; comes before the configuration.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Address and port; comes before the configuration.
    #[arg(long)]
    listen: Option<SocketAddr>,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let flags = Flags { data_dir: arguments.data_dir.clone(), listen: arguments.listen };
    let config = Config::load(arguments.config.as_deref(), &flags)?;
    telemetry::start_logging(&config.log.filter, config.log.json);
    // Listens from here on: who reads "answers" may ask for the stop at once.
    let mut interrupted = pin!(interrupted());
    let server = tokio::select! {
        biased;
        () = &mut interrupted => return Ok(ExitCode::from(130)),
        server = app::start(&config, None) => server?,
    };
    let stopping = server.stopping();
    output::line(&format!("Sluice answers on http://{}", server.address));
    output::line(&format!("The operator's key is in {}", server.operator_key.display()));
    tokio::select! {
        () = &mut interrupted => {}
        () = stopping.cancelled() => {}
    }
    output::note("stopping; once more ends at once");
    server.stop().await?;
    Ok(ExitCode::SUCCESS)
}
