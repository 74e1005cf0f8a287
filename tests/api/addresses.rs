//! A creator is paid to a Lightning address or an LNURL, and no service, however hostile, gets more than what was meant for it.

use std::time::Duration;

use lightning_invoice::Currency;
use serde_json::{Value, json};
use sluice::domain::amount::Msat;
use sluice::lightning::fake::Outcome;
use sluice::payout::PAUSED_AFTER;
use sluice::payout::outbound::{Answer, BODY_BYTES_MAX};

use crate::app::{Challenge, Film, TestApp, until};
use crate::services::{Service, document, redirect};

const ADDRESS: &str = "ada@wallet.example";

/// A server whose one creator has earned 3,880 msat and is paid at the address.
async fn earned(service: impl FnOnce(&TestApp) -> Option<Service>) -> (TestApp, Film) {
    earned_with(0, service).await
}

/// The same, where a changed destination waits.
async fn earned_with(
    change_seconds: u64,
    service: impl FnOnce(&TestApp) -> Option<Service>,
) -> (TestApp, Film) {
    let app = TestApp::with(|config| {
        config.payout.threshold_msat = 3_000;
        config.payout.change_seconds = change_seconds;
    });
    app.node.set_outcome(Outcome::Succeed, Msat::new(7));
    if let Some(service) = service(&app) {
        for preimage in &service.preimages {
            app.node.knows(*preimage);
        }
        app.wire.answer(service.reply());
    }
    let film = app.film().await;
    set(&app, &film, "lightning_address", ADDRESS).await;
    for number in 1..3 {
        buy(&app, &film, number).await;
    }
    (app, film)
}

fn good(app: &TestApp) -> Service {
    use sluice::runtime::Clock as _;
    Service::new(app.clock.now_s())
}

async fn set(app: &TestApp, film: &Film, kind: &str, destination: &str) {
    let edit = json!({ "payout": { "kind": kind, "destination": destination } });
    let call = app.call("PATCH", "/api/v1/creators/me").key(&film.creator.key);
    let reply = call.json(edit).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
}

async fn buy(app: &TestApp, film: &Film, number: u32) {
    let challenge = Challenge::of(&app.get(&film.segment(number)).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let call = app.call("GET", &film.segment(number)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200);
}

async fn payouts(app: &TestApp, film: &Film) -> Vec<Value> {
    let reply = app.call("GET", "/api/v1/payouts").key(&film.creator.key).send().await;
    reply.json()["payouts"].as_array().unwrap().clone()
}

/// The newest payout, once it has this state.
async fn newest(app: &TestApp, film: &Film, state: &str) -> Value {
    let begun = std::time::Instant::now();
    loop {
        let all = payouts(app, film).await;
        if let Some(payout) = all.first().filter(|of| of["state"] == state) {
            return payout.clone();
        }
        assert!(begun.elapsed() < crate::app::DEADLINE, "no payout is {state}: {all:?}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The payout came back with this code, nothing was sent, and the amount is payable.
async fn refused(app: &TestApp, film: &Film, code: &str) {
    let payout = newest(app, film, "returned").await;
    assert_eq!(payout["code"], code, "{payout}");
    let reason = payout["reason"].as_str().unwrap();
    assert!(!reason.contains("wallet.example") && reason.contains(' '), "generic: {reason}");
    assert_eq!(app.node.attempts(), 0, "nothing was sent");
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 3_880);
}

#[tokio::test]
async fn a_creator_is_paid_to_a_lightning_address_in_whole_satoshis() {
    let (app, film) = earned(|app| Some(good(app))).await;
    let payout = newest(&app, &film, "arrived").await;
    assert_eq!(
        payout["destination"],
        json!({ "kind": "lightning_address", "destination": ADDRESS })
    );
    assert_eq!((&payout["amount_msat"], &payout["fee_msat"]), (&json!(2_000), &json!(7)));
    assert_eq!(payout["preimage"], "01".repeat(32));
    let earnings = app.earnings(&film.creator).await;
    assert_eq!(
        (&earnings["paid_out_msat"], &earnings["payable_msat"]),
        (&json!(2_000), &json!(1_873))
    );
    let called: Vec<_> = app.wire.called().iter().map(ToString::to_string).collect();
    assert_eq!(
        called,
        [
            "https://wallet.example/.well-known/lnurlp/ada",
            "https://pay.example/callback?of=ada&amount=2000"
        ]
    );
}

#[tokio::test]
async fn an_lnurl_is_followed_over_redirects_and_a_payer_gives_a_name_where_asked() {
    let (app, film) = earned(|_| None).await;
    refused(&app, &film, "unreachable").await;
    let service = Service {
        more: json!({ "payerData": { "name": { "mandatory": true }, "email": { "mandatory": false } } }),
        ..good(&app)
    };
    let reply = service.reply();
    app.wire.answer(move |url| match url.path() {
        "/1" => redirect("/2"),
        "/2" => redirect("https://other.example/3"),
        _ => reply(url),
    });
    set(&app, &film, "lnurl", "lnurlp://pay.example/1").await;
    app.advance(Duration::from_secs(100));
    buy(&app, &film, 3).await;
    let payout = newest(&app, &film, "arrived").await;
    assert_eq!(payout["amount_msat"], 4_000);
    let last = app.wire.called().pop().unwrap();
    assert!(last.query().unwrap().contains("payerdata=%7B%22name%22%3A%22Sluice%22%7D"), "{last}");
}

#[tokio::test]
async fn an_invoice_that_is_not_what_was_asked_for_is_never_paid() {
    type Change = fn(&mut Service);
    let wrong: [(&str, Change); 9] = [
        ("other_amount", |of| of.too_much = 1),
        ("other_description", |of| of.hashed = Some("[]".to_owned())),
        ("other_network", |of| of.network = Currency::Bitcoin),
        ("other_network", |of| of.network = Currency::Simnet),
        ("expired", |of| of.now -= Duration::from_secs(595)),
        ("service_refused", |of| of.more = json!({ "tag": "withdrawRequest" })),
        ("service_refused", |of| {
            of.more = json!({ "payerData": { "auth": { "mandatory": true } } })
        }),
        ("service_refused", |of| (of.least, of.most) = (1_001, 1_999)),
        ("unreachable", |of| of.more = json!({ "metadata": 7 })),
    ];
    for (code, change) in wrong {
        let (app, film) = earned(|app| {
            let mut service = good(app);
            change(&mut service);
            Some(service)
        })
        .await;
        refused(&app, &film, code).await;
    }
}

#[tokio::test]
async fn an_invoice_of_the_servers_own_node_is_never_paid() {
    let (app, film) = earned(|app| {
        let (node, reply) = (app.node.clone(), good(app).reply());
        app.wire.answer(move |url| {
            if !url.query().is_some_and(|query| query.contains("amount")) {
                return reply(url);
            }
            use sluice::lightning::Issuer as _;
            let minted = node.mint(Msat::new(2_000), Duration::from_secs(600)).unwrap();
            document(&json!({ "pr": minted.bolt11 }))
        });
        None
    })
    .await;
    refused(&app, &film, "own_payee").await;
}

#[tokio::test]
async fn an_invoice_that_was_paid_before_is_never_paid_again() {
    let (app, film) = earned(|app| {
        let mut service = good(app);
        service.preimages.truncate(1);
        Some(service)
    })
    .await;
    newest(&app, &film, "arrived").await;
    app.advance(Duration::from_secs(1));
    for number in [3, 4] {
        buy(&app, &film, number).await;
    }
    let payout = newest(&app, &film, "returned").await;
    assert_eq!(payout["code"], "seen_before");
    assert_eq!(app.node.attempts(), 1, "one was sent");
    assert_eq!(app.earnings(&film.creator).await["paid_out_msat"], 2_000);
}

#[tokio::test]
async fn a_service_that_answers_nonsense_gets_nothing() {
    let answer = |status, body: &str| Answer { status, location: None, body: body.into() };
    let error = r#"{"status":"ERROR","reason":"at 10.0.0.7"}"#;
    for (code, reply) in [
        ("service_refused", answer(200, error)),
        ("service_refused", answer(404, error)),
        ("unreachable", answer(200, "<html>")),
        ("unreachable", answer(500, "{}")),
        ("unreachable", answer(200, "{}")),
        ("unreachable", answer(200, &" ".repeat(BODY_BYTES_MAX + 1))),
        ("unreachable", redirect("http://wallet.example/")),
        ("unreachable", redirect("https://wallet.example/")),
        ("unreachable", redirect("https://127.0.0.1/")),
        ("unreachable", redirect("https://2130706433/")),
        ("unreachable", redirect("https://[::ffff:10.0.0.1]/")),
        ("unreachable", redirect("https://[64:ff9b::a00:1]/")),
        ("unreachable", redirect("https://private.example/")),
        ("unreachable", redirect("https://mixed.example/")),
        ("unreachable", redirect("https://hidden.onion/")),
        ("unreachable", redirect("file:///etc/passwd")),
    ] {
        let (app, film) = earned(|app| {
            app.wire.name("private.example", &["10.0.0.1"]);
            app.wire.name("mixed.example", &["1.1.1.1", "fd00::1"]);
            let reply = reply.clone();
            app.wire.answer(move |_| reply.clone());
            None
        })
        .await;
        refused(&app, &film, code).await;
        let most = if reply.location.as_deref() == Some("https://wallet.example/") { 4 } else { 1 };
        assert_eq!(app.wire.called().len(), most, "{reply:?}: nothing else is called");
    }
}

#[tokio::test]
async fn a_name_that_leads_into_the_operators_network_is_not_called() {
    let (app, film) = earned(|app| {
        app.wire.name("wallet.example", &["192.168.1.1"]);
        Some(good(app))
    })
    .await;
    refused(&app, &film, "unreachable").await;
    assert!(app.wire.called().is_empty());
}

#[tokio::test]
async fn what_is_too_little_for_a_service_waits_and_is_no_setback() {
    let (app, film) = earned(|app| Some(Service { least: 4_000, ..good(app) })).await;
    refused(&app, &film, "below_least").await;
    app.advance(Duration::from_secs(1));
    buy(&app, &film, 3).await;
    let payout = newest(&app, &film, "arrived").await;
    assert_eq!(payout["amount_msat"], 4_000);
    assert_eq!(payouts(&app, &film).await.len(), 2, "it is not asked again before there is enough");
}

#[tokio::test]
async fn more_than_a_service_takes_is_paid_in_parts() {
    let (app, film) = earned(|app| Some(Service { most: 1_999, ..good(app) })).await;
    let payout = newest(&app, &film, "arrived").await;
    assert_eq!(payout["amount_msat"], 1_000);
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 2_873);
}

#[tokio::test]
async fn a_destination_that_keeps_failing_is_paused_until_it_changes() {
    let (app, film) = earned(|_| None).await;
    let me = || async {
        app.call("GET", "/api/v1/creators/me").key(&film.creator.key).send().await.json()
    };
    for count in 1..=PAUSED_AFTER {
        until("it is tried", || {
            use sluice::store::Payouts as _;
            let setbacks = app.store.setbacks(film.creator.id.parse().unwrap()).unwrap();
            setbacks.is_some_and(|of| of.count == count)
        })
        .await;
        assert_eq!(me().await["payouts_paused"].is_null(), count < PAUSED_AFTER);
        app.advance(Duration::from_secs(3_600));
        buy(&app, &film, 3).await;
    }
    let paused = me().await["payouts_paused"].clone();
    assert_eq!(paused["code"], "unreachable", "{paused}");
    app.wire.answer(good(&app).reply());
    let tried = payouts(&app, &film).await.len();
    app.advance(Duration::from_secs(86_400));
    buy(&app, &film, 4).await;
    assert_eq!(payouts(&app, &film).await.len(), tried, "it is paused");
    set(&app, &film, "lightning_address", "ada@other.example").await;
    assert!(me().await["payouts_paused"].is_null());
    app.wire.answer(good(&app).reply());
    buy(&app, &film, 4).await;
    newest(&app, &film, "arrived").await;
}

#[tokio::test]
async fn a_changed_destination_waits_but_its_test_and_the_operators_word_do_not() {
    let (app, film) = earned_with(86_400, |_| None).await;
    refused(&app, &film, "unreachable").await;
    let service = good(&app);
    app.wire.answer(service.reply());
    set(&app, &film, "lightning_address", "ada@other.example").await;
    app.advance(Duration::from_secs(86_399));
    buy(&app, &film, 3).await;
    app.advance(Duration::from_secs(1));
    assert_eq!(payouts(&app, &film).await.len(), 1, "it waits");
    set(&app, &film, "lightning_address", "ada@third.example").await;

    app.wire.answer(good(&app).reply());
    let test = || app.call("POST", "/api/v1/creators/me/payout/test").key(&film.creator.key);
    let tested = test().send().await;
    assert_eq!(tested.status, 201, "{tested:?}");
    let tested = tested.json();
    assert_eq!((&tested["state"], &tested["amount_msat"]), (&json!("arrived"), &json!(1_000)));
    let first = app.wire.called()[app.wire.called().len() - 2].to_string();
    assert!(first.starts_with("https://third.example/"), "{first}");

    let service =
        Service { preimages: vec![sluice::domain::id::Preimage::new([77; 32])], ..good(&app) };
    app.wire.answer(service.reply());
    let edit =
        json!({ "payout": { "kind": "lightning_address", "destination": "ada@third.example" } });
    let path = format!("/api/v1/creators/{}", film.creator.id);
    let by_creator =
        app.call("PATCH", &path).key(&film.creator.key).json(edit.clone()).send().await;
    by_creator.problem(403, "forbidden");
    let by_operator = app.call("PATCH", &path).key(&app.operator).json(edit).send().await;
    assert_eq!(by_operator.status, 200, "{by_operator:?}");
    app.advance(Duration::from_secs(1));
    buy(&app, &film, 3).await;
    until("the balance is paid now", || {
        use sluice::store::Payouts as _;
        app.store.payouts(film.creator.id.parse().unwrap(), 9).unwrap().len() == 3
    })
    .await;
    let payout = newest(&app, &film, "arrived").await;
    assert_ne!(payout["amount_msat"], 1_000, "{payout}");
}

#[tokio::test]
async fn a_test_tells_what_is_wrong_with_a_destination() {
    let (app, film) = earned(|_| None).await;
    refused(&app, &film, "unreachable").await;
    app.wire.answer(|_| document(&json!({ "status": "ERROR", "reason": "no such user" })));
    let test = || app.call("POST", "/api/v1/creators/me/payout/test").key(&film.creator.key);
    let told = test().send().await.json();
    assert_eq!((&told["state"], &told["code"]), (&json!("returned"), &json!("service_refused")));
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 3_880);
    let other = app.creator().await;
    let test = app.call("POST", "/api/v1/creators/me/payout/test").key(&other.key);
    test.send().await.problem(409, "no_destination");
}

#[tokio::test]
async fn a_creator_withdraws_by_invoice_once_and_only_what_is_payable() {
    let (app, film) = earned(|_| None).await;
    refused(&app, &film, "unreachable").await;
    let service = good(&app);
    let withdraw = |bolt11: String| {
        let call = app.call("POST", "/api/v1/creators/me/withdrawals").key(&film.creator.key);
        call.json(json!({ "invoice": bolt11 })).send()
    };
    let of = |amount, n| service.invoice(amount, &service.preimages[n], "x");
    let short = withdraw(of(3_000, 0)).await.problem(409, "too_little_payable");
    assert_eq!((&short["payable_msat"], &short["needed_msat"]), (&json!(3_880), &json!(4_000)));
    withdraw("lnbc1".to_owned()).await.problem(422, "no_invoice");
    withdraw(of(0, 0)).await.problem(422, "no_amount");
    let foreign = Service { network: Currency::Bitcoin, ..service.clone() };
    withdraw(foreign.invoice(1_000, &service.preimages[0], "x"))
        .await
        .problem(422, "other_network");
    let old = Service { now: service.now - Duration::from_secs(600), ..service.clone() };
    withdraw(old.invoice(1_000, &service.preimages[0], "x")).await.problem(422, "expired");
    {
        use sluice::lightning::Issuer as _;
        let own = app.node.mint(Msat::new(1_000), Duration::from_secs(600)).unwrap();
        withdraw(own.bolt11).await.problem(422, "own_payee");
    }
    assert_eq!(app.node.attempts(), 0);

    app.node.script([Outcome::Hang]);
    app.node.knows(service.preimages[0]);
    let pending = tokio::spawn(withdraw(of(1_000, 0)));
    until("it is on its way", || app.node.attempts() == 1).await;
    withdraw(of(1_000, 1)).await.problem(409, "payout_in_flight");
    assert!(app.node.settle(&service.preimages[0].hash(), true));
    let done = pending.await.unwrap();
    assert_eq!(done.status, 201, "{done:?}");
    let done = done.json();
    assert_eq!((&done["state"], &done["destination"]), (&json!("arrived"), &Value::Null));
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 2_873);
    withdraw(of(1_000, 0)).await.problem(422, "seen_before");
    assert_eq!(app.node.attempts(), 1, "nothing else was sent");
}
