//! The demo's wallet: `POST {url}/pay`, `GET {url}/balance` (PROTOCOL.md, The demo's surface).

use std::time::Duration;

use anyhow::{Context as _, ensure};
use async_trait::async_trait;
use reqwest::{Client, Url};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Outcome, Payment, Wallet};
use crate::cli::watch::session::plain;
use crate::domain::amount::Msat;
use crate::domain::id::Preimage;

/// Longer than a Lightning payment takes with all its retries; what is not answered by then is not known.
const PAY_WITHIN: Duration = Duration::from_secs(65);
const BALANCE_WITHIN: Duration = Duration::from_secs(10);

/// A wallet behind a secret address on this machine.
pub(crate) struct HttpWallet {
    http: Client,
    url: String,
}

#[derive(Deserialize)]
struct Paid {
    preimage: Preimage,
    fee_msat: Option<Msat>,
}

#[derive(Deserialize)]
struct Balance {
    spendable_msat: Msat,
}

impl HttpWallet {
    /// The wallet at an address.
    pub(crate) fn new(url: &str) -> anyhow::Result<Self> {
        let parsed = Url::parse(url.trim()).context("the demo wallet's address cannot be read")?;
        let local = matches!(parsed.host_str(), Some("127.0.0.1" | "localhost" | "[::1]"));
        ensure!(local, "the demo's wallet answers on this machine only");
        let http = Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none());
        Ok(Self { http: http.build()?, url: parsed.as_str().trim_end_matches('/').to_owned() })
    }
}

#[async_trait]
impl Wallet for HttpWallet {
    async fn spendable(&self) -> Option<Msat> {
        let request = self.http.get(format!("{}/balance", self.url)).timeout(BALANCE_WITHIN);
        let balance: Balance = request.send().await.ok()?.json().await.ok()?;
        Some(balance.spendable_msat)
    }

    async fn pay(&self, payment: &Payment) -> Outcome {
        let body = json!({ "invoice": payment.bolt11 });
        let request = self.http.post(format!("{}/pay", self.url)).json(&body);
        let answer = match request.timeout(PAY_WITHIN).send().await {
            Ok(answer) => answer,
            // Without a connection nothing was asked.
            Err(error) if error.is_connect() => {
                return Outcome::Failed("the wallet cannot be reached".to_owned());
            }
            Err(_) => return Outcome::Unknown("the wallet did not answer".to_owned()),
        };
        let status = answer.status();
        if status.is_success() {
            return match answer.json::<Paid>().await {
                Ok(paid) => Outcome::Paid { preimage: paid.preimage, fee: paid.fee_msat },
                Err(_) => Outcome::Unknown("the wallet's answer cannot be read".to_owned()),
            };
        }
        let problem: Value = answer.json().await.unwrap_or_default();
        let words = problem.get("detail").and_then(Value::as_str).map(plain);
        let words = words.unwrap_or_else(|| format!("the wallet answers {}", status.as_u16()));
        // Only a 4xx says that nothing was sent; after a 5xx the payment may be under way.
        if status.is_client_error() { Outcome::Failed(words) } else { Outcome::Unknown(words) }
    }

    async fn look_up(&self, _: &Payment) -> Outcome {
        Outcome::Unknown("the demo's wallet cannot be asked for a payment".to_owned())
    }
}
