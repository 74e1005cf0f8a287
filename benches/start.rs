//! How long a start takes with a million settled payments in the store, beside one with an empty store, turn by turn.
//!
//! `make bench ARGS="--bench start"`; `SLUICE_PAYMENTS` sets the number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sluice::blobs::Blobs;
use sluice::config::Config;
use sluice::domain::ledger::Account;
use sluice::paywall::limits::LATE_SECONDS;
use sluice::store::{Ledger as _, Redeem, Storage as _, Store};

#[path = "common/bulk.rs"]
mod bulk;
#[path = "common/figures.rs"]
mod figures;
#[path = "common/film.rs"]
mod film;
#[path = "../tests/regtest/world.rs"]
mod world;

use bulk::Bulk;
use figures::{ROUNDS, median};
use world::server::{Serving, Settings, resident_kib};

const PAYMENTS: usize = 1_000_000;
/// In which they came in.
const TOOK: Duration = Duration::from_secs(30 * 86_400);
/// Of one moment.
const BATCH: usize = 1_000;

/// Fills a store through its own verbs, with what a server has after that many payments of [`TOOK`], evenly spread: each was recorded, credited,
/// redeemed and earned, and the invoices that may be forgotten by now are.
async fn fill(server: &Serving, payments: usize) {
    let store = Store::new(Bulk::new(film::database(&server.data_dir)));
    let blobs = Blobs::on_disk(&server.data_dir.join("media")).unwrap();
    let film = film::publish(&store, &blobs, 10, 64, 1_000).await;
    let begun = Instant::now();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    for done in (0..payments).step_by(BATCH) {
        let ago = TOOK * (payments - done) as u32 / payments as u32;
        let then = (now - ago).as_millis() as u64;
        for (paid, hash) in film::pay_hashes(&store, film, BATCH.min(payments - done), then) {
            let outcome = store.redeem(&hash, film.segment(paid), then, 60_000).unwrap();
            assert_eq!(outcome, Redeem::First);
        }
    }
    let booked = begun.elapsed().as_secs_f64();
    let redeemable = Duration::from_secs(Config::default().payment.redeem_seconds);
    let (kept_ms, now_ms) = ((now - redeemable).as_millis() as u64, now.as_millis() as u64);
    let swept = store.sweep(now.as_secs() - LATE_SECONDS, kept_ms, now_ms).unwrap();
    store.flush().unwrap();
    let balance = store.balances().unwrap();
    assert_eq!(balance.of(Account::ViewerCredit), 0);
    println!(
        "{payments} payments booked in {booked:.0} s, {} invoices forgotten in {:.0} s",
        swept.forgotten,
        begun.elapsed().as_secs_f64() - booked
    );
}

/// From the executable's start until it answers that it is alive.
async fn start(server: &mut Serving) -> (f64, u64) {
    let begun = Instant::now();
    server.start(&[]).await;
    assert_eq!(server.anybody().status("/healthz").await, 200);
    let seconds = begun.elapsed().as_secs_f64();
    let resident = resident_kib(server.pid());
    server.stop().await;
    (seconds, resident)
}

async fn measure() {
    let payments = std::env::var("SLUICE_PAYMENTS").ok().and_then(|text| text.parse().ok());
    let dir = tempfile::tempdir().unwrap();
    let bitcoind = world::bitcoind().await;
    let prepare = |name| Serving::prepare(&dir.path().join(name), &bitcoind, &Settings::default());
    let (mut full, mut empty) = (prepare("full"), prepare("empty"));
    fill(&full, payments.unwrap_or(PAYMENTS)).await;
    // The first start of each makes a wallet.
    start(&mut empty).await;
    let (first, _) = start(&mut full).await;
    let mut times = (Vec::new(), Vec::new());
    let mut resident = (0, 0);
    for _ in 0..ROUNDS {
        let (seconds, kib) = start(&mut empty).await;
        times.0.push(seconds);
        resident.0 = kib;
        let (seconds, kib) = start(&mut full).await;
        times.1.push(seconds);
        resident.1 = kib;
    }
    let (empty, full) = (median(&times.0), median(&times.1));
    println!("start: first with all of it {first:.2} s; then {full:.2} s, empty {empty:.2} s");
    println!("  {:.2} s more, goal within {:?}", full - empty, Duration::from_secs(5));
    println!("  resident {} MiB, empty {} MiB", resident.1 / 1_024, resident.0 / 1_024);
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}
