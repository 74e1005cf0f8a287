//! Payouts: intent first, outcome later, each booked once.

use sluice::domain::amount::Msat;
use sluice::domain::destination::Destination;
use sluice::domain::id::{NodeId, PayoutId, Preimage};
use sluice::domain::ledger::Account;
use sluice::store::{
    Attach, Catalog as _, Cause, Ledger as _, Payout, PayoutInvoice, PayoutState, Payouts as _,
    Plan, Setbacks, Settle,
};
use uuid::Uuid;

use crate::books::{Books, Kind, creator, hash, suite};

suite! {
    a_payout_leaves_the_payable_balance_and_arrives_once
    one_payout_of_a_creator_is_in_flight_at_a_time
    what_comes_back_is_payable_again
    what_arrives_after_it_came_back_is_corrected
    no_more_is_planned_than_is_owed
    a_fee_beyond_the_plan_is_the_operators_expense
    an_outcome_of_no_payout_books_nothing
    payouts_are_listed_newest_first
    setbacks_in_a_row_are_counted_until_one_arrives
    a_payout_takes_one_invoice_and_no_hash_twice
    what_was_never_sent_can_be_given_back_and_nothing_else
    setbacks_are_forgotten_on_request_and_with_another_destination
}

fn payout(number: u128, of: u128, planned: u64, amount: u64) -> Payout {
    Payout {
        id: PayoutId::new(Uuid::from_u128(number)),
        creator: creator(of),
        destination: Some(Destination::Keysend(NodeId::new([2; 33]))),
        planned: Msat::new(planned),
        amount: Msat::new(amount),
        hash: Some(hash(5_000 + number)),
        invoice: None,
        state: PayoutState::Pending,
        created_ms: 1,
    }
}

fn arrived(fee: u64) -> Settle {
    Settle::Arrived { fee: Msat::new(fee), preimage: Some(Preimage::new([7; 32])) }
}

fn returned() -> Settle {
    Settle::Returned { reason: "no route".to_owned() }
}

fn payable<K: Kind>(books: &Books<K>) -> i128 {
    books.owed(Account::CreatorPayable(creator(1)))
}

fn a_payout_leaves_the_payable_balance_and_arrives_once<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 10_000);
    let planned = payout(1, 1, 10_000, 9_000);
    assert_eq!(books.plan(&planned).unwrap(), Plan::Made);
    books.reopen();
    assert_eq!((payable(books), books.owed(Account::PayoutsInFlight)), (0, 10_000));
    assert!(books.pending().unwrap() == [planned.clone()]);
    for _ in 0..2 {
        let settled = books.settle(&planned.hash.unwrap(), &arrived(300), 5).unwrap().unwrap();
        assert!(matches!(settled.state, PayoutState::Arrived { fee, .. } if fee.get() == 300));
        books.reopen();
    }
    let late = books.settle(&planned.hash.unwrap(), &returned(), 6).unwrap().unwrap();
    assert!(matches!(late.state, PayoutState::Arrived { .. }), "the first outcome stands");
    assert!(books.pending().unwrap().is_empty());
    assert_eq!((payable(books), books.owed(Account::PayoutsInFlight)), (700, 0));
    assert_eq!(books.balance(Account::ChannelFunds).unwrap(), 10_000 - 9_300);
    assert_eq!(books.balance(Account::RoutingExpense).unwrap(), 300);
    assert_eq!(books.owed(Account::RoutingCharged), 300);
}

fn one_payout_of_a_creator_is_in_flight_at_a_time<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 10_000);
    books.creator_with(2, 10_000);
    assert_eq!(books.plan(&payout(1, 1, 4_000, 3_000)).unwrap(), Plan::Made);
    assert_eq!(books.plan(&payout(2, 1, 4_000, 3_000)).unwrap(), Plan::InFlight);
    assert_eq!(
        books.plan(&payout(1, 1, 4_000, 3_000)).unwrap(),
        Plan::InFlight,
        "the same plan is no second one"
    );
    assert_eq!(
        books.plan(&payout(3, 2, 4_000, 3_000)).unwrap(),
        Plan::Made,
        "another creator's is"
    );
    books.reopen();
    assert_eq!(payable(books), 6_000);
    books.settle(&hash(5_001), &arrived(0), 5).unwrap();
    assert_eq!(books.plan(&payout(4, 1, 4_000, 3_000)).unwrap(), Plan::Made);
}

fn what_comes_back_is_payable_again<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 10_000);
    let planned = payout(1, 1, 10_000, 9_000);
    books.plan(&planned).unwrap();
    for _ in 0..2 {
        let settled = books.settle(&planned.hash.unwrap(), &returned(), 5).unwrap().unwrap();
        assert!(matches!(settled.state, PayoutState::Returned { .. }));
        books.reopen();
    }
    assert_eq!((payable(books), books.owed(Account::PayoutsInFlight)), (10_000, 0));
    assert_eq!(books.plan(&payout(2, 1, 10_000, 9_000)).unwrap(), Plan::Made);
}

fn what_arrives_after_it_came_back_is_corrected<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 10_000);
    books.plan(&payout(1, 1, 10_000, 9_000)).unwrap();
    books.settle(&hash(5_001), &returned(), 5).unwrap();
    // Meanwhile the next one is on its way.
    books.plan(&payout(2, 1, 10_000, 9_000)).unwrap();
    for _ in 0..2 {
        let settled = books.settle(&hash(5_001), &arrived(300), 6).unwrap().unwrap();
        assert!(matches!(settled.state, PayoutState::Arrived { .. }));
        books.reopen();
    }
    assert_eq!(books.pending().unwrap().len(), 1, "the second one is still on its way");
    assert_eq!((payable(books), books.owed(Account::PayoutsInFlight)), (-9_300, 10_000));
    assert_eq!(books.balance(Account::ChannelFunds).unwrap(), 10_000 - 9_300);
    books.settle(&hash(5_002), &arrived(0), 7).unwrap();
    assert_eq!(payable(books), -8_300, "what was paid too much is owed by the creator");
    assert_eq!(books.balance(Account::ChannelFunds).unwrap(), 10_000 - 18_300);
}

fn no_more_is_planned_than_is_owed<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 10_000);
    assert_eq!(books.plan(&payout(1, 1, 10_001, 9_000)).unwrap(), Plan::Short);
    assert_eq!(books.plan(&payout(2, 1, 0, 0)).unwrap(), Plan::Short);
    assert_eq!(
        books.plan(&payout(3, 9, 1, 1)).unwrap(),
        Plan::Short,
        "nothing is owed to a stranger"
    );
    assert!(books.pending().unwrap().is_empty());
    assert_eq!(payable(books), 10_000);
}

fn a_fee_beyond_the_plan_is_the_operators_expense<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 10_000);
    books.plan(&payout(1, 1, 10_000, 9_900)).unwrap();
    books.settle(&hash(5_001), &arrived(300), 5).unwrap();
    assert_eq!(payable(books), 0, "never the creator's debt");
    assert_eq!(books.owed(Account::RoutingCharged), 100);
    assert_eq!(books.balance(Account::RoutingExpense).unwrap(), 300);
}

fn an_outcome_of_no_payout_books_nothing<K: Kind>(books: &mut Books<K>) {
    assert!(books.settle(&hash(9), &arrived(1), 5).unwrap().is_none());
    assert!(books.settle(&hash(9), &returned(), 5).unwrap().is_none());
    assert!(books.entries(None, 10).unwrap().is_empty());
}

fn setbacks_in_a_row_are_counted_until_one_arrives<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 10_000);
    assert_eq!(books.setbacks(creator(1)).unwrap(), None);
    for number in 1..=3_u32 {
        books.plan(&payout(number.into(), 1, 2_000, 1_000)).unwrap();
        let came_back = hash(5_000 + u128::from(number));
        for _ in 0..2 {
            books.settle(&came_back, &returned(), u64::from(number)).unwrap();
        }
        books.reopen();
        let setbacks = books.setbacks(creator(1)).unwrap();
        assert_eq!(
            setbacks,
            Some(Setbacks { count: number, last_ms: number.into(), cause: Cause::Undelivered })
        );
    }
    assert_eq!(books.setbacks(creator(2)).unwrap(), None);
    books.plan(&payout(4, 1, 2_000, 1_000)).unwrap();
    books.settle(&hash(5_004), &arrived(0), 9).unwrap();
    assert_eq!(books.setbacks(creator(1)).unwrap(), None);
}

fn payouts_are_listed_newest_first<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 10_000);
    for number in 1..=3 {
        books.plan(&payout(number, 1, 2_000, 1_000)).unwrap();
        books.settle(&hash(5_000 + number), &arrived(0), 5).unwrap();
    }
    let listed = books.payouts(creator(1), 2).unwrap();
    let ids: Vec<_> = listed.iter().map(|payout| payout.id).collect();
    assert_eq!(ids, [3, 2].map(|number| PayoutId::new(Uuid::from_u128(number))));
    assert!(books.payouts(creator(2), 9).unwrap().is_empty());
}

/// A payout whose invoice is still to be fetched.
fn unfetched(number: u128) -> Payout {
    let address = Destination::LightningAddress("ada@wallet.example".parse().unwrap());
    Payout { destination: Some(address), hash: None, ..payout(number, 1, 4_000, 3_000) }
}

fn invoice() -> PayoutInvoice {
    let bolt11 = "lnbcrt1".to_owned();
    PayoutInvoice { bolt11, expires_at: 9, verify: None, sending: false }
}

fn a_payout_takes_one_invoice_and_no_hash_twice<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 20_000);
    let first = unfetched(1);
    assert_eq!(books.plan(&first).unwrap(), Plan::Made);
    let attach = |books: &Books<K>, to: &Payout, n: u128, amount: u64| {
        books.attach(to, hash(n), Msat::new(amount), &invoice()).unwrap()
    };
    assert!(attach(books, &first, 7_001, 3_001) == Attach::Refused, "more than was planned");
    assert!(attach(books, &first, 7_001, 0) == Attach::Refused, "nothing");
    let Attach::Done(attached) = attach(books, &first, 7_001, 2_000) else { panic!() };
    assert_eq!((attached.hash, attached.amount), (Some(hash(7_001)), Msat::new(2_000)));
    books.reopen();
    assert!(books.pending().unwrap() == [*attached.clone()]);
    assert!(attach(books, &first, 7_002, 2_000) == Attach::Refused, "it has one");
    assert!(books.begin_sending(&attached).unwrap());
    books.reopen();
    assert!(!books.begin_sending(&attached).unwrap(), "it was begun");
    books.settle(&hash(7_001), &arrived(0), 5).unwrap().unwrap();
    assert_eq!(payable(books), 18_000);

    let second = unfetched(2);
    books.plan(&second).unwrap();
    assert!(attach(books, &second, 7_001, 2_000) == Attach::Seen);
    assert!(books.give_back(&second, (Cause::SeenBefore, "x"), true, 6).unwrap());
    let withdrawal = Payout { hash: Some(hash(7_001)), ..payout(3, 1, 2_000, 1_000) };
    assert_eq!(books.plan(&withdrawal).unwrap(), Plan::Seen);
    assert_eq!(payable(books), 18_000);
}

fn what_was_never_sent_can_be_given_back_and_nothing_else<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 20_000);
    let why = (Cause::Unreachable, "no answer");
    let keysend = payout(1, 1, 4_000, 3_000);
    books.plan(&keysend).unwrap();
    assert!(!books.give_back(&keysend, why, true, 5).unwrap(), "a keysend may have been sent");
    books.settle(&hash(5_001), &arrived(0), 5).unwrap();

    let planned = unfetched(2);
    books.plan(&planned).unwrap();
    assert!(books.give_back(&planned, why, true, 6).unwrap());
    assert!(!books.give_back(&planned, why, true, 6).unwrap(), "it is over");
    books.reopen();
    let setbacks = Setbacks { count: 1, last_ms: 6, cause: Cause::Unreachable };
    assert_eq!(books.setbacks(creator(1)).unwrap(), Some(setbacks));
    assert_eq!((payable(books), books.owed(Account::PayoutsInFlight)), (17_000, 0));

    let fetched = unfetched(3);
    books.plan(&fetched).unwrap();
    books.attach(&fetched, hash(7_003), Msat::new(1_000), &invoice()).unwrap();
    assert!(books.give_back(&fetched, (Cause::Expired, "x"), false, 7).unwrap());
    assert_eq!(books.setbacks(creator(1)).unwrap(), Some(setbacks), "no setback");
    let state = books.payout(creator(1), fetched.id).unwrap().unwrap().state;
    assert!(matches!(state, PayoutState::Returned { cause: Cause::Expired, .. }));

    let sending = unfetched(4);
    books.plan(&sending).unwrap();
    books.attach(&sending, hash(7_004), Msat::new(1_000), &invoice()).unwrap();
    books.begin_sending(&sending).unwrap();
    assert!(!books.give_back(&sending, why, true, 8).unwrap(), "it may have been sent");
    assert_eq!(books.pending().unwrap().len(), 1);
}

fn setbacks_are_forgotten_on_request_and_with_another_destination<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 20_000);
    crate::books::enter(books, 1);
    let set_back = |books: &Books<K>, number| {
        books.plan(&unfetched(number)).unwrap();
        books.give_back(&unfetched(number), (Cause::Unreachable, "x"), true, 5).unwrap();
        assert!(books.setbacks(creator(1)).unwrap().is_some());
    };
    set_back(books, 1);
    books.resume(creator(1)).unwrap();
    assert_eq!(books.setbacks(creator(1)).unwrap(), None);
    let to: Destination = "ada@wallet.example".parse().unwrap();
    let edited = books.edit_creator(creator(1), None, Some((to.clone(), 9))).unwrap().unwrap();
    assert_eq!(edited.payout_from_ms, 0, "the first one does not wait");
    set_back(books, 2);
    books.edit_creator(creator(1), None, Some((to, 9))).unwrap();
    assert!(books.setbacks(creator(1)).unwrap().is_some(), "it is the same one");
    let other: Destination = "ada@other.example".parse().unwrap();
    let edited = books.edit_creator(creator(1), None, Some((other.clone(), 9))).unwrap().unwrap();
    assert_eq!((edited.payout_from_ms, books.setbacks(creator(1)).unwrap()), (9, None));
    let edited = books.edit_creator(creator(1), None, Some((other, 0))).unwrap().unwrap();
    assert_eq!(edited.payout_from_ms, 0, "the operator's word");
}
