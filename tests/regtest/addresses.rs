//! A creator is paid to a Lightning address whose service runs on loopback in front of a real node; the server is killed at each step of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::routing::get;
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sluice::domain::amount::Msat;
use sluice::lightning::ldk::LdkNode;
use tokio::net::TcpListener;

use crate::world::client::Client;
use crate::world::server::Settings;
use crate::world::{WITHIN, World, clip, until};

const METADATA: &str = r#"[["text/plain","Ada"],["text/identifier","ada@127.0.0.1"]]"#;
/// Each step of a payout after which the next start must go on, and where it stands then.
const STEPS: [&str; 5] =
    ["payout-planned", "payout-fetched", "payout-invoiced", "payout-sending", "payout-sent"];

/// A service of LNURL-pay in front of the creator's node.
struct Service {
    node: Arc<LdkNode>,
    port: u16,
    invoices: AtomicUsize,
}

#[derive(Deserialize)]
struct Asked {
    amount: u64,
}

impl Service {
    async fn start(node: Arc<LdkNode>) -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let service = Arc::new(Self { node, port, invoices: AtomicUsize::new(0) });
        let router = Router::new()
            .route("/.well-known/lnurlp/ada", get(Self::describe))
            .route("/callback", get(Self::invoice))
            .with_state(Arc::clone(&service));
        tokio::spawn(async move { axum::serve(listener, router).await });
        service
    }

    async fn describe(State(service): State<Arc<Self>>) -> Json<Value> {
        Json(json!({
            "tag": "payRequest",
            "callback": format!("http://127.0.0.1:{}/callback", service.port),
            "minSendable": 1_000,
            "maxSendable": 1_000_000_000,
            "metadata": METADATA,
        }))
    }

    async fn invoice(State(service): State<Arc<Self>>, Query(asked): Query<Asked>) -> Json<Value> {
        let described = Sha256::digest(METADATA).into();
        let expiry = Duration::from_secs(600);
        // While its channel is not connected again it can receive nothing.
        match service.node.invoice(Msat::new(asked.amount), expiry, Some(described)) {
            Ok(minted) => {
                service.invoices.fetch_add(1, Ordering::SeqCst);
                Json(json!({ "pr": minted.bolt11, "routes": [] }))
            }
            Err(error) => Json(json!({ "status": "ERROR", "reason": error.to_string() })),
        }
    }

    fn invoices(&self) -> usize {
        self.invoices.load(Ordering::SeqCst)
    }
}

/// A creator, let in and paid at the service; the key.
async fn add_creator(world: &World, service: &Service) -> Client {
    let operator = world.server.data_dir.join("operator.key");
    let address = format!("ada@127.0.0.1:{}", service.port);
    let said = world.server.cli(&["creator", "add", "Ada", "--payout", &address], &operator).await;
    let key = said.lines().find_map(|line| line.strip_prefix("key")).unwrap().trim().to_owned();
    std::fs::write(world.creator_key(), &key).unwrap();
    Client::new(&world.server.base_url(), Some(key))
}

/// What arrived by the creator's own statement.
async fn arrived(creator: &Client) -> i128 {
    let payouts = creator.json("/api/v1/payouts").await;
    let all = payouts["payouts"].as_array().unwrap();
    let arrived = all.iter().filter(|payout| payout["state"] == "arrived");
    arrived.map(|payout| i128::from(payout["amount_msat"].as_i64().unwrap())).sum()
}

/// One segment, which brings in enough for a payout.
async fn buy(world: &World, video: &str) {
    let client = world.server.anybody();
    let renditions = client.renditions(&format!("/hls/{video}/index.m3u8")).await;
    let segment = &renditions[0].segments[1];
    let challenge = client.challenge(segment).await.expect("a price");
    let paid = world.viewer.pay(&challenge.invoice).await;
    client.redeem(segment, &challenge.credential(&paid.preimage)).await;
}

/// Waits until nothing is written any more, so that no kill meets a channel in the middle of a step.
async fn quiet(world: &World) {
    let (mut last, mut same) = (0, 0);
    until("a quiet server", async || {
        let written = world.server.written_bytes();
        same = if written == last { same + 1 } else { 0 };
        last = written;
        same >= 10
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_at_any_step_of_a_payout_pays_once_and_loses_nothing() {
    let mut world = World::new(&Settings::default()).await;
    let service = Service::start(world.creator.ldk()).await;
    let creator = add_creator(&world, &service).await;
    let video = world.upload(&clip(), 6_000, 1).await;
    let before = world.creator.owned();
    for step in STEPS {
        let (owned, asked) = (world.creator.owned(), service.invoices());
        world.server.stop().await;
        world.server.start(&[("FAILPOINTS", &format!("{step}=sleep(600000)"))]).await;
        world.reconnect().await;
        let bought = tokio::time::timeout(WITHIN, buy(&world, &video)).await;
        bought.unwrap_or_else(|_| panic!("{step}: not bought\n{}", world.server.log()));
        until(step, async || match step {
            "payout-planned" => world.server.totals().await.in_flight > 0,
            "payout-sent" => world.creator.owned() > owned,
            _ => service.invoices() > asked,
        })
        .await;
        quiet(&world).await;
        assert_eq!(world.creator.owned() > owned, step == "payout-sent", "{step}");
        world.server.kill();
        world.server.start(&[]).await;
        world.reconnect().await;
        world.rest().await;
        assert!(world.creator.owned() > owned, "{step}: it was paid after all");
        let books = world.server.totals().await;
        assert_eq!(world.creator.owned() - before, arrived(&creator).await, "{step}: once");
        assert_eq!(books.channels, world.server.owned().await, "{step}: the books agree");
        assert!(books.verified);
        assert_eq!(world.server.metric("sluice_channels_closed_total").await, 0);
        // What may have been sent is never replaced by another invoice; what certainly was not is, as often as it finds no route at first.
        let sending = ["payout-sending", "payout-sent"].contains(&step);
        let fetched = service.invoices() - asked;
        assert!(!sending || fetched <= 1, "{step}: {fetched}");
    }
}
