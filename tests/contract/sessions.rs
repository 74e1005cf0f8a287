//! Sessions and their invoices.

use sluice::domain::amount::Msat;
use sluice::domain::ledger::Account;
use sluice::store::{Credit, Draw, Invoice, Ledger as _, Progress, SessionRecord, Sessions as _};

use crate::books::{Books, Kind, TOLD, payment, segment, session, session_invoice, split, suite};

suite! {
    a_session_is_there_with_its_first_invoice
    a_later_invoice_changes_nothing_of_the_session
    sessions_do_not_see_each_other
    money_beyond_the_invoice_is_credit
    a_session_is_forgotten_after_its_end_and_not_before_its_money_is
    what_is_left_of_a_session_expires_with_its_newest_payments
    a_payment_whose_invoice_expired_is_not_credit_that_nothing_would_end
    a_session_without_an_invoice_counts_as_unpaid_until_it_has_one_or_is_forgotten
}

fn a_session_is_there_with_its_first_invoice<K: Kind>(books: &mut Books<K>) {
    let session = session(1);
    assert_eq!(books.session(session.id).unwrap(), None);
    let invoice = session_invoice(&session, 1, 2_000);
    books.open_invoice(&session, &invoice).unwrap();
    books.reopen();
    let state = books.session(session.id).unwrap().unwrap();
    assert_eq!((state.record, state.invoices), (session.clone(), vec![invoice.clone()]));
    assert!(state.credit.is_zero() && state.spent.is_zero() && state.served.is_empty());
    assert_eq!(books.invoice(&invoice.hash).unwrap(), Some(invoice.clone()));
    books.pay(&invoice, 2_000);
    books.reopen();
    let state = books.session(session.id).unwrap().unwrap();
    assert_eq!((state.paid, state.invoices.as_slice()), (1, &[][..]), "the unpaid ones alone");
    let progress = Progress::Credited { at_ms: 1_000 };
    let paid = Invoice { progress, credited: Msat::new(2_000), ..invoice };
    assert_eq!(books.invoice(&paid.hash).unwrap(), Some(paid));
}

fn a_later_invoice_changes_nothing_of_the_session<K: Kind>(books: &mut Books<K>) {
    let first = session(1);
    books.open_invoice(&first, &session_invoice(&first, 1, 2_000)).unwrap();
    let ended = SessionRecord { generation: 3, ended: true, ..first.clone() };
    books.put_session(&ended).unwrap();
    books.open_invoice(&first, &session_invoice(&first, 2, 2_000)).unwrap();
    books.reopen();
    let state = books.session(first.id).unwrap().unwrap();
    assert_eq!((state.record, state.invoices.len()), (ended, 2));
}

fn sessions_do_not_see_each_other<K: Kind>(books: &mut Books<K>) {
    let (one, two) = (session(1), session(2));
    let invoice = session_invoice(&one, 1, 2_000);
    books.open_invoice(&one, &invoice).unwrap();
    books.open_invoice(&two, &session_invoice(&two, 2, 2_000)).unwrap();
    books.pay(&invoice, 2_000);
    assert_eq!(books.session(one.id).unwrap().unwrap().credit.get(), 2_000);
    let other = books.session(two.id).unwrap().unwrap();
    assert!(other.credit.is_zero() && other.invoices.len() == 1);
}

fn money_beyond_the_invoice_is_credit<K: Kind>(books: &mut Books<K>) {
    let session = session(1);
    for (number, received) in [(1, 2_500), (2, 1_500)] {
        let invoice = session_invoice(&session, number, 2_000);
        books.open_invoice(&session, &invoice).unwrap();
        books.pay(&invoice, received);
    }
    books.reopen();
    assert_eq!(books.session(session.id).unwrap().unwrap().credit.get(), 4_000);
}

fn a_session_is_forgotten_after_its_end_and_not_before_its_money_is<K: Kind>(books: &mut Books<K>) {
    let (record, end) = (session(1), session(1).expires_at);
    let invoice = session_invoice(&record, 1, 2_000);
    books.open_invoice(&record, &invoice).unwrap();
    assert_eq!(books.forget_sessions(end + 1).unwrap(), 0, "it has an invoice");
    books.pay(&invoice, 2_000);
    assert_eq!(books.forget_sessions(end + 1).unwrap(), 0, "it has credit");
    let long = u64::MAX / 2;
    books.sweep(0, long, long - 1).unwrap();
    assert_eq!(books.forget_sessions(end + 1).unwrap(), 0, "its payment may be told again");
    books.sweep(0, long, long).unwrap();
    assert_eq!(books.forget_sessions(end).unwrap(), 0, "its keys still open");
    assert_eq!(books.forget_sessions(end + 1).unwrap(), 1);
    books.reopen();
    assert_eq!(books.session(record.id).unwrap(), None);
}

fn what_is_left_of_a_session_expires_with_its_newest_payments<K: Kind>(books: &mut Books<K>) {
    let session = session(1);
    let credit = |books: &Books<K>| books.session(session.id).unwrap().unwrap().credit.get();
    // The first, paid with 500 more than it asks, is watched; the second comes an hour later.
    for (number, received, at_ms) in [(1, 2_500, 1_000), (2, 2_000, 3_601_000)] {
        let invoice = session_invoice(&session, number, 2_000);
        books.open_invoice(&session, &invoice).unwrap();
        books.credit(payment(invoice.hash, received, 1), TOLD, at_ms).unwrap();
    }
    let draw = books.draw(session.id, segment(1), Msat::new(2_000), &split(), 5).unwrap();
    assert_eq!((draw, credit(books)), (Draw::First, 2_500));
    assert_eq!(books.sweep(0, 1_001, 9_000_000).unwrap().expired, 1);
    books.reopen();
    assert_eq!(credit(books), 2_000, "the excess of the first goes with it, the second stays");
    assert_eq!(books.sweep(0, 3_601_001, 9_000_000).unwrap().expired, 1);
    assert_eq!((credit(books), books.owed(Account::ViewerCredit)), (0, 0));
}

fn a_payment_whose_invoice_expired_is_not_credit_that_nothing_would_end<K: Kind>(
    books: &mut Books<K>,
) {
    let session = session(1);
    let invoice = session_invoice(&session, 1, 2_000);
    books.open_invoice(&session, &invoice).unwrap();
    books.pay(&invoice, 2_000);
    assert_eq!(books.pay(&invoice, 300), Credit::Repeated(Some(session.id)), "while it is credit");
    assert_eq!(books.sweep(0, 1_001, 9_000).unwrap().expired, 1);
    assert_eq!(books.owed(Account::ViewerCredit), 0);
    assert_eq!(books.pay(&invoice, 4_000), Credit::Repeated(None));
    books.reopen();
    assert_eq!((books.owed(Account::ViewerCredit), books.owed(Account::Unclaimed)), (0, 4_000));
    assert!(books.session(session.id).unwrap().unwrap().credit.is_zero());
}

fn a_session_without_an_invoice_counts_as_unpaid_until_it_has_one_or_is_forgotten<K: Kind>(
    books: &mut Books<K>,
) {
    let (one, two) = (session(1), session(2));
    for session in [&one, &two] {
        books.put_session(&SessionRecord { paused: true, ..session.clone() }).unwrap();
        books.put_session(&SessionRecord { paused: false, ..session.clone() }).unwrap();
    }
    books.reopen();
    assert_eq!(books.unpaid(), 2);
    books.open_invoice(&one, &session_invoice(&one, 1, 2_000)).unwrap();
    assert_eq!(books.unpaid(), 2, "its invoice takes its place");
    books.put_session(&SessionRecord { ended: true, ..one.clone() }).unwrap();
    books.open_invoice(&one, &session_invoice(&one, 2, 2_000)).unwrap();
    assert_eq!(books.unpaid(), 3);
    assert_eq!(books.forget_sessions(one.expires_at + 1).unwrap(), 1, "the one without");
    books.reopen();
    assert_eq!(books.unpaid(), 2);
}
