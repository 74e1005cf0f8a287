//! `sluice demo`: what it prints, what its wallets do and refuse, what it leaves behind.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::{RequestBuilder, StatusCode, header};
use serde_json::{Value, json};

use crate::world::client::Client;
use crate::world::server::{output, run, run_within, sluice, utf8};
use crate::world::until;

/// The first start makes the film's renditions, on a machine with other things to do.
const UP_WITHIN: Duration = Duration::from_secs(120);
/// `--watch` comes up, waits for rest before the film and after it, up to 90 s each, and plays and decodes in between.
pub const WATCHED_WITHIN: Duration = Duration::from_secs(240);

/// A demo that is up.
pub struct Demo {
    child: Child,
    told: Value,
    /// Children that it has of its own: bitcoind, and whatever works for it.
    pub bitcoind: Vec<i32>,
    /// Reads what it prints after the one line.
    rest: JoinHandle<String>,
}

impl Demo {
    pub async fn start(data_dir: &Path, film: &Path, more: &[&str]) -> Self {
        let mut command = demo(data_dir, film);
        let mut child = command.arg("--json").args(more).stdout(Stdio::piped()).spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let read = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            (line, stdout)
        });
        let (line, mut stdout) = tokio::time::timeout(UP_WITHIN, read).await.unwrap().unwrap();
        let told = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        let rest = std::thread::spawn(move || {
            let mut more = String::new();
            stdout.read_to_string(&mut more).unwrap();
            more
        });
        let bitcoind = processes_of(data_dir);
        Self { child, told, bitcoind, rest }
    }

    pub fn text(&self, key: &str) -> &str {
        self.told[key].as_str().unwrap_or_else(|| panic!("{key} is missing: {}", self.told))
    }

    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Its titles, as its creator sees them.
    async fn titles(&self) -> Value {
        let key = self.text("creator_key").to_owned();
        let titles = Client::new(self.text("base_url"), Some(key)).json("/api/v1/videos").await;
        titles["videos"].clone()
    }

    pub async fn signal(self, signal: Signal) -> std::process::ExitStatus {
        kill(Pid::from_raw(self.child.id().cast_signed()), signal).unwrap();
        let status = output(self.child).await.status;
        assert_eq!(self.rest.join().unwrap(), "", "nothing comes after the one line");
        status
    }
}

fn demo(data_dir: &Path, film: &Path) -> Command {
    let mut command = sluice(&["demo", "--listen", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(data_dir).arg("--video").arg(film);
    command
}

/// Processes whose command line names this directory, the demo itself left out.
fn processes_of(data_dir: &Path) -> Vec<i32> {
    let name = data_dir.join("bitcoind");
    let name = name.to_str().unwrap().as_bytes();
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().filter_map(Result::ok) {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        if line.windows(name.len()).any(|window| window == name) {
            found.push(pid);
        }
    }
    found
}

pub fn is_gone(pid: i32) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

/// A film whose first 8 seconds the demo gives away, and whose others it sells by 4.
pub async fn film(dir: &Path, seconds: u32) -> PathBuf {
    let film = dir.join("demo-film.mp4");
    let picture = format!("testsrc2=size=640x360:rate=25:duration={seconds}");
    let sound = format!("sine=duration={seconds}");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-f", "lavfi", "-i"]);
    command.args([&picture, "-f", "lavfi", "-i", &sound]);
    command.args(["-preset", "ultrafast", "-shortest"]).arg(&film);
    let output = run(command).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    film
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_tells_one_line_pays_for_its_page_only_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let (film, data_dir) = (film(dir.path(), 24).await, dir.path().join("demo"));
    let demo = Demo::start(&data_dir, &film, &[]).await;
    assert_eq!(demo.bitcoind.len(), 1, "one bitcoind");
    let keys: Vec<_> = demo.told.as_object().unwrap().keys().cloned().collect();
    assert_eq!(
        keys,
        [
            "base_url",
            "bitcoind_rpc_url",
            "creator_key",
            "creator_wallet_url",
            "nodes",
            "operator_key",
            "video",
            "wallet_url"
        ]
    );
    wallets_pay_and_refuse(&demo).await;
    let titles = demo.titles().await;
    assert_eq!((titles.as_array().unwrap().len(), &titles[0]["state"]), (1, &json!("ready")));
    let (video, bitcoind) = (demo.text("video").to_owned(), demo.bitcoind.clone());
    let status = demo.signal(Signal::SIGINT).await;
    assert!(matches!(status.code(), Some(0 | 130)), "{status}");
    assert!(bitcoind.iter().all(|pid| is_gone(*pid)), "bitcoind ended before the demo did");

    // A second start carries on, and a kill leaves no bitcoind.
    let demo = Demo::start(&data_dir, &film, &[]).await;
    assert_eq!(demo.text("video"), video, "the same title");
    assert_eq!(demo.titles().await, titles, "no second title, and no second version of it");
    let bitcoind = demo.bitcoind.clone();
    assert_eq!(bitcoind.len(), 1);
    demo.signal(Signal::SIGKILL).await;
    until("bitcoind's end", async || bitcoind.iter().all(|pid| is_gone(*pid))).await;

    // And even after the kill the whole film is paid for, to the millisatoshi.
    agrees_to_the_millisatoshi(&data_dir, &film).await.unwrap();
}

/// Watches the whole film: the demo ends well, says that every node agrees with the ledger, and leaves nothing behind; else what it said.
pub async fn agrees_to_the_millisatoshi(data_dir: &Path, film: &Path) -> Result<(), String> {
    let mut command = demo(data_dir, film);
    command.arg("--watch");
    let output = run_within(command, WATCHED_WITHIN).await;
    let (said, wrong) = (utf8(&output.stdout), utf8(&output.stderr));
    let agrees = said.contains("Every node agrees with the ledger to the millisatoshi.");
    let left = processes_of(data_dir);
    if output.status.success() && agrees && left.is_empty() {
        return Ok(());
    }
    Err(format!("{}, processes left: {left:?}\n{said}\n{wrong}", output.status))
}

async fn wallets_pay_and_refuse(demo: &Demo) {
    let http = reqwest::Client::new();
    let wallet = demo.text("wallet_url");
    let balance = async |url: &str| {
        let answer = http.get(format!("{url}/balance")).send().await.unwrap();
        let body: Value = answer.error_for_status().unwrap().json().await.unwrap();
        body["spendable_msat"].as_u64().unwrap()
    };
    let before = balance(wallet).await;
    balance(demo.text("creator_wallet_url")).await;

    let client = Client::new(demo.text("base_url"), None);
    let index = format!("/hls/{}/index.m3u8", demo.text("video"));
    let renditions = client.renditions(&index).await;
    let segment = renditions[0].segments.last().unwrap();
    let challenge = client.challenge(segment).await.expect("a price");
    let pay = |wallet: &str| {
        http.post(format!("{wallet}/pay")).json(&json!({ "invoice": challenge.invoice }))
    };
    for (what, foreign) in [
        ("a foreign host", pay(wallet).header(header::HOST, "evil.example")),
        ("a foreign origin", pay(wallet).header(header::ORIGIN, "https://evil.example")),
        ("another secret", pay(&wallet.replace("/demo/", "/demo/0"))),
        (
            "a foreign host",
            http.get(format!("{wallet}/balance")).header(header::HOST, "evil.example"),
        ),
    ] {
        assert_eq!(status(foreign).await, StatusCode::FORBIDDEN, "{what}");
    }
    let form = http.post(format!("{wallet}/pay")).body("invoice=1");
    assert_eq!(status(form).await, StatusCode::UNSUPPORTED_MEDIA_TYPE, "JSON is required");
    assert_eq!(balance(wallet).await, before, "nothing was paid");

    let same = demo.text("base_url").to_owned();
    let paid = pay(wallet).header(header::ORIGIN, same).send().await.unwrap();
    let paid: Value = paid.error_for_status().unwrap().json().await.unwrap();
    assert_eq!(paid["amount_msat"].as_u64(), Some(challenge.amount));
    assert_eq!(paid["fee_msat"].as_u64(), Some(0));
    let credential = challenge.credential(paid["preimage"].as_str().unwrap());
    assert!(!client.redeem(segment, &credential).await.is_empty());
    let spent = async || before - balance(wallet).await == challenge.amount;
    until("the price at the viewer's balance", spent).await;
}

async fn status(request: RequestBuilder) -> StatusCode {
    request.send().await.unwrap().status()
}
