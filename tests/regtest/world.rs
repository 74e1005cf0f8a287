//! A private chain, wallets in this process, and the real executable as a child: what every test here plays in.
//!
//! ```text
//! viewer -- 2,000,000 sat --> server <-- 2,000,000 sat, half of it pushed -- creator
//! ```

// Each of the three that share it uses a part of it.
#![allow(dead_code)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use sluice::domain::amount::Msat;
use sluice::domain::id::NodeId;
use sluice::lightning::regtest::{self, Bitcoind, free_port};
use sluice::lightning::{Network, OpenChannel, Options};
use tempfile::TempDir;
use tokio::time::{Instant, sleep};

#[path = "world/client.rs"]
pub mod client;
#[path = "world/server.rs"]
pub mod server;
#[path = "world/wallet.rs"]
pub mod wallet;

use client::Client;
use server::{Serving, Settings};
use wallet::Wallet;

/// Each channel's value.
pub const CHANNEL_SAT: u64 = 2_000_000;
/// What a node must own before it opens one.
pub const FUNDS_SAT: u64 = 10_000_000;
/// Blocks until a coinbase can be spent, with one to spare.
pub const MATURITY: u32 = 101;
/// A step takes at most this long, with the machine under load.
pub const WITHIN: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);

/// Everything a test needs; it ends with this value.
pub struct World {
    // In this order they end: who reads the chain before the chain, the directory last.
    pub server: Serving,
    pub viewer: Wallet,
    pub creator: Wallet,
    pub bitcoind: Bitcoind,
    pub dir: TempDir,
}

impl World {
    /// The server, a viewer and a creator with usable channels; nothing is uploaded.
    pub async fn new(settings: &Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bitcoind = bitcoind().await;
        let viewer = Wallet::start(&dir.path().join("viewer"), "viewer", &bitcoind).await;
        let creator = Wallet::start(&dir.path().join("creator"), "creator", &bitcoind).await;
        let data_dir = dir.path().join("server");
        let mut server = Serving::prepare(&data_dir, &bitcoind, settings);
        server.start(&[]).await;
        let world = Self { server, viewer, creator, bitcoind, dir };
        world.fund().await;
        world.open_channels().await;
        world
    }

    /// Funds all three: a peer may open an anchor channel only to a node that holds the reserve on chain.
    async fn fund(&self) {
        let wallets = [&self.viewer, &self.creator];
        let server = self.server.operator().post("/api/v1/node/address", &json!({})).await;
        self.bitcoind.mine(1, server["address"].as_str().unwrap()).await.unwrap();
        for wallet in wallets {
            self.bitcoind.mine(1, &wallet.node.address().unwrap()).await.unwrap();
        }
        let somebody = self.viewer.node.address().unwrap();
        self.bitcoind.mine(MATURITY, &somebody).await.unwrap();
        for wallet in wallets {
            wallet.node.sync().await.unwrap();
        }
        let funded = async || {
            let server = self.server.operator().json("/api/v1/node").await;
            let own = wallets.map(|wallet| wallet.node.info().onchain_spendable_sat);
            number(&server, "/onchain_spendable_sat") >= i128::from(FUNDS_SAT)
                && own.iter().all(|own| *own >= FUNDS_SAT)
        };
        until("funds", funded).await;
    }

    async fn open_channels(&self) {
        for (wallet, push_sat) in [(&self.viewer, 0), (&self.creator, CHANNEL_SAT / 2)] {
            self.open_channel(wallet, push_sat).await;
        }
        self.bitcoind.mine(6, &self.viewer.node.address().unwrap()).await.unwrap();
        for wallet in [&self.viewer, &self.creator] {
            wallet.node.sync().await.unwrap();
        }
        self.usable().await;
        // The ledger knows of both once it has booked what was pushed.
        let booked = i128::from(CHANNEL_SAT / 2 * 1_000);
        let opened = async || self.server.totals().await.channels == booked;
        until("the channels in the ledger", opened).await;
    }

    /// Connects the wallets with a server that was started again, and waits until it can be paid and pay.
    pub async fn reconnect(&self) {
        let info = self.server.operator().json("/api/v1/node").await;
        let peer = info["id"].as_str().unwrap().parse().unwrap();
        for wallet in [&self.viewer, &self.creator] {
            let address = &self.server.lightning;
            let connected = async || wallet.node.connect(peer, address, true).await.is_ok();
            until("a connection to the server", connected).await;
        }
        self.usable().await;
    }

    /// Opens a channel in place of each that LDK closed, as an operator would; how many there were.
    pub async fn reopen_what_closed(&self) -> u32 {
        let mut closed = 0;
        for wallet in [&self.viewer, &self.creator] {
            // The server's news of a closed channel comes with the connection.
            let info = self.server.operator().json("/api/v1/node").await;
            let peer: NodeId = info["id"].as_str().unwrap().parse().unwrap();
            let address = &self.server.lightning;
            let connected = async || wallet.node.connect(peer, address, true).await.is_ok();
            until("a connection to the server", connected).await;
            let settled = async || {
                let channels = wallet.node.info().channels;
                channels.iter().all(|channel| channel.usable)
            };
            until("a decision on the channel", settled).await;
            if wallet.node.info().channels.is_empty() {
                closed += 1;
                let push = if std::ptr::eq(wallet, &self.creator) { CHANNEL_SAT / 2 } else { 0 };
                self.open_channel(wallet, push).await;
                self.bitcoind.mine(6, &wallet.node.address().unwrap()).await.unwrap();
                wallet.node.sync().await.unwrap();
            }
        }
        closed
    }

    async fn open_channel(&self, wallet: &Wallet, push_sat: u64) {
        let info = self.server.operator().json("/api/v1/node").await;
        let open = OpenChannel {
            peer: info["id"].as_str().unwrap().parse().unwrap(),
            address: self.server.lightning.clone(),
            value_sat: CHANNEL_SAT,
            push: Msat::new(push_sat * 1_000),
            announce: false,
        };
        let waiting = self.bitcoind.mempool_len().await.unwrap();
        wallet.node.open_channel(open).await.unwrap();
        let funded = async || self.bitcoind.mempool_len().await.unwrap() > waiting;
        until("a funding transaction", funded).await;
    }

    async fn usable(&self) {
        let usable = async || {
            let info = self.server.operator().json("/api/v1/node").await;
            let channels = info["channels"].as_array().unwrap();
            channels.iter().filter(|channel| channel["usable"] == true).count() == 2
                && self.server.anybody().status("/readyz").await == 200
                && self.viewer.usable()
                && self.creator.usable()
        };
        until("usable channels", usable).await;
    }

    /// Waits until nothing moves: no payout in flight, none that is large enough to be sent, and the ledger's channels are the node's.
    pub async fn rest(&self) {
        let mut last = None;
        let rests = async || {
            let totals = self.server.totals().await;
            let now = (totals, self.viewer.owned(), self.creator.owned());
            let same = last.replace(now) == Some(now);
            same && totals.in_flight == 0
                && totals.payable < server::PAYOUT_MIN_MSAT
                && totals.channels == self.server.owned().await
        };
        if !within(WITHIN, rests).await {
            let owned = self.server.owned().await;
            panic!(
                "no rest: {:?}, the node owns {owned}\n{}",
                self.server.totals().await,
                self.server.log()
            );
        }
    }

    /// A creator, let in through the command line, who is paid at the creator's node; the key.
    pub async fn add_creator(&self) -> Client {
        let node = self.creator.node_id().to_string();
        let operator = self.server.data_dir.join("operator.key");
        let said =
            self.server.cli(&["creator", "add", "Ada", "--payout-node", &node], &operator).await;
        let key = said.lines().find_map(|line| line.strip_prefix("key")).unwrap().trim().to_owned();
        std::fs::write(self.creator_key(), &key).unwrap();
        Client::new(&self.server.base_url(), Some(key))
    }

    pub fn creator_key(&self) -> PathBuf {
        self.dir.path().join("creator.key")
    }

    /// Uploads a film through the command line and waits until it can be watched; its id.
    pub async fn upload(&self, film: &Path, msat_per_second: u64, preview_seconds: u32) -> String {
        let (price, preview) = (msat_per_second.to_string(), preview_seconds.to_string());
        let film = film.to_str().unwrap();
        let arguments =
            ["upload", film, "--msat-per-second", &price, "--preview-seconds", &preview];
        let said = self.server.cli(&arguments, &self.creator_key()).await;
        let (_, video) = said.trim().rsplit_once("/watch/").expect("the address of the page");
        video.to_owned()
    }

    /// The world with the clip uploaded at 2 sat a second, its first second free.
    pub async fn with_the_clip(settings: &Settings) -> (Self, String, Client) {
        let world = Self::new(settings).await;
        let creator = world.add_creator().await;
        let video = world.upload(&clip(), 2_000, 1).await;
        (world, video, creator)
    }
}

/// The film that every checkout has: 132 frames in 5.3 s.
pub fn clip() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("media/bigbuckbunny.mp4")
}

/// The private chain.
pub async fn bitcoind() -> Bitcoind {
    let executable = std::env::var_os("BITCOIND_EXE")
        .expect("BITCOIND_EXE names the bitcoind: `make test-rust` sets it")
        .into();
    let options = regtest::Options { executable, datadir: None, rpc_port: None };
    Bitcoind::start(&options).await.unwrap()
}

/// A node's options on this chain, listening on a free port.
pub fn lightning(alias: &str, bitcoind: &Bitcoind) -> Options {
    Options {
        network: Network::Regtest,
        chain: bitcoind.chain_source(),
        listen: vec![format!("127.0.0.1:{}", free_port().unwrap())],
        alias: Some(alias.to_owned()),
    }
}

/// Waits until something holds; a panic that names it otherwise.
pub async fn until(what: &str, holds: impl AsyncFnMut() -> bool) {
    until_within(WITHIN, what, holds).await;
}

/// As [`until`], for what may take longer.
pub async fn until_within(duration: Duration, what: &str, holds: impl AsyncFnMut() -> bool) {
    assert!(within(duration, holds).await, "{what} did not come within {} s", duration.as_secs());
}

/// Whether something comes to hold in time.
pub async fn within(duration: Duration, mut holds: impl AsyncFnMut() -> bool) -> bool {
    let deadline = Instant::now() + duration;
    while !holds().await {
        if Instant::now() > deadline {
            return false;
        }
        sleep(POLL).await;
    }
    true
}

/// A number of a JSON document.
pub fn number(document: &Value, pointer: &str) -> i128 {
    let value = document.pointer(pointer).unwrap_or(&Value::Null);
    value.as_i64().map(i128::from).unwrap_or_else(|| panic!("no number {pointer} in {document}"))
}
