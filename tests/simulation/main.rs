//! A whole server on a simulated disk, node and clock, driven by a seed: viewers, thieves, sessions and wallets, payments that come late,
//! twice, too large and out of order, writes that fail, processes that are killed, machines that lose power. The router, the use cases and
//! the store are the real ones. After every step the books must be right.
//!
//! A seed that fails is printed with how to repeat it: `SLUICE_SEED=7 cargo test --test simulation -- --nocapture` also prints what was
//! done. `SLUICE_SOAK=1` (`make soak`) runs thousands; `SLUICE_SEEDS` sets how many.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, clippy::print_stderr, missing_docs)]

use std::panic::AssertUnwindSafe;

use futures::{FutureExt as _, StreamExt as _, stream};

mod chance;
mod disk;
mod node;
mod server;
// The real rules of tellings, which are private to the adapters.
#[path = "../../src/lightning/telling.rs"]
mod telling;
// Here it always does as it is told.
#[allow(dead_code)]
#[path = "../api/transcoder.rs"]
mod transcoder;
mod truth;
mod world;

/// For `telling`, which names it from its own crate.
mod domain {
    pub use sluice::domain::id;
}

use world::World;

/// Seeds of a short run and of a soak.
const SEEDS: (u64, u64) = (160, 5_000);
const STEPS: usize = 150;
/// A full look at the books after so many steps.
const LOOK_EVERY: usize = 15;
/// Seeds at once: some wait for eight real seconds.
const AT_ONCE: usize = 24;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a seed to its end; what was done.
async fn run(seed: u64) -> Vec<String> {
    // Tokio's clock cannot be moved without building every crate twice, so a wait for a proof is a real one: few runs have it.
    let proofs = if seed.is_multiple_of(8) { 2 } else { 0 };
    let mut world = World::new(seed, proofs).await;
    let done = AssertUnwindSafe(async {
        for step in 0..STEPS {
            world.step().await;
            truth::glance(&world);
            if step % LOOK_EVERY == 0 {
                truth::look(&world);
            }
        }
        truth::settle(&mut world).await;
    });
    let failed = done.catch_unwind().await.err();
    let trace = std::mem::take(&mut world.trace);
    world.process.bury().await;
    if let Some(panic) = failed {
        println!("{}", trace.join("\n"));
        println!("repeat it: SLUICE_SEED={seed} cargo test --test simulation -- --nocapture");
        std::panic::resume_unwind(panic);
    }
    trace
}

fn on_this_thread<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

#[test]
fn no_order_of_payments_failures_and_crashes_loses_or_makes_a_millisatoshi() {
    if let Some(seed) = setting("SLUICE_SEED") {
        println!("{}", on_this_thread(run(seed)).join("\n"));
        return;
    }
    let soak = std::env::var_os("SLUICE_SOAK").is_some();
    let count = setting("SLUICE_SEEDS").unwrap_or(if soak { SEEDS.1 } else { SEEDS.0 });
    // Others each time in a soak.
    let first =
        if soak { u64::from(u32::from_be_bytes(sluice::runtime::random_bytes())) } else { 0 };
    println!("seeds {first}..{}", first + count);
    let threads: Vec<_> = (0..2)
        .map(|part| {
            let seeds = (first..first + count).filter(move |seed| seed % 2 == part);
            std::thread::spawn(move || {
                let all = stream::iter(seeds).map(run).buffer_unordered(AT_ONCE);
                on_this_thread(all.fold(0, async |steps, trace| steps + trace.len()))
            })
        })
        .collect();
    let steps: usize = threads.into_iter().map(|of| of.join().unwrap()).sum();
    println!("{count} seeds, {steps} things done");
}

#[test]
fn a_seed_repeats_its_run() {
    let twice = async { (run(3).await, run(3).await) };
    let (one, other) = on_this_thread(twice);
    let differs = one.iter().zip(&other).find(|(one, other)| one != other);
    assert_eq!((differs, one.len()), (None, other.len()));
}
