//! Every error a client can see: an RFC 9457 problem document with a stable code and a sentence that says what to do. This is the only
//! file that decides a status code.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};

use crate::domain::amount::AmountError;
use crate::domain::id::IdError;
use crate::paywall::Challenge;
use crate::paywall::egress::UsedUp;
use crate::runtime::slots::Full;
use crate::store::Invoice;
use crate::{library, lightning, payout, paywall, store};

/// A problem document and its status.
#[derive(Debug)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: String,
    retry_after: Option<Duration>,
    authenticate: Option<String>,
    more: Map<String, Value>,
}

/// What a handler gives.
pub type Answer<T = Response> = Result<T, Problem>;

impl Problem {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            retry_after: None,
            authenticate: None,
            more: Map::new(),
        }
    }

    fn retry(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// 401: no key, or one that nobody has.
    pub fn unauthorized() -> Self {
        let detail = "Send a key of this server: `Authorization: Bearer <key>`.";
        let mut problem = Self::new(StatusCode::UNAUTHORIZED, "unauthorized", detail);
        problem.authenticate = Some("Bearer".to_owned());
        problem
    }

    /// 403: a key of another role.
    pub fn forbidden(needs: &'static str) -> Self {
        let detail = format!("This needs a key of {needs}.");
        Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
    }

    /// 400: a document or parameter that cannot be read.
    pub fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail)
    }

    /// 404 for something of a kind.
    pub fn missing(what: &str) -> Self {
        let detail = format!("There is no such {what} here. Check the address.");
        Self::new(StatusCode::NOT_FOUND, "not_found", detail)
    }

    /// 503: the pages were not built into this program.
    pub fn no_pages() -> Self {
        let detail = "The pages are not in this build: run `make web`, then build again.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "no_pages", detail)
            .retry(Duration::from_secs(60))
    }

    /// 429 or 503 for a connection too many.
    pub fn crowded(full: Full) -> Self {
        let after = Duration::from_secs(5);
        match full {
            Full::ForKey => {
                let detail = "This address has too many connections open. Close some first.";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", detail).retry(after)
            }
            Full::InAll => Self::busy(),
        }
    }

    /// 503: there is no room for this now.
    pub fn busy() -> Self {
        let detail = "The server has too much to do now. What is paid stays good; try again soon.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", detail).retry(Duration::from_secs(5))
    }

    /// 412: a client that speaks no tus 1.0.0.
    pub fn tus_version() -> Self {
        let detail = "Uploads are resumed by tus 1.0.0: send `Tus-Resumable: 1.0.0`.";
        Self::new(StatusCode::PRECONDITION_FAILED, "tus_version", detail)
    }

    /// 415: bytes that are called something else.
    pub fn tus_type() -> Self {
        let detail = "Send an upload's bytes as `Content-Type: application/offset+octet-stream`.";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong_type", detail)
    }

    /// 408: a document did not come in time.
    pub fn too_slow() -> Self {
        let detail = "The document took too long to arrive. Send it again.";
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail)
    }

    /// 429: what was paid was fetched often enough.
    pub fn fetched(used_up: UsedUp) -> Self {
        let detail = "This segment was fetched several times already. Nothing was charged; wait, then ask again.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "egress", detail).retry(used_up.retry_after)
    }

    /// 410: the title was removed, and this payment was not used.
    pub fn gone(credit: u64) -> Self {
        let detail = "The title was removed before you watched what you paid. Ask the server's operator \
                      for a refund and show this credential.";
        let mut problem = Self::new(StatusCode::GONE, "gone", detail);
        problem.more = object(json!({ "credit_msat": credit }));
        problem
    }

    /// 410 for more of a version that another one took the place of.
    pub fn replaced(playlist: &str) -> Self {
        let detail = format!(
            "The title has a newer version, and no more of this one is sold: go on at {playlist}. \
             What you paid of this one is served with its credential."
        );
        let mut problem = Self::new(StatusCode::GONE, "gone", detail);
        problem.more = object(json!({ "playlist": playlist }));
        problem
    }

    /// 416 for a range outside of a body of this length.
    pub fn bad_range(len: u64) -> Response {
        let detail = format!("The segment has {len} bytes: ask for a range within them.");
        let mut response =
            Self::new(StatusCode::RANGE_NOT_SATISFIABLE, "bad_range", detail).into_response();
        if let Ok(value) = HeaderValue::from_str(&format!("bytes */{len}")) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
        response
    }

    /// 402 with a fresh invoice, in the one form that all known L402 clients read.
    pub fn challenge(challenge: &Challenge) -> Self {
        let detail = "Pay the invoice, then repeat the request with \
                      `Authorization: L402 <macaroon>:<preimage>`.";
        let mut problem = Self::payment_required(detail);
        let Challenge { macaroon, bolt11, .. } = challenge;
        problem.authenticate = Some(format!(
            "L402 macaroon=\"{macaroon}\", invoice=\"{bolt11}\", version=\"0\", token=\"{macaroon}\""
        ));
        problem.more = object(json!({
            "amount_msat": challenge.amount,
            "invoice": bolt11,
            "payment_hash": challenge.hash,
            "expires_at": challenge.expires_at,
            "segment": challenge.segment.number,
        }));
        problem
    }

    /// 402 within a session: the invoice is in the session's stream, and here where one is open.
    pub fn session_unpaid(amount: u64, invoice: Option<&Invoice>) -> Self {
        let detail = "This segment is not paid yet: pay the session's open invoice and ask again.";
        let mut problem = Self::payment_required(detail);
        problem.more = object(json!({ "amount_msat": amount }));
        if let Some(invoice) = invoice {
            problem.more.extend(object(json!({
                "invoice": invoice.bolt11,
                "invoice_amount_msat": invoice.amount,
                "payment_hash": invoice.hash,
                "expires_at": invoice.expires_at,
            })));
        }
        problem
    }

    /// 402 for a `HEAD`: no invoice is made for it.
    pub fn unpaid_head() -> Self {
        Self::payment_required("This segment is not paid. Ask with GET for an invoice.")
    }

    fn payment_required(detail: &str) -> Self {
        Self::new(StatusCode::PAYMENT_REQUIRED, "payment_required", detail)
    }

    fn storage() -> Self {
        let detail = "The server's disk failed. What was paid stays good; try again soon.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "storage", detail).retry(Duration::from_secs(5))
    }

    fn internal(error: &dyn std::fmt::Display) -> Self {
        tracing::error!(%error, "a request failed");
        let detail = "The server failed. Nothing was charged; try again, and tell the operator.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}

/// An error as a sentence.
fn sentence(error: &library::Error) -> String {
    let text = error.to_string();
    let mut letters = text.chars();
    let first = letters.next().map(|letter| letter.to_uppercase().to_string()).unwrap_or_default();
    format!("{first}{}.", letters.as_str())
}

/// 460, which tus 1.0.0 has for itself (extension "checksum").
fn checksum_mismatch() -> StatusCode {
    StatusCode::from_u16(460).unwrap_or(StatusCode::BAD_REQUEST)
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = object(json!({
            "type": format!("urn:sluice:problem:{}", self.code),
            "title": self.status.canonical_reason().unwrap_or("Error"),
            "status": self.status.as_u16(),
            "code": self.code,
            "detail": self.detail,
        }));
        body.extend(self.more);
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(after) = self.retry_after {
            let seconds = after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0));
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        if let Some(value) = self.authenticate.and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(header::WWW_AUTHENTICATE, value);
        }
        response
    }
}

impl From<IdError> for Problem {
    fn from(error: IdError) -> Self {
        Self::missing(error.0)
    }
}

impl From<store::Error> for Problem {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Failed(_) => {
                tracing::error!(%error, "a request failed");
                Self::storage()
            }
            store::Error::Corrupt(_) | store::Error::Locked(_) => Self::internal(&error),
        }
    }
}

impl From<AmountError> for Problem {
    fn from(error: AmountError) -> Self {
        let detail = format!("msat_per_second: {error}.");
        let mut problem = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_price", detail);
        match error {
            AmountError::Sparse { smallest_msat_per_second } => {
                problem.more =
                    object(json!({ "smallest_msat_per_second": smallest_msat_per_second }));
            }
            AmountError::Overflow | AmountError::Share => {}
        }
        problem
    }
}

impl From<library::Error> for Problem {
    fn from(error: library::Error) -> Self {
        use library::Error;
        match error {
            Error::Missing(what) => Self::missing(what),
            Error::Invalid { field, .. } => {
                let mut problem =
                    Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", error.to_string());
                problem.more = object(json!({ "field": field }));
                problem
            }
            Error::State { .. } => {
                Self::new(StatusCode::CONFLICT, "wrong_state", error.to_string())
            }
            Error::TooLarge { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error.to_string())
            }
            Error::Broken { .. } => {
                Self::new(StatusCode::BAD_REQUEST, "broken_upload", error.to_string())
            }
            Error::Offset { at } => {
                let mut problem = Self::new(StatusCode::CONFLICT, "wrong_offset", sentence(&error));
                problem.more = object(json!({ "offset": at }));
                problem
            }
            Error::Excess { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "beyond_length", sentence(&error))
            }
            Error::Locked => Self::new(StatusCode::LOCKED, "locked", sentence(&error))
                .retry(Duration::from_secs(3)),
            Error::Checksum => Self::new(checksum_mismatch(), "checksum", sentence(&error)),
            Error::Quota { retry_after, .. } => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "quota", sentence(&error))
                    .retry(retry_after)
            }
            Error::SpoolQuota { .. } => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "spool_quota", sentence(&error))
            }
            Error::Crowded => Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", sentence(&error))
                .retry(Duration::from_secs(5)),
            Error::StorageFull => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, "storage_full", sentence(&error))
                    .retry(Duration::from_secs(60))
            }
            Error::Amount(error) => error.into(),
            Error::Store(error) => error.into(),
            Error::Io { .. } | Error::Blobs(_) => {
                tracing::error!(%error, "a request failed");
                Self::storage()
            }
            Error::Hls(_) | Error::Media(_) => Self::internal(&error),
        }
    }
}

impl From<lightning::Error> for Problem {
    fn from(error: lightning::Error) -> Self {
        use lightning::Error;
        tracing::error!(%error, "the node refused");
        match error {
            Error::NotRunning
            | Error::Start(_)
            | Error::NoRoute
            | Error::Duplicate
            | Error::Malformed(_)
            | Error::Node(_) => {
                let detail = "The Lightning node did not do that now: see the log.";
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "node", detail)
                    .retry(Duration::from_secs(5))
            }
        }
    }
}

impl From<payout::Error> for Problem {
    fn from(error: payout::Error) -> Self {
        use payout::Error;
        let conflict = |code, detail: &str| Self::new(StatusCode::CONFLICT, code, detail);
        match error {
            Error::NoDestination => {
                let detail =
                    "There is no destination yet: set one with `PATCH /api/v1/creators/me`.";
                conflict("no_destination", detail)
            }
            Error::InFlight => {
                let detail = "Another payout of yours is on its way. Ask again once it has ended.";
                conflict("payout_in_flight", detail)
            }
            Error::Short { payable, needed } => {
                let detail = "Less than that, and what its routing may cost, is payable.";
                let mut problem = conflict("too_little_payable", detail);
                problem.more = object(json!({ "payable_msat": payable, "needed_msat": needed }));
                problem
            }
            Error::Invoice(cause) => {
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, cause.code(), cause.sentence())
            }
            Error::Store(error) => error.into(),
        }
    }
}

impl From<paywall::Error> for Problem {
    fn from(error: paywall::Error) -> Self {
        use paywall::Error;
        let unavailable = |code, detail: &str, after| {
            Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
                .retry(Duration::from_secs(after))
        };
        match error {
            Error::TooMany { retry_after } => {
                let detail = "Too many invoices were asked for, or too many are unpaid. Slow down.";
                Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", detail).retry(retry_after)
            }
            Error::NoInbound => {
                let detail = "The server's Lightning node cannot receive this payment now. \
                              What is paid still plays.";
                unavailable("no_inbound", detail, 30)
            }
            Error::Suspended => {
                let detail = "The server cannot book payments now, so it asks for none. \
                              What is paid still plays.";
                unavailable("suspended", detail, 10)
            }
            Error::Mint(_) => {
                tracing::error!(%error, "no invoice");
                unavailable("no_invoice", "The server's Lightning node is not ready.", 5)
            }
            Error::Crowded(_) => Self::busy(),
            Error::NoReceipt => {
                let detail = "This receipt is not one of this session, or the preimage is not its \
                              payment's. Send both as the server and the wallet gave them.";
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "no_receipt", detail)
            }
            Error::Store(error) => error.into(),
            Error::Amount(error) => Self::internal(&error),
            Error::NoSession => {
                let detail = "This session is over or was never there. Begin another.";
                Self::new(StatusCode::NOT_FOUND, "no_session", detail)
            }
        }
    }
}

/// 304: the client has it already.
pub fn not_modified(headers: impl axum::response::IntoResponseParts) -> Response {
    (StatusCode::NOT_MODIFIED, headers, ()).into_response()
}

/// What the fallback of the router answers.
pub async fn no_route() -> Problem {
    Problem::missing("page")
}

/// A known path with another method.
pub async fn no_method() -> Problem {
    let detail = "This address does not take that method.";
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", detail)
}

/// A handler's panic is our fault and leaks nothing.
#[allow(clippy::needless_pass_by_value)]
pub fn panicked(_what: Box<dyn std::any::Any + Send + 'static>) -> Response {
    Problem::internal(&"a handler panicked").into_response()
}
