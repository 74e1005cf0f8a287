//! Lightning, as the use cases see it: an [`Issuer`] mints invoices, a [`Receiver`] tells what happened until it is acknowledged, a
//! [`Sender`] pays, an [`Operator`] looks after the node. Only [`ldk`], [`kv`] and [`mint`] know LDK's crates; [`fake`] is a scripted
//! node for tests, [`regtest`] runs the bitcoind of tests and of the demo.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::domain::amount::Msat;
use crate::domain::id::{NodeId, PaymentHash, Preimage};
pub use crate::domain::ledger::IncomingPayment;

pub mod bolt11;
pub mod fake;
pub mod kv;
pub mod ldk;
pub mod mint;
pub mod regtest;
mod rpc;
mod telling;

/// The networks of Bitcoin that Sluice runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// Real money.
    Mainnet,
    /// The public test network, version 3.
    Testnet,
    /// The signed test network.
    Signet,
    /// A private chain on this machine.
    Regtest,
}

/// Where the node reads the chain; the configuration reads it key by key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum ChainSource {
    /// A bitcoind of the operator's own, by RPC.
    Bitcoind {
        /// Its host.
        host: String,
        /// Its RPC port.
        port: u16,
        /// A file that holds `user:password`, such as bitcoind's own `.cookie`.
        cookie_file: std::path::PathBuf,
    },
    /// An Esplora server.
    Esplora {
        /// Its address, such as `https://blockstream.info/api`.
        url: String,
    },
    /// An Electrum server.
    Electrum {
        /// Its address, such as `ssl://electrum.example:50002`.
        url: String,
    },
}

/// How the embedded node is set up; a section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Which network.
    pub network: Network,
    /// Where the chain is read.
    pub chain: ChainSource,
    /// The addresses that peers connect to, `host:port`; none means outbound connections only.
    pub listen: Vec<String>,
    /// The name told to the network, at most 32 bytes; needed, beside [`Options::listen`], to announce channels.
    pub alias: Option<String>,
}

/// An invoice that was just made; nothing was written for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Minted {
    /// The BOLT 11 text.
    pub bolt11: String,
    /// Its payment hash.
    pub hash: PaymentHash,
    /// When it expires, in seconds since the Unix epoch.
    pub expires_at: u64,
}

/// Why no invoice can be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MintError {
    /// No channel is up that could receive the amount.
    #[error("no channel can receive {0} now")]
    NoInbound(Msat),
    /// The node is not running.
    #[error("the Lightning node is not running")]
    NotRunning,
    /// LDK refused.
    #[error("the invoice could not be made: {0}")]
    Refused(String),
}

/// Mints invoices from the node's own keys: no write, no look-up, no await.
pub trait Issuer: Send + Sync {
    /// A fresh invoice with the constant description `Sluice`, at most two route hints (from channels that are up and can receive it)
    /// and a payment hash of its own.
    ///
    /// # Errors
    /// [`MintError`], among it that no channel can receive the amount.
    fn mint(&self, amount: Msat, expiry: Duration) -> Result<Minted, MintError>;

    /// The payee of every invoice.
    fn node_id(&self) -> NodeId;
}

/// Something the node tells. It is told again, also after a restart, until it is acknowledged.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    /// A payment came in.
    Received(IncomingPayment),
    /// A payment of ours reached its destination.
    Sent {
        /// Its payment hash.
        hash: PaymentHash,
        /// The proof.
        preimage: Option<Preimage>,
        /// What the route cost.
        fee: Msat,
    },
    /// A payment of ours failed for good.
    SendFailed {
        /// Its payment hash, where the node knows it.
        hash: Option<PaymentHash>,
        /// Why.
        reason: String,
    },
    /// We forwarded somebody else's payment.
    Forwarded {
        /// What we earned.
        fee: Msat,
    },
    /// A channel was agreed on; nothing was paid over it yet.
    ChannelPending {
        /// Its identity (BOLT 2 `channel_id`), hexadecimal.
        channel: String,
    },
    /// A channel came up.
    ChannelReady {
        /// With whom.
        peer: Option<NodeId>,
        /// Its identity (BOLT 2 `channel_id`), hexadecimal.
        channel: String,
    },
    /// A channel is gone.
    ChannelClosed {
        /// With whom.
        peer: Option<NodeId>,
        /// Its identity (BOLT 2 `channel_id`), hexadecimal.
        channel: String,
        /// Why.
        reason: String,
    },
    /// Of no interest here.
    Other(&'static str),
}

/// Tells what happened, strictly in sequence. One consumer only.
#[async_trait]
pub trait Receiver: Send + Sync {
    /// Waits for the next event; the same one again until [`Receiver::acknowledge`].
    async fn next(&self) -> Event;

    /// The event last told was recorded: forget it. Without an event told since the last call, nothing happens.
    ///
    /// # Errors
    /// [`Error`] where the node could not write that down; the event is told again, though perhaps only by the next boot.
    async fn acknowledge(&self) -> Result<(), Error>;

    /// The number of what is new in this start of the process, greater than every earlier one. What an earlier start left
    /// unacknowledged is told under other numbers, because LDK may tell it once more by itself.
    fn boot(&self) -> u64;
}

/// What is known of a payment that this node was asked to send.
#[derive(Clone, PartialEq, Eq)]
pub enum Outgoing {
    /// Never heard of: nothing was sent.
    Unknown,
    /// On its way.
    Pending,
    /// It arrived.
    Succeeded {
        /// The proof, where it is still known.
        preimage: Option<Preimage>,
        /// What the route cost.
        fee: Msat,
    },
    /// It failed for good.
    Failed,
}

/// Why something could not be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The node is not running.
    #[error("the Lightning node is not running")]
    NotRunning,
    /// A payment of this hash is on its way or has arrived.
    #[error("a payment of this hash was sent before")]
    Duplicate,
    /// There is no way to the destination now; a later try may find one.
    #[error("no route with enough capacity was found")]
    NoRoute,
    /// An invoice, a node id or an address is malformed.
    #[error("{0}")]
    Malformed(String),
    /// The start failed: one line that names what and the mend.
    #[error("{0}")]
    Start(String),
    /// Anything else the node said.
    #[error("the Lightning node: {0}")]
    Node(String),
}

/// Sends payments. That one was handed over does not mean that it arrived: an [`Event`] tells.
#[async_trait]
pub trait Sender: Send + Sync {
    /// Pays a node by keysend with a preimage of ours, whose hash was recorded before.
    ///
    /// # Errors
    /// [`Error::Duplicate`] where this hash was sent before: then ask [`Sender::outgoing`]. [`Error::NoRoute`], [`Error::Malformed`] and
    /// [`Error::NotRunning`] mean that nothing was sent; after [`Error::Node`] that is unknown: ask as well.
    async fn keysend(
        &self,
        to: NodeId,
        amount: Msat,
        preimage: &Preimage,
        fee_max: Msat,
    ) -> Result<(), Error>;

    /// Pays a BOLT 11 invoice of a fixed amount and returns its hash.
    ///
    /// # Errors
    /// As for [`Sender::keysend`]; [`Error::Malformed`] also for an invoice without an amount, of another network, expired or our own.
    async fn pay(&self, bolt11: &str, fee_max: Msat) -> Result<PaymentHash, Error>;

    /// What the node knows of a payment that it was asked to send.
    async fn outgoing(&self, hash: &PaymentHash) -> Outgoing;

    /// Drops the node's record of a payment: [`Outgoing::Unknown`] from then on. To be used for a payout that is settled in the ledger,
    /// and for one that is [`Outgoing::Pending`] in a new boot although no event comes (its record outlived a crash that it was not
    /// sent in): sending it again with the same preimage is safe, because LDK itself refuses what is on its way.
    ///
    /// # Errors
    /// [`Error`] where the node could not write that down.
    async fn forget(&self, hash: &PaymentHash) -> Result<(), Error>;
}

/// A channel, as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Channel {
    /// Its identity (BOLT 2 `channel_id`), hexadecimal.
    pub id: String,
    /// Its peer.
    pub peer: NodeId,
    /// Its whole value in satoshi.
    pub value_sat: u64,
    /// What this node can send now.
    pub outbound_msat: u64,
    /// What this node can receive now.
    pub inbound_msat: u64,
    /// What this node owns of the channel, to the millisatoshi while no HTLC is pending.
    pub balance_msat: u64,
    /// What is in HTLCs now, in both directions; `None` where the sides are too small to tell.
    pub pending_msat: Option<u64>,
    /// The part of its balance that this node can never send, in satoshi.
    pub reserve_sat: u64,
    /// How long the record is that the node keeps of it, in bytes: LDK adds to it with each payment for as long as the channel is open.
    #[serde(default)]
    pub record_bytes: u64,
    /// Confirmed and announced to both sides.
    pub ready: bool,
    /// Ready and the peer is connected.
    pub usable: bool,
    /// Told to the public network.
    pub announced: bool,
}

/// What a node is and has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    /// Its id.
    pub id: NodeId,
    /// Its network.
    pub network: Network,
    /// The best block it knows.
    pub height: u32,
    /// On-chain funds in satoshi, in all.
    pub onchain_sat: u64,
    /// On-chain funds in satoshi that may be spent.
    pub onchain_spendable_sat: u64,
    /// The sum of channel balances as LDK counts them, in satoshi.
    pub lightning_sat: u64,
    /// Its channels.
    pub channels: Vec<Channel>,
    /// How many peers are connected.
    pub peers: usize,
}

/// The operator's side of the node.
#[async_trait]
pub trait Operator: Send + Sync {
    /// Identity, balances and channels.
    fn info(&self) -> NodeInfo;

    /// A fresh on-chain address.
    ///
    /// # Errors
    /// [`Error`] where the wallet refuses.
    fn address(&self) -> Result<String, Error>;

    /// Connects to a peer, and again after a restart where `persist` says so.
    ///
    /// # Errors
    /// [`Error::Malformed`] for a bad address, [`Error::Node`] where the peer does not answer.
    async fn connect(&self, peer: NodeId, address: &str, persist: bool) -> Result<(), Error>;

    /// Opens a channel; `push` is given to the peer.
    ///
    /// # Errors
    /// [`Error`] where funds are short or the peer refuses.
    async fn open_channel(&self, open: OpenChannel) -> Result<(), Error>;

    /// Reads the chain now instead of at the next interval.
    ///
    /// # Errors
    /// [`Error`] where the chain source does not answer.
    async fn sync(&self) -> Result<(), Error>;
}

/// A channel to be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenChannel {
    /// With whom.
    pub peer: NodeId,
    /// Where the peer listens, `host:port`.
    pub address: String,
    /// The channel's value in satoshi.
    pub value_sat: u64,
    /// What the peer is given at once.
    pub push: Msat,
    /// Whether the network is told.
    pub announce: bool,
}

/// A running node under all its roles.
#[async_trait]
pub trait Node: Issuer + Receiver + Sender + Operator {
    /// Stops it; the store may be closed afterwards. Once stopped, stopping again does nothing.
    async fn stop(&self);

    /// Waits until the node can no longer work, because its state could not be written, and says why. The program must then end:
    /// LDK does not recover in the same process.
    async fn failed(&self) -> Error {
        std::future::pending().await
    }
}

/// A shared running node.
pub type SharedNode = Arc<dyn Node>;
