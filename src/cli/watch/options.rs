//! Which wallet pays, as the viewer names it; and the embedded wallet shown and given a channel, where no film is named.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail, ensure};
use clap::{Args, ValueEnum};

use super::Wallet;
use super::wallet::http::HttpWallet;
use super::wallet::node::NodeWallet;
use super::wallet::nwc::{ANSWER_WITHIN, NwcWallet};
use crate::cli::output;
use crate::domain::id::NodeId;
use crate::lightning::{ChainSource, Network, Options};

/// A secret in the environment is not seen by `ps`, as one on the command line is.
const NWC: &str = "SLUICE_NWC";
const DEMO_WALLET: &str = "SLUICE_DEMO_WALLET";
/// Below this nobody opens a channel, and LDK's peers refuse it.
const CHANNEL_SAT_MIN: u64 = 20_000;

#[derive(Debug, Args)]
#[command(next_help_heading = "The wallet (one of them)")]
pub(super) struct WalletOptions {
    /// A file that holds a Nostr Wallet Connect text (nostr+walletconnect://…); or the text in the environment's SLUICE_NWC.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["wallet_dir", "demo_wallet"])]
    nwc_file: Option<PathBuf>,
    /// A Lightning node of its own, kept in this directory; it needs one of the chain sources below.
    #[arg(long, value_name = "DIR", conflicts_with = "demo_wallet")]
    wallet_dir: Option<PathBuf>,
    /// The demo's wallet, by its address; or in the environment's SLUICE_DEMO_WALLET, or as the page's #wallet=….
    #[arg(long, value_name = "URL")]
    demo_wallet: Option<String>,
    /// Open a channel from --wallet-dir to this node, and end.
    #[arg(
        long,
        value_name = "NODE@HOST:PORT",
        requires = "wallet_dir",
        requires = "sat",
        conflicts_with = "url"
    )]
    open_channel: Option<String>,
    /// The value of that channel in satoshi.
    #[arg(long, requires = "open_channel")]
    sat: Option<u64>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "The chain, for --wallet-dir")]
pub(super) struct ChainOptions {
    /// The wallet's network.
    #[arg(long, value_enum, default_value_t = NetworkName::Signet)]
    network: NetworkName,
    /// An Esplora server's address.
    #[arg(long, value_name = "URL", conflicts_with_all = ["electrum", "bitcoind"])]
    esplora: Option<String>,
    /// An Electrum server's address.
    #[arg(long, value_name = "URL", conflicts_with = "bitcoind")]
    electrum: Option<String>,
    /// A bitcoind's RPC.
    #[arg(long, value_name = "HOST:PORT", requires = "bitcoind_cookie")]
    bitcoind: Option<String>,
    /// The file that holds its `user:password`, such as its own `.cookie`.
    #[arg(long, value_name = "FILE", requires = "bitcoind")]
    bitcoind_cookie: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum NetworkName {
    Mainnet,
    Testnet,
    Signet,
    Regtest,
}

impl From<NetworkName> for Network {
    fn from(name: NetworkName) -> Self {
        match name {
            NetworkName::Mainnet => Self::Mainnet,
            NetworkName::Testnet => Self::Testnet,
            NetworkName::Signet => Self::Signet,
            NetworkName::Regtest => Self::Regtest,
        }
    }
}

impl WalletOptions {
    /// The wallet that pays for the film at an address.
    pub(super) async fn open(
        &self,
        url: &str,
        chain: &ChainOptions,
    ) -> anyhow::Result<Box<dyn Wallet>> {
        if let Some(file) = &self.nwc_file {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            return Ok(Box::new(NwcWallet::new(&text, ANSWER_WITHIN)?));
        }
        if let Some(directory) = &self.wallet_dir {
            let wallet = NodeWallet::start(directory, &chain.options()?).await?;
            if let Err(error) = wallet.usable().await {
                wallet.close().await;
                return Err(error);
            }
            return Ok(Box::new(wallet));
        }
        let environment = |name| std::env::var(name).ok().filter(|text: &String| !text.is_empty());
        if let Some(address) = self.demo_wallet.clone().or_else(|| in_fragment(url)) {
            return Ok(Box::new(HttpWallet::new(&address)?));
        }
        if let Some(text) = environment(NWC) {
            return Ok(Box::new(NwcWallet::new(&text, ANSWER_WITHIN)?));
        }
        if let Some(address) = environment(DEMO_WALLET) {
            return Ok(Box::new(HttpWallet::new(&address)?));
        }
        bail!("name a wallet: --nwc-file FILE (or {NWC}), --wallet-dir DIR, or --demo-wallet URL")
    }
}

/// The demo prints its page's address with its wallet's path behind `#wallet=`, on the page's own origin.
fn in_fragment(url: &str) -> Option<String> {
    let mut url = reqwest::Url::parse(url).ok()?;
    let path = url.fragment()?.strip_prefix("wallet=")?.replace("%2F", "/");
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'/';
    if !path.starts_with("/demo/") || !path.bytes().all(plain) {
        return None;
    }
    url.set_fragment(None);
    url.set_path(&path);
    Some(url.to_string())
}

impl ChainOptions {
    fn options(&self) -> anyhow::Result<Options> {
        let chain = match (&self.esplora, &self.electrum, &self.bitcoind, &self.bitcoind_cookie) {
            (Some(url), ..) => ChainSource::Esplora { url: url.clone() },
            (_, Some(url), ..) => ChainSource::Electrum { url: url.clone() },
            (_, _, Some(address), Some(cookie)) => {
                let port = address.rsplit_once(':');
                let (host, port) =
                    port.context("--bitcoind is HOST:PORT, such as 127.0.0.1:38332")?;
                let port = port.parse().context("the port of --bitcoind is no number")?;
                let (host, cookie_file) = (host.to_owned(), cookie.clone());
                ChainSource::Bitcoind { host, port, cookie_file }
            }
            _ => bail!(
                "--wallet-dir needs a chain source: --esplora URL, --electrum URL, or --bitcoind HOST:PORT"
            ),
        };
        let (network, listen, alias) = (self.network.into(), Vec::new(), None);
        Ok(Options { network, chain, listen, alias })
    }
}

/// Shows the embedded wallet, and opens a channel where one is asked for.
pub(super) async fn show(
    options: &WalletOptions,
    chain: &ChainOptions,
) -> anyhow::Result<ExitCode> {
    let Some(directory) = &options.wallet_dir else {
        bail!(
            "name a film: sluice watch https://host/watch/ID, or --wallet-dir DIR alone for its node"
        )
    };
    let wallet = NodeWallet::start(directory, &chain.options()?).await?;
    let shown = match (&options.open_channel, options.sat) {
        (Some(peer), Some(sat)) => open_channel(&wallet, peer, sat).await,
        _ => describe(&wallet, directory).await,
    };
    wallet.close().await;
    shown.map(|()| ExitCode::SUCCESS)
}

async fn describe(wallet: &NodeWallet, directory: &Path) -> anyhow::Result<()> {
    let info = wallet.info().await;
    output::line(&format!("node      {}", info.id));
    output::line(&format!("network   {:?}, block {}", info.network, info.height));
    output::line(&format!("address   {}", wallet.address()?));
    output::line(&format!("on chain  {} sat", info.onchain_sat));
    output::line(&format!("channels  {} sat in {}", info.lightning_sat, info.channels.len()));
    for channel in &info.channels {
        let state = match (channel.usable, channel.ready) {
            (true, _) => "usable",
            (false, true) => "its peer is away",
            (false, false) => "waits for six blocks",
        };
        let sat = channel.outbound_msat / 1_000;
        output::line(&format!("  to {}: can pay {sat} sat, {state}", channel.peer));
    }
    if info.channels.is_empty() && info.onchain_spendable_sat < CHANNEL_SAT_MIN {
        output::line(
            "\nNext: send some bitcoin to the address, wait for a block, and open a channel to a well connected node, or to the server's own:",
        );
    } else if info.channels.is_empty() {
        output::line("\nNext: open a channel to a well connected node, or to the server's own:");
    } else {
        return Ok(());
    }
    output::line("  sluice watch --wallet-dir … --open-channel NODE@HOST:PORT --sat 100000");
    output::line(&format!(
        "Everything that this node owns is in {}: keep it, and run it in one place at a time.",
        directory.display()
    ));
    Ok(())
}

async fn open_channel(wallet: &NodeWallet, peer: &str, sat: u64) -> anyhow::Result<()> {
    let malformed =
        || anyhow!("--open-channel is NODE@HOST:PORT, with the 66 digits of the node's id");
    let (id, address) = peer.split_once('@').ok_or_else(malformed)?;
    let id: NodeId = id.parse().map_err(|_| malformed())?;
    ensure!(
        sat >= CHANNEL_SAT_MIN,
        "a channel under {CHANNEL_SAT_MIN} sat is refused by peers: name a larger --sat"
    );
    let info = wallet.info().await;
    let has = info.onchain_spendable_sat;
    ensure!(
        has > sat,
        "the wallet has {has} sat on chain that can be spent, and {sat} and a fee are needed: send more to {}",
        wallet.address()?
    );
    wallet.open(id, address, sat).await?;
    output::line(&format!(
        "A channel of {sat} sat to {id} is on its way. It can be used after six blocks, about an hour."
    ));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_demos_link_brings_its_wallet_and_no_other() {
        let page = "http://127.0.0.1:8402/watch/x#wallet=";
        let found = in_fragment(&format!("{page}%2Fdemo%2Fabc123"));
        assert_eq!(found.as_deref(), Some("http://127.0.0.1:8402/demo/abc123"));
        for bad in ["%2F%2Felsewhere", "/demo/../x", "http://elsewhere/demo/x", ""] {
            assert_eq!(in_fragment(&format!("{page}{bad}")), None, "{bad}");
        }
    }
}
