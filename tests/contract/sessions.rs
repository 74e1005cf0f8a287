//! Sessions and their invoices.

use sluice::store::{Invoice, Ledger as _, Progress, SessionRecord, Sessions as _};

use crate::books::{Books, Kind, session, session_invoice, suite};

suite! {
    a_session_is_there_with_its_first_invoice
    a_later_invoice_changes_nothing_of_the_session
    sessions_do_not_see_each_other
    money_beyond_the_invoice_is_credit
    a_session_is_forgotten_after_its_end_and_not_before_its_money_is
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
    let paid = Invoice { progress: Progress::Credited { at_ms: 1_000 }, ..invoice };
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
