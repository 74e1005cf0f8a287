//! What the store keeps and what its verbs answer: plain data, without behaviour.

mod payouts;

pub use payouts::{Attach, Cause, Payout, PayoutInvoice, PayoutState, Plan, Setbacks, Settle};

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::domain::amount::{Msat, Price};
use crate::domain::destination::Destination;
use crate::domain::id::{
    CreatorId, PaymentHash, SegmentNumber, SegmentRef, SessionId, SourceHash, Version, VideoId,
};
use crate::domain::ledger::Split;
use crate::domain::video::{Terms, Video, VideoState};

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
    /// From when on they go there, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub payout_from_ms: u64,
    /// Milliseconds since the Unix epoch.
    pub created_ms: u64,
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
    pub price: Option<Price>,
    /// A new free preview.
    pub preview_seconds: Option<u32>,
    /// What the source that arrived hashes to.
    pub source_sha256: Option<SourceHash>,
}

/// A source that is made into a version of a title, by tasks of which any number may be worked at at once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// The title.
    pub video: VideoId,
    /// The version that is to be made.
    pub version: Version,
    /// Whose it is: creators take turns.
    pub creator: CreatorId,
    /// The source file's name in the spool directory.
    pub source: String,
    /// Milliseconds since the Unix epoch; of one creator's jobs the oldest goes first.
    pub queued_ms: u64,
    /// What is to be made, in the words of who makes it; empty until the source was looked at.
    pub plan: String,
    /// What is to be done.
    pub tasks: Vec<Task>,
}

/// A part of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    /// What, in the words of who does it.
    pub what: String,
    /// Those of a lower rank go first, whosever they are.
    pub rank: u8,
    /// How often it was begun.
    pub attempts: u32,
    /// Before this nobody begins it, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub not_before_ms: u64,
    /// Where it stands.
    pub state: TaskState,
}

/// Where a task stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// Nobody is at it.
    Waiting,
    /// Somebody is.
    Held(Lease),
    /// It is done.
    Done,
}

/// A task that was taken, and its job as it then was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// The job.
    pub job: Job,
    /// The task's place in it.
    pub task: usize,
}

/// A version of a title that another one took the place of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The title.
    pub video: VideoId,
    /// The version.
    pub version: Version,
    /// Since when, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Job {
    /// A job of one task: to look at the source.
    pub fn new(video: &Video, source: String, first: String, queued_ms: u64) -> Self {
        Self {
            video: video.id,
            version: video.making(),
            creator: video.creator,
            source,
            queued_ms,
            plan: String::new(),
            tasks: vec![Task::new(first, 0)],
        }
    }

    /// Whether all is done.
    pub fn is_done(&self) -> bool {
        self.tasks.iter().all(|task| task.state == TaskState::Done)
    }
}

impl Task {
    /// One that waits.
    pub const fn new(what: String, rank: u8) -> Self {
        Self { what, rank, attempts: 0, not_before_ms: 0, state: TaskState::Waiting }
    }
}

impl Claimed {
    /// The task.
    pub fn task(&self) -> Option<&Task> {
        self.job.tasks.get(self.task)
    }
}

/// Who works at a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The start of the process that holds it: a lease of an earlier one is over.
    pub boot: u64,
    /// When it ends, in milliseconds since the Unix epoch.
    pub until_ms: u64,
}

/// How a task ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setback {
    /// It will be tried again.
    Queued,
    /// It was tried often enough, or cannot succeed: so ended the whole job.
    Failed,
    /// The job is gone, or the task is somebody else's.
    Gone,
}

/// What an invoice was made for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
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
    /// When it was made, in milliseconds since the Unix epoch; `None` where that is not known.
    pub minted_ms: Option<u64>,
    /// How far it has come.
    pub progress: Progress,
    /// What its payments brought to the viewer's credit so far.
    pub credited: Msat,
    /// Its payment was nobody's at first: the hash may have been paid, and earned, before.
    pub claimed: bool,
}

/// How far an invoice has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
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

/// A payment, or a part of one, that nobody claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unclaimed {
    /// Its payment hash.
    pub payment_hash: PaymentHash,
    /// What of it is nobody's.
    pub amount_msat: Msat,
    /// When the last of it came, in milliseconds since the Unix epoch.
    pub at_ms: u64,
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
    /// A channel closed, and these remain, with our side of each; of those that were booked as opened the difference to the books is what went
    /// on-chain or was lost there. True only at rest: with no payment on its way and none untold.
    Closed {
        /// Its identity.
        channel: String,
        /// The channels there are.
        remaining: Vec<(String, Msat)>,
        /// What the books said of all channels at that moment; nothing is booked where they say something else by now.
        books: i128,
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
    /// No further invoices for now: the payer paused it.
    #[serde(default)]
    pub paused: bool,
    /// Open invoices whose payment failed for good, as the payer reports: others take their place.
    #[serde(default)]
    pub failed: BTreeSet<PaymentHash>,
    /// When its time is over, in seconds since the Unix epoch.
    pub expires_at: u64,
    /// It was made by a change and not by an invoice, and counts as an unpaid one until it has one; the store alone sets it.
    #[serde(default)]
    pub bare: bool,
}

/// [`Terms`] as they are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredTerms {
    /// Millisatoshi per second.
    pub price: Price,
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
    /// How many of its invoices were paid.
    pub paid: usize,
    /// Its invoices that are not paid.
    pub invoices: Vec<Invoice>,
}
