//! The embedded node: `ldk_node::Node` behind the ports.
//!
//! Every call that writes, or that ldk-node answers by blocking on its runtime, runs on a blocking
//! thread. Invoices are minted beside the node ([`Mint`]).

mod chain;
mod convert;
mod hints;
mod log;

use std::collections::HashMap;
use std::net::{TcpListener, ToSocketAddrs};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use ldk_node::bitcoin::secp256k1::PublicKey;
use ldk_node::payment::{PaymentDirection, PaymentKind, PaymentStatus};
use ldk_node::{Builder, ChannelDetails, NodeError};
use lightning::ln::channelmanager::PaymentId;
use lightning::ln::msgs::SocketAddress;
use lightning::routing::router::RouteParametersConfig;
use lightning::types::payment::PaymentPreimage;
use lightning_invoice::Bolt11Invoice;
use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::sync::watch;

use crate::domain::amount::Msat;
use crate::domain::id::{NodeId, PaymentHash, Preimage};
use crate::runtime::lock;
use crate::store::{NodeKey, NodeState};

use super::kv::{NodeStore, Records};
use super::mint::Mint;
use super::telling::Tellings;
use super::{
    Channel, Error, Event, Issuer, MintError, Minted, Network, Node, NodeInfo, OpenChannel,
    Operator, Options, Outgoing, Receiver, Sender,
};
use hints::Hints;

/// What ldk-node keeps on chain for each anchor channel, in satoshi, so that it can pay for closing
/// it; its own default. A peer that opens a channel to us is refused without it.
const ANCHOR_RESERVE_PER_CHANNEL_SAT: u64 = 25_000;

/// How long the record of a payment is kept whose removal a crash prevented: longer than a payout is in doubt.
const RECORDS_KEPT: Duration = Duration::from_secs(30 * 86_400);

/// The embedded node.
pub struct LdkNode {
    node: Arc<ldk_node::Node>,
    mint: Mint,
    hints: Hints,
    records: Records,
    network: Network,
    receiving: Mutex<Receiving>,
    /// What became of the invoices that this process sent: what LDK gives up at once may fail before ldk-node has recorded it, and such a
    /// record says "pending" for ever. Each stays until it arrives or is forgotten.
    attempts: Mutex<HashMap<PaymentHash, Attempts>>,
    stopped: AtomicBool,
    failure: watch::Receiver<Option<String>>,
}

/// How often an invoice was sent, and how often the event has told that it failed. The two are counted because a failure may be told after the
/// next attempt has begun.
#[derive(Default)]
struct Attempts {
    sent: u32,
    failed: u32,
}

/// What the one consumer of events has reached.
struct Receiving {
    tellings: Tellings,
    /// An event was told and is not acknowledged yet.
    told: bool,
}

/// Starts the node with the keys of this seed. Its state goes to `state`; ldk-node wants a storage
/// directory as well and is given `data_dir`, where it keeps nothing, because neither its log files
/// nor its own store are in use.
///
/// # Errors
/// [`Error::Start`]: one line that names what is wrong and the mend.
pub async fn start(
    options: &Options,
    seed: [u8; 64],
    state: Arc<dyn NodeState>,
    boot: u64,
    data_dir: &Path,
) -> Result<LdkNode, Error> {
    let runtime = Handle::current();
    if runtime.runtime_flavor() == RuntimeFlavor::CurrentThread {
        return Err(Error::Start("the Lightning node needs a multi-threaded runtime".to_owned()));
    }
    let mint = Mint::new(options.network, &seed)?;
    let listen = listen_addresses(&options.listen)?;
    let source = chain::check(&options.chain, options.network).await?;

    let mut builder = Builder::new();
    builder.set_network(options.network.bitcoin());
    builder.set_entropy_seed_bytes(seed);
    builder.set_storage_dir_path(data_dir.display().to_string());
    builder.set_custom_logger(Arc::new(log::Log));
    builder.set_runtime(runtime.clone());
    source.configure(&mut builder);
    if !listen.is_empty() {
        // ldk-node refuses an alias without addresses: neither alone lets it announce anything.
        if let Some(alias) = &options.alias {
            builder.set_node_alias(alias.clone()).map_err(|_| {
                Error::Start("lightning.alias is longer than 32 bytes: shorten it".to_owned())
            })?;
            let told = listen.iter().filter(|address| !is_unspecified(address)).cloned().collect();
            builder.set_announcement_addresses(told).map_err(|_| too_many())?;
        }
        builder.set_listening_addresses(listen).map_err(|_| too_many())?;
    }
    let kept = kept_events(&*state)?;
    let store = NodeStore::new(state, runtime);
    let failure = store.failure();
    let records = store.records();
    let node = blocking(move || {
        let node = builder.build_with_store(Arc::new(store)).map_err(convert::build_error)?;
        node.start().map_err(convert::start_error)?;
        prune(&node);
        Ok(node)
    })
    .await?;

    let started = NodeId::new(node.node_id().serialize());
    let node = LdkNode {
        node: Arc::new(node),
        mint,
        hints: Hints::default(),
        records,
        network: options.network,
        receiving: Mutex::new(Receiving { tellings: Tellings::new(boot, kept), told: false }),
        attempts: Mutex::default(),
        stopped: AtomicBool::new(false),
        failure,
    };
    let minting = node.mint.node_id();
    if minting != started {
        node.stop().await;
        return Err(Error::Start(format!(
            "invoices would name the node {minting}, but {started} runs: this build of Sluice \
             does not fit its ldk-node"
        )));
    }
    Ok(node)
}

/// A record of a payment is of no use once its event was acknowledged. Each is removed then; what a crash between the two left behind goes here,
/// long after its event can be told again, so that the payment store, which every start reads whole, does not grow.
fn prune(node: &ldk_node::Node) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let before = now.saturating_sub(RECORDS_KEPT).as_secs();
    let over = node.list_payments_with_filter(|payment| {
        let lightning = !matches!(payment.kind, PaymentKind::Onchain { .. });
        let decided = payment.status != PaymentStatus::Pending;
        lightning && decided && payment.latest_update_timestamp < before
    });
    for payment in over {
        if let Err(error) = node.remove_payment(&payment.id) {
            tracing::debug!(%error, "an old payment's record stays with the node");
        }
    }
}

/// How many events ldk-node kept from before this start: its queue begins with their number, 16 bit
/// and big-endian.
fn kept_events(state: &dyn NodeState) -> Result<usize, Error> {
    let key =
        NodeKey { primary: String::new(), secondary: String::new(), key: "events".to_owned() };
    let queue = state
        .read(&key)
        .map_err(|error| Error::Start(format!("the node's state cannot be read: {error}")))?;
    Ok(match queue.as_deref() {
        Some([high, low, ..]) => u16::from_be_bytes([*high, *low]).into(),
        _ => 0,
    })
}

/// `0.0.0.0` and `[::]` are for listening only; told to the network, they would lead every peer to
/// itself.
fn is_unspecified(address: &SocketAddress) -> bool {
    match address {
        SocketAddress::TcpIpV4 { addr, .. } => *addr == [0; 4],
        SocketAddress::TcpIpV6 { addr, .. } => *addr == [0; 16],
        _ => false,
    }
}

fn too_many() -> Error {
    Error::Start("lightning.listen names more than 100 addresses".to_owned())
}

/// Parses the addresses and tries each: ldk-node finds one in use only after it has started its
/// tasks.
fn listen_addresses(listen: &[String]) -> Result<Vec<SocketAddress>, Error> {
    let bad =
        |address: &str, why: &str| Error::Start(format!("lightning.listen: {address}: {why}"));
    let mut parsed = Vec::new();
    for address in listen {
        let socket: SocketAddress = address
            .parse()
            .map_err(|_| bad(address, "not a `host:port`, such as `0.0.0.0:9735`"))?;
        let resolved = socket
            .to_socket_addrs()
            .map_err(|_| bad(address, "this name is not known: write an address"))?;
        for place in resolved {
            TcpListener::bind(place).map_err(|error| match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    bad(address, "in use: stop what listens there, or choose another port")
                }
                _ => bad(address, &format!("{error}: choose another address")),
            })?;
        }
        parsed.push(socket);
    }
    Ok(parsed)
}

/// Runs what blocks where it may block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|_| Err(Error::Node("a call into it panicked".to_owned())))
}

impl LdkNode {
    /// As [`Issuer::mint`], or with the hash of what it is for in place of a description: what a service of LNURL-pay gives out (LUD-06).
    ///
    /// # Errors
    /// As [`Issuer::mint`].
    pub fn invoice(
        &self,
        amount: Msat,
        expiry: Duration,
        described: Option<[u8; 32]>,
    ) -> Result<Minted, MintError> {
        if self.is_stopped() {
            return Err(MintError::NotRunning);
        }
        let hints = self
            .hints
            .for_amount(amount, || self.node.list_channels())
            .ok_or(MintError::NoInbound(amount))?;
        // LDK judges the expiry by block time, and wallets by their own clocks: only the machine's
        // clock will do.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.mint.invoice(amount, expiry, hints, now, described)
    }

    /// Runs a call of ldk-node where it may block.
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ldk_node::Node) -> Result<T, NodeError> + Send + 'static,
    ) -> Result<T, Error> {
        let node = Arc::clone(&self.node);
        blocking(move || work(&node).map_err(convert::error)).await
    }

    /// The id of a payment in ldk-node's own record, for BOLT 11 and keysend.
    const fn payment_id(hash: &PaymentHash) -> PaymentId {
        PaymentId(*hash.as_bytes())
    }

    /// The payment id of a keysend, whose receipt is at the head of the queue. ldk-node records
    /// each; minted invoices leave no record.
    fn keysend(&self, event: &ldk_node::Event) -> Option<PaymentId> {
        let ldk_node::Event::PaymentReceived { payment_id: Some(id), .. } = event else {
            return None;
        };
        let record = self.node.payment(id)?;
        let keysend = matches!(record.kind, PaymentKind::Spontaneous { .. });
        (keysend && record.direction == PaymentDirection::Inbound).then_some(*id)
    }

    /// Whether all attempts of this process to pay an invoice have failed for good.
    fn is_abandoned(&self, hash: &PaymentHash) -> bool {
        lock(&self.attempts).get(hash).is_some_and(|of| of.sent > 0 && of.failed >= of.sent)
    }

    fn receiving(&self) -> MutexGuard<'_, Receiving> {
        lock(&self.receiving)
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }
}

impl Issuer for LdkNode {
    fn mint(&self, amount: Msat, expiry: Duration) -> Result<Minted, MintError> {
        self.invoice(amount, expiry, None)
    }

    fn node_id(&self) -> NodeId {
        self.mint.node_id()
    }
}

#[async_trait]
impl Receiver for LdkNode {
    async fn next(&self) -> Event {
        let event = self.node.next_event_async().await;
        let (event, told_before) = {
            let mut receiving = self.receiving();
            let told_before = std::mem::replace(&mut receiving.told, true);
            (convert::event(event, &receiving.tellings), told_before)
        };
        if matches!(event, Event::ChannelReady { .. } | Event::ChannelClosed { .. }) {
            self.hints.expire();
        }
        match &event {
            Event::Sent { hash, .. } => {
                lock(&self.attempts).remove(hash);
            }
            Event::SendFailed { hash: Some(hash), .. } if !told_before => {
                if let Some(attempts) = lock(&self.attempts).get_mut(hash) {
                    attempts.failed = attempts.failed.saturating_add(1);
                }
            }
            _ => {}
        }
        event
    }

    async fn acknowledge(&self) -> Result<(), Error> {
        // ldk-node would drop whatever is at the head of its queue, told or not.
        if !std::mem::take(&mut self.receiving().told) {
            return Ok(());
        }
        let Some(event) = self.node.next_event() else { return Ok(()) };
        let keysend = self.keysend(&event);
        // It is off ldk-node's queue even where writing that down fails.
        self.receiving().tellings.acknowledged(convert::received(&event).as_ref());
        self.call(move |node| {
            node.event_handled()?;
            // After, not before: until the event is forgotten, the record is what makes ldk-node
            // refuse a second keysend of this hash.
            keysend.map_or(Ok(()), |id| node.remove_payment(&id))
        })
        .await
    }

    fn boot(&self) -> u64 {
        self.receiving().tellings.current()
    }
}

#[async_trait]
impl Sender for LdkNode {
    async fn keysend(
        &self,
        to: NodeId,
        amount: Msat,
        preimage: &Preimage,
        fee_max: Msat,
    ) -> Result<(), Error> {
        let to = public_key(&to)?;
        if to == self.node.node_id() {
            return Err(Error::Malformed("the destination is this node itself".to_owned()));
        }
        let preimage = PaymentPreimage(*preimage.as_bytes());
        self.call(move |node| {
            let route = Some(route_parameters(fee_max));
            node.spontaneous_payment().send_with_preimage(amount.get(), to, preimage, route)
        })
        .await
        .map(|_| ())
    }

    async fn pay(&self, bolt11: &str, fee_max: Msat) -> Result<PaymentHash, Error> {
        let malformed = |why: &str| Error::Malformed(why.to_owned());
        let invoice: Bolt11Invoice =
            bolt11.trim().parse().map_err(|_| malformed("not a BOLT 11 invoice"))?;
        if invoice.network() != self.network.bitcoin() {
            return Err(malformed("the invoice is of another network"));
        }
        if invoice.amount_milli_satoshis().is_none() {
            return Err(malformed("the invoice names no amount"));
        }
        if invoice.is_expired() {
            return Err(malformed("the invoice has expired"));
        }
        if invoice.recover_payee_pub_key() == self.node.node_id() {
            return Err(malformed("the invoice is this node's own"));
        }
        let route = Some(route_parameters(fee_max));
        let hash: &[u8; 32] = invoice.payment_hash().as_ref();
        let hash = PaymentHash::new(*hash);
        if self.is_abandoned(&hash) {
            // ldk-node would refuse what its record says is on its way.
            self.forget(&hash).await?;
        }
        // Before it is sent: its failure may be told before the call is back.
        let attempt = |change: fn(u32) -> u32| {
            let mut attempts = lock(&self.attempts);
            let of = attempts.entry(hash).or_default();
            of.sent = change(of.sent);
            if of.sent == 0 {
                attempts.remove(&hash);
            }
        };
        attempt(|sent| sent.saturating_add(1));
        let sent = self.call(move |node| node.bolt11_payment().send(&invoice, route)).await;
        if sent.is_err() {
            // Nothing was sent, and no event comes.
            attempt(|sent| sent.saturating_sub(1));
        }
        sent.map(|id| PaymentHash::new(id.0))
    }

    async fn outgoing(&self, hash: &PaymentHash) -> Outgoing {
        self.node
            .payment(&Self::payment_id(hash))
            .filter(|payment| payment.direction == PaymentDirection::Outbound)
            .map_or(Outgoing::Unknown, |payment| match convert::outgoing(&payment) {
                Outgoing::Pending if self.is_abandoned(hash) => Outgoing::Failed,
                outcome => outcome,
            })
    }

    async fn forget(&self, hash: &PaymentHash) -> Result<(), Error> {
        let id = Self::payment_id(hash);
        self.call(move |node| node.remove_payment(&id)).await?;
        lock(&self.attempts).remove(hash);
        Ok(())
    }
}

#[async_trait]
impl Operator for LdkNode {
    fn info(&self) -> NodeInfo {
        let balances = self.node.list_balances();
        let channel = |of: &ChannelDetails| Channel {
            record_bytes: of
                .funding_txo
                .map(|txo| self.records.of(&txo.txid, txo.vout))
                .unwrap_or_default(),
            ..convert::channel(of)
        };
        let peers = self.node.list_peers().iter().filter(|peer| peer.is_connected).count();
        NodeInfo {
            id: self.mint.node_id(),
            network: self.network,
            height: self.node.status().current_best_block.height,
            onchain_sat: balances.total_onchain_balance_sats,
            onchain_spendable_sat: balances.spendable_onchain_balance_sats,
            lightning_sat: balances.total_lightning_balance_sats,
            channels: self.node.list_channels().iter().map(channel).collect(),
            peers,
        }
    }

    fn address(&self) -> Result<String, Error> {
        let address = self.node.onchain_payment().new_address().map_err(convert::error)?;
        Ok(address.to_string())
    }

    async fn connect(&self, peer: NodeId, address: &str, persist: bool) -> Result<(), Error> {
        let (peer, address) = (public_key(&peer)?, socket_address(address)?);
        self.call(move |node| node.connect(peer, address, persist)).await
    }

    async fn open_channel(&self, open: OpenChannel) -> Result<(), Error> {
        let (peer, address) = (public_key(&open.peer)?, socket_address(&open.address)?);
        let push = (!open.push.is_zero()).then(|| open.push.get());
        if open.announce
            && (self.node.node_alias().is_none()
                || self.node.config().listening_addresses.is_none())
        {
            let why = "a public channel needs lightning.alias and lightning.listen";
            return Err(Error::Malformed(why.to_owned()));
        }
        let opened = self
            .call(move |node| {
                if open.announce {
                    node.open_announced_channel(peer, address, open.value_sat, push, None)
                } else {
                    node.open_channel(peer, address, open.value_sat, push, None)
                }
            })
            .await;
        self.hints.expire();
        opened.map(|_| ())
    }

    async fn sync(&self) -> Result<(), Error> {
        self.call(ldk_node::Node::sync_wallets).await
    }
}

#[async_trait]
impl Node for LdkNode {
    async fn stop(&self) {
        if self.stopped.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.call(ldk_node::Node::stop).await {
            Ok(()) | Err(Error::NotRunning) => {}
            Err(error) => tracing::error!(%error, "the Lightning node did not stop cleanly"),
        }
    }

    async fn failed(&self) -> Error {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await {
            Ok(why) => Error::Node(why.clone().unwrap_or_default()),
            // The store is gone with the node itself.
            Err(_) => Error::NotRunning,
        }
    }
}

fn route_parameters(fee_max: Msat) -> RouteParametersConfig {
    RouteParametersConfig {
        max_total_routing_fee_msat: Some(fee_max.get()),
        ..RouteParametersConfig::default()
    }
}

fn public_key(id: &NodeId) -> Result<PublicKey, Error> {
    PublicKey::from_slice(id.as_bytes())
        .map_err(|_| Error::Malformed("the node id is not a point of the curve".to_owned()))
}

fn socket_address(address: &str) -> Result<SocketAddress, Error> {
    address.parse().map_err(|_| Error::Malformed(format!("`{address}` is not a `host:port`")))
}
