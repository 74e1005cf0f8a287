//! A thousand sessions whose wallets follow the stream of invoices over real sockets, with the fake node: what each takes of the server's memory,
//! and how long after a payment its wallet is told, while all of them play.
//!
//! The server is a process of its own, this executable once more, so that the wallets' memory is not counted.
//! `make bench ARGS="--bench sessions"`; `SLUICE_SESSIONS` sets the number.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::routing::post;
use futures::StreamExt as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};
use sluice::http::router;
use tokio::net::TcpListener;

#[path = "common/figures.rs"]
mod figures;
#[path = "common/film.rs"]
mod film;
#[path = "common/gate.rs"]
mod gate;

use figures::{ms, quantile};
use gate::Gate;

const SESSIONS: usize = 1_000;
/// Each plays so many segments, one in `SEGMENT_MS`, while it is measured.
const PLAYED: u32 = 5;
const SERVE: &str = "--serve-from";

fn allow_open_files() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, most, most).unwrap();
}

/// The server: the whole of it but Lightning, and a way to have invoices paid.
async fn serve(dir: &Path) {
    let Gate { shared, node, film, config, tasks, .. } = Gate::open(dir, 1_800, 1_000).await;
    let pay = post(move |invoice: String| async move { node.pay(&invoice).map(|_| ()).unwrap() });
    let router = router(Arc::clone(&shared)).merge(Router::new().route("/pay", pay));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    println!("{} {}", listener.local_addr().unwrap(), film.video);
    let metrics = shared.metrics.clone();
    let cancel = tasks.cancellation();
    sluice::http::server::serve(listener, router, config.http.clone(), metrics, cancel).await;
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// A session and its stream of events.
struct Session {
    http: reqwest::Client,
    base: String,
    play: String,
    events: std::pin::Pin<Box<dyn futures::Stream<Item = reqwest::Result<bytes::Bytes>> + Send>>,
    text: String,
}

impl Session {
    async fn open(http: &reqwest::Client, base: &str, video: &str) -> Self {
        let asked = http.post(format!("{base}/api/v1/sessions")).json(&json!({ "video": video }));
        let opened: Value = asked.send().await.unwrap().json().await.unwrap();
        let control = opened["control"].as_str().unwrap();
        let stream = http.get(format!("{base}{control}/invoices")).send().await.unwrap();
        assert_eq!(stream.status(), 200);
        let play = opened["playlist"].as_str().unwrap().trim_end_matches("/index.m3u8").to_owned();
        let events = Box::pin(stream.bytes_stream());
        Self { http: http.clone(), base: base.to_owned(), play, events, text: String::new() }
    }

    /// The next event of this name.
    async fn event(&mut self, name: &str) -> Value {
        loop {
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.to_owned();
                self.text = rest.to_owned();
                let field = |field: &str| event.lines().find_map(|line| line.strip_prefix(field));
                if field("event: ") == Some(name) {
                    return serde_json::from_str(field("data: ").unwrap()).unwrap();
                }
            }
            let more = self.events.next().await.expect("the stream goes on").unwrap();
            self.text.push_str(std::str::from_utf8(&more).unwrap());
        }
    }

    /// Pays what is asked and fetches segments at their pace; how long after each payment its event came.
    async fn plays(mut self, offset: Duration) -> Vec<f64> {
        let mut lags = Vec::new();
        tokio::time::sleep(offset).await;
        let mut ticks = tokio::time::interval(Duration::from_millis(film::SEGMENT_MS));
        for number in 0..PLAYED {
            ticks.tick().await;
            // The window's first invoice comes with the player's first request, which is held until it is paid.
            let segment = format!("{}{}/720p/{number}.m4s", self.base, self.play);
            let served = tokio::spawn(self.http.get(segment).send());
            let invoice = self.event("invoice").await;
            let paid = self.http.post(format!("{}/pay", self.base));
            let text = invoice["invoice"].as_str().unwrap().to_owned();
            let asked = Instant::now();
            paid.body(text).send().await.unwrap().error_for_status().unwrap();
            self.event("paid").await;
            lags.push(ms(asked.elapsed()));
            let served = served.await.unwrap().unwrap();
            assert_eq!(served.status(), 200);
            served.bytes().await.unwrap();
        }
        lags
    }
}

async fn measure(sessions: usize) {
    let dir = tempfile::tempdir().unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(std::env::current_exe().unwrap());
    command.arg(SERVE).arg(dir.path()).stdout(Stdio::piped());
    let mut server = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (address, video) = line.trim().split_once(' ').unwrap();
    let (http, base) = (reqwest::Client::new(), format!("http://{address}"));

    // What the first one brings into memory is not counted.
    let first = Session::open(&http, &base, video).await;
    let before = resident_kib(server.id());
    let mut open = Vec::new();
    for _ in 0..sessions {
        open.push(Session::open(&http, &base, video).await);
    }
    let idle = resident_kib(server.id());
    let span = Duration::from_millis(film::SEGMENT_MS);
    let plays = open
        .into_iter()
        .enumerate()
        .map(|(n, session)| tokio::spawn(session.plays(span * n as u32 / sessions as u32)));
    let plays: Vec<_> = plays.collect();
    let mut lags = Vec::new();
    for play in plays {
        lags.extend(play.await.unwrap());
    }
    let after = resident_kib(server.id());
    drop(first);
    let each = |kib: u64| kib.saturating_sub(before) as f64 / sessions as f64;
    println!("{sessions} sessions that stream, {} payments", lags.len());
    println!(
        "  memory of each {:.1} kB quiet, {:.1} kB after playing; goal under 64",
        each(idle),
        each(after)
    );
    println!(
        "  from payment to its event: p50 {:.1} ms, p99 {:.1} ms; goal 100 at the median",
        quantile(&lags, 0.5),
        quantile(&lags, 0.99)
    );
    server.kill().unwrap();
    server.wait().unwrap();
}

fn main() {
    allow_open_files();
    let arguments: Vec<String> = std::env::args().collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    if let Some(at) = arguments.iter().position(|argument| argument == SERVE) {
        return runtime.block_on(serve(Path::new(&arguments[at + 1])));
    }
    let sessions = std::env::var("SLUICE_SESSIONS").ok().and_then(|text| text.parse().ok());
    runtime.block_on(measure(sessions.unwrap_or(SESSIONS)));
}
