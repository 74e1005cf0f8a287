//! A Lightning node of the viewer's own, embedded: its keys, channels and records lie in one directory.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, bail};
use async_trait::async_trait;
use tokio_util::sync::CancellationToken;

use super::{Outcome, Payment, Wallet};
use crate::app::{self, Base};
use crate::domain::amount::Msat;
use crate::domain::id::{NodeId, PaymentHash};
use crate::lightning::{
    Error, Event, Network, NodeInfo, OpenChannel, Options, Outgoing, SharedNode,
};
use crate::runtime::{Bells, Tasks, sleep};

/// A payment is waited for this long at a time; then it is looked up again.
const PAY_WITHIN: Duration = Duration::from_secs(60);
/// Should a ring be lost, the node is asked again after this.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Peers are found again within this after a start.
const USABLE_WITHIN: Duration = Duration::from_secs(60);
/// A peer answers to an offered channel, and its funding goes out, within this.
const FUNDED_WITHIN: Duration = Duration::from_secs(60);
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// The node, its database, and the task that takes its events.
pub(crate) struct NodeWallet {
    node: SharedNode,
    network: Network,
    rung: Bells<Ring>,
    tasks: Tasks,
    // The database is closed last.
    _base: Base,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Ring {
    Payment(PaymentHash),
    Funded,
}

impl NodeWallet {
    /// Starts the node that is kept in a directory; makes it at the first start.
    pub(crate) async fn start(directory: &Path, options: &Options) -> anyhow::Result<Self> {
        let base = app::base(directory, options).await?;
        let node: SharedNode = Arc::clone(&base.node) as _;
        let (tasks, rung) = (Tasks::default(), Bells::default());
        let drain = drain(Arc::clone(&node), rung.clone(), tasks.cancellation());
        tasks.spawn_critical("wallet events", drain);
        Ok(Self { node, network: options.network, rung, tasks, _base: base })
    }

    /// Identity, balances and channels, after a look at the chain.
    pub(crate) async fn info(&self) -> NodeInfo {
        if let Err(error) = self.node.sync().await {
            tracing::warn!(%error, "the chain could not be read just now");
        }
        self.node.info()
    }

    /// An address that can be funded.
    pub(crate) fn address(&self) -> anyhow::Result<String> {
        Ok(self.node.address()?)
    }

    /// Waits until a channel can be used.
    pub(crate) async fn usable(&self) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + USABLE_WITHIN;
        loop {
            let channels = self.node.info().channels;
            if channels.iter().any(|channel| channel.usable) {
                return Ok(());
            }
            if channels.is_empty() {
                bail!(
                    "the wallet has no channel: see `sluice watch --wallet-dir …` without an address for how to fund it and open one"
                );
            }
            if tokio::time::Instant::now() > deadline {
                let ready = channels.iter().any(|channel| channel.ready);
                bail!(
                    "the wallet's channel {}",
                    if ready {
                        "has no connection to its peer: try again later"
                    } else {
                        "is not confirmed yet: it takes six blocks, about an hour"
                    }
                );
            }
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    /// Opens a channel, and waits until its funding is on its way.
    pub(crate) async fn open(&self, peer: NodeId, address: &str, sat: u64) -> anyhow::Result<()> {
        let mut funded = self.rung.listen(Ring::Funded);
        let address = address.to_owned();
        let (value_sat, push, announce) = (sat, Msat::ZERO, false);
        self.node.open_channel(OpenChannel { peer, address, value_sat, push, announce }).await?;
        tokio::time::timeout(FUNDED_WITHIN, funded.rung()).await.map_err(|_| {
            anyhow!("the peer did not agree to the channel within {} s", FUNDED_WITHIN.as_secs())
        })
    }

    async fn outcome(&self, hash: PaymentHash) -> Outcome {
        let mut listener = self.rung.listen(Ring::Payment(hash));
        let deadline = tokio::time::Instant::now() + PAY_WITHIN;
        loop {
            match self.node.outgoing(&hash).await {
                Outgoing::Succeeded { preimage: Some(preimage), fee } => {
                    return Outcome::Paid { preimage, fee: Some(fee) };
                }
                Outgoing::Failed => {
                    return Outcome::Failed("no way to the server was found".into());
                }
                Outgoing::Succeeded { preimage: None, .. }
                | Outgoing::Unknown
                | Outgoing::Pending => {}
            }
            tokio::select! {
                () = listener.rung() => {}
                () = tokio::time::sleep(ASK_EVERY) => {}
                () = tokio::time::sleep_until(deadline) => {
                    return Outcome::Unknown("the payment is under way".to_owned());
                }
            }
        }
    }
}

#[async_trait]
impl Wallet for NodeWallet {
    async fn network(&self) -> Option<Network> {
        Some(self.network)
    }

    async fn spendable(&self) -> Option<Msat> {
        let channels = self.node.info().channels;
        let usable = channels.iter().filter(|channel| channel.usable);
        Some(Msat::new(usable.map(|channel| channel.outbound_msat).fold(0, u64::saturating_add)))
    }

    async fn pay(&self, payment: &Payment) -> Outcome {
        match self.node.pay(&payment.bolt11, payment.fee_max).await {
            Ok(_) | Err(Error::Duplicate) => self.outcome(payment.hash).await,
            Err(
                error
                @ (Error::NoRoute | Error::Malformed(_) | Error::NotRunning | Error::Start(_)),
            ) => Outcome::Failed(error.to_string()),
            Err(error @ Error::Node(_)) => Outcome::Unknown(error.to_string()),
        }
    }

    async fn look_up(&self, payment: &Payment) -> Outcome {
        self.outcome(payment.hash).await
    }

    async fn close(&self) {
        self.tasks.stop(STOP_WITHIN).await;
        self.node.stop().await;
    }
}

/// Takes the node's events, so that its queue does not grow, and wakes who waits.
async fn drain(node: SharedNode, rung: Bells<Ring>, cancel: CancellationToken) {
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = node.next() => event,
        };
        if let Err(error) = node.acknowledge().await {
            tracing::warn!(%error, "an event is told again");
            if !sleep(&cancel, ASK_EVERY).await {
                return;
            }
        }
        match event {
            Event::Sent { hash, .. } | Event::SendFailed { hash: Some(hash), .. } => {
                rung.ring(&Ring::Payment(hash));
            }
            Event::ChannelPending { .. } => rung.ring(&Ring::Funded),
            Event::ChannelClosed { reason, .. } => {
                tracing::warn!(reason, "a channel was closed");
            }
            _ => {}
        }
    }
}
