//! The demo's wallets on the server's own origin: `POST pay`, `GET balance`, behind a secret in the path.
//!
//! They pay real invoices from real nodes for whoever knows the path, so the path has 128 bits of chance, and Host and Origin are checked
//! against DNS rebinding and cross-site requests.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::network::{Wallet, Wallets};
use crate::domain::amount::Msat;
use crate::domain::id::PaymentHash;
use crate::lightning::{Error, Event, Outgoing, SharedNode, bolt11};
use crate::runtime::{Bells, random_bytes, sleep};

/// A payment of one hop takes milliseconds; by then it is stuck.
const PAY_WITHIN: Duration = Duration::from_secs(60);
/// Should a ring be lost, the node is asked again after this.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// The viewer pays one hop and no fee; this is a bound, not an expectation.
const FEE_MAX: Msat = Msat::new(2_000);

/// The secrets in the wallets' paths.
pub(super) struct Secrets {
    viewer: String,
    creator: String,
}

impl Secrets {
    pub(super) fn new() -> Self {
        let secret = || hex::encode(random_bytes::<16>());
        Self { viewer: secret(), creator: secret() }
    }

    /// The path of a wallet.
    pub(super) fn path(&self, who: &str) -> String {
        let secret = if who == "creator" { &self.creator } else { &self.viewer };
        format!("/demo/{secret}")
    }
}

struct Shared {
    wallets: Arc<Wallets>,
    viewer: String,
    creator: String,
}

/// The wallets' routes.
pub(super) fn router(wallets: &Arc<Wallets>, secrets: &Secrets) -> Router {
    let shared = Shared {
        wallets: Arc::clone(wallets),
        viewer: secrets.viewer.clone(),
        creator: secrets.creator.clone(),
    };
    Router::new()
        .route("/demo/{secret}/pay", post(pay))
        .route("/demo/{secret}/balance", get(balance))
        .with_state(Arc::new(shared))
}

#[derive(Deserialize)]
struct Pay {
    invoice: String,
}

async fn pay(
    State(shared): State<Arc<Shared>>,
    Path(secret): Path<String>,
    headers: HeaderMap,
    Json(pay): Json<Pay>,
) -> Response {
    let Some(wallet) = shared.wallet(&secret, &headers) else { return forbidden() };
    match paid(wallet, &pay.invoice).await {
        Ok(paid) => paid,
        // Nothing was sent, and nothing will be.
        Err(error @ (Error::NoRoute | Error::Malformed(_) | Error::NotRunning)) => {
            problem(StatusCode::UNPROCESSABLE_ENTITY, "not_paid", &error.to_string())
        }
        Err(error) => problem(StatusCode::BAD_GATEWAY, "unknown", &error.to_string()),
    }
}

/// Pays once: a payment that was sent before is waited for, never sent again.
async fn paid(wallet: &Wallet, bolt11: &str) -> Result<Response, Error> {
    let (hash, amount) = bolt11::read(bolt11)?;
    let node = wallet.node();
    let mut listener = wallet.settled.listen(hash);
    if matches!(node.outgoing(&hash).await, Outgoing::Unknown | Outgoing::Failed) {
        match node.pay(bolt11, FEE_MAX).await {
            Ok(_) | Err(Error::Duplicate) => {}
            Err(error) => return Err(error),
        }
    }
    let deadline = tokio::time::Instant::now() + PAY_WITHIN;
    loop {
        match node.outgoing(&hash).await {
            Outgoing::Succeeded { preimage, fee } => {
                let body = json!({ "preimage": preimage, "amount_msat": amount, "fee_msat": fee });
                return Ok(Json(body).into_response());
            }
            Outgoing::Failed => return Err(Error::NoRoute),
            Outgoing::Unknown | Outgoing::Pending => {}
        }
        tokio::select! {
            () = listener.rung() => {}
            () = tokio::time::sleep(ASK_EVERY) => {}
            () = tokio::time::sleep_until(deadline) => {
                return Err(Error::Node("the payment takes too long; ask again with the same invoice".to_owned()));
            }
        }
    }
}

async fn balance(
    State(shared): State<Arc<Shared>>,
    Path(secret): Path<String>,
    headers: HeaderMap,
) -> Response {
    let Some(wallet) = shared.wallet(&secret, &headers) else { return forbidden() };
    let channels = wallet.node().info().channels;
    let spendable: u64 = channels.iter().map(|channel| channel.outbound_msat).sum();
    Json(json!({ "spendable_msat": spendable })).into_response()
}

impl Shared {
    /// The wallet of a secret, for requests that come from this machine and this origin.
    fn wallet(&self, secret: &str, headers: &HeaderMap) -> Option<&Wallet> {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let host = text(header::HOST)?;
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
        let local = matches!(name, "127.0.0.1" | "localhost" | "[::1]");
        let same = text(header::ORIGIN).is_none_or(|origin| origin == format!("http://{host}"));
        let is = |known: &str| {
            use subtle::ConstantTimeEq as _;
            bool::from(known.as_bytes().ct_eq(secret.as_bytes()))
        };
        match (local && same, is(&self.viewer), is(&self.creator)) {
            (true, true, _) => Some(&self.wallets.viewer),
            (true, _, true) => Some(&self.wallets.creator),
            _ => None,
        }
    }
}

fn forbidden() -> Response {
    let detail = "This wallet answers its own page only, under the path that the demo printed.";
    problem(StatusCode::FORBIDDEN, "forbidden", detail)
}

fn problem(status: StatusCode, code: &str, detail: &str) -> Response {
    let body =
        json!({ "title": "Wallet", "status": status.as_u16(), "code": code, "detail": detail });
    let kind = [(header::CONTENT_TYPE, "application/problem+json")];
    (status, kind, body.to_string()).into_response()
}

/// Takes a wallet node's events, so that its queue does not grow, and wakes who waits for a payment.
pub(super) async fn drain(
    node: SharedNode,
    settled: Bells<PaymentHash>,
    cancel: CancellationToken,
) {
    loop {
        let event = tokio::select! {
            () = cancel.cancelled() => return,
            event = node.next() => event,
        };
        if let Err(error) = node.acknowledge().await {
            tracing::warn!(%error, "a wallet's event is told again");
            if !sleep(&cancel, ASK_EVERY).await {
                return;
            }
        }
        if let Event::Sent { hash, .. } | Event::SendFailed { hash: Some(hash), .. } = event {
            settled.ring(&hash);
        }
    }
}
