//! Use case: what creators earned reaches their wallets. Intent before sending, and after a crash the node is asked before anything is sent
//! again: a keysend's preimage is derived from the payout's identity, so one payout has one payment hash for ever.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::domain::amount::Msat;
use crate::domain::id::{CreatorId, PayoutId, Preimage};
use crate::domain::ledger::Account;
use crate::failpoint;
use crate::lightning::{self, Outgoing, Sender};
use crate::runtime::{Clock, new_uuid};
use crate::store::{self, Creator, Destination, Payout, PayoutState, Settle};

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
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold_msat: 100_000,
            interval_seconds: 3_600,
            fee_max_ppm: 10_000,
            fee_max_floor_msat: 1_000,
        }
    }
}

/// No payout is smaller than this: the routing fee would eat it.
pub const AMOUNT_MIN: Msat = Msat::new(1_000);
/// How often payouts whose outcome is open are asked about, should an event be lost.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// Waits after a payout that came back.
const RETRY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3_600));

/// By then the node has told everything that it kept over a restart.
const STALE_AFTER_MS: u64 = 60_000;

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
        loop {
            let due = self.clock.now_s() >= next_interval;
            if due {
                next_interval = self.clock.now_s().saturating_add(self.options.interval_seconds);
            }
            if let Err(error) = self.turn(due).await {
                tracing::error!(%error, "payouts wait: the store failed");
            }
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.wake.notified() => {}
                () = tokio::time::sleep(ASK_EVERY) => {}
            }
        }
    }

    /// One look at everything: what is in flight is asked about, what is payable is sent.
    ///
    /// # Errors
    /// [`store::Error`] where the store fails.
    pub async fn turn(&self, interval_is_due: bool) -> Result<(), store::Error> {
        for payout in self.store.pending()? {
            self.pursue(&payout).await?;
        }
        for creator in self.store.creators()? {
            let Some(payout) = self.intend(&creator, interval_is_due)? else { continue };
            failpoint!("payout-planned");
            self.pursue(&payout).await?;
        }
        Ok(())
    }

    /// Writes down the intent to pay a creator, where enough is payable.
    fn intend(&self, creator: &Creator, due: bool) -> Result<Option<Payout>, store::Error> {
        let Some(destination) = creator.payout else { return Ok(None) };
        let owed = self.store.balance(Account::CreatorPayable(creator.id))?.saturating_neg();
        let planned = Msat::from_signed(owed).unwrap_or_default();
        let threshold = if due { Msat::ZERO } else { Msat::new(self.options.threshold_msat) };
        let amount = planned.saturating_sub(self.fee_max(planned));
        if planned < threshold || amount < AMOUNT_MIN || self.rests(creator.id)? {
            return Ok(None);
        }
        let id = PayoutId::new(new_uuid(&*self.clock));
        let payout = Payout {
            id,
            creator: creator.id,
            destination,
            planned,
            amount,
            hash: self.secret.preimage(id).hash(),
            state: PayoutState::Pending,
            created_ms: self.clock.now_ms(),
        };
        Ok(self.store.plan(&payout)?.then_some(payout))
    }

    /// Brings a payout on: asks the node first, and sends only what it never heard of.
    async fn pursue(&self, payout: &Payout) -> Result<(), store::Error> {
        let outcome = match self.sender.outgoing(&payout.hash).await {
            Outgoing::Pending if !self.is_stale(payout) => return Ok(()),
            Outgoing::Pending => {
                // A crash between the node's record and its sending: what is truly on its way, LDK refuses to send again.
                tracing::warn!(payout = %payout.id, "pending since before this start: sent again");
                if self.sender.forget(&payout.hash).await.is_err() {
                    return Ok(());
                }
                match self.send(payout).await {
                    Err(lightning::Error::NoRoute) => {
                        Settle::Returned { reason: "no route".to_owned() }
                    }
                    Ok(()) | Err(_) => return Ok(()),
                }
            }
            Outgoing::Succeeded { preimage, fee } => Settle::Arrived { fee, preimage },
            Outgoing::Failed => Settle::Returned { reason: "the payment failed".to_owned() },
            Outgoing::Unknown => match self.send(payout).await {
                Ok(()) | Err(lightning::Error::Duplicate) => return Ok(()),
                // Not sent, or nobody knows: the intent stands, and the node is asked again.
                Err(lightning::Error::NotRunning | lightning::Error::Node(_)) => return Ok(()),
                Err(error) => Settle::Returned { reason: error.to_string() },
            },
        };
        self.store.settle(&payout.hash, &outcome, self.clock.now_ms())?;
        if let Settle::Returned { reason } = outcome {
            tracing::warn!(payout = %payout.id, %reason, "a payout came back; it is tried again later");
        }
        Ok(())
    }

    /// Whether a payout that the node calls pending may be a record that outlived a crash.
    fn is_stale(&self, payout: &Payout) -> bool {
        payout.created_ms < self.started_ms
            && self.clock.now_ms() > self.started_ms.saturating_add(STALE_AFTER_MS)
    }

    async fn send(&self, payout: &Payout) -> Result<(), lightning::Error> {
        let fee_max = payout.planned.saturating_sub(payout.amount);
        match payout.destination {
            Destination::Keysend(node) => {
                let preimage = self.secret.preimage(payout.id);
                self.sender.keysend(node, payout.amount, &preimage, fee_max).await
            }
        }
    }

    fn fee_max(&self, planned: Msat) -> Msat {
        let part = u128::from(planned.get()) * u128::from(self.options.fee_max_ppm) / 1_000_000;
        let part = u64::try_from(part).unwrap_or(planned.get());
        Msat::new(part.max(self.options.fee_max_floor_msat))
    }

    /// Whether a creator's last payouts came back so lately that the next one has to wait: twice as long each time.
    fn rests(&self, creator: CreatorId) -> Result<bool, store::Error> {
        let Some(setbacks) = self.store.setbacks(creator)? else { return Ok(false) };
        let doubled = 2_u32.saturating_pow(setbacks.count.saturating_sub(1));
        let wait = RETRY.0.saturating_mul(doubled).min(RETRY.1);
        let wait_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        Ok(self.clock.now_ms() < setbacks.last_ms.saturating_add(wait_ms))
    }
}
