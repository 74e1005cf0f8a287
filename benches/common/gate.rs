//! The whole server but Lightning, in this process: a store on disk, one film, the fake node, and limits that let one client have all of it.

use std::num::NonZeroU32;
use std::path::Path;
use std::sync::Arc;

use sluice::app::{Pieces, assemble};
use sluice::blobs::Blobs;
use sluice::config::Config;
use sluice::http::Shared;
use sluice::lightning::Network;
use sluice::lightning::fake::FakeNode;
use sluice::media::worker::Worker;
use sluice::runtime::{SystemClock, Tasks};
use sluice::store::rocks::Rocks;
use sluice::store::{Storage as _, Store};

use super::film::{self, Film};

/// What a bench works on.
pub struct Gate {
    pub shared: Arc<Shared>,
    pub store: Arc<Store<Rocks>>,
    pub node: Arc<FakeNode>,
    pub film: Film,
    pub config: Config,
    pub tasks: Tasks,
}

impl Gate {
    /// Publishes a film of so many segments and opens the gate.
    pub async fn open(dir: &Path, segments: u32, segment_bytes: usize) -> Self {
        let store = Arc::new(film::prepare(dir));
        let blobs = Blobs::on_disk(&dir.join("media")).unwrap();
        let film = film::publish(&*store, &blobs, 10, segments, segment_bytes).await;
        let config = config();
        let node = Arc::new(FakeNode::new(Network::Regtest).unwrap());
        let tasks = Tasks::default();
        let pieces = Pieces {
            store: Arc::clone(&store),
            node: Arc::clone(&node),
            seed: film::SEED,
            boot: store.next_boot().unwrap(),
            blobs,
            transcoder: Arc::new(Worker::new(config.media.clone())),
            clock: Arc::new(SystemClock),
            spool: dir.to_owned(),
            disk: Arc::new(sluice::library::upload::SystemDisk),
            wire: Arc::new(sluice::payout::outbound::Internet),
        };
        let shared = assemble(pieces, &config, &tasks).unwrap();
        Self { shared, store, node, film, config, tasks }
    }
}

/// All viewers of a bench have one address.
fn config() -> Config {
    let mut config = Config::default();
    config.lightning.network = Network::Regtest;
    config.http.connections_per_client_max = config.http.connections_max;
    let payment = &mut config.payment;
    payment.challenges_per_client_per_minute = NonZeroU32::MAX;
    payment.challenges_per_second = NonZeroU32::MAX;
    payment.unpaid_max = u64::MAX;
    payment.unpaid_per_client_max = NonZeroU32::MAX;
    payment.sessions_per_client_max = payment.sessions_max;
    payment.streams_per_client_max = payment.streams_max;
    payment.held_per_client_max = payment.held_max;
    config
}
