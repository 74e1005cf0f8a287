//! Use case: what the node tells becomes entries in the ledger, each exactly once: take, book, acknowledge, wake who waits.
//!
//! The node tells the same event again until it is acknowledged, also after a restart; booking is keyed by payment hash, so a telling that
//! was booked and not acknowledged books nothing. The fee of a forward alone has no identity over a restart (see [`store::Ledger::book_forward`]).
//! While booking fails, no invoice is made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::domain::amount::Msat;
use crate::domain::id::SessionId;
use crate::domain::ledger::Account;
use crate::failpoint;
use crate::lightning::{Channel, Event, IncomingPayment, Operator, Receiver, Sender};
use crate::paywall::{Suspension, Wake};
use crate::runtime::{Backoff, Bells, Clock, sleep};
use crate::store::{self, ChannelBooking, Credit, Origin, Purpose, Settle};
use crate::telemetry::Metrics;

/// The first wait after a failure, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(30));

/// The node's events, as settlement sees them.
pub trait Source: Receiver + Operator + Sender {}
impl<T: Receiver + Operator + Sender + ?Sized> Source for T {}

/// The ports of the store that settlement uses.
pub trait Books: store::Ledger + store::Payouts {}
impl<T: store::Ledger + store::Payouts + ?Sized> Books for T {}

/// What settlement needs.
#[derive(Clone)]
pub struct Settlement {
    /// Tells what happened.
    pub node: Arc<dyn Source>,
    /// Where it is booked.
    pub store: Arc<dyn Books>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Rung when something was booked.
    pub bells: Bells<Wake>,
    /// Woken when a payout ended.
    pub payouts: Arc<Notify>,
    /// Set while booking fails.
    pub suspension: Suspension,
    /// Counters.
    pub metrics: Metrics,
    /// The number of this start.
    pub boot: u64,
    /// Payments forwarded and acknowledged in this start.
    pub forwards: Arc<AtomicU64>,
}

/// How long nothing moves before the node is at rest: after a start LDK tells again, seconds later, what was not acknowledged.
const REST_MS: u64 = 10_000;
/// Closed channels are looked at this often.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Whether nothing is on its way: each channel says so, or is too small to say and has its peer connected, which would end it in a moment. What
/// we sent may be held by whoever receives it, for days: then the channels must say so, or the books know of nothing that was sent.
fn is_idle(channels: &[Channel], nothing_sent: bool) -> bool {
    let says_so = |channel: &Channel| channel.pending_msat == Some(0);
    let cannot_say = |channel: &Channel| channel.pending_msat.is_none() && channel.usable;
    channels.iter().all(says_so)
        || nothing_sent && channels.iter().all(|channel| says_so(channel) || cannot_say(channel))
}

/// What node and books say while nothing moves.
type Seen = (Vec<(String, Msat)>, i128);

/// Since when nothing has moved.
#[derive(Debug, Default)]
struct Rest(Option<(Seen, u64)>);

impl Rest {
    /// Whether what is seen has been the same for long enough, with nothing on its way.
    fn holds(&mut self, seen: Seen, idle: bool, now_ms: u64) -> bool {
        match &self.0 {
            _ if !idle => self.0 = None,
            Some((before, since)) if *before == seen => {
                return now_ms >= since.saturating_add(REST_MS);
            }
            Some(_) | None => self.0 = Some((seen, now_ms)),
        }
        false
    }
}

impl Settlement {
    /// Books events until told to end.
    pub async fn run(self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        // After a failure the next telling may be the same event once more.
        let mut told_before = false;
        loop {
            let event = tokio::select! {
                () = cancel.cancelled() => return,
                event = self.node.next() => event,
            };
            let booked = self.book(&event, told_before);
            if booked.is_ok() && matches!(event, Event::Received(_)) {
                failpoint!("payment-credited");
            }
            let acknowledged = match &booked {
                Ok(_) => self.node.acknowledge().await.map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            if let Ok(wake) = booked {
                self.wake(wake);
            }
            told_before = acknowledged.is_err();
            self.suspension.set(told_before);
            match acknowledged {
                Ok(()) => {
                    backoff.reset();
                    if matches!(event, Event::Forwarded { .. }) {
                        // Only now: told again for want of this acknowledgement, it has the same number.
                        self.forwards.fetch_add(1, Ordering::Relaxed);
                    }
                    self.forget(&event).await;
                }
                Err(error) => {
                    tracing::error!(%error, "an event could not be booked: no invoices until it can");
                    self.metrics.payment("deferred");
                    if !sleep(&cancel, backoff.step()).await {
                        return;
                    }
                }
            }
        }
    }

    /// The ledger holds the outcome of a payout: the node's own record would only grow.
    async fn forget(&self, event: &Event) {
        if let Event::Sent { hash, .. } | Event::SendFailed { hash: Some(hash), .. } = event
            && let Err(error) = self.node.forget(hash).await
        {
            tracing::debug!(%error, "a settled payment's record stays with the node");
        }
    }

    fn wake(&self, wake: Option<Wake>) {
        if let Some(wake) = wake {
            self.bells.ring(&wake);
        }
    }

    fn book(&self, event: &Event, told_before: bool) -> Result<Option<Wake>, store::Error> {
        match event {
            Event::Received(payment) => self.received(*payment, told_before),
            Event::Sent { hash, preimage, fee } => {
                let outcome = Settle::Arrived { fee: *fee, preimage: *preimage };
                self.settled(hash, &outcome, "arrived")?;
                Ok(None)
            }
            Event::SendFailed { hash: Some(hash), reason } => {
                self.settled(hash, &Settle::Returned { reason: reason.clone() }, "returned")?;
                Ok(None)
            }
            Event::SendFailed { hash: None, reason } => {
                tracing::warn!(%reason, "a payment without a hash failed");
                Ok(None)
            }
            Event::ChannelPending { channel } | Event::ChannelReady { channel, .. } => {
                self.opened(channel)?;
                Ok(None)
            }
            Event::ChannelClosed { peer, channel, reason } => {
                tracing::warn!(?peer, channel, reason, "a channel closed");
                self.metrics.channel_closed();
                self.store.channel_closed(channel)?;
                Ok(None)
            }
            Event::Forwarded { fee } => {
                let nth = self.forwards.load(Ordering::Relaxed);
                tracing::debug!(fee_msat = fee.get(), "forwarded a payment");
                self.store.book_forward(self.boot, nth, *fee, self.clock.now_ms())?;
                Ok(None)
            }
            Event::Other(what) => {
                tracing::trace!(what, "event");
                Ok(None)
            }
        }
    }

    /// Books a channel's opening balance, once, and before anything is paid over it.
    fn opened(&self, id: &str) -> Result<(), store::Error> {
        let channels = self.node.info().channels;
        let Some(channel) = channels.iter().find(|channel| channel.id == id) else { return Ok(()) };
        let balance = Msat::new(channel.balance_msat);
        let booking = ChannelBooking::Opened { channel: id.to_owned(), balance };
        if self.store.book_channel(&booking, self.clock.now_ms())? {
            tracing::info!(channel = id, balance_msat = balance.get(), "a channel opens");
        }
        Ok(())
    }

    /// Books what closed channels held, until told to end. What that was is the difference between the books and what the other channels hold,
    /// which is true only at rest.
    pub async fn book_closings(self, cancel: CancellationToken) {
        let mut rest = Rest::default();
        while sleep(&cancel, LOOK_EVERY).await {
            if let Err(error) = self.look_at_closings(&mut rest) {
                tracing::error!(%error, "a closed channel could not be booked");
            }
        }
    }

    fn look_at_closings(&self, rest: &mut Rest) -> Result<(), store::Error> {
        let closings = self.store.closings()?;
        if closings.is_empty() {
            *rest = Rest::default();
            return Ok(());
        }
        let channels = self.node.info().channels;
        let mut books = self.store.balance(Account::ChannelFunds)?;
        let sent = self.store.balance(Account::PayoutsInFlight)? == 0;
        let idle = is_idle(&channels, sent);
        let remaining: Vec<_> =
            channels.into_iter().map(|of| (of.id, Msat::new(of.balance_msat))).collect();
        let now = self.clock.now_ms();
        if !rest.holds((remaining.clone(), books), idle, now) {
            return Ok(());
        }
        for channel in closings {
            let remaining = remaining.clone();
            let booking = ChannelBooking::Closed { channel: channel.clone(), remaining, books };
            if !self.store.book_channel(&booking, now)? {
                // Something was booked just now: then it was no rest.
                *rest = Rest::default();
                return Ok(());
            }
            let before = books;
            books = self.store.balance(Account::ChannelFunds)?;
            let gone_msat = before.saturating_sub(books);
            tracing::warn!(channel, gone_msat, "a closed channel is booked");
        }
        Ok(())
    }

    fn received(
        &self,
        payment: IncomingPayment,
        told_before: bool,
    ) -> Result<Option<Wake>, store::Error> {
        let now = self.clock.now_ms();
        let credit = self.store.credit(payment, Origin::Event { told_before }, now)?;
        let session = |session: SessionId| Some(Wake::Session(session));
        let (word, credited, wake) = match &credit {
            Credit::Applied(invoice) | Credit::Overpaid(invoice, _) => {
                let word =
                    if matches!(credit, Credit::Applied(_)) { "applied" } else { "overpaid" };
                if let Some(minted_ms) = invoice.minted_ms {
                    let wait = Duration::from_millis(now.saturating_sub(minted_ms));
                    self.metrics.paid_after(wait);
                }
                let wake = match invoice.purpose {
                    Purpose::Session { session: id, .. } => session(id),
                    Purpose::Segment { .. } => Some(Wake::Payment(payment.hash)),
                };
                (word, payment.received, wake)
            }
            Credit::Replayed => ("replayed", Msat::ZERO, Some(Wake::Payment(payment.hash))),
            Credit::Repeated(of) => ("repeated", payment.received, of.and_then(session)),
            Credit::Unclaimed => ("unclaimed", payment.received, None),
        };
        self.metrics.payment(word);
        self.metrics.credited(credited);
        let (hash, received_msat) = (payment.hash, payment.received.get());
        if matches!(credit, Credit::Applied(_) | Credit::Replayed) {
            tracing::info!(payment_hash = %hash, received_msat, outcome = word, "payment in");
        } else {
            tracing::warn!(payment_hash = %hash, received_msat, outcome = word, "payment in");
        }
        Ok(wake)
    }

    fn settled(
        &self,
        hash: &crate::domain::id::PaymentHash,
        outcome: &Settle,
        word: &'static str,
    ) -> Result<(), store::Error> {
        match self.store.settle(hash, outcome, self.clock.now_ms())? {
            Some(payout) => {
                tracing::info!(payout = %payout.id, outcome = word, "payout ended");
                self.metrics.payout(word);
                self.payouts.notify_one();
            }
            None => {
                tracing::info!(payment_hash = %hash, outcome = word, "a payment of the operator's own")
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rest_is_when_nothing_has_moved_for_ten_seconds() {
        let seen = |balance| (vec![("aa".to_owned(), Msat::new(balance))], 7);
        let mut rest = Rest::default();
        assert!(!rest.holds(seen(1), true, 0));
        assert!(!rest.holds(seen(1), true, 9_999));
        assert!(rest.holds(seen(1), true, 10_000));
        assert!(!rest.holds(seen(2), true, 10_000), "something moved");
        assert!(!rest.holds(seen(2), false, 30_000), "a payout is on its way");
        assert!(!rest.holds(seen(2), true, 30_001));
        assert!(rest.holds(seen(2), true, 40_001));
    }

    #[test]
    fn a_channel_with_something_in_it_or_that_cannot_say_is_no_rest() {
        let channel = |pending_msat, usable| Channel {
            id: "aa".to_owned(),
            peer: crate::domain::id::NodeId::new([2; 33]),
            value_sat: 0,
            outbound_msat: 0,
            inbound_msat: 0,
            balance_msat: 0,
            pending_msat,
            reserve_sat: 0,
            record_bytes: 0,
            ready: true,
            usable,
            announced: false,
        };
        let (says, holds) = (channel(Some(0), false), channel(Some(1), true));
        let (here, away) = (channel(None, true), channel(None, false));
        assert!(is_idle(&[], false) && is_idle(std::slice::from_ref(&says), false));
        assert!(!is_idle(&[says.clone(), holds], true));
        assert!(is_idle(&[says.clone(), here.clone()], true));
        assert!(!is_idle(&[says.clone(), here], false), "what was sent may be in it");
        assert!(!is_idle(&[says, away], true), "a peer that is away may have left something");
    }
}
