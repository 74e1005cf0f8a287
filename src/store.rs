//! What is kept, and the atomic verbs that change it.
//!
//! Each verb of a port is one batch in one write-ahead log: it happens whole or not at all. The verbs are written once, in
//! [`catalog`], [`money`], [`sessions`] and [`payouts`], over an [`engine`] with ordered keys: [`memory`] for tests, [`rocks`] to run.
//! A shared SQL database later implements the same ports, and is held to the same contract suite. What the verbs take and answer is
//! in [`records`].

use crate::domain::amount::Msat;
use crate::domain::destination::Destination;
use crate::domain::id::{
    CreatorId, PaymentHash, PayoutId, SegmentNumber, SegmentRef, SessionId, Version, VideoId,
};
use crate::domain::ledger::{Account, Balances, Entry, IncomingPayment, Split};
use crate::domain::video::{Media, Video, VideoState};

pub mod catalog;
mod dust;
pub mod engine;
pub mod jobs;
pub mod memory;
pub mod money;
pub mod payouts;
pub mod records;
pub mod rocks;
pub mod sessions;

pub use engine::Store;
pub use records::{
    Attach, Cause, Change, ChannelBooking, Claimed, Creator, Credit, Draw, Durability, Invoice,
    Job, KeyHash, Lease, NodeKey, Origin, Payout, PayoutInvoice, PayoutState, Plan, Progress,
    Purpose, Redeem, Retired, Role, SessionRecord, SessionState, Setback, Setbacks, Settle,
    StoredTerms, Swept, Task, TaskState, Unclaimed, VideoEdit,
};

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
    /// Changes name or destination. A destination comes with the time (milliseconds since the Unix epoch) from which it is paid where another one was
    /// set before; another one begins without setbacks. `None` where there is no such creator.
    ///
    /// # Errors
    /// See [`Catalog::create_creator`].
    fn edit_creator(
        &self,
        id: CreatorId,
        name: Option<String>,
        payout: Option<(Destination, u64)>,
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
    /// Removes a title, its job and its media records, and notes that its bytes are to be removed; what was there.
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
    /// The source has arrived: its version is queued and the job is there.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all verbs.
    fn enqueue(&self, job: &Job) -> Result<Change<Video>, Error>;
    /// The job of a title.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn job(&self, video: VideoId) -> Result<Option<Job>, Error>;
    /// All jobs, the oldest first.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn all_jobs(&self) -> Result<Vec<Job>, Error>;
    /// Takes a task that nobody holds: of the lowest rank, then of the creator with the fewest that are worked at, then of the one who was given none for
    /// longest, then of the oldest job. Its version is transcoding.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn claim(&self, lease: Lease, now_ms: u64) -> Result<Option<Claimed>, Error>;
    /// Holds a task for longer; whether it is still held by whom it was claimed, and its job is there.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn renew(&self, claimed: &Claimed, until_ms: u64) -> Result<bool, Error>;
    /// The source was looked at: where it lies now, what is to be made of it, and the tasks that take the place of the one. The job, where it is still
    /// there.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn planned(
        &self,
        claimed: &Claimed,
        source: &str,
        plan: &str,
        tasks: Vec<Task>,
    ) -> Result<Option<Job>, Error>;
    /// A task is done. The job, where it is still there.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn done(&self, claimed: &Claimed) -> Result<Option<Job>, Error>;
    /// Has all tasks of a job that are done done again, because what they made is not there any more. The job, where it is still there.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn redo(&self, job: &Job) -> Result<Option<Job>, Error>;
    /// Publishes what was made: the title is ready in this version, and the job is gone where `whole` says that all is made. A version whose place
    /// it takes is retired.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn publish(
        &self,
        job: &Job,
        media: &Media,
        whole: bool,
        now_ms: u64,
    ) -> Result<Change<Video>, Error>;
    /// The task came to nothing: it waits again until `retry_ms` (a time) while `attempts_max` allows it and a retry may help; else its job ends, and a
    /// version that is not published fails.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn set_back(
        &self,
        claimed: &Claimed,
        reason: &str,
        retry_ms: Option<u64>,
        attempts_max: u32,
    ) -> Result<Setback, Error>;
    /// Gives a task back that was not finished because the server stops: it counts as not begun.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn release(&self, claimed: &Claimed) -> Result<(), Error>;
    /// Ends a title's job, as its creator wants it; the job, where there was one.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn cancel(&self, video: VideoId, reason: &str) -> Result<Option<Job>, Error>;
    /// Versions that were retired before a time.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn retired(&self, before_ms: u64) -> Result<Vec<Retired>, Error>;
    /// Forgets a retired version.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn forget(&self, retired: &Retired) -> Result<(), Error>;
    /// Titles that were deleted, and whose bytes may still be there.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn deleted(&self) -> Result<Vec<VideoId>, Error>;
    /// The bytes of a deleted title are gone.
    ///
    /// # Errors
    /// See [`Jobs::enqueue`].
    fn removed(&self, video: VideoId) -> Result<(), Error>;
}

/// Money in, money earned: the only way balances change.
pub trait Ledger: Send + Sync {
    /// Keeps an invoice before it leaves the house.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all verbs.
    fn record(&self, invoice: &Invoice) -> Result<(), Error>;
    /// Keeps an invoice again whose record was lost, of a session where one is given: unless there is one of its hash, or its payment was booked
    /// and used. To be followed by [`Ledger::credit`] with [`Origin::Proof`]; any number at once come to one record and one credit.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn restore(&self, session: Option<&SessionRecord>, invoice: &Invoice) -> Result<(), Error>;
    /// An invoice.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn invoice(&self, hash: &PaymentHash) -> Result<Option<Invoice>, Error>;
    /// Books a payment in, once. One that was booked as unclaimed, because its invoice was not known, becomes credit once the invoice is
    /// recorded and its preimage is shown ([`Origin::Proof`]).
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn credit(
        &self,
        payment: IncomingPayment,
        origin: Origin,
        now_ms: u64,
    ) -> Result<Credit, Error>;
    /// How many invoices are kept that are not paid.
    fn unpaid(&self) -> u64;
    /// Payments that nobody claimed, in the order of their hashes, after a given one.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn unclaimed(&self, after: Option<&PaymentHash>, limit: usize)
    -> Result<Vec<Unclaimed>, Error>;
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
    /// Notes, on disk, that a channel closed: what it held is booked by [`Ledger::book_channel`] once the node is at rest.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn channel_closed(&self, channel: &str) -> Result<(), Error>;
    /// Channels that closed and whose funds are not booked yet.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn closings(&self) -> Result<Vec<String>, Error>;
    /// Books the fee of a payment that was forwarded, once under the number of the start that tells it and its place there. LDK gives a forward no
    /// identity: one that was booked and not acknowledged before a crash is told, and booked, once more.
    ///
    /// # Errors
    /// See [`Ledger::record`].
    fn book_forward(&self, boot: u64, nth: u64, fee: Msat, now_ms: u64) -> Result<(), Error>;
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

/// Sessions that have an invoice; before that a session is only a signed token.
pub trait Sessions: Send + Sync {
    /// Keeps an invoice of a session, and the session itself with its first one.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all verbs.
    fn open_invoice(&self, session: &SessionRecord, invoice: &Invoice) -> Result<(), Error>;
    /// Whether a segment was served in a session, or its credit covers this amount: what a request that waits asks again and again.
    ///
    /// # Errors
    /// See [`Sessions::open_invoice`].
    fn covers(&self, id: SessionId, number: SegmentNumber, amount: Msat) -> Result<bool, Error>;
    /// What is stored of a session beside its money: one read.
    ///
    /// # Errors
    /// See [`Sessions::open_invoice`].
    fn session_record(&self, id: SessionId) -> Result<Option<SessionRecord>, Error>;
    /// Whether an invoice of a session was ever paid.
    ///
    /// # Errors
    /// See [`Sessions::open_invoice`].
    fn has_paid(&self, id: SessionId) -> Result<bool, Error>;
    /// All that is stored of a session.
    ///
    /// # Errors
    /// See [`Sessions::open_invoice`].
    fn session(&self, id: SessionId) -> Result<Option<SessionState>, Error>;
    /// Forgets sessions whose time was over before a time (seconds since the Unix epoch) and that have neither credit nor invoices, paid or not; how
    /// many. What keeps a session's keys good after its end keeps the session too.
    ///
    /// # Errors
    /// See [`Sessions::open_invoice`].
    fn forget_sessions(&self, expired_before_s: u64) -> Result<u64, Error>;
    /// Changes generation, pause, end, or what failed.
    ///
    /// # Errors
    /// See [`Sessions::open_invoice`].
    fn put_session(&self, session: &SessionRecord) -> Result<(), Error>;
}

/// Payments to creators: intent first, outcome later, each booked once.
pub trait Payouts: Send + Sync {
    /// Moves the payable balance into a payout, survived by a power cut, where none is in flight, `payout.planned` is payable, and its payment
    /// hash, where it has one, was never seen.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all verbs.
    fn plan(&self, payout: &Payout) -> Result<Plan, Error>;
    /// Gives a planned payout the invoice that it pays, of at most the amount that was planned, survived by a power cut. The payment hash counts as
    /// seen from now on, whatever becomes of the payout.
    ///
    /// # Errors
    /// See [`Payouts::plan`].
    fn attach(
        &self,
        payout: &Payout,
        hash: PaymentHash,
        amount: Msat,
        invoice: &PayoutInvoice,
    ) -> Result<Attach, Error>;
    /// Notes, survived by a power cut, that a payout's invoice is about to be handed to the node; false where it was before, or the payout is over.
    ///
    /// # Errors
    /// See [`Payouts::plan`].
    fn begin_sending(&self, payout: &Payout) -> Result<bool, Error>;
    /// Makes the amount of a payout payable again that was certainly never sent, as a setback or as none; false where it may have been, or is over.
    ///
    /// # Errors
    /// See [`Payouts::plan`].
    fn give_back(
        &self,
        payout: &Payout,
        why: (Cause, &str),
        setback: bool,
        now_ms: u64,
    ) -> Result<bool, Error>;
    /// Forgets the setbacks of a creator: the next payout is tried at once.
    ///
    /// # Errors
    /// See [`Payouts::plan`].
    fn resume(&self, creator: CreatorId) -> Result<(), Error>;
    /// A payout.
    ///
    /// # Errors
    /// See [`Payouts::plan`].
    fn payout(&self, creator: CreatorId, id: PayoutId) -> Result<Option<Payout>, Error>;
    /// Books the outcome of a payout by its payment hash, once; `None` where no payout has this hash. One that arrives after it was booked as
    /// come back is corrected: money that left is never missing from the books.
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
    /// The number from which the keys of credentials, sessions and receipts are derived: 0 at first.
    ///
    /// # Errors
    /// [`Error`] where the database fails.
    fn key_epoch(&self) -> Result<u32, Error>;
    /// The next such number, from the next start on: everything that was issued under an earlier one opens nothing any more.
    ///
    /// # Errors
    /// [`Error`] where the database fails.
    fn rotate_keys(&self) -> Result<u32, Error>;
    /// Writes down what is still in memory, before the process ends.
    ///
    /// # Errors
    /// [`Error`] where the database fails.
    fn flush(&self) -> Result<(), Error>;
}
