//! Pays the session's invoices: each once, each checked first. What may have been paid is looked up, never paid again.

use std::collections::VecDeque;
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::time::Instant;

use super::account::{Next, Payable};
use super::play::Stage;
use super::receipt::{End, sat};
use super::wallet::Payment;
use super::{Order, Outcome, Wallet};
use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, Preimage};
use crate::runtime::{Backoff, Clock as _, SystemClock, sleep};

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

/// Reports to the server at once: more would only wait for it together.
const REPORTS_MAX: usize = 4;
/// Tries of a report. A server that has been away for so long hears nothing: the invoice expires by itself.
const REPORT_TRIES: u32 = 8;
const REPORT_WAIT_FIRST: Duration = Duration::from_millis(500);
const REPORT_WAIT_MAX: Duration = Duration::from_secs(30);

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
    let (mut to_report, mut reports) = (VecDeque::new(), FuturesUnordered::new());
    let mut failures = Failures::default();
    let mut waiting: Option<Instant> = None;
    let settle = async {
        visit.over.cancelled().await;
        tokio::time::sleep(order.settle_within).await;
    };
    let mut settle = std::pin::pin!(settle);
    loop {
        to_report.extend(visit.read(|account, _| account.take_stale()));
        while reports.len() < REPORTS_MAX
            && let Some(hash) = to_report.pop_front()
        {
            reports.push(report(stage, hash));
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
                    to_report.push_back(payable.hash);
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
                let cap = sat(payable.fee_max);
                stage
                    .screen
                    .note(&format!("a route cost {}, more than the {cap} allowed", sat(fee)));
            }
            if let Some(dearest) = stage.visit.read(|account, _| account.too_dear()) {
                let words = format!(
                    "the wallet pays more in fees than is allowed, up to {} for one payment: lower its fee limit, or use another wallet",
                    sat(dearest)
                );
                stop(stage, End::Wallet(words));
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

/// Tells the server that an invoice will not be paid, again and again while it does not answer, until the session is over.
async fn report(stage: &Stage<'_>, hash: PaymentHash) {
    let mut backoff = Backoff::new(REPORT_WAIT_FIRST, REPORT_WAIT_MAX);
    for _ in 0..REPORT_TRIES {
        let told = tokio::select! {
            told = stage.remote.report_failed(&hash) => told,
            () = stage.visit.over.cancelled() => return,
        };
        let Err(error) = told else { return };
        tracing::debug!(%error, "a failed payment could not be reported");
        if !sleep(&stage.visit.over, backoff.step()).await {
            return;
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
