//! Many threads at once: whatever they race for happens exactly once.

use std::sync::Barrier;

use sluice::domain::amount::Msat;
use sluice::domain::destination::Destination;
use sluice::domain::id::{NodeId, PayoutId};
use sluice::domain::ledger::Account;
use sluice::domain::video::VideoState;
use sluice::store::{
    Catalog as _, Credit, Draw, Job, Jobs as _, Lease, Ledger as _, Payout, PayoutState,
    Payouts as _, Plan, Redeem, Sessions as _, Storage as _,
};
use uuid::Uuid;

use crate::books::{
    Books, Kind, TOLD_BEFORE, creator, hash, invoice, payment, segment, session, session_invoice,
    split, suite, video, video_id,
};

suite! {
    threads_that_redeem_one_credential_earn_once
    threads_that_tell_one_payment_credit_once
    threads_that_restore_one_lost_invoice_credit_it_once
    threads_that_draw_one_segment_earn_once
    threads_that_draw_from_one_credit_never_overdraw_it
    threads_that_plan_payouts_send_one
    threads_that_claim_one_job_work_once
    threads_that_count_starts_get_different_numbers
}

const THREADS: usize = 8;

/// What each of the threads got, all let go at the same time.
fn race<K: Kind, T: Send>(
    books: &Books<K>,
    act: impl Fn(&sluice::store::Store<K::E>, usize) -> T + Sync,
) -> Vec<T> {
    let barrier = Barrier::new(THREADS);
    let store: &sluice::store::Store<K::E> = books;
    let run = |n| {
        barrier.wait();
        act(store, n)
    };
    std::thread::scope(|scope| {
        let running: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || run(n))).collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

fn threads_that_redeem_one_credential_earn_once<K: Kind>(books: &mut Books<K>) {
    for number in 0..10 {
        let invoice = invoice(number, 2_000);
        books.record(&invoice).unwrap();
        books.pay(&invoice, 2_000);
        let got = race(books, |store, _| store.redeem(&invoice.hash, segment(1), 5, 60).unwrap());
        assert_eq!(got.iter().filter(|redeem| **redeem == Redeem::First).count(), 1);
        assert!(got.iter().all(|redeem| matches!(redeem, Redeem::First | Redeem::Again)));
    }
    assert_eq!(books.owed(Account::CreatorPayable(creator(1))), 19_400);
}

fn threads_that_tell_one_payment_credit_once<K: Kind>(books: &mut Books<K>) {
    for number in 0..10 {
        let invoice = invoice(number, 2_000);
        books.record(&invoice).unwrap();
        let payment = payment(invoice.hash, 2_000, 1);
        let got = race(books, |store, _| store.credit(payment, TOLD_BEFORE, 1).unwrap());
        assert_eq!(got.iter().filter(|credit| matches!(credit, Credit::Applied(_))).count(), 1);
        assert_eq!(got.iter().filter(|credit| **credit == Credit::Replayed).count(), 7);
    }
    assert_eq!(books.owed(Account::ViewerCredit), 20_000);
}

fn threads_that_restore_one_lost_invoice_credit_it_once<K: Kind>(books: &mut Books<K>) {
    let session = session(1);
    for number in 0..20 {
        // Of a session, and of a segment; told by the node before, and not.
        let of_session = number % 2 == 0;
        let invoice = match of_session {
            true => session_invoice(&session, number, 2_000),
            false => invoice(number, 2_000),
        };
        let payment = payment(invoice.hash, 2_000, 1);
        if number % 4 < 2 {
            assert_eq!(books.credit(payment, TOLD_BEFORE, 1).unwrap(), Credit::Unclaimed);
        }
        let record = of_session.then_some(&session);
        let got = race(books, |store, _| {
            store.restore(record, &invoice).unwrap();
            store.credit(payment, sluice::store::Origin::Proof, 2).unwrap()
        });
        assert_eq!(got.iter().filter(|credit| matches!(credit, Credit::Applied(_))).count(), 1);
    }
    assert_eq!(books.owed(Account::ViewerCredit), 40_000);
    assert_eq!(books.owed(Account::Unclaimed), 0);
    assert_eq!(books.session(session.id).unwrap().unwrap().credit, Msat::new(20_000));
    assert_eq!(books.unpaid(), 0);
}

fn threads_that_draw_one_segment_earn_once<K: Kind>(books: &mut Books<K>) {
    let session = session(1);
    let invoice = session_invoice(&session, 1, 20_000);
    books.open_invoice(&session, &invoice).unwrap();
    books.pay(&invoice, 20_000);
    let amount = Msat::new(2_000);
    let got =
        race(books, |store, _| store.draw(session.id, segment(1), amount, &split(), 5).unwrap());
    assert_eq!(got.iter().filter(|draw| **draw == Draw::First).count(), 1);
    assert_eq!(books.session(session.id).unwrap().unwrap().spent, amount);
}

fn threads_that_draw_from_one_credit_never_overdraw_it<K: Kind>(books: &mut Books<K>) {
    let session = session(1);
    let invoice = session_invoice(&session, 1, 6_000);
    books.open_invoice(&session, &invoice).unwrap();
    books.pay(&invoice, 6_000);
    let got = race(books, |store, n| {
        let segment = segment(u32::try_from(n).unwrap());
        store.draw(session.id, segment, Msat::new(2_000), &split(), 5).unwrap()
    });
    assert_eq!(got.iter().filter(|draw| **draw == Draw::First).count(), 3);
    assert_eq!(books.session(session.id).unwrap().unwrap().credit, Msat::ZERO);
    assert_eq!(books.owed(Account::ViewerCredit), 0);
}

fn threads_that_plan_payouts_send_one<K: Kind>(books: &mut Books<K>) {
    books.creator_with(1, 10_000);
    let got = race(books, |store, n| {
        let payout = Payout {
            id: PayoutId::new(Uuid::from_u128(n as u128)),
            creator: creator(1),
            destination: Some(Destination::Keysend(NodeId::new([2; 33]))),
            planned: Msat::new(1_000),
            amount: Msat::new(900),
            hash: Some(hash(5_000 + n as u128)),
            invoice: None,
            state: PayoutState::Pending,
            created_ms: 1,
        };
        store.plan(&payout).unwrap()
    });
    assert_eq!(got.iter().filter(|planned| **planned == Plan::Made).count(), 1);
    assert_eq!(books.owed(Account::PayoutsInFlight), 1_000);
}

fn threads_that_claim_one_job_work_once<K: Kind>(books: &mut Books<K>) {
    books.create_video(&video(1, 1)).unwrap();
    books.advance(video_id(1), VideoState::Uploading).unwrap();
    let video = books.video(video_id(1)).unwrap().unwrap();
    let job = Job::new(&video, "a".to_owned(), "look".to_owned(), 1);
    books.enqueue(&job).unwrap();
    let got = race(books, |store, _| store.claim(Lease { boot: 1, until_ms: 1_000 }, 0).unwrap());
    assert_eq!(got.iter().flatten().count(), 1);
}

fn threads_that_count_starts_get_different_numbers<K: Kind>(books: &mut Books<K>) {
    let mut got = race(books, |store, _| store.next_boot().unwrap());
    got.sort_unstable();
    assert_eq!(got, (1..=8).collect::<Vec<_>>());
}
