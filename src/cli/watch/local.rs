//! The session's playlist on this machine, for the player: behind a random path, for requests to this very address only.
//!
//! The player gets playlists that are written here and bytes that were looked at; what the server sends leads it nowhere.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::{Router, routing::get};
use bytes::Bytes;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};

use super::Order;
use super::play::{self, Denied, Stage};
use super::player::Player;
use super::playlist::{Variant, write_media, write_multivariant};
use super::receipt::End;
use crate::domain::id::{RenditionName, SegmentNumber};
use crate::runtime::random_bytes;

/// Requests that wait for their turn.
const QUEUE_MAX: usize = 64;
/// Players ask for one segment after the other, some for several at once.
const AT_ONCE: usize = 32;
/// Once nothing is paid any more, or all is here, a player that asks for nothing so long has ended.
const IDLE_MAX: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A playlist (RFC 8216, section 4).
const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";

/// What the player asks for.
enum Wanted {
    Init(RenditionName),
    Segment(RenditionName, SegmentNumber),
}

type Answer = Result<Bytes, Denied>;

/// What the local server needs; the work itself is done where the account is.
struct Shared {
    secret: String,
    address: SocketAddr,
    names: Vec<RenditionName>,
    multivariant: String,
    media: String,
    wanted: mpsc::Sender<(Wanted, oneshot::Sender<Answer>)>,
}

/// Serves until the player ends, or nobody plays any more.
pub(super) async fn run(order: &Order, stage: &Stage<'_>, variants: &[Variant]) -> End {
    match serve(order, stage, variants).await {
        Ok(end) => end,
        Err(error) => End::Player(format!("{error:#}")),
    }
}

async fn serve(order: &Order, stage: &Stage<'_>, variants: &[Variant]) -> anyhow::Result<End> {
    let listener = TcpListener::bind(order.listen)
        .await
        .with_context(|| format!("--listen {} cannot be used", order.listen))?;
    let address = listener.local_addr()?;
    let secret = hex::encode(random_bytes::<16>());
    let url = format!("http://{address}/{secret}/index.m3u8");
    // A rendition that was chosen is the only one that the player sees.
    let chosen = |variant: &&Variant| order.rendition.is_none() || variant.name == *stage.rendition;
    let variants: Vec<_> = variants.iter().filter(chosen).cloned().collect();
    let (wanted, mut asked) = mpsc::channel(QUEUE_MAX);
    let shared = Shared {
        secret,
        address,
        names: variants.iter().map(|variant| variant.name.clone()).collect(),
        multivariant: write_multivariant(&variants),
        media: stage.visit.read(|account, _| write_media(&account.tariff().timeline)),
        wanted,
    };
    let router = Router::new()
        .route("/{secret}/index.m3u8", get(multivariant))
        .route("/{secret}/{rendition}/{file}", get(part))
        .with_state(std::sync::Arc::new(shared));
    let player = order.player.as_deref().map(|text| Player::start(text, &url)).transpose()?;
    if player.is_none() {
        stage.screen.url(&url);
    }
    let patience = Duration::from_millis(order.hold_ms);
    let working = async {
        use futures::StreamExt as _;
        let requests = futures::stream::poll_fn(|context| asked.poll_recv(context));
        requests.for_each_concurrent(AT_ONCE, |request| answer(stage, patience, request)).await;
    };
    let ended = async {
        match player {
            Some(player) => player.ended().await,
            None => forsaken(stage).await,
        }
    };
    tokio::select! {
        served = axum::serve(listener, router).into_future() => {
            served?;
            Ok(End::Player("the local address broke".to_owned()))
        }
        () = working => Ok(End::Player("the local address broke".to_owned())),
        end = ended => Ok(end),
    }
}

/// Without a player of ours: until nothing more can come and nobody asks.
async fn forsaken(stage: &Stage<'_>) -> End {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let has_all = stage.visit.read(|account, _| account.has_all());
        let nothing_comes = has_all || stage.visit.stopped.is_cancelled();
        if nothing_comes && stage.visit.idle() > IDLE_MAX {
            return stage.visit.ended().unwrap_or(End::Film);
        }
    }
}

async fn answer(
    stage: &Stage<'_>,
    patience: Duration,
    (wanted, mut reply): (Wanted, oneshot::Sender<Answer>),
) {
    let work = async {
        match wanted {
            Wanted::Init(rendition) => play::init(stage, &rendition).await,
            Wanted::Segment(rendition, n) => {
                play::segment(stage, &rendition, n, Some(patience)).await
            }
        }
    };
    let answered = tokio::select! {
        answered = work => answered,
        // The player went away.
        () = reply.closed() => return,
    };
    let _ = reply.send(answered);
}

async fn multivariant(
    State(shared): State<std::sync::Arc<Shared>>,
    Path(secret): Path<String>,
    headers: HeaderMap,
) -> Response {
    if !shared.lets_in(&secret, &headers) {
        return refused();
    }
    playlist(shared.multivariant.clone())
}

async fn part(
    State(shared): State<std::sync::Arc<Shared>>,
    Path((secret, rendition, file)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(rendition) = shared.names.iter().find(|name| name.as_str() == rendition) else {
        return refused();
    };
    if !shared.lets_in(&secret, &headers) {
        return refused();
    }
    let wanted = match file.as_str() {
        "index.m3u8" => return playlist(shared.media.clone()),
        "init.mp4" => Wanted::Init(rendition.clone()),
        other => match other.strip_suffix(".m4s").and_then(|number| number.parse().ok()) {
            Some(number) => Wanted::Segment(rendition.clone(), number),
            None => return refused(),
        },
    };
    if method == Method::HEAD {
        // A session's segment is drawn on GET alone.
        return StatusCode::OK.into_response();
    }
    let (reply, answer) = oneshot::channel();
    if shared.wanted.send((wanted, reply)).await.is_err() {
        return StatusCode::GONE.into_response();
    }
    match answer.await {
        Ok(Ok(bytes)) => media(bytes),
        Ok(Err(Denied::Unpaid)) => words(StatusCode::PAYMENT_REQUIRED, "not paid in time"),
        Ok(Err(Denied::Stopped)) | Err(_) => {
            words(StatusCode::PAYMENT_REQUIRED, "nothing more is paid")
        }
        Ok(Err(Denied::Failed(why))) => words(StatusCode::BAD_GATEWAY, &why),
    }
}

impl Shared {
    /// A page of another origin that has its name lead here (DNS rebinding) sends its own name; one that is told the port lacks the path.
    fn lets_in(&self, secret: &str, headers: &HeaderMap) -> bool {
        use subtle::ConstantTimeEq as _;
        let host = headers.get(header::HOST).and_then(|value| value.to_str().ok());
        let port = self.address.port();
        let own = host.is_some_and(|host| {
            host == self.address.to_string() || host == format!("localhost:{port}")
        });
        own && bool::from(self.secret.as_bytes().ct_eq(secret.as_bytes()))
    }
}

fn playlist(text: String) -> Response {
    ([(header::CONTENT_TYPE, HeaderValue::from_static(PLAYLIST_TYPE))], text).into_response()
}

fn media(bytes: Bytes) -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("video/mp4"))];
    (kind, Body::from(bytes)).into_response()
}

fn words(status: StatusCode, text: &str) -> Response {
    (status, text.to_owned()).into_response()
}

fn refused() -> Response {
    StatusCode::NOT_FOUND.into_response()
}
