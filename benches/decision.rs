//! The gate on one thread: fresh 402 challenges, whole (request, title, price, invoice, its record on RocksDB, credential, answer), beside
//! nothing but the signing of as many invoices; and how long a decision takes while 5,000 a second are due.
//!
//! `make bench ARGS="--bench decision"`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::Request;
use sluice::domain::amount::Share;
use sluice::domain::id::CreatorId;
use sluice::domain::ledger::Split;
use sluice::http::router;
use sluice::lightning::Network;
use sluice::lightning::mint::Mint;
use sluice::paywall::token::parse_authorization;
use sluice::paywall::{Client, Offer};
use tower::ServiceExt as _;
use uuid::Uuid;

#[path = "common/figures.rs"]
mod figures;
#[path = "common/film.rs"]
mod film;
#[path = "common/gate.rs"]
mod gate;

use figures::{Goal, ROUNDS, compare, median, ms, quantile};
use film::{Film, SEGMENT_PRICE};
use gate::Gate;

const SEGMENTS: u32 = 64;
/// Of a round, in each turn.
const CHALLENGES: usize = 10_000;
const DECISIONS_PER_SECOND: u32 = 5_000;
const DECISIONS: usize = 3 * DECISIONS_PER_SECOND as usize;

fn now() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap()
}

async fn challenges(router: &Router, film: Film) -> f64 {
    let begun = Instant::now();
    for n in 0..CHALLENGES {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = film.path(n as u32 % SEGMENTS).parse().unwrap();
        let peer = SocketAddr::from(([127, 0, 0, 1], 1));
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.clone().oneshot(request).await.unwrap();
        assert_eq!(answer.status(), 402);
        let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
        assert!(body.len() > 300);
    }
    CHALLENGES as f64 / begun.elapsed().as_secs_f64()
}

fn signatures(mint: &Mint) -> f64 {
    let begun = Instant::now();
    for _ in 0..CHALLENGES {
        let minted = mint.invoice(SEGMENT_PRICE, Duration::from_secs(600), Vec::new(), now(), None);
        assert!(minted.unwrap().bolt11.len() > 200);
    }
    CHALLENGES as f64 / begun.elapsed().as_secs_f64()
}

/// How long decisions take from when they are due, whenever they begin: one that is late makes those behind it late, and all of that counts.
#[derive(Default)]
struct Waits {
    /// From when it was due to its end.
    due: Vec<f64>,
    /// Until it began: the one before it, a sleep that was too long, or another process that had the processor.
    began: Vec<f64>,
}

/// One decision after the other on this thread, each when it is due. Until then the thread sleeps: one that span would use up its share of the
/// processor, and be made to wait while it decides.
async fn decisions(gate: &Gate) -> Waits {
    let paid = film::pay(&*gate.store, gate.film, DECISIONS, now().as_millis() as u64);
    let split = Split {
        creator: CreatorId::new(Uuid::from_u128(1)),
        fee: Share::from_ppm(30_000).unwrap(),
    };
    let client = Client::from(std::net::IpAddr::from([127, 0, 0, 1]));
    let every = Duration::from_secs(1) / DECISIONS_PER_SECOND;
    let begun = Instant::now() + every;
    let mut waits = Waits::default();
    for (n, paid) in paid.iter().enumerate() {
        let due = begun + every * n as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        waits.began.push(ms(due.elapsed()));
        let segment = gate.film.segment(paid.number);
        let offer = Offer { segment, price: Some(SEGMENT_PRICE), split };
        let presented = [parse_authorization(paid.credential.as_bytes()).unwrap()];
        let opening = gate.shared.paywall.opening(&offer, &presented, client).await.unwrap();
        assert!(gate.shared.paywall.redeem(&opening.unwrap(), client).unwrap());
        waits.due.push(ms(due.elapsed()));
    }
    waits
}

async fn measure() {
    let dir = tempfile::tempdir().unwrap();
    let gate = Gate::open(dir.path(), SEGMENTS, 50_000).await;
    let router = router(Arc::clone(&gate.shared));
    let mint = Mint::new(Network::Regtest, &film::SEED).unwrap();
    challenges(&router, gate.film).await;
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        limit.push(signatures(&mint));
        ours.push(challenges(&router, gate.film).await);
    }
    compare("fresh challenges on one thread", "a second", &ours, &limit, Goal::AtLeast(0.5));

    // The kernel lets a sleep last 50 µs longer by default.
    nix::sys::prctl::set_timerslack(1).unwrap();
    let (mut p50, mut p99, mut late) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let waits = decisions(&gate).await;
        p50.push(quantile(&waits.due, 0.5));
        p99.push(quantile(&waits.due, 0.99));
        late.push(quantile(&waits.began, 0.99));
    }
    println!("a decision at {DECISIONS_PER_SECOND} a second, each a first redemption:");
    println!(
        "  p50 {:.3} ms, p99 {p99:.3?} -> median {:.3} ms, goal under 1",
        median(&p50),
        median(&p99)
    );
    println!("  of that it began late: p99 {late:.3?} -> median {:.3} ms", median(&late));
    gate.tasks.stop(Duration::from_secs(5)).await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}
