//! Whether to pay an invoice: PROTOCOL.md, "What a paying client checks before it pays". Pure: the caller says what is known and what
//! time it is, and acts on the verdict. The watch page's `web/src/check.ts` decides the same.

use std::collections::BTreeSet;

use super::events::Offer;
use super::receipt::sat;
use super::tariff::{Tariff, add, times};
use crate::domain::amount::Msat;
use crate::domain::id::SegmentNumber;
use crate::lightning::bolt11::{self, Facts};

/// An invoice this close to its expiry is not paid: the payment could arrive too late.
pub(super) const EXPIRY_MARGIN_SECONDS: u64 = 5;
/// The longest text that LDK reads as an invoice: what fits in a QR code.
const INVOICE_BYTES_MAX: usize = 7_089;
/// A route may cost a twentieth of the amount, or this much on amounts so small that a base fee dominates.
const FEE_FLOOR: Msat = Msat::new(2_000);
const FEE_DIVISOR: u64 = 20;

/// What the viewer allows, fees included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Budget {
    /// In all.
    pub(super) max: Msat,
    /// In any sixty seconds.
    pub(super) max_per_minute: Option<Msat>,
}

/// What is known when an invoice is held against it.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// The time.
    pub(super) now_s: u64,
    /// How long was watched.
    pub(super) watched_ms: u64,
    /// What was paid or may have been, without fees.
    pub(super) asked: Msat,
    /// Its fees; where one is not known, its cap.
    pub(super) fees: Msat,
    /// The dearest fee that the wallet has told: the next may be as dear, whatever its cap.
    pub(super) dearest_fee: Msat,
    /// What was sent in the last sixty seconds, fees included.
    pub(super) last_minute: Msat,
    /// Paid for segments whose bytes have not come.
    pub(super) undelivered: Msat,
    /// Segments that came.
    pub(super) served: BTreeSet<SegmentNumber>,
    /// Segments that are paid, or in other invoices that are open and not reported failed.
    pub(super) open: BTreeSet<SegmentNumber>,
}

/// What to do with an invoice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Pay it, for this fee at most.
    Pay(Facts, Msat),
    /// Not yet, and nothing else before it.
    Wait(&'static str),
    /// Perhaps later: its segment is paid, or in another open invoice. The server may have spent that money on another segment, and the
    /// other payment may fail.
    Later,
    /// Never: the server asks for what it must not.
    Refuse(String),
    /// It would exceed the budget.
    Spent(String),
}

/// The most that a route may cost for an amount.
pub(super) fn fee_cap(amount: Msat) -> Msat {
    FEE_FLOOR.max(Msat::new(amount.get() / FEE_DIVISOR))
}

/// Holds an invoice against the terms, what is known, and the budget.
pub(super) fn check(
    offer: &Offer,
    tariff: &Tariff,
    standing: &Standing,
    budget: Budget,
) -> Verdict {
    let facts = match bolt11::facts(&offer.invoice) {
        Ok(facts) => facts,
        Err(error) => return Verdict::Refuse(format!("the invoice cannot be read: {error}")),
    };
    let amount = match against_invoice(&facts, offer, tariff, standing) {
        Ok(amount) => amount,
        Err(words) => return Verdict::Refuse(words.to_owned()),
    };
    match against_segments(amount, offer, tariff, standing) {
        Ok(()) if offer.segments.iter().any(|n| standing.open.contains(n)) => Verdict::Later,
        Ok(()) => within_budget(facts, amount, tariff, standing, budget),
        Err(words) => Verdict::Refuse(words),
    }
}

fn against_invoice(
    facts: &Facts,
    offer: &Offer,
    tariff: &Tariff,
    standing: &Standing,
) -> Result<Msat, &'static str> {
    let sure = |holds: bool, words| if holds { Ok(()) } else { Err(words) };
    sure(facts.network == Some(tariff.network), "the invoice is for another network")?;
    sure(facts.payee == tariff.payee, "the invoice is not signed by this server's node")?;
    sure(facts.hash == offer.payment_hash, "the invoice has another payment hash than announced")?;
    let soon = standing.now_s.saturating_add(EXPIRY_MARGIN_SECONDS);
    sure(soon < facts.expires_at, "the invoice has expired (or this machine's clock is wrong)")?;
    sure(
        facts.expires_at == offer.expires_at,
        "the invoice expires at another time than announced",
    )?;
    let amount = facts.amount.filter(|amount| !amount.is_zero());
    let amount = amount.ok_or("the invoice names no amount")?;
    sure(amount == offer.amount_msat, "the invoice asks for another amount than announced")?;
    sure(facts.hint_fee <= fee_cap(amount), "the invoice's route costs too much in fees")?;
    Ok(amount)
}

/// Whether an offer is of a size and for segments that it may be for, before any of it is kept: what a server tells takes bounded room.
///
/// # Errors
/// What is wrong with it.
pub(super) fn well_formed(offer: &Offer, tariff: &Tariff) -> Result<(), String> {
    if offer.invoice.len() > INVOICE_BYTES_MAX {
        return Err("the invoice is longer than any".to_owned());
    }
    if offer.segments.is_empty() {
        return Err("the invoice is for no segment".to_owned());
    }
    if offer.segments.len() > usize::from(tariff.bundle) {
        return Err("the invoice is for more segments than a bundle has".to_owned());
    }
    let all: BTreeSet<_> = offer.segments.iter().collect();
    if all.len() != offer.segments.len() {
        return Err("the invoice counts a segment twice".to_owned());
    }
    let unknown = offer.segments.iter().find(|n| tariff.timeline.span(**n).is_none());
    unknown.map_or(Ok(()), |n| {
        Err(format!("the invoice is for segment {n}, which this film does not have"))
    })
}

fn against_segments(
    amount: Msat,
    offer: &Offer,
    tariff: &Tariff,
    standing: &Standing,
) -> Result<(), String> {
    well_formed(offer, tariff)?;
    let mut owed = Msat::ZERO;
    for n in offer.segments.iter().copied() {
        match tariff.price_of(n) {
            None => {
                return Err(format!(
                    "the invoice is for segment {n}, which this film does not have"
                ));
            }
            Some(Msat::ZERO) => {
                return Err(format!("the invoice is for segment {n}, which is free"));
            }
            Some(price) => owed = add(owed, price),
        }
        if standing.served.contains(&n) {
            return Err(format!("the invoice is for segment {n}, which was already delivered"));
        }
    }
    if amount == owed {
        return Ok(());
    }
    Err(format!("the invoice asks for {}; by the agreed price it is {}", sat(amount), sat(owed)))
}

fn within_budget(
    facts: Facts,
    amount: Msat,
    tariff: &Tariff,
    standing: &Standing,
    budget: Budget,
) -> Verdict {
    let fee_max = fee_cap(amount);
    // A wallet that cannot be told the cap may exceed it again.
    let fee = fee_max.max(standing.dearest_fee);
    let with_fee = add(amount, fee);
    if add(add(standing.asked, standing.fees), with_fee) > budget.max {
        let left = budget.max.saturating_sub(add(standing.asked, standing.fees));
        return Verdict::Spent(format!(
            "the next segment costs {} and up to {} in fees; {} of the budget is left",
            sat(amount),
            sat(fee),
            sat(left)
        ));
    }
    if let Some(max) = budget.max_per_minute {
        if with_fee > max {
            return Verdict::Spent(format!(
                "one segment costs {} and up to {} in fees, more than a minute may cost",
                sat(amount),
                sat(fee)
            ));
        }
        if add(standing.last_minute, with_fee) > max {
            return Verdict::Wait("paying waits: this minute's budget is used up");
        }
    }
    let pace = add(times(tariff.of_time(standing.watched_ms), 2), tariff.window());
    if add(standing.asked, amount) > pace {
        return Verdict::Wait("paying waits: the server asks for more than was watched so far");
    }
    // One segment more than the window, because the next invoice comes when the first byte of a segment went out, and its last is still
    // on its way then.
    let underway = add(tariff.window(), tariff.dearest());
    if add(standing.undelivered, amount) > underway {
        return Verdict::Wait("paying waits: segments that are paid for have not arrived yet");
    }
    Verdict::Pay(facts, fee_max)
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
