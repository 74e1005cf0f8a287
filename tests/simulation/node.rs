//! A model of the Lightning node: what was claimed is on disk at once (LDK's monitors), its queue of events is not (ldk-node), and after a
//! start it tells again what was kept, what LDK is not sure to have told, and now and then what was acknowledged long ago.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use sha2::{Digest as _, Sha256};
use sluice::domain::amount::Msat;
use sluice::domain::id::{NodeId, PaymentHash, Preimage};
use sluice::lightning::{
    Error, Event, IncomingPayment, Issuer, MintError, Minted, Network, Node, NodeInfo, OpenChannel,
    Operator, Outgoing, Receiver, Sender,
};
use sluice::runtime::{Clock as _, ManualClock};
use sluice::store::{Durability, NodeKey, NodeState as _, Store};
use tokio::sync::Notify;

use crate::chance::Chance;
use crate::disk::Disk;
use crate::telling::Tellings;

/// After its invoice expired a payment is still accepted for so long (LDK, block time).
pub const LATE_S: u64 = 7_200;

/// What outlives processes and power cuts: who holds which preimage, and what was claimed.
#[derive(Default)]
pub struct Reality {
    pub minted: Vec<(PaymentHash, Preimage, Msat, u64)>,
    pub claimed: Vec<(PaymentHash, Msat)>,
}

impl Reality {
    pub fn invoice(&self, hash: &PaymentHash) -> &(PaymentHash, Preimage, Msat, u64) {
        self.minted.iter().find(|(of, ..)| of == hash).expect("minted here")
    }

    /// All payments of a hash.
    pub fn payments(&self, hash: &PaymentHash) -> Vec<Msat> {
        self.claimed.iter().filter(|(of, _)| of == hash).map(|(_, amount)| *amount).collect()
    }
}

/// The node in one process.
pub struct SimNode {
    store: Arc<Store<Disk>>,
    reality: Arc<Mutex<Reality>>,
    clock: Arc<ManualClock>,
    chance: Chance,
    state: Mutex<State>,
    woken: Notify,
}

struct State {
    queue: VecDeque<(PaymentHash, Msat)>,
    tellings: Tellings,
    /// Events that may be told before the simulation says more.
    permits: usize,
    /// Claims that LDK knows to have told, by their place.
    told: Vec<usize>,
    /// The process does not come back from the next acknowledgement.
    hangs: bool,
    hung: bool,
}

fn key(name: &str) -> NodeKey {
    let part = || "simulation".to_owned();
    NodeKey { primary: part(), secondary: part(), key: name.to_owned() }
}

impl SimNode {
    /// The start of a process.
    pub fn start(
        store: Arc<Store<Disk>>,
        reality: Arc<Mutex<Reality>>,
        clock: Arc<ManualClock>,
        chance: Chance,
        boot: u64,
    ) -> Self {
        let queue: VecDeque<(PaymentHash, Msat)> = read(&store, "events").unwrap_or_default();
        let told: Vec<usize> = read(&store, "manager").unwrap_or_default();
        let tellings = Tellings::new(boot, queue.len());
        let state = State { queue, tellings, permits: 0, told, hangs: false, hung: false };
        let node =
            Self { store, reality, clock, chance, state: Mutex::new(state), woken: Notify::new() };
        let claims = node.reality().claimed.len();
        for place in 0..claims {
            let told = node.state().told.contains(&place);
            if !told || node.chance.percent(5) {
                node.tell(place);
            }
        }
        node
    }

    /// Somebody pays an invoice; whether it arrived.
    pub fn claim(&self, hash: PaymentHash, amount: Msat) -> bool {
        let place = {
            let mut reality = self.reality();
            let (_, _, least, expires_at) = *reality.invoice(&hash);
            // The payment secret binds the least amount and the time: LDK claims nothing else.
            if amount < least || self.clock.now_s() > expires_at + LATE_S {
                return false;
            }
            if self.store.write(&key("monitors"), b"", Durability::Disk).is_err() {
                return false;
            }
            reality.claimed.push((hash, amount));
            reality.claimed.len() - 1
        };
        self.tell(place);
        true
    }

    /// LDK tells a claim; ldk-node queues it, not synced; LDK notes, synced and perhaps later, that it told.
    fn tell(&self, place: usize) {
        let claim = self.reality().claimed[place];
        let mut state = self.state();
        state.queue.push_back(claim);
        self.write_queue(&state);
        if !state.told.contains(&place) && self.chance.percent(60) {
            state.told.push(place);
            let text = serde_json::to_vec(&state.told).unwrap();
            let _ = self.store.write(&key("manager"), &text, Durability::Disk);
        }
    }

    fn write_queue(&self, state: &State) -> bool {
        let text = serde_json::to_vec(&state.queue).unwrap();
        self.store.write(&key("events"), &text, Durability::Process).is_ok()
    }

    /// How many events wait.
    pub fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// Lets so many events be told.
    pub fn permit(&self, count: usize) {
        let mut state = self.state();
        state.permits = count.min(state.queue.len());
        drop(state);
        self.woken.notify_one();
    }

    /// Whether all that was permitted is done.
    pub fn is_quiet(&self) -> bool {
        let state = self.state();
        state.permits == 0 || state.hung
    }

    /// The process ends within its next acknowledgement: booked, and not acknowledged.
    pub fn hang(&self) {
        self.state().hangs = true;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    fn reality(&self) -> MutexGuard<'_, Reality> {
        self.reality.lock().unwrap()
    }
}

fn read<T: serde::de::DeserializeOwned>(store: &Store<Disk>, name: &str) -> Option<T> {
    let value = store.read(&key(name)).unwrap()?;
    Some(serde_json::from_slice(&value).unwrap())
}

impl Issuer for SimNode {
    fn mint(&self, amount: Msat, expiry: Duration) -> Result<Minted, MintError> {
        let mut reality = self.reality();
        let n = reality.minted.len() as u64;
        let preimage = Preimage::new(Sha256::digest(n.to_be_bytes()).into());
        let (hash, expires_at) = (preimage.hash(), self.clock.now_s() + expiry.as_secs());
        reality.minted.push((hash, preimage, amount, expires_at));
        // Nobody here reads it: who pays knows the hash.
        Ok(Minted { bolt11: format!("lnbcrt{hash}"), hash, expires_at })
    }

    fn node_id(&self) -> NodeId {
        NodeId::new([2; 33])
    }
}

#[async_trait]
impl Receiver for SimNode {
    async fn next(&self) -> Event {
        loop {
            let woken = self.woken.notified();
            {
                let state = self.state();
                let front = state.queue.front().filter(|_| state.permits > 0);
                if let Some((hash, received)) = front.copied() {
                    let boot = state.tellings.of(&hash);
                    return Event::Received(IncomingPayment { hash, received, boot });
                }
            }
            woken.await;
        }
    }

    async fn acknowledge(&self) -> Result<(), Error> {
        if self.state().hangs {
            self.state().hung = true;
            std::future::pending::<()>().await;
        }
        let mut state = self.state();
        let Some((hash, _)) = state.queue.pop_front() else { return Ok(()) };
        state.tellings.acknowledged(Some(&hash));
        state.permits = state.permits.saturating_sub(1);
        self.write_queue(&state);
        Ok(())
    }

    fn boot(&self) -> u64 {
        self.state().tellings.current()
    }
}

#[async_trait]
impl Sender for SimNode {
    async fn keysend(&self, _: NodeId, _: Msat, _: &Preimage, _: Msat) -> Result<(), Error> {
        Err(Error::NotRunning)
    }

    async fn pay(&self, _: &str, _: Msat) -> Result<PaymentHash, Error> {
        Err(Error::NotRunning)
    }

    async fn outgoing(&self, _: &PaymentHash) -> Outgoing {
        Outgoing::Unknown
    }

    async fn forget(&self, _: &PaymentHash) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl Operator for SimNode {
    fn info(&self) -> NodeInfo {
        NodeInfo {
            id: self.node_id(),
            network: Network::Regtest,
            height: 1,
            onchain_sat: 0,
            onchain_spendable_sat: 0,
            lightning_sat: 0,
            channels: Vec::new(),
            peers: 0,
        }
    }

    fn address(&self) -> Result<String, Error> {
        Err(Error::NotRunning)
    }

    async fn connect(&self, _: NodeId, _: &str, _: bool) -> Result<(), Error> {
        Err(Error::NotRunning)
    }

    async fn open_channel(&self, _: OpenChannel) -> Result<(), Error> {
        Err(Error::NotRunning)
    }

    async fn sync(&self) -> Result<(), Error> {
        Ok(())
    }
}

#[async_trait]
impl Node for SimNode {
    async fn stop(&self) {}
}
