//! Bounds: what one payment fetches, what a flood without payments costs, how many wait at once.

use std::num::NonZeroU32;
use std::time::Duration;

use serde_json::json;

use crate::app::{Challenge, Film, Reply, TestApp, text};
use crate::sessions::{Session, pay};
use crate::sse::Events;
use crate::transcoder::bytes;

/// Buys segment 1.
async fn bought(app: &TestApp, film: &Film) -> String {
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    challenge.credential(app.pay(&challenge.invoice).await)
}

async fn with(app: &TestApp, path: &str, credential: &str, more: &[(&str, &str)]) -> Reply {
    let mut call = app.call("GET", path).with("authorization", credential);
    for (name, value) in more {
        call = call.with(name, value);
    }
    call.send().await
}

#[tokio::test]
async fn one_payment_fetches_a_segment_a_few_times_and_then_costs_nothing_more() {
    let app = TestApp::new();
    let film = app.film().await;
    let credential = bought(&app, &film).await;
    let mut served = 0_u32;
    let refused = loop {
        let reply = with(&app, &film.segment(1), &credential, &[]).await;
        if reply.status != 200 {
            break reply;
        }
        served += 1;
        assert!(served < 1_000, "without bound");
    };
    assert!(served >= 3, "three of the largest rendition at least: {served}");
    refused.problem(429, "egress");
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=60).contains(&seconds), "{seconds}");
    assert_eq!(app.ledger().await["viewer_credit_msat"], 0);
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 1_940, "charged once");
}

#[tokio::test]
async fn a_session_fetches_again_and_its_allowance_refills() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    pay(&app, &session.open(&app).await[0]).await;
    let fetch_out = async || {
        let mut served = 0_u32;
        while app.get(&session.segment(1)).await.status == 200 {
            served += 1;
            assert!(served < 1_000, "without bound");
        }
        served
    };
    let first = fetch_out().await;
    assert!(first >= 3, "{first}");
    app.get(&session.segment(1)).await.problem(429, "egress");
    app.advance(Duration::from_secs(60));
    assert_eq!(fetch_out().await, first);
    assert_eq!(session.status(&app).await["spent_msat"], 2_000);
}

#[tokio::test]
async fn what_a_client_has_already_is_not_sent_again_and_not_charged() {
    let app = TestApp::new();
    let film = app.film().await;
    let credential = bought(&app, &film).await;
    let reply = app.call("HEAD", &film.segment(1)).with("authorization", &credential).send().await;
    let tag = reply.header("etag").expect("a tag").to_owned();
    for value in [&tag, &format!("W/{tag}"), &format!("\"x\", {tag}"), "*"] {
        let known = [("if-none-match", value)];
        let reply = with(&app, &film.segment(1), &credential, &known).await;
        assert_eq!((reply.status.as_u16(), reply.body.len()), (304, 0), "{value}");
        assert_eq!(reply.header("etag"), Some(tag.as_str()));
        Challenge::of(&app.call("GET", &film.segment(1)).with("if-none-match", value).send().await);
    }
    assert_eq!(app.ledger().await["viewer_credit_msat"], 2_000, "304 redeems nothing");
    let other = [("if-none-match", "\"other\"")];
    let reply = with(&app, &film.segment(1), &credential, &other).await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &bytes("480p", Some(1))[..]));
}

#[tokio::test]
async fn a_range_of_something_older_is_answered_whole() {
    let app = TestApp::new();
    let film = app.film().await;
    let credential = bought(&app, &film).await;
    let reply = app.call("HEAD", &film.segment(1)).with("authorization", &credential).send().await;
    let tag = reply.header("etag").expect("a tag").to_owned();
    for (condition, status) in [(tag.as_str(), 206), ("\"older\"", 200)] {
        let range = [("range", "bytes=0-3"), ("if-range", condition)];
        let reply = with(&app, &film.segment(1), &credential, &range).await;
        assert_eq!(reply.status.as_u16(), status, "{condition}");
    }
}

#[tokio::test]
async fn a_flood_that_pays_nothing_is_refused_while_a_session_that_paid_is_served() {
    let app = TestApp::with(|config| config.payment.unpaid_max = 12);
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    pay(&app, &session.open(&app).await[0]).await;
    let mut challenges = 0;
    let refused = loop {
        let reply = app.get(&film.segment(1)).await;
        if reply.status != 402 {
            break reply;
        }
        challenges += 1;
    };
    refused.problem(429, "too_many");
    assert!(refused.header("retry-after").is_some());
    assert!(challenges <= 12, "{challenges}");
    app.get(&Session::short(&app, &film).await.segment(1)).await.problem(429, "too_many");
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    assert!(!session.open(&app).await.is_empty(), "who paid before gets further invoices");
    // Once they can be paid no more, they are forgotten, and there is room again.
    app.advance(Duration::from_secs(600 + 4 * 3_600 + 1));
    let now = sluice::runtime::Clock::now_ms(&*app.clock);
    use sluice::store::Ledger as _;
    app.store.sweep(now / 1_000 - 4 * 3_600, 0, now).unwrap();
    Challenge::of(&app.get(&film.segment(1)).await);
}

#[tokio::test]
async fn the_count_of_unpaid_invoices_survives_a_restart() {
    let app = TestApp::with(|config| config.payment.unpaid_max = 3);
    let film = app.film().await;
    for _ in 0..2 {
        Challenge::of(&app.get(&film.segment(1)).await);
    }
    let credential = bought(&app, &film).await;
    let reopened = sluice::store::Store::new(app.engine.clone());
    use sluice::store::Ledger as _;
    assert_eq!(reopened.unpaid(), 2, "one of three was paid");
    assert_eq!(with(&app, &film.segment(1), &credential, &[]).await.status, 200);
}

#[tokio::test]
async fn a_client_that_does_not_pay_gets_no_more_invoices_and_one_that_pays_does() {
    let app = TestApp::with(|config| {
        config.payment.unpaid_per_client_max = NonZeroU32::new(3).unwrap();
        config.http.trusted_proxies = vec![[127, 0, 0, 1].into()];
    });
    let film = app.film().await;
    let from = |client: &str| app.call("GET", &film.segment(1)).with("x-forwarded-for", client);
    for _ in 0..3 {
        Challenge::of(&from("203.0.113.7").send().await);
    }
    from("203.0.113.7").send().await.problem(429, "too_many");
    for _ in 0..10 {
        let challenge = Challenge::of(&from("203.0.113.8").send().await);
        let credential = challenge.credential(app.pay(&challenge.invoice).await);
        let reply = from("203.0.113.8").with("authorization", &credential).send().await;
        assert_eq!(reply.status, 200);
    }
}

#[tokio::test]
async fn a_wallet_that_reports_failures_and_never_pays_is_in_debt_like_everybody() {
    let app = TestApp::with(|config| {
        config.payment.unpaid_per_client_max = NonZeroU32::new(5).unwrap();
    });
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    for _ in 0..10 {
        for invoice in session.open(&app).await {
            let failed = text(&invoice["payment_hash"]);
            session.patch(&app, json!({ "failed": failed })).await;
        }
    }
    use sluice::store::Ledger as _;
    assert!(app.store.unpaid() <= 5, "{}", app.store.unpaid());
}

#[tokio::test]
async fn a_session_that_is_over_tells_its_wallet_and_asks_for_nothing_more() {
    let app = TestApp::with(|config| config.payment.session_seconds = 60);
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    let mut events = session.events(&app).await;
    assert_eq!(events.named("invoice").await.name, "invoice");
    app.advance(Duration::from_secs(61));
    use sluice::store::Ledger as _;
    let before = app.store.unpaid();
    let body = app.get(&session.segment(1)).await.problem(402, "payment_required");
    assert!(body["invoice"].is_string(), "what is open may still be paid");
    events.rest().await;
    assert_eq!(app.store.unpaid(), before, "nothing is minted any more");
}

#[tokio::test]
async fn requests_that_wait_and_wallets_that_follow_are_bounded_for_each_client() {
    let app = TestApp::with(|config| {
        config.payment.held_per_client_max = 2;
        config.payment.streams_per_client_max = 2;
    });
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 2_000 })).await;
    let held: Vec<_> =
        (0..2).map(|_| tokio::spawn(app.call("GET", &session.segment(1)).send())).collect();
    let metric = |name: &str| {
        let text = app.shared.metrics.text();
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u32>().ok()).unwrap_or_default()
    };
    crate::app::until("both wait", || metric("sluice_held_requests ") == 2).await;
    let refused = app.get(&session.segment(1)).await;
    refused.problem(429, "too_many");
    assert!(refused.header("retry-after").is_some());
    for reply in held {
        reply.await.unwrap().problem(402, "payment_required");
    }
    let _one = Events::of(app.call("GET", &session.invoices)).await;
    let two = Events::of(app.call("GET", &session.invoices)).await;
    app.get(&session.invoices).await.problem(429, "too_many");
    drop(two);
    let _two = Events::of(app.call("GET", &session.invoices)).await;
}

#[tokio::test]
async fn a_title_that_is_removed_tells_a_session_what_credit_is_left() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    pay(&app, &session.open(&app).await[0]).await;
    let path = format!("/api/v1/videos/{}", film.video);
    let call = app.call("DELETE", &path).key(&film.creator.key);
    assert_eq!(call.send().await.status, 204);
    let body = app.get(&session.segment(1)).await.problem(410, "gone");
    assert_eq!(body["credit_msat"], 2_000);
    assert_eq!(app.ledger().await["viewer_credit_msat"], 2_000);
}

#[tokio::test]
async fn the_operator_sees_what_nobody_claimed() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    app.pay(&challenge.invoice).await;
    app.node.pay(&challenge.invoice).unwrap();
    app.settled().await;
    let reply = app.call("GET", "/api/v1/ledger/unclaimed").key(&app.operator).send().await;
    let body = reply.json();
    let rows = body["unclaimed"].as_array().unwrap();
    assert_eq!(rows.len(), 1, "{body}");
    assert_eq!(rows[0]["amount_msat"], 2_000, "a second payment of one invoice");
    assert_eq!(text(&rows[0]["payment_hash"]).len(), 64);
    assert_eq!(app.ledger().await["unclaimed_msat"], 2_000);
    app.get("/api/v1/ledger/unclaimed").await.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_session_that_is_only_patched_takes_no_place_and_mints_nothing() {
    let app = TestApp::with(|config| config.payment.sessions_per_client_max = 2);
    let film = app.film().await;
    for _ in 0..20 {
        let session = Session::of(&app, &film, json!({ "hold_ms": 0, "ahead": 10 })).await;
        session.patch(&app, json!({})).await;
    }
    use sluice::store::Ledger as _;
    assert_eq!((app.store.unpaid(), app.shared.sessions.open_sessions()), (0, 0));
}

#[tokio::test]
async fn one_payment_does_not_let_a_session_fill_the_server() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 0 })).await;
    app.get(&session.segment(1)).await;
    pay(&app, &session.open(&app).await[0]).await;
    for _ in 0..60 {
        for invoice in session.open(&app).await {
            session.patch(&app, json!({ "failed": text(&invoice["payment_hash"]) })).await;
        }
    }
    use sluice::store::Ledger as _;
    assert!(app.store.unpaid() <= 33, "{}", app.store.unpaid());
}

#[tokio::test]
async fn a_client_whose_sessions_pay_is_never_in_debt() {
    let app = TestApp::with(|config| {
        config.payment.unpaid_per_client_max = NonZeroU32::new(12).unwrap();
    });
    let film = app.film().await;
    for n in 0..12 {
        let session = Session::of(&app, &film, json!({ "hold_ms": 0 })).await;
        app.get(&session.segment(1)).await;
        let open = session.open(&app).await;
        assert!(!open.is_empty(), "session {n} is asked to pay");
        for invoice in open {
            pay(&app, &invoice).await;
        }
        assert_eq!(app.get(&session.segment(1)).await.status, 200);
    }
}
