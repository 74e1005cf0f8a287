//! The operator's view: node, books, health, metrics.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::App;
use super::error::Answer;
use super::extract::{Caller, Query};
use crate::domain::id::PaymentHash;
use crate::lightning::NodeInfo;
use crate::operate::Sides;
use crate::statements::Unclaimed;

/// The media type of the OpenMetrics text format.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");

/// `GET /api/v1/node`: the operator's node.
pub async fn node(State(app): State<App>, caller: Caller) -> Answer<Json<NodeInfo>> {
    caller.operator()?;
    Ok(Json(app.operations.info()))
}

/// `POST /api/v1/node/address`: a fresh on-chain address of the operator's node.
pub async fn address(State(app): State<App>, caller: Caller) -> Answer {
    caller.operator()?;
    let address = app.operations.address()?;
    Ok((StatusCode::CREATED, Json(json!({ "address": address }))).into_response())
}

/// `GET /api/v1/ledger`: all balances, and whether the books are right.
pub async fn ledger(State(app): State<App>, caller: Caller) -> Answer {
    caller.operator()?;
    let totals = app.statements.totals()?;
    let found = app.statements.verify()?;
    let body = json!({ "totals": totals, "verified": found.holds(), "verification": found });
    Ok(Json(body).into_response())
}

/// `GET /healthz`: the process answers.
pub async fn health() -> &'static str {
    "ok\n"
}

/// `GET /readyz`: payments can be taken; if not, what is missing.
pub async fn ready(State(app): State<App>) -> Response {
    let readiness = app.operations.readiness();
    if readiness.ready {
        return Json(readiness).into_response();
    }
    let later = [(header::RETRY_AFTER, HeaderValue::from_static("5"))];
    (StatusCode::SERVICE_UNAVAILABLE, later, Json(readiness)).into_response()
}

/// Rows of one page.
const PAGE: usize = 100;

/// `GET /api/v1/ledger/unclaimed`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Page {
    cursor: Option<PaymentHash>,
}

#[derive(Serialize)]
struct UnclaimedPage {
    unclaimed: Vec<Unclaimed>,
    next: Option<PaymentHash>,
}

/// Payments that nobody claimed: to an invoice that is not known any more, beyond what one asked, or sent without one.
pub async fn unclaimed(State(app): State<App>, caller: Caller, Query(page): Query<Page>) -> Answer {
    caller.operator()?;
    let unclaimed = app.statements.unclaimed(page.cursor.as_ref(), PAGE)?;
    let last = unclaimed.last().map(|of| of.payment_hash);
    let next = last.filter(|_| unclaimed.len() == PAGE);
    Ok(Json(UnclaimedPage { unclaimed, next }).into_response())
}

/// `GET /metrics`: for Prometheus.
pub async fn metrics(State(app): State<App>) -> Response {
    app.metrics.kept(app.sessions.open_sessions(), app.statements.unpaid());
    let channels = app.operations.info().channels;
    let sides = Sides::of(&channels);
    app.metrics.channels(
        sides.usable,
        [
            ("inbound", sides.inbound_msat),
            ("outbound", sides.outbound_msat),
            ("pending", sides.pending_msat),
        ],
    );
    let records = channels.iter().map(|channel| channel.record_bytes);
    app.metrics.channel_record(records.max().unwrap_or_default());
    ([(header::CONTENT_TYPE, OPEN_METRICS)], app.metrics.text()).into_response()
}
