//! A client that nobody wrote for Sluice would look like this: HTTP, playlists, L402 challenges.

use reqwest::{Response, StatusCode, header};
use serde_json::Value;

use super::wallet::{Paid, Wallet};

/// HTTP to one server, a new connection for each request, because servers here are killed.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
    key: Option<String>,
}

/// What a 402 asks for.
#[derive(Debug, Clone)]
pub struct Challenge {
    pub macaroon: String,
    pub invoice: String,
    pub amount: u64,
}

impl Challenge {
    /// The `Authorization` that a payment makes of it.
    pub fn credential(&self, preimage: &str) -> String {
        format!("L402 {}:{preimage}", self.macaroon)
    }
}

/// A segment, and what it cost.
pub struct Bought {
    pub bytes: Vec<u8>,
    /// Nothing for a free one.
    pub price: Option<(u64, Paid)>,
}

/// A rendition as its playlists tell it.
#[derive(Debug, Clone)]
pub struct Rendition {
    pub height: u32,
    pub init: String,
    pub segments: Vec<String>,
}

impl Client {
    pub fn new(base: &str, key: Option<String>) -> Self {
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        Self { http, base: base.to_owned(), key }
    }

    /// A request, as far as the network goes.
    pub async fn try_get(&self, path: &str, credential: Option<&str>) -> reqwest::Result<Response> {
        let mut request = self.http.get(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        if let Some(credential) = credential {
            request = request.header(header::AUTHORIZATION, credential);
        }
        request.send().await
    }

    pub async fn get(&self, path: &str, credential: Option<&str>) -> Response {
        self.try_get(path, credential).await.unwrap()
    }

    pub async fn status(&self, path: &str) -> u16 {
        self.get(path, None).await.status().as_u16()
    }

    pub async fn text(&self, path: &str) -> String {
        let answer = self.get(path, None).await;
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        text
    }

    pub async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.text(path).await).unwrap()
    }

    pub async fn bytes(&self, path: &str) -> Vec<u8> {
        let answer = self.get(path, None).await.error_for_status().unwrap();
        answer.bytes().await.unwrap().to_vec()
    }

    pub async fn post(&self, path: &str, body: &Value) -> Value {
        let mut request = self.http.post(format!("{}{path}", self.base)).json(body);
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    pub async fn delete(&self, path: &str) {
        let mut request = self.http.delete(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
    }

    /// A counter of `/metrics`; 0 where it was not counted yet.
    pub async fn metric(&self, name: &str) -> u64 {
        let text = self.text("/metrics").await;
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }

    /// Payments that came in with this outcome since the server's start.
    pub async fn payments(&self, outcome: &str) -> u64 {
        self.metric(&format!("sluice_payments_total{{outcome=\"{outcome}\"}}")).await
    }

    /// All renditions of a multivariant playlist, in its order.
    pub async fn renditions(&self, multivariant: &str) -> Vec<Rendition> {
        let text = self.text(multivariant).await;
        let mut renditions = Vec::new();
        let mut height = 0;
        for line in text.lines() {
            if let Some((_, size)) = line.split_once("RESOLUTION=") {
                let size = size.split(',').next().unwrap();
                height = size.split_once('x').unwrap().1.parse().unwrap();
            } else if !line.starts_with('#') && !line.is_empty() {
                renditions.push(self.rendition(&join(multivariant, line), height).await);
                height = 0;
            }
        }
        renditions
    }

    async fn rendition(&self, playlist: &str, height: u32) -> Rendition {
        let text = self.text(playlist).await;
        assert!(text.contains("#EXT-X-ENDLIST"), "{text}");
        let init = text.lines().find_map(|line| line.strip_prefix("#EXT-X-MAP:URI=\""));
        let init = init.and_then(|rest| rest.split('"').next()).unwrap();
        let uris = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        Rendition {
            height,
            init: join(playlist, init),
            segments: uris.map(|uri| join(playlist, uri)).collect(),
        }
    }

    /// The challenge of an unpaid segment; nothing where it is free.
    pub async fn challenge(&self, segment: &str) -> Option<Challenge> {
        let answer = self.get(segment, None).await;
        match answer.status() {
            StatusCode::PAYMENT_REQUIRED => read_challenge(answer).await,
            StatusCode::OK => None,
            status => panic!("{segment}: {status} {}", answer.text().await.unwrap()),
        }
    }

    /// 402, pay, 200.
    pub async fn buy(&self, segment: &str, wallet: &Wallet) -> Bought {
        let Some(challenge) = self.challenge(segment).await else {
            return Bought { bytes: self.bytes(segment).await, price: None };
        };
        let paid = wallet.pay(&challenge.invoice).await;
        let bytes = self.redeem(segment, &challenge.credential(&paid.preimage)).await;
        Bought { bytes, price: Some((challenge.amount, paid)) }
    }

    /// What was paid for.
    pub async fn redeem(&self, segment: &str, credential: &str) -> Vec<u8> {
        let answer = self.get(segment, Some(credential)).await;
        let status = answer.status();
        assert_eq!(status, StatusCode::OK, "{segment}: {}", answer.text().await.unwrap());
        answer.bytes().await.unwrap().to_vec()
    }
}

/// Reads a 402 to its end; nothing where the server went away before it came.
pub async fn read_challenge(answer: Response) -> Option<Challenge> {
    let value = answer.headers()[header::WWW_AUTHENTICATE].to_str().unwrap().to_owned();
    let field = |name: &str| {
        let (_, rest) = value.split_once(&format!("{name}=\"")).unwrap();
        rest.split('"').next().unwrap().to_owned()
    };
    let (macaroon, invoice) = (field("macaroon"), field("invoice"));
    let problem = answer.bytes().await.ok()?;
    let problem: Value = serde_json::from_slice(&problem).unwrap();
    assert_eq!(problem["code"], "payment_required");
    assert_eq!(problem["invoice"], invoice.as_str());
    Some(Challenge { macaroon, invoice, amount: problem["amount_msat"].as_u64().unwrap() })
}

/// A relative address in a document at `base`.
fn join(base: &str, relative: &str) -> String {
    if relative.starts_with('/') {
        return relative.to_owned();
    }
    let (directory, _) = base.rsplit_once('/').unwrap();
    format!("{directory}/{relative}")
}
