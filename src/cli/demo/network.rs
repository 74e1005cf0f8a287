//! The demo's Lightning network: viewer -> server -> router -> creator, three channels on a private chain.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use tokio::time::{Instant, sleep};

use crate::app::{self, Base};
use crate::config;
use crate::domain::amount::Msat;
use crate::domain::id::NodeId;
use crate::lightning::regtest::{Bitcoind, free_port};
use crate::lightning::{Channel, Network, OpenChannel, Operator, Options, SharedNode};
use crate::runtime::Tasks;

use super::wallet;

/// On-chain funds that each node begins with: a block's subsidy is far more.
const FUNDS_SAT: u64 = 10_000_000;
/// Each channel's value.
const CHANNEL_SAT: u64 = 2_000_000;
/// Blocks until a coinbase can be spent.
const MATURITY: u32 = 101;
/// Blocks until a channel is announced (BOLT 7).
const CONFIRMATIONS: u32 = 6;
/// A step of the bring-up takes at most this long.
const WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(100);
/// A channel that is not up by then needs another block.
const MINE_AGAIN_AFTER: Duration = Duration::from_secs(5);

/// A node of the demo that is not the server's.
pub(super) struct Wallet {
    base: Base,
    node: SharedNode,
    address: String,
    tasks: Tasks,
    pub(super) settled: crate::runtime::Bells<crate::domain::id::PaymentHash>,
}

impl Wallet {
    async fn start(directory: &Path, alias: &str, bitcoind: &Bitcoind) -> anyhow::Result<Self> {
        let address = format!("127.0.0.1:{}", free_port()?);
        let options = Options {
            network: Network::Regtest,
            chain: bitcoind.chain_source(),
            listen: vec![address.clone()],
            alias: Some(alias.to_owned()),
        };
        let base = app::base(directory, &options).await?;
        let node: SharedNode = Arc::<crate::lightning::ldk::LdkNode>::clone(&base.node);
        let (tasks, settled) = (Tasks::default(), crate::runtime::Bells::default());
        let events = wallet::drain(Arc::clone(&node), settled.clone(), tasks.cancellation());
        tasks.spawn_critical("wallet events", events);
        Ok(Self { base, node, address, tasks, settled })
    }

    pub(super) fn id(&self) -> NodeId {
        self.node.node_id()
    }

    pub(super) fn node(&self) -> &SharedNode {
        &self.node
    }

    async fn stop(&self) {
        self.tasks.stop(Duration::from_secs(5)).await;
        self.node.stop().await;
        if let Err(error) = crate::store::Storage::flush(&*self.base.store) {
            tracing::warn!(%error, "a wallet's store could not be flushed");
        }
    }
}

/// The demo's other three nodes.
pub(super) struct Wallets {
    pub(super) viewer: Wallet,
    pub(super) router: Wallet,
    pub(super) creator: Wallet,
}

impl Wallets {
    pub(super) async fn start(data_dir: &Path, bitcoind: &Bitcoind) -> anyhow::Result<Self> {
        let start = |name: &'static str| {
            let directory = data_dir.join(name);
            async move { Wallet::start(&directory, name, bitcoind).await }
        };
        Ok(Self {
            viewer: start("viewer").await?,
            router: start("router").await?,
            creator: start("creator").await?,
        })
    }

    pub(super) async fn stop(&self) {
        for wallet in [&self.viewer, &self.router, &self.creator] {
            wallet.stop().await;
        }
    }
}

/// One end of a channel and where it listens.
struct End<'a> {
    name: &'static str,
    node: &'a SharedNode,
    address: String,
}

impl<'a> End<'a> {
    fn of(name: &'static str, wallet: &'a Wallet) -> Self {
        Self { name, node: &wallet.node, address: wallet.address.clone() }
    }
}

/// Funds the nodes and opens the channels that are not there; waits until all can be used. Where the nodes may not know what was announced
/// before, another channel is.
pub(super) async fn connect(
    bitcoind: &Bitcoind,
    wallets: &Wallets,
    server: &SharedNode,
    lightning: &config::Lightning,
    known: bool,
) -> anyhow::Result<()> {
    let listen = lightning.listen.first().cloned().unwrap_or_default();
    let server = End { name: "server", node: server, address: listen };
    let viewer = End::of("viewer", &wallets.viewer);
    let router = End::of("router", &wallets.router);
    let creator = End::of("creator", &wallets.creator);

    let all = [&server, &viewer, &router, &creator];
    fund(bitcoind, &all).await?;
    // Only the router's channels have to be known to others.
    let pairs = [(&viewer, &server, false), (&server, &router, false), (&router, &creator, true)];
    let mut waiting = false;
    for (from, to, announce) in pairs {
        // The payer's side dials: a node that was restarted does not know where a private peer listens now.
        from.node.connect(to.node.node_id(), &to.address, true).await?;
        match standing(from, to).await? {
            Standing::Usable if known || !announce => continue,
            Standing::Unconfirmed => {}
            Standing::Usable | Standing::None => open(bitcoind, from, to, announce).await?,
        }
        waiting = true;
    }
    if waiting {
        mine(bitcoind, &all, CONFIRMATIONS).await?;
    }
    for (from, to, _) in pairs {
        if let Err(error) = come_up(bitcoind, &all, from, to).await {
            bail!("{error} between {} and {}", from.name, to.name);
        }
    }
    Ok(())
}

/// What there is between two nodes.
enum Standing {
    /// A channel that both can use.
    Usable,
    /// A channel that waits for blocks: an earlier start was interrupted.
    Unconfirmed,
    /// Nothing, or what one of them had to close.
    None,
}

/// Waits until both sides agree on what there is: a channel that one had to close stays on the other's list until it is told so.
async fn standing(from: &End<'_>, to: &End<'_>) -> anyhow::Result<Standing> {
    let deadline = Instant::now() + WITHIN;
    loop {
        let (ours, theirs) = (channels(from, to), channels(to, from));
        if usable(from, to) && usable(to, from) {
            return Ok(Standing::Usable);
        }
        if ours.is_empty() && theirs.is_empty() {
            return Ok(Standing::None);
        }
        if ours.iter().any(|channel| !channel.ready) && !theirs.is_empty() {
            return Ok(Standing::Unconfirmed);
        }
        if Instant::now() > deadline {
            bail!("{} and {} do not agree on their channel", from.name, to.name);
        }
        sleep(POLL).await;
    }
}

/// Waits for a channel; a funding transaction that reached the pool late is confirmed by further blocks.
async fn come_up(
    bitcoind: &Bitcoind,
    all: &[&End<'_>],
    from: &End<'_>,
    to: &End<'_>,
) -> anyhow::Result<()> {
    let mut again = Instant::now() + MINE_AGAIN_AFTER;
    let deadline = Instant::now() + WITHIN;
    while !(usable(from, to) && usable(to, from)) {
        if Instant::now() > deadline {
            bail!("a channel did not come up within {} s", WITHIN.as_secs());
        }
        if Instant::now() > again {
            mine(bitcoind, all, CONFIRMATIONS).await?;
            again = Instant::now() + MINE_AGAIN_AFTER;
        }
        sleep(POLL).await;
    }
    Ok(())
}

async fn fund(bitcoind: &Bitcoind, ends: &[&End<'_>]) -> anyhow::Result<()> {
    let poor: Vec<_> = ends.iter().filter(|end| end.node.info().onchain_sat < FUNDS_SAT).collect();
    if poor.is_empty() {
        return Ok(());
    }
    for end in &poor {
        bitcoind.mine(1, &end.node.address()?).await?;
    }
    let somebody = ends.first().context("there are nodes")?;
    bitcoind.mine(MATURITY, &somebody.node.address()?).await?;
    wait("the first funds", || async {
        sync(ends).await?;
        Ok(ends.iter().all(|end| end.node.info().onchain_spendable_sat >= FUNDS_SAT))
    })
    .await
}

/// Opens a channel and waits for its funding transaction.
async fn open(
    bitcoind: &Bitcoind,
    from: &End<'_>,
    to: &End<'_>,
    announce: bool,
) -> anyhow::Result<()> {
    let open = OpenChannel {
        peer: to.node.node_id(),
        address: to.address.clone(),
        value_sat: CHANNEL_SAT,
        push: Msat::ZERO,
        announce,
    };
    let before = bitcoind.mempool_len().await?;
    from.node
        .open_channel(open)
        .await
        .with_context(|| format!("the channel from {} to {}", from.name, to.name))?;
    // The next one spends other coins, which the wallet knows once this one is in the pool.
    wait("a channel's funding", || async { Ok(bitcoind.mempool_len().await? > before) }).await
}

async fn mine(bitcoind: &Bitcoind, ends: &[&End<'_>], blocks: u32) -> anyhow::Result<()> {
    let somebody = ends.first().context("there are nodes")?;
    bitcoind.mine(blocks, &somebody.node.address()?).await?;
    sync(ends).await
}

async fn sync(ends: &[&End<'_>]) -> anyhow::Result<()> {
    for end in ends {
        end.node.sync().await?;
    }
    Ok(())
}

/// The channels between two nodes, as the first sees them.
fn channels(of: &End<'_>, with: &End<'_>) -> Vec<Channel> {
    let peer = with.node.node_id();
    of.node.info().channels.into_iter().filter(|channel| channel.peer == peer).collect()
}

/// Whether there is a channel that the first can use.
fn usable(of: &End<'_>, with: &End<'_>) -> bool {
    channels(of, with).iter().any(|channel| channel.usable)
}

/// What a node owns in all its channels, to the millisatoshi while no payment is pending.
pub(super) fn owned(node: &dyn Operator) -> i128 {
    node.info().channels.iter().map(|channel| i128::from(channel.balance_msat)).sum()
}

async fn wait<F, T>(what: &str, holds: F) -> anyhow::Result<()>
where
    F: Fn() -> T,
    T: Future<Output = anyhow::Result<bool>>,
{
    let deadline = Instant::now() + WITHIN;
    while !holds().await? {
        if Instant::now() > deadline {
            return Err(anyhow!("{what} did not come up within {} s", WITHIN.as_secs()));
        }
        sleep(POLL).await;
    }
    Ok(())
}
