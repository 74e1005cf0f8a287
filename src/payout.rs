//! Use case: what creators earned reaches their wallets. Intent before sending, and after a crash the node is asked before anything is sent
//! again: one payout has one payment hash for ever. A keysend's preimage is derived from the payout's identity; an invoice is fetched for the
//! intent ([`lnurl`]), written down with its hash, marked as being sent, and sent. What may have been sent is given up only on the node's own
//! word that it failed; an invoice that expired unsent is given back, and the next payout fetches another.
//!
//! A fetch that fails gives the amount back at once, because nothing was sent: it stays payable, so that the creator may choose another
//! destination meanwhile, and the next try waits twice as long each time.

pub mod address;
mod fetching;
pub mod invoice;
pub mod lnurl;
pub mod outbound;
mod request;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::domain::amount::Msat;
use crate::domain::destination::Destination;
use crate::domain::id::{CreatorId, PayoutId, Preimage};
use crate::domain::ledger::Account;
use crate::failpoint;
use crate::lightning::{self, Outgoing, Sender};
use crate::runtime::{Clock, lock, new_uuid, sleep};
use crate::store::{self, Cause, Creator, Payout, PayoutState, Plan, Setbacks, Settle};
pub use fetching::Fetches;
use fetching::Fetching;
use lnurl::Services;
pub use request::Error;

/// How creators are paid; a section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// A creator is paid as soon as this much is payable, in millisatoshi.
    pub threshold_msat: u64,
    /// A smaller balance is paid after this long, in seconds.
    pub interval_seconds: u64,
    /// What routing may cost, in parts per million of the payout; the creator bears it.
    pub fee_max_ppm: u32,
    /// What routing may cost at least, in millisatoshi: below it small payouts would find no route.
    pub fee_max_floor_msat: u64,
    /// A destination that a creator changed is paid from then on, in seconds: whoever stole a key is seen before money goes.
    pub change_seconds: u64,
    /// Destinations may lie on this machine and be called without HTTPS: for tests and private chains, refused on mainnet.
    pub lnurl_allow_loopback: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold_msat: 100_000,
            interval_seconds: 3_600,
            fee_max_ppm: 10_000,
            fee_max_floor_msat: 1_000,
            change_seconds: 86_400,
            lnurl_allow_loopback: false,
        }
    }
}

/// No payout is smaller than this: the routing fee would eat it.
pub const AMOUNT_MIN: Msat = Msat::new(1_000);

/// Each sale wakes the payer: so long a burst of them is gathered into one look.
const GATHER: Duration = Duration::from_millis(100);
/// How often payouts whose outcome is open are asked about, should an event be lost.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Waits after a payout that came back.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3_600));

/// What may be on its way is sent again this often, in case it is not.
const RESEND_EVERY: Duration = Duration::from_secs(10);

/// By then the node has told everything that it kept over a restart.
const STALE_AFTER_MS: u64 = 20_000;
/// So many payouts that came back in a row pause a creator's: some half a day, so that a wallet that is off for a night misses nothing.
pub const PAUSED_AFTER: u32 = 20;
/// The address at which a service tells of an invoice (LUD-21) is not kept beyond this.
const VERIFY_BYTES_MAX: usize = 2_048;

/// No HTLC outlives this: LDK's routes end within 1,008 blocks, a week, and a block may take its time.
const GIVEN_UP_AFTER: Duration = Duration::from_secs(14 * 86_400);

/// The ports of the store that payouts use.
pub trait Books: store::Ledger + store::Payouts + store::Catalog {}
impl<T: store::Ledger + store::Payouts + store::Catalog + ?Sized> Books for T {}

/// Pays creators.
pub struct Payer {
    /// Sends.
    pub sender: Arc<dyn Sender>,
    /// What is payable, and what was intended.
    pub store: Arc<dyn Books>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Derives the preimage of a payout.
    pub secret: PayoutSecret,
    /// Woken when something was earned or a payout ended.
    pub wake: Arc<Notify>,
    /// How.
    pub options: Options,
    /// When this process started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// When a payout of open outcome is next sent again, in milliseconds since the Unix epoch.
    pub resends: Mutex<HashMap<PayoutId, u64>>,
    /// Asks destinations for invoices.
    pub services: Services,
    /// Which of them are being asked, and what they said.
    pub fetches: Fetches,
}

/// Why a creator's payouts are paused; what is payable stays payable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Paused {
    /// The [`Cause`] of the last setback.
    pub code: &'static str,
    /// The same as a sentence.
    pub reason: &'static str,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// The root of payouts' preimages. It has no `Debug`, so that it is never logged.
#[derive(Clone)]
pub struct PayoutSecret([u8; 64]);

impl PayoutSecret {
    /// From the node's seed.
    pub const fn new(seed: [u8; 64]) -> Self {
        Self(seed)
    }

    /// The preimage of a payout.
    pub fn preimage(&self, payout: PayoutId) -> Preimage {
        let label = b"sluice payout";
        Preimage::new(crate::paywall::token::derive(&self.0, label, payout.as_bytes()))
    }
}

impl Payer {
    /// Pays until told to end.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) {
        // An interval that is due at once would pay every crumb at each start.
        let mut next_interval = self.clock.now_s().saturating_add(self.options.interval_seconds);
        let mut fetching = Fetching::default();
        loop {
            let due = self.clock.now_s() >= next_interval;
            if due {
                next_interval = self.clock.now_s().saturating_add(self.options.interval_seconds);
            }
            match self.turn(due).await {
                Ok(unfetched) => fetching.begin(&self, unfetched),
                Err(error) => tracing::error!(%error, "payouts wait: the store failed"),
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(ASK_EVERY) => {}
                () = fetching.next() => {}
            }
            tokio::select! {
                awake = sleep(&cancel, GATHER) => if !awake { return },
                () = fetching.all() => {}
            }
        }
    }

    /// One look at everything: what is in flight is asked about, what is payable is sent. Gives the payouts that wait for an invoice.
    ///
    /// # Errors
    /// [`store::Error`] where the store fails.
    pub async fn turn(&self, interval_is_due: bool) -> Result<Vec<Payout>, store::Error> {
        let mut unfetched = Vec::new();
        for payout in self.store.pending()? {
            match &payout.invoice {
                _ if self.fetches.is_busy(payout.id) => {}
                None if payout.hash.is_none() => unfetched.push(payout),
                Some(invoice) if !invoice.sending => self.send_first(&payout).await?,
                _ => self.pursue(&payout).await?,
            }
        }
        for creator in self.store.creators()? {
            let Some(payout) = self.intend(&creator, interval_is_due)? else { continue };
            failpoint!(await "payout-planned");
            if payout.hash.is_some() {
                self.begin(&payout).await?;
            } else {
                unfetched.push(payout);
            }
        }
        Ok(unfetched)
    }

    /// Writes down the intent to pay a creator, where enough is payable.
    fn intend(&self, creator: &Creator, due: bool) -> Result<Option<Payout>, store::Error> {
        let Some(destination) = creator.payout.clone() else { return Ok(None) };
        if self.clock.now_ms() < creator.payout_from_ms {
            return Ok(None);
        }
        let planned = self.payable(creator.id)?;
        let threshold = if due { Msat::ZERO } else { Msat::new(self.options.threshold_msat) };
        let amount = planned.saturating_sub(self.fee_max(planned));
        if planned < threshold || amount < AMOUNT_MIN || self.rests(creator.id)? {
            return Ok(None);
        }
        if self.fetches.least(creator.id, &destination).is_some_and(|least| amount < least) {
            return Ok(None);
        }
        let payout = self.draft(creator.id, destination, planned, amount);
        Ok((self.store.plan(&payout)? == Plan::Made).then_some(payout))
    }

    /// What a creator may be paid.
    fn payable(&self, creator: CreatorId) -> Result<Msat, store::Error> {
        let owed = self.store.balance(Account::CreatorPayable(creator))?.saturating_neg();
        Ok(Msat::from_signed(owed).unwrap_or_default())
    }

    /// A payout that is not planned yet, without a destination.
    fn bare(&self, creator: CreatorId, planned: Msat, amount: Msat) -> Payout {
        Payout {
            id: PayoutId::new(new_uuid(&*self.clock)),
            creator,
            destination: None,
            planned,
            amount,
            hash: None,
            invoice: None,
            state: PayoutState::Pending,
            created_ms: self.clock.now_ms(),
        }
    }

    /// A payout that is not planned yet.
    fn draft(&self, creator: CreatorId, to: Destination, planned: Msat, amount: Msat) -> Payout {
        let mut payout = self.bare(creator, planned, amount);
        payout.hash = match to {
            Destination::Keysend(_) => Some(self.secret.preimage(payout.id).hash()),
            Destination::LightningAddress(_) | Destination::Lnurl(_) => None,
        };
        payout.destination = Some(to);
        payout
    }

    /// Sends a payout's invoice that was certainly never sent. One that has expired meanwhile is given back, and is no setback: the next payout
    /// fetches another.
    async fn send_first(&self, payout: &Payout) -> Result<(), store::Error> {
        let Some(invoice) = &payout.invoice else { return Ok(()) };
        if invoice.expires_at <= self.clock.now_s() {
            let why = (Cause::Expired, "the invoice expired before it was sent");
            self.store.give_back(payout, why, false, self.clock.now_ms())?;
            return Ok(());
        }
        failpoint!(await "payout-invoiced");
        if self.store.begin_sending(payout)? {
            failpoint!(await "payout-sending");
            self.begin(payout).await?;
            failpoint!(await "payout-sent");
        }
        Ok(())
    }

    /// Sends what was planned just now. Nobody ever sent it before, so a refusal is final.
    async fn begin(&self, payout: &Payout) -> Result<(), store::Error> {
        match self.send(payout).await {
            // An event tells the outcome.
            Ok(()) | Err(lightning::Error::Duplicate) => Ok(()),
            // Sent or not: nobody knows. The intent stands, and the node is asked later.
            Err(lightning::Error::NotRunning | lightning::Error::Node(_)) => Ok(()),
            Err(error) => {
                self.settle(payout, Settle::Returned { reason: error.to_string() })?;
                self.forget(payout).await;
                self.wake.notify_one();
                Ok(())
            }
        }
    }

    /// Brings on a payout that may have been sent. That it arrived is believed of the node's record; that it failed, of the node's event
    /// alone: a record may also say "failed" because a second attempt found no route, while the first is still on its way.
    async fn pursue(&self, payout: &Payout) -> Result<(), store::Error> {
        let Some(hash) = &payout.hash else { return Ok(()) };
        match self.sender.outgoing(hash).await {
            Outgoing::Succeeded { preimage, fee } => {
                self.settle(payout, Settle::Arrived { fee, preimage })
            }
            // The event comes. From before this start it may be a record that outlived its payment: then LDK is asked itself.
            Outgoing::Pending | Outgoing::Failed if !self.is_stale(payout) => Ok(()),
            // From before this start the event may be among those that the node kept, and the payment gone from LDK.
            Outgoing::Unknown if self.is_older(payout) && !self.is_stale(payout) => Ok(()),
            Outgoing::Pending | Outgoing::Failed | Outgoing::Unknown => self.resend(payout).await,
        }
    }

    /// Sends again what may be on its way: LDK refuses it then, because one payout has one payment id. That there is no route proves nothing,
    /// because LDK looks for one before it looks whether the payment is on its way.
    async fn resend(&self, payout: &Payout) -> Result<(), store::Error> {
        let now = self.clock.now_ms();
        let due = lock(&self.resends).get(&payout.id).is_none_or(|next| now >= *next);
        // Read again: an outcome may have been booked, and the node's record removed, since the list was made.
        if !due || !self.store.pending()?.iter().any(|of| of.id == payout.id) {
            return Ok(());
        }
        lock(&self.resends).insert(payout.id, now.saturating_add(millis(RESEND_EVERY)));
        if payout.invoice.as_ref().is_some_and(|invoice| invoice.expires_at <= now / 1_000) {
            // LDK refuses an invoice that has expired before it looks whether it is on its way: that proves nothing.
            if self.is_given_up(payout) {
                let reason = "nothing was heard of it for two weeks".to_owned();
                self.settle(payout, Settle::Returned { reason })?;
                self.forget(payout).await;
            }
            return Ok(());
        }
        self.forget(payout).await;
        match self.send(payout).await {
            Ok(()) => tracing::warn!(payout = %payout.id, "the node did not know it: sent"),
            Err(lightning::Error::Malformed(reason)) if payout.invoice.is_none() => {
                // It can never have been sent. An invoice was good when it was taken: what is wrong with it came later.
                self.settle(payout, Settle::Returned { reason })?;
                self.forget(payout).await;
            }
            Err(lightning::Error::NoRoute) if self.is_given_up(payout) => {
                self.settle(
                    payout,
                    Settle::Returned { reason: "no route for two weeks".to_owned() },
                )?;
                self.forget(payout).await;
            }
            Err(error) => {
                tracing::debug!(payout = %payout.id, %error, "its outcome stays open");
                // A refusal leaves a record that says "failed", which is not known.
                if error == lightning::Error::NoRoute {
                    self.forget(payout).await;
                }
            }
        }
        Ok(())
    }

    fn settle(&self, payout: &Payout, outcome: Settle) -> Result<(), store::Error> {
        let Some(hash) = &payout.hash else { return Ok(()) };
        self.store.settle(hash, &outcome, self.clock.now_ms())?;
        lock(&self.resends).remove(&payout.id);
        if let Settle::Returned { reason } = outcome {
            tracing::warn!(payout = %payout.id, %reason, "a payout came back; it is tried again later");
        }
        Ok(())
    }

    /// Takes away the node's record, never the payment itself.
    async fn forget(&self, payout: &Payout) {
        let Some(hash) = &payout.hash else { return };
        if let Err(error) = self.sender.forget(hash).await {
            tracing::debug!(payout = %payout.id, %error, "its record stays with the node");
        }
    }

    /// Whether a payout that the node calls pending may be a record that outlived a crash.
    fn is_stale(&self, payout: &Payout) -> bool {
        self.is_older(payout)
            && self.clock.now_ms() > self.started_ms.saturating_add(STALE_AFTER_MS)
    }

    /// Whether a payout was planned before this start.
    fn is_older(&self, payout: &Payout) -> bool {
        payout.created_ms < self.started_ms
    }

    /// Whether nothing of a payout can be on its way any more.
    fn is_given_up(&self, payout: &Payout) -> bool {
        self.clock.now_ms() > payout.created_ms.saturating_add(millis(GIVEN_UP_AFTER))
    }

    async fn send(&self, payout: &Payout) -> Result<(), lightning::Error> {
        // Of an invoice the amount may be much less than what was planned: the fee is held against what is sent.
        let of = if payout.invoice.is_some() { payout.amount } else { payout.planned };
        let fee_max = payout.planned.saturating_sub(payout.amount).min(self.fee_max(of));
        match (&payout.destination, &payout.invoice) {
            (_, Some(invoice)) => self.sender.pay(&invoice.bolt11, fee_max).await.map(|_| ()),
            (Some(Destination::Keysend(node)), None) => {
                let preimage = self.secret.preimage(payout.id);
                self.sender.keysend(*node, payout.amount, &preimage, fee_max).await
            }
            (_, None) => Err(lightning::Error::Malformed("there is no invoice".to_owned())),
        }
    }

    /// What a creator is told whose payouts came back too often.
    ///
    /// # Errors
    /// [`store::Error`] where the store fails.
    pub fn paused(&self, creator: CreatorId) -> Result<Option<Paused>, store::Error> {
        let setbacks = self.store.setbacks(creator)?.filter(is_paused);
        Ok(setbacks.map(|of| Paused {
            code: of.cause.code(),
            reason: of.cause.sentence(),
            since_ms: of.last_ms,
        }))
    }

    fn fee_max(&self, planned: Msat) -> Msat {
        let part = u128::from(planned.get()) * u128::from(self.options.fee_max_ppm) / 1_000_000;
        let part = u64::try_from(part).unwrap_or(planned.get());
        Msat::new(part.max(self.options.fee_max_floor_msat))
    }

    /// Whether a creator's last payouts came back so lately that the next one has to wait: twice as long each time.
    fn rests(&self, creator: CreatorId) -> Result<bool, store::Error> {
        let Some(setbacks) = self.store.setbacks(creator)? else { return Ok(false) };
        if is_paused(&setbacks) {
            return Ok(true);
        }
        let doubled = 2_u32.saturating_pow(setbacks.count.saturating_sub(1));
        let wait = RETRY.0.saturating_mul(doubled).min(RETRY.1);
        Ok(self.clock.now_ms() < setbacks.last_ms.saturating_add(millis(wait)))
    }
}

/// Whether so many payouts came back that the destination has to be changed, or tried, first.
pub const fn is_paused(setbacks: &Setbacks) -> bool {
    setbacks.count >= PAUSED_AFTER
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
