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
    let mut start = pin!(app::start(&config, None));
    let server = tokio::select! {
        biased;
        () = &mut interrupted => {
            output::note("stopping, once the start is through; once more ends at once");
            // A node that is left behind half started would be like one that was killed.
            start.await?.stop().await?;
            return Ok(ExitCode::from(130));
        }
        server = &mut start => server?,
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
