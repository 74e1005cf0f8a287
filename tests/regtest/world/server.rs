//! `sluice serve`, the executable itself, as a child of the test.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sluice::lightning::regtest::{Bitcoind, free_port};

use super::client::Client;
use super::{WITHIN, number};

/// Below this nothing is paid out: the routing fee's floor and the smallest payout.
pub const PAYOUT_MIN_MSAT: i128 = 2_000;

/// What tests set in the configuration.
pub struct Settings {
    pub segment_ms: u64,
    pub payout_seconds: u64,
    pub replay_seconds: u64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { segment_ms: 1_000, payout_seconds: 2, replay_seconds: 60 }
    }
}

/// The server's balances as its books have them, in millisatoshi.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    pub channels: i128,
    pub viewer_credit: i128,
    pub fee: i128,
    pub routing: i128,
    pub unclaimed: i128,
    pub payable: i128,
    pub in_flight: i128,
    pub verified: bool,
}

/// A server that runs, or that a test has ended.
pub struct Serving {
    child: Option<Child>,
    pub data_dir: PathBuf,
    pub config: PathBuf,
    pub http: String,
    pub lightning: String,
}

impl Serving {
    /// Writes the configuration.
    pub fn prepare(data_dir: &Path, bitcoind: &Bitcoind, settings: &Settings) -> Self {
        let address = || format!("127.0.0.1:{}", free_port().unwrap());
        let (http, lightning) = (address(), address());
        let config = data_dir.with_extension("toml");
        std::fs::write(&config, text(data_dir, bitcoind, settings, &http, &lightning)).unwrap();
        Self { child: None, data_dir: data_dir.to_owned(), config, http, lightning }
    }

    /// Has it read the chain from a source of another kind than the bitcoind.
    pub fn read_chain_from(&self, kind: &str, url: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        let (head, tail) = text.split_once("kind = \"bitcoind\"").unwrap();
        let (_, tail) = tail.split_once("[payment]").unwrap();
        let chain = format!("kind = \"{kind}\"\nurl = \"{url}\"\n[payment]");
        std::fs::write(&self.config, format!("{head}{chain}{tail}")).unwrap();
    }

    /// Starts it and waits until it says that it answers; with `FAILPOINTS`, where the test holds it at one.
    pub async fn start(&mut self, environment: &[(&str, &str)]) {
        assert!(self.child.is_none(), "it runs");
        let log = std::fs::File::options().create(true).append(true).open(self.log_file()).unwrap();
        let mut command = sluice(&["serve", "--config", self.config.to_str().unwrap()]);
        command.envs(environment.iter().copied()).stdout(Stdio::piped()).stderr(log);
        let mut child = command.spawn().unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        self.child = Some(child);
        let (told, heard) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                let _ = told.send(line);
            }
        });
        let wait = move || heard.recv_timeout(WITHIN);
        let line = tokio::task::spawn_blocking(wait).await.unwrap();
        let line = line.unwrap_or_else(|error| panic!("{error}\n{}", self.log()));
        assert_eq!(line, format!("Sluice answers on {}", self.base_url()));
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Ends it as a power cut of the process would, and waits until it is gone.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits for the end of one that was killed by its id.
    pub fn reap(&mut self) {
        self.child.take().expect("it ran").wait().unwrap();
    }

    /// Ends it in good order.
    pub async fn stop(&mut self) {
        let child = self.child.take().expect("it runs");
        kill(Pid::from_raw(child.id().cast_signed()), Signal::SIGTERM).unwrap();
        let output = output(child).await;
        assert!(output.status.success(), "{}\n{}", output.status, self.log());
    }

    pub fn base_url(&self) -> String {
        format!("http://{}", self.http)
    }

    fn log_file(&self) -> PathBuf {
        self.data_dir.with_extension("log")
    }

    /// The last lines that it logged.
    pub fn log(&self) -> String {
        let text = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// All lines that it logged in all its starts and that hold this text.
    pub fn logged(&self, text: &str) -> Vec<String> {
        let all = std::fs::read_to_string(self.log_file()).unwrap_or_default();
        all.lines().filter(|line| line.contains(text)).map(str::to_owned).collect()
    }

    /// The size of its database's write-ahead logs, which grow with whatever it writes, LDK's state included.
    pub fn written_bytes(&self) -> u64 {
        let files = std::fs::read_dir(self.data_dir.join("db")).unwrap().filter_map(Result::ok);
        let logs = files.filter(|file| file.path().extension().is_some_and(|name| name == "log"));
        // One that is gone between the two was written to its end.
        logs.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }

    /// A client without a key.
    pub fn anybody(&self) -> Client {
        Client::new(&self.base_url(), None)
    }

    /// A client with the operator's key.
    pub fn operator(&self) -> Client {
        let key = std::fs::read_to_string(self.data_dir.join("operator.key")).unwrap();
        Client::new(&self.base_url(), Some(key.trim().to_owned()))
    }

    pub async fn totals(&self) -> Totals {
        let ledger = self.operator().json("/api/v1/ledger").await;
        let total = |name: &str| number(&ledger, &format!("/totals/{name}_msat"));
        Totals {
            channels: total("channels"),
            viewer_credit: total("viewer_credit"),
            fee: total("fee"),
            routing: total("routing"),
            unclaimed: total("unclaimed"),
            payable: total("payable"),
            in_flight: total("in_flight"),
            verified: ledger["verified"] == true,
        }
    }

    /// What its node owns in all its channels.
    pub async fn owned(&self) -> i128 {
        let node = self.operator().json("/api/v1/node").await;
        let channels = node["channels"].as_array().unwrap();
        channels.iter().map(|channel| number(channel, "/balance_msat")).sum()
    }

    /// A counter of `/metrics`; 0 where it was not counted yet.
    pub async fn metric(&self, name: &str) -> u64 {
        self.anybody().metric(name).await
    }

    /// Payments that came in with this outcome.
    pub async fn payments(&self, outcome: &str) -> u64 {
        self.anybody().payments(outcome).await
    }

    /// Runs a subcommand against this server with a key; what it printed.
    pub async fn cli(&self, arguments: &[&str], key_file: &Path) -> String {
        let mut command = sluice(arguments);
        command.args(["--server", &self.base_url(), "--key-file"]).arg(key_file);
        let output = run(command).await;
        let (said, wrong) = (utf8(&output.stdout), utf8(&output.stderr));
        assert!(output.status.success(), "sluice {arguments:?}: {wrong}\n{}", self.log());
        said
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The executable with these arguments. It ends with this process, however that ends, and reads no configuration from its environment.
pub fn sluice(arguments: &[&str]) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_sluice")]).args(arguments);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICE_") {
            command.env_remove(name);
        }
    }
    // A held failpoint sleeps on a worker thread: the others go on.
    command.env("TOKIO_WORKER_THREADS", "4").stdin(Stdio::null());
    command
}

/// Runs a command to its end, within two minutes.
pub async fn run(command: Command) -> Output {
    run_within(command, WITHIN).await
}

/// Runs a command that may take longer to its end.
pub async fn run_within(mut command: Command, within: Duration) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    output_within(child, within).await
}

/// Waits for a child's end, within two minutes.
pub async fn output(child: Child) -> Output {
    output_within(child, WITHIN).await
}

async fn output_within(child: Child, within: Duration) -> Output {
    let pid = Pid::from_raw(child.id().cast_signed());
    let mut ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    match tokio::time::timeout(within, &mut ended).await {
        Ok(output) => output.unwrap(),
        Err(_) => {
            let _ = kill(pid, Signal::SIGKILL);
            let output = ended.await.unwrap();
            panic!("no end within {within:?}: {}", utf8(&output.stderr))
        }
    }
}

pub fn utf8(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Resident memory of a process, in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// How long a server that ends at once may take to do so.
pub const AT_ONCE: Duration = Duration::from_secs(20);

fn text(
    data_dir: &Path,
    bitcoind: &Bitcoind,
    settings: &Settings,
    http: &str,
    lightning: &str,
) -> String {
    let Settings { segment_ms, payout_seconds, replay_seconds } = settings;
    let (data_dir, port) = (data_dir.display(), bitcoind.rpc_port());
    let cookie = bitcoind.cookie_file();
    let cookie = cookie.display();
    format!(
        r#"data_dir = "{data_dir}"
[log]
filter = "info"
[http]
listen = "{http}"
[lightning]
network = "regtest"
listen = ["{lightning}"]
alias = "server"
[lightning.chain]
kind = "bitcoind"
host = "127.0.0.1"
port = {port}
cookie_file = "{cookie}"
[payment]
replay_seconds = {replay_seconds}
challenges_per_client_per_minute = 100000
[payout]
interval_seconds = {payout_seconds}
lnurl_allow_loopback = true
[media]
segment_ms = {segment_ms}
ladder = [480, 240]
preset = "ultrafast"
"#
    )
}
