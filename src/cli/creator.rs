//! `sluice creator`: creators of a running server.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;

use super::client::Connection;
use super::output;
use crate::domain::destination::{Destination, DestinationError};
use crate::domain::id::{CreatorId, NodeId};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let in a creator (the operator's key); prints the creator's key, once.
    Add {
        /// The name that viewers see.
        name: String,
        /// The creator's Lightning node, which is paid by keysend.
        #[arg(long, value_parser = node_id, conflicts_with = "payout")]
        payout_node: Option<NodeId>,
        /// Where the creator is paid: a Lightning address, an LNURL-pay code, or a node id.
        #[arg(long, value_parser = destination)]
        payout: Option<Destination>,
    },
    /// Say where to be paid (a creator's key): a Lightning address, an LNURL-pay code, or a node id.
    Destination {
        /// Such as `ada@wallet.example`, `lnurl1...`, `lnurlp://...` or 66 hexadecimal digits.
        #[arg(value_parser = destination)]
        destination: Destination,
        /// Of this creator, with the operator's key: then it does not wait.
        #[arg(long)]
        creator: Option<CreatorId>,
    },
    /// What was earned and paid out (a creator's key).
    Earnings,
}

fn node_id(text: &str) -> Result<NodeId, String> {
    text.parse().map_err(|_| "a node id has 66 hexadecimal digits".to_owned())
}

fn destination(text: &str) -> Result<Destination, String> {
    text.parse().map_err(|error: DestinationError| error.to_string())
}

#[derive(Deserialize)]
struct Added {
    id: String,
    key: String,
}

#[derive(Deserialize)]
struct Changed {
    id: String,
    payout_from_ms: u64,
}

#[derive(Deserialize)]
struct Earnings {
    earned_msat: u64,
    paid_out_msat: u64,
    routing_msat: u64,
    in_flight_msat: u64,
    payable_msat: u64,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let client = arguments.connection.client()?;
    match &arguments.command {
        Command::Add { name, payout_node, payout } => {
            let payout = payout.clone().or(payout_node.map(Destination::Keysend));
            let body = json!({ "name": name, "payout": payout });
            let added: Added = client.post("/api/v1/creators", &body).await?;
            output::line(&format!("creator  {}", added.id));
            output::line(&format!("key      {}", added.key));
            output::note("The key is shown this once: give it to the creator.");
        }
        Command::Destination { destination, creator } => {
            let whose = creator.map_or_else(|| "me".to_owned(), |creator| creator.to_string());
            let body = json!({ "payout": destination });
            let changed: Changed =
                client.patch(&format!("/api/v1/creators/{whose}"), &body).await?;
            output::line(&format!("creator  {}", changed.id));
            output::note(match changed.payout_from_ms {
                0 => "Payouts go there from now on.",
                _ => "Payouts go there once the wait for a changed destination is over.",
            });
        }
        Command::Earnings => {
            let earnings: Earnings = client.get("/api/v1/earnings").await?;
            for (what, msat) in [
                ("earned", earnings.earned_msat),
                ("paid out", earnings.paid_out_msat),
                ("routing", earnings.routing_msat),
                ("in flight", earnings.in_flight_msat),
                ("payable", earnings.payable_msat),
            ] {
                output::line(&format!("{what:<10} {msat:>14} msat"));
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
