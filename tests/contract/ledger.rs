//! Money in and money earned, each exactly once.

use sluice::domain::amount::{Msat, Share};
use sluice::domain::ledger::{Account, Split};
use sluice::store::{
    ChannelBooking, Credit, Draw, Invoice, Ledger as _, Origin, Progress, Redeem, Sessions as _,
    Swept,
};

use crate::books::{
    Books, Kind, TOLD, TOLD_BEFORE, creator, hash, invoice, payment, segment, session,
    session_invoice, split, suite,
};

suite! {
    a_payment_is_credit_until_it_is_redeemed
    an_excess_is_unclaimed
    an_underpayment_opens_nothing_and_is_not_lost
    money_that_nobody_asked_for_is_unclaimed
    payments_below_a_satoshi_that_nobody_asked_for_are_one_entry_a_day_and_none_is_booked_twice
    a_second_payment_of_a_hash_is_kept_as_unclaimed
    a_payment_told_again_after_a_failure_credits_nothing
    a_payment_told_again_by_another_boot_credits_nothing
    the_event_after_a_proof_credits_only_an_excess
    a_proof_after_the_event_credits_nothing
    a_credential_is_redeemed_once_and_opens_again_within_the_grace
    a_credential_opens_no_other_segment
    the_fee_is_rounded_down_and_nothing_is_lost
    credit_that_nobody_redeems_goes_to_the_creator_whole
    an_unpaid_invoice_is_forgotten_after_its_time_and_paid_still_is_not_lost
    a_redeemed_invoice_is_forgotten_and_its_payment_is_not_booked_again
    a_session_is_drawn_once_a_segment
    what_is_swept_of_a_session_is_no_longer_its_credit
    a_channel_is_booked_once
    a_forward_is_booked_once_under_its_number
    entries_come_page_by_page_in_one_order
}

fn a_payment_is_credit_until_it_is_redeemed<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    assert_eq!(books.redeem(&invoice.hash, segment(1), 5, 60).unwrap(), Redeem::Unpaid);
    let progress = Progress::Credited { at_ms: 1_000 };
    let credited = Invoice { progress, credited: Msat::new(2_000), ..invoice.clone() };
    assert_eq!(books.pay(&invoice, 2_000), Credit::Applied(credited.clone()));
    books.reopen();
    assert_eq!(books.invoice(&invoice.hash).unwrap(), Some(credited));
    assert_eq!(books.owed(Account::ViewerCredit), 2_000);
    assert_eq!(books.balance(Account::ChannelFunds).unwrap(), 2_000);
    assert_eq!(books.redeem(&invoice.hash, segment(1), 5, 60).unwrap(), Redeem::First);
    books.reopen();
    assert_eq!(books.owed(Account::ViewerCredit), 0);
    assert_eq!(books.owed(Account::CreatorPayable(creator(1))), 1_940);
    assert_eq!(books.owed(Account::OperatorFee), 60);
}

fn an_excess_is_unclaimed<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    let Credit::Overpaid(of, excess) = books.pay(&invoice, 2_500) else { panic!("overpaid") };
    assert_eq!((of.hash, excess), (invoice.hash, Msat::new(500)));
    assert_eq!(books.owed(Account::ViewerCredit), 2_000);
    assert_eq!(books.owed(Account::Unclaimed), 500);
}

fn an_underpayment_opens_nothing_and_is_not_lost<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    assert_eq!(books.pay(&invoice, 1_999), Credit::Unclaimed);
    assert_eq!(books.redeem(&invoice.hash, segment(1), 5, 60).unwrap(), Redeem::Unpaid);
    assert_eq!(books.owed(Account::Unclaimed), 1_999);
    assert_eq!(books.owed(Account::ViewerCredit), 0);
}

fn money_that_nobody_asked_for_is_unclaimed<K: Kind>(books: &mut Books<K>) {
    let stray = payment(hash(7), 500, 1);
    assert_eq!(books.credit(stray, TOLD, 1).unwrap(), Credit::Unclaimed);
    assert_eq!(books.credit(stray, TOLD, 1).unwrap(), Credit::Repeated(None));
    books.reopen();
    let replayed = books.credit(payment(hash(7), 500, 2), TOLD, 1).unwrap();
    assert_eq!(replayed, Credit::Replayed);
    assert_eq!(books.owed(Account::Unclaimed), 1_000);
}

fn payments_below_a_satoshi_that_nobody_asked_for_are_one_entry_a_day_and_none_is_booked_twice<
    K: Kind,
>(
    books: &mut Books<K>,
) {
    const DAY_MS: u64 = 86_400_000;
    let dust = |n: u64, boot| payment(hash(u128::from(n)), 900 + n, boot);
    let sum: u64 = (0..20).map(|n| 900 + n).sum();
    for (n, at_ms) in (0..20).zip((0..).map(|tenth| tenth * DAY_MS / 10)) {
        assert_eq!(books.credit(dust(n, 1), TOLD, at_ms).unwrap(), Credit::Unclaimed);
    }
    books.reopen();
    for n in 0..20 {
        assert_eq!(books.credit(dust(n, 2), TOLD, 3 * DAY_MS).unwrap(), Credit::Replayed);
    }
    let ids = |books: &Books<K>| {
        let entries = books.entries(None, 99).unwrap();
        entries.into_iter().map(|entry| entry.id).collect::<Vec<_>>()
    };
    assert_eq!(ids(books), ["dust:0", "dust:1"]);
    assert!(books.unclaimed(None, 99).unwrap().is_empty());
    let sum = i128::from(sum);
    assert_eq!((books.owed(Account::Unclaimed), books.owed(Account::ChannelFunds)), (sum, -sum));
    let all = books.entries(None, 99).unwrap();
    let funds = all.iter().flat_map(|entry| &entry.postings);
    let funds = funds.filter(|(account, _)| *account == Account::ChannelFunds);
    assert_eq!(funds.map(|(_, amount)| amount).sum::<i128>(), sum, "the entries say the same");
    // One of them was for an invoice, whose record comes back late.
    books.restore(None, &invoice(5, 905)).unwrap();
    let proof = books.credit(payment(hash(5), 905, 0), Origin::Proof, 5).unwrap();
    assert!(matches!(proof, Credit::Applied(_)), "{proof:?}");
    assert_eq!(
        (books.owed(Account::Unclaimed), books.owed(Account::ViewerCredit)),
        (sum - 905, 905)
    );
    // A whole satoshi is listed.
    books.credit(payment(hash(30), 1_000, 2), TOLD, 1).unwrap();
    assert_eq!(books.unclaimed(None, 99).unwrap().len(), 1);
}

fn a_second_payment_of_a_hash_is_kept_as_unclaimed<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    books.pay(&invoice, 2_000);
    for _ in 0..2 {
        assert_eq!(books.pay(&invoice, 2_000), Credit::Repeated(None));
    }
    assert_eq!(books.owed(Account::Unclaimed), 4_000);
    assert_eq!(books.redeem(&invoice.hash, segment(1), 5, 60).unwrap(), Redeem::First);
    assert_eq!(books.owed(Account::CreatorPayable(creator(1))), 1_940, "earned once");
}

fn a_payment_told_again_after_a_failure_credits_nothing<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    books.pay(&invoice, 2_000);
    let told = books.credit(payment(invoice.hash, 2_000, 1), TOLD_BEFORE, 1).unwrap();
    assert_eq!(told, Credit::Replayed);
    assert_eq!(books.balance(Account::ChannelFunds).unwrap(), 2_000);
    let fresh = Invoice { hash: hash(2), ..invoice };
    books.record(&fresh).unwrap();
    let told = books.credit(payment(fresh.hash, 2_000, 1), TOLD_BEFORE, 1).unwrap();
    assert!(matches!(told, Credit::Applied(_)), "the earlier telling was not booked");
}

fn a_payment_told_again_by_another_boot_credits_nothing<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    books.pay(&invoice, 2_000);
    for boot in [2, 3, 9] {
        books.reopen();
        let told = books.credit(payment(invoice.hash, 2_000, boot), TOLD, 1).unwrap();
        assert_eq!(told, Credit::Replayed, "boot {boot}");
    }
    let second = books.credit(payment(invoice.hash, 2_000, 9), TOLD, 1).unwrap();
    assert_eq!(second, Credit::Repeated(None), "twice in one boot is two payments");
    // LDK may tell all that was ever claimed once more, and each of the two is known.
    books.reopen();
    for nth in ["first", "second"] {
        let told = books.credit(payment(invoice.hash, 2_000, 12), TOLD, 1).unwrap();
        assert_eq!(told, Credit::Replayed, "the {nth} payment told again");
    }
    let third = books.credit(payment(invoice.hash, 2_000, 12), TOLD, 1).unwrap();
    assert_eq!(third, Credit::Repeated(None), "more tellings than payments that were known");
    assert_eq!(books.balance(Account::ChannelFunds).unwrap(), 6_000);
}

fn the_event_after_a_proof_credits_only_an_excess<K: Kind>(books: &mut Books<K>) {
    for (number, received, excess) in [(1, 2_000, 0), (2, 2_300, 300)] {
        let invoice = invoice(number, 2_000);
        books.record(&invoice).unwrap();
        let proof = books.credit(payment(invoice.hash, 2_000, 0), Origin::Proof, 1).unwrap();
        assert!(matches!(proof, Credit::Applied(_)));
        books.redeem(&invoice.hash, segment(1), 5, 60).unwrap();
        books.reopen();
        let told = books.credit(payment(invoice.hash, received, 4), TOLD, 1).unwrap();
        match told {
            Credit::Replayed => assert_eq!(excess, 0),
            Credit::Overpaid(_, more) => assert_eq!(more, Msat::new(excess)),
            other => panic!("{other:?}"),
        }
        let again = books.credit(payment(invoice.hash, received, 5), TOLD, 1).unwrap();
        assert_eq!(again, Credit::Replayed);
    }
    assert_eq!(books.balance(Account::ChannelFunds).unwrap(), 4_300);
    assert_eq!(books.owed(Account::Unclaimed), 300);
}

fn a_proof_after_the_event_credits_nothing<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    books.pay(&invoice, 2_000);
    for _ in 0..2 {
        let proof = books.credit(payment(invoice.hash, 2_000, 0), Origin::Proof, 1).unwrap();
        assert_eq!(proof, Credit::Replayed);
    }
    let replayed = books.credit(payment(invoice.hash, 2_000, 2), TOLD, 1).unwrap();
    assert_eq!(replayed, Credit::Replayed);
}

fn a_credential_is_redeemed_once_and_opens_again_within_the_grace<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    books.pay(&invoice, 2_000);
    let redeem = |books: &Books<K>, at| books.redeem(&invoice.hash, segment(1), at, 60).unwrap();
    assert_eq!(redeem(books, 1_000), Redeem::First);
    books.reopen();
    assert_eq!(redeem(books, 1_000), Redeem::Again);
    assert_eq!(redeem(books, 1_060), Redeem::Again);
    assert_eq!(redeem(books, 1_061), Redeem::Spent);
    assert_eq!(books.owed(Account::CreatorPayable(creator(1))), 1_940);
}

fn a_credential_opens_no_other_segment<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    books.pay(&invoice, 2_000);
    assert_eq!(books.redeem(&invoice.hash, segment(2), 5, 60).unwrap(), Redeem::Unknown);
    assert_eq!(books.redeem(&hash(9), segment(1), 5, 60).unwrap(), Redeem::Unknown);
    let session = session(1);
    let other = session_invoice(&session, 2, 2_000);
    books.open_invoice(&session, &other).unwrap();
    books.pay(&other, 2_000);
    assert_eq!(books.redeem(&other.hash, segment(1), 5, 60).unwrap(), Redeem::Unknown);
    assert_eq!(books.owed(Account::ViewerCredit), 4_000);
}

fn the_fee_is_rounded_down_and_nothing_is_lost<K: Kind>(books: &mut Books<K>) {
    for (number, fee_ppm, amount, fee) in
        [(1, 30_000, 33, 0), (2, 1_000_000, 7, 7), (3, 0, 7, 0), (4, 333_333, 1_000, 333)]
    {
        let split = Split { creator: creator(number), fee: Share::from_ppm(fee_ppm).unwrap() };
        let invoice = Invoice { split, ..invoice(number, amount) };
        let before = books.owed(Account::OperatorFee);
        books.record(&invoice).unwrap();
        books.pay(&invoice, amount);
        books.redeem(&invoice.hash, segment(1), 5, 60).unwrap();
        assert_eq!(books.owed(Account::OperatorFee) - before, fee);
        assert_eq!(books.owed(Account::CreatorPayable(creator(number))), i128::from(amount) - fee);
    }
}

fn credit_that_nobody_redeems_goes_to_the_creator_whole<K: Kind>(books: &mut Books<K>) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    books.pay(&invoice, 2_000);
    assert_eq!(books.sweep(0, 1_000, 9_000).unwrap(), Swept::default(), "not yet");
    assert_eq!(books.sweep(0, 1_001, 9_000).unwrap(), Swept { forgotten: 0, expired: 1 });
    assert_eq!(books.sweep(0, 1_001, 9_000).unwrap(), Swept::default(), "once");
    books.reopen();
    assert_eq!(books.owed(Account::CreatorPayable(creator(1))), 2_000);
    assert_eq!(books.owed(Account::ViewerCredit), 0);
    assert_eq!(books.redeem(&invoice.hash, segment(1), 9_001, 60).unwrap(), Redeem::Spent);
}

fn an_unpaid_invoice_is_forgotten_after_its_time_and_paid_still_is_not_lost<K: Kind>(
    books: &mut Books<K>,
) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    assert_eq!(books.sweep(600, 0, 9_000).unwrap(), Swept::default(), "it expires at 600");
    assert_eq!(books.sweep(601, 0, 9_000).unwrap(), Swept { forgotten: 1, expired: 0 });
    books.reopen();
    assert_eq!(books.invoice(&invoice.hash).unwrap(), None);
    assert_eq!(books.redeem(&invoice.hash, segment(1), 5, 60).unwrap(), Redeem::Unknown);
    assert_eq!(books.pay(&invoice, 2_000), Credit::Unclaimed);
}

fn a_redeemed_invoice_is_forgotten_and_its_payment_is_not_booked_again<K: Kind>(
    books: &mut Books<K>,
) {
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    books.pay(&invoice, 2_000);
    books.redeem(&invoice.hash, segment(1), 2_000, 60).unwrap();
    assert_eq!(books.sweep(0, 2_001, 9_000).unwrap(), Swept { forgotten: 1, expired: 0 });
    books.reopen();
    let told = books.credit(payment(invoice.hash, 2_000, 2), TOLD, 1).unwrap();
    assert_eq!(told, Credit::Replayed, "credited hashes are never pruned");
    books.record(&invoice).unwrap();
    let proof = books.credit(payment(invoice.hash, 2_000, 0), Origin::Proof, 1).unwrap();
    assert_eq!(proof, Credit::Replayed);
    let opened = books.redeem(&invoice.hash, segment(1), 9_000, 60).unwrap();
    assert_eq!(opened, Redeem::Unpaid, "what was served is not served for ever");
}

fn a_session_is_drawn_once_a_segment<K: Kind>(books: &mut Books<K>) {
    let session = session(1);
    let invoice = session_invoice(&session, 1, 3_000);
    books.open_invoice(&session, &invoice).unwrap();
    let draw = |books: &Books<K>, number| {
        books.draw(session.id, segment(number), Msat::new(2_000), &split(), 5).unwrap()
    };
    assert_eq!(draw(books, 1), Draw::Short { credit: Msat::ZERO });
    books.pay(&invoice, 3_000);
    assert_eq!(draw(books, 1), Draw::First);
    books.reopen();
    assert_eq!(draw(books, 1), Draw::Again);
    assert_eq!(draw(books, 2), Draw::Short { credit: Msat::new(1_000) });
    assert_eq!(books.pay(&invoice, 3_000), Credit::Repeated(Some(session.id)));
    assert_eq!(draw(books, 2), Draw::First);
    let state = books.session(session.id).unwrap().unwrap();
    assert_eq!((state.credit.get(), state.spent.get(), state.served.len()), (2_000, 4_000, 2));
    assert_eq!(books.owed(Account::ViewerCredit), 2_000);
}

fn what_is_swept_of_a_session_is_no_longer_its_credit<K: Kind>(books: &mut Books<K>) {
    let session = session(1);
    for (number, amount) in [(1, 3_000), (2, 3_000)] {
        let invoice = session_invoice(&session, number, amount);
        books.open_invoice(&session, &invoice).unwrap();
        books.pay(&invoice, amount);
    }
    books.draw(session.id, segment(1), Msat::new(2_000), &split(), 5).unwrap();
    assert_eq!(books.sweep(0, 1_001, 9_000).unwrap(), Swept { forgotten: 0, expired: 2 });
    books.reopen();
    let state = books.session(session.id).unwrap().unwrap();
    assert_eq!(state.credit, Msat::ZERO, "never below");
    assert_eq!(books.owed(Account::ViewerCredit), 0);
    assert_eq!(books.owed(Account::CreatorPayable(creator(1))), 1_940 + 4_000);
    assert_eq!(books.sweep(0, 9_001, 9_999).unwrap(), Swept { forgotten: 2, expired: 0 });
    assert!(books.session(session.id).unwrap().unwrap().invoices.is_empty());
}

fn a_channel_is_booked_once<K: Kind>(books: &mut Books<K>) {
    let opened = ChannelBooking::Opened { channel: "aa".to_owned(), balance: Msat::new(50_000) };
    assert!(books.book_channel(&opened, 1).unwrap());
    assert!(!books.book_channel(&opened, 1).unwrap());
    let invoice = invoice(1, 2_000);
    books.record(&invoice).unwrap();
    books.pay(&invoice, 2_000);
    books.channel_closed("aa").unwrap();
    books.reopen();
    assert_eq!(books.closings().unwrap(), ["aa"]);
    // A channel that was never booked as opened is not in the books.
    let remaining = vec![("cc".to_owned(), Msat::new(9_000))];
    let closed = |books| ChannelBooking::Closed {
        channel: "aa".to_owned(),
        remaining: remaining.clone(),
        books,
    };
    assert!(!books.book_channel(&closed(50_000), 2).unwrap(), "a payment came in between");
    let closed = closed(52_000);
    assert!(books.book_channel(&closed, 2).unwrap());
    books.reopen();
    assert!(!books.book_channel(&closed, 3).unwrap());
    assert!(!books.book_channel(&opened, 3).unwrap());
    books.channel_closed("aa").unwrap();
    assert!(books.closings().unwrap().is_empty(), "told again, it stays booked");
    assert_eq!(books.balance(Account::ChannelFunds).unwrap(), 0);
    assert_eq!(books.balance(Account::OnchainFunds).unwrap(), 52_000);
    assert_eq!(books.owed(Account::Capital), 50_000);
    let empty = ChannelBooking::Opened { channel: "bb".to_owned(), balance: Msat::ZERO };
    assert!(books.book_channel(&empty, 1).unwrap());
    assert!(!books.book_channel(&empty, 1).unwrap());
}

fn a_forward_is_booked_once_under_its_number<K: Kind>(books: &mut Books<K>) {
    for _ in 0..2 {
        books.book_forward(1, 0, Msat::new(7), 1).unwrap();
        books.reopen();
    }
    books.book_forward(1, 1, Msat::new(5), 1).unwrap();
    assert_eq!(books.balance(Account::ChannelFunds).unwrap(), 12);
    assert_eq!(books.owed(Account::Forwarding), 12);
}

fn entries_come_page_by_page_in_one_order<K: Kind>(books: &mut Books<K>) {
    for number in 0..20 {
        books.credit(payment(hash(number), 1_000, 1), TOLD, 1).unwrap();
    }
    let all = books.entries(None, 1_000).unwrap();
    assert_eq!(all.len(), 20);
    assert!(all.is_sorted_by(|one, next| one.id < next.id));
    books.reopen();
    let mut paged = Vec::new();
    while paged.len() < all.len() {
        let after = paged.last().map(|entry: &sluice::domain::ledger::Entry| entry.id.clone());
        let page = books.entries(after.as_deref(), 7).unwrap();
        assert!((1..=7).contains(&page.len()));
        paged.extend(page);
    }
    assert_eq!(paged, all);
    assert!(books.entries(all.last().map(|entry| entry.id.as_str()), 7).unwrap().is_empty());
}
