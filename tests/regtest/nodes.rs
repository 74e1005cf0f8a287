//! Two real nodes with a channel under the suite of all nodes, `tests/contract/lightning.rs`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ::lightning::ln::channelmanager::PaymentId;
use ::lightning::types::payment::PaymentHash;
use ::lightning::util::ser::Writeable as _;
use futures::future::join_all;
use ldk_node::payment::{PaymentDetails, PaymentDirection, PaymentKind, PaymentStatus};
use sluice::domain::amount::Msat;
use sluice::domain::id::{NodeId, Preimage};
use sluice::lightning::fake::FakeNode;
use sluice::lightning::ldk::{self, LdkNode};
use sluice::lightning::regtest::Bitcoind;
use sluice::lightning::{Error, Issuer as _, Network, Node, OpenChannel, Operator as _, Options};
use sluice::runtime::random_bytes;
use sluice::store::memory::Memory;
use sluice::store::rocks::Rocks;
use sluice::store::{Durability, NodeKey, NodeState as _, Store};
use tempfile::TempDir;

use crate::lightning::{self, Pair};
use crate::world::server::Settings;
use crate::world::wallet::Wallet;
use crate::world::{self, CHANNEL_SAT, FUNDS_SAT, MATURITY, World, bitcoind, until};

const EXPIRY: Duration = Duration::from_secs(600);

/// The node that is asked, and a wallet that takes its own events.
struct Channel {
    // Who reads the chain ends before the chain, the directory last.
    node: LdkNode,
    peer: Wallet,
    options: Options,
    seed: [u8; 64],
    boot: u64,
    /// In memory, because a stopped node holds on to its store until this process ends, and a RocksDB is opened by one at a time; that
    /// what LDK wrote survives the process is asked in `kills.rs`.
    state: Arc<Store<Memory>>,
    _bitcoind: Bitcoind,
    dir: TempDir,
}

impl Channel {
    /// node <-- 2,000,000 sat, half of it pushed -- peer
    async fn new() -> Self {
        let (bitcoind, dir) = (bitcoind().await, tempfile::tempdir().unwrap());
        let peer = Wallet::start(&dir.path().join("peer"), "peer", &bitcoind).await;
        let (seed, options) = (random_bytes(), world::lightning("node", &bitcoind));
        let (state, boot) = (Arc::new(Store::new(Memory::default())), 1);
        let node = start(&options, seed, &state, boot, &dir).await;

        // A peer may open an anchor channel only to a node that holds the reserve on chain.
        bitcoind.mine(1, &node.address().unwrap()).await.unwrap();
        bitcoind.mine(1, &peer.node.address().unwrap()).await.unwrap();
        bitcoind.mine(MATURITY, &peer.node.address().unwrap()).await.unwrap();
        let rich = |node: &dyn Node| node.info().onchain_spendable_sat >= FUNDS_SAT;
        until("funds", async || {
            node.sync().await.unwrap();
            peer.node.sync().await.unwrap();
            rich(&node) && rich(&*peer.node)
        })
        .await;
        let open = OpenChannel {
            peer: node.node_id(),
            address: options.listen[0].clone(),
            value_sat: CHANNEL_SAT,
            push: Msat::new(CHANNEL_SAT / 2 * 1_000),
            announce: false,
        };
        peer.node.open_channel(open).await.unwrap();
        until("a funding transaction", async || bitcoind.mempool_len().await.unwrap() > 0).await;
        bitcoind.mine(6, &peer.node.address().unwrap()).await.unwrap();
        let channel = Self { node, peer, options, seed, boot, state, _bitcoind: bitcoind, dir };
        channel.usable().await;
        channel
    }

    async fn usable(&self) {
        until("a usable channel", async || {
            let channels = self.node.info().channels;
            // A channel is usable some messages before the peer has told its terms, without which no invoice has a way in.
            let receives = || self.node.mint(Msat::new(1_000), EXPIRY).is_ok();
            channels.iter().any(|channel| channel.usable) && self.peer.usable() && receives()
        })
        .await;
    }
}

async fn start(
    options: &Options,
    seed: [u8; 64],
    state: &Arc<Store<Memory>>,
    boot: u64,
    dir: &TempDir,
) -> LdkNode {
    let state = Arc::clone(state) as _;
    ldk::start(options, seed, state, boot, &dir.path().join("node")).await.unwrap()
}

impl Pair for Channel {
    fn node(&self) -> &dyn Node {
        &self.node
    }

    fn peer(&self) -> NodeId {
        self.peer.node_id()
    }

    fn nowhere(&self) -> NodeId {
        // A key that no node of this network has.
        FakeNode::new(Network::Regtest).unwrap().node_id()
    }

    async fn invoice(&self, amount: Msat) -> String {
        self.peer.node.mint(amount, EXPIRY).unwrap().bolt11
    }

    async fn pay(&self, bolt11: &str) -> Preimage {
        let paid = self.peer.pay(bolt11).await;
        Preimage::new(hex::decode(paid.preimage).unwrap().try_into().unwrap())
    }

    async fn restart(&mut self) {
        self.node.stop().await;
        self.boot += 1;
        self.node = start(&self.options, self.seed, &self.state, self.boot, &self.dir).await;
        let (id, address) = (self.node.node_id(), &self.options.listen[0]);
        let connected = async || self.peer.node.connect(id, address, true).await.is_ok();
        until("a connection to the node", connected).await;
        self.usable().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_node_keeps_the_contract() {
    let mut channel = Channel::new().await;
    lightning::keeps_the_contract(&mut channel).await;
    channel.peer.stop().await;
}

/// A channel holds 50 HTLCs, and LDK gives up at once what finds no place: also then a payment comes to an end, and may be sent again.
#[tokio::test(flavor = "multi_thread")]
async fn of_more_payments_than_a_channel_has_slots_none_stays_pending() {
    const PAYMENTS: usize = 300;
    let channel = Channel::new().await;
    let invoices: Vec<_> = (0..PAYMENTS)
        .map(|_| channel.node.mint(Msat::new(1_000), EXPIRY).unwrap().bolt11)
        .collect();
    let pay = async |bolt11: &String| {
        let mut tries = 0;
        loop {
            tries += 1;
            match channel.peer.send(bolt11).await {
                Ok(hash) if channel.peer.outcome(hash).await.is_some() => return tries,
                Ok(_) | Err(Error::NoRoute) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let tries: usize = join_all(invoices.iter().map(pay)).await.into_iter().sum();
    assert!(tries > PAYMENTS, "the slots were never all taken");
    channel.peer.stop().await;
}

/// The ids of all payments of which a stopped server's node keeps a record.
fn records(data_dir: &Path) -> BTreeSet<String> {
    let store = Store::new(Rocks::open(&data_dir.join("db")).unwrap());
    store.list("payments", "").unwrap().into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_keysends_invoices_and_payouts_that_are_over_the_servers_node_keeps_no_record() {
    const KEYSENDS: u64 = 6;
    let (mut world, video, _) = World::with_the_clip(&Settings::default()).await;
    world.rest().await;
    world.server.stop().await;
    // Transactions on chain are kept, and grow with nothing that is watched.
    let before = records(&world.server.data_dir);
    world.server.start(&[]).await;
    world.reconnect().await;

    let info = world.server.operator().json("/api/v1/node").await;
    let server: NodeId = info["id"].as_str().unwrap().parse().unwrap();
    for n in 0..KEYSENDS {
        let preimage = Preimage::new(random_bytes());
        let amount = Msat::new(1_000 + n);
        world.viewer.node.keysend(server, amount, &preimage, Msat::new(1_000)).await.unwrap();
        world.viewer.outcome(preimage.hash()).await.expect("it arrives");
    }
    let client = world.server.anybody();
    let renditions = client.renditions(&format!("/hls/{video}/index.m3u8")).await;
    for segment in &renditions[0].segments[1..] {
        assert!(client.buy(segment, &world.viewer).await.price.is_some());
    }
    let arrived = "sluice_payouts_total{outcome=\"arrived\"}";
    until("all of it booked", async || {
        world.server.payments("unclaimed").await == KEYSENDS
            && world.server.payments("applied").await >= 4
            && world.server.metric(arrived).await >= 1
    })
    .await;
    world.rest().await;
    world.server.stop().await;
    assert_eq!(records(&world.server.data_dir), before, "after each event");
    world.server.start(&[]).await;
    world.reconnect().await;
    world.rest().await;
    world.server.stop().await;
    assert_eq!(records(&world.server.data_dir), before, "told again, they leave none either");
}

/// A crash between an event's acknowledgement and the removal of its record leaves the record.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_a_crash_left_goes_at_a_start_once_it_is_a_month_old_and_decided() {
    const DAY_S: u64 = 86_400;
    let (bitcoind, dir) = (bitcoind().await, tempfile::tempdir().unwrap());
    let options = world::lightning("node", &bitcoind);
    let state = Arc::new(Store::new(Memory::default()));
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    for (id, days, status) in [
        (1, 31, PaymentStatus::Succeeded),
        (2, 31, PaymentStatus::Failed),
        (3, 31, PaymentStatus::Pending),
        (4, 29, PaymentStatus::Succeeded),
    ] {
        let record = PaymentDetails {
            id: PaymentId([id; 32]),
            kind: PaymentKind::Spontaneous { hash: PaymentHash([id; 32]), preimage: None },
            amount_msat: Some(1_000),
            fee_paid_msat: None,
            direction: PaymentDirection::Inbound,
            status,
            latest_update_timestamp: now - days * DAY_S,
        };
        let key = NodeKey {
            primary: "payments".to_owned(),
            secondary: String::new(),
            key: hex::encode([id; 32]),
        };
        state.write(&key, &record.encode(), Durability::Process).unwrap();
    }
    let node = start(&options, random_bytes(), &state, 1, &dir).await;
    let left = state.list("payments", "").unwrap();
    assert_eq!(left, [hex::encode([3; 32]), hex::encode([4; 32])], "pending, and too new");
    node.stop().await;
}
