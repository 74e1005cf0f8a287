//! LNURL-pay (LUD-06), for codes and Lightning addresses alike: the service is asked what it takes, then for an invoice over an exact amount,
//! and the invoice is held against what was asked.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use url::Url;

use super::invoice::{self, Expected};
use super::outbound::Outbound;
use crate::domain::amount::Msat;
use crate::domain::destination::Destination;
use crate::domain::id::{NodeId, PaymentHash};
use crate::lightning::Network;
use crate::store::{Cause, PayoutInvoice};

/// What payers call themselves where a service asks (LUD-18).
const NAME: &str = "Sluice";
/// A reason that a service gives is not logged beyond this.
const REASON_CHARS_MAX: usize = 200;

/// Why there is no invoice: the cause, which the creator sees, and the details for the operator's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{details}")]
pub struct Refusal {
    /// The stable cause.
    pub cause: Cause,
    /// For the log.
    pub details: String,
    /// What the service takes at least, where that is the cause.
    pub least: Option<Msat>,
}

impl Refusal {
    fn new(cause: Cause, details: impl Into<String>) -> Self {
        Self { cause, details: details.into(), least: None }
    }
}

/// An invoice that may be paid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// Its payment hash.
    pub hash: PaymentHash,
    /// Its amount, at most what was offered.
    pub amount: Msat,
    /// The invoice.
    pub invoice: PayoutInvoice,
}

/// Asks services for invoices.
#[derive(Clone)]
pub struct Services {
    /// Calls them.
    pub outbound: Outbound,
    /// The network that invoices must be of.
    pub network: Network,
    /// Our own node.
    pub own: NodeId,
}

/// The first answer (LUD-06, step 3); what else is in it is the service's own business.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Described {
    tag: String,
    callback: Url,
    min_sendable: u64,
    max_sendable: u64,
    metadata: String,
    /// LUD-18.
    #[serde(default)]
    payer_data: Option<Map<String, Value>>,
}

/// The second answer (LUD-06, step 5).
#[derive(Deserialize)]
struct Asked {
    pr: String,
    /// LUD-21: where the service tells whether the invoice was paid.
    #[serde(default)]
    verify: Option<String>,
}

impl Services {
    /// An invoice for at most this much; nothing is paid and nothing is written.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn invoice(
        &self,
        to: &Destination,
        most: Msat,
        now_s: u64,
    ) -> Result<Fetched, Refusal> {
        let malformed = |details: String| Refusal::new(Cause::Unreachable, details);
        let url = match to {
            Destination::LightningAddress(address) => {
                address.url(self.outbound.allow_loopback).map_err(|e| malformed(e.to_string()))?
            }
            Destination::Lnurl(code) => code.url(self.outbound.allow_loopback),
            Destination::Keysend(_) => return Err(malformed("a node has no service".to_owned())),
        };
        let described: Described = self.ask(&url).await?;
        if described.tag != "payRequest" {
            return Err(Refusal::new(Cause::ServiceRefused, format!("{url} takes no payments")));
        }
        let amount = amount(&described, most)?;
        let payer = payer_data(described.payer_data.as_ref())?;
        let mut callback = described.callback;
        callback.query_pairs_mut().append_pair("amount", &amount.get().to_string());
        if let Some(payer) = &payer {
            callback.query_pairs_mut().append_pair("payerdata", payer);
        }
        let asked: Asked = self.ask(&callback).await?;
        // LUD-18: what the payer told is part of what the invoice commits to.
        let hashed = Sha256::new().chain_update(&described.metadata);
        let hashed = hashed.chain_update(payer.unwrap_or_default());
        let expected = Expected {
            network: self.network,
            own: self.own,
            amount: Some(amount),
            description: Some(hashed.finalize().into()),
            now_s,
        };
        let (facts, amount) = invoice::check(&asked.pr, &expected)
            .map_err(|cause| Refusal::new(cause, format!("{callback}: {}", cause.sentence())))?;
        let (bolt11, expires_at) = (asked.pr, facts.expires_at);
        let verify = asked.verify.filter(|url| url.len() <= super::VERIFY_BYTES_MAX);
        let invoice = PayoutInvoice { bolt11, expires_at, verify, sending: false };
        Ok(Fetched { hash: facts.hash, amount, invoice })
    }

    /// A document of a service, or what it says instead (LUD-06: `{"status": "ERROR", "reason"}`).
    async fn ask<T: DeserializeOwned>(&self, url: &Url) -> Result<T, Refusal> {
        let unreachable = |details: String| Refusal::new(Cause::Unreachable, details);
        let answer =
            self.outbound.get(url).await.map_err(|failure| unreachable(failure.to_string()))?;
        let value: Value = serde_json::from_slice(&answer.body)
            .map_err(|error| unreachable(format!("{url} answers {} and {error}", answer.status)))?;
        let status = value.get("status").and_then(Value::as_str).unwrap_or_default();
        if status.eq_ignore_ascii_case("error") {
            let reason = value.get("reason").and_then(Value::as_str).unwrap_or_default();
            let reason: String = reason.chars().take(REASON_CHARS_MAX).collect();
            return Err(Refusal::new(Cause::ServiceRefused, format!("{url} says {reason:?}")));
        }
        if answer.status != 200 {
            return Err(unreachable(format!("{url} answers {}", answer.status)));
        }
        serde_json::from_value(value).map_err(|error| unreachable(format!("{url}: {error}")))
    }
}

/// What is asked for: within the service's bounds, and whole satoshis, because many services make no other invoices.
fn amount(described: &Described, most: Msat) -> Result<Msat, Refusal> {
    let amount = most.get().min(described.max_sendable);
    let whole = amount.saturating_sub(amount % 1_000);
    if whole == 0 || whole < described.min_sendable {
        let (least, max) = (described.min_sendable.max(1_000), described.max_sendable);
        let details = format!("{amount} msat is offered, {least} to {max} msat is taken");
        // Bounds that nothing fits are the service's fault, not a matter of waiting.
        let fits = least <= max.saturating_sub(max % 1_000);
        return Err(Refusal {
            cause: if fits { Cause::BelowLeast } else { Cause::ServiceRefused },
            details,
            least: fits.then(|| Msat::new(least)),
        });
    }
    Ok(Msat::new(whole))
}

/// What is told of the payer (LUD-18): a name where one is asked for. A service that insists on more is refused.
fn payer_data(asked: Option<&Map<String, Value>>) -> Result<Option<String>, Refusal> {
    let Some(asked) = asked else { return Ok(None) };
    let insists = |(name, field): (&String, &Value)| {
        name != "name" && field.get("mandatory").and_then(Value::as_bool).unwrap_or_default()
    };
    if asked.iter().any(insists) {
        let details = "the service insists on knowing more of the payer than a name";
        return Err(Refusal::new(Cause::ServiceRefused, details));
    }
    Ok(asked.contains_key("name").then(|| json!({ "name": NAME }).to_string()))
}
