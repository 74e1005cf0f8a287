//! HTTP: the router, its layers, and what handlers share. One file per resource; [`error`] alone decides a status code.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware::{self, Next};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, head, patch, post, put};
use futures::{Stream, StreamExt as _};
use serde::{Deserialize, Serialize};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::cors::{AllowOrigin, CorsLayer};
use tower_http::set_header::SetResponseHeaderLayer;

use crate::domain::id::NodeId;
use crate::library::Library;
use crate::operate::Operations;
use crate::payout::Payer;
use crate::paywall::session::SessionGate;
use crate::paywall::{Client, Paywall};
use crate::statements::Statements;
use crate::telemetry::Metrics;

mod body;
mod creators;
pub mod error;
mod extract;
mod extras;
mod operate;
mod pages;
mod play;
pub mod range;
pub mod server;
mod sessions;
mod subtitles;
mod uploads;
mod videos;

pub use body::Memory;

/// How the server is reached; a section of the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// The address and port that it listens on.
    pub listen: std::net::SocketAddr,
    /// Addresses of proxies whose `X-Forwarded-For` is believed; needed to listen beyond loopback.
    pub trusted_proxies: Vec<IpAddr>,
    /// Connections at once.
    pub connections_max: usize,
    /// Connections of one client (IPv4 address or IPv6 /64) at once; trusted proxies are not counted by themselves.
    pub connections_per_client_max: usize,
    /// How long a connection may be idle, or take to send a request's headers, in seconds.
    pub header_seconds: u64,
    /// How long a JSON document may take to arrive, in seconds.
    pub document_seconds: u64,
    /// The size of a request's headers, in bytes.
    pub header_bytes_max: usize,
    /// How long a reader may take next to nothing while bytes wait for it, in seconds; also how long an upload may pause.
    pub stall_seconds: u64,
    /// What segments on their way keep in memory together, in bytes.
    pub body_bytes_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            listen: ([127, 0, 0, 1], 8402).into(),
            trusted_proxies: Vec::new(),
            connections_max: 10_000,
            connections_per_client_max: 256,
            header_seconds: 30,
            document_seconds: 20,
            header_bytes_max: 32 << 10,
            stall_seconds: 60,
            body_bytes_max: 512 << 20,
        }
    }
}

/// Who a connection counts for; nobody where it is a trusted proxy's.
fn client_of(peer: IpAddr, options: &Options) -> Option<Client> {
    let peer = peer.to_canonical();
    let trusted = options.trusted_proxies.iter().any(|proxy| proxy.to_canonical() == peer);
    (!trusted).then(|| peer.into())
}

/// Documents that the API takes are small.
const JSON_BYTES_MAX: usize = 64 << 10;

/// What handlers share.
pub struct Shared {
    /// Creators and titles.
    pub library: Arc<Library>,
    /// The gate.
    pub paywall: Arc<Paywall>,
    /// The gate for sessions.
    pub sessions: SessionGate,
    /// Earnings and payouts.
    pub statements: Statements,
    /// Pays creators.
    pub payer: Arc<Payer>,
    /// The node and the server's health.
    pub operations: Operations,
    /// Counters.
    pub metrics: Metrics,
    /// The payee of every invoice.
    pub payee: NodeId,
    /// The network that they are for.
    pub network: crate::lightning::Network,
    /// How the server is reached.
    pub options: Options,
    /// What segments on their way keep in memory.
    pub memory: Memory,
}

type App = Arc<Shared>;

/// The whole surface (docs/PROTOCOL.md).
pub fn router(shared: App) -> Router {
    let open = Router::new()
        .route("/hls/{video}/index.m3u8", get(play::multivariant))
        .route("/hls/{video}/{file}", get(extras::current_file))
        .route("/hls/{video}/{second}/{third}", get(play::current_version))
        .route("/hls/{video}/{second}/{third}/{file}", get(play::part))
        .route("/s/{play}/index.m3u8", get(sessions::multivariant))
        .route("/s/{play}/{file}", get(extras::session_file))
        .route("/s/{play}/{rendition}/{file}", get(sessions::part))
        .route("/api/v1/sessions", post(sessions::create))
        .route(
            "/api/v1/sessions/{control}",
            get(sessions::status).patch(sessions::change).delete(sessions::end),
        )
        .route("/api/v1/sessions/{control}/invoices", get(sessions::invoices))
        .route("/api/v1/sessions/{control}/claims", post(sessions::claim))
        // Before the layer, which answers OPTIONS in its place: a fallback that is set later would answer 405 to every preflight.
        .method_not_allowed_fallback(error::no_method)
        .layer(cors());
    let api = Router::new()
        .route("/api/v1/creators", post(creators::create))
        .route("/api/v1/creators/me", get(creators::me).patch(creators::edit))
        .route("/api/v1/creators/me/payout/test", post(creators::test_payout))
        .route("/api/v1/creators/me/withdrawals", post(creators::withdraw))
        .route("/api/v1/creators/{id}", patch(creators::edit_any))
        .route("/api/v1/videos", post(videos::create).get(videos::list))
        .route("/api/v1/videos/{id}", get(videos::show).patch(videos::edit).delete(videos::delete))
        .route("/api/v1/videos/{id}/events", get(videos::events))
        .route("/api/v1/videos/{id}/cancel", post(videos::cancel))
        .route("/api/v1/earnings", get(creators::earnings))
        .route("/api/v1/payouts", get(creators::payouts))
        .route("/api/v1/node", get(operate::node))
        .route("/api/v1/node/address", post(operate::address))
        .route("/api/v1/ledger", get(operate::ledger))
        .route("/api/v1/ledger/unclaimed", get(operate::unclaimed))
        .route("/healthz", get(operate::health))
        .route("/readyz", get(operate::ready))
        .route("/metrics", get(operate::metrics))
        .route("/watch/{video}", get(pages::watch))
        .route("/assets/{*path}", get(pages::asset));
    let source = Router::new()
        .route("/api/v1/videos/{id}/source", put(videos::source).head(uploads::source_head))
        .route(
            "/api/v1/videos/{id}/subtitles/{language}",
            put(subtitles::put).delete(subtitles::delete),
        )
        .merge(tus())
        .layer(DefaultBodyLimit::disable());
    let fixed = |name: HeaderName, value: &'static str| {
        SetResponseHeaderLayer::if_not_present(name, HeaderValue::from_static(value))
    };
    open.merge(api)
        .layer(DefaultBodyLimit::max(JSON_BYTES_MAX))
        .merge(source)
        .fallback(error::no_route)
        .method_not_allowed_fallback(error::no_method)
        .layer(CatchPanicLayer::custom(error::panicked))
        .layer(fixed(header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        .layer(fixed(header::REFERRER_POLICY, "no-referrer"))
        .layer(middleware::from_fn(log))
        .with_state(shared)
}

/// Resumable uploads; what is no method of theirs says the version, too.
fn tus() -> Router<App> {
    Router::new()
        .route("/api/v1/uploads", post(uploads::create).options(uploads::options))
        .route(
            "/api/v1/uploads/{id}",
            head(uploads::head)
                .patch(uploads::patch)
                .delete(uploads::end)
                .post(uploads::instead)
                .options(uploads::options),
        )
        .method_not_allowed_fallback(error::no_method)
        .layer(middleware::from_fn(uploads::versioned))
}

/// Players and pages of any origin may play and pay; nothing else is shared across origins.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(AllowOrigin::any())
        .allow_methods([Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE])
        .allow_headers([
            header::AUTHORIZATION,
            header::RANGE,
            header::CONTENT_TYPE,
            HeaderName::from_static("last-event-id"),
        ])
        .expose_headers([header::WWW_AUTHENTICATE, header::CONTENT_RANGE, header::RETRY_AFTER])
        .max_age(Duration::from_secs(86_400))
}

/// A quiet stream of events says something this often, so that proxies and clients know that it lives.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// A stream of server-sent events; never kept by a cache.
fn event_stream<S>(events: S) -> Response
where
    S: Stream<Item = Event> + Send + 'static,
{
    let events = Sse::new(events.map(Ok::<_, Infallible>));
    let events = events.keep_alive(KeepAlive::new().interval(HEARTBEAT));
    ([(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], events).into_response()
}

/// One line a request. The path is the route's pattern: real ones carry secrets.
async fn log(request: Request, next: Next) -> Response {
    let begun = Instant::now();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let response = next.run(request).await;
    let (status, ms) = (response.status().as_u16(), begun.elapsed().as_millis());
    let route = route.as_deref().unwrap_or("(none)");
    tracing::debug!(%method, route, status, ms, "request");
    response
}
