//! Nostr Wallet Connect over a real relay on this machine, with a wallet service that pays through the fake node, late or never.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nostr_relay_builder::MockRelay;
use nwc::nostr::nips::nip04;
use nwc::nostr::nips::nip47::{
    ErrorCode, GetBalanceResponse, GetInfoResponse, LookupInvoiceResponse, Method, NIP47Error,
    NostrWalletConnectURI, PayInvoiceResponse, Request, RequestParams, Response, ResponseResult,
    TransactionState, TransactionType,
};
use nwc::prelude::{
    Event, EventBuilder, Filter, JsonUtil as _, Keys, Kind, RelayOptions, RelayPool,
    RelayPoolNotification, RelayUrl, SubscribeOptions, Tag, Timestamp,
};
use sluice::cli::watch::{End, NwcWallet, Order, Receipt, Wallet as _, watch};
use sluice::domain::amount::Msat;
use sluice::domain::id::Preimage;
use sluice::lightning::fake::FakeNode;
use sluice::lightning::{Network, bolt11};

use crate::server::{SEGMENTS, Server, WHOLE_MSAT};
use crate::wallets::Remembers;

/// Short, so that a test need not wait as a viewer would.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
const FEE_MSAT: u64 = 100;

/// How the service treats a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Habit {
    /// Pays and answers.
    Pays,
    /// Pays, and answers when nobody waits any more.
    AnswersLate,
    /// Pays at once and never answers; its record tells.
    Silent,
    /// Never pays and never answers anything about it.
    Deaf,
    /// Says that the payment failed, and its record says so too.
    Fails,
    /// Has not enough.
    IsEmpty,
    /// Says that the payment failed although it arrived.
    FailsAndPays,
}

#[derive(Default)]
struct Seen {
    /// How often each hash was asked to be paid.
    asked: HashMap<String, u32>,
    records: HashMap<String, (Option<Preimage>, u64)>,
    looks: u32,
}

struct Service {
    relay: MockRelay,
    keys: Keys,
    client: Keys,
    seen: Arc<Mutex<Seen>>,
}

impl Service {
    /// A service whose first payment goes by a habit, all others well.
    async fn start(node: &Arc<FakeNode>, first: Habit) -> Self {
        let relay = MockRelay::run().await.unwrap();
        let (keys, client) = (Keys::generate(), Keys::generate());
        let seen = Arc::new(Mutex::new(Seen::default()));
        let service = Self { relay, keys, client, seen };
        let pool = RelayPool::default();
        let url = service.url().await;
        pool.add_relay(&url, RelayOptions::default()).await.unwrap();
        pool.connect().await;
        pool.wait_for_connection(Duration::from_secs(5)).await;
        let mut notifications = pool.notifications();
        let filter =
            Filter::new().kind(Kind::WalletConnectRequest).pubkey(service.keys.public_key());
        pool.subscribe(filter, SubscribeOptions::default()).await.unwrap();
        let (keys, client) = (service.keys.clone(), service.client.clone());
        let (seen, node) = (Arc::clone(&service.seen), Arc::clone(node));
        tokio::spawn(async move {
            while let Ok(told) = notifications.recv().await {
                let RelayPoolNotification::Event { event, .. } = told else { continue };
                if event.pubkey != client.public_key() {
                    continue;
                }
                let text =
                    nip04::decrypt(keys.secret_key(), &event.pubkey, &event.content).unwrap();
                let request = Request::from_json(text).unwrap();
                let Some((response, after)) = respond(&node, &seen, first, request) else {
                    continue;
                };
                let answer = signed(&keys, &event, &response);
                let pool = pool.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(after).await;
                    let _ = pool.send_event(&answer).await;
                });
            }
        });
        service
    }

    async fn url(&self) -> RelayUrl {
        self.relay.url().await
    }

    async fn wallet(&self) -> NwcWallet {
        let relays = vec![self.url().await];
        let secret = self.client.secret_key().clone();
        let uri = NostrWalletConnectURI::new(self.keys.public_key(), relays, secret, None);
        NwcWallet::new(&uri.to_string(), ANSWER_WITHIN).unwrap()
    }

    /// How many invoices it was asked to pay, each once.
    fn asked(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        assert!(seen.asked.values().all(|times| *times == 1), "{:?}", seen.asked);
        seen.asked.len()
    }

    fn looks(&self) -> u32 {
        self.seen.lock().unwrap().looks
    }
}

fn signed(keys: &Keys, request: &Event, response: &Response) -> Event {
    let json = serde_json::to_string(response).unwrap();
    let content = nip04::encrypt(keys.secret_key(), &request.pubkey, json).unwrap();
    EventBuilder::new(Kind::WalletConnectResponse, content)
        .tags([Tag::public_key(request.pubkey), Tag::event(request.id)])
        .sign_with_keys(keys)
        .unwrap()
}

fn answer(result_type: Method, result: ResponseResult) -> Response {
    Response { result_type, error: None, result: Some(result) }
}

fn refusal(result_type: Method, code: ErrorCode) -> Response {
    let error = NIP47Error { code, message: "as the test says".to_owned() };
    Response { result_type, error: Some(error), result: None }
}

fn respond(
    node: &FakeNode,
    seen: &Mutex<Seen>,
    first: Habit,
    request: Request,
) -> Option<(Response, Duration)> {
    let mut seen = seen.lock().unwrap();
    let at_once = |response| Some((response, Duration::ZERO));
    match request.params {
        RequestParams::GetInfo => at_once(answer(Method::GetInfo, ResponseResult::GetInfo(info()))),
        RequestParams::GetBalance => {
            let balance = GetBalanceResponse { balance: 1_000_000 };
            at_once(answer(Method::GetBalance, ResponseResult::GetBalance(balance)))
        }
        RequestParams::PayInvoice(pay) => {
            let (hash, amount) = bolt11::read(&pay.invoice).unwrap();
            let habit = if seen.asked.is_empty() { first } else { Habit::Pays };
            *seen.asked.entry(hash.to_string()).or_default() += 1;
            let arrives = matches!(
                habit,
                Habit::Pays | Habit::AnswersLate | Habit::Silent | Habit::FailsAndPays
            );
            let preimage = arrives.then(|| node.pay(&pay.invoice).unwrap());
            if habit != Habit::Deaf {
                seen.records.insert(hash.to_string(), (preimage, amount.get()));
            }
            let paid = || {
                let preimage = String::from(preimage.unwrap());
                let paid = PayInvoiceResponse { preimage, fees_paid: Some(FEE_MSAT) };
                answer(Method::PayInvoice, ResponseResult::PayInvoice(paid))
            };
            match habit {
                Habit::Pays => at_once(paid()),
                Habit::AnswersLate => Some((paid(), ANSWER_WITHIN * 2)),
                Habit::Silent | Habit::Deaf => None,
                Habit::Fails | Habit::FailsAndPays => {
                    at_once(refusal(Method::PayInvoice, ErrorCode::PaymentFailed))
                }
                Habit::IsEmpty => {
                    at_once(refusal(Method::PayInvoice, ErrorCode::InsufficientBalance))
                }
            }
        }
        RequestParams::LookupInvoice(look) => {
            seen.looks += 1;
            let hash = look.payment_hash.unwrap();
            match seen.records.get(&hash) {
                Some((preimage, amount)) => {
                    let found = record(&hash, *preimage, *amount);
                    at_once(answer(Method::LookupInvoice, ResponseResult::LookupInvoice(found)))
                }
                None => at_once(refusal(Method::LookupInvoice, ErrorCode::NotFound)),
            }
        }
        _ => None,
    }
}

fn info() -> GetInfoResponse {
    GetInfoResponse {
        alias: None,
        color: None,
        pubkey: None,
        network: Some("regtest".to_owned()),
        block_height: None,
        block_hash: None,
        methods: vec![Method::PayInvoice, Method::LookupInvoice],
        notifications: Vec::new(),
    }
}

fn record(hash: &str, preimage: Option<Preimage>, amount: u64) -> LookupInvoiceResponse {
    let state =
        if preimage.is_some() { TransactionState::Settled } else { TransactionState::Failed };
    LookupInvoiceResponse {
        transaction_type: Some(TransactionType::Outgoing),
        state: Some(state),
        invoice: None,
        description: None,
        description_hash: None,
        preimage: preimage.map(String::from),
        payment_hash: hash.to_owned(),
        amount,
        fees_paid: FEE_MSAT,
        created_at: Timestamp::now(),
        expires_at: None,
        settled_at: None,
        metadata: None,
    }
}

/// The whole film with a service whose first payment goes by a habit.
async fn film(first: Habit) -> (Receipt, Service) {
    let server = Server::start().await;
    let service = Service::start(&server.node, first).await;
    let wallet = service.wallet().await;
    assert_eq!(wallet.network().await, Some(Network::Regtest), "it tells");
    assert_eq!(wallet.spendable().await, Some(Msat::new(1_000_000)));
    let dir = tempfile::tempdir().unwrap();
    let order = Order { save: Some(dir.path().join("film.mp4")), ..Order::new(&server.page()) };
    let screen = Remembers::default();
    let visit = watch(&order, &wallet, &screen, pending());
    let receipt = tokio::time::timeout(Duration::from_secs(60), visit).await.unwrap().unwrap();
    wallet.close().await;
    assert_eq!(receipt.end, End::Film, "{first:?}");
    assert_eq!(receipt.paid_msat, Msat::new(WHOLE_MSAT), "{first:?}");
    assert_eq!(server.credit_msat().await, 0);
    (receipt, service)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_is_paid_by_nostr_wallet_connect() {
    let (receipt, service) = film(Habit::Pays).await;
    assert_eq!(service.asked(), SEGMENTS as usize - 1);
    assert_eq!(service.looks(), 0);
    assert_eq!(receipt.fee_msat, Msat::new(FEE_MSAT * u64::from(SEGMENTS - 1)));
    assert!(receipt.payments.iter().all(|payment| payment.preimage.is_some()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_falls_silent_or_answers_late_is_looked_up_and_never_asked_twice() {
    let (silent, late) = tokio::join!(film(Habit::Silent), film(Habit::AnswersLate));
    for (_, service) in [silent, late] {
        assert_eq!(service.asked(), SEGMENTS as usize - 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payment_that_failed_is_replaced_and_one_that_arrived_after_all_is_not() {
    let (fails, empty, pays) =
        tokio::join!(film(Habit::Fails), film(Habit::IsEmpty), film(Habit::FailsAndPays));
    for (_, service) in [fails, empty] {
        assert_eq!(service.asked(), SEGMENTS as usize, "one more");
    }
    let (receipt, service) = pays;
    assert_eq!(service.asked(), SEGMENTS as usize - 1, "its record says that it arrived");
    assert_eq!(receipt.payments.len(), SEGMENTS as usize - 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wallet_that_never_answers_is_asked_for_one_payment_and_no_other() {
    let server = Server::start().await;
    let service = Service::start(&server.node, Habit::Deaf).await;
    let wallet = service.wallet().await;
    let dir = tempfile::tempdir().unwrap();
    let order = Order {
        save: Some(dir.path().join("film.mp4")),
        settle_within: Duration::from_secs(2),
        ..Order::new(&server.page())
    };
    let screen = Remembers::default();
    let interrupted = tokio::time::sleep(Duration::from_secs(8));
    let visit = watch(&order, &wallet, &screen, interrupted);
    let receipt = tokio::time::timeout(Duration::from_secs(90), visit).await.unwrap().unwrap();
    assert_eq!(service.asked(), 1);
    assert!(service.looks() >= 1, "it was asked what became of it");
    assert_eq!((receipt.payments.len(), receipt.payments[0].known), (1, false));
}

#[test]
fn what_is_no_connection_is_refused_without_being_repeated() {
    let error = NwcWallet::new("nostr+walletconnect://secret", ANSWER_WITHIN).err().unwrap();
    assert!(!error.to_string().contains("secret"), "{error}");
}
