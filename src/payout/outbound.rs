//! Calls to servers that creators named: a name is resolved once, an answer with one address that is not of the open Internet is refused whole,
//! and the connection goes to what was checked, under the original name. HTTPS only; each redirect is checked the same way; size and time are
//! bounded. The log has what went wrong, creators see a generic line.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::LOCATION;
use reqwest::redirect::Policy;
use reqwest::{Client, Url};
use url::Host;

use super::address::is_global;

/// An answer is a page of JSON: more than this is not read.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// A call ends within this, redirects and names included.
pub const WITHIN: Duration = Duration::from_secs(10);
/// Services move; who moves more often than this in one call leads in a circle.
pub const REDIRECTS_MAX: usize = 3;
/// A name has a handful of addresses.
const ADDRESSES_MAX: usize = 32;

/// Why a call came to nothing; for the operator's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The call was not made, or not answered to its end, because it may not be.
    #[error("refused: {0}")]
    Refused(String),
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
}

/// What a server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// Where it sends on (RFC 9110, section 10.2.2).
    pub location: Option<String>,
    /// The body, at most [`BODY_BYTES_MAX`].
    pub body: Vec<u8>,
}

/// The port to the network, as narrow as it can be: it decides nothing.
#[async_trait]
pub trait Wire: Send + Sync {
    /// The addresses of a name.
    ///
    /// # Errors
    /// [`Failure`] where it has none.
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure>;

    /// One GET over a connection to one of these addresses, with the name of the URL in it. No redirect is followed, and at most
    /// [`BODY_BYTES_MAX`] are read.
    ///
    /// # Errors
    /// [`Failure`].
    async fn get(&self, url: &Url, at: &[IpAddr]) -> Result<Answer, Failure>;
}

/// The network itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Internet;

#[async_trait]
impl Wire for Internet {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let found = tokio::net::lookup_host((name, 0)).await;
        let found = found.map_err(|error| Failure::Failed(format!("{name}: {error}")))?;
        Ok(found.map(|address| address.ip()).collect())
    }

    async fn get(&self, url: &Url, at: &[IpAddr]) -> Result<Answer, Failure> {
        let failed =
            |error: reqwest::Error| Failure::Failed(format!("{:#}", anyhow::Error::from(error)));
        // One client a call: a connection that is kept would outlive the check of its address.
        let client = Client::builder()
            .no_proxy()
            .redirect(Policy::none())
            .dns_resolver(Arc::new(Checked(at.to_vec())))
            .pool_max_idle_per_host(0)
            .user_agent(concat!("sluice/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(failed)?;
        let mut response = client.get(url.clone()).send().await.map_err(failed)?;
        let location = response.headers().get(LOCATION);
        let location = location.and_then(|value| value.to_str().ok()).map(str::to_owned);
        let mut answer = Answer { status: response.status().as_u16(), location, body: Vec::new() };
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            if answer.body.len().saturating_add(chunk.len()) > BODY_BYTES_MAX {
                return Err(too_long());
            }
            answer.body.extend_from_slice(&chunk);
        }
        Ok(answer)
    }
}

/// Answers every name with what was checked before.
struct Checked(Vec<IpAddr>);

impl Resolve for Checked {
    fn resolve(&self, _: Name) -> Resolving {
        // Port 0 stands for the URL's own.
        let addresses: Vec<_> = self.0.iter().map(|ip| SocketAddr::new(*ip, 0)).collect();
        Box::pin(std::future::ready(Ok(Box::new(addresses.into_iter()) as Addrs)))
    }
}

/// Calls over a wire, and decides what may be called.
#[derive(Clone)]
pub struct Outbound {
    /// The network, or a test's script.
    pub wire: Arc<dyn Wire>,
    /// Loopback may be called, by plain HTTP too: for tests and a private chain, refused on mainnet.
    pub allow_loopback: bool,
    /// A call ends within this; [`WITHIN`] to run.
    pub within: Duration,
}

impl Outbound {
    /// Over this wire.
    pub fn new(wire: Arc<dyn Wire>, allow_loopback: bool) -> Self {
        Self { wire, allow_loopback, within: WITHIN }
    }

    /// The answer at a URL, after at most [`REDIRECTS_MAX`] redirects.
    ///
    /// # Errors
    /// [`Failure`], with what the operator needs to know.
    pub async fn get(&self, url: &Url) -> Result<Answer, Failure> {
        let followed = tokio::time::timeout(self.within, self.follow(url.clone()));
        followed.await.unwrap_or_else(|_| Err(Failure::Failed(format!("{url}: no answer in time"))))
    }

    async fn follow(&self, mut url: Url) -> Result<Answer, Failure> {
        for _ in 0..=REDIRECTS_MAX {
            let at = self.check(&url).await?;
            let answer = self.wire.get(&url, &at).await?;
            if answer.body.len() > BODY_BYTES_MAX {
                return Err(too_long());
            }
            let Some(to) = answer.location.as_ref().filter(|_| is_redirect(answer.status)) else {
                return Ok(answer);
            };
            let next = url.join(to);
            url = next.map_err(|_| Failure::Failed(format!("{url} redirects to no URL")))?;
        }
        Err(refused(&url, "too many redirects"))
    }

    /// The addresses that a URL may be fetched from.
    async fn check(&self, url: &Url) -> Result<Vec<IpAddr>, Failure> {
        let at = match url.host() {
            None => return Err(refused(url, "it names no host")),
            Some(Host::Ipv4(address)) => vec![IpAddr::V4(address)],
            Some(Host::Ipv6(address)) => vec![IpAddr::V6(address)],
            Some(Host::Domain(name)) if name.trim_end_matches('.').ends_with(".onion") => {
                return Err(refused(url, "onion services are not called"));
            }
            Some(Host::Domain(name)) => self.wire.resolve(name).await?,
        };
        let private = self.allow_loopback && at.iter().all(IpAddr::is_loopback);
        if at.is_empty() || at.len() > ADDRESSES_MAX {
            return Err(refused(url, "its name has no address, or too many"));
        }
        if let Some(address) = at.iter().find(|address| !private && !is_global(**address)) {
            return Err(refused(url, &format!("{address} is not of the open Internet")));
        }
        match url.scheme() {
            "https" => Ok(at),
            "http" if private => Ok(at),
            _ => Err(refused(url, "it is not HTTPS")),
        }
    }
}

const fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

fn refused(url: &Url, why: &str) -> Failure {
    Failure::Refused(format!("{url}: {why}"))
}

fn too_long() -> Failure {
    Failure::Refused(format!("the answer has more than {BODY_BYTES_MAX} bytes"))
}
