//! Wallets that do as a test says, and a screen that remembers.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sluice::cli::watch::{Asked, Outcome, Payment, Screen, Totals, Wallet};
use sluice::domain::amount::Msat;
use sluice::domain::id::{PaymentHash, Preimage};
use sluice::lightning::Network;
use sluice::lightning::fake::FakeNode;

/// How the wallet answers to one payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Paid, and said so.
    Pays,
    /// Paid after a while.
    Slowly(Duration),
    /// Nothing was sent.
    Fails,
    /// Paid, but not even the look-up says so before the given number of them.
    Silent(u32),
    /// Nothing was sent, and nobody ever says so.
    Mute,
    /// A proof that proves nothing; nothing was sent.
    LiesAboutTheProof,
}

/// What became of one payment.
#[derive(Default)]
struct Sent {
    /// How often it was asked for.
    times: u32,
    preimage: Option<Preimage>,
    /// Look-ups that say nothing yet.
    looks: u32,
}

/// A wallet whose payments go to the fake node of a server.
pub struct TestWallet {
    node: Arc<FakeNode>,
    script: Mutex<VecDeque<Answer>>,
    usual: Answer,
    fee: Msat,
    paid: Mutex<HashMap<PaymentHash, Sent>>,
    network: Option<Network>,
}

impl TestWallet {
    pub fn new(node: &Arc<FakeNode>) -> Self {
        Self::that(node, Answer::Pays)
    }

    pub fn that(node: &Arc<FakeNode>, usual: Answer) -> Self {
        Self {
            node: Arc::clone(node),
            script: Mutex::default(),
            usual,
            fee: Msat::ZERO,
            paid: Mutex::default(),
            network: Some(Network::Regtest),
        }
    }

    pub fn script(self, script: impl IntoIterator<Item = Answer>) -> Self {
        self.script.lock().unwrap().extend(script);
        self
    }

    pub fn charging(self, fee_msat: u64) -> Self {
        Self { fee: Msat::new(fee_msat), ..self }
    }

    pub fn on(self, network: Network) -> Self {
        Self { network: Some(network), ..self }
    }

    /// How many invoices it was asked to pay, of which none twice.
    pub fn asked(&self) -> usize {
        let paid = self.paid.lock().unwrap();
        for (hash, sent) in &*paid {
            assert_eq!(sent.times, 1, "{hash} was asked for more than once");
        }
        paid.len()
    }

    /// How many it paid.
    pub fn paid(&self) -> usize {
        self.paid.lock().unwrap().values().filter(|sent| sent.preimage.is_some()).count()
    }

    fn pay_now(&self, payment: &Payment) -> Preimage {
        let preimage = self.node.pay(&payment.bolt11).unwrap();
        self.paid.lock().unwrap().get_mut(&payment.hash).unwrap().preimage = Some(preimage);
        preimage
    }
}

#[async_trait]
impl Wallet for TestWallet {
    async fn network(&self) -> Option<Network> {
        self.network
    }

    async fn pay(&self, payment: &Payment) -> Outcome {
        self.paid.lock().unwrap().entry(payment.hash).or_default().times += 1;
        let next = self.script.lock().unwrap().pop_front();
        let fee = Some(self.fee);
        match next.unwrap_or(self.usual) {
            Answer::Pays => Outcome::Paid { preimage: self.pay_now(payment), fee },
            Answer::Slowly(after) => {
                tokio::time::sleep(after).await;
                Outcome::Paid { preimage: self.pay_now(payment), fee }
            }
            Answer::Fails => Outcome::Failed("no route".to_owned()),
            Answer::Silent(looks) => {
                self.pay_now(payment);
                self.paid.lock().unwrap().get_mut(&payment.hash).unwrap().looks = looks;
                Outcome::Unknown("silence".to_owned())
            }
            Answer::Mute => Outcome::Unknown("silence".to_owned()),
            Answer::LiesAboutTheProof => {
                Outcome::Paid { preimage: Preimage::new([9; 32]), fee: None }
            }
        }
    }

    async fn look_up(&self, payment: &Payment) -> Outcome {
        let mut paid = self.paid.lock().unwrap();
        let sent = paid.get_mut(&payment.hash).unwrap();
        sent.looks = sent.looks.saturating_sub(1);
        match sent.preimage {
            Some(preimage) if sent.looks == 0 => Outcome::Paid { preimage, fee: Some(self.fee) },
            _ => Outcome::Unknown("silence".to_owned()),
        }
    }
}

/// Remembers what the viewer was shown.
#[derive(Default)]
pub struct Remembers {
    pub declines: bool,
    pub asked: Mutex<Vec<Asked>>,
    pub notes: Mutex<Vec<String>>,
    pub urls: Mutex<Vec<String>>,
}

impl Remembers {
    /// The local address, once it is there.
    pub async fn url(&self) -> String {
        for _ in 0..1_000 {
            if let Some(url) = self.urls.lock().unwrap().first() {
                return url.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no address: {:?}", self.notes.lock().unwrap())
    }
}

#[async_trait]
impl Screen for Remembers {
    async fn accept(&self, asked: &Asked) -> bool {
        self.asked.lock().unwrap().push(asked.clone());
        !self.declines
    }

    fn note(&self, text: &str) {
        self.notes.lock().unwrap().push(text.to_owned());
    }

    fn url(&self, url: &str) {
        self.urls.lock().unwrap().push(url.to_owned());
    }

    fn tally(&self, _: &Totals) {}
}
