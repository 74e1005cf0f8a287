//! What a server can make an account pay, over a whole visit: replays, doubles, floods, seeks, silence.

use std::time::Duration;

use proptest::prelude::*;

use super::super::tariff::tests::tariff;
use super::*;
use crate::lightning::fake::FakeNode;
use crate::lightning::{Issuer as _, Network};

const NOW_MS: u64 = 1_800_000_000_000;

struct Visit {
    node: FakeNode,
    account: Account,
    now_ms: u64,
}

impl Visit {
    fn new(max_msat: u64) -> Self {
        let node = FakeNode::new(Network::Regtest).unwrap();
        node.set_time(NOW_MS / 1_000);
        let terms = Tariff { payee: node.node_id(), ..tariff() };
        let budget = Budget { max: Msat::new(max_msat), max_per_minute: None };
        Self { account: Account::new(terms, budget, NOW_MS), node, now_ms: NOW_MS }
    }

    fn offer(&self, segment: u32, amount_msat: u64) -> Offer {
        let amount = Msat::new(amount_msat);
        let minted = self.node.mint(amount, Duration::from_secs(600)).unwrap();
        Offer {
            segments: vec![SegmentNumber(segment)],
            amount_msat: amount,
            invoice: minted.bolt11,
            payment_hash: minted.hash,
            expires_at: minted.expires_at,
        }
    }

    fn told(&mut self, event: Event) {
        self.account.told(event).unwrap();
    }

    fn next(&mut self) -> Next {
        self.account.next(self.now_ms)
    }

    #[track_caller]
    fn pays(&mut self, offer: &Offer) -> Payable {
        match self.next() {
            Next::Pay(payable) if payable.hash == offer.payment_hash => payable,
            other => panic!("{other:?}"),
        }
    }

    fn paid(&mut self, offer: &Offer) {
        self.account.paid(&offer.payment_hash, Some(Msat::ZERO), None);
    }
}

#[test]
fn an_invoice_is_paid_once_however_often_it_is_told() {
    let mut visit = Visit::new(100_000);
    let offer = visit.offer(1, 2_000);
    for _ in 0..3 {
        visit.told(Event::Invoice(offer.clone()));
    }
    visit.pays(&offer);
    visit.told(Event::Invoice(offer.clone()));
    assert_eq!(visit.next(), Next::Nothing, "under way");
    visit.paid(&offer);
    visit.told(Event::Invoice(offer.clone()));
    assert_eq!(visit.next(), Next::Nothing, "paid");
    assert_eq!(visit.account.totals(NOW_MS).paid, Msat::new(2_000));
}

#[test]
fn a_second_invoice_for_a_segment_waits_until_the_first_failed_for_good() {
    let mut visit = Visit::new(100_000);
    let (first, second) = (visit.offer(1, 2_000), visit.offer(1, 2_000));
    visit.told(Event::Invoice(first.clone()));
    visit.told(Event::Invoice(second.clone()));
    visit.pays(&first);
    assert_eq!(visit.next(), Next::Nothing, "of unknown outcome, or under way");
    visit.account.failed(&first.payment_hash);
    visit.pays(&second);
    visit.paid(&second);
    let third = visit.offer(1, 2_000);
    visit.told(Event::Invoice(third.clone()));
    assert_eq!(visit.next(), Next::Nothing, "paid");
    // It was drawn from that money: nobody needs the third any more, and the server hears of it.
    visit.told(Event::Served(SegmentNumber(1)));
    assert_eq!(visit.account.take_stale(), [third.payment_hash]);
    assert_eq!(visit.next(), Next::Nothing);
}

#[test]
fn a_segment_whose_money_went_to_another_one_is_paid_anew() {
    let mut visit = Visit::new(100_000);
    let (first, second, anew) =
        (visit.offer(1, 2_000), visit.offer(2, 2_000), visit.offer(2, 2_000));
    visit.told(Event::Invoice(first.clone()));
    visit.told(Event::Invoice(second.clone()));
    visit.pays(&first);
    visit.account.failed(&first.payment_hash);
    visit.pays(&second);
    visit.paid(&second);
    // The server drew the first segment from what was paid for the second.
    visit.told(Event::Served(SegmentNumber(1)));
    visit.told(Event::Invoice(anew.clone()));
    visit.pays(&anew);
}

#[test]
fn a_served_segment_is_not_paid_again() {
    let mut visit = Visit::new(100_000);
    let offer = visit.offer(1, 2_000);
    visit.told(Event::Invoice(offer.clone()));
    visit.pays(&offer);
    visit.paid(&offer);
    visit.account.arrived(SegmentNumber(1), NOW_MS);
    let again = visit.offer(1, 2_000);
    visit.told(Event::Invoice(again));
    assert_eq!(visit.next(), Next::Nothing);
    // Not after a jump back either.
    visit.told(Event::Seek(SegmentNumber(1)));
    let again = visit.offer(1, 2_000);
    visit.told(Event::Invoice(again));
    assert_eq!(visit.next(), Next::Nothing);
}

#[test]
fn a_server_whose_first_invoice_is_wrong_is_left_at_once_and_another_after_a_few() {
    let mut visit = Visit::new(100_000);
    let wrong = visit.offer(1, 2_001);
    visit.told(Event::Invoice(wrong));
    assert!(matches!(visit.next(), Next::Lied(_)));
    let mut visit = Visit::new(100_000);
    let right = visit.offer(1, 2_000);
    visit.told(Event::Invoice(right.clone()));
    visit.pays(&right);
    for n in 0..REFUSED_MAX {
        let wrong = visit.offer(2, 1_999);
        visit.told(Event::Invoice(wrong));
        let left = matches!(visit.next(), Next::Lied(_));
        assert_eq!(left, n + 1 == REFUSED_MAX, "{n}");
    }
}

#[test]
fn invoices_that_expired_while_the_viewer_paused_are_nobodys_fault() {
    let mut visit = Visit::new(100_000);
    let first = visit.offer(1, 2_000);
    visit.told(Event::Invoice(first.clone()));
    visit.pays(&first);
    visit.paid(&first);
    for n in 0..2 * u64::from(REFUSED_MAX) {
        visit.node.set_time(visit.now_ms / 1_000);
        let offer = visit.offer(2, 2_000);
        visit.told(Event::Invoice(offer));
        visit.now_ms += (590 + n) * 1_000;
        let next = visit.next();
        assert!(!matches!(next, Next::Lied(_)), "{n}: {next:?}");
        if let Next::Pay(payable) = next {
            visit.account.failed(&payable.hash);
        }
    }
}

#[test]
fn a_flood_of_invoices_takes_bounded_room() {
    let mut visit = Visit::new(100_000);
    let offer = visit.offer(1, 2_000);
    let flood = |n: u64| {
        let mut hash = [0; 32];
        hash[..8].copy_from_slice(&n.to_be_bytes());
        Event::Invoice(Offer { payment_hash: PaymentHash::new(hash), ..offer.clone() })
    };
    let taken = (0..100_000).take_while(|n| visit.account.told(flood(*n)).is_ok()).count();
    assert_eq!(taken, QUEUED_MAX);
    // Also where each is told as paid before it is looked at.
    let mut visit = Visit::new(100_000);
    let taken = (0..100_000).take_while(|n| {
        let Event::Invoice(offer) = flood(*n) else { return false };
        let hash = offer.payment_hash;
        visit.account.told(Event::Invoice(offer)).is_ok()
            && visit.account.told(Event::Paid(hash)).is_ok()
    });
    assert!(taken.count() <= 10 * BILLS_PER_SEGMENT_MAX + QUEUED_MAX);
}

#[test]
fn an_invoice_for_what_no_bundle_of_this_film_holds_is_refused_before_any_of_it_is_kept() {
    let mut visit = Visit::new(100_000);
    let honest = visit.offer(1, 2_000);
    let planned = |numbers: Vec<u32>| Offer {
        segments: numbers.into_iter().map(SegmentNumber).collect(),
        ..honest.clone()
    };
    for (why, offer) in [
        ("more segments", planned((0..10_000).collect())),
        ("more segments", planned(vec![1; 10_000])),
        ("more segments", planned(vec![1, 2])),
        ("does not have", planned(vec![10])),
        ("does not have", planned(vec![u32::MAX])),
        ("no segment", planned(vec![])),
        ("longer than any", Offer { invoice: "lnbcrt".repeat(10_000), ..honest.clone() }),
    ] {
        let words = visit.account.told(Event::Invoice(offer)).unwrap_err();
        assert!(words.contains(why), "{words}");
    }
    visit.account.tariff.bundle = 2;
    let words = visit.account.told(Event::Invoice(planned(vec![1, 1]))).unwrap_err();
    assert!(words.contains("twice"), "{words}");
    assert!(visit.account.bills().is_empty());
    visit.told(Event::Invoice(honest.clone()));
    visit.pays(&honest);
}

#[test]
fn a_fee_above_the_cap_counts_and_the_next_may_be_as_dear() {
    let mut visit = Visit::new(20_000);
    let (first, second) = (visit.offer(1, 2_000), visit.offer(2, 2_000));
    visit.told(Event::Invoice(first.clone()));
    visit.pays(&first);
    visit.account.paid(&first.payment_hash, Some(Msat::new(9_000)), None);
    assert_eq!(visit.account.totals(NOW_MS).left, Msat::new(9_000));
    assert_eq!(visit.account.too_dear(), None, "once may be an accident");
    visit.told(Event::Invoice(second));
    assert!(matches!(visit.next(), Next::Spent(_)), "11 sat more could be spent of 9");
}

#[test]
fn fees_above_the_cap_are_an_accident_once() {
    let mut visit = Visit::new(100_000);
    for (n, fee, dear) in [(1, 2_000, None), (2, 2_001, None), (3, 5_000, Some(5_000))] {
        let offer = visit.offer(n, 2_000);
        visit.told(Event::Invoice(offer.clone()));
        visit.pays(&offer);
        visit.account.paid(&offer.payment_hash, Some(Msat::new(fee)), None);
        assert_eq!(visit.account.too_dear(), dear.map(Msat::new), "{n}");
        visit.account.arrived(SegmentNumber(n), NOW_MS);
    }
}

#[test]
fn segments_that_are_paid_and_come_without_valid_bytes_end_the_paying() {
    let mut visit = Visit::new(100_000);
    for n in 1..3 {
        assert!(visit.account.broke(SegmentNumber(n)).is_ok());
        assert!(visit.account.broke(SegmentNumber(n)).is_ok(), "counted once");
    }
    visit.account.arrived(SegmentNumber(1), NOW_MS);
    assert!(visit.account.broke(SegmentNumber(3)).is_ok(), "one of them came after all");
    assert!(visit.account.broke(SegmentNumber(4)).is_err());
}

#[test]
fn what_was_paid_by_somebody_else_is_not_paid_and_what_failed_and_arrived_is_counted() {
    let mut visit = Visit::new(100_000);
    let (other, own) = (visit.offer(1, 2_000), visit.offer(2, 2_000));
    visit.told(Event::Invoice(other.clone()));
    visit.told(Event::Paid(other.payment_hash));
    assert_eq!(visit.next(), Next::Nothing);
    visit.told(Event::Invoice(own.clone()));
    visit.pays(&own);
    visit.account.failed(&own.payment_hash);
    visit.told(Event::Paid(own.payment_hash));
    let totals = visit.account.totals(NOW_MS);
    assert_eq!((totals.payments, totals.paid), (1, Msat::new(2_000)));
    assert_eq!(totals.left, Msat::new(96_000), "a fee that is not known counts as its cap");
}

#[test]
fn after_a_jump_only_what_plays_next_is_paid() {
    let mut visit = Visit::new(100_000);
    let (behind, ahead) = (visit.offer(2, 2_000), visit.offer(7, 2_000));
    visit.told(Event::Invoice(behind));
    visit.told(Event::Seek(SegmentNumber(7)));
    visit.told(Event::Invoice(ahead.clone()));
    visit.pays(&ahead);
    assert_eq!(visit.next(), Next::Nothing);
}

#[derive(Debug, Clone)]
enum Act {
    Invoice(u32, i64),
    Again,
    Seek(u32),
    Served(u32),
    PaidEvent(usize),
    Arrived(u32),
    Wallet(usize, u8),
    Wait(u64),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0_u32..12, prop_oneof![8 => Just(0_i64), 1 => -1_i64..=1]).prop_map(|(n, off)| Act::Invoice(n, off)),
        1 => Just(Act::Again),
        1 => (0_u32..12).prop_map(Act::Seek),
        1 => (0_u32..12).prop_map(Act::Served),
        1 => (0_usize..40).prop_map(Act::PaidEvent),
        2 => (0_u32..12).prop_map(Act::Arrived),
        3 => (0_usize..40, 0_u8..3).prop_map(|(n, how)| Act::Wallet(n, how)),
        2 => (0_u64..20_000).prop_map(Act::Wait),
    ]
}

proptest! {
    /// A server that may tell anything in any order, and a wallet that fails or says nothing: the budget, the pace, and one payment a hash.
    #[test]
    fn no_server_gets_more_than_the_budget_and_the_pace(
        acts in prop::collection::vec(act(), 1..120),
        max in 1_000_u64..40_000,
    ) {
        let mut visit = Visit::new(max);
        let mut offers: Vec<Offer> = Vec::new();
        let mut sent = std::collections::HashSet::new();
        let (mut out, mut failed) = (0_u64, std::collections::HashSet::new());
        for act in acts {
            match act {
                Act::Invoice(n, off) => {
                    let offer = visit.offer(n, 2_000_u64.saturating_add_signed(off));
                    offers.push(offer.clone());
                    let _ = visit.account.told(Event::Invoice(offer));
                }
                Act::Again => {
                    for offer in offers.clone() {
                        let _ = visit.account.told(Event::Invoice(offer));
                    }
                }
                Act::Seek(n) => visit.told(Event::Seek(SegmentNumber(n))),
                Act::Served(n) => visit.told(Event::Served(SegmentNumber(n))),
                Act::PaidEvent(n) => if let Some(offer) = offers.get(n) {
                    visit.told(Event::Paid(offer.payment_hash));
                },
                Act::Arrived(n) => visit.account.arrived(SegmentNumber(n), visit.now_ms),
                Act::Wallet(n, how) => if let Some(offer) = offers.get(n).filter(|of| sent.contains(&of.payment_hash)) {
                    let paying = visit.account.bill(&offer.payment_hash).is_some_and(|bill| bill.state == State::Paying);
                    match how {
                        _ if !paying => {}
                        0 => visit.account.paid(&offer.payment_hash, Some(Msat::new(1_000)), None),
                        1 => {
                            failed.insert(offer.payment_hash);
                            out -= 2_000;
                            visit.account.failed(&offer.payment_hash);
                        }
                        _ => {}
                    }
                },
                Act::Wait(ms) => visit.now_ms += ms,
            }
            while let Next::Pay(payable) = visit.next() {
                prop_assert!(sent.insert(payable.hash), "a hash is sent once");
                out += payable.amount.get();
                let watched = visit.account.totals(visit.now_ms).watched_ms;
                prop_assert!(out <= max);
                prop_assert!(out <= 2 * watched * 500 / 1_000 + 3 * 2_000);
            }
        }
    }
}
