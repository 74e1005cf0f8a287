//! The whole server in one process: real use cases and router over a store in memory, the fake node and a fake transcoder. When it is
//! dropped, its books must be right.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use serde_json::{Value, json};
use sluice::app::{Pieces, assemble};
use sluice::blobs::{Blobs, Part};
use sluice::config::Config;
use sluice::domain::id::{Preimage, RenditionName, SegmentNumber, Version};
use sluice::http::{Shared, router};
use sluice::library::upload::Disk;
use sluice::lightning::Network;
use sluice::lightning::fake::FakeNode;
use sluice::runtime::{Clock as _, ManualClock, Tasks};
use sluice::store::{Storage as _, Store};
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::engine::Flaky;
use crate::services::Script;
use crate::transcoder::FakeTranscoder;

/// Whatever is awaited here comes within this, or the test fails.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// A server and the hands to work it.
pub struct TestApp {
    pub store: Arc<Store<Flaky>>,
    pub engine: Flaky,
    pub node: Arc<FakeNode>,
    pub shared: Arc<Shared>,
    pub clock: Arc<ManualClock>,
    pub transcoder: Arc<FakeTranscoder>,
    pub spool: TempDir,
    pub disk: Arc<Space>,
    pub wire: Arc<Script>,
    pub operator: String,
    pub blobs: Blobs,
    config: Config,
    tasks: Tasks,
}

impl TestApp {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut Config)) -> Self {
        Self::over(Blobs::in_memory(), change)
    }

    /// With its media in a place of the test's own.
    pub fn over(blobs: Blobs, change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        config.lightning.network = Network::Regtest;
        // Here time stands still.
        config.library.retry_seconds = 0;
        change(&mut config);
        let engine = Flaky::default();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let mut app = Self::started(Start {
            store: Arc::new(Store::new(engine.clone())),
            engine,
            node: Arc::new(FakeNode::new(Network::Regtest).unwrap()),
            clock: Arc::new(ManualClock::at_ms(now.as_secs() * 1_000)),
            transcoder: Arc::default(),
            spool: tempfile::tempdir().unwrap(),
            disk: Arc::default(),
            wire: Arc::default(),
            blobs,
            config,
        });
        app.operator = app.shared.library.create_operator_key().unwrap();
        app
    }

    fn started(start: Start) -> Self {
        let Start { store, engine, node, clock, transcoder, spool, disk, wire, blobs, config } =
            start;
        node.set_time(clock.now_s());
        let tasks = Tasks::default();
        let pieces = Pieces {
            store: Arc::clone(&store),
            node: Arc::clone(&node),
            seed: [7; 64],
            boot: store.next_boot().unwrap(),
            blobs: blobs.clone(),
            transcoder: Arc::clone(&transcoder) as _,
            clock: Arc::clone(&clock) as _,
            spool: spool.path().to_owned(),
            disk: Arc::clone(&disk) as _,
            wire: Arc::clone(&wire) as _,
        };
        let shared = assemble(pieces, &config, &tasks).unwrap();
        let operator = String::new();
        Self {
            store,
            engine,
            node,
            shared,
            clock,
            transcoder,
            spool,
            disk,
            wire,
            operator,
            config,
            blobs,
            tasks,
        }
    }

    /// The same server in a new process: what was in memory is gone, what was stored is there. The node tells `again` payments anew.
    pub async fn restarted(mut self, again: usize) -> Self {
        assert!(self.tasks.stop(DEADLINE).await, "the tasks end in time");
        let mut app = Self::started(Start {
            store: Arc::clone(&self.store),
            engine: self.engine.clone(),
            node: Arc::new(self.node.restarted(again).unwrap()),
            clock: Arc::clone(&self.clock),
            transcoder: Arc::clone(&self.transcoder),
            spool: std::mem::replace(&mut self.spool, tempfile::tempdir().unwrap()),
            disk: Arc::clone(&self.disk),
            wire: Arc::clone(&self.wire),
            blobs: self.blobs.clone(),
            config: self.config.clone(),
        });
        app.operator = self.operator.clone();
        app
    }

    /// What is kept of a version: each part and its length.
    pub async fn kept(&self, video: &str, version: u32) -> Vec<String> {
        let (video, version) = (video.parse().unwrap(), Version(version));
        let found = self.blobs.list(video, version).await.unwrap();
        let name = |(rendition, part, _): (RenditionName, Part, u64)| match part {
            Part::Init => format!("{rendition}/init"),
            Part::Segment(number) => format!("{rendition}/{number}"),
        };
        found.into_iter().map(name).collect()
    }

    /// A segment goes, as by a broken disk.
    pub async fn lose(&self, video: &str, version: u32, rendition: &str, segment: u32) {
        let (video, version) = (video.parse().unwrap(), Version(version));
        let gone = Part::Segment(SegmentNumber(segment));
        let rendition: RenditionName = rendition.parse().unwrap();
        self.blobs.remove(video, version, &rendition, gone).await.unwrap();
    }

    /// A segment lies where one will be made, as a process may leave it that was killed at the wrong moment.
    pub async fn plant(&self, video: &str, version: u32, rendition: &str, segment: u32) {
        let (video, version) = (video.parse().unwrap(), Version(version));
        let (rendition, part) = (rendition.parse().unwrap(), Part::Segment(SegmentNumber(segment)));
        self.blobs
            .put(video, version, &rendition, part, Bytes::from_static(b"stray"))
            .await
            .unwrap();
    }

    /// Files in the spool, those in directories among them; not what is remembered of finished uploads and their sums.
    pub fn spooled(&self) -> Vec<PathBuf> {
        let (mut files, mut left) = (Vec::new(), vec![self.spool.path().to_owned()]);
        while let Some(directory) = left.pop() {
            // A directory may go meanwhile.
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                let remembered =
                    path.extension().is_some_and(|kind| kind == "upload" || kind == "json");
                match path.is_dir() {
                    true => left.push(path),
                    false if remembered => {}
                    false => files.push(path),
                }
            }
        }
        files
    }

    /// Moves the server's and the node's clock on.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
        self.node.set_time(self.clock.now_s());
    }

    pub fn call(&self, method: &str, path: &str) -> Call<'_> {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("sluice.test"));
        let (method, path) = (method.to_owned(), path.to_owned());
        Call { app: self, method, path, headers, body: Body::empty() }
    }

    pub async fn get(&self, path: &str) -> Reply {
        self.call("GET", path).send().await
    }

    /// Somebody pays an invoice of this server, and it is booked.
    pub async fn pay(&self, bolt11: &str) -> Preimage {
        let preimage = self.node.pay(bolt11).unwrap();
        self.settled().await;
        preimage
    }

    /// Everything that the node told is booked.
    pub async fn settled(&self) {
        until("the node's events are booked", || self.node.waiting() == 0).await;
    }

    pub async fn creator(&self) -> Creator {
        let call = self.call("POST", "/api/v1/creators").key(&self.operator);
        let reply = call.json(json!({ "name": "Ada" })).send().await;
        assert_eq!(reply.status, 201, "{reply:?}");
        let body = reply.json();
        Creator { id: text(&body["id"]), key: text(&body["key"]) }
    }

    /// A draft of a creator: 500 msat a second, the first 4 seconds free.
    pub async fn draft(&self, creator: &Creator) -> String {
        let new = json!({ "title": "Film", "msat_per_second": 500, "preview_seconds": 4 });
        let reply = self.call("POST", "/api/v1/videos").key(&creator.key).json(new).send().await;
        assert_eq!(reply.status, 201, "{reply:?}");
        text(&reply.json()["id"])
    }

    pub async fn upload(&self, creator: &Creator, video: &str) -> Reply {
        let path = format!("/api/v1/videos/{video}/source");
        self.call("PUT", &path).key(&creator.key).body("a source").send().await
    }

    pub async fn state(&self, creator: &Creator, video: &str) -> Value {
        let path = format!("/api/v1/videos/{video}");
        self.call("GET", &path).key(&creator.key).send().await.json()
    }

    pub async fn reaches(&self, creator: &Creator, video: &str, state: &str) {
        let begun = Instant::now();
        while self.state(creator, video).await["state"] != state {
            assert!(begun.elapsed() < DEADLINE, "the title never becomes {state}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// A published title: segments of 4 seconds, of which number 0 is free and the others cost 2,000 msat, the short last one 1,000.
    pub async fn film(&self) -> Film {
        let creator = self.creator().await;
        let video = self.draft(&creator).await;
        assert_eq!(self.upload(&creator, &video).await.status, 202);
        self.reaches(&creator, &video, "ready").await;
        Film { creator, video }
    }

    /// The balances of the server, as its operator sees them.
    pub async fn ledger(&self) -> Value {
        let reply = self.call("GET", "/api/v1/ledger").key(&self.operator).send().await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply.json()["totals"].clone()
    }

    pub async fn earnings(&self, creator: &Creator) -> Value {
        self.call("GET", "/api/v1/earnings").key(&creator.key).send().await.json()
    }

    fn verify(&self) {
        self.engine.mend();
        let found = self.shared.statements.verify().unwrap();
        assert!(found.holds(), "the books are wrong: {found:?}");
        let sum: i128 = {
            use sluice::store::Ledger as _;
            self.store.balances().unwrap().iter().map(|(_, sum)| sum).sum()
        };
        assert_eq!(sum, 0, "all balances sum to zero");
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.tasks.cancellation().cancel();
        if !std::thread::panicking() {
            self.verify();
        }
    }
}

struct Start {
    store: Arc<Store<Flaky>>,
    engine: Flaky,
    node: Arc<FakeNode>,
    clock: Arc<ManualClock>,
    transcoder: Arc<FakeTranscoder>,
    spool: TempDir,
    disk: Arc<Space>,
    wire: Arc<Script>,
    blobs: Blobs,
    config: Config,
}

/// A disk with as much space as a test says; a machine's own may be full. Where the spool is gone, so is the disk.
pub struct Space(pub AtomicU64);

impl Default for Space {
    fn default() -> Self {
        Self(AtomicU64::new(1 << 50))
    }
}

impl Disk for Space {
    fn free_bytes(&self, path: &Path) -> std::io::Result<u64> {
        std::fs::metadata(path)?;
        Ok(self.0.load(Ordering::SeqCst))
    }
}

#[derive(Clone)]
pub struct Creator {
    pub id: String,
    pub key: String,
}

pub struct Film {
    pub creator: Creator,
    pub video: String,
}

impl Film {
    pub fn segment(&self, number: u32) -> String {
        format!("/hls/{}/1/480p/{number}.m4s", self.video)
    }
}

/// A request that is being made.
pub struct Call<'a> {
    app: &'a TestApp,
    method: String,
    path: String,
    headers: HeaderMap,
    body: Body,
}

impl Call<'_> {
    pub fn with(mut self, name: &str, value: &str) -> Self {
        let name: HeaderName = name.parse().unwrap();
        self.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        self
    }

    pub fn key(self, key: &str) -> Self {
        self.with("authorization", &format!("Bearer {key}"))
    }

    pub fn json(self, value: Value) -> Self {
        self.with("content-type", "application/json").body(value.to_string())
    }

    pub fn body(mut self, body: impl Into<Body>) -> Self {
        self.body = body.into();
        self
    }

    pub fn request(self) -> Request<Body> {
        let mut request = Request::new(self.body);
        *request.method_mut() = self.method.parse().unwrap();
        *request.uri_mut() = self.path.parse().unwrap();
        *request.headers_mut() = self.headers;
        request
    }

    /// The answer as it begins, its body not read.
    pub fn open(self) -> impl Future<Output = axum::response::Response> + Send + 'static {
        let router = router(Arc::clone(&self.app.shared));
        let request = self.request();
        async move { router.oneshot(request).await.unwrap() }
    }

    /// The whole answer; may run beside the test.
    pub fn send(self) -> impl Future<Output = Reply> + Send + 'static {
        let opened = self.open();
        async move {
            let (parts, body) = opened.await.into_parts();
            let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
            Reply { status: parts.status, headers: parts.headers, body }
        }
    }
}

#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Asserts a problem document (RFC 9457) of this status and code, and gives it; who is to come again is told when.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{self:?}");
        if matches!(status, 429 | 503) {
            let seconds = self.header("retry-after").map(str::parse::<u64>);
            assert!(matches!(seconds, Some(Ok(1..))), "no Retry-After: {self:?}");
        }
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["status"], status, "{body}");
        assert_eq!(body["type"], format!("urn:sluice:problem:{code}"), "{body}");
        let detail = body["detail"].as_str().unwrap();
        assert!(detail.contains(' '), "a sentence says what to do: {detail}");
        body
    }
}

/// What a client reads from a 402.
#[derive(Debug, Clone)]
pub struct Challenge {
    pub macaroon: String,
    pub invoice: String,
}

impl Challenge {
    /// Asserts the one form of the header that all known clients read.
    #[track_caller]
    pub fn of(reply: &Reply) -> Self {
        let body = reply.problem(402, "payment_required");
        let all: Vec<_> = reply.headers.get_all("www-authenticate").iter().collect();
        assert_eq!(all.len(), 1, "exactly one challenge");
        let header = all[0].to_str().unwrap();
        let quoted: Vec<_> = header.split('"').collect();
        let [_, macaroon, _, invoice, _, _, _, token, _] = quoted[..] else { panic!("{header}") };
        let expected = format!(
            "L402 macaroon=\"{macaroon}\", invoice=\"{invoice}\", version=\"0\", token=\"{macaroon}\""
        );
        assert_eq!((header, token), (expected.as_str(), macaroon));
        assert_eq!(body["invoice"], invoice);
        Self { macaroon: macaroon.to_owned(), invoice: invoice.to_owned() }
    }

    pub fn credential(&self, preimage: Preimage) -> String {
        format!("L402 {}:{}", self.macaroon, String::from(preimage))
    }
}

/// Waits for what becomes true soon.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < DEADLINE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}
