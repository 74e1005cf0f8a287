//! A server that lies as a test says, by hand: title, session, playlists, media and events.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use bytes::Bytes;
use serde_json::{Value, json};
use sluice::domain::amount::Msat;
use sluice::lightning::fake::FakeNode;
use sluice::lightning::{Issuer as _, Network};
use tokio::sync::mpsc;

use crate::server::{init, segment};

pub const VIDEO: &str = "018f0000000070008000000000000001";
/// Segments of 4 s at 500 msat a second: 2 sat each, all paid.
pub const SEGMENTS: u32 = 20;

/// What the server does wrong; all else is right.
#[derive(Clone)]
pub struct Lies {
    pub title: Vec<u8>,
    pub session: Value,
    pub multivariant: Vec<u8>,
    pub media: Vec<u8>,
    /// The bytes of a segment that is paid; nothing for a 402 for ever.
    pub bytes: fn(u32) -> Option<Vec<u8>>,
    /// Whether media is given without a payment.
    pub gives: bool,
    /// How many reports are answered with a 503 before one is heard.
    pub deaf: u32,
}

pub struct Liar {
    pub node: Arc<FakeNode>,
    pub base: String,
    pub events: mpsc::UnboundedSender<Bytes>,
    pub ended: Arc<AtomicU32>,
    pub failed: Arc<Mutex<Vec<String>>>,
    /// What each connection to the stream of events resumed after.
    pub resumed: Arc<Mutex<Vec<Option<String>>>>,
}

/// Ends a connection to the stream of events; the next one goes on.
pub const BREAK: &[u8] = b"break";

struct Shared {
    lies: Lies,
    stream: Mutex<Option<mpsc::UnboundedReceiver<Bytes>>>,
    ended: Arc<AtomicU32>,
    reports: AtomicU32,
    failed: Arc<Mutex<Vec<String>>>,
    resumed: Arc<Mutex<Vec<Option<String>>>>,
}

type App = State<Arc<Shared>>;

impl Liar {
    pub async fn start(change: impl FnOnce(&mut Lies)) -> Self {
        let node = Arc::new(FakeNode::new(Network::Regtest).unwrap());
        let media = (0..SEGMENTS).map(|n| format!("#EXTINF:4.000000,\n{n}.m4s\n"));
        let media = media.collect::<String>();
        let mut lies = Lies {
            title: json!({ "id": VIDEO, "title": "Lies" }).to_string().into(),
            session: json!({
                "id": VIDEO,
                "playlist": "/s/play/index.m3u8",
                "control": "/api/v1/sessions/control",
                "payee": node.node_id(),
                "network": "regtest",
                "msat_per_second": 500,
                "granularity_msat": 1_000,
                "first_paid_segment": 0,
                "expires_at": 4_000_000_000_u64,
            }),
            multivariant: b"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n240p/index.m3u8\n".to_vec(),
            media: format!("#EXTM3U\n#EXT-X-MAP:URI=\"init.mp4\"\n{media}#EXT-X-ENDLIST\n").into(),
            bytes: |n| Some(segment("240p", n)),
            gives: false,
            deaf: 0,
        };
        change(&mut lies);
        let (events, stream) = mpsc::unbounded_channel();
        let (ended, failed, resumed) = (Arc::default(), Arc::default(), Arc::default());
        let shared = Shared {
            lies,
            stream: Mutex::new(Some(stream)),
            ended: Arc::clone(&ended),
            reports: AtomicU32::new(0),
            failed: Arc::clone(&failed),
            resumed: Arc::clone(&resumed),
        };
        let router = Router::new()
            .route(
                "/api/v1/videos/{id}",
                get(|State(app): App| async move { app.lies.title.clone() }),
            )
            .route(
                "/api/v1/sessions",
                post(|State(app): App| async move { app.lies.session.to_string() }),
            )
            .route("/api/v1/sessions/control", delete(end).patch(patch))
            .route("/api/v1/sessions/control/invoices", get(invoices))
            .route(
                "/s/play/index.m3u8",
                get(|State(app): App| async move { app.lies.multivariant.clone() }),
            )
            .route("/s/play/240p/{file}", get(part))
            .with_state(Arc::new(shared));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { node, base, events, ended, failed, resumed }
    }

    pub fn page(&self) -> String {
        format!("{}/watch/{VIDEO}", self.base)
    }

    /// An invoice as it should be, but for what `change` does to it.
    pub fn invoice(&self, segment: u32, msat: u64, change: impl FnOnce(&mut Value)) -> Bytes {
        invoice_by(&self.node, segment, msat, change)
    }

    pub fn tell(&self, bytes: impl Into<Bytes>) {
        let _ = self.events.send(bytes.into());
    }
}

/// An invoice of any node.
pub fn invoice_by(
    node: &FakeNode,
    segment: u32,
    msat: u64,
    change: impl FnOnce(&mut Value),
) -> Bytes {
    let minted = node.mint(Msat::new(msat), Duration::from_secs(600)).unwrap();
    let mut data = json!({
        "segments": [segment],
        "start_ms": 0,
        "duration_ms": 4_000,
        "amount_msat": msat,
        "invoice": minted.bolt11,
        "payment_hash": minted.hash,
        "expires_at": minted.expires_at,
    });
    change(&mut data);
    event("invoice", &data)
}

pub fn event(name: &str, data: &Value) -> Bytes {
    format!("event: {name}\ndata: {data}\n\n").into()
}

async fn end(State(app): App) -> &'static str {
    app.ended.fetch_add(1, Ordering::SeqCst);
    "{}"
}

async fn patch(State(app): App, body: String) -> Response {
    if app.reports.fetch_add(1, Ordering::SeqCst) < app.lies.deaf {
        return axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    app.failed.lock().unwrap().push(body);
    "{}".into_response()
}

async fn invoices(State(app): App, headers: HeaderMap) -> Response {
    let last = headers.get("last-event-id").map(|id| id.to_str().unwrap().to_owned());
    app.resumed.lock().unwrap().push(last);
    let Some(stream) = app.stream.lock().unwrap().take() else {
        return axum::http::StatusCode::SERVICE_UNAVAILABLE.into_response();
    };
    let events = futures::stream::unfold((stream, app), |(mut stream, app)| async move {
        let bytes = stream.recv().await?;
        if bytes == BREAK {
            app.stream.lock().unwrap().replace(stream);
            return None;
        }
        Some((Ok::<_, std::io::Error>(bytes), (stream, app)))
    });
    Body::from_stream(events).into_response()
}

async fn part(State(app): App, Path(file): Path<String>) -> Response {
    match file.as_str() {
        "index.m3u8" => app.lies.media.clone().into_response(),
        "init.mp4" => init("240p").into_response(),
        file => {
            let n: u32 = file.strip_suffix(".m4s").unwrap().parse().unwrap();
            let bytes = if app.lies.gives { Some(segment("240p", n)) } else { (app.lies.bytes)(n) };
            let unpaid = axum::http::StatusCode::PAYMENT_REQUIRED;
            bytes.map_or_else(|| unpaid.into_response(), IntoResponse::into_response)
        }
    }
}
