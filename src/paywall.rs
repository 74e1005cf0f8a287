//! Use case: may this viewer have this segment? A paid credential is redeemed and earned in one step, an unpaid one gets a fresh invoice.
//!
//! Nothing here reads a segment: the caller has its bytes in hand before it asks, so that a missing file never costs the viewer.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::amount::{Granularity, Msat, Share};
use crate::domain::id::{PaymentHash, SegmentRef, SessionId, VideoId};
use crate::domain::ledger::Split;
use crate::lightning::{Issuer, MintError, Minted};
use crate::runtime::slots::{Full, Slot, Slots};
use crate::runtime::{Bells, Clock};
use crate::store::{self, Invoice, Progress, Purpose, Redeem};
use crate::telemetry::Metrics;

pub mod egress;
pub mod limits;
mod proof;
pub mod session;
pub mod token;

use egress::{Bought, Egress, Passage, UsedUp};
use limits::Limits;
use token::{Bound, Keys, Presented};

/// How segments are sold; a section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// What invoices are rounded up to, in millisatoshi.
    pub granularity_msat: u64,
    /// The operator's share of each sale, in parts per million.
    pub fee_ppm: u32,
    /// How long an invoice may be paid, in seconds.
    pub invoice_expiry_seconds: u32,
    /// How long a served segment is served again without a new payment, in seconds.
    pub replay_seconds: u64,
    /// How long what was paid and not served stays redeemable, in seconds.
    pub redeem_seconds: u64,
    /// Invoices asked for by one client (IPv4 address or IPv6 /64), per minute.
    pub challenges_per_client_per_minute: NonZeroU32,
    /// Invoices asked for by all clients, per second.
    pub challenges_per_second: NonZeroU32,
    /// Invoices that are kept although they are not paid: each is kept until Lightning accepts its payment no more, some four hours.
    pub unpaid_max: u64,
    /// The same of one client.
    pub unpaid_per_client_max: NonZeroU32,
    /// Sessions held in memory at once.
    pub sessions_max: usize,
    /// The same of one client.
    pub sessions_per_client_max: usize,
    /// How long a session lasts, in seconds.
    pub session_seconds: u64,
    /// Wallets that follow a session's invoices at once.
    pub streams_max: usize,
    /// The same of one client.
    pub streams_per_client_max: usize,
    /// Players' requests that wait for a payment at once.
    pub held_max: usize,
    /// The same of one client.
    pub held_per_client_max: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            granularity_msat: 1_000,
            fee_ppm: 30_000,
            invoice_expiry_seconds: 600,
            replay_seconds: 60,
            redeem_seconds: 7 * 86_400,
            challenges_per_client_per_minute: NonZeroU32::MIN.saturating_add(599),
            challenges_per_second: NonZeroU32::MIN.saturating_add(999),
            unpaid_max: 200_000,
            unpaid_per_client_max: NonZeroU32::MIN.saturating_add(4_999),
            sessions_max: 10_000,
            sessions_per_client_max: 256,
            session_seconds: 86_400,
            streams_max: 10_000,
            streams_per_client_max: 128,
            held_max: 10_000,
            held_per_client_max: 128,
        }
    }
}

impl Options {
    /// The granularity; never zero.
    ///
    /// # Errors
    /// The sentence that names the key and the mend.
    pub fn granularity(&self) -> Result<Granularity, String> {
        Granularity::new(self.granularity_msat)
            .ok_or_else(|| "payment.granularity_msat must be 1 at least (default 1000)".to_owned())
    }

    /// The operator's share.
    ///
    /// # Errors
    /// The sentence that names the key and the mend.
    pub fn fee(&self) -> Result<Share, String> {
        Share::from_ppm(self.fee_ppm).map_err(|error| format!("payment.fee_ppm: {error}"))
    }
}

/// A preimage can outrun the node's event by this much before it counts as proof itself.
const PROOF_AFTER: Duration = Duration::from_secs(8);
/// Who has too many sessions, streams or held requests may ask again after this.
const CROWDED: Duration = Duration::from_secs(10);

/// Who waits for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Wake {
    /// A payment is booked.
    Payment(PaymentHash),
    /// A session's credit or state changed.
    Session(SessionId),
}

/// What is asked for, as the library knows it.
#[derive(Debug, Clone, Copy)]
pub struct Offer {
    /// Which segment.
    pub segment: SegmentRef,
    /// Its price; `None` where it is free.
    pub price: Option<Msat>,
    /// Who earns from it.
    pub split: Split,
}

/// The client, as far as limits go: an IPv4 address, or the first 64 bits of an IPv6 one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Client(u64);

impl From<std::net::IpAddr> for Client {
    fn from(address: std::net::IpAddr) -> Self {
        match address.to_canonical() {
            std::net::IpAddr::V4(v4) => Self(u64::from(v4.to_bits())),
            // Global unicast addresses begin above all that an IPv4 address can be.
            std::net::IpAddr::V6(v6) => Self((v6.to_bits() >> 64) as u64),
        }
    }
}

/// A credential that opens a segment now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// What it says.
    pub bound: Bound,
    /// When its payment was booked, in milliseconds since the Unix epoch, where it was not served yet.
    credited_ms: Option<u64>,
}

/// What a payment is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// Not booked.
    Unpaid,
    /// Opens its segment.
    Good {
        /// When its payment was booked, where it was not served yet.
        credited_ms: Option<u64>,
    },
    /// Served, and the grace is over; or its time ran out.
    Over,
}

/// An invoice and the credential that its payment completes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// Base64, as the header carries it.
    pub macaroon: String,
    /// The BOLT 11 text.
    pub bolt11: String,
    /// Its hash.
    pub hash: PaymentHash,
    /// What it asks.
    pub amount: Msat,
    /// In seconds since the Unix epoch.
    pub expires_at: u64,
    /// The segment that it pays.
    pub segment: SegmentRef,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too many invoices were asked for.
    #[error("too many invoices were asked for: slow down")]
    TooMany {
        /// When to try again.
        retry_after: Duration,
    },
    /// No channel can receive the amount.
    #[error("the server's Lightning node cannot receive payments now")]
    NoInbound,
    /// Minting has stopped: payments could not be booked.
    #[error("the server cannot book payments now")]
    Suspended,
    /// The node is not up, or refuses.
    #[error("no invoice can be made now: {0}")]
    Mint(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A price does not fit.
    #[error(transparent)]
    Amount(#[from] crate::domain::amount::AmountError),
    /// There is no room for another session, stream or held request.
    #[error("there is no room for another {0}")]
    Crowded(&'static str),
    /// A receipt is not ours, is another session's, or its preimage is not the payment's.
    #[error("this receipt is not one of this session, or the preimage is not its payment's")]
    NoReceipt,
    /// A session's key is not ours, is of a rotated generation, or its time is over.
    #[error("this session is over or was never there")]
    NoSession,
}

/// Set while payments cannot be booked: then no invoice is made.
#[derive(Debug, Clone, Default)]
pub struct Suspension(Arc<AtomicBool>);

impl Suspension {
    /// Stops or resumes minting.
    pub fn set(&self, suspended: bool) {
        self.0.store(suspended, Ordering::Relaxed);
    }

    /// Whether minting is stopped.
    pub fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What the gate needs.
#[derive(Clone)]
pub struct Parts {
    /// Invoices, credit, earnings, sessions.
    pub store: Arc<dyn Books>,
    /// Mints invoices.
    pub issuer: Arc<dyn Issuer>,
    /// Signs and verifies credentials.
    pub keys: Keys,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Rung when something was booked.
    pub bells: Bells<Wake>,
    /// Woken when something was earned.
    pub earned: Arc<tokio::sync::Notify>,
    /// Set while payments cannot be booked.
    pub suspension: Suspension,
    /// Counters.
    pub metrics: Metrics,
    /// How segments are sold.
    pub options: Options,
}

/// The two ports of the store that the gate uses.
pub trait Books: store::Ledger + store::Sessions {}
impl<T: store::Ledger + store::Sessions + ?Sized> Books for T {}

/// The gate.
pub struct Paywall {
    parts: Parts,
    limits: Limits,
    egress: Egress,
    /// Requests that wait for a payment: players' in a session, and credentials whose payment is not booked yet.
    held: Slots<Client>,
}

impl Paywall {
    /// A gate over its parts.
    pub fn new(parts: Parts) -> Self {
        let limits = Limits::new(&parts.options);
        let egress = Egress::new(parts.options.replay_seconds.saturating_mul(1_000));
        let held = Slots::new(parts.options.held_max, parts.options.held_per_client_max);
        Self { parts, limits, egress, held }
    }

    /// The first credential that opens this segment now. One that is good and whose payment is not booked yet waits for that, then its
    /// preimage is the proof. Nothing is redeemed: the caller reads the bytes next.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails; [`Error::TooMany`] and [`Error::Crowded`] where no place to wait is left. What was paid stays
    /// good.
    pub async fn opening(
        &self,
        offer: &Offer,
        presented: &[Presented],
        client: Client,
    ) -> Result<Option<Opening>, Error> {
        if offer.price.is_none() {
            return Ok(None);
        }
        let mut unbooked = Vec::new();
        for bound in presented.iter().filter_map(|credential| self.opens(credential, offer)) {
            match self.recalled(&bound, offer)? {
                Standing::Good { credited_ms } => return Ok(Some(Opening { bound, credited_ms })),
                Standing::Unpaid => unbooked.push(bound),
                Standing::Over => {}
            }
        }
        if unbooked.is_empty() {
            return Ok(None);
        }
        let paid = self.limits.has_paid(client, self.parts.clock.now_ms());
        let _place = (self.place(&self.held, client, paid, "hold")?, self.parts.metrics.hold());
        // One wait, however many credentials are shown.
        let deadline = tokio::time::Instant::now() + PROOF_AFTER;
        for bound in unbooked {
            if let Standing::Good { credited_ms } = self.booked(&bound, offer, deadline).await? {
                return Ok(Some(Opening { bound, credited_ms }));
            }
        }
        Ok(None)
    }

    /// Whether a request would be served, without minting, redeeming or waiting.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn peek(&self, offer: &Offer, presented: &[Presented]) -> Result<bool, Error> {
        if offer.price.is_none() {
            return Ok(true);
        }
        for bound in presented.iter().filter_map(|credential| self.opens(credential, offer)) {
            if matches!(self.standing(&bound.hash)?, Standing::Good { .. }) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Counts a response of `len` bytes against what was bought, of a segment whose largest rendition has `largest` at most.
    ///
    /// # Errors
    /// [`UsedUp`] where it was fetched often enough.
    pub fn enter(&self, bought: Bought, len: u64, largest: u64) -> Result<Passage, UsedUp> {
        let entered = self.egress.enter(bought, len, largest, self.parts.clock.now_ms());
        if entered.is_err() {
            self.parts.metrics.refused("egress");
        }
        entered
    }

    /// What credentials for segments of a title are still good for, where it was removed; `None` where nothing.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn left_over(
        &self,
        video: VideoId,
        presented: &[Presented],
    ) -> Result<Option<Msat>, Error> {
        for bound in presented.iter().filter_map(|of| self.parts.keys.verify(of)) {
            if bound.segment.video == video
                && let Some(invoice) = self.parts.store.invoice(&bound.hash)?
                && matches!(invoice.progress, Progress::Credited { .. })
            {
                return Ok(Some(invoice.amount));
            }
        }
        Ok(None)
    }

    /// Forgets clients that have been quiet, so that their number does not grow.
    pub fn forget_quiet_clients(&self) {
        self.limits.forget_quiet(self.parts.clock.now_ms());
    }

    fn opens(&self, credential: &Presented, offer: &Offer) -> Option<Bound> {
        let bound = self.parts.keys.verify(credential)?;
        (bound.segment == offer.segment).then_some(bound)
    }

    /// What a payment is good for now.
    fn standing(&self, hash: &PaymentHash) -> Result<Standing, Error> {
        Ok(self.standing_of(self.parts.store.invoice(hash)?))
    }

    fn standing_of(&self, invoice: Option<Invoice>) -> Standing {
        match invoice.map(|invoice| invoice.progress) {
            None | Some(Progress::Open) => Standing::Unpaid,
            Some(Progress::Credited { at_ms }) => Standing::Good { credited_ms: Some(at_ms) },
            Some(Progress::Redeemed { at_ms })
                if self.parts.clock.now_ms() <= at_ms.saturating_add(self.grace_ms()) =>
            {
                Standing::Good { credited_ms: None }
            }
            Some(Progress::Redeemed { .. } | Progress::Expired { .. }) => Standing::Over,
        }
    }

    /// A place among those of which there are so many.
    fn place(
        &self,
        slots: &Slots<Client>,
        client: Client,
        paid: bool,
        what: &'static str,
    ) -> Result<Slot<Client>, Error> {
        slots.take(Some(client), paid).map_err(|full| {
            self.parts.metrics.refused(what);
            match full {
                Full::ForKey => Error::TooMany { retry_after: CROWDED },
                Full::InAll => Error::Crowded(what),
            }
        })
    }

    /// Serves what a credential paid for: earned the first time. False where its time is over by now.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails; what was paid stays good.
    pub fn redeem(&self, opening: &Opening, client: Client) -> Result<bool, Error> {
        let bound = &opening.bound;
        let now = self.parts.clock.now_ms();
        match self.parts.store.redeem(&bound.hash, bound.segment, now, self.grace_ms())? {
            Redeem::First => {
                self.limits.paid(client, now);
                if let Some(credited_ms) = opening.credited_ms {
                    let wait = Duration::from_millis(now.saturating_sub(credited_ms));
                    self.parts.metrics.served_after(wait);
                }
                self.parts.metrics.earned(bound.amount);
                self.parts.earned.notify_one();
                Ok(true)
            }
            Redeem::Again => Ok(true),
            Redeem::Spent | Redeem::Unpaid | Redeem::Unknown => Ok(false),
        }
    }

    /// Asks for a payment.
    ///
    /// # Errors
    /// [`Error`] where no invoice can be made now.
    pub fn challenge(
        &self,
        offer: &Offer,
        amount: Msat,
        client: Client,
    ) -> Result<Challenge, Error> {
        self.limit(client)?;
        // Where none can be made nothing is owed.
        let minted = self.mint(amount)?;
        self.owe(client)?;
        let purpose = Purpose::Segment { segment: offer.segment };
        self.parts.store.record(&self.invoice(&minted, amount, purpose, offer.split))?;
        let bound = Bound {
            hash: minted.hash,
            segment: offer.segment,
            amount,
            pay_before: minted.expires_at,
        };
        self.parts.metrics.challenge();
        Ok(Challenge {
            macaroon: self.parts.keys.issue(&bound),
            bolt11: minted.bolt11,
            hash: minted.hash,
            amount,
            expires_at: minted.expires_at,
            segment: offer.segment,
        })
    }

    fn invoice(&self, minted: &Minted, amount: Msat, purpose: Purpose, split: Split) -> Invoice {
        let again = matches!(purpose, Purpose::Session { .. });
        Invoice {
            hash: minted.hash,
            amount,
            purpose,
            split,
            bolt11: again.then(|| minted.bolt11.clone()),
            expires_at: minted.expires_at,
            minted_ms: Some(self.parts.clock.now_ms()),
            progress: Progress::Open,
            credited: Msat::ZERO,
            claimed: false,
        }
    }

    fn mint(&self, amount: Msat) -> Result<Minted, Error> {
        if self.parts.suspension.is_set() {
            return Err(Error::Suspended);
        }
        let expiry = Duration::from_secs(u64::from(self.parts.options.invoice_expiry_seconds));
        self.parts.issuer.mint(amount, expiry).map_err(|error| match error {
            MintError::NoInbound(_) => Error::NoInbound,
            other @ (MintError::NotRunning | MintError::Refused(_)) => {
                Error::Mint(other.to_string())
            }
        })
    }

    /// Counts an invoice against the limits.
    pub(crate) fn limit(&self, client: Client) -> Result<(), Error> {
        self.limits.client(client).inspect_err(|_| self.refused())?;
        self.limit_in_all(Some(client))
    }

    /// A client gets an invoice, and owes it until it pays or the record goes.
    pub(crate) fn owe(&self, client: Client) -> Result<(), Error> {
        let owed = self.limits.owe(client, self.parts.clock.now_ms());
        owed.inspect_err(|_| self.refused())
    }

    /// A client paid so many of what it owed.
    pub(crate) fn forgive(&self, client: Client, payments: u32) {
        let now = self.parts.clock.now_ms();
        for _ in 0..payments {
            self.limits.paid(client, now);
        }
    }

    /// Counts what leads to invoices and costs nothing yet.
    pub(crate) fn limit_rate(&self, client: Client) -> Result<(), Error> {
        let now = self.parts.clock.now_ms();
        let counted = self.limits.client(client);
        let counted = counted.and_then(|()| self.limits.rate_in_all(client, now));
        counted.inspect_err(|_| self.refused())
    }

    /// Counts an invoice of a session, which belongs to whoever brought it into memory, against the limit for all.
    pub(crate) fn limit_in_all(&self, client: Option<Client>) -> Result<(), Error> {
        let (unpaid, now) = (self.parts.store.unpaid(), self.parts.clock.now_ms());
        self.limits.in_all(client, unpaid, now).inspect_err(|_| self.refused())
    }

    fn refused(&self) {
        self.parts.metrics.refused("challenge");
    }

    const fn grace_ms(&self) -> u64 {
        self.parts.options.replay_seconds.saturating_mul(1_000)
    }
}
