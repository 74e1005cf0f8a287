//! The composition root: the only file that names concrete adapters, and the order of start and stop.

use std::fs::File;
use std::io::{self, ErrorKind, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, anyhow, bail};
use axum::Router;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::blobs::{self, Blobs};
use crate::config::Config;
use crate::domain::id::NodeId;
use crate::http::{self, Shared};
use crate::library::upload::{Disk, SystemDisk};
use crate::library::{self, Library};
use crate::lightning::ldk::{self, LdkNode};
use crate::lightning::{self, Node, SharedNode};
use crate::media::Transcoder;
use crate::media::worker::{Worker, sandbox_support};
use crate::operate::Operations;
use crate::payout::lnurl::Services;
use crate::payout::outbound::{Internet, Outbound, Wire};
use crate::payout::{Fetches, Payer, PayoutSecret};
use crate::paywall::limits::LATE_SECONDS;
use crate::paywall::session::SessionGate;
use crate::paywall::token::Keys;
use crate::paywall::{self, Paywall, Suspension};
use crate::runtime::{Bells, Clock, SystemClock, Tasks, random_bytes, sleep};
use crate::settlement::Settlement;
use crate::statements::Statements;
use crate::store::engine::Engine;
use crate::store::rocks::Rocks;
use crate::store::{self, Ledger as _, Sessions as _, Storage as _, Store};
use crate::telemetry::Metrics;

/// Everything ends within this, or is left to the end of the process.
const STOP_WITHIN: Duration = Duration::from_secs(20);
/// Unpaid invoices and expired credit are looked for this often.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// A node and the database that it shares with everything else.
pub struct Base {
    /// The database.
    pub store: Arc<Store<Rocks>>,
    /// The node.
    pub node: Arc<LdkNode>,
    /// Its seed, from which all secrets are derived.
    pub seed: [u8; 64],
    /// The number of this start.
    pub boot: u64,
    /// Keeps other processes from the directory.
    pub lock: Flock<File>,
}

/// A running server.
pub struct Server {
    /// Where it answers.
    pub address: SocketAddr,
    /// What handlers share; the demo reads its statement here.
    pub shared: Arc<Shared>,
    /// The file that holds the operator's key.
    pub operator_key: PathBuf,
    node: SharedNode,
    store: Arc<Store<Rocks>>,
    tasks: Tasks,
    _lock: Flock<File>,
}

/// The parts from which a server is put together: real ones to run, fakes for fast tests.
pub struct Pieces<N, E> {
    /// The store.
    pub store: Arc<Store<E>>,
    /// The node.
    pub node: Arc<N>,
    /// The root of all secrets.
    pub seed: [u8; 64],
    /// The number of this start.
    pub boot: u64,
    /// Segments.
    pub blobs: Blobs,
    /// Makes them.
    pub transcoder: Arc<dyn Transcoder>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Where sources arrive.
    pub spool: PathBuf,
    /// The disk that this lies on.
    pub disk: Arc<dyn Disk>,
    /// The network to destinations' services.
    pub wire: Arc<dyn Wire>,
}

/// Puts a server together and starts what works in the background.
///
/// # Errors
/// A line that names the key and the mend.
pub fn assemble<N: Node + 'static, E: Engine>(
    pieces: Pieces<N, E>,
    config: &Config,
    tasks: &Tasks,
) -> anyhow::Result<Arc<Shared>> {
    let Pieces { store, node, seed, boot, blobs, transcoder, clock, spool, disk, wire } = pieces;
    let fee = config.payment.fee().map_err(|line| anyhow!(line))?;
    let granularity = config.payment.granularity().map_err(|line| anyhow!(line))?;
    let (bells, earned) = (Bells::default(), Arc::new(Notify::new()));
    let (suspension, metrics) = (Suspension::default(), Metrics::default());
    let gate = Arc::new(Paywall::new(paywall::Parts {
        store: Arc::clone(&store) as _,
        issuer: Arc::clone(&node) as _,
        keys: Keys::derive(&seed, store.key_epoch()?),
        clock: Arc::clone(&clock),
        bells: bells.clone(),
        earned: Arc::clone(&earned),
        suspension: suspension.clone(),
        metrics: metrics.clone(),
        options: config.payment.clone(),
    }));
    let library = Arc::new(Library::new(library::Parts {
        store: Arc::clone(&store) as _,
        blobs,
        transcoder,
        clock: Arc::clone(&clock),
        spool,
        options: config.library.clone(),
        uploads: config.uploads.clone(),
        disk,
        media: config.media.clone(),
        granularity,
        fee,
        boot,
        owed_ms: owed_ms(config),
    }));
    let payer = Arc::new(Payer {
        sender: Arc::clone(&node) as _,
        store: Arc::clone(&store) as _,
        clock: Arc::clone(&clock),
        secret: PayoutSecret::new(seed),
        wake: Arc::clone(&earned),
        options: config.payout.clone(),
        started_ms: clock.now_ms(),
        resends: Mutex::default(),
        services: Services {
            outbound: Outbound::new(wire, config.payout.lnurl_allow_loopback),
            network: config.lightning.network,
            own: lightning::Issuer::node_id(&*node),
        },
        fetches: Fetches::default(),
    });
    let shared = Arc::new(Shared {
        library: Arc::clone(&library),
        paywall: Arc::clone(&gate),
        sessions: SessionGate::new(Arc::clone(&gate), boot),
        statements: Statements { store: Arc::clone(&store) as _ },
        payer: Arc::clone(&payer),
        operations: Operations { node: Arc::clone(&node) as _, suspension: suspension.clone() },
        metrics: metrics.clone(),
        payee: lightning::Issuer::node_id(&*node),
        network: config.lightning.network,
        options: config.http.clone(),
        memory: http::Memory::new(config.http.body_bytes_max),
    });
    let settlement = Settlement {
        node: Arc::clone(&node) as _,
        store: Arc::clone(&store) as _,
        clock: Arc::clone(&clock),
        bells,
        payouts: earned,
        suspension,
        metrics,
        boot,
        forwards: Arc::default(),
    };
    tasks.spawn_critical("closings", settlement.clone().book_closings(tasks.cancellation()));
    tasks.spawn_critical("settlement", settlement.run(tasks.cancellation()));
    tasks.spawn_critical("payout", payer.run(tasks.cancellation()));
    let cancel = tasks.cancellation();
    tasks.spawn_critical("jobs", async move { library.run_jobs(cancel).await });
    let redeem_ms = config.payment.redeem_seconds.saturating_mul(1_000);
    let sweep = sweep(store, Arc::clone(&shared), clock, redeem_ms, tasks.cancellation());
    tasks.spawn_critical("sweep", sweep);
    Ok(shared)
}

/// How long after a version was replaced somebody may have a claim on it: a session that pinned it may mint until its end, the last invoice may be
/// paid late, and what was paid can be redeemed for a time.
fn owed_ms(config: &Config) -> u64 {
    let payment = &config.payment;
    let expiry = u64::from(payment.invoice_expiry_seconds);
    let seconds = payment.session_seconds.saturating_add(expiry).saturating_add(LATE_SECONDS);
    seconds.saturating_add(payment.redeem_seconds).saturating_mul(1_000)
}

async fn sweep<E: Engine>(
    store: Arc<Store<E>>,
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
    redeem_ms: u64,
    cancel: CancellationToken,
) {
    while sleep(&cancel, SWEEP_EVERY).await {
        // While payments cannot be booked, one of an invoice that seems unpaid may be among those that wait.
        if !shared.operations.suspension.is_set() {
            let (store, now) = (Arc::clone(&store), clock.now_ms());
            let unpaid = (now / 1_000).saturating_sub(LATE_SECONDS);
            let swept = tokio::task::spawn_blocking(move || {
                let swept = store.sweep(unpaid, now.saturating_sub(redeem_ms), now)?;
                Ok::<_, store::Error>((swept, store.forget_sessions(now / 1_000)?))
            });
            match swept.await {
                Ok(Ok((swept, sessions))) => tracing::debug!(?swept, sessions, "swept"),
                Ok(Err(error)) => tracing::error!(%error, "the sweep failed"),
                Err(error) => tracing::error!(%error, "the sweep broke off"),
            }
        }
        if let Err(error) = shared.library.sweep_versions().await {
            tracing::error!(%error, "replaced versions could not be removed");
        }
        shared.library.sweep_uploads().await;
        shared.paywall.forget_quiet_clients();
        shared.sessions.forget_idle();
    }
}

/// Opens the database in a directory and starts a node on it: what a server and each wallet of the demo begin with.
///
/// # Errors
/// A line that names what is wrong and the mend.
pub async fn base(data_dir: &Path, options: &lightning::Options) -> anyhow::Result<Base> {
    make_private_directory(data_dir)?;
    // Before anything is made: two first starts at once would make two seeds.
    let lock = lock_directory(data_dir)?;
    let (path, seed_file) = (data_dir.join("db"), data_dir.join("seed"));
    // The seed first: a start that dies between the two leaves a seed without a database, with which the next one goes on.
    let seed = seed(&seed_file, !path.exists())?;
    make_private_directory(&path)?;
    let store = tokio::task::spawn_blocking(move || Rocks::open(&path)).await??;
    let store = Arc::new(Store::new(store));
    let boot = store.next_boot()?;
    let state = Arc::clone(&store) as _;
    let node = ldk::start(options, seed, state, boot, &data_dir.join("node")).await?;
    Ok(Base { store, node: Arc::new(node), seed, boot, lock })
}

/// Moves the keys of credentials, sessions and receipts on, in the database of a server that is stopped; the epoch from the next start on.
///
/// # Errors
/// A line that names what is wrong and the mend.
pub async fn rotate_keys(data_dir: &Path) -> anyhow::Result<u32> {
    let path = data_dir.join("db");
    if !path.exists() {
        bail!("{} holds no server: name another data_dir", data_dir.display());
    }
    let lock = lock_directory(data_dir)?;
    let epoch = tokio::task::spawn_blocking(move || -> Result<u32, store::Error> {
        let store = Store::new(Rocks::open(&path)?);
        let epoch = store.rotate_keys()?;
        store.flush()?;
        Ok(epoch)
    });
    let epoch = epoch.await??;
    drop(lock);
    Ok(epoch)
}

/// Starts a server; `more` is merged into its router (the demo's wallets).
///
/// # Errors
/// A line that names what is wrong and the mend.
pub async fn start(config: &Config, more: Option<Router>) -> anyhow::Result<Server> {
    config.check()?;
    if let Err(lack) = sandbox_support()
        && !config.media.allow_weak_sandbox
    {
        bail!(
            "this kernel lacks a part of the media worker's sandbox ({lack}): use a newer kernel, or accept the risk \
             with media.allow_weak_sandbox = true"
        );
    }
    allow_open_files();
    let listener = listen(config.http.listen).await?;
    let address = listener.local_addr()?;
    let Base { store, node, seed, boot, lock } =
        base(&config.data_dir, &config.lightning.options()).await?;
    let (media, spool) = (config.data_dir.join("media"), config.data_dir.join("spool"));
    make_private_directory(&media)?;
    make_private_directory(&spool)?;
    let tasks = Tasks::default();
    let pieces = Pieces {
        store: Arc::clone(&store),
        node: Arc::clone(&node),
        seed,
        boot,
        blobs: Blobs::on_disk(&media)?,
        transcoder: Arc::new(Worker::new(config.media.clone())),
        clock: Arc::new(SystemClock),
        spool,
        disk: Arc::new(SystemDisk),
        wire: Arc::new(Internet),
    };
    let shared = assemble(pieces, config, &tasks)?;
    shared.library.sweep_spool().await;
    sweep_media(media);
    let operator_key = config.data_dir.join("operator.key");
    if !operator_key.exists() {
        write_private(&operator_key, shared.library.create_operator_key()?.as_bytes())?;
    }
    let node: SharedNode = node;
    watch_node(Arc::clone(&node), &tasks);
    let router = http::router(Arc::clone(&shared)).merge(more.unwrap_or_default());
    let (options, metrics) = (config.http.clone(), shared.metrics.clone());
    let http = http::server::serve(listener, router, options, metrics, tasks.cancellation());
    tasks.spawn_critical("http", http);
    let id: NodeId = shared.payee;
    tracing::info!(%address, node = %id, "ready");
    Ok(Server { address, shared, operator_key, node, store, tasks, _lock: lock })
}

/// Beside the work of the server: there may be many titles.
fn sweep_media(media: PathBuf) {
    let started = SystemTime::now();
    tokio::task::spawn_blocking(move || match blobs::sweep(&media, started) {
        Ok(0) => {}
        Ok(removed) => {
            tracing::info!(removed, "files that a killed process left half written are removed")
        }
        Err(error) => tracing::error!(%error, "the directory of media cannot be read"),
    });
}

/// Each viewer that is connected is an open file, and the database must never be refused one: asks for as many as the system allows.
fn allow_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, most)| setrlimit(Resource::RLIMIT_NOFILE, most, most));
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit on open files stays low");
    }
}

/// The program is worth nothing once the node cannot write its state.
fn watch_node(node: SharedNode, tasks: &Tasks) {
    let cancel = tasks.cancellation();
    tasks.spawn_critical("node", async move {
        tokio::select! {
            () = cancel.cancelled() => {}
            error = node.failed() => tracing::error!(%error, "the Lightning node can no longer work"),
        }
    });
}

impl Server {
    /// Told when the server stops by itself.
    pub fn stopping(&self) -> CancellationToken {
        self.tasks.cancellation()
    }

    /// The embedded node.
    pub fn node(&self) -> &SharedNode {
        &self.node
    }

    /// Accepts nothing new, lets each loop finish its unit of work, stops the node, writes the database down. An error where a critical
    /// task had ended early.
    ///
    /// # Errors
    /// The task that had failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        let failed = self.tasks.failed();
        if !self.tasks.stop(STOP_WITHIN).await {
            tracing::warn!("some tasks did not end in time");
        }
        // The node last: until here events could still be booked and acknowledged.
        self.node.stop().await;
        self.store.flush()?;
        match failed {
            Some(name) => Err(anyhow!("{name} ended early: see the log")),
            None => Ok(()),
        }
    }
}

async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => anyhow!(
            "http.listen = \"{address}\" is in use by another program: stop it, or choose another address"
        ),
        _ => anyhow!("http.listen = \"{address}\" cannot be used: {error}"),
    })
}

/// The seed: made at the first start, read at every other. One that is missing beside a database is never made anew, because the
/// channels in that database would be lost.
fn seed(file: &Path, fresh: bool) -> anyhow::Result<[u8; 64]> {
    match std::fs::read(file) {
        Ok(bytes) => bytes.try_into().map_err(|_| {
            anyhow!("{} is not a seed (64 bytes): restore it from your backup", file.display())
        }),
        Err(error) if error.kind() == ErrorKind::NotFound && fresh => {
            let seed = random_bytes::<64>();
            write_private(file, &seed)?;
            Ok(seed)
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Err(anyhow!(
            "{} is missing beside a database that was made with it: restore it from your backup",
            file.display()
        )),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", file.display())),
    }
}

/// Writes a new file that only its owner can read, whole or not at all, and waits for the disk.
pub fn write_private(file: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let part = file.with_extension("part");
    let write = || -> io::Result<()> {
        // What an earlier start may have left half written.
        match std::fs::remove_file(&part) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut open = std::fs::OpenOptions::new();
        let mut opened = open.write(true).create_new(true).mode(0o600).open(&part)?;
        opened.write_all(bytes)?;
        opened.sync_all()?;
        std::fs::rename(&part, file)?;
        match file.parent() {
            Some(parent) => File::open(parent)?.sync_all(),
            None => Ok(()),
        }
    };
    write().with_context(|| format!("{} cannot be written", file.display()))
}

/// Locks a data directory for this process; the lock ends with it, however it ends.
fn lock_directory(data_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = data_dir.join("lock");
    let mut open = std::fs::OpenOptions::new();
    let file = open.create(true).truncate(false).write(true).mode(0o600).open(&path);
    let file = file.with_context(|| format!("{} cannot be opened", path.display()))?;
    Flock::lock(file, FlockArg::LockExclusiveNonblock).map_err(|(_, error)| match error {
        Errno::EWOULDBLOCK => anyhow!(
            "{} is in use by another process: stop it, or choose another data_dir",
            data_dir.display()
        ),
        error => anyhow!("{} cannot be locked: {error}", path.display()),
    })
}

fn make_private_directory(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(path).with_context(|| {
        format!(
            "data_dir: {} cannot be made: choose a directory that you may write",
            path.display()
        )
    })
}
