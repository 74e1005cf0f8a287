//! A wallet by Nostr Wallet Connect (NIP-47): requests to a relay, answers from the wallet, whenever it is awake.
//!
//! No answer means nothing: the request may lie at the relay and be paid later. So what is not answered is looked up, never asked again.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::anyhow;
use async_trait::async_trait;
use nwc::error::Error;
use nwc::nostr::nips::nip47::{
    self, ErrorCode, LookupInvoiceRequest, LookupInvoiceResponse, NostrWalletConnectURI,
    PayInvoiceRequest, TransactionState,
};
use nwc::{NWC, NostrWalletConnectOptions};

use super::{Outcome, Payment, Wallet};
use crate::cli::watch::session::plain;
use crate::domain::amount::Msat;
use crate::domain::id::Preimage;
use crate::lightning::Network;

/// Phones have a tail of over a minute; what comes later is looked up.
pub(crate) const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// What is asked before anything is paid may stay unknown.
const ASK_WITHIN: Duration = Duration::from_secs(10);

/// A wallet behind a relay.
pub struct NwcWallet {
    wallet: NWC,
}

impl NwcWallet {
    /// The wallet of a connection's text, `nostr+walletconnect://…`; it is waited for this long.
    ///
    /// # Errors
    /// A line where the text is no connection. It is never repeated: it is a secret.
    pub fn new(uri: &str, answer_within: Duration) -> anyhow::Result<Self> {
        let uri = NostrWalletConnectURI::from_str(uri.trim()).map_err(|_| {
            anyhow!("this is no Nostr Wallet Connect text: it begins with nostr+walletconnect://")
        })?;
        let options = NostrWalletConnectOptions::new().timeout(answer_within);
        Ok(Self { wallet: NWC::with_opts(uri, options) })
    }

    async fn ask(&self, payment: &Payment) -> Result<LookupInvoiceResponse, Error> {
        let request =
            LookupInvoiceRequest { payment_hash: Some(payment.hash.to_string()), invoice: None };
        self.wallet.lookup_invoice(request).await
    }
}

#[async_trait]
impl Wallet for NwcWallet {
    async fn network(&self) -> Option<Network> {
        let info = tokio::time::timeout(ASK_WITHIN, self.wallet.get_info()).await.ok()?.ok()?;
        match info.network.as_deref() {
            Some("mainnet" | "bitcoin") => Some(Network::Mainnet),
            Some("testnet") => Some(Network::Testnet),
            Some("signet") => Some(Network::Signet),
            Some("regtest") => Some(Network::Regtest),
            _ => None,
        }
    }

    async fn spendable(&self) -> Option<Msat> {
        let balance = tokio::time::timeout(ASK_WITHIN, self.wallet.get_balance()).await;
        balance.ok()?.ok().map(Msat::new)
    }

    async fn pay(&self, payment: &Payment) -> Outcome {
        let request = PayInvoiceRequest::new(payment.bolt11.clone());
        match self.wallet.pay_invoice(request).await {
            Ok(paid) => proven(&paid.preimage, paid.fees_paid),
            Err(Error::NIP47(nip47::Error::ErrorCode(said))) => match said.code {
                // The wallet refused before it tried.
                ErrorCode::RateLimited
                | ErrorCode::NotImplemented
                | ErrorCode::InsufficientBalance
                | ErrorCode::QuotaExceeded
                | ErrorCode::Restricted
                | ErrorCode::Unauthorized => Outcome::Failed(plain(&said.message)),
                // "Payment failed" covers time-outs too: only the wallet's record tells whether something is still under way.
                ErrorCode::PaymentFailed => match self.ask(payment).await {
                    Err(Error::NIP47(nip47::Error::ErrorCode(nip47::NIP47Error {
                        code: ErrorCode::NotFound,
                        ..
                    }))) => Outcome::Failed(plain(&said.message)),
                    looked => looked_up(looked),
                },
                ErrorCode::NotFound | ErrorCode::Internal | ErrorCode::Other => {
                    Outcome::Unknown(plain(&said.message))
                }
            },
            Err(_) => Outcome::Unknown("the wallet did not answer".to_owned()),
        }
    }

    async fn look_up(&self, payment: &Payment) -> Outcome {
        looked_up(self.ask(payment).await)
    }

    async fn close(&self) {
        self.wallet.clone().shutdown().await;
    }
}

fn proven(preimage: &str, fee: Option<u64>) -> Outcome {
    match preimage.to_ascii_lowercase().parse::<Preimage>() {
        Ok(preimage) => Outcome::Paid { preimage, fee: fee.map(Msat::new) },
        Err(_) => Outcome::Unknown("the wallet gave no proof of payment".to_owned()),
    }
}

/// A record that is not there says nothing: the request may still lie at the relay.
fn looked_up(answer: Result<LookupInvoiceResponse, Error>) -> Outcome {
    let unknown = |words: &str| Outcome::Unknown(words.to_owned());
    match answer {
        Ok(record) => match (record.state, record.preimage.filter(|text| !text.is_empty())) {
            (Some(TransactionState::Failed), _) => Outcome::Failed("the payment failed".to_owned()),
            (Some(TransactionState::Settled), Some(preimage)) => {
                proven(&preimage, Some(record.fees_paid))
            }
            (None, Some(preimage)) if record.settled_at.is_some() => {
                proven(&preimage, Some(record.fees_paid))
            }
            (Some(TransactionState::Settled), None) => {
                unknown("the wallet gave no proof of payment")
            }
            // An invoice that expired may have been paid before: what is under way then is not over.
            (Some(TransactionState::Pending | TransactionState::Expired) | None, _) => {
                unknown("the payment is under way")
            }
        },
        Err(_) => unknown("the wallet does not know the payment yet, or did not answer"),
    }
}
