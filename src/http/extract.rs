//! What handlers take from a request, as domain values.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Once;
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
        if let Some(client) = client_of(peer, &app.options) {
            return Ok(Self(client));
        }
        let said = forwarded(&parts.headers, |address| client_of(address, &app.options).is_none());
        Ok(Self(match said {
            Forwarded::For(address) => address.into(),
            Forwarded::Nobody => {
                tell_once(peer, "");
                peer.into()
            }
            Forwarded::Unreadable(element) => {
                tell_once(peer, element);
                peer.into()
            }
        }))
    }
}

/// What a trusted proxy says of its client.
#[derive(Debug, PartialEq, Eq)]
enum Forwarded<'a> {
    /// Who asks.
    For(IpAddr),
    /// Nothing, or proxies alone.
    Nobody,
    /// What is no address.
    Unreadable(&'a str),
}

/// The last address of `X-Forwarded-For` that is no trusted proxy itself. Each proxy appends what it saw, so that those before it are the
/// client's own words; several headers are one list (RFC 9110, section 5.3). `Forwarded` (RFC 7239) is not read: a proxy that knows one of
/// the two hands on the other as the client wrote it.
fn forwarded(headers: &HeaderMap, trusted: impl Fn(IpAddr) -> bool) -> Forwarded<'_> {
    for value in headers.get_all("x-forwarded-for").iter().rev() {
        // Only what is read must be text: the bytes before it are the client's.
        for element in value.as_bytes().rsplit(|byte| *byte == b',') {
            let element = std::str::from_utf8(element).unwrap_or("bytes that are no text");
            match address(element) {
                Some(address) if trusted(address) => {}
                Some(address) => return Forwarded::For(address),
                None => return Forwarded::Unreadable(element.trim()),
            }
        }
    }
    Forwarded::Nobody
}

/// An address as proxies write it: bare, with a port, in brackets, in quotes (RFC 7239, section 6, has the same forms).
fn address(element: &str) -> Option<IpAddr> {
    let element = element.trim();
    let quoted = element.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    let element = quoted.unwrap_or(element);
    let socket = || element.parse::<SocketAddr>().ok().map(|socket| socket.ip());
    let bracketed = || {
        let inner = element.strip_prefix('[')?.strip_suffix(']')?;
        inner.parse::<Ipv6Addr>().ok().map(IpAddr::from)
    };
    element.parse().ok().or_else(socket).or_else(bracketed)
}

/// One line for all that say nothing, as a proxy's own checks do, and one for all that cannot be read: each request would write another.
fn tell_once(proxy: IpAddr, said: &str) {
    static TOLD: [Once; 2] = [Once::new(), Once::new()];
    let [nothing, unreadable] = &TOLD;
    let told = if said.is_empty() { nothing } else { unreadable };
    told.call_once(|| {
        tracing::warn!(
            %proxy,
            x_forwarded_for = %said.escape_debug(),
            "a trusted proxy does not say who its client is: all its viewers share one client's limits. Let it append the client's address \
             to X-Forwarded-For, or take it out of http.trusted_proxies"
        );
    });
}

/// A JSON document of a known shape.
pub struct Document<T>(pub T);

impl<T: DeserializeOwned> FromRequest<App> for Document<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, app: &App) -> Result<Self, Problem> {
        let parsed = axum::Json::<T>::from_request(request, app);
        // It is small; who takes longer to send it holds a connection for nothing.
        let within = Duration::from_secs(app.options.document_seconds);
        let parsed = tokio::time::timeout(within, parsed).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    fn said(values: &[&str]) -> Forwarded<'static> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-forwarded-for", value.parse().unwrap());
        }
        let proxy = IpAddr::from([10, 0, 0, 1]);
        match forwarded(&headers, |address| address == proxy) {
            Forwarded::Unreadable(element) => Forwarded::Unreadable(element.to_owned().leak()),
            Forwarded::For(address) => Forwarded::For(address),
            Forwarded::Nobody => Forwarded::Nobody,
        }
    }

    #[test]
    fn the_client_is_the_last_address_however_the_proxy_writes_it() {
        for (element, address) in [
            ("203.0.113.7", "203.0.113.7"),
            ("203.0.113.7:5678", "203.0.113.7"),
            ("2001:db8::1", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("\"[2001:db8::1]\"", "2001:db8::1"),
            ("\"[2001:db8::1]:443\"", "2001:db8::1"),
        ] {
            let address = Forwarded::For(address.parse().unwrap());
            for values in [
                vec![element.to_owned()],
                vec![format!("192.0.2.1, {element} ")],
                vec!["192.0.2.1, unknown".to_owned(), element.to_owned()],
                vec![format!("192.0.2.1,{element}, 10.0.0.1")],
                vec![element.to_owned(), "10.0.0.1:80".to_owned()],
            ] {
                let values: Vec<_> = values.iter().map(String::as_str).collect();
                assert_eq!(said(&values), address, "{values:?}");
            }
        }
    }

    #[test]
    fn what_the_client_wrote_before_the_proxys_words_hides_nothing() {
        let mut headers = HeaderMap::new();
        let value = header::HeaderValue::from_bytes(b"\xff, 203.0.113.7").unwrap();
        headers.append("x-forwarded-for", value);
        let address = "203.0.113.7".parse().unwrap();
        assert_eq!(forwarded(&headers, |_| false), Forwarded::For(address));
    }

    #[test]
    fn what_is_no_address_is_not_searched_for_one() {
        for element in ["unknown", "_hidden", "", "1.2.3.4.5", "[::1", "for=192.0.2.1", "\""] {
            assert_eq!(said(&[&format!("192.0.2.1, {element}")]), Forwarded::Unreadable(element));
        }
        assert_eq!(said(&[]), Forwarded::Nobody);
        assert_eq!(said(&["10.0.0.1"]), Forwarded::Nobody);
    }
}
