//! What handlers take from a request, as domain values.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use axum::extract::{ConnectInfo, FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use serde::de::DeserializeOwned;

use super::error::Problem;
use super::range::{Range, Unsatisfiable};
use super::{App, client_of};
use crate::domain::id::{CreatorId, IdError};
use crate::paywall::Client;
use crate::paywall::token::{Presented, parse_all};
use crate::store::Role;

/// A document is small; who takes longer to send it holds a connection for nothing.
const DOCUMENT_WITHIN: Duration = Duration::from_secs(20);

/// Who calls, if a key says so.
pub struct Caller(pub Option<Role>);

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let Some(key) = bearer(&parts.headers) else { return Ok(Self(None)) };
        match app.library.role(key)? {
            Some(role) => Ok(Self(Some(role))),
            None => Err(Problem::unauthorized()),
        }
    }
}

impl Caller {
    /// Anyone with a key.
    pub fn known(&self) -> Result<Role, Problem> {
        self.0.ok_or_else(Problem::unauthorized)
    }

    /// A creator.
    pub fn creator(&self) -> Result<CreatorId, Problem> {
        match self.known()? {
            Role::Creator(creator) => Ok(creator),
            Role::Operator => Err(Problem::forbidden("a creator")),
        }
    }

    /// The operator.
    pub fn operator(&self) -> Result<(), Problem> {
        match self.known()? {
            Role::Operator => Ok(()),
            Role::Creator(_) => Err(Problem::forbidden("the operator")),
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(key.trim())
}

/// The L402 credentials of a request.
pub fn credentials(headers: &HeaderMap) -> Vec<Presented> {
    parse_all(headers.get_all(header::AUTHORIZATION).iter().map(header::HeaderValue::as_bytes))
}

/// What a request asks of a body of this length.
///
/// # Errors
/// [`Unsatisfiable`] where no byte of the body lies in it.
pub fn range(headers: &HeaderMap, of: u64) -> Result<Range, Unsatisfiable> {
    let value = headers.get(header::RANGE).and_then(|value| value.to_str().ok());
    value.map_or(Ok(Range::Whole { of }), |value| Range::of(value, of))
}

/// The client's address: the connection's, or what a trusted proxy says that it is.
pub struct From(pub Client);

impl FromRequestParts<App> for From {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let peer = parts.extensions.get::<ConnectInfo<SocketAddr>>().map(|info| info.0.ip());
        let peer = peer.unwrap_or(IpAddr::from([127, 0, 0, 1]));
        let forwarded = || {
            // The last one is what the proxy itself saw; those before it are the client's own words.
            let value = parts.headers.get_all("x-forwarded-for").iter().next_back()?;
            value.to_str().ok()?.rsplit(',').next()?.trim().parse::<IpAddr>().ok()
        };
        let client = client_of(peer, &app.options);
        Ok(Self(client.unwrap_or_else(|| forwarded().unwrap_or(peer).into())))
    }
}

/// A JSON document of a known shape.
pub struct Document<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Document<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let parsed = axum::Json::<T>::from_request(request, app);
        let parsed = tokio::time::timeout(DOCUMENT_WITHIN, parsed).await;
        let parsed = parsed.map_err(|_| Problem::too_slow())?;
        parsed.map(|json| Self(json.0)).map_err(|error| Problem::malformed(error.body_text()))
    }
}

/// The variable parts of a path, as text; what is no text is not there.
pub struct Path<T>(pub T);

impl<T: DeserializeOwned + Send> FromRequestParts<App> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let found = axum::extract::Path::<T>::from_request_parts(parts, app).await;
        found.map(|path| Self(path.0)).map_err(|_| Problem::missing("page"))
    }
}

/// The query of an address.
pub struct Query<T>(pub T);

impl<T: DeserializeOwned> FromRequestParts<App> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        let found = axum::extract::Query::<T>::from_request_parts(parts, app).await;
        found.map(|query| Self(query.0)).map_err(|error| Problem::malformed(error.body_text()))
    }
}

/// A part of a path as the value it names; what it cannot name is not there.
pub fn named<T: FromStr<Err = IdError>>(text: &str) -> Result<T, Problem> {
    Ok(text.parse::<T>()?)
}
