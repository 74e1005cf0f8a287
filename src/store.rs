//! What is kept, and the atomic verbs that change it.
//!
//! Each verb of a port is one batch in one write-ahead log: it happens whole or not at all. The verbs are written once, in
//! [`catalog`], [`money`], [`sessions`] and [`payouts`], over an [`engine`] with ordered keys: [`memory`] for tests, [`rocks`] to run.
//! A shared SQL database later implements the same ports, and is held to the same contract suite.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::amount::Msat;
use crate::domain::id::{
    CreatorId, NodeId, PaymentHash, PayoutId, Preimage, SegmentNumber, SegmentRef, SessionId,
    Version, VideoId,
};
use crate::domain::ledger::{Account, Balances, Entry, IncomingPayment, Split};
use crate::domain::video::{Media, Terms, Video, VideoState};

pub mod catalog;
pub mod engine;
pub mod memory;
pub mod money;
pub mod payouts;
pub mod rocks;
pub mod sessions;

pub use engine::Store;

/// A key of the Lightning node's state, in LDK's three parts (`KVStore`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeKey {
    /// Primary namespace.
    pub primary: String,
    /// Secondary namespace.
    pub secondary: String,
    /// Key.
    pub key: String,
}

/// Why the store did not do what it was asked.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The disk or the database failed.
    #[error("the store failed: {0}")]
    Failed(String),
    /// What was read is not what was written.
    #[error("the store holds a record that cannot be read: {0}")]
    Corrupt(String),
    /// Something else holds the directory.
    #[error("{0}")]
    Locked(String),
}

/// The Lightning node's own state. All calls return when what they ask is done in the sense of [`Durability`].
pub trait NodeState: Send + Sync {
    /// The value; `None` where there is none.
    ///
    /// # Errors
    /// [`Error`] where the database fails.
    fn read(&self, key: &NodeKey) -> Result<Option<Vec<u8>>, Error>;
    /// Writes a value.
    ///
    /// # Errors
    /// [`Error`] where the database fails.
    fn write(&self, key: &NodeKey, value: &[u8], durability: Durability) -> Result<(), Error>;
    /// Removes a value; that there is none is no error.
    ///
    /// # Errors
    /// [`Error`] where the database fails.
    fn remove(&self, key: &NodeKey) -> Result<(), Error>;
    /// The keys of a namespace.
    ///
    /// # Errors
    /// [`Error`] where the database fails.
    fn list(&self, primary: &str, secondary: &str) -> Result<Vec<String>, Error>;
}

/// What a write survives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process, at once; a power cut keeps a prefix of all writes.
    Process,
    /// A power cut, too, and with it every write before.
    Disk,
}

/// Someone who uploads and is paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Creator {
    /// Who.
    pub id: CreatorId,
    /// The name shown to viewers; hostile wherever it is shown.
    pub name: String,
    /// Where payouts go.
    pub payout: Option<Destination>,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// Where a creator is paid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "destination", rename_all = "snake_case")]
pub enum Destination {
    /// A keysend to a Lightning node (bLIP 3).
    Keysend(NodeId),
}

/// Who a key belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Runs the server.
    Operator,
    /// Uploads to it.
    Creator(CreatorId),
}

/// SHA-256 of an API key: what is stored of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyHash(pub [u8; 32]);

/// Why a title was not changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change<T> {
    /// It was.
    Done(T),
    /// There is no such title.
    Missing,
    /// Its state does not allow that.
    Refused(VideoState),
}

/// What of a title its creator may edit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VideoEdit {
    /// A new name.
    pub title: Option<String>,
    /// A new text.
    pub description: Option<String>,
    /// A new price: it holds for later sales.
    pub price: Option<crate::domain::amount::Price>,
    /// A new free preview.
    pub preview_seconds: Option<u32>,
}

/// A source that waits to be made into media.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The title.
    pub video: VideoId,
    /// The version that is to be made.
    pub version: Version,
    /// The source file's name in the spool directory.
    pub source: String,
    /// How often it was begun.
    pub attempts: u32,
    /// Who holds it, and until when (milliseconds since the Unix epoch).
    pub lease: Option<Lease>,
    /// Milliseconds since the Unix epoch; jobs are taken in this order.
    pub queued_ms: u64,
}

/// Who works at a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The start of the process that holds it: a lease of an earlier one is over.
    pub boot: u64,
    /// When it ends, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// How a job ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback {
    /// It will be tried again.
    Queued,
    /// It was tried often enough, or cannot succeed.
    Failed,
    /// The title is gone.
    Gone,
}

/// Creators, their keys, titles and versions. Changes survive a power cut when the call returns.
pub trait Catalog: Send + Sync {
    /// A new creator with a first key.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all verbs.
    fn create_creator(&self, creator: &Creator, key: KeyHash) -> Result<(), Error>;
    /// A creator.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn creator(&self, id: CreatorId) -> Result<Option<Creator>, Error>;
    /// All creators.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn creators(&self) -> Result<Vec<Creator>, Error>;
    /// Changes name or destination; `None` where there is no such creator.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn edit_creator(
        &self,
        id: CreatorId,
        name: Option<String>,
        payout: Option<Destination>,
    ) -> Result<Option<Creator>, Error>;
    /// Lets a key in.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn grant(&self, key: KeyHash, role: Role) -> Result<(), Error>;
    /// Whom a key belongs to.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn role(&self, key: KeyHash) -> Result<Option<Role>, Error>;
    /// A new title.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn create_video(&self, video: &Video) -> Result<(), Error>;
    /// A title.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn video(&self, id: VideoId) -> Result<Option<Video>, Error>;
    /// The titles of a creator (or all), oldest first, after a given one.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn videos(
        &self,
        of: Option<CreatorId>,
        after: Option<VideoId>,
        limit: usize,
    ) -> Result<Vec<Video>, Error>;
    /// Changes what a creator may edit.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn edit_video(&self, id: VideoId, edit: VideoEdit) -> Result<Option<Video>, Error>;
    /// Moves a title to another state, where [`VideoState::allows`] it.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn advance(&self, id: VideoId, next: VideoState) -> Result<Change<Video>, Error>;
    /// Removes a title, its job and its media records; what was there.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn delete_video(&self, id: VideoId) -> Result<Option<Video>, Error>;
    /// A published version.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn media(&self, id: VideoId, version: Version) -> Result<Option<Media>, Error>;
}

/// The queue of sources. A job belongs to the state of its title: both change in one verb.
pub trait Jobs: Send + Sync {
    /// The source has arrived: the title is queued and the job is there.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all verbs.
    fn enqueue(&self, job: &Job) -> Result<Change<Video>, Error>;
    /// Takes the oldest job that nobody holds; its title is transcoding.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn claim(&self, lease: Lease, now_ms: u64) -> Result<Option<Job>, Error>;
    /// Publishes what was made: the title is ready and the job is gone.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn publish(&self, job: &Job, media: &Media) -> Result<Change<Video>, Error>;
    /// The job came to nothing: back into the queue while `attempts_max` allows it and `retry` says that it may help.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn set_back(
        &self,
        job: &Job,
        reason: &str,
        retry: bool,
        attempts_max: u32,
    ) -> Result<Setback, Error>;
}

/// What an invoice was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Purpose {
    /// One segment, opened by an L402 credential.
    Segment {
        /// Which.
        segment: SegmentRef,
    },
    /// Credit of a session.
    Session {
        /// Which.
        session: SessionId,
        /// The segments it is planned for; a plan, not a reservation.
        segments: Vec<SegmentNumber>,
    },
}

/// An invoice that left the house.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invoice {
    /// Its payment hash.
    pub hash: PaymentHash,
    /// Its amount.
    pub amount: Msat,
    /// What for.
    pub purpose: Purpose,
    /// Who earns from it.
    pub split: Split,
    /// The BOLT 11 text, kept where it is sent again (sessions).
    pub bolt11: Option<String>,
    /// When it expires, in seconds since the Unix epoch.
    pub expires_at: u64,
    /// How far it has come.
    pub progress: Progress,
}

/// How far an invoice has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "progress", rename_all = "snake_case")]
pub enum Progress {
    /// Not paid.
    Open,
    /// Paid; what it bought was not served.
    Credited {
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// Served and earned (segments only; sessions count by their credit).
    Redeemed {
        /// When the first byte went, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
    /// Not served in time; its credit went to the creator.
    Expired {
        /// When, in milliseconds since the Unix epoch.
        at_ms: u64,
    },
}

/// Where the knowledge of a payment comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The node's event.
    Event {
        /// The node was told to forget an earlier telling and failed, or booking it failed: this may be the same one.
        told_before: bool,
    },
    /// A preimage that a viewer showed before the event came.
    Proof,
}

/// What a payment in did to the books.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credit {
    /// It is the viewer's credit now.
    Applied(Invoice),
    /// It is the viewer's credit, and some of it is more than was asked.
    Overpaid(Invoice, Msat),
    /// It was booked before; nothing changed.
    Replayed,
    /// A second payment of the same hash: kept as credit of the session, else unclaimed.
    Repeated(Option<SessionId>),
    /// No invoice of ours asked for it, or it is less than was asked; kept as unclaimed.
    Unclaimed,
}

/// What a credential opens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Redeem {
    /// It was earned just now.
    First,
    /// Served before, and still within the grace.
    Again,
    /// Served before, and the grace is over.
    Spent,
    /// Not paid.
    Unpaid,
    /// No such invoice for this segment.
    Unknown,
}

/// What a session's request for a segment came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// Drawn from the session's credit and earned just now.
    First,
    /// Served in this session before.
    Again,
    /// The credit does not cover it.
    Short {
        /// What there is.
        credit: Msat,
    },
}

/// Money in, money earned: the only way balances change.
pub trait Ledger: Send + Sync {
    /// Keeps an invoice before it leaves the house.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all verbs.
    fn record(&self, invoice: &Invoice) -> Result<(), Error>;
    /// An invoice.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn invoice(&self, hash: &PaymentHash) -> Result<Option<Invoice>, Error>;
    /// Books a payment in, once.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn credit(
        &self,
        payment: IncomingPayment,
        origin: Origin,
        now_ms: u64,
    ) -> Result<Credit, Error>;
    /// Serves a paid segment: earned the first time, free within `grace_ms` after it.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn redeem(
        &self,
        hash: &PaymentHash,
        segment: SegmentRef,
        now_ms: u64,
        grace_ms: u64,
    ) -> Result<Redeem, Error>;
    /// Serves a session's segment from its credit.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn draw(
        &self,
        session: SessionId,
        segment: SegmentRef,
        amount: Msat,
        split: &Split,
        now_ms: u64,
    ) -> Result<Draw, Error>;
    /// Drops unpaid invoices that can no longer be paid, and turns credit into earnings that nobody redeemed in time; how many of each.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn sweep(
        &self,
        unpaid_before_s: u64,
        credited_before_ms: u64,
        now_ms: u64,
    ) -> Result<Swept, Error>;
    /// Books a channel's opening balance, or moves its funds on-chain when it closed; once each.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn book_channel(&self, booking: &ChannelBooking, now_ms: u64) -> Result<bool, Error>;
    /// The balance of an account.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn balance(&self, account: Account) -> Result<i128, Error>;
    /// All balances.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn balances(&self) -> Result<Balances, Error>;
    /// Entries in the order of their identities, after a given one.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn entries(&self, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error>;
}

/// What a sweep did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Unpaid invoices forgotten.
    pub forgotten: u64,
    /// Credits that went to creators.
    pub expired: u64,
}

/// A change of what is in channels that is no payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelBooking {
    /// A channel came up with this much on our side.
    Opened {
        /// Its identity.
        channel: String,
        /// Our side.
        balance: Msat,
    },
    /// A channel closed, and the remaining ones hold this much: the difference to the books went on-chain or was lost there.
    Closed {
        /// Its identity.
        channel: String,
        /// Our side of all channels that remain.
        remaining: Msat,
    },
}

/// A session, once it has an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Which.
    pub id: SessionId,
    /// The title.
    pub video: VideoId,
    /// Its version.
    pub version: Version,
    /// The price, fixed when the session was created.
    pub terms: StoredTerms,
    /// Who earns.
    pub split: Split,
    /// Tokens that open media must be at least of this generation.
    pub generation: u32,
    /// No further invoices.
    pub ended: bool,
}

/// [`Terms`] as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTerms {
    /// Millisatoshi per second.
    pub price: crate::domain::amount::Price,
    /// The free preview.
    pub preview_seconds: u32,
    /// What invoices are rounded up to.
    pub granularity_msat: u64,
}

impl From<Terms> for StoredTerms {
    fn from(terms: Terms) -> Self {
        Self {
            price: terms.price,
            preview_seconds: terms.preview_seconds,
            granularity_msat: terms.granularity.get(),
        }
    }
}

/// All that is stored of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionState {
    /// The session itself.
    pub record: SessionRecord,
    /// Paid and not drawn.
    pub credit: Msat,
    /// Drawn so far.
    pub spent: Msat,
    /// The segments that were served.
    pub served: BTreeSet<SegmentNumber>,
    /// Its invoices, paid or not.
    pub invoices: Vec<Invoice>,
}

/// Sessions that have an invoice; before that a session is only a signed token.
pub trait Sessions: Send + Sync {
    /// Keeps an invoice of a session, and the session itself with its first one.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all verbs.
    fn open_invoice(&self, session: &SessionRecord, invoice: &Invoice) -> Result<(), Error>;
    /// All that is stored of a session.
    ///
    /// # Errors
    /// See [`Sessions::open_invoice`].
    fn session(&self, id: SessionId) -> Result<Option<SessionState>, Error>;
    /// Changes generation or end.
    ///
    /// # Errors
    /// See [`Sessions::open_invoice`].
    fn put_session(&self, session: &SessionRecord) -> Result<(), Error>;
}

/// Where a payout stands.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum PayoutState {
    /// Intended, and perhaps sent: the node is asked before anything is sent again.
    Pending,
    /// It arrived.
    Arrived {
        /// What the route cost.
        fee: Msat,
        /// The proof.
        preimage: Option<Preimage>,
    },
    /// It came back; the amount is payable again.
    Returned {
        /// Why.
        reason: String,
    },
}

/// A payment to a creator.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payout {
    /// Its identity.
    pub id: PayoutId,
    /// To whom.
    pub creator: CreatorId,
    /// Where.
    pub destination: Destination,
    /// What left the payable balance.
    pub planned: Msat,
    /// What is sent.
    pub amount: Msat,
    /// The payment hash under which it is sent.
    pub hash: PaymentHash,
    /// Where it stands.
    pub state: PayoutState,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
}

/// How a payout ended.
#[derive(Clone, PartialEq, Eq)]
pub enum Settle {
    /// It arrived.
    Arrived {
        /// What the route cost.
        fee: Msat,
        /// The proof.
        preimage: Option<Preimage>,
    },
    /// It came back.
    Returned {
        /// Why.
        reason: String,
    },
}

/// Payouts that came back one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setbacks {
    /// How many.
    pub count: u32,
    /// When the last one did, in milliseconds since the Unix epoch.
    pub last_ms: u64,
}

/// Payments to creators: intent first, outcome later, each booked once.
pub trait Payouts: Send + Sync {
    /// Moves the payable balance into a payout, survived by a power cut; `None` where one is in flight already or less than
    /// `payout.planned` is payable.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all verbs.
    fn plan(&self, payout: &Payout) -> Result<bool, Error>;
    /// Books the outcome of a payout by its payment hash, once; `None` where no payout has this hash.
    ///
    /// # Errors
    /// See [`Payouts::plan`].
    fn settle(
        &self,
        hash: &PaymentHash,
        outcome: &Settle,
        now_ms: u64,
    ) -> Result<Option<Payout>, Error>;
    /// How many payouts of a creator came back in a row, and when the last did (milliseconds since the Unix epoch); `None` where the last one
    /// arrived.
    ///
    /// # Errors
    /// See [`Payouts::plan`].
    fn setbacks(&self, creator: CreatorId) -> Result<Option<Setbacks>, Error>;
    /// Payouts whose outcome is not known.
    ///
    /// # Errors
    /// See [`Payouts::plan`].
    fn pending(&self) -> Result<Vec<Payout>, Error>;
    /// Payouts of a creator, newest first.
    ///
    /// # Errors
    /// See [`Payouts::plan`].
    fn payouts(&self, creator: CreatorId, limit: usize) -> Result<Vec<Payout>, Error>;
}

/// Everything in one: what the composition root hands around.
pub trait Storage: Catalog + Jobs + Ledger + Sessions + Payouts + NodeState {
    /// Counts the starts of this process on this store; greater each time.
    ///
    /// # Errors
    /// [`Error`] where the database fails.
    fn next_boot(&self) -> Result<u64, Error>;
    /// Writes down what is still in memory, before the process ends.
    ///
    /// # Errors
    /// [`Error`] where the database fails.
    fn flush(&self) -> Result<(), Error>;
}
