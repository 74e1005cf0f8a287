//! Pays the session's invoices: each once, each checked first. What may have been paid is looked up, never paid again.

use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::Instant;

use super::account::{Next, Payable};
use super::play::Stage;
use super::receipt::{End, sat};
use super::wallet::Payment;
use super::{Order, Outcome, Wallet};
use crate::domain::amount::Msat;
use crate::domain::id::Preimage;
use crate::runtime::{Backoff, Clock as _, SystemClock};

/// In a row; after them something is wrong that another try does not mend.
const FAILURES_MAX: u32 = 5;
const FAILED_WAIT_FIRST: Duration = Duration::from_secs(1);
const FAILED_WAIT_MAX: Duration = Duration::from_secs(16);
/// An invoice that had to wait is looked at again after this.
const RECHECK: Duration = Duration::from_millis(500);
/// How long payments wait before the viewer is told.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the wallet's own answer, which brings the fee, is waited for once the server has the money.
const SILENCE: Duration = Duration::from_secs(5);
const LOOK_UP_FIRST: Duration = Duration::from_secs(2);
const LOOK_UP_MAX: Duration = Duration::from_secs(30);
/// A payment that is unknown so long after its invoice expired is left to the viewer.
const GIVE_UP_SECONDS: u64 = 60;

/// What is known of a payment in the end.
enum Settled {
    Paid(Option<Preimage>, Option<Msat>),
    Failed(String),
    Unknown(String),
}

/// Pays until the visit is over, then waits for what is under way.
pub(super) async fn run(stage: &Stage<'_>, wallet: &dyn Wallet, order: &Order) {
    let in_flight = order.in_flight;
    let visit = stage.visit;
    let mut under_way = FuturesUnordered::new();
    let mut reports = FuturesUnordered::new();
    let mut failures = Failures::default();
    let mut waiting: Option<Instant> = None;
    let settle = async {
        visit.over.cancelled().await;
        tokio::time::sleep(order.settle_within).await;
    };
    let mut settle = std::pin::pin!(settle);
    loop {
        for hash in visit.read(|account, _| account.take_stale()) {
            reports.push(stage.remote.report_failed_quietly(hash).boxed());
        }
        while !visit.stopped.is_cancelled() && under_way.len() < in_flight && failures.may_try() {
            match visit.read(super::account::Account::next) {
                Next::Nothing => {
                    waiting = None;
                    break;
                }
                Next::Wait(words) => {
                    let since = *waiting.get_or_insert_with(Instant::now);
                    if since.elapsed() > PATIENCE {
                        stage.screen.note(words);
                        waiting = Some(Instant::now() + PATIENCE * 11);
                    }
                    break;
                }
                Next::Pay(payable) => {
                    waiting = None;
                    under_way.push(settled(stage, wallet, payable));
                }
                Next::Spent(words) => stop(stage, End::Spent(words)),
                Next::Lied(words) => stop(stage, End::Lied(words)),
            }
        }
        if visit.over.is_cancelled() && under_way.is_empty() && reports.is_empty() {
            return;
        }
        tokio::select! {
            Some((payable, settled)) = under_way.next(), if !under_way.is_empty() => {
                if book(stage, &mut failures, &payable, settled) {
                    // That it cannot be reported costs the viewer nothing: the invoice expires.
                    reports.push(stage.remote.report_failed_quietly(payable.hash).boxed());
                }
            }
            Some(()) = reports.next(), if !reports.is_empty() => {}
            () = visit.changed.notified() => {}
            () = tokio::time::sleep(RECHECK) => {}
            () = &mut settle => {
                stage.screen.note("a payment is still under way: the receipt names it, your wallet knows more");
                return;
            }
        }
    }
}

fn stop(stage: &Stage<'_>, end: End) {
    let words = end.words();
    if stage.visit.stop(end) {
        stage.screen.note(&format!("nothing more is paid: {words}"));
    }
}

/// Books what became of a payment; true where the server is to be told that it failed.
fn book(stage: &Stage<'_>, failures: &mut Failures, payable: &Payable, settled: Settled) -> bool {
    match settled {
        Settled::Paid(preimage, fee) => {
            failures.clear();
            stage.visit.with(|account, _| account.paid(&payable.hash, fee, preimage));
            if let Some(fee) = fee.filter(|fee| *fee > payable.fee_max) {
                stage.screen.note(&format!("a route cost {}, more than it should", sat(fee)));
            }
            false
        }
        Settled::Failed(words) => {
            stage.visit.with(|account, _| account.failed(&payable.hash));
            if failures.add() >= FAILURES_MAX {
                let words =
                    format!("the wallet could not pay {FAILURES_MAX} times in a row: {words}");
                stop(stage, End::Wallet(words));
            } else {
                stage.screen.note(&format!("a payment failed: {words}; trying again"));
            }
            true
        }
        Settled::Unknown(words) => {
            let words = format!(
                "it is not known whether {} for segment {} were paid ({words}): ask your wallet for {}",
                sat(payable.amount),
                payable.segments.first().map_or(0, |first| first.0),
                payable.hash
            );
            stop(stage, End::Wallet(words));
            false
        }
    }
}

/// Sends once, and then asks until it is known what became of it.
async fn settled(stage: &Stage<'_>, wallet: &dyn Wallet, payable: Payable) -> (Payable, Settled) {
    let payment =
        Payment { bolt11: payable.bolt11.clone(), hash: payable.hash, fee_max: payable.fee_max };
    let mut backoff = Backoff::new(LOOK_UP_FIRST, LOOK_UP_MAX);
    let mut outcome = tokio::select! {
        outcome = wallet.pay(&payment) => outcome,
        () = server_has(stage, &payment) => Outcome::Unknown("the wallet did not answer".to_owned()),
    };
    loop {
        let server_has_it = stage
            .visit
            .read(|account, _| account.bill(&payment.hash).is_some_and(|bill| bill.settled));
        let words = match outcome {
            // What is no proof proves nothing: the payment may be under way all the same.
            Outcome::Paid { preimage, fee } if preimage.hash() == payment.hash => {
                return (payable, Settled::Paid(Some(preimage), fee));
            }
            // Whatever the wallet says: who has the money need not be paid.
            _ if server_has_it => return (payable, Settled::Paid(None, None)),
            Outcome::Paid { .. } => "the wallet's proof of payment is wrong".to_owned(),
            Outcome::Failed(words) => return (payable, Settled::Failed(words)),
            Outcome::Unknown(words) => words,
        };
        if SystemClock.now_s() > payable.expires_at.saturating_add(GIVE_UP_SECONDS) {
            return (payable, Settled::Unknown(words));
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.step()) => {}
            () = server_has(stage, &payment) => {}
        }
        outcome = tokio::select! {
            outcome = wallet.look_up(&payment) => outcome,
            () = server_has(stage, &payment) => Outcome::Unknown(words),
        };
    }
}

/// Waits until the server has said for a while that it has the money.
async fn server_has(stage: &Stage<'_>, payment: &Payment) {
    loop {
        let settled = stage
            .visit
            .read(|account, _| account.bill(&payment.hash).is_none_or(|bill| bill.settled));
        if settled {
            tokio::time::sleep(SILENCE).await;
            return;
        }
        tokio::time::sleep(RECHECK).await;
    }
}

/// Failures in a row, and when the next try may be.
struct Failures {
    count: u32,
    backoff: Backoff,
    not_before: Instant,
}

impl Default for Failures {
    fn default() -> Self {
        let backoff = Backoff::new(FAILED_WAIT_FIRST, FAILED_WAIT_MAX);
        Self { count: 0, backoff, not_before: Instant::now() }
    }
}

impl Failures {
    fn may_try(&self) -> bool {
        Instant::now() >= self.not_before
    }

    fn add(&mut self) -> u32 {
        self.count = self.count.saturating_add(1);
        self.not_before = Instant::now() + self.backoff.step();
        self.count
    }

    fn clear(&mut self) {
        self.count = 0;
        self.backoff.reset();
    }
}
