//! The demo is killed while its payments are under way: four nodes at once lose what they had not written, and the next start still has
//! every node agree with the ledger.

use std::path::Path;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::demo::{Demo, WATCHED_WITHIN, agrees_to_the_millisatoshi, film, is_gone};
use crate::world::client::Client;
use crate::world::{until, until_within};

/// Ten paid segments: about a second of payments, then a payout every ten seconds.
const FILM_SECONDS: u32 = 48;
/// Kills on the same directory.
const KILLS: usize = 3;
/// The step of the chance delay between the first paid segment and the kill: three quarters of a second at most.
const DELAY_STEP: Duration = Duration::from_millis(3);

async fn agrees_after_kills(data_dir: &Path, film: &Path) {
    let delays = sluice::runtime::random_bytes::<KILLS>().map(|n| DELAY_STEP * u32::from(n));
    for delay in delays {
        let mut demo = Demo::start(data_dir, film, &["--watch"]).await;
        let viewer = Client::new(demo.text("base_url"), None);
        until_within(WATCHED_WITHIN, "a paid segment", async || {
            assert!(!demo.has_ended(), "it ended by itself; kills after {delays:?}");
            viewer.payments("applied").await > 0
        })
        .await;
        tokio::time::sleep(delay).await;
        assert!(!demo.has_ended(), "it ended before the kill");
        let bitcoind = demo.bitcoind.clone();
        demo.signal(Signal::SIGKILL).await;
        until("bitcoind's end", async || bitcoind.iter().all(|pid| is_gone(*pid))).await;
    }
    let agrees = agrees_to_the_millisatoshi(data_dir, film).await;
    agrees.unwrap_or_else(|why| panic!("killed after {delays:?}: {why}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_was_killed_while_it_paid_agrees_to_the_millisatoshi() {
    let dir = tempfile::tempdir().unwrap();
    let (film, data_dir) = (film(dir.path(), FILM_SECONDS).await, dir.path().join("demo"));
    // A first start that ends in good order: each node has its view of the network on the disk, which LDK writes first after a minute.
    let status = Demo::start(&data_dir, &film, &[]).await.signal(Signal::SIGINT).await;
    assert!(matches!(status.code(), Some(0 | 130)), "{status}");
    agrees_after_kills(&data_dir, &film).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_demo_that_was_killed_in_its_first_start_agrees_to_the_millisatoshi() {
    let dir = tempfile::tempdir().unwrap();
    let (film, data_dir) = (film(dir.path(), FILM_SECONDS).await, dir.path().join("demo"));
    agrees_after_kills(&data_dir, &film).await;
}
