//! Segments bought end to end, each by its own payment: the 402, the payment, the last byte of the 200. Beside it the same payers pay as many
//! invoices of the same server and redeem nothing, turn by turn in one run: that is what the nodes and the store allow.
//!
//! `make bench ARGS="--bench purchases"`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::time::{Duration, Instant};

use futures::{StreamExt as _, stream};
use serde_json::json;
use sluice::domain::amount::Msat;
use sluice::lightning::{Error, OpenChannel};
use tokio::time::sleep;

#[path = "common/figures.rs"]
mod figures;
#[path = "../tests/regtest/world.rs"]
mod world;

use figures::{Goal, ROUNDS, compare};
use world::client::{Challenge, Client};
use world::server::Settings;
use world::wallet::Wallet;
use world::{CHANNEL_SAT, MATURITY, WITHIN, World, until};

/// LDK holds 50 HTLCs in a channel at most, and a slot comes free only some messages after its payment.
const IN_FLIGHT: usize = 40;
/// A slot comes free within this.
const RETRY: Duration = Duration::from_millis(5);
/// Purchases of a round, for each payer.
const PURCHASES: usize = 120;

struct Shop<'a> {
    client: Client,
    segments: &'a [String],
    payers: Vec<&'a Wallet>,
}

impl Shop<'_> {
    async fn challenge(&self, n: usize) -> Challenge {
        self.client.challenge(&self.segments[n % self.segments.len()]).await.expect("a price")
    }

    /// Pays as a wallet does: a channel whose slots are all taken for a moment is tried again.
    async fn proof(&self, n: usize, bolt11: &str) -> String {
        let payer = self.payers[n % self.payers.len()];
        let begun = Instant::now();
        let hash = loop {
            match payer.send(bolt11).await {
                Ok(hash) => break hash,
                Err(Error::NoRoute) if begun.elapsed() < WITHIN => sleep(RETRY).await,
                Err(error) => panic!("{error}"),
            }
        };
        payer.outcome(hash).await.expect("the payment arrives").preimage
    }

    /// All payers at once, each with so many under way; how many a second.
    async fn per_second<F: Future>(&self, one: impl Fn(usize) -> F) -> f64 {
        let all = PURCHASES * self.payers.len();
        let begun = Instant::now();
        stream::iter(0..all)
            .map(&one)
            .buffer_unordered(IN_FLIGHT * self.payers.len())
            .for_each(async |_| {})
            .await;
        all as f64 / begun.elapsed().as_secs_f64()
    }

    async fn buy(&self) -> f64 {
        self.per_second(async |n| {
            let asked = self.challenge(n).await;
            let preimage = self.proof(n, &asked.invoice).await;
            let segment = &self.segments[n % self.segments.len()];
            self.client.redeem(segment, &asked.credential(&preimage)).await;
        })
        .await
    }

    async fn pay(&self) -> f64 {
        let all = PURCHASES * self.payers.len();
        let mut invoices = Vec::with_capacity(all);
        for n in 0..all {
            invoices.push(self.challenge(n).await.invoice);
        }
        let invoices = &invoices;
        self.per_second(async |n| {
            self.proof(n, &invoices[n]).await;
        })
        .await
    }

    async fn measure(&self, what: &str) {
        let (mut bought, mut paid) = (Vec::new(), Vec::new());
        for round in 0..=ROUNDS {
            let (limit, ours) = (self.pay().await, self.buy().await);
            // The first round warms connections, routes and caches.
            if round > 0 {
                bought.push(ours);
                paid.push(limit);
            }
        }
        compare(what, "segments/s", &bought, &paid, Goal::AtLeast(0.9));
    }
}

/// A further payer with a channel of its own.
async fn payer(world: &World, number: usize) -> Wallet {
    let name = format!("payer{number}");
    let wallet = Wallet::start(&world.dir.path().join(&name), &name, &world.bitcoind).await;
    world.bitcoind.mine(1, &wallet.node.address().unwrap()).await.unwrap();
    wallet
}

async fn run() {
    let settings = Settings { payout_seconds: 86_400, ..Settings::default() };
    let (world, video, _) = World::with_the_clip(&settings).await;
    let client = world.server.anybody();
    let renditions = client.renditions(&format!("/hls/{video}/index.m3u8")).await;
    let segments = &renditions[0].segments[1..];
    let one = Shop { client: world.server.anybody(), segments, payers: vec![&world.viewer] };
    one.measure("one channel, 40 in flight").await;

    let mut more = Vec::new();
    for number in 0..9 {
        more.push(payer(&world, number).await);
    }
    let miner = world.viewer.node.address().unwrap();
    world.bitcoind.mine(MATURITY, &miner).await.unwrap();
    // What each channel that a peer opens takes of the server's reserve.
    let server = world.server.operator().post("/api/v1/node/address", &json!({})).await;
    assert!(server["address"].is_string());
    let info = world.server.operator().json("/api/v1/node").await;
    for wallet in &more {
        until("funds", async || {
            let _ = wallet.node.sync().await;
            wallet.node.info().onchain_spendable_sat > CHANNEL_SAT
        })
        .await;
        let waiting = world.bitcoind.mempool_len().await.unwrap();
        let open = OpenChannel {
            peer: info["id"].as_str().unwrap().parse().unwrap(),
            address: world.server.lightning.clone(),
            value_sat: CHANNEL_SAT,
            push: Msat::ZERO,
            announce: false,
        };
        wallet.node.open_channel(open).await.unwrap();
        until("a funding transaction", async || {
            world.bitcoind.mempool_len().await.unwrap() > waiting
        })
        .await;
    }
    world.bitcoind.mine(6, &miner).await.unwrap();
    for wallet in &more {
        until("a usable channel", async || {
            let _ = wallet.node.sync().await;
            wallet.usable()
        })
        .await;
    }
    let payers = std::iter::once(&world.viewer).chain(&more).collect();
    let ten = Shop { client: world.server.anybody(), segments, payers };
    ten.measure("ten payers, 400 in flight").await;
    for wallet in &more {
        wallet.stop().await;
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
