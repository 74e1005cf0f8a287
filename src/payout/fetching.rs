//! The calls to destinations that run beside the payer's look at everything, so that a slow service delays nobody else's payout.

use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use futures::stream::{FuturesUnordered, StreamExt as _};

use super::Payer;
use super::lnurl::Refusal;
use crate::domain::amount::Msat;
use crate::domain::destination::Destination;
use crate::domain::id::{CreatorId, PayoutId};
use crate::failpoint;
use crate::runtime::lock;
use crate::store::{self, Attach, Cause, Payout};

/// So many services are asked at once; the other payouts wait for a place, each for two calls of [`super::outbound::WITHIN`] at most.
const FETCHES_MAX: usize = 32;
/// Of so many destinations it is remembered what they take at least.
const LEASTS_MAX: usize = 10_000;

/// Which payouts' services are being asked, and what they take at least, as far as is known in this process.
#[derive(Default)]
pub struct Fetches {
    busy: Mutex<HashSet<PayoutId>>,
    leasts: Mutex<HashMap<CreatorId, (Destination, Msat)>>,
}

impl Fetches {
    /// Whether somebody works at a payout.
    pub fn is_busy(&self, payout: PayoutId) -> bool {
        lock(&self.busy).contains(&payout)
    }

    /// What a creator's destination is known to take at least.
    pub fn least(&self, creator: CreatorId, at: &Destination) -> Option<Msat> {
        lock(&self.leasts).get(&creator).filter(|(of, _)| of == at).map(|(_, least)| *least)
    }

    fn learn(&self, creator: CreatorId, at: &Destination, least: Msat) {
        let mut leasts = lock(&self.leasts);
        if leasts.len() >= LEASTS_MAX {
            leasts.clear();
        }
        leasts.insert(creator, (at.clone(), least));
    }
}

/// Takes a payout from everybody else for as long as it lives.
pub(super) struct Busy<'a>(&'a Fetches, PayoutId);

impl<'a> Busy<'a> {
    /// `None` where somebody works at it already.
    pub(super) fn take(fetches: &'a Fetches, payout: PayoutId) -> Option<Self> {
        lock(&fetches.busy).insert(payout).then_some(Self(fetches, payout))
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(&self.0.busy).remove(&self.1);
    }
}

/// The calls under way. Dropping them is safe at any time: each step is written down before the next.
#[derive(Default)]
pub(super) struct Fetching(FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Fetching {
    /// Begins with as many as there is room for.
    pub(super) fn begin(&mut self, payer: &Arc<Payer>, payouts: Vec<Payout>) {
        for payout in payouts {
            if self.0.len() >= FETCHES_MAX {
                return;
            }
            let payer = Arc::clone(payer);
            self.0.push(Box::pin(async move {
                let Some(_busy) = Busy::take(&payer.fetches, payout.id) else { return };
                if let Err(error) = payer.fetch(&payout).await {
                    tracing::error!(payout = %payout.id, %error, "a payout waits: the store failed");
                }
            }));
        }
    }

    /// The end of one of them; never, where there is none.
    pub(super) async fn next(&mut self) {
        if self.0.next().await.is_none() {
            std::future::pending::<()>().await;
        }
    }

    /// Works at all of them and never ends.
    pub(super) async fn all(&mut self) {
        loop {
            self.next().await;
        }
    }
}

impl Payer {
    /// Asks a planned payout's destination for an invoice, writes it down and sends it; gives the amount back where that fails.
    pub(super) async fn fetch(&self, payout: &Payout) -> Result<(), store::Error> {
        let Some(to) = payout.destination.as_ref() else { return Ok(()) };
        let fetched = self.services.invoice(to, payout.amount, self.clock.now_s()).await;
        let refusal = match fetched {
            Ok(fetched) => {
                failpoint!(await "payout-fetched");
                match self.store.attach(payout, fetched.hash, fetched.amount, &fetched.invoice)? {
                    Attach::Done(payout) => return self.send_first(&payout).await,
                    Attach::Refused => return Ok(()),
                    Attach::Seen => Refusal {
                        cause: Cause::SeenBefore,
                        details: format!("the invoice's hash {} was seen before", fetched.hash),
                        least: None,
                    },
                }
            }
            Err(refusal) => refusal,
        };
        tracing::warn!(payout = %payout.id, creator = %payout.creator, %refusal, "no invoice for a payout");
        let waits = refusal.cause == Cause::BelowLeast;
        if let Some(least) = refusal.least {
            self.fetches.learn(payout.creator, to, least);
        }
        let why = (refusal.cause, refusal.details.as_str());
        // That there is too little yet is no setback: it is tried again once there is more.
        self.store.give_back(payout, why, !waits, self.clock.now_ms())?;
        Ok(())
    }
}
