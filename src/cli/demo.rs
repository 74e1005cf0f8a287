//! `sluice demo`: the whole of it on one machine. A private chain, the server's node, a viewer's, a router's and a creator's, a film, the page.

use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use directories::ProjectDirs;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::client::Client;
use super::{interrupted, output, upload};
use crate::app::{self, Server};
use crate::config::Config;
use crate::domain::id::VideoId;
use crate::lightning::Network;
use crate::lightning::regtest::{Bitcoind, Options as BitcoindOptions, free_port};
use crate::media::worker::Worker;
use crate::media::{self, Transcoder as _};
use crate::{payout, telemetry};

mod network;
mod wallet;
mod watch;

use network::Wallets;

/// The demo's film, at first: some seconds of Big Buck Bunny, see media/README.md.
const CLIP: &[u8] = include_bytes!("../../media/bigbuckbunny.mp4");
/// How long the film is made.
const FILM_SECONDS: u64 = 62;
/// Five satoshi a second: enough to watch the sats flow and the routing fees stay small beside them.
const MSAT_PER_SECOND: u64 = 5_000;
/// Free at the beginning.
const PREVIEW_SECONDS: u32 = 8;

/// LDK writes its view of the network a minute after a start and when it stops. Killed before the first time, no node knows any more of the
/// channel between router and creator, and nobody announces it again.
const VIEW_KEPT_AFTER: Duration = Duration::from_secs(90);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Where everything is kept; a second start carries on from there.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Another film than the one that is made.
    #[arg(long)]
    video: Option<PathBuf>,
    /// Address and port of the page; without one 127.0.0.1:8402, or a free port where that is taken.
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Print one line of JSON when all is ready.
    #[arg(long)]
    json: bool,
    /// Play the whole film headless, pay for it, print a statement and stop; an error where a millisatoshi is missing.
    #[arg(long)]
    watch: bool,
    /// What is logged, in the syntax of `RUST_LOG`.
    #[arg(long, default_value = "warn")]
    log: String,
}

/// What a second start has to know.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Kept {
    creator_key: Option<String>,
    video: Option<VideoId>,
    /// Which file the title was made from; another one makes another title.
    film: Option<PathBuf>,
}

/// A demo that is up.
struct Demo {
    server: Server,
    wallets: Arc<Wallets>,
    bitcoind: Bitcoind,
    film: PathBuf,
    worker: Worker,
    video: VideoId,
    base_url: String,
    operator_key: String,
    creator_key: String,
    secrets: wallet::Secrets,
    payout: payout::Options,
    data_dir: PathBuf,
}

pub(super) async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    telemetry::start_logging(&arguments.log, false);
    let data_dir = arguments.data_dir.clone().unwrap_or_else(default_data_dir);
    let quiet = arguments.json;
    let begun = Instant::now();
    let step = |text: &str| {
        if !quiet {
            output::note(&format!("{:>6.1} s  {text}", begun.elapsed().as_secs_f64()));
        }
    };
    // One listener for all, so that no interruption falls between two.
    let mut interrupted = pin!(interrupted());
    // Interrupted while it starts: what was started ends with its handles.
    let demo = tokio::select! {
        demo = bring_up(arguments, &data_dir, &step) => demo?,
        () = &mut interrupted => return Ok(ExitCode::from(130)),
    };
    if arguments.json {
        output::line(&demo.json().await?.to_string());
    } else {
        demo.print(&data_dir, begun.elapsed().as_secs_f64());
    }
    let stopping = demo.server.stopping();
    let work = async {
        if arguments.watch {
            watch::run(&demo).await
        } else {
            stopping.cancelled().await;
            Ok(ExitCode::SUCCESS)
        }
    };
    let code = tokio::select! {
        code = work => code?,
        () = &mut interrupted => ExitCode::from(if arguments.watch { 130 } else { 0 }),
        never = keeps_its_view(&data_dir) => match never {},
    };
    demo.stop().await?;
    Ok(code)
}

async fn bring_up(
    arguments: &Arguments,
    data_dir: &Path,
    step: &dyn Fn(&str),
) -> anyhow::Result<Demo> {
    std::fs::create_dir_all(data_dir)
        .with_context(|| format!("{} cannot be made", data_dir.display()))?;
    let executable = bitcoind_executable()?;
    let datadir = Some(data_dir.join("bitcoind"));
    let bitcoind =
        Bitcoind::start(&BitcoindOptions { executable, datadir, rpc_port: None }).await?;
    step("a private chain is up (bitcoind, regtest)");

    let secrets = wallet::Secrets::new();
    let wallets = Arc::new(Wallets::start(data_dir, &bitcoind).await?);
    let config = config(arguments, data_dir, &bitcoind)?;
    let worker = Worker::new(config.media.clone());
    let server = app::start(&config, Some(wallet::router(&wallets, &secrets))).await?;
    step("four Lightning nodes are up: the server's, a viewer's, a router's, a creator's");

    let base_url = format!("http://{}", server.address);
    let operator_key = std::fs::read_to_string(&server.operator_key)?.trim().to_owned();
    let film = film(arguments, data_dir, &worker).await?;
    let mut kept = Kept::read(data_dir);
    let creator_key = creator(&mut kept, data_dir, &base_url, &operator_key, &wallets).await?;
    let client = Client::new(&base_url, &creator_key)?;
    let (video, is_new) = title(&mut kept, data_dir, &client, &film).await?;
    if is_new {
        step("the film is uploaded and being encoded; meanwhile the channels open");
    }
    let known = view_file(data_dir).exists();
    network::connect(&bitcoind, &wallets, server.node(), &config.lightning, known).await?;
    step("the channels are open: viewer, server, router, creator");
    if is_new {
        upload::follow(&client, video).await?;
        step("the film is encoded");
    }
    Ok(Demo {
        server,
        wallets,
        bitcoind,
        film,
        worker,
        video,
        base_url,
        operator_key,
        creator_key,
        secrets,
        payout: config.payout,
        data_dir: data_dir.to_path_buf(),
    })
}

/// Where it is noted that the nodes' view of the network is on disk.
fn view_file(data_dir: &Path) -> PathBuf {
    data_dir.join("view.kept")
}

/// Notes that the nodes have written down their view of the network, once they have.
async fn keeps_its_view(data_dir: &Path) -> Infallible {
    tokio::time::sleep(VIEW_KEPT_AFTER).await;
    note_view(data_dir);
    std::future::pending().await
}

fn note_view(data_dir: &Path) {
    if let Err(error) = std::fs::write(view_file(data_dir), b"") {
        tracing::warn!(%error, "the next start will announce a channel again");
    }
}

impl Demo {
    async fn json(&self) -> anyhow::Result<Value> {
        Ok(json!({
            "base_url": self.base_url,
            "operator_key": self.operator_key,
            "creator_key": self.creator_key,
            "video": self.video,
            "wallet_url": self.wallet_url("viewer"),
            "creator_wallet_url": self.wallet_url("creator"),
            "bitcoind_rpc_url": self.bitcoind_url()?,
            "nodes": {
                "server": self.server.shared.payee,
                "viewer": self.wallets.viewer.id(),
                "router": self.wallets.router.id(),
                "creator": self.wallets.creator.id(),
            },
        }))
    }

    fn wallet_url(&self, who: &str) -> String {
        format!("{}{}", self.base_url, self.secrets.path(who))
    }

    fn bitcoind_url(&self) -> anyhow::Result<String> {
        let cookie = std::fs::read_to_string(self.bitcoind.cookie_file())?;
        Ok(format!("http://{}@127.0.0.1:{}", cookie.trim(), self.bitcoind.rpc_port()))
    }

    fn print(&self, data_dir: &Path, seconds: f64) {
        let wallet = self.secrets.path("viewer").replace('/', "%2F");
        let Self { base_url, video, .. } = self;
        output::line(&format!("\nReady after {seconds:.0} s. Open this in a browser:\n"));
        output::line(&format!("  {base_url}/watch/{video}#wallet={wallet}\n"));
        output::line(
            "The first seconds are free; then each segment is paid by an invoice of its own, from the viewer's node",
        );
        output::line(
            "over Lightning to the server's, and from there through a routing node to the creator's.",
        );
        output::line(&format!("\n  402 by hand   curl -i {base_url}/hls/{video}/240p/5.m4s -L"));
        output::line(&format!(
            "  the books     curl -H 'Authorization: Bearer {}' {base_url}/api/v1/ledger",
            self.operator_key
        ));
        output::line(&format!("  metrics       {base_url}/metrics"));
        output::line(&format!("  kept in       {}", data_dir.display()));
        output::line("\nCtrl-C ends everything.");
    }

    /// Below this nothing is sent: the routing fee would eat it.
    fn smallest_payout_msat(&self) -> u64 {
        self.payout.fee_max_floor_msat.saturating_add(payout::AMOUNT_MIN.get())
    }

    /// The server first, then the wallets, then the chain that all of them read.
    async fn stop(self) -> anyhow::Result<()> {
        let stopped = self.server.stop().await;
        self.wallets.stop().await;
        note_view(&self.data_dir);
        self.bitcoind.stop().await?;
        stopped
    }
}

impl Kept {
    fn file(data_dir: &Path) -> PathBuf {
        data_dir.join("demo.json")
    }

    fn read(data_dir: &Path) -> Self {
        let text = std::fs::read(Self::file(data_dir)).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    fn write(&self, data_dir: &Path) -> anyhow::Result<()> {
        app::write_private(&Self::file(data_dir), &serde_json::to_vec_pretty(self)?)
    }
}

fn config(arguments: &Arguments, data_dir: &Path, bitcoind: &Bitcoind) -> anyhow::Result<Config> {
    let mut config = Config { data_dir: data_dir.join("server"), ..Config::default() };
    config.http.listen = arguments.listen.unwrap_or_else(|| {
        // The usual port, so that the address in the browser stays the same.
        let usual = config.http.listen;
        if TcpListener::bind(usual).is_ok() { usual } else { ([127, 0, 0, 1], 0).into() }
    });
    config.lightning.network = Network::Regtest;
    config.lightning.chain = bitcoind.chain_source();
    config.lightning.listen = vec![format!("127.0.0.1:{}", free_port()?)];
    "demo server".clone_into(&mut config.lightning.alias);
    // Whoever watches the demo wants to see the creator paid.
    config.payout = payout::Options { interval_seconds: 10, ..payout::Options::default() };
    config.media = media::Options { ladder: vec![720, 480, 240], ..media::Options::default() };
    Ok(config)
}

fn default_data_dir() -> PathBuf {
    ProjectDirs::from("", "", "sluice-demo")
        .map_or_else(|| PathBuf::from("sluice-demo"), |dirs| dirs.data_dir().to_path_buf())
}

/// `BITCOIND_EXE`, else one on the `PATH`.
fn bitcoind_executable() -> anyhow::Result<PathBuf> {
    if let Some(named) = std::env::var_os("BITCOIND_EXE").filter(|named| !named.is_empty()) {
        return Ok(named.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&path).map(|dir| dir.join("bitcoind")).find(|exe| exe.is_file());
    found.context(
        "no bitcoind was found: `make demo` builds one; else install Bitcoin Core, or name it with BITCOIND_EXE",
    )
}

/// The film: the one that was named, or one made of the clip.
async fn film(arguments: &Arguments, data_dir: &Path, worker: &Worker) -> anyhow::Result<PathBuf> {
    if let Some(video) = &arguments.video {
        let path = video.display();
        return video.canonicalize().with_context(|| format!("{path} cannot be read"));
    }
    let film = data_dir.join("film.mp4");
    if !film.exists() {
        let (clip, part) = (data_dir.join("clip.mp4"), data_dir.join("film.part.mp4"));
        std::fs::write(&clip, CLIP)?;
        let _ = std::fs::remove_file(&part);
        worker.repeat(clip, part.clone(), FILM_SECONDS).await?;
        std::fs::rename(&part, &film)?;
    }
    Ok(film.canonicalize()?)
}

/// The creator, made at the first start and paid at the creator's own node.
async fn creator(
    kept: &mut Kept,
    data_dir: &Path,
    base_url: &str,
    operator_key: &str,
    wallets: &Wallets,
) -> anyhow::Result<String> {
    if let Some(key) = &kept.creator_key {
        return Ok(key.clone());
    }
    let payout = json!({ "kind": "keysend", "destination": wallets.creator.id() });
    let body = json!({ "name": "Demo creator", "payout": payout });
    let added: Value = Client::new(base_url, operator_key)?.post("/api/v1/creators", &body).await?;
    let key = added.get("key").and_then(Value::as_str).context("the server gave no key")?;
    kept.creator_key = Some(key.to_owned());
    kept.write(data_dir)?;
    Ok(key.to_owned())
}

/// The title of the film, and whether it was uploaded just now.
async fn title(
    kept: &mut Kept,
    data_dir: &Path,
    client: &Client,
    film: &Path,
) -> anyhow::Result<(VideoId, bool)> {
    if let Some(video) = kept.video.filter(|_| kept.film.as_deref() == Some(film)) {
        let shown: Value = client.get(&format!("/api/v1/videos/{video}")).await?;
        match shown.get("state").and_then(Value::as_str) {
            Some("ready") => return Ok((video, false)),
            Some("queued" | "transcoding") => return Ok((video, true)),
            _ => {}
        }
    }
    let made = film.file_name().is_some_and(|name| name == "film.mp4");
    let name = film.file_stem().map(|stem| stem.to_string_lossy().into_owned());
    let title =
        if made { "Big Buck Bunny, again and again".to_owned() } else { name.unwrap_or_default() };
    let upload = upload::Upload {
        file: film,
        title: &title,
        description: if made {
            "(c) 2008 Blender Foundation, www.bigbuckbunny.org, CC BY 3.0"
        } else {
            ""
        },
        msat_per_second: MSAT_PER_SECOND,
        preview_seconds: PREVIEW_SECONDS,
    };
    let video = upload::send(client, &upload).await?;
    kept.video = Some(video);
    kept.film = Some(film.to_path_buf());
    kept.write(data_dir)?;
    Ok((video, true))
}
