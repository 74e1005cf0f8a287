//! The command line: one file for each subcommand.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::media::worker::run_worker;
use crate::telemetry;

mod client;
mod creator;
mod demo;
mod init;
mod keys;
mod node;
mod output;
mod serve;
mod subtitles;
mod upload;
pub mod watch;

/// A self-hosted streaming server that is paid per second watched, over Lightning.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(serve::Arguments),
    /// Try everything on this machine: a private chain, four Lightning nodes, a film that is paid for.
    Demo(demo::Arguments),
    /// Write a commented configuration.
    Init(init::Arguments),
    /// Creators of a running server.
    Creator(creator::Arguments),
    /// Upload a film or a recording to a running server.
    ///
    /// Where the connection breaks or the server restarts, it goes on by itself. Where this command itself is cut off, run it again as it was:
    /// it goes on where it ended. It prints the address at which the title can be watched.
    Upload(upload::Arguments),
    /// Subtitles of a title on a running server.
    Subtitles(subtitles::Arguments),
    /// The Lightning node of a running server.
    Node(node::Arguments),
    /// The keys that a stopped server signs credentials with.
    Keys(keys::Arguments),
    /// Play a film in any player, and pay for it segment by segment.
    Watch(Box<watch::Arguments>),
    /// Decode and encode in a sandbox; started by the server itself.
    #[command(hide = true)]
    Worker,
}

/// Runs the program.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if let Command::Worker = arguments.command {
        // Before any thread: the sandbox holds for the thread that enters it and those that it starts.
        return run_worker();
    }
    // Points at which a test holds or ends this process: FAILPOINTS, in development builds only.
    #[cfg(debug_assertions)]
    let _failpoints = fail::FailScenario::setup();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return failure(&anyhow::anyhow!("the runtime could not be started: {error}"));
        }
    };
    let outcome = runtime.block_on(run(arguments.command));
    // What still runs by now has had its time.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => code,
        Err(error) => failure(&error),
    }
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(arguments) => serve::run(&arguments).await,
        Command::Demo(arguments) => demo::run(&arguments).await,
        Command::Init(arguments) => init::run(&arguments),
        Command::Creator(arguments) => quiet(creator::run(&arguments)).await,
        Command::Upload(arguments) => quiet(upload::run(&arguments)).await,
        Command::Subtitles(arguments) => quiet(subtitles::run(&arguments)).await,
        Command::Node(arguments) => quiet(node::run(&arguments)).await,
        Command::Keys(arguments) => quiet(keys::run(&arguments)).await,
        Command::Watch(arguments) => quiet(watch::run(&arguments)).await,
        Command::Worker => Ok(ExitCode::FAILURE),
    }
}

/// Commands that talk to a server log only what is wrong.
async fn quiet(
    command: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    telemetry::start_logging("warn", false);
    command.await
}

/// One line, without a backtrace: it names what is wrong and the mend.
fn failure(error: &anyhow::Error) -> ExitCode {
    output::error(&format!("{error:#}"));
    ExitCode::FAILURE
}

/// Ends at the first Ctrl-C or SIGTERM; a second one ends the process at once.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let wait = || async {
        let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    };
    wait().await;
    std::mem::drop(std::thread::Builder::new().name("impatience".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        if let Ok(runtime) = runtime {
            runtime.block_on(wait());
            std::process::exit(130);
        }
    }));
}
