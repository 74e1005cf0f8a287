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

pub fn metric(app: &TestApp, name: &str) -> u64 {
    let text = app.shared.metrics.text();
    let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
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
    let (_, synced) = app.engine.writes();
    let refused = loop {
        let reply = app.get(&film.segment(1)).await;
        if reply.status != 402 {
            break reply;
        }
        challenges += 1;
    };
    refused.problem(429, "too_many");
    assert!(refused.header("retry-after").is_some());
    assert!((1..=12).contains(&challenges), "{challenges}");
    for _ in 0..100 {
        app.get(&film.segment(1)).await.problem(429, "too_many");
    }
    assert_eq!(app.engine.writes().1, synced, "the disk is waited for by nobody who did not pay");
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
async fn a_flood_of_sessions_writes_nothing_and_of_those_that_are_played_nothing_synchronously() {
    let app = TestApp::with(|config| {
        config.payment.challenges_per_client_per_minute = NonZeroU32::new(300).unwrap();
    });
    let film = app.film().await;
    let begin = || {
        let wish = json!({ "video": film.video, "hold_ms": 0 });
        app.call("POST", "/api/v1/sessions").json(wish).send()
    };
    let (writes, synced) = app.engine.writes();
    let mut begun = Vec::new();
    for _ in 0..20 {
        begun.push(begin().await.json());
    }
    assert_eq!(app.engine.writes(), (writes, synced), "a session is a signed token");
    for session in begun {
        let playlist = text(&session["playlist"]);
        let segment = playlist.replace("index.m3u8", "480p/1.m4s");
        app.get(&segment).await.problem(402, "payment_required");
    }
    let played = app.engine.writes();
    assert!(played.0 >= writes + 20, "their invoices are kept");
    assert_eq!(played.1, synced, "and the disk is not waited for");
    let mut more = 0;
    let refused = loop {
        let reply = begin().await;
        if reply.status != 201 {
            break reply;
        }
        more += 1;
        assert!(more < 10_000, "without bound");
    };
    refused.problem(429, "too_many");
    assert!(more > 0);
    assert_eq!(app.engine.writes(), played, "neither those that begin nor those that are refused");
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
async fn viewers_are_told_apart_however_the_proxy_writes_their_addresses() {
    let app = TestApp::with(|config| {
        config.payment.unpaid_per_client_max = NonZeroU32::MIN;
        config.http.trusted_proxies = vec![[127, 0, 0, 1].into(), [10, 0, 0, 1].into()];
    });
    let film = app.film().await;
    let from = |client: &str| app.call("GET", &film.segment(1)).with("x-forwarded-for", client);
    for client in [
        "203.0.113.1",
        "203.0.113.2:5678",
        "[2001:db8:1::1]:443",
        "\"[2001:db8:2::1]\"",
        "203.0.113.1, 203.0.113.3:80",
        "203.0.113.4, 10.0.0.1",
    ] {
        Challenge::of(&from(client).send().await);
    }
    let two = from("203.0.113.1").with("x-forwarded-for", "203.0.113.5:1");
    Challenge::of(&two.send().await);
    for known in ["203.0.113.1:9", "[2001:db8:1::2]", "203.0.113.9, 203.0.113.3", "203.0.113.4"] {
        from(known).send().await.problem(429, "too_many");
    }
    Challenge::of(&from("unknown").send().await);
    from("203.0.113.6, _hidden").send().await.problem(429, "too_many");
}

#[tokio::test]
async fn a_flood_from_many_addresses_does_not_shut_out_a_client_that_pays() {
    let app = TestApp::with(|config| {
        config.payment.unpaid_max = 40;
        config.http.trusted_proxies = vec![[127, 0, 0, 1].into()];
    });
    let film = app.film().await;
    let from = |client: &str| app.call("GET", &film.segment(1)).with("x-forwarded-for", client);
    let buys = async || {
        let challenge = Challenge::of(&from("203.0.113.8").send().await);
        let credential = challenge.credential(app.pay(&challenge.invoice).await);
        let reply = from("203.0.113.8").with("authorization", &credential).send().await;
        assert_eq!(reply.status, 200);
    };
    buys().await;
    let flood = async || {
        for n in 0..200 {
            let reply = from(&format!("198.51.{}.1", n % 256)).send().await;
            if reply.status == 429 {
                return n;
            }
        }
        panic!("never refused");
    };
    assert_eq!(flood().await, 30, "a quarter is kept");
    for _ in 0..20 {
        buys().await;
        assert_eq!(flood().await, 0);
    }
    // What is kept is no way around paying: who paid once gets a few of it.
    let more = (0..20).map(|_| from("203.0.113.8").send());
    let got = futures::future::join_all(more).await;
    assert!(got.iter().filter(|reply| reply.status == 402).count() <= 10);
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
    crate::app::until("both wait", || metric(&app, "sluice_held_requests ") == 2).await;
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
async fn requests_that_wait_and_wallets_that_follow_are_bounded_in_all_and_who_paid_finds_room() {
    let app = TestApp::with(|config| {
        config.payment.held_max = 4;
        config.payment.streams_max = 4;
    });
    let film = app.film().await;
    let payer = Session::short(&app, &film).await;
    app.get(&payer.segment(1)).await;
    pay(&app, &payer.open(&app).await[0]).await;
    assert_eq!(app.get(&payer.segment(1)).await.status, 200);
    let session = Session::of(&app, &film, json!({ "hold_ms": 2_000 })).await;
    let held: Vec<_> =
        (0..3).map(|_| tokio::spawn(app.call("GET", &session.segment(1)).send())).collect();
    crate::app::until("three wait", || metric(&app, "sluice_held_requests ") == 3).await;
    let refused = app.get(&session.segment(1)).await;
    refused.problem(503, "busy");
    assert!(refused.header("retry-after").is_some());
    app.get(&payer.segment(2)).await.problem(402, "payment_required");
    for reply in held {
        reply.await.unwrap().problem(402, "payment_required");
    }
    let other = Session::short(&app, &film).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(session.events(&app).await);
    }
    let refused = app.get(&other.invoices).await;
    refused.problem(503, "busy");
    assert!(refused.header("retry-after").is_some());
    streams.push(payer.events(&app).await);
}

#[tokio::test]
async fn a_credential_that_waits_for_its_payment_is_a_held_request_and_stays_good_where_none_may_wait()
 {
    let app = TestApp::with(|config| config.payment.held_per_client_max = 1);
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let credential = challenge.credential(app.node.pay_silently(&challenge.invoice).unwrap());
    let show = || app.call("GET", &film.segment(1)).with("authorization", &credential).send();
    let first = tokio::spawn(show());
    crate::app::until("it waits", || metric(&app, "sluice_held_requests ") == 1).await;
    let refused = show().await;
    refused.problem(429, "too_many");
    assert!(refused.header("retry-after").is_some());
    assert_eq!(metric(&app, "sluice_challenges_total "), 1, "nothing is asked a second time");
    app.node.tell();
    assert_eq!(first.await.unwrap().status, 200);
    assert_eq!(show().await.status, 200);
    assert_eq!(metric(&app, "sluice_held_requests "), 0);
}

#[tokio::test]
async fn a_credential_that_was_served_and_forgotten_is_not_waited_for() {
    let app = TestApp::new();
    let film = app.film().await;
    let credential = bought(&app, &film).await;
    assert_eq!(with(&app, &film.segment(1), &credential, &[]).await.status, 200);
    app.advance(Duration::from_secs(8 * 86_400));
    let now = sluice::runtime::Clock::now_ms(&*app.clock);
    use sluice::store::Ledger as _;
    assert_eq!(app.store.sweep(0, now - 7 * 86_400_000, now).unwrap().forgotten, 1);
    let begun = std::time::Instant::now();
    Challenge::of(&with(&app, &film.segment(1), &credential, &[]).await);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(app.store.unpaid(), 1, "the record does not come back");
}

#[tokio::test]
async fn what_is_paid_finds_memory_where_free_media_took_theirs_and_else_waits_and_is_told_to_come_again()
 {
    let app = TestApp::with(|config| {
        config.http.body_bytes_max = 4 << 10;
        config.http.trusted_proxies = vec![std::net::Ipv4Addr::LOCALHOST.into()];
    });
    // Each has an eighth, or one segment: so each of these is another's.
    let from = |n: usize, path: &str| {
        app.call("GET", path).with("x-forwarded-for", &format!("203.0.113.{n}"))
    };
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(2)).await);
    let other = challenge.credential(app.pay(&challenge.invoice).await);
    let credential = bought(&app, &film).await;
    let mut open = Vec::new();
    for n in 0..3 {
        open.push(from(n, &film.segment(0)).open().await);
    }
    let init = film.segment(0).replace("0.m4s", "init.mp4");
    assert_eq!(from(6, &init).send().await.status, 200, "without it no paid segment plays");
    let begun = std::time::Instant::now();
    let free = tokio::spawn(from(3, &film.segment(0)).send());
    let call = from(4, &film.segment(1)).with("authorization", &credential);
    open.push(call.open().await);
    assert_eq!(open[3].status(), 200);
    let refused = from(5, &film.segment(2)).with("authorization", &other).send().await;
    refused.problem(503, "busy");
    assert!(refused.header("retry-after").is_some());
    free.await.unwrap().problem(503, "busy");
    assert!(begun.elapsed() >= Duration::from_secs(5), "it waits first");
    assert_eq!(app.ledger().await["viewer_credit_msat"], 2_000, "what is paid stays good");
    drop(open);
    assert_eq!(with(&app, &film.segment(2), &other, &[]).await.status, 200);
}

#[tokio::test]
async fn a_document_that_comes_too_slowly_is_told_so() {
    let app = TestApp::with(|config| config.http.document_seconds = 1);
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    for (method, path) in [("POST", "/api/v1/sessions"), ("PATCH", session.control.as_str())] {
        let first = futures::stream::iter([Ok::<_, std::io::Error>("{")]);
        let body = futures::StreamExt::chain(first, futures::stream::pending());
        let call = app.call(method, path).with("content-type", "application/json");
        call.body(axum::body::Body::from_stream(body)).send().await.problem(408, "too_slow");
    }
}

#[tokio::test]
async fn four_responses_of_one_payment_are_under_way_at_once_and_no_fifth() {
    let app = TestApp::new();
    let film = app.film().await;
    let credential = bought(&app, &film).await;
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    pay(&app, &session.open(&app).await[0]).await;
    for (path, headers) in [
        (film.segment(1), vec![("authorization", credential.as_str())]),
        (session.segment(1), Vec::new()),
    ] {
        let call = || {
            let call = app.call("GET", &path);
            headers.iter().fold(call, |call, (name, value)| call.with(name, value))
        };
        let mut open = Vec::new();
        for _ in 0..4 {
            open.push(call().open().await);
            assert_eq!(open.last().unwrap().status(), 200);
        }
        let refused = call().send().await;
        refused.problem(429, "egress");
        assert_eq!(refused.header("retry-after"), Some("1"));
        open.pop();
        assert_eq!(call().send().await.status, 200);
    }
    assert_eq!(app.ledger().await["viewer_credit_msat"], 0);
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

#[tokio::test]
async fn sessions_that_begin_with_a_free_segment_owe_their_invoices_like_others() {
    let app = TestApp::with(|config| {
        config.payment.unpaid_per_client_max = NonZeroU32::new(3).unwrap();
    });
    let film = app.film().await;
    for _ in 0..4 {
        let session = Session::short(&app, &film).await;
        assert_eq!(app.get(&session.segment(0)).await.status, 200);
    }
    use sluice::store::Ledger as _;
    assert!(app.store.unpaid() <= 3, "{}", app.store.unpaid());
}
