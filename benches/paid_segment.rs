//! From a segment's 402 to the last byte of its 200, beside the raw payment of the same two nodes, in one run and turn by turn, so that both
//! meet the same machine; and the memory of the server, idle and after all that.
//!
//! `make bench ARGS="--bench paid_segment"`; `SLUICE_ROUNDS` sets the number of rounds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::time::{Duration, Instant};

#[path = "../tests/regtest/world.rs"]
mod world;

use world::World;
use world::client::{Challenge, Client};
use world::server::{Settings, resident_kib};

/// Rounds of one purchase and one raw payment each.
const ROUNDS: usize = 150;
/// Rounds before, that are not counted: connections, routes and caches are new.
const WARM_UP: usize = 10;

/// Times of one kind.
struct Times(Vec<Duration>);

impl Times {
    fn quantile(&self, of: f64) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted[((sorted.len() - 1) as f64 * of) as usize]
    }

    fn print(&self, what: &str) {
        let ms = |of| self.quantile(of).as_secs_f64() * 1_000.0;
        let (p50, p90, p99) = (ms(0.5), ms(0.9), ms(0.99));
        println!("{what:<34} median {p50:>6.1} ms   p90 {p90:>6.1} ms   p99 {p99:>6.1} ms");
    }
}

/// A segment that costs something, and what it asks.
async fn challenge(client: &Client, segment: &str) -> Challenge {
    client.challenge(segment).await.expect("a price")
}

async fn run() {
    let rounds = std::env::var("SLUICE_ROUNDS").ok().and_then(|text| text.parse().ok());
    let rounds = rounds.unwrap_or(ROUNDS);
    let settings = Settings { payout_seconds: 86_400, ..Settings::default() };
    let (mut world, video, _) = World::with_the_clip(&settings).await;
    // As an operator meets it: started, connected, with nothing to do. The first start has encoded a film.
    world.server.stop().await;
    world.server.start(&[]).await;
    world.reconnect().await;
    let idle = resident_kib(world.server.pid());

    let client = world.server.anybody();
    let renditions = client.renditions(&format!("/hls/{video}/index.m3u8")).await;
    let segments = &renditions[0].segments[1..];
    let (mut bought, mut paid) = (Times(Vec::new()), Times(Vec::new()));
    for round in 0..WARM_UP + rounds {
        let segment = &segments[round % segments.len()];
        let asked = challenge(&client, segment).await;
        let begun = Instant::now();
        let proof = world.viewer.pay(&asked.invoice).await;
        client.redeem(segment, &asked.credential(&proof.preimage)).await;
        let whole = begun.elapsed();

        let asked = challenge(&client, segment).await;
        let begun = Instant::now();
        world.viewer.pay(&asked.invoice).await;
        if round >= WARM_UP {
            bought.0.push(whole);
            paid.0.push(begun.elapsed());
        }
    }
    println!("{rounds} rounds");
    bought.print("402 to the last byte of the 200");
    paid.print("raw payment, the same two nodes");
    let (bought, paid) = (bought.quantile(0.5).as_secs_f64(), paid.quantile(0.5).as_secs_f64());
    println!("ratio of the medians {:.2}", bought / paid);
    let after = resident_kib(world.server.pid());
    println!(
        "resident memory of `sluice serve`: idle {} MiB, after {} payments {} MiB",
        idle / 1_024,
        2 * (WARM_UP + rounds),
        after / 1_024
    );
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
