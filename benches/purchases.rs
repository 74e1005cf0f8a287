//! Segments bought end to end, each by its own payment: the 402, the payment, the last byte of the 200. Beside it the same payers pay as many
//! invoices of the same server and redeem nothing, turn by turn in one run: that is what the nodes and the store allow.
//!
//! `make bench ARGS="--bench purchases"`; `SLUICE_LOG=ldk=debug` shows what the payers' nodes do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::cell::Cell;
use std::time::{Duration, Instant};

use futures::future::join_all;
use futures::{StreamExt as _, stream};
use serde_json::json;
use sluice::domain::amount::Msat;
use sluice::lightning::{Error, OpenChannel};
use sluice::store::rocks::Rocks;
use sluice::store::{NodeKey, NodeState as _, Store};
use tokio::sync::Semaphore;
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

/// Payments that a payer has under way, on both sides: LDK holds 50 HTLCs in a channel at most, and a slot comes free only some messages
/// after its payment.
const IN_FLIGHT: usize = 40;
/// Purchases that a payer has begun, on both sides: those beyond `IN_FLIGHT` ask for a price or read their bytes meanwhile.
const UNDER_WAY: usize = 48;
/// A payment that failed for want of a slot is sent again after this, its place among those in flight kept: each try is work for the payer's
/// node, so that many of them at once would be what is measured.
const RETRY: Duration = Duration::from_millis(100);
/// Purchases of a round, for each payer. LDK writes down all that a payer has sent in the last minutes again and again, so more would slow it.
const PURCHASES: usize = 200;

/// A wallet, and how many of its payments may be under way.
struct Payer<'a> {
    wallet: &'a Wallet,
    slots: Semaphore,
}

impl<'a> Payer<'a> {
    fn new(wallet: &'a Wallet) -> Self {
        Self { wallet, slots: Semaphore::new(IN_FLIGHT) }
    }
}

struct Shop<'a> {
    client: Client,
    segments: &'a [String],
    payers: Vec<Payer<'a>>,
    /// Payments that were sent again, and of those the ones that had left and failed on their way.
    again: Cell<usize>,
    failed: Cell<usize>,
}

impl<'a> Shop<'a> {
    fn new(client: Client, segments: &'a [String], payers: Vec<Payer<'a>>) -> Self {
        Self { client, segments, payers, again: Cell::new(0), failed: Cell::new(0) }
    }

    async fn challenge(&self, n: usize) -> Challenge {
        self.client.challenge(&self.segments[n % self.segments.len()]).await.expect("a price")
    }

    /// Pays as a wallet does: what failed for good is sent again, because a channel's slots may all be taken for a moment.
    async fn proof(&self, payer: &Payer<'_>, bolt11: &str) -> String {
        let _slot = payer.slots.acquire().await.expect("it is never closed");
        let begun = Instant::now();
        loop {
            match payer.wallet.send(bolt11).await {
                Ok(hash) => match payer.wallet.outcome(hash).await {
                    Some(paid) => return paid.preimage,
                    None => self.failed.set(self.failed.get() + 1),
                },
                Err(Error::NoRoute) => {}
                Err(error) => panic!("{error}"),
            }
            assert!(begun.elapsed() < WITHIN, "a payment fails again and again");
            self.again.set(self.again.get() + 1);
            sleep(RETRY).await;
        }
    }

    /// All payers at once, each with so many under way; how many a second.
    async fn per_second<F: Future>(&self, one: impl Fn(usize, usize) -> F) -> f64 {
        let one = &one;
        let begun = Instant::now();
        let each = (0..self.payers.len()).map(|payer| {
            stream::iter(0..PURCHASES)
                .map(move |n| one(payer, n))
                .buffer_unordered(UNDER_WAY)
                .for_each(async |_| {})
        });
        join_all(each).await;
        (PURCHASES * self.payers.len()) as f64 / begun.elapsed().as_secs_f64()
    }

    async fn buy(&self) -> f64 {
        self.per_second(async |payer, n| {
            let asked = self.challenge(n).await;
            let preimage = self.proof(&self.payers[payer], &asked.invoice).await;
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
        self.per_second(async |payer, n| {
            self.proof(&self.payers[payer], &invoices[payer * PURCHASES + n]).await;
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
        let all = 2 * (ROUNDS + 1) * PURCHASES * self.payers.len();
        let (again, failed) = (self.again.get(), self.failed.get());
        println!(
            "  of {all} payments {again} were sent again, {failed} of them after they had left"
        );
    }
}

/// Bytes of the server's record of its busiest channel: LDK keeps something of each payment for as long as the channel lives.
async fn largest_monitor(world: &mut World) -> usize {
    world.server.stop().await;
    let store = Store::new(Rocks::open(&world.server.data_dir.join("db")).unwrap());
    let names = store.list("monitors", "").unwrap();
    let size = |name: String| {
        let (primary, secondary) = ("monitors".to_owned(), String::new());
        store.read(&NodeKey { primary, secondary, key: name }).unwrap().map_or(0, |it| it.len())
    };
    names.into_iter().map(size).max().unwrap_or_default()
}

/// A further payer with a channel of its own.
async fn payer(world: &World, number: usize) -> Wallet {
    let name = format!("payer{number}");
    let wallet = Wallet::start(&world.dir.path().join(&name), &name, &world.bitcoind).await;
    world.bitcoind.mine(1, &wallet.node.address().unwrap()).await.unwrap();
    wallet
}

/// All payers of a bench are one client, which a server bounds.
async fn allow_one_client_all(world: &mut World) {
    world.server.stop().await;
    let text = std::fs::read_to_string(&world.server.config).unwrap();
    let text = text.replace("[http]", "[http]\nconnections_per_client_max = 1024").replace(
        "[payment]",
        "[payment]\nunpaid_per_client_max = 200000\nchallenges_per_second = 100000",
    );
    std::fs::write(&world.server.config, text).unwrap();
    world.server.start(&[]).await;
    world.reconnect().await;
}

async fn run() {
    let settings = Settings { payout_seconds: 86_400, ..Settings::default() };
    let (mut world, video, _) = World::with_the_clip(&settings).await;
    allow_one_client_all(&mut world).await;
    let client = world.server.anybody();
    let renditions = client.renditions(&format!("/hls/{video}/index.m3u8")).await;
    let segments = &renditions[0].segments[1..];
    let one = Shop::new(world.server.anybody(), segments, vec![Payer::new(&world.viewer)]);
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
    let payers = std::iter::once(&world.viewer).chain(&more).map(Payer::new).collect();
    let ten = Shop::new(world.server.anybody(), segments, payers);
    ten.measure("ten payers, 400 in flight").await;
    drop(ten);
    for wallet in &more {
        wallet.stop().await;
    }
    let bytes = largest_monitor(&mut world).await;
    println!(
        "  the server's record of the first channel takes {bytes} bytes after {} payments",
        4 * (ROUNDS + 1) * PURCHASES
    );
}

fn main() {
    if let Ok(filter) = std::env::var("SLUICE_LOG") {
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(run());
}
