//! Paid segments by the real executable beside nginx, which serves the same files to anybody: 64 kept connections, each request with a
//! credential of its own that was paid and not served before, so that each is verified, redeemed and earned.
//!
//! `make bench ARGS="--bench serving"`; `SLUICE_SECONDS` sets the length of a round.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use sluice::blobs::Blobs;

#[path = "common/figures.rs"]
mod figures;
#[path = "common/film.rs"]
mod film;
#[path = "common/load.rs"]
mod load;
#[path = "common/nginx.rs"]
mod nginx;
#[path = "../tests/regtest/world.rs"]
mod world;

use figures::{Goal, ROUNDS, compare, median};
use film::{Film, Paid};
use load::{get, run};
use nginx::Nginx;
use world::server::{Serving, Settings};

const CONNECTIONS: usize = 64;
/// Segments that are asked for in turn: hot ones.
const SEGMENTS: u32 = 16;

struct Case {
    name: &'static str,
    film: Film,
    paid: Vec<Paid>,
    taken: AtomicUsize,
    /// Bytes or requests.
    by_bytes: bool,
    goal: f64,
}

impl Case {
    /// Rounds of both, turn by turn.
    fn measure(&self, server: &str, nginx: &str, lasts: Duration) {
        let files: Vec<_> =
            (0..self.film.segments).map(|number| get(&self.film.file(number), None)).collect();
        let (mut ours, mut theirs, mut waits) = (Vec::new(), Vec::new(), (Vec::new(), Vec::new()));
        for round in 0..=ROUNDS {
            let limit = run(nginx, CONNECTIONS, lasts, |connection| {
                let mut turns = files.iter().cycle().skip(connection);
                move || turns.next().cloned()
            });
            let sluice = run(server, CONNECTIONS, lasts, |_| || self.next());
            // The first warms both.
            if round > 0 {
                let rate = |of: &load::Answered| {
                    if self.by_bytes { of.bytes_per_second() / 1e6 } else { of.per_second() }
                };
                ours.push(rate(&sluice));
                theirs.push(rate(&limit));
                waits.0.push(sluice.p99_ms());
                waits.1.push(limit.p99_ms());
            }
        }
        let unit = if self.by_bytes { "MB/s" } else { "requests/s" };
        compare(self.name, unit, &ours, &theirs, Goal::AtLeast(self.goal));
        if self.by_bytes {
            compare("  p99 of the wait", "ms", &waits.0, &waits.1, Goal::AtMost(2.0));
        } else {
            println!("  p99 {:.1} ms, nginx {:.1} ms", median(&waits.0), median(&waits.1));
        }
        let taken = self.taken.load(Ordering::Relaxed);
        println!("  {} of {} payments redeemed", taken.min(self.paid.len()), self.paid.len());
    }

    /// The next payment's request; nothing once all are redeemed.
    fn next(&self) -> Option<Vec<u8>> {
        let paid = self.paid.get(self.taken.fetch_add(1, Ordering::Relaxed))?;
        Some(get(&self.film.path(paid.number), Some(&paid.credential)))
    }
}

async fn prepare(server: &Serving) -> Vec<Case> {
    let store = film::prepare(&server.data_dir);
    let blobs = Blobs::on_disk(&server.data_dir.join("media")).unwrap();
    let now_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    let cases = [
        ("segments of 1 MB", 1_000_000, true, 0.8, 60_000),
        ("segments of 50 kB", 50_000, false, 0.6, 300_000),
    ];
    let mut prepared = Vec::new();
    for (number, (name, bytes, by_bytes, goal, payments)) in cases.into_iter().enumerate() {
        let film = film::publish(&store, &blobs, number as u128 + 10, SEGMENTS, bytes).await;
        let paid = film::pay(&store, film, payments, now_ms);
        prepared.push(Case { name, film, paid, taken: AtomicUsize::new(0), by_bytes, goal });
    }
    prepared
}

fn main() {
    let seconds = std::env::var("SLUICE_SECONDS").ok().and_then(|text| text.parse().ok());
    let lasts = Duration::from_secs_f64(seconds.unwrap_or(2.0));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (bitcoind, mut server, cases) = runtime.block_on(async {
        let bitcoind = world::bitcoind().await;
        let server = Serving::prepare(&dir.path().join("server"), &bitcoind, &Settings::default());
        let cases = prepare(&server).await;
        (bitcoind, server, cases)
    });
    // As many threads as nginx has processes.
    let cores = std::thread::available_parallelism().unwrap().to_string();
    runtime.block_on(server.start(&[("TOKIO_WORKER_THREADS", &cores)]));
    let nginx = Nginx::start(dir.path(), &server.data_dir.join("media"));
    for case in cases {
        case.measure(&server.http, &nginx.address, lasts);
    }
    runtime.block_on(server.stop());
    drop(bitcoind);
}
