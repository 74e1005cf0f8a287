//! What must hold, told from what really happened: payments that arrived and bytes that went out.

use std::collections::BTreeMap;

use sluice::domain::id::PaymentHash;
use sluice::domain::ledger::{Account, Entry};
use sluice::runtime::Clock as _;
use sluice::store::{Ledger as _, Progress, Purpose, Sessions as _};

use crate::world::{GRACE_MS, REDEEM_MS, World, price};

/// The ledger's entries by what they book.
#[derive(Default)]
struct Books {
    /// What was booked of each payment hash, and in how many entries.
    credited: BTreeMap<PaymentHash, (u64, usize)>,
    earned: BTreeMap<PaymentHash, u64>,
    /// By session and segment number.
    drawn: BTreeMap<(String, u32), u64>,
    expired: BTreeMap<PaymentHash, u64>,
}

impl Books {
    fn read(world: &World) -> Self {
        let mut books = Self::default();
        for entry in world.process.store.entries(None, usize::MAX).unwrap() {
            let parts: Vec<_> = entry.id.split(':').collect();
            match parts[..] {
                ["credit", hash, _] => {
                    let amount = moved(&entry, |of| *of == Account::ChannelFunds);
                    let sum = books.credited.entry(hash.parse().unwrap()).or_default();
                    *sum = (sum.0 + amount, sum.1 + 1);
                }
                // A hash that was paid again may be earned or expire again.
                ["earn", hash] | ["earn", hash, _] => {
                    *books.earned.entry(hash.parse().unwrap()).or_default() += from_viewers(&entry);
                }
                ["draw", session, number] => {
                    let key = (session.to_owned(), number.parse().unwrap());
                    books.drawn.insert(key, from_viewers(&entry));
                }
                ["expire", hash] | ["expire", hash, _] => {
                    *books.expired.entry(hash.parse().unwrap()).or_default() +=
                        from_viewers(&entry);
                }
                // What was nobody's became a viewer's, by his proof.
                ["claim", ..] => {}
                _ => panic!("an entry that nothing here causes: {}", entry.id),
            }
        }
        books
    }
}

fn moved(entry: &Entry, of: impl Fn(&Account) -> bool) -> u64 {
    let amounts = entry.postings.iter().filter(|(account, _)| of(account));
    amounts.map(|(_, amount)| u64::try_from(amount.abs()).unwrap()).sum()
}

fn from_viewers(entry: &Entry) -> u64 {
    moved(entry, |of| *of == Account::ViewerCredit)
}

fn owed(world: &World, account: Account) -> u64 {
    u64::try_from(-world.process.store.balance(account).unwrap()).expect("a liability")
}

/// After every step: cheap.
pub fn glance(world: &World) {
    let balances = world.process.store.balances().unwrap();
    assert_eq!(balances.iter().map(|(_, sum)| sum).sum::<i128>(), 0, "the books sum to zero");
}

/// After some steps, and at the end.
pub fn look(world: &World) {
    glance(world);
    let found = world.process.shared.statements.verify().unwrap();
    assert!(found.holds(), "{found:?}");
    let books = Books::read(world);
    nothing_is_booked_that_was_not_paid(world, &books);
    every_credited_millisatoshi_is_somewhere(world, &books);
    nobody_saw_more_than_he_paid(world, &books);
    no_segment_is_in_two_open_invoices(world);
}

fn nothing_is_booked_that_was_not_paid(world: &World, books: &Books) {
    let reality = world.machine.reality.lock().unwrap();
    for (hash, (booked, entries)) in &books.credited {
        let payments = reality.payments(hash);
        let paid: u64 = payments.iter().map(|of| of.get()).sum();
        assert!(*booked <= paid, "{hash}: {booked} booked, {paid} paid");
        // A proof and the excess that its event tells are two entries of one payment.
        assert!(*entries <= 2 * payments.len(), "{hash}: {entries} entries for {payments:?}");
        if payments.len() == 1 {
            assert!(
                *booked == paid || *booked == reality.invoice(hash).2.get(),
                "{hash}: once only"
            );
        }
    }
}

/// Credited = earned + credit + expired, and what nobody claims apart.
fn every_credited_millisatoshi_is_somewhere(world: &World, books: &Books) {
    let credited: u64 = books.credited.values().map(|(amount, _)| amount).sum();
    let earned = books.earned.values().chain(books.drawn.values()).sum::<u64>();
    let expired: u64 = books.expired.values().sum();
    let (credit, unclaimed) = (owed(world, Account::ViewerCredit), owed(world, Account::Unclaimed));
    let channels = world.process.store.balance(Account::ChannelFunds).unwrap();
    assert_eq!(channels, i128::from(credited), "money in");
    assert_eq!(
        credited,
        earned + expired + credit + unclaimed,
        "credited = earned + credit + expired + unclaimed"
    );
    // The credit is somebody's.
    let store = &world.process.store;
    let waits = |hash: &PaymentHash| {
        let invoice = store.invoice(hash).unwrap()?;
        let credited = matches!(invoice.progress, Progress::Credited { .. });
        let single = matches!(invoice.purpose, Purpose::Segment { .. });
        (credited && single).then_some(invoice.amount.get())
    };
    let singles: u64 = books.credited.keys().filter_map(waits).sum();
    let session = |of: &crate::world::Session| {
        store.session(of.id).unwrap().map_or(0, |state| state.credit.get())
    };
    let sessions: u64 = world.sessions.iter().map(session).sum();
    assert_eq!(credit, singles + sessions, "whose credit it is");
}

/// Served <= paid + preview, for each viewer and in all.
fn nobody_saw_more_than_he_paid(world: &World, books: &Books) {
    let reality = world.machine.reality.lock().unwrap();
    let mut seen = 0;
    for purchase in &world.purchases {
        let mut windows = 0;
        let mut open_until = 0;
        for at in &purchase.grants {
            if windows == 0 || *at > open_until {
                (windows, open_until) = (windows + 1, at + GRACE_MS);
            }
        }
        // Only a power cut lets a grace begin again, or makes a draw undone.
        assert!(windows <= 1 + world.cuts, "{}: {:?}", purchase.hash, purchase.grants);
        if windows > 0 {
            assert!(!reality.payments(&purchase.hash).is_empty(), "{} is unpaid", purchase.hash);
            seen += price(purchase.segment);
        }
    }
    for session in &world.sessions {
        let paid =
            |hash: &PaymentHash| -> u64 { reality.payments(hash).iter().map(|of| of.get()).sum() };
        let paid: u64 = session.invoices.keys().map(paid).sum();
        let served: u64 = session.served.iter().map(|n| price(*n)).sum();
        assert!(served <= paid, "session {}: saw {served} for {paid}", session.id);
        seen += served;
        let drawn = books.drawn.iter().filter(|((of, _), _)| *of == session.id.to_string());
        let drawn: u64 = drawn.map(|(_, amount)| amount).sum();
        assert!(drawn <= paid, "session {}: drew {drawn} of {paid}", session.id);
    }
    let paid: u64 = reality.claimed.iter().map(|(_, amount)| amount.get()).sum();
    assert!(seen <= paid, "in all: saw {seen} for {paid}");
}

fn no_segment_is_in_two_open_invoices(world: &World) {
    let now = world.machine.clock.now_s();
    for session in &world.sessions {
        let Some(state) = world.process.store.session(session.id).unwrap() else { continue };
        let mut planned: Vec<u32> = Vec::new();
        for invoice in state.invoices.iter().filter(|of| of.expires_at > now) {
            // One that was reported as failed has a successor.
            if session.invoices.get(&invoice.hash).is_some_and(|of| of.failed) {
                continue;
            }
            let Purpose::Session { segments, .. } = &invoice.purpose else { panic!("a session's") };
            planned.extend(segments.iter().map(|of| of.0));
        }
        let all = planned.len();
        planned.sort_unstable();
        planned.dedup();
        assert_eq!(planned.len(), all, "session {}: a segment is in two invoices", session.id);
    }
}

/// At the end, with all told and nothing failing: what was paid is booked, and is the viewer's to redeem.
pub async fn settle(world: &mut World) {
    world.machine.disk.mend();
    while world.process.node.waiting() > 0 {
        world.deliver_up_to(usize::MAX).await;
    }
    look(world);
    let books = Books::read(world);
    every_payment_is_booked(world, &books);
    for n in 0..world.purchases.len() {
        let hash = world.purchases[n].hash;
        if !world.is_paid(&hash) {
            continue;
        }
        match world.process.store.invoice(&hash).unwrap().map(|of| of.progress) {
            Some(Progress::Credited { .. }) => is_served(world, n).await,
            Some(Progress::Redeemed { .. } | Progress::Expired { .. }) => {}
            None if books.earned.contains_key(&hash) || books.expired.contains_key(&hash) => {}
            // A power cut took its record, and the event of a payment that came afterwards met none: the credential restores it.
            Some(Progress::Open) | None => {
                assert!(world.forgotten.contains(&hash), "{hash} is paid, and nobody knows");
                if world.proofs > 0 {
                    world.proofs -= 1;
                    is_served(world, n).await;
                }
            }
        }
    }
    claim_what_was_lost(world).await;
    look(world);
}

async fn is_served(world: &mut World, n: usize) {
    let status = world.show_one(n).await;
    let hash = world.purchases[n].hash;
    assert!(matches!(status, 200 | 206), "{hash} is paid and not served: {status}");
}

/// With its receipts a session gets back what a power cut took, and nothing twice.
async fn claim_what_was_lost(world: &mut World) {
    for n in 0..world.sessions.len() {
        // After its end a claim is listened to for as long as its credit would last.
        if world.machine.clock.now_ms() > world.sessions[n].keys_end_ms + REDEEM_MS {
            continue;
        }
        for hash in world.sessions[n].invoices.keys().copied().collect::<Vec<_>>() {
            let booked = world.process.store.invoice(&hash).unwrap();
            let open = booked.is_some_and(|of| of.progress == Progress::Open);
            if world.is_paid(&hash) && !open {
                world.claim(n, hash).await;
            }
        }
        let books = Books::read(world);
        let session = &world.sessions[n];
        let sum = |of: &BTreeMap<PaymentHash, u64>| -> u64 {
            session.invoices.keys().filter_map(|hash| of.get(hash)).sum()
        };
        let credited = books.credited.iter().map(|(hash, (amount, _))| (*hash, *amount)).collect();
        let id = session.id.to_string();
        let drawn = books.drawn.iter().filter(|((of, _), _)| *of == id);
        let drawn: u64 = drawn.map(|(_, amount)| amount).sum();
        let state = world.process.store.session(session.id).unwrap();
        let credit = state.map_or(0, |state| state.credit.get());
        assert_eq!(sum(&credited), drawn + sum(&books.expired) + credit, "session {id}");
    }
}

fn every_payment_is_booked(world: &World, books: &Books) {
    let reality = world.machine.reality.lock().unwrap();
    for (hash, ..) in &reality.minted {
        let payments = reality.payments(hash);
        let amounts = || payments.iter().map(|of| of.get());
        let booked = books.credited.get(hash).map_or(0, |(amount, _)| *amount);
        let sum: u64 = amounts().sum();
        // A second payment that another start tells than the first, or that is told once more after a failure, looks like a repetition:
        // verification against the node finds it.
        let exact = payments.len() <= 1 || (world.starts == 0 && world.machine.disk.failed() == 0);
        if exact {
            assert_eq!(booked, sum, "{hash}: {payments:?}");
        } else {
            assert!(booked >= amounts().min().unwrap_or(0) && booked <= sum, "{hash}: {booked}");
        }
    }
}
