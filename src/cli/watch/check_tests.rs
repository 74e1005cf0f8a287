//! Each lie of a server, told to the check; and that no sequence of invoices gets more money than was agreed.

use std::time::Duration;

use proptest::prelude::*;

use super::super::tariff::tests::tariff;
use super::*;
use crate::lightning::fake::FakeNode;
use crate::lightning::{Issuer as _, Network};

const NOW: u64 = 1_800_000_000;
const BUDGET: Budget = Budget { max: Msat::new(100_000), max_per_minute: None };

fn node(tag: u8) -> FakeNode {
    let node = FakeNode::numbered(Network::Regtest, tag).unwrap();
    node.set_time(NOW);
    node
}

fn invoice(node: &FakeNode, segments: &[u32], amount_msat: u64) -> Offer {
    let amount = Msat::new(amount_msat);
    let minted = node.mint(amount, Duration::from_secs(600)).unwrap();
    Offer {
        segments: segments.iter().copied().map(SegmentNumber).collect(),
        amount_msat: amount,
        invoice: minted.bolt11,
        payment_hash: minted.hash,
        expires_at: minted.expires_at,
    }
}

fn terms(node: &FakeNode) -> Tariff {
    Tariff { payee: node.node_id(), ..tariff() }
}

fn standing() -> Standing {
    Standing { now_s: NOW, ..Standing::default() }
}

fn set(numbers: &[u32]) -> BTreeSet<SegmentNumber> {
    numbers.iter().copied().map(SegmentNumber).collect()
}

#[track_caller]
fn refused(verdict: Verdict, why: &str) {
    match verdict {
        Verdict::Refuse(words) => assert!(words.contains(why), "{words}"),
        other => panic!("{why}: {other:?}"),
    }
}

#[test]
fn an_honest_invoice_is_paid_for_a_capped_fee() {
    let node = node(1);
    let verdict = check(&invoice(&node, &[1], 2_000), &terms(&node), &standing(), BUDGET);
    assert!(matches!(verdict, Verdict::Pay(_, fee) if fee == Msat::new(2_000)), "{verdict:?}");
}

#[test]
fn an_invoice_by_another_node_or_for_another_network_is_refused() {
    let (node, other) = (node(1), node(2));
    let offer = invoice(&other, &[1], 2_000);
    refused(check(&offer, &terms(&node), &standing(), BUDGET), "not signed by this server's node");
    let offer = invoice(&node, &[1], 2_000);
    let mainnet = Tariff { network: Network::Mainnet, ..terms(&node) };
    refused(check(&offer, &mainnet, &standing(), BUDGET), "another network");
}

#[test]
fn an_amount_that_is_off_by_one_is_refused_whatever_is_announced() {
    let node = node(1);
    for amount in [1_999, 2_001, 1, 4_000] {
        let offer = invoice(&node, &[1], amount);
        refused(check(&offer, &terms(&node), &standing(), BUDGET), "by the agreed price");
    }
    let offer = Offer { amount_msat: Msat::new(2_000), ..invoice(&node, &[1], 2_001) };
    refused(check(&offer, &terms(&node), &standing(), BUDGET), "another amount than announced");
    // A price that was raised since shows as an amount that is not the agreed one.
    let dearer = Tariff { msat_per_second: 501, ..terms(&node) };
    let raised = dearer.price_of(SegmentNumber(2)).unwrap().get();
    let cheaper = Tariff { msat_per_second: 250, ..terms(&node) };
    let offer = invoice(&node, &[2], raised);
    refused(check(&offer, &cheaper, &standing(), BUDGET), "by the agreed price");
}

#[test]
fn an_invoice_without_an_amount_or_over_nothing_is_refused() {
    let node = node(1);
    // The amount is a part of what is signed: one without it is another node's, or made by hand.
    let offer = invoice(&node, &[1], 2_000);
    let facts = bolt11::facts(&offer.invoice).unwrap();
    for amount in [None, Some(Msat::ZERO)] {
        let facts = Facts { amount, ..facts.clone() };
        let words = against_invoice(&facts, &offer, &terms(&node), &standing()).unwrap_err();
        assert!(words.contains("names no amount"), "{words}");
    }
}

#[test]
fn an_expired_invoice_or_one_with_other_facts_than_announced_is_refused() {
    let node = node(1);
    let offer = invoice(&node, &[1], 2_000);
    let late = |s| Standing { now_s: NOW + s, ..standing() };
    assert!(matches!(check(&offer, &terms(&node), &late(594), BUDGET), Verdict::Pay(..)));
    for s in [595, 600, 100_000] {
        refused(check(&offer, &terms(&node), &late(s), BUDGET), "expired");
    }
    let other = Offer { expires_at: offer.expires_at + 1, ..offer.clone() };
    refused(check(&other, &terms(&node), &standing(), BUDGET), "another time than announced");
    let hash = invoice(&node, &[1], 2_000).payment_hash;
    let other = Offer { payment_hash: hash, ..offer.clone() };
    refused(check(&other, &terms(&node), &standing(), BUDGET), "another payment hash");
    let other = Offer { invoice: "lnbcrt1".to_owned(), ..offer };
    refused(check(&other, &terms(&node), &standing(), BUDGET), "cannot be read");
}

#[test]
fn no_segment_is_paid_that_is_free_missing_doubled_served_or_paid_already() {
    let node = node(1);
    let bundled = Tariff { bundle: 3, ..terms(&node) };
    for (segments, amount, why) in [
        (&[][..], 2_000, "no segment"),
        (&[0], 2_000, "free"),
        (&[10], 2_000, "does not have"),
        (&[u32::MAX], 2_000, "does not have"),
        (&[1, 1], 4_000, "twice"),
        (&[1, 2, 3, 4], 8_000, "more segments than a bundle"),
        (&[5, 6], 4_000, "already delivered"),
        (&[4, 5], 4_000, "already delivered"),
    ] {
        let standing = Standing { served: set(&[5]), open: set(&[7]), ..standing() };
        let offer = invoice(&node, segments, amount);
        refused(check(&offer, &bundled, &standing, BUDGET), why);
    }
    let standing = Standing { open: set(&[7]), ..standing() };
    for segments in [&[7][..], &[6, 7]] {
        let offer = invoice(&node, segments, 2_000 * segments.len() as u64);
        assert_eq!(check(&offer, &bundled, &standing, BUDGET), Verdict::Later);
    }
}

#[test]
fn no_more_is_paid_than_twice_what_was_watched_and_a_window() {
    let node = node(1);
    let offer = invoice(&node, &[4], 2_000);
    let at = |watched_ms, asked| Standing { watched_ms, asked: Msat::new(asked), ..standing() };
    let verdict = |standing: Standing| check(&offer, &terms(&node), &standing, BUDGET);
    assert!(matches!(verdict(at(0, 4_000)), Verdict::Pay(..)), "a window of three");
    assert!(matches!(verdict(at(0, 4_001)), Verdict::Wait(_)));
    assert!(matches!(verdict(at(1_999, 6_000)), Verdict::Wait(_)));
    assert!(matches!(verdict(at(2_000, 6_000)), Verdict::Pay(..)), "2 s at twice the speed");
    let undelivered = Standing { undelivered: Msat::new(6_001), ..at(100_000, 0) };
    assert!(matches!(verdict(undelivered), Verdict::Wait(_)));
}

#[test]
fn budgets_hold_fees_included() {
    let node = node(1);
    let offer = invoice(&node, &[1], 2_000);
    let with = |max, max_per_minute: Option<u64>, standing: Standing| {
        let budget = Budget { max: Msat::new(max), max_per_minute: max_per_minute.map(Msat::new) };
        check(&offer, &terms(&node), &standing, budget)
    };
    assert!(matches!(with(4_000, None, standing()), Verdict::Pay(..)));
    assert!(matches!(with(3_999, None, standing()), Verdict::Spent(_)));
    let spent = |asked, fees, last_minute| Standing {
        watched_ms: 60_000,
        asked: Msat::new(asked),
        fees: Msat::new(fees),
        last_minute: Msat::new(last_minute),
        ..standing()
    };
    assert!(matches!(with(10_000, None, spent(4_000, 2_000, 0)), Verdict::Pay(..)));
    assert!(matches!(with(10_000, None, spent(4_000, 2_001, 0)), Verdict::Spent(_)));
    assert!(matches!(with(100_000, Some(10_000), spent(0, 0, 6_000)), Verdict::Pay(..)));
    assert!(matches!(with(100_000, Some(10_000), spent(0, 0, 6_001)), Verdict::Wait(_)));
    assert!(matches!(with(100_000, Some(3_999), standing()), Verdict::Spent(_)));
    assert!(matches!(
        with(u64::MAX, None, spent(u64::MAX, u64::MAX, 0)),
        Verdict::Spent(_) | Verdict::Wait(_)
    ));
}

#[test]
fn a_route_hint_that_costs_more_than_the_cap_is_refused() {
    let node = node(1);
    let offer = invoice(&node, &[1], 2_000);
    let facts = bolt11::facts(&offer.invoice).unwrap();
    let with = |fee| Facts { hint_fee: Msat::new(fee), ..facts.clone() };
    assert!(against_invoice(&with(2_000), &offer, &terms(&node), &standing()).is_ok());
    let words = against_invoice(&with(2_001), &offer, &terms(&node), &standing()).unwrap_err();
    assert!(words.contains("fees"), "{words}");
}

proptest! {
    /// Whatever is asked, in whatever standing: what is paid keeps every bound.
    #[test]
    fn nothing_is_paid_beyond_the_price_the_pace_and_the_budget(
        segments in prop::collection::vec(0_u32..12, 0..4),
        off in -1_i64..=1,
        asked in 0_u64..30_000,
        fees in 0_u64..5_000,
        watched_ms in 0_u64..60_000,
        max in 0_u64..60_000,
        served in prop::collection::btree_set(0_u32..12, 0..4),
        open in prop::collection::btree_set(0_u32..12, 0..4),
    ) {
        let node = node(1);
        let terms = Tariff { bundle: 3, ..terms(&node) };
        let owed: u64 = segments.iter()
            .map(|n| terms.price_of(SegmentNumber(*n)).unwrap_or_default().get()).sum();
        let amount = owed.saturating_add_signed(off).max(1);
        let set = |of: std::collections::BTreeSet<u32>| of.into_iter().map(SegmentNumber).collect();
        let standing = Standing {
            watched_ms, asked: Msat::new(asked), fees: Msat::new(fees),
            served: set(served.clone()), open: set(open.clone()), ..standing()
        };
        let budget = Budget { max: Msat::new(max), max_per_minute: None };
        if let Verdict::Pay(facts, fee_max) = check(&invoice(&node, &segments, amount), &terms, &standing, budget) {
            prop_assert_eq!(facts.amount, Some(Msat::new(owed)));
            prop_assert!(owed > 0);
            prop_assert!(asked + fees + owed + fee_max.get() <= max);
            prop_assert!(asked + owed <= 2 * watched_ms * 500 / 1_000 + 3 * 2_000);
            prop_assert!(segments.iter().all(|n| !served.contains(n) && !open.contains(n)));
        }
    }
}
