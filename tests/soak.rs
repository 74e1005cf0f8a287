//! The server is killed again and again while a viewer pays: no payment is lost, none counted twice.
//!
//! At full length: `SLUICE_SOAK=1 cargo test --test soak -- --nocapture` (`make soak`); without it a short round of three kills.
//! `SLUICE_KILLS` sets their number, `SLUICE_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use reqwest::StatusCode;
use sluice::domain::id::PaymentHash;
use sluice::lightning::Error;

#[path = "regtest/world.rs"]
mod world;

use world::World;
use world::client::{Challenge, Client, read_challenge};
use world::server::Settings;

/// Kills at full length, and in a short round.
const KILLS: (u32, u32) = (100, 3);
/// From the moment that the server can be paid to its kill. LDK looks at the first payments of a start after two seconds: some lives end before
/// that, with payments that were sent and not looked at, most of them after.
const LIFE_MS: std::ops::Range<u64> = 20..5_000;
/// Payments that are under way at once.
const PAYERS: usize = 4;

/// Requests that found nothing for sale, and invoices that the viewer's node found no route for.
static UNSOLD: AtomicU32 = AtomicU32::new(0);
static UNROUTED: AtomicU32 = AtomicU32::new(0);

/// An invoice that the viewer's node was told to pay.
struct Purchase {
    segment: String,
    challenge: Challenge,
    hash: PaymentHash,
    /// Its bytes came.
    opened: bool,
}

/// A generator whose whole state is the seed (SplitMix64): a run can be repeated, as far as the machine's timing allows.
struct Chance(u64);

impl Chance {
    fn next(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        range.start + (z ^ (z >> 31)) % (range.end - range.start)
    }
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_at_random_moments_lose_no_payment_and_count_none_twice() {
    let full = std::env::var_os("SLUICE_SOAK").is_some();
    let kills = setting("SLUICE_KILLS").unwrap_or(if full { KILLS.0 } else { KILLS.1 });
    let seed = setting("SLUICE_SEED")
        .unwrap_or_else(|| u64::from_be_bytes(sluice::runtime::random_bytes()));
    // What the viewer's node says, on demand: `RUST_LOG=warn,lightning::routing=trace`.
    if let Ok(filter) = std::env::var("RUST_LOG") {
        sluice::telemetry::start_logging(&filter, false);
    }
    println!("SLUICE_SEED={seed} SLUICE_KILLS={kills}");
    let mut chance = Chance(seed);
    // What was redeemed just before a kill must open once more at the end.
    let settings = Settings { replay_seconds: 86_400, payout_seconds: 3, ..Settings::default() };
    let (mut world, video, creator) = World::with_the_clip(&settings).await;
    let client = world.server.anybody();
    let renditions = client.renditions(&format!("/hls/{video}/index.m3u8")).await;
    let segments = renditions[0].segments[1..].to_vec();
    let before = (world.viewer.owned(), world.creator.owned(), world.server.owned().await);

    let begun = Instant::now();
    let (mut purchases, mut closed, mut closed_last) = (Vec::new(), 0, 0);
    for kill in 1..=kills {
        let life = Duration::from_millis(chance.next(LIFE_MS));
        let rounds = (0..PAYERS).map(|payer| {
            let segments = segments.clone();
            let (world, client) = (&world, client.clone());
            async move {
                pay_until_it_is_gone(world, &client, &segments[payer % segments.len()..]).await
            }
        });
        let alive = async {
            tokio::time::sleep(life).await;
            let pid = nix::unistd::Pid::from_raw(world.server.pid().cast_signed());
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        };
        let (paid, ()) = tokio::join!(futures::future::join_all(rounds), alive);
        purchases.extend(paid.into_iter().flatten());
        world.server.reap();
        world.server.start(&[]).await;
        closed_last = world.reopen_what_closed().await;
        closed += closed_last;
        world.reconnect().await;
        if kill % 10 == 0 || kill == kills {
            let (paid, seconds) = (purchases.len(), begun.elapsed().as_secs());
            let (unsold, unrouted) =
                (UNSOLD.load(Ordering::Relaxed), UNROUTED.load(Ordering::Relaxed));
            println!(
                "{kill} kills, {paid} payments sent, {closed} channels closed, {seconds} s; \
                 {unsold} answers of 503, {unrouted} times no route"
            );
            if unrouted > 0 {
                println!("{:?}", world.viewer.node.info().channels);
            }
        }
    }
    judge(&world, &creator, &client, purchases, before, (closed, closed_last)).await;
}

/// Buys segments, one after the other, until the server no longer answers.
async fn pay_until_it_is_gone(
    world: &World,
    client: &Client,
    segments: &[String],
) -> Vec<Purchase> {
    let mut purchases = Vec::new();
    for segment in segments.iter().cycle() {
        let Ok(answer) = client.try_get(segment, None).await else { break };
        // With all channels down for a moment there is nothing to sell.
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            UNSOLD.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        assert_eq!(answer.status(), StatusCode::PAYMENT_REQUIRED);
        let Some(challenge) = read_challenge(answer).await else { break };
        let hash = match world.viewer.send(&challenge.invoice).await {
            Ok(hash) => hash,
            // The server is gone, and nothing was sent.
            Err(Error::NoRoute) => {
                UNROUTED.fetch_add(1, Ordering::Relaxed);
                break;
            }
            Err(error) => panic!("{error}"),
        };
        let mut purchase = Purchase { segment: segment.clone(), challenge, hash, opened: false };
        let gone = async {
            while client.try_get("/healthz", None).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let paid = tokio::select! {
            paid = world.viewer.outcome(hash) => paid,
            // Its outcome is asked for at the end.
            () = gone => { purchases.push(purchase); break }
        };
        if let Some(paid) = paid {
            let credential = purchase.challenge.credential(&paid.preimage);
            if let Ok(answer) = client.try_get(segment, Some(&credential)).await {
                assert_eq!(answer.status(), StatusCode::OK, "{}", answer.text().await.unwrap());
                purchase.opened = answer.bytes().await.is_ok();
            }
        }
        purchases.push(purchase);
    }
    purchases
}

/// What nodes and books say at the end.
async fn judge(
    world: &World,
    creator: &Client,
    client: &Client,
    purchases: Vec<Purchase>,
    before: (i128, i128, i128),
    (closed, closed_last): (u32, u32),
) {
    let (mut paid, mut failed, mut failed_msat, mut late) = (0_u64, 0, 0_u64, 0);
    for purchase in &purchases {
        let Some(proof) = world.viewer.outcome(purchase.hash).await else {
            assert!(!purchase.opened, "{} opened a segment and failed", purchase.hash);
            failed += 1;
            failed_msat += purchase.challenge.amount;
            continue;
        };
        paid += purchase.challenge.amount;
        late += u32::from(!purchase.opened);
        let credential = purchase.challenge.credential(&proof.preimage);
        let bytes = client.redeem(&purchase.segment, &credential).await;
        assert!(!bytes.is_empty());
    }
    let paid = i128::from(paid);
    // Also where LDK had to close channels: what they held is booked once nothing moves.
    world.rest().await;
    let books = world.server.totals().await;
    let earnings = creator.json("/api/v1/earnings").await;
    let paid_out = world::number(&earnings, "/paid_out_msat");
    println!(
        "{} payments sent: {failed} failed, the others paid {paid} msat; {late} of those opened their segment only after a restart\n\
         paid out {paid_out} msat; channels closed by LDK: {closed}\n{books:?}",
        purchases.len(),
    );
    for line in world.server.logged("a channel closed") {
        println!("{line}");
    }
    // A payment that the server had claimed in a channel that LDK then had to close is lost on the way to the chain, being dust: the viewer's node
    // takes it back, and the server has it as credit all the same.
    let lost = if closed == 0 { 0 } else { i128::from(failed_msat) };
    assert!((0..=lost).contains(&books.viewer_credit), "everything that was paid was served");
    assert_eq!(books.unclaimed, 0, "no payment came without its invoice");
    assert_eq!(books.fee + books.payable + paid_out + books.routing, paid, "each counted once");
    assert!(books.verified, "the books verify");
    // The last start tells what the last kill broke, and may tell an earlier closing once more.
    let told = world.server.metric("sluice_channels_closed_total").await;
    let expected = u64::from(closed_last)..=u64::from(closed);
    assert!(expected.contains(&told), "{told} channels closed since the last start: {expected:?}");
    let server = world.server.owned().await;
    assert_eq!(books.channels, server, "the ledger and the server's own node");
    if closed == 0 {
        assert_eq!(before.0 - world.viewer.owned(), paid, "the viewer's own node");
        assert_eq!(world.creator.owned() - before.1, paid_out, "the creator's own node");
        assert_eq!(server - before.2, paid - paid_out, "the server's own node");
    }
}
