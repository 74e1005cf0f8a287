//! `sluice node`: the Lightning node of a running server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::client::Connection;
use super::output;
use crate::lightning::NodeInfo;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

/// Half a million payments; each start reads it, and it is written anew every hundred changes.
const RECORD_BYTES_MANY: u64 = 50_000_000;

#[derive(Debug, Subcommand)]
enum Command {
    /// Identity, balances and channels (the operator's key).
    Info,
    /// A fresh on-chain address: fund it, so that peers can open channels to this node.
    Address,
}

#[derive(Deserialize)]
struct Given {
    address: String,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = arguments.connection.client()?;
    match arguments.command {
        Command::Address => {
            let given: Given = client.post("/api/v1/node/address", &json!({})).await?;
            output::line(&given.address);
        }
        Command::Info => {
            let info: NodeInfo = client.get("/api/v1/node").await?;
            output::line(&format!("node      {}", info.id));
            output::line(&format!("network   {:?}, block {}", info.network, info.height));
            output::line(&format!("on chain  {} sat", info.onchain_sat));
            output::line(&format!(
                "channels  {} sat in {}",
                info.lightning_sat,
                info.channels.len()
            ));
            for channel in &info.channels {
                let state = if channel.usable { "usable" } else { "not usable" };
                output::line(&format!(
                    "  with {}: can send {} msat, can receive {} msat, {state}",
                    channel.peer, channel.outbound_msat, channel.inbound_msat
                ));
                if channel.record_bytes >= RECORD_BYTES_MANY {
                    output::line(&format!(
                        "    its record takes {} MB and grows: close it when it suits, and open another",
                        channel.record_bytes / 1_000_000
                    ));
                }
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
