//! A scripted node in memory, for fast tests: real invoices, no channel, no chain, no money.
//!
//! It keeps the promises of the ports that tests rest on: events are told in sequence and again
//! until they are acknowledged, also after [`FakeNode::restarted`]; a hash is sent once. Everything
//! else is the script's: who pays what, twice, late or never, and how a payment of ours ends.
//! Nothing is drawn at random, so that a test repeats itself exactly.

mod ports;

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use lightning_invoice::Bolt11Invoice;
use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, Preimage};
use crate::runtime::lock;

use super::mint::Mint;
use super::telling::Tellings;
use super::{Error, Event, Network, OpenChannel, Outgoing};

/// What the one channel can receive to begin with: one bitcoin.
const INBOUND: Msat = Msat::new(100_000_000_000);

/// How a payment of ours goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It arrives at once.
    Succeed,
    /// It is taken, then fails.
    Fail,
    /// It stays on its way until [`FakeNode::settle`].
    Hang,
    /// It is refused at once: no route. Nothing was sent.
    NoRoute,
    /// The call fails and nothing was sent.
    Break,
    /// The call fails although the payment is on its way, and it arrives.
    BreakAndSucceed,
}

/// The fake.
pub struct FakeNode {
    network: Network,
    mint: Mint,
    tag: u8,
    boot: u64,
    state: Mutex<State>,
    /// An event was queued.
    queued: Notify,
    broke: Notify,
}

#[derive(Default, Clone)]
struct State {
    stopped: bool,
    broken: Option<String>,
    /// Seconds since the epoch; the machine's clock where unset.
    now: Option<u64>,
    minted: u64,
    issued: HashMap<PaymentHash, Issued>,
    /// Preimages of other nodes' invoices.
    known: HashMap<PaymentHash, Preimage>,
    queue: VecDeque<Told>,
    told: bool,
    tellings: Tellings,
    acknowledged: Vec<Told>,
    silent: Vec<Told>,
    /// Records, which can be forgotten.
    sent: HashMap<PaymentHash, Sent>,
    /// What is on its way, whether there is a record of it or not: as in LDK, which knows more than ldk-node's records.
    flying: HashMap<PaymentHash, Sent>,
    attempts: u64,
    script: VecDeque<Outcome>,
    usual: Option<Outcome>,
    fee: Msat,
    inbound: Msat,
    balance: Msat,
    channels: Vec<OpenChannel>,
}

#[derive(Clone)]
struct Issued {
    preimage: Preimage,
    amount: Msat,
}

/// An event before it has a boot.
#[derive(Clone)]
enum Told {
    Received(PaymentHash, Msat),
    Other(Event),
}

#[derive(Clone)]
struct Sent {
    amount: Msat,
    preimage: Option<Preimage>,
    how: Outgoing,
}

impl FakeNode {
    /// A node with the first test key.
    ///
    /// # Errors
    /// [`Error::Start`] on mainnet.
    pub fn new(network: Network) -> Result<Self, Error> {
        Self::numbered(network, 1)
    }

    /// One of several nodes with different keys and preimages.
    ///
    /// # Errors
    /// [`Error::Start`] on mainnet.
    pub fn numbered(network: Network, tag: u8) -> Result<Self, Error> {
        if network == Network::Mainnet {
            return Err(Error::Start(
                "the fake Lightning node refuses mainnet: its key is public and it pays nobody"
                    .to_owned(),
            ));
        }
        let mint = Mint::new(network, &[tag; 64])?;
        let state = State { inbound: INBOUND, tellings: Tellings::new(1, 0), ..State::default() };
        Ok(Self {
            network,
            mint,
            tag,
            boot: 1,
            state: Mutex::new(state),
            queued: Notify::new(),
            broke: Notify::new(),
        })
    }

    /// The same node in a new boot: what was not acknowledged is told again; then the last `again`
    /// payments, acknowledged or not, as LDK tells them from its monitors. The old one is stopped.
    ///
    /// # Errors
    /// None but what [`FakeNode::new`] has.
    pub fn restarted(&self, again: usize) -> Result<Self, Error> {
        let mut state = self.state().clone();
        self.state().stopped = true;
        let boot = self.boot.saturating_add(1);
        state.tellings = Tellings::new(boot, state.queue.len());
        state.told = false;
        state.stopped = false;
        state.broken = None;
        let all = state.acknowledged.iter().chain(&state.queue);
        let payments = all.filter(|told| matches!(told, Told::Received(..)));
        let payments: Vec<_> = payments.cloned().collect();
        let earlier = payments.len().saturating_sub(again);
        state.queue.extend(payments.into_iter().skip(earlier));
        let node = Self::numbered(self.network, self.tag)?;
        Ok(Self { boot, state: Mutex::new(state), ..node })
    }

    /// Somebody pays one of this node's invoices; the proof goes to the payer.
    ///
    /// # Errors
    /// [`Error::Malformed`] for an invoice that this node did not make.
    pub fn pay(&self, bolt11: &str) -> Result<Preimage, Error> {
        let (hash, issued) = self.issued(bolt11)?;
        Ok(self.received(hash, issued.amount, &issued))
    }

    /// As [`FakeNode::pay`], with another amount than the invoice's.
    ///
    /// # Errors
    /// As [`FakeNode::pay`].
    pub fn pay_amount(&self, bolt11: &str, amount: Msat) -> Result<Preimage, Error> {
        let (hash, issued) = self.issued(bolt11)?;
        Ok(self.received(hash, amount, &issued))
    }

    /// As [`FakeNode::pay`], but no event comes before [`FakeNode::tell`]: the payer is faster with
    /// the proof.
    ///
    /// # Errors
    /// As [`FakeNode::pay`].
    pub fn pay_silently(&self, bolt11: &str) -> Result<Preimage, Error> {
        let (hash, issued) = self.issued(bolt11)?;
        let mut state = self.state();
        state.take_in(issued.amount);
        state.silent.push(Told::Received(hash, issued.amount));
        Ok(issued.preimage)
    }

    /// Queues the events of all silent payments, in their order.
    pub fn tell(&self) {
        let mut state = self.state();
        let silent = std::mem::take(&mut state.silent);
        state.queue.extend(silent);
        drop(state);
        self.queued.notify_one();
    }

    /// A payment of a hash is told once more, although it was acknowledged: LDK does so after some
    /// restarts, and where a payer pays a hash twice.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a hash that this node did not issue.
    pub fn repeat(&self, hash: &PaymentHash) -> Result<(), Error> {
        let issued = self.state().issued.get(hash).cloned().ok_or_else(not_ours)?;
        self.queue(Told::Received(*hash, issued.amount));
        Ok(())
    }

    /// Somebody sends money that no invoice asked for.
    pub fn receive_keysend(&self, preimage: &Preimage, amount: Msat) {
        self.state().take_in(amount);
        self.queue(Told::Received(preimage.hash(), amount));
    }

    /// Queues any event.
    pub fn happen(&self, event: Event) {
        self.queue(Told::Other(event));
    }

    /// What becomes of the payments of ours from now on, and what each costs.
    pub fn set_outcome(&self, outcome: Outcome, fee: Msat) {
        let mut state = self.state();
        state.usual = Some(outcome);
        state.fee = fee;
    }

    /// What becomes of the next payments of ours, one after another, before the usual outcome holds
    /// again.
    pub fn script(&self, outcomes: impl IntoIterator<Item = Outcome>) {
        self.state().script.extend(outcomes);
    }

    /// How often somebody tried to send something.
    pub fn attempts(&self) -> u64 {
        self.state().attempts
    }

    /// Ends a payment of ours that hangs. Whether it did.
    pub fn settle(&self, hash: &PaymentHash, success: bool) -> bool {
        let mut state = self.state();
        let fee = state.fee;
        let Some(sent) = state.flying.remove(hash) else { return false };
        state.end(*hash, sent, success, fee);
        drop(state);
        self.queued.notify_one();
        true
    }

    /// Makes the preimage of another node's invoice known, so that paying it gives a proof.
    pub fn knows(&self, preimage: Preimage) {
        self.state().known.insert(preimage.hash(), preimage);
    }

    /// What the channel can receive from now on.
    pub fn set_inbound(&self, inbound: Msat) {
        self.state().inbound = inbound;
    }

    /// What the node owns.
    pub fn set_balance(&self, balance: Msat) {
        self.state().balance = balance;
    }

    /// The clock that invoices are dated by, in seconds since the Unix epoch.
    pub fn set_time(&self, now: u64) {
        self.state().now = Some(now);
    }

    /// The node's store fails: see [`Node::failed`].
    pub fn break_store(&self, why: &str) {
        self.state().broken = Some(why.to_owned());
        self.broke.notify_waiters();
    }

    /// How many events wait to be acknowledged.
    pub fn waiting(&self) -> usize {
        self.state().queue.len()
    }

    /// The channels that were asked for.
    pub fn opened(&self) -> Vec<OpenChannel> {
        self.state().channels.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn issued(&self, bolt11: &str) -> Result<(PaymentHash, Issued), Error> {
        let (hash, _) = parse(bolt11)?;
        self.state().issued.get(&hash).cloned().map(|issued| (hash, issued)).ok_or_else(not_ours)
    }

    fn received(&self, hash: PaymentHash, amount: Msat, issued: &Issued) -> Preimage {
        self.state().take_in(amount);
        self.queue(Told::Received(hash, amount));
        issued.preimage
    }

    fn queue(&self, told: Told) {
        self.state().queue.push_back(told);
        self.queued.notify_one();
    }

    /// The preimage of the n-th invoice of this node.
    fn preimage(&self, n: u64) -> Preimage {
        let mut hasher = Sha256::new();
        hasher.update(b"sluice fake preimage");
        hasher.update([self.tag]);
        hasher.update(n.to_be_bytes());
        Preimage::new(hasher.finalize().into())
    }

    fn send(&self, hash: PaymentHash, amount: Msat, proof: Option<Preimage>) -> Result<(), Error> {
        let mut state = self.state();
        if state.stopped {
            return Err(Error::NotRunning);
        }
        state.attempts = state.attempts.saturating_add(1);
        if state.sent.get(&hash).is_some_and(|sent| sent.how != Outgoing::Failed) {
            return Err(Error::Duplicate);
        }
        let usual = state.usual.unwrap_or(Outcome::Succeed);
        let next = state.script.front().copied().unwrap_or(usual);
        // As in LDK, a route is looked for before anybody asks whether the payment is on its way.
        if next != Outcome::NoRoute && state.flying.contains_key(&hash) {
            return Err(Error::Duplicate);
        }
        let outcome = state.script.pop_front().unwrap_or(usual);
        let fee = state.fee;
        let sent = Sent { amount, preimage: proof, how: Outgoing::Pending };
        let told = match outcome {
            Outcome::Succeed | Outcome::Fail => {
                state.end(hash, sent, outcome == Outcome::Succeed, fee);
                Ok(())
            }
            Outcome::BreakAndSucceed => {
                state.end(hash, sent, true, fee);
                Err(Error::Node("scripted failure".to_owned()))
            }
            Outcome::Hang => {
                state.flying.insert(hash, sent.clone());
                state.sent.insert(hash, sent);
                Ok(())
            }
            Outcome::NoRoute => {
                // ldk-node keeps a record of what it could not send.
                state.sent.insert(hash, Sent { how: Outgoing::Failed, ..sent });
                Err(Error::NoRoute)
            }
            Outcome::Break => Err(Error::Node("scripted failure".to_owned())),
        };
        drop(state);
        self.queued.notify_one();
        told
    }
}

impl State {
    fn take_in(&mut self, amount: Msat) {
        self.balance = self.balance.checked_add(amount).unwrap_or(self.balance);
        self.inbound = self.inbound.saturating_sub(amount);
    }

    fn end(&mut self, hash: PaymentHash, sent: Sent, success: bool, fee: Msat) {
        let event = if success {
            let cost = sent.amount.checked_add(fee).unwrap_or(sent.amount);
            self.balance = self.balance.saturating_sub(cost);
            self.inbound = self.inbound.checked_add(cost).unwrap_or(self.inbound);
            let preimage = sent.preimage;
            self.sent.insert(hash, Sent { how: Outgoing::Succeeded { preimage, fee }, ..sent });
            Event::Sent { hash, preimage, fee }
        } else {
            self.sent.insert(hash, Sent { how: Outgoing::Failed, ..sent });
            Event::SendFailed { hash: Some(hash), reason: "scripted".to_owned() }
        };
        self.queue.push_back(Told::Other(event));
    }
}

fn parse(bolt11: &str) -> Result<(PaymentHash, Bolt11Invoice), Error> {
    let invoice: Bolt11Invoice =
        bolt11.trim().parse().map_err(|_| Error::Malformed("not a BOLT 11 invoice".to_owned()))?;
    let hash: &[u8; 32] = invoice.payment_hash().as_ref();
    Ok((PaymentHash::new(*hash), invoice))
}

fn not_ours() -> Error {
    Error::Malformed("this node did not make that invoice".to_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::lightning::{IncomingPayment, Issuer, MintError, Node, Operator, Receiver, Sender};

    use super::*;

    const EXPIRY: Duration = Duration::from_secs(600);
    const SAT: Msat = Msat::new(1_000);

    fn fake() -> FakeNode {
        FakeNode::new(Network::Regtest).unwrap()
    }

    async fn next_payment(node: &FakeNode) -> IncomingPayment {
        match node.next().await {
            Event::Received(payment) => payment,
            _ => panic!("not a payment"),
        }
    }

    #[test]
    fn mainnet_is_refused() {
        assert!(matches!(FakeNode::new(Network::Mainnet), Err(Error::Start(_))));
    }

    #[test]
    fn a_run_repeats_itself_and_nodes_differ() {
        let mint = |node: FakeNode| {
            node.set_time(1_790_000_000);
            node.mint(SAT, EXPIRY).unwrap().bolt11
        };
        assert_eq!(mint(fake()), mint(fake()));
        assert_ne!(mint(fake()), mint(FakeNode::numbered(Network::Regtest, 2).unwrap()));
    }

    #[tokio::test]
    async fn a_payment_is_told_until_it_is_acknowledged_also_after_a_restart() {
        let node = fake();
        let minted = node.mint(SAT, EXPIRY).unwrap();
        let preimage = node.pay(&minted.bolt11).unwrap();
        assert_eq!(preimage.hash(), minted.hash);
        assert_eq!(next_payment(&node).await.boot, node.boot());
        assert_eq!(next_payment(&node).await.hash, minted.hash);
        let first = node.boot();
        let node = node.restarted(1).unwrap();
        let kept = next_payment(&node).await;
        assert_eq!((kept.hash, kept.received), (minted.hash, SAT));
        assert!(kept.boot != first && kept.boot != node.boot(), "LDK may tell it once more");
        node.acknowledge().await.unwrap();
        node.acknowledge().await.unwrap();
        assert_eq!(node.waiting(), 1);
        let again = next_payment(&node).await;
        assert_eq!((again.hash, again.boot), (minted.hash, node.boot()));
        node.acknowledge().await.unwrap();
        let node = node.restarted(1).unwrap();
        assert_eq!(next_payment(&node).await.boot, node.boot());
    }

    #[tokio::test]
    async fn an_event_wakes_whoever_waits() {
        let node = std::sync::Arc::new(fake());
        let minted = node.mint(SAT, EXPIRY).unwrap();
        let waiting = tokio::spawn({
            let node = node.clone();
            async move { next_payment(&node).await }
        });
        tokio::task::yield_now().await;
        node.pay_silently(&minted.bolt11).unwrap();
        assert_eq!(node.waiting(), 0);
        node.tell();
        assert_eq!(waiting.await.unwrap().hash, minted.hash);
    }

    #[tokio::test]
    async fn outcomes_follow_the_script() {
        let node = fake();
        let to = FakeNode::numbered(Network::Regtest, 2).unwrap();
        node.set_outcome(Outcome::Succeed, Msat::new(7));
        node.set_balance(Msat::new(10_000));
        node.script([Outcome::NoRoute, Outcome::Hang, Outcome::Break, Outcome::BreakAndSucceed]);
        let send = |n: u8| {
            let (node, to) = (&node, to.node_id());
            async move { node.keysend(to, SAT, &Preimage::new([n; 32]), SAT).await }
        };
        let hash = |n: u8| Preimage::new([n; 32]).hash();
        assert_eq!(send(1).await, Err(Error::NoRoute));
        assert!(node.outgoing(&hash(1)).await == Outgoing::Failed);
        assert_eq!(send(2).await, Ok(()));
        assert_eq!(send(2).await, Err(Error::Duplicate));
        assert!(node.outgoing(&hash(2)).await == Outgoing::Pending);
        assert!(matches!(send(3).await, Err(Error::Node(_))));
        assert!(node.outgoing(&hash(3)).await == Outgoing::Unknown);
        assert!(matches!(send(4).await, Err(Error::Node(_))));
        assert!(matches!(node.outgoing(&hash(4)).await, Outgoing::Succeeded { .. }));
        assert!(node.settle(&hash(2), true) && !node.settle(&hash(2), true));
        // Two arrived at 1,000 and 7 each.
        assert_eq!(node.info().channels[0].balance_msat, 10_000 - 2 * 1_007);
        node.forget(&hash(2)).await.unwrap();
        assert!(node.outgoing(&hash(2)).await == Outgoing::Unknown);
    }

    #[tokio::test]
    async fn the_inbound_capacity_bounds_an_invoice() {
        let node = fake();
        node.set_inbound(SAT);
        assert!(node.mint(SAT, EXPIRY).is_ok());
        let more = Msat::new(1_001);
        assert_eq!(node.mint(more, EXPIRY), Err(MintError::NoInbound(more)));
        node.stop().await;
        assert_eq!(node.mint(SAT, EXPIRY), Err(MintError::NotRunning));
    }

    #[tokio::test]
    async fn a_broken_store_is_told() {
        let node = fake();
        node.break_store("disk full");
        assert_eq!(node.failed().await, Error::Node("disk full".to_owned()));
    }
}
