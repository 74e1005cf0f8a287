//! What a visit owes, paid and received: the facts from which [`check`] judges the next invoice. Pure.
//!
//! Each invoice is sent once. What may have been paid counts as paid until the contrary is known.

use std::collections::{BTreeSet, HashMap};

use super::check::{Budget, EXPIRY_MARGIN_SECONDS, Standing, Verdict, check, fee_cap, well_formed};
use super::events::{Event, Offer};
use super::tariff::{Tariff, Watched, add};
use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, Preimage, SegmentNumber};

/// Invoices that do not stand the check, before the server is left: an honest one has none.
const REFUSED_MAX: u32 = 8;
/// Invoices that may wait: a window's, and those that were open when the stream broke.
const QUEUED_MAX: usize = 256;
/// Invoices in all: each segment some times over, after seeks and failures.
const BILLS_PER_SEGMENT_MAX: usize = 4;
/// Fees above the cap, before the wallet is no longer used: it does not keep to the cap, or cannot be told it.
const DEAR_MAX: u32 = 2;
const MINUTE_MS: u64 = 60_000;

/// How far an invoice has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// Not looked at, or has to wait.
    Queued,
    /// Not paid and never will be: refused, too old, or paid by somebody else.
    Dropped,
    /// With the wallet, or of unknown outcome.
    Paying,
    /// Failed for good.
    Failed,
    /// Paid.
    Paid,
}

/// An invoice and what became of it.
pub(super) struct Bill {
    pub(super) offer: Offer,
    pub(super) state: State,
    /// Where the wallet tells.
    pub(super) fee: Option<Msat>,
    /// The proof, where the wallet gave one.
    pub(super) preimage: Option<Preimage>,
    sent_ms: u64,
    /// The server says that it has the money.
    pub(super) settled: bool,
    amount: Msat,
}

impl Bill {
    /// What it cost, or may cost: a fee that is not known counts as its cap, or as the dearest that the wallet has told.
    fn cost(&self, dearest_fee: Msat) -> (Msat, Msat) {
        let at_most = fee_cap(self.amount).max(dearest_fee);
        match self.state {
            State::Paid => (self.amount, self.fee.unwrap_or(at_most)),
            State::Paying => (self.amount, at_most),
            State::Queued | State::Dropped | State::Failed => (Msat::ZERO, Msat::ZERO),
        }
    }
}

/// An invoice that is to be paid now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Payable {
    pub(super) bolt11: String,
    pub(super) hash: PaymentHash,
    pub(super) amount: Msat,
    pub(super) fee_max: Msat,
    pub(super) expires_at: u64,
    pub(super) segments: Vec<SegmentNumber>,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Nothing is asked.
    Nothing,
    /// What is asked has to wait, and why.
    Wait(&'static str),
    /// Pay this; it counts as sent from now on.
    Pay(Payable),
    /// The budget does not allow it.
    Spent(String),
    /// The server lies.
    Lied(String),
}

/// The sums of a visit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Invoices paid.
    pub payments: u32,
    /// What they asked.
    pub paid: Msat,
    /// Their fees, as far as the wallet tells.
    pub fees: Msat,
    /// Payments that are under way.
    pub under_way: u32,
    /// What may still be spent: fees that are not known count as their caps.
    pub left: Msat,
    /// Segments that arrived.
    pub arrived: u32,
    /// The segment that arrived last.
    pub position: u32,
    /// How long was watched, in milliseconds.
    pub watched_ms: u64,
}

/// The account of a visit.
pub(super) struct Account {
    tariff: Tariff,
    budget: Budget,
    bills: Vec<Bill>,
    known: HashMap<PaymentHash, usize>,
    served: BTreeSet<SegmentNumber>,
    arrived: BTreeSet<SegmentNumber>,
    arrived_worth: Msat,
    last: Option<SegmentNumber>,
    /// What is served is worth this much.
    served_worth: Msat,
    /// Invoices that nobody will pay, and the server does not know yet.
    stale: Vec<PaymentHash>,
    /// Paid segments whose bytes were asked for and did not come.
    broken: BTreeSet<SegmentNumber>,
    /// After a seek, the segment that plays next: what lies elsewhere is not paid.
    position: Option<SegmentNumber>,
    watched: Watched,
    /// The dearest fee that the wallet has told, and how many were above their caps.
    dearest_fee: Msat,
    dear: u32,
    refused: u32,
    /// An invoice has stood the check, which also shows that this machine's clock is right.
    clock_is_right: bool,
}

impl Account {
    pub(super) fn new(tariff: Tariff, budget: Budget, now_ms: u64) -> Self {
        Self {
            tariff,
            budget,
            bills: Vec::new(),
            known: HashMap::new(),
            served: BTreeSet::new(),
            arrived: BTreeSet::new(),
            arrived_worth: Msat::ZERO,
            last: None,
            served_worth: Msat::ZERO,
            stale: Vec::new(),
            broken: BTreeSet::new(),
            position: None,
            watched: Watched::new(now_ms),
            dearest_fee: Msat::ZERO,
            dear: 0,
            refused: 0,
            clock_is_right: false,
        }
    }

    pub(super) const fn tariff(&self) -> &Tariff {
        &self.tariff
    }

    pub(super) fn bills(&self) -> &[Bill] {
        &self.bills
    }

    pub(super) fn bill(&self, hash: &PaymentHash) -> Option<&Bill> {
        self.known.get(hash).and_then(|at| self.bills.get(*at))
    }

    fn bill_mut(&mut self, hash: &PaymentHash) -> Option<&mut Bill> {
        self.known.get(hash).and_then(|at| self.bills.get_mut(*at))
    }

    /// The server tells. An invoice that is known already changes nothing: open ones are sent again after a reconnection.
    ///
    /// # Errors
    /// A sentence where it tells more than any honest server.
    pub(super) fn told(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::Invoice(offer) => self.offered(offer)?,
            Event::Paid(hash) => self.settled(&hash),
            Event::Served(n) => {
                self.goes_out(n);
                if self.position.is_some() {
                    self.position = Some(SegmentNumber(n.0.saturating_add(1)));
                }
            }
            Event::Seek(n) => self.position = Some(n),
            Event::Waiting(_) | Event::End => {}
        }
        Ok(())
    }

    /// A segment is served, by the server's word or by its bytes.
    fn goes_out(&mut self, n: SegmentNumber) {
        // What this film does not have takes no room.
        let Some(price) = self.tariff.price_of(n) else { return };
        if !self.served.insert(n) {
            return;
        }
        self.served_worth = add(self.served_worth, price);
        // Nobody needs these any more; a bundle's other segments need an invoice of their own.
        let queued = |bill: &&mut Bill| bill.state == State::Queued;
        for bill in self.bills.iter_mut().filter(queued) {
            if bill.offer.segments.contains(&n) {
                bill.state = State::Dropped;
                self.stale.push(bill.offer.payment_hash);
            }
        }
    }

    /// Invoices that nobody will pay, for the server to replace; each once.
    pub(super) fn take_stale(&mut self) -> Vec<PaymentHash> {
        std::mem::take(&mut self.stale)
    }

    fn offered(&mut self, offer: Offer) -> Result<(), String> {
        if self.known.contains_key(&offer.payment_hash) {
            return Ok(());
        }
        well_formed(&offer, &self.tariff)?;
        let queued = self.bills.iter().filter(|bill| bill.state == State::Queued).count();
        let segments = usize::try_from(self.tariff.timeline.segments()).unwrap_or(usize::MAX);
        let most = segments.saturating_mul(BILLS_PER_SEGMENT_MAX).saturating_add(QUEUED_MAX);
        if queued >= QUEUED_MAX || self.bills.len() >= most {
            return Err("the server opens more invoices than a session has".to_owned());
        }
        self.known.insert(offer.payment_hash, self.bills.len());
        self.bills.push(Bill {
            amount: offer.amount_msat,
            offer,
            state: State::Queued,
            fee: None,
            preimage: None,
            sent_ms: 0,
            settled: false,
        });
        Ok(())
    }

    fn settled(&mut self, hash: &PaymentHash) {
        let Some(bill) = self.bill_mut(hash) else { return };
        match bill.state {
            // Somebody else paid it.
            State::Queued => bill.state = State::Dropped,
            State::Paying => bill.settled = true,
            // It was believed to have failed, and arrived.
            State::Failed => self.paid(hash, None, None),
            State::Dropped | State::Paid => {}
        }
    }

    /// The first invoice that stands the check; those that do not are refused, those that must wait stay.
    pub(super) fn next(&mut self, now_ms: u64) -> Next {
        let mut wait = None;
        for at in 0..self.bills.len() {
            let Some(bill) = self.bills.get(at).filter(|bill| bill.state == State::Queued) else {
                continue;
            };
            if !self.wanted(&bill.offer) {
                continue;
            }
            // Once the clock is known to be right, an invoice that is too old is nobody's fault.
            let soon = (now_ms / 1_000).saturating_add(EXPIRY_MARGIN_SECONDS);
            let too_old = self.clock_is_right && bill.offer.expires_at <= soon;
            let verdict = if too_old {
                None
            } else {
                let standing = self.standing(at, now_ms);
                Some(check(&bill.offer, &self.tariff, &standing, self.budget))
            };
            let Some(bill) = self.bills.get_mut(at) else { continue };
            match verdict {
                None => bill.state = State::Dropped,
                Some(Verdict::Refuse(words)) => {
                    bill.state = State::Dropped;
                    self.refused = self.refused.saturating_add(1);
                    tracing::warn!(reason = words, "an invoice was refused");
                    if self.refused >= REFUSED_MAX || !self.clock_is_right {
                        return Next::Lied(words);
                    }
                }
                Some(Verdict::Later) => {}
                Some(Verdict::Wait(words)) => {
                    wait = Some(words);
                    break;
                }
                Some(Verdict::Spent(words)) => return Next::Spent(words),
                Some(Verdict::Pay(facts, fee_max)) => {
                    self.clock_is_right = true;
                    (bill.state, bill.sent_ms) = (State::Paying, now_ms);
                    return Next::Pay(Payable {
                        bolt11: bill.offer.invoice.clone(),
                        hash: facts.hash,
                        amount: bill.amount,
                        fee_max,
                        expires_at: facts.expires_at,
                        segments: bill.offer.segments.clone(),
                    });
                }
            }
        }
        wait.map_or(Next::Nothing, Next::Wait)
    }

    fn wanted(&self, offer: &Offer) -> bool {
        let Some(from) = self.position else { return true };
        let reach = from.0.saturating_add(self.tariff.reach());
        offer.segments.iter().any(|n| (from.0..reach).contains(&n.0))
    }

    fn standing(&self, of: usize, now_ms: u64) -> Standing {
        let mut standing = Standing {
            now_s: now_ms / 1_000,
            watched_ms: self.watched.until(now_ms),
            served: self.served.clone(),
            open: self.covered(),
            dearest_fee: self.dearest_fee,
            ..Standing::default()
        };
        let mut paid = Msat::ZERO;
        for (at, bill) in self.bills.iter().enumerate() {
            if at == of {
                continue;
            }
            let (asked, fee) = bill.cost(self.dearest_fee);
            standing.asked = add(standing.asked, asked);
            standing.fees = add(standing.fees, fee);
            if bill.sent_ms.saturating_add(MINUTE_MS) > now_ms {
                standing.last_minute = add(standing.last_minute, add(asked, fee));
            }
            if bill.state == State::Paid {
                paid = add(paid, bill.amount);
            }
            // Of two invoices for one segment the first stands, so only queued ones before this one count.
            let before = at < of && bill.state == State::Queued;
            let payable = before && bill.offer.expires_at > standing.now_s;
            if payable || bill.state == State::Paying {
                standing.open.extend(&bill.offer.segments);
            }
        }
        standing.undelivered = paid.saturating_sub(self.arrived_worth);
        standing
    }

    /// It was paid. The amount is the invoice's, which was checked; of the wallet's answer only the fee and the proof are news.
    pub(super) fn paid(
        &mut self,
        hash: &PaymentHash,
        fee: Option<Msat>,
        preimage: Option<Preimage>,
    ) {
        let Some(bill) = self.bill_mut(hash) else { return };
        (bill.state, bill.fee, bill.preimage) = (State::Paid, fee, preimage);
        let cap = fee_cap(bill.amount);
        let fee = fee.unwrap_or_default();
        self.dearest_fee = self.dearest_fee.max(fee);
        self.dear = self.dear.saturating_add(u32::from(fee > cap));
    }

    /// Whether fees were above their caps so often that it was no accident; then the dearest of them.
    pub(super) fn too_dear(&self) -> Option<Msat> {
        (self.dear >= DEAR_MAX).then_some(self.dearest_fee)
    }

    /// It failed for good: nothing was and will be sent for it.
    pub(super) fn failed(&mut self, hash: &PaymentHash) {
        if let Some(bill) = self.bill_mut(hash) {
            bill.state = State::Failed;
        }
    }

    /// The player waits for a segment. It plays next, whatever was believed: a stream that broke may have left out where the viewer is.
    pub(super) fn awaited(&mut self, n: SegmentNumber, now_ms: u64) {
        self.watched.touch(now_ms);
        let Some(from) = self.position else { return };
        let reach = from.0.saturating_add(self.tariff.reach());
        if !(from.0..reach).contains(&n.0) && !self.arrived.contains(&n) {
            self.position = Some(n);
        }
    }

    /// Whether a segment is paid.
    pub(super) fn covers(&self, n: SegmentNumber) -> bool {
        self.covered().contains(&n)
    }

    /// The segments that the money which is paid and not drawn is there for. The server draws it for whatever plays next, not for what its
    /// invoices had planned: after a jump, or where one of several payments failed or is slow, those are others.
    fn covered(&self) -> BTreeSet<SegmentNumber> {
        let mut credit = Msat::ZERO;
        for bill in &self.bills {
            match bill.state {
                State::Paid => credit = add(credit, bill.amount),
                // Its segment went out already, drawn from what was paid for another: this money will be there for that one.
                State::Paying => {
                    let served = bill.offer.segments.iter().filter(|n| self.served.contains(n));
                    let prices = served.filter_map(|n| self.tariff.price_of(*n));
                    credit = add(credit, prices.fold(Msat::ZERO, add));
                }
                State::Queued | State::Dropped | State::Failed => {}
            }
        }
        credit = credit.saturating_sub(self.served_worth);
        let after = |n: SegmentNumber| SegmentNumber(n.0.saturating_add(1));
        let next = self.served.last().copied().map(after);
        let mut n = self.position.or(next).unwrap_or(SegmentNumber(0));
        let mut covered = BTreeSet::new();
        while let Some(price) = self.tariff.price_of(n) {
            if !price.is_zero() && !self.served.contains(&n) {
                let Some(rest) = credit.checked_sub(price) else { break };
                credit = rest;
                covered.insert(n);
            }
            n = after(n);
        }
        covered
    }

    /// Whether a payment for a segment is under way.
    pub(super) fn pays(&self, n: SegmentNumber) -> bool {
        let paying = |bill: &&Bill| bill.state == State::Paying;
        self.bills.iter().filter(paying).any(|bill| bill.offer.segments.contains(&n))
    }

    /// Whether a segment's bytes have been here.
    pub(super) fn came(&self, n: SegmentNumber) -> bool {
        self.arrived.contains(&n)
    }

    /// A segment's valid bytes are here.
    pub(super) fn arrived(&mut self, n: SegmentNumber, now_ms: u64) {
        self.watched.touch(now_ms);
        self.broken.remove(&n);
        self.last = Some(n);
        self.goes_out(n);
        if self.arrived.insert(n) {
            let worth = self.tariff.price_of(n).unwrap_or_default();
            self.arrived_worth = add(self.arrived_worth, worth);
        }
    }

    /// A paid segment was asked for and its bytes did not come, or are none of a film.
    ///
    /// # Errors
    /// A sentence where that are too many.
    pub(super) fn broke(&mut self, n: SegmentNumber) -> Result<(), String> {
        if !self.arrived.contains(&n) {
            self.broken.insert(n);
        }
        if self.broken.len() < usize::from(self.tariff.ahead) {
            return Ok(());
        }
        Err(format!("{} segments are paid for and came without valid bytes", self.broken.len()))
    }

    /// Whether every segment of the film came.
    pub(super) fn has_all(&self) -> bool {
        self.arrived.len() >= usize::try_from(self.tariff.timeline.segments()).unwrap_or(usize::MAX)
    }

    pub(super) fn totals(&self, now_ms: u64) -> Totals {
        let mut totals = Totals {
            watched_ms: self.watched.until(now_ms),
            arrived: u32::try_from(self.arrived.len()).unwrap_or(u32::MAX),
            position: self.last.map_or(0, |last| last.0),
            ..Totals::default()
        };
        let mut committed = Msat::ZERO;
        for bill in &self.bills {
            let (asked, fee) = bill.cost(self.dearest_fee);
            committed = add(committed, add(asked, fee));
            match bill.state {
                State::Paid => {
                    totals.payments = totals.payments.saturating_add(1);
                    totals.paid = add(totals.paid, bill.amount);
                    totals.fees = add(totals.fees, bill.fee.unwrap_or_default());
                }
                State::Paying => totals.under_way = totals.under_way.saturating_add(1),
                State::Queued | State::Dropped | State::Failed => {}
            }
        }
        totals.left = self.budget.max.saturating_sub(committed);
        totals
    }
}

#[cfg(test)]
#[path = "account_tests.rs"]
mod tests;
