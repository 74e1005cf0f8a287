//! Where a creator is paid. Each form is parsed here, once, at the edge; what it leads to on the network is checked when it is called.

use std::fmt;
use std::str::FromStr;

use bech32::Bech32;
use bech32::primitives::decode::CheckedHrpstring;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

use super::id::NodeId;

/// Longer than any address that a service gives out, and short enough for a log line.
const TEXT_BYTES_MAX: usize = 1_023;

/// Where a creator is paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", content = "destination", rename_all = "snake_case")]
pub enum Destination {
    /// A keysend to a Lightning node (bLIP 3).
    Keysend(NodeId),
    /// A Lightning address, `user@host` (LUD-16).
    LightningAddress(LightningAddress),
    /// An LNURL-pay code (LUD-06), or its `lnurlp://` form (LUD-17).
    Lnurl(Lnurl),
}

/// Text that is no destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DestinationError(&'static str);

/// A Lightning address (LUD-16): `user@host`, or `user@host:port`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LightningAddress {
    user: String,
    host: String,
}

impl LightningAddress {
    /// Where the service describes itself (LUD-16): plain HTTP only where the caller allows that for loopback.
    ///
    /// # Errors
    /// [`DestinationError`] never for an address that was parsed.
    pub fn url(&self, plain_loopback: bool) -> Result<Url, DestinationError> {
        let url = format!("https://{}/.well-known/lnurlp/{}", self.host, self.user);
        let url = Url::parse(&url).map_err(|_| NO_ADDRESS)?;
        Ok(if plain_loopback { plain(url) } else { url })
    }
}

const NO_ADDRESS: DestinationError =
    DestinationError("a Lightning address is written `user@host`, such as `ada@wallet.example`");

impl FromStr for LightningAddress {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (user, host) = text.split_once('@').ok_or(NO_ADDRESS)?;
        // LUD-16 allows `a-z0-9-_.` and, for tags, `+`; people write capitals all the same.
        let (user, host) = (user.to_ascii_lowercase(), host.to_ascii_lowercase());
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_.+".contains(c);
        let dots = user.chars().all(|c| c == '.');
        if dots || !user.chars().all(fits) || text.len() > TEXT_BYTES_MAX {
            return Err(NO_ADDRESS);
        }
        let url = Url::parse(&format!("https://{host}/")).map_err(|_| NO_ADDRESS)?;
        // Nothing but a host and perhaps a port may stand there.
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || host.contains(['/', '@', '\\', '?', '#']) {
            return Err(NO_ADDRESS);
        }
        refuse_onion(&url)?;
        Ok(Self { user, host })
    }
}

impl fmt::Display for LightningAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.user, self.host)
    }
}

/// An LNURL-pay code, as it was written, and the URL in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Lnurl {
    text: String,
    url: Url,
}

impl Lnurl {
    /// Where the service describes itself: plain HTTP only where the caller allows that for loopback.
    pub fn url(&self, plain_loopback: bool) -> Url {
        // LUD-17 leaves the scheme to the reader.
        let chosen = self.text.contains("://");
        if plain_loopback && chosen { plain(self.url.clone()) } else { self.url.clone() }
    }
}

const NO_LNURL: DestinationError = DestinationError(
    "an LNURL begins with `lnurl1` (LUD-01) or `lnurlp://` (LUD-17) and holds an https address",
);

impl FromStr for Lnurl {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_prefix("lightning:").unwrap_or(text);
        if text.len() > TEXT_BYTES_MAX {
            return Err(NO_LNURL);
        }
        let url = match text.strip_prefix("lnurlp://") {
            Some(rest) => format!("https://{rest}"),
            None => {
                let code = CheckedHrpstring::new::<Bech32>(text).map_err(|_| NO_LNURL)?;
                if !code.hrp().as_str().eq_ignore_ascii_case("lnurl") {
                    return Err(NO_LNURL);
                }
                String::from_utf8(code.byte_iter().collect()).map_err(|_| NO_LNURL)?
            }
        };
        let url = Url::parse(&url).map_err(|_| NO_LNURL)?;
        let known = matches!(url.scheme(), "https" | "http");
        let named = url.username().is_empty() && url.password().is_none();
        // A code that holds plain HTTP leads to a machine of a test's own, or nowhere.
        if !known || !named || (url.scheme() == "http" && !is_loopback(&url)) {
            return Err(NO_LNURL);
        }
        refuse_onion(&url)?;
        Ok(Self { text: text.to_owned(), url })
    }
}

impl fmt::Display for Lnurl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl TryFrom<String> for $name {
            type Error = DestinationError;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.trim().parse()
            }
        }

        impl From<$name> for String {
            fn from(of: $name) -> Self {
                of.to_string()
            }
        }
    };
}

as_text!(LightningAddress);
as_text!(Lnurl);

/// Reads whatever a person pastes: the kind is told by the text.
impl FromStr for Destination {
    type Err = DestinationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.trim();
        if let Ok(node) = text.parse() {
            return Ok(Self::Keysend(node));
        }
        if text.contains('@') {
            return text.parse().map(Self::LightningAddress);
        }
        text.parse().map(Self::Lnurl).map_err(|_| {
            DestinationError(
                "write a Lightning address (`user@host`), an LNURL (`lnurl1...` or `lnurlp://...`) or a node id (66 \
                 hexadecimal digits)",
            )
        })
    }
}

/// Whether a URL names this machine without asking anybody.
pub fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Domain(name)) => name == "localhost",
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        None => false,
    }
}

fn plain(mut url: Url) -> Url {
    // Without a port in the text, that of HTTPS is not kept.
    if is_loopback(&url) && url.set_scheme("http").is_err() {
        return url;
    }
    url
}

fn refuse_onion(url: &Url) -> Result<(), DestinationError> {
    let onion = matches!(url.host(), Some(Host::Domain(name)) if name.trim_end_matches('.').ends_with(".onion"));
    if onion {
        return Err(DestinationError(
            "onion services are not called: write an address on the clear net",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of LUD-01.
    const CODE: &str = "LNURL1DP68GURN8GHJ7UM9WFMXJCM99E3K7MF0V9CXJ0M385EKVCENXC6R2C35XVUKXEFCV5MKVV34X5EKZD3EV56NYD3HXQURZEPEXEJXXEPNXSCRVWFNV9NXZCN9XQ6XYEFHVGCXXCMYXYMNSERXFQ5FNS";

    #[test]
    fn an_address_leads_to_its_well_known_place() {
        let address: LightningAddress = "Ada+tips@Wallet.example".parse().unwrap();
        let url = address.url(false).unwrap();
        assert_eq!(url.as_str(), "https://wallet.example/.well-known/lnurlp/ada+tips");
        assert_eq!(address.to_string(), "ada+tips@wallet.example");
        let local: LightningAddress = "ada@127.0.0.1:8080".parse().unwrap();
        assert_eq!(local.url(false).unwrap().scheme(), "https");
        let plain = local.url(true).unwrap();
        assert_eq!(plain.as_str(), "http://127.0.0.1:8080/.well-known/lnurlp/ada");
        assert_eq!(address.url(true).unwrap().scheme(), "https", "loopback alone is plain");
    }

    #[test]
    fn an_lnurl_is_read_in_both_forms() {
        let code: Lnurl = CODE.parse().unwrap();
        assert!(code.url(true).as_str().starts_with("https://service.com/api?q=3fc3645b"));
        assert_eq!(CODE.to_ascii_lowercase().parse::<Lnurl>().unwrap().url(false), code.url(false));
        let seventeen: Lnurl = "lnurlp://pay.example/ada".parse().unwrap();
        assert_eq!(seventeen.url(true).as_str(), "https://pay.example/ada");
        let local: Lnurl = "lnurlp://127.0.0.1:9/ada".parse().unwrap();
        assert_eq!(local.url(true).as_str(), "http://127.0.0.1:9/ada");
        assert_eq!(local.url(false).as_str(), "https://127.0.0.1:9/ada");
    }

    #[test]
    fn what_is_no_destination_is_refused_with_a_mend() {
        for text in [
            "",
            "@",
            "a@",
            "@b",
            "a b@c",
            "a@b/c",
            "a@b?c",
            "a@b@c",
            "a/b@c",
            "..@c",
            "a@[::1",
            "ada@hidden.onion",
            "ada@hidden.onion.",
            "a@b:99999",
            "lnurl1",
            "lnurlp://",
            "lnurlp://x.onion/y",
            "lnurlp://u:p@x/y",
            "lnurlw://x/y",
            "http://x/y",
            "nonsense",
        ] {
            let error = text.parse::<Destination>().expect_err(text).to_string();
            assert!(error.contains(' '), "{text}: {error}");
        }
        let mut broken = CODE.to_owned();
        broken.replace_range(20..21, "Q");
        assert!(broken.parse::<Lnurl>().is_err(), "its checksum does not fit");
    }

    #[test]
    fn a_destination_is_written_as_it_is_read() {
        let node = format!("02{}", "11".repeat(32));
        for (kind, text) in [
            ("lightning_address", "ada@wallet.example"),
            ("lnurl", "lnurlp://pay.example/ada"),
            ("lnurl", CODE),
            ("keysend", node.as_str()),
        ] {
            let read: Destination = text.parse().unwrap();
            let written = serde_json::to_value(&read).unwrap();
            assert_eq!(written, serde_json::json!({ "kind": kind, "destination": text }));
            assert_eq!(serde_json::from_value::<Destination>(written).unwrap(), read);
        }
    }
}
