//! The wallets' services that creators name, as a script: who has which address, and what is answered.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use ldk_node::bitcoin::hashes::{Hash as _, sha256};
use ldk_node::bitcoin::secp256k1::{Secp256k1, SecretKey};
use lightning_invoice::{Currency, InvoiceBuilder, PaymentSecret};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sluice::domain::id::Preimage;
use sluice::payout::outbound::{Answer, Failure, Wire};
use url::Url;

/// An address of the open Internet; nothing is ever sent there.
const SOMEWHERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(1, 1, 1, 1));

type Reply = Box<dyn Fn(&Url) -> Answer + Send>;

/// A wire that plays what a test wrote.
#[derive(Default)]
pub struct Script {
    names: Mutex<HashMap<String, Vec<IpAddr>>>,
    reply: Mutex<Option<Reply>>,
    called: Mutex<Vec<Url>>,
}

impl Script {
    /// A name has these addresses from now on; every other has one of the open Internet.
    pub fn name(&self, name: &str, addresses: &[&str]) {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        self.names.lock().unwrap().insert(name.to_owned(), addresses);
    }

    /// What every call is answered with from now on.
    pub fn answer(&self, reply: impl Fn(&Url) -> Answer + Send + 'static) {
        *self.reply.lock().unwrap() = Some(Box::new(reply));
    }

    /// What was called so far.
    pub fn called(&self) -> Vec<Url> {
        self.called.lock().unwrap().clone()
    }
}

#[async_trait]
impl Wire for Script {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let known = self.names.lock().unwrap().get(name).cloned();
        Ok(known.unwrap_or_else(|| vec![SOMEWHERE]))
    }

    async fn get(&self, url: &Url, at: &[IpAddr]) -> Result<Answer, Failure> {
        assert!(!at.is_empty(), "it is called at an address that was checked");
        self.called.lock().unwrap().push(url.clone());
        let reply = self.reply.lock().unwrap();
        reply.as_ref().map_or_else(
            || Err(Failure::Failed("nobody listens".to_owned())),
            |reply| Ok(reply(url)),
        )
    }
}

/// A document with status 200.
pub fn document(value: &Value) -> Answer {
    Answer { status: 200, location: None, body: value.to_string().into_bytes() }
}

/// A redirect.
pub fn redirect(to: &str) -> Answer {
    Answer { status: 302, location: Some(to.to_owned()), body: Vec::new() }
}

/// A wallet's service (LUD-06), with whatever is wrong with it.
#[derive(Clone)]
pub struct Service {
    pub least: u64,
    pub most: u64,
    pub metadata: String,
    /// More of the first answer.
    pub more: Value,
    /// The key of the payee.
    pub payee: [u8; 32],
    pub network: Currency,
    /// What its invoices ask for beyond what they were asked for.
    pub too_much: u64,
    /// What its invoices commit to in place of the metadata.
    pub hashed: Option<String>,
    pub expiry: Duration,
    /// Its invoices' preimages, one after another; the last stays.
    pub preimages: Vec<Preimage>,
    pub now: Duration,
}

impl Service {
    /// One that is in order.
    pub fn new(now_s: u64) -> Self {
        Self {
            least: 1_000,
            most: 1_000_000_000,
            metadata: r#"[["text/plain","Ada"]]"#.to_owned(),
            more: json!({}),
            payee: [9; 32],
            network: Currency::Regtest,
            too_much: 0,
            hashed: None,
            expiry: Duration::from_secs(600),
            preimages: (1..100).map(|n| Preimage::new([n; 32])).collect(),
            now: Duration::from_secs(now_s),
        }
    }

    /// What answers a call: the description, or an invoice where an amount is asked for.
    pub fn reply(self) -> impl Fn(&Url) -> Answer + Send + 'static {
        let made = Mutex::new(0);
        move |url| {
            let pairs: HashMap<_, _> = url.query_pairs().into_owned().collect();
            let Some(amount) = pairs.get("amount") else {
                let mut described = json!({
                    "tag": "payRequest",
                    "callback": "https://pay.example/callback?of=ada",
                    "minSendable": self.least,
                    "maxSendable": self.most,
                    "metadata": self.metadata,
                });
                described.as_object_mut().unwrap().extend(self.more.as_object().unwrap().clone());
                return document(&described);
            };
            let mut made = made.lock().unwrap();
            let preimage = self.preimages[(*made).min(self.preimages.len() - 1)];
            *made += 1;
            let payer = pairs.get("payerdata").cloned().unwrap_or_default();
            let hashed = self.hashed.clone().unwrap_or(format!("{}{payer}", self.metadata));
            let amount = amount.parse::<u64>().unwrap() + self.too_much;
            let bolt11 = self.invoice(amount, &preimage, &hashed);
            document(
                &json!({ "pr": bolt11, "routes": [], "verify": "https://pay.example/verify/1" }),
            )
        }
    }

    /// An invoice of this payee.
    pub fn invoice(&self, amount: u64, preimage: &Preimage, hashed: &str) -> String {
        let key = SecretKey::from_slice(&self.payee).unwrap();
        let described: [u8; 32] = Sha256::digest(hashed.as_bytes()).into();
        let mut builder = InvoiceBuilder::new(self.network.clone())
            .description_hash(sha256::Hash::from_byte_array(described))
            .payment_hash(sha256::Hash::from_byte_array(*preimage.hash().as_bytes()))
            .payment_secret(PaymentSecret([1; 32]))
            .duration_since_epoch(self.now)
            .expiry_time(self.expiry)
            .min_final_cltv_expiry_delta(24)
            .basic_mpp();
        if amount > 0 {
            builder = builder.amount_milli_satoshis(amount);
        }
        let signed =
            builder.build_signed(|hash| Secp256k1::new().sign_ecdsa_recoverable(hash, &key));
        signed.unwrap().to_string()
    }
}
