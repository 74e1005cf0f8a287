//! Payouts that a creator asks for: a test of one satoshi, and a withdrawal by invoice. They take the same lock as streaming: one payout of a
//! creator is in flight at a time, whatever began it.

use std::time::Duration;

use super::fetching::Busy;
use super::invoice::{self, Expected};
use super::{AMOUNT_MIN, Payer};
use crate::domain::amount::Msat;
use crate::domain::id::CreatorId;
use crate::failpoint;
use crate::store::{self, Cause, Creator, Payout, PayoutInvoice, PayoutState, Plan};

/// Whoever asks is told the outcome if it comes within this; a payout goes on all the same.
const TOLD_WITHIN: Duration = Duration::from_secs(30);
/// So often its outcome is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Why nothing was begun.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The creator has not said where to be paid.
    #[error("there is no destination")]
    NoDestination,
    /// Another payout of this creator is in flight.
    #[error("another payout is in flight")]
    InFlight,
    /// Less is payable than that and what its routing may cost.
    #[error("{needed} is needed, {payable} is payable")]
    Short {
        /// What is payable.
        payable: Msat,
        /// What it takes, routing included.
        needed: Msat,
    },
    /// The invoice is refused.
    #[error("{}", .0.sentence())]
    Invoice(Cause),
    /// The store fails.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Payer {
    /// Pays a satoshi to a creator's destination now, also to one that waits because it was changed, and tells how it went. Setbacks are forgotten:
    /// payouts that were paused go on.
    ///
    /// # Errors
    /// [`Error`] where nothing was begun.
    pub async fn test(&self, creator: &Creator) -> Result<Payout, Error> {
        let to = creator.payout.clone().ok_or(Error::NoDestination)?;
        self.store.resume(creator.id)?;
        let planned = self.with_fee(AMOUNT_MIN);
        let payout = self.draft(creator.id, to, planned, AMOUNT_MIN);
        let _busy = self.plan(&payout)?;
        if payout.hash.is_some() {
            self.begin(&payout).await?;
        } else {
            self.fetch(&payout).await?;
        }
        self.outcome(&payout).await
    }

    /// Pays a creator's own invoice out of what is payable, and tells how it went, or that it is on its way.
    ///
    /// # Errors
    /// [`Error`] where nothing was begun.
    pub async fn withdraw(&self, creator: CreatorId, bolt11: &str) -> Result<Payout, Error> {
        let expected = Expected {
            network: self.services.network,
            own: self.services.own,
            amount: None,
            description: None,
            now_s: self.clock.now_s(),
        };
        let bolt11 = bolt11.trim();
        let (facts, amount) = invoice::check(bolt11, &expected).map_err(Error::Invoice)?;
        let mut payout = self.bare(creator, self.with_fee(amount), amount);
        payout.hash = Some(facts.hash);
        payout.invoice = Some(PayoutInvoice {
            bolt11: bolt11.to_owned(),
            expires_at: facts.expires_at,
            verify: None,
            sending: false,
        });
        let _busy = self.plan(&payout)?;
        failpoint!(await "withdrawal-planned");
        self.send_first(&payout).await?;
        self.outcome(&payout).await
    }

    /// An amount and what routing it may cost.
    fn with_fee(&self, amount: Msat) -> Msat {
        amount.checked_add(self.fee_max(amount)).unwrap_or(amount)
    }

    /// Writes the intent down and keeps the payer's own turns away from it.
    fn plan(&self, payout: &Payout) -> Result<Option<Busy<'_>>, Error> {
        let busy = Busy::take(&self.fetches, payout.id);
        match self.store.plan(payout)? {
            Plan::Made => Ok(busy),
            Plan::InFlight => Err(Error::InFlight),
            Plan::Seen => Err(Error::Invoice(Cause::SeenBefore)),
            Plan::Short => {
                let payable = self.payable(payout.creator)?;
                Err(Error::Short { payable, needed: payout.planned })
            }
        }
    }

    /// The payout as it is once its outcome is known, or as it is by then.
    async fn outcome(&self, payout: &Payout) -> Result<Payout, Error> {
        let known = async {
            loop {
                let kept = self.store.payout(payout.creator, payout.id)?;
                if let Some(over) = kept.filter(|of| of.state != PayoutState::Pending) {
                    return Ok::<_, store::Error>(over);
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        };
        match tokio::time::timeout(TOLD_WITHIN, known).await {
            Ok(over) => Ok(over?),
            Err(_) => Ok(payout.clone()),
        }
    }
}
