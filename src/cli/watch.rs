//! `sluice watch`: the companion of every player that cannot pay. It opens a session, serves its playlist on this machine, and pays its
//! invoices with the viewer's wallet, each checked first. docs/WATCHING.md tells a viewer how.
//!
//! What decides about money is pure and stands apart: [`tariff`] (what a segment costs), [`check`] (whether to pay), [`account`] (what was
//! paid), [`events`] and [`playlist`] (what the server says, read with bounds). Around it: [`session`] (the server), [`follow`] and
//! [`payer`] (the invoices), [`play`], [`local`] and [`player`] (the film), [`save`] and [`receipt`] (what stays).

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use async_trait::async_trait;
use clap::Args;

use super::{interrupted, output};
use crate::app::write_private;
use crate::domain::amount::Msat;
use crate::lightning::Network;

mod account;
mod check;
mod events;
mod follow;
mod local;
mod options;
mod payer;
mod play;
mod player;
mod playlist;
mod receipt;
mod save;
mod screen;
mod session;
mod tariff;
mod visit;
mod wallet;

pub use account::Totals;
pub use receipt::{End, Payment as Paid, Receipt, Saved};
pub use visit::watch;
pub use wallet::nwc::NwcWallet;
pub use wallet::{Outcome, Payment, Wallet};

use options::{ChainOptions, WalletOptions};
use receipt::sat;
use screen::Terminal;

/// The tally moves this often.
const TALLY_EVERY: Duration = Duration::from_millis(500);
/// What servers allow (PROTOCOL.md, Sessions).
const AHEAD_MAX: u8 = 10;
const BUNDLE_MAX: u8 = 60;
/// Payments at once: an LDK channel carries forty.
const IN_FLIGHT_MAX: usize = 16;
/// An unpaid segment is held this long: ffmpeg, mpv and VLC bear it.
const HOLD_MS: u64 = 25_000;
/// Where the player is not known: browsers' players give up at ten seconds.
const HOLD_MS_UNKNOWN: u64 = 8_000;
/// When the viewer has gone, payments under way are waited for this long.
const SETTLE_WITHIN: Duration = Duration::from_secs(60);
/// mpv gives up after a minute.
const HOLD_MS_MAX: u64 = 55_000;

/// What a visit is asked to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The address of a title's page or playlist.
    pub url: String,
    /// Whether plain http beyond this machine is accepted.
    pub insecure: bool,
    /// Invoices ahead of the playhead.
    pub ahead: u8,
    /// Segments of one invoice.
    pub bundle: u8,
    /// How long an unpaid segment is held before the player hears of it.
    pub hold_ms: u64,
    /// What may be spent in all, fees included; else what the whole film costs, with fees.
    pub max: Option<Msat>,
    /// What may be spent in any sixty seconds, fees included.
    pub max_per_minute: Option<Msat>,
    /// Payments at once.
    pub in_flight: usize,
    /// The one rendition that is played and kept; else the player chooses, and the best is kept.
    pub rendition: Option<String>,
    /// Where to keep what was paid for.
    pub save: Option<PathBuf>,
    /// The player: a name, or a command.
    pub player: Option<String>,
    /// Where the playlist is served.
    pub listen: SocketAddr,
    /// When the viewer has gone, payments under way are waited for this long.
    pub settle_within: Duration,
}

impl Order {
    /// A film, with all else as usual.
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            insecure: false,
            ahead: 3,
            bundle: 1,
            hold_ms: HOLD_MS,
            max: None,
            max_per_minute: None,
            in_flight: 1,
            rendition: None,
            save: None,
            player: None,
            listen: ([127, 0, 0, 1], 0).into(),
            settle_within: SETTLE_WITHIN,
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        ensure!((1..=AHEAD_MAX).contains(&self.ahead), "--ahead is 1 to {AHEAD_MAX}");
        ensure!((1..=BUNDLE_MAX).contains(&self.bundle), "--bundle is 1 to {BUNDLE_MAX}");
        ensure!(
            (1..=IN_FLIGHT_MAX).contains(&self.in_flight),
            "--in-flight is 1 to {IN_FLIGHT_MAX}"
        );
        ensure!(self.hold_ms <= HOLD_MS_MAX, "--hold-ms is at most {HOLD_MS_MAX}");
        ensure!(
            self.listen.ip().is_loopback(),
            "--listen must be on this machine, such as 127.0.0.1:8080: whoever reaches it plays at your cost"
        );
        Ok(())
    }
}

/// What the viewer is asked to accept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// The title.
    pub title: String,
    /// On which network it is paid.
    pub network: Network,
    /// How long it is.
    pub duration_ms: u64,
    /// How much of it is free.
    pub preview_ms: u64,
    /// What a minute costs.
    pub minute: Msat,
    /// What all of it costs, without fees.
    pub whole: Msat,
    /// What is spent at most, routing fees and seeks included.
    pub at_most: Msat,
    /// What the wallet can spend, where it tells.
    pub spendable: Option<Msat>,
}

impl Asked {
    fn words(&self) -> String {
        let time = |ms: u64| format!("{}:{:02}", ms / 60_000, ms / 1_000 % 60);
        let (title, duration) = (&self.title, time(self.duration_ms));
        if self.whole.is_zero() {
            return format!("{title} ({duration}): free");
        }
        let money = if self.network == Network::Mainnet { "" } else { " (play money)" };
        let wallet = self.spendable.map_or_else(String::new, |of| format!("; wallet: {}", sat(of)));
        format!(
            "{title} ({duration}): {} a minute, {} for all of it{money}, {} at the very most with fees and jumps (--max-sat sets less); the first {} are free{wallet}",
            sat(self.minute),
            sat(self.whole),
            sat(self.at_most),
            time(self.preview_ms),
        )
    }
}

/// Where the viewer is told and asked.
#[async_trait]
pub trait Screen: Send + Sync {
    /// Shows the price; whether it is accepted.
    async fn accept(&self, asked: &Asked) -> bool;
    /// A line about what happens.
    fn note(&self, text: &str);
    /// The address that a player of the viewer's own is to open.
    fn url(&self, url: &str);
    /// The sums of now.
    fn tally(&self, totals: &Totals);
}

/// Play a film in any player, and pay for it segment by segment.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit codes: 0 the film or the player ended; 1 trouble, nothing more was paid; 2 wrong arguments; 3 the budget is used up; 4 the server \
did not keep to what was agreed; 5 the wallet could not pay, or it is not known whether it did; 130 interrupted.

Examples:
  sluice watch https://films.example/watch/ID --nwc-file wallet.nwc --player mpv
  sluice watch https://films.example/watch/ID --nwc-file wallet.nwc --save film.mp4 --max-sat 500
  sluice watch --wallet-dir ~/.sluice-wallet --network signet --esplora https://mempool.space/signet/api")]
pub(super) struct Arguments {
    /// The address of the film's page (/watch/ID) or playlist (/hls/ID/index.m3u8). Without one, --wallet-dir shows its node.
    url: Option<String>,
    /// Start this player and end with it: mpv, vlc, ffplay, or a command (`{url}` stands for the address, else it comes last).
    #[arg(long)]
    player: Option<String>,
    /// Keep what was paid for in this new file; without --player the whole film is fetched, as fast as it is sold.
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// The one rendition that is played and kept, such as 720p; else the player chooses, and the best is kept.
    #[arg(long)]
    rendition: Option<String>,
    /// Accept the price without being asked.
    #[arg(long)]
    yes: bool,
    /// Spend at most so many satoshi, fees included; the price is accepted without being asked.
    #[arg(long, value_name = "SAT")]
    max_sat: Option<u64>,
    /// Spend at most so many satoshi in any sixty seconds, fees included.
    #[arg(long, value_name = "SAT")]
    max_sat_per_minute: Option<u64>,
    /// Invoices ahead of the playhead.
    #[arg(long, default_value_t = 3)]
    ahead: u8,
    /// Segments of one invoice, for wallets that are slow or charge a base fee.
    #[arg(long, default_value_t = 1)]
    bundle: u8,
    /// Payments at once.
    #[arg(long, default_value_t = 1)]
    in_flight: usize,
    /// How long the player's request for an unpaid segment is held, in milliseconds [default: 25000; 8000 without --player and --save].
    #[arg(long)]
    hold_ms: Option<u64>,
    /// Address and port of the playlist, on this machine; 0 is any free port.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Accept plain http beyond this machine: everybody on the way can watch along.
    #[arg(long)]
    insecure: bool,
    /// Write the receipt with the proofs of payment to this new file, for your eyes only.
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// Print the receipt as one line of JSON.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    wallet: WalletOptions,
    #[command(flatten)]
    chain: ChainOptions,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let Some(url) = &arguments.url else {
        return options::show(&arguments.wallet, &arguments.chain).await;
    };
    let order = arguments.order(url)?;
    if let Some(file) = &arguments.receipt {
        ensure!(!file.exists(), "{} exists already: give --receipt another name", file.display());
    }
    let wallet = arguments.wallet.open(url, &arguments.chain).await?;
    let screen = Terminal::new(!arguments.yes && arguments.max_sat.is_none());
    let watched = watch(&order, &*wallet, &screen, interrupted()).await;
    screen.clear();
    wallet.close().await;
    let receipt = watched?;
    if arguments.json {
        output::line(&receipt.json(false).to_string());
    } else {
        output::line(&receipt.text());
    }
    if let Some(file) = &arguments.receipt {
        write_private(file, &serde_json::to_vec_pretty(&receipt.json(true))?)?;
    }
    if !matches!(receipt.end, End::Film | End::Interrupted) {
        output::error(&receipt.end.words());
    }
    Ok(receipt.end.code())
}

impl Arguments {
    fn order(&self, url: &str) -> anyhow::Result<Order> {
        let msat = |sat: u64| Msat::from_sat(sat).context("that many satoshi do not exist");
        if self.max_sat == Some(0) || self.max_sat_per_minute == Some(0) {
            bail!("a budget of 0 sat buys nothing: leave it out, or name an amount");
        }
        let known = self.player.is_some() || self.save.is_some();
        Ok(Order {
            url: url.to_owned(),
            insecure: self.insecure,
            ahead: self.ahead,
            bundle: self.bundle,
            hold_ms: self.hold_ms.unwrap_or(if known { HOLD_MS } else { HOLD_MS_UNKNOWN }),
            max: self.max_sat.map(msat).transpose()?,
            max_per_minute: self.max_sat_per_minute.map(msat).transpose()?,
            in_flight: self.in_flight,
            rendition: self.rendition.clone(),
            save: self.save.clone(),
            player: self.player.clone(),
            listen: self.listen,
            settle_within: SETTLE_WITHIN,
        })
    }
}
