//! A private chain on this machine: the bitcoind behind `sluice demo` and the regtest tests.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::ChainSource;
use super::rpc::{Rpc, RpcError, credentials};

const START_DURATION_MAX: Duration = Duration::from_secs(60);
const STOP_DURATION_MAX: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);
/// `generatetoaddress` holds bitcoind's main lock for the whole call: small calls let LDK's polls
/// in between.
const BLOCKS_PER_CALL: u32 = 50;

/// What went wrong with the private chain.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It could not be started; the line names the mend.
    #[error("{0}")]
    Start(String),
    /// A call was refused.
    #[error("bitcoind: {method}: {error}")]
    Call {
        /// The method.
        method: String,
        /// Why.
        error: RpcError,
    },
}

/// How a bitcoind is started.
#[derive(Debug, Clone)]
pub struct Options {
    /// The executable.
    pub executable: PathBuf,
    /// Where its chain is kept; a second start in the same place carries on. Without one, a fresh
    /// directory serves and is removed.
    pub datadir: Option<PathBuf>,
    /// Its RPC port; without one, a free one is taken.
    pub rpc_port: Option<u16>,
}

/// A running bitcoind, child of this process: it ends with this handle, and with the process
/// however that ends.
pub struct Bitcoind {
    child: Option<Child>,
    datadir: PathBuf,
    temporary: bool,
    rpc_port: u16,
    rpc: Rpc,
    /// Keeps the thread that started the child: the kernel ties `PR_SET_PDEATHSIG` to the thread,
    /// not to the process.
    _keeper: mpsc::Sender<()>,
}

impl Bitcoind {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// [`Error::Start`] with the last lines it said.
    pub async fn start(options: &Options) -> Result<Self, Error> {
        let (datadir, temporary) = match &options.datadir {
            Some(datadir) => (datadir.clone(), false),
            None => (fresh_datadir(), true),
        };
        std::fs::create_dir_all(&datadir)
            .map_err(|error| Error::Start(format!("cannot make {}: {error}", datadir.display())))?;
        let rpc_port = match options.rpc_port {
            Some(port) => port,
            None => free_port()?,
        };
        let (child, keeper) = spawn(&options.executable, &datadir, rpc_port)?;
        let mut bitcoind = Self {
            child: Some(child),
            datadir,
            temporary,
            rpc_port,
            rpc: Rpc::new("127.0.0.1", rpc_port, String::new(), String::new()),
            _keeper: keeper,
        };
        bitcoind.wait_until_it_answers().await?;
        Ok(bitcoind)
    }

    async fn wait_until_it_answers(&mut self) -> Result<(), Error> {
        let deadline = Instant::now() + START_DURATION_MAX;
        loop {
            if let Some(said) = self.ended() {
                return Err(Error::Start(format!("bitcoind did not start: {said}")));
            }
            // The last run's cookie may lie there still: it is read again until it is the one that
            // fits.
            if let Ok((user, password)) = credentials(&self.cookie_file()) {
                self.rpc = Rpc::new("127.0.0.1", self.rpc_port, user, password);
                if self.rpc.call("getblockchaininfo", json!([])).await.is_ok() {
                    return Ok(());
                }
            }
            if Instant::now() > deadline {
                return Err(Error::Start(
                    "bitcoind takes too long to start: see its debug.log".to_owned(),
                ));
            }
            sleep(POLL).await;
        }
    }

    /// Where it has ended, what it said last.
    fn ended(&mut self) -> Option<String> {
        let child = self.child.as_mut()?;
        let status = child.try_wait().ok().flatten()?;
        let said = std::fs::read_to_string(stderr_file(&self.datadir)).unwrap_or_default();
        let said = said.trim().lines().last().unwrap_or_default();
        Some(format!("{said} ({status})"))
    }

    /// Calls an RPC method with positional parameters.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn rpc(&self, method: &str, params: Value) -> Result<Value, Error> {
        self.rpc
            .call(method, params)
            .await
            .map_err(|error| Error::Call { method: method.to_owned(), error })
    }

    /// Mines blocks whose subsidy goes to this address; it can be spent 100 blocks later. The
    /// subsidy halves every 150 blocks.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn mine(&self, blocks: u32, address: &str) -> Result<(), Error> {
        let mut left = blocks;
        while left > 0 {
            let now = left.min(BLOCKS_PER_CALL);
            self.rpc("generatetoaddress", json!([now, address])).await?;
            left = left.saturating_sub(now);
        }
        // The call has bitcoind write down what it keeps in memory: killed together with the nodes, it would come back without blocks that they
        // know, and they could not follow it.
        self.rpc("gettxoutsetinfo", json!(["none"])).await?;
        Ok(())
    }

    /// How many transactions wait for a block.
    ///
    /// # Errors
    /// [`Error::Call`].
    pub async fn mempool_len(&self) -> Result<usize, Error> {
        let waiting = self.rpc("getrawmempool", json!([])).await?;
        Ok(waiting.as_array().map_or(0, Vec::len))
    }

    /// The port of its RPC.
    pub const fn rpc_port(&self) -> u16 {
        self.rpc_port
    }

    /// The file that holds its credentials, new at each start.
    pub fn cookie_file(&self) -> PathBuf {
        cookie(&self.datadir)
    }

    /// This chain as a node's chain source.
    pub fn chain_source(&self) -> ChainSource {
        ChainSource::Bitcoind {
            host: "127.0.0.1".to_owned(),
            port: self.rpc_port,
            cookie_file: self.cookie_file(),
        }
    }

    /// Stops it in good order, so that everything is on disk.
    ///
    /// # Errors
    /// [`Error::Call`] where it does not take the call; dropping the handle kills it then.
    pub async fn stop(mut self) -> Result<(), Error> {
        self.rpc("stop", json!([])).await?;
        let deadline = Instant::now() + STOP_DURATION_MAX;
        while Instant::now() < deadline && self.ended().is_none() {
            sleep(POLL).await;
        }
        Ok(())
    }
}

impl Drop for Bitcoind {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Fails only where it has ended already, which `wait` then finds.
            let _ = child.kill();
            let _ = child.wait();
        }
        if self.temporary {
            let _ = std::fs::remove_dir_all(&self.datadir);
        }
    }
}

/// A port of this machine that nobody uses now.
///
/// # Errors
/// [`Error::Start`] where there is none.
pub fn free_port() -> Result<u16, Error> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Error::Start(format!("no free port: {error}")))
}

/// Starts the child from a thread that lives as long as the returned sender.
fn spawn(
    executable: &Path,
    datadir: &Path,
    rpc_port: u16,
) -> Result<(Child, mpsc::Sender<()>), Error> {
    let stderr = std::fs::File::create(stderr_file(datadir))
        .map_err(|error| Error::Start(format!("cannot write {}: {error}", datadir.display())))?;
    // util-linux sets the signal before it becomes bitcoind; doing it here would need unsafe code
    // between fork and exec.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(executable)
        .arg("-regtest")
        .arg(format!("-datadir={}", datadir.display()))
        .arg(format!("-rpcport={rpc_port}"))
        .args(["-server", "-listen=0", "-fallbackfee=0.0001", "-printtoconsole=0", "-dbcache=4"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(stderr);
    let (keeper, kept) = mpsc::channel::<()>();
    let (started, child) = mpsc::channel();
    std::thread::Builder::new()
        .name("bitcoind-keeper".to_owned())
        .spawn(move || {
            let _ = started.send(command.spawn());
            let _ = kept.recv();
        })
        .map_err(|error| Error::Start(format!("no thread for bitcoind: {error}")))?;
    match child.recv() {
        Ok(Ok(child)) => Ok((child, keeper)),
        Ok(Err(error)) => Err(Error::Start(format!("setpriv (util-linux) cannot be run: {error}"))),
        Err(_) => Err(Error::Start("bitcoind was not started".to_owned())),
    }
}

fn cookie(datadir: &Path) -> PathBuf {
    datadir.join("regtest").join(".cookie")
}

/// A name that nobody else has.
fn fresh_datadir() -> PathBuf {
    std::env::temp_dir().join(format!("sluice-regtest-{}", uuid::Uuid::now_v7().simple()))
}

/// What it says before its own log is open; a file, because nobody reads a pipe while it runs.
fn stderr_file(datadir: &Path) -> PathBuf {
    datadir.join("stderr.log")
}
