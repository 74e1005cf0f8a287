//! A node in the test's process that pays and is paid.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use sluice::app::{self, Base};
use sluice::domain::amount::Msat;
use sluice::domain::id::{NodeId, PaymentHash};
use sluice::lightning::ldk::LdkNode;
use sluice::lightning::regtest::Bitcoind;
use sluice::lightning::{Error, Event, Outgoing, SharedNode};
use sluice::runtime::{Bells, Tasks};

/// Should a ring be lost, the node is asked again after this.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// One hop costs nothing; this is a bound.
const FEE_MAX: Msat = Msat::new(2_000);

/// A payment that arrived.
#[derive(Debug, Clone)]
pub struct Paid {
    pub hash: PaymentHash,
    /// 64 hexadecimal digits.
    pub preimage: String,
    pub fee: u64,
}

/// A node, its store, and the task that takes its events.
pub struct Wallet {
    pub node: SharedNode,
    settled: Bells<PaymentHash>,
    tasks: Tasks,
    // The database is closed last.
    base: Base,
}

impl Wallet {
    pub async fn start(directory: &Path, alias: &str, bitcoind: &Bitcoind) -> Self {
        let base = app::base(directory, &super::lightning(alias, bitcoind)).await.unwrap();
        let node: SharedNode = Arc::<LdkNode>::clone(&base.node);
        let (tasks, settled) = (Tasks::default(), Bells::default());
        let drain = drain(Arc::clone(&node), settled.clone(), tasks.clone());
        tasks.spawn_critical("wallet events", drain);
        Self { node, settled, tasks, base }
    }

    pub fn node_id(&self) -> NodeId {
        self.node.node_id()
    }

    /// The node itself.
    pub fn ldk(&self) -> Arc<LdkNode> {
        Arc::clone(&self.base.node)
    }

    /// What it owns in all its channels, to the millisatoshi while no payment is pending.
    pub fn owned(&self) -> i128 {
        let channels = self.node.info().channels;
        channels.iter().map(|channel| i128::from(channel.balance_msat)).sum()
    }

    pub fn usable(&self) -> bool {
        let channels = self.node.info().channels;
        !channels.is_empty() && channels.iter().all(|channel| channel.usable)
    }

    /// Pays and waits for the proof.
    pub async fn pay(&self, bolt11: &str) -> Paid {
        let hash = self.send(bolt11).await.expect("the invoice is sent");
        self.outcome(hash).await.expect("the payment arrives")
    }

    /// Hands a payment over; that it arrives is another matter.
    pub async fn send(&self, bolt11: &str) -> Result<PaymentHash, Error> {
        self.node.pay(bolt11, FEE_MAX).await
    }

    /// What became of a payment; nothing where it failed for good. Waits as long as it takes, up to a minute.
    pub async fn outcome(&self, hash: PaymentHash) -> Option<Paid> {
        let mut listener = self.settled.listen(hash);
        let deadline = tokio::time::Instant::now() + super::WITHIN;
        loop {
            let rung = listener.rung();
            match self.node.outgoing(&hash).await {
                Outgoing::Succeeded { preimage: Some(preimage), fee } => {
                    assert_eq!(preimage.hash(), hash, "the proof fits the invoice");
                    let preimage = hex::encode(preimage.as_bytes());
                    return Some(Paid { hash, preimage, fee: fee.get() });
                }
                Outgoing::Failed => return None,
                _ => {}
            }
            assert!(tokio::time::Instant::now() < deadline, "{hash} stays pending");
            tokio::select! {
                () = rung => {}
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
        }
    }

    /// Whether a payment is on its way.
    pub async fn is_pending(&self, hash: PaymentHash) -> bool {
        self.node.outgoing(&hash).await == Outgoing::Pending
    }

    /// Stops the node in good order.
    pub async fn stop(&self) {
        self.tasks.stop(Duration::from_secs(5)).await;
        self.node.stop().await;
    }
}

impl Drop for Wallet {
    fn drop(&mut self) {
        self.tasks.cancellation().cancel();
    }
}

async fn drain(node: SharedNode, settled: Bells<PaymentHash>, tasks: Tasks) {
    let cancel = tasks.cancellation();
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = node.next() => event,
        };
        if node.acknowledge().await.is_err() {
            return;
        }
        if let Event::Sent { hash, .. } | Event::SendFailed { hash: Some(hash), .. } = event {
            settled.ring(&hash);
        }
    }
}
