//! One server on the simulated disk, process after process: the real router, use cases and store; what is modelled is the disk, the node
//! and the clock.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Request};
use axum::response::Response;
use futures::{FutureExt as _, StreamExt as _};
use serde_json::{Value, json};
use sluice::app::{Pieces, assemble};
use sluice::blobs::Blobs;
use sluice::config::Config;
use sluice::http::{Shared, router};
use sluice::lightning::Network;
use sluice::runtime::{Clock as _, ManualClock, Tasks};
use sluice::store::{Ledger as _, Sessions as _, Storage as _, Store, Swept};
use tempfile::TempDir;
use tower::ServiceExt as _;

use crate::chance::Chance;
use crate::disk::Disk;
use crate::node::{LATE_S, Reality, SimNode};
use crate::transcoder::FakeTranscoder;

/// What outlives the process.
pub struct Machine {
    pub disk: Disk,
    pub clock: Arc<ManualClock>,
    pub reality: Arc<Mutex<Reality>>,
    pub chance: Chance,
    pub video: String,
    blobs: Blobs,
    spool: TempDir,
    config: Config,
}

/// A process.
pub struct Process {
    pub store: Arc<Store<Disk>>,
    pub node: Arc<SimNode>,
    pub shared: Arc<Shared>,
    tasks: Tasks,
}

#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Reply {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }
}

impl Machine {
    /// A machine with a published title, synced.
    pub async fn new(chance: Chance) -> (Self, Process) {
        let mut config = Config::default();
        config.lightning.network = Network::Regtest;
        let mut machine = Self {
            disk: Disk::default(),
            clock: Arc::new(ManualClock::at_ms(1_790_000_000_000)),
            reality: Arc::default(),
            chance,
            video: String::new(),
            blobs: Blobs::in_memory(),
            spool: tempfile::tempdir().unwrap(),
            config,
        };
        let process = machine.start();
        machine.video = process.publish().await;
        process.store.flush().unwrap();
        (machine, process)
    }

    pub fn start(&self) -> Process {
        self.disk.revive();
        let store = Arc::new(Store::new(self.disk.clone()));
        let boot = store.next_boot().unwrap();
        let node = Arc::new(SimNode::start(
            Arc::clone(&store),
            Arc::clone(&self.reality),
            Arc::clone(&self.clock),
            self.chance.clone(),
            boot,
        ));
        let tasks = Tasks::default();
        let pieces = Pieces {
            store: Arc::clone(&store),
            node: Arc::clone(&node),
            seed: [7; 64],
            boot,
            blobs: self.blobs.clone(),
            transcoder: Arc::new(FakeTranscoder::default()),
            clock: Arc::clone(&self.clock) as _,
            spool: self.spool.path().to_owned(),
            disk: Arc::new(sluice::library::upload::SystemDisk),
            wire: Arc::new(sluice::payout::outbound::Internet),
        };
        let shared = assemble(pieces, &self.config, &tasks).unwrap();
        Process { store, node, shared, tasks }
    }
}

impl Process {
    pub fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Value>,
    ) -> impl Future<Output = Response> + Send + 'static {
        let mut request =
            Request::new(body.map_or_else(Body::empty, |body| body.to_string().into()));
        *request.method_mut() = method.parse().unwrap();
        *request.uri_mut() = path.parse().unwrap();
        let kind = ("content-type", "application/json".to_owned());
        for (name, value) in headers.iter().chain([&kind]) {
            let name = HeaderName::from_static(name);
            request.headers_mut().append(name, HeaderValue::from_str(value).unwrap());
        }
        let router = router(Arc::clone(&self.shared));
        async move { router.oneshot(request).await.unwrap() }
    }

    pub async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&'static str, String)],
        body: Option<Value>,
    ) -> Reply {
        read(self.call(method, path, headers, body).await).await
    }

    /// What a stream of server-sent events tells at once: names and data.
    pub async fn told(&self, path: &str) -> Vec<(String, Value)> {
        let response = self.call("GET", path, &[], None).await;
        if response.status() != 200 {
            return Vec::new();
        }
        let mut stream = response.into_body().into_data_stream();
        let mut text = String::new();
        while let Some(Some(Ok(chunk))) = stream.next().now_or_never() {
            text.push_str(std::str::from_utf8(&chunk).unwrap());
        }
        let event = |block: &str| {
            let field = |name| block.lines().find_map(|line| line.strip_prefix(name));
            let data = field("data:")?.trim();
            Some((field("event:")?.trim().to_owned(), serde_json::from_str(data).ok()?))
        };
        text.split("\n\n").filter_map(event).collect()
    }

    /// What the program does from time to time.
    pub fn sweep(&self, clock: &ManualClock, redeem_ms: u64) -> Option<Swept> {
        let now = clock.now_ms();
        // Blocks are late by two hours at most.
        let unpaid = (now / 1_000).saturating_sub(2 * LATE_S);
        let swept = self.store.sweep(unpaid, now.saturating_sub(redeem_ms), now).ok();
        let _ = self.store.forget_sessions(now / 1_000);
        self.shared.paywall.forget_quiet_clients();
        self.shared.sessions.forget_idle();
        swept
    }

    /// The tasks of a dead process do nothing more.
    pub async fn bury(self) {
        self.tasks.stop(Duration::from_secs(10)).await;
    }

    /// The tasks of a process that hangs are cut off.
    pub fn abandon(self) {
        self.tasks.cancellation().cancel();
    }

    /// A title: segments of 4 seconds at 2,000 msat, the first one free, the last one of 1,000.
    async fn publish(&self) -> String {
        let operator = self.shared.library.create_operator_key().unwrap();
        let key = |key: &str| [("authorization", format!("Bearer {key}"))];
        let ada = Some(json!({ "name": "Ada" }));
        let creator = self.send("POST", "/api/v1/creators", &key(&operator), ada).await.json();
        let creator = creator["key"].as_str().unwrap();
        let film = json!({ "title": "Film", "msat_per_second": 500, "preview_seconds": 4 });
        let draft = self.send("POST", "/api/v1/videos", &key(creator), Some(film)).await.json();
        let video = draft["id"].as_str().unwrap().to_owned();
        let path = format!("/api/v1/videos/{video}");
        let mut source = Request::new(Body::from("a source"));
        *source.method_mut() = "PUT".parse().unwrap();
        *source.uri_mut() = format!("{path}/source").parse().unwrap();
        let bearer = HeaderValue::from_str(&format!("Bearer {creator}")).unwrap();
        source.headers_mut().insert("authorization", bearer);
        let reply = router(Arc::clone(&self.shared)).oneshot(source).await.unwrap();
        assert_eq!(reply.status(), 202);
        while self.send("GET", &path, &key(creator), None).await.json()["state"] != "ready" {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        video
    }
}

async fn read(response: Response) -> Reply {
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
    Reply { status: parts.status.as_u16(), headers: parts.headers, body }
}
