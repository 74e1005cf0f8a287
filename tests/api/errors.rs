//! One test for each code of a problem document, in the order of `src/http/error.rs`.

use std::num::NonZeroU32;

use axum::body::{Body, Bytes};
use serde_json::json;
use sluice::domain::amount::Msat;
use sluice::lightning::Node as _;

use crate::app::{Challenge, Reply, TestApp, text, until};
use crate::engine::SECRET;
use crate::sessions::Session;
use crate::transcoder::Script;

fn leaks_nothing(reply: &Reply) {
    assert!(!reply.text().contains(SECRET) && !reply.text().contains("panick"), "{reply:?}");
}

#[tokio::test]
async fn unauthorized_for_no_key_and_for_one_that_nobody_has() {
    let app = TestApp::new();
    let film = app.film().await;
    let source = format!("/api/v1/videos/{}/source", film.video);
    for (method, path) in [
        ("POST", "/api/v1/creators"),
        ("GET", "/api/v1/creators/me"),
        ("GET", "/api/v1/videos"),
        ("GET", "/api/v1/earnings"),
        ("GET", "/api/v1/payouts"),
        ("GET", "/api/v1/node"),
        ("GET", "/api/v1/ledger"),
        ("PUT", &source),
    ] {
        for key in [None, Some("sluice_operator_x"), Some("")] {
            let call = app.call(method, path).json(json!({ "name": "x" }));
            let call = if let Some(key) = key { call.key(key) } else { call };
            let reply = call.send().await;
            reply.problem(401, "unauthorized");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn forbidden_for_a_key_of_another_role() {
    let app = TestApp::new();
    let creator = app.creator().await;
    for path in ["/api/v1/node", "/api/v1/ledger"] {
        app.call("GET", path).key(&creator.key).send().await.problem(403, "forbidden");
    }
    let call = app.call("POST", "/api/v1/creators").key(&creator.key);
    call.json(json!({ "name": "Eve" })).send().await.problem(403, "forbidden");
    for path in ["/api/v1/creators/me", "/api/v1/earnings", "/api/v1/payouts"] {
        app.call("GET", path).key(&app.operator).send().await.problem(403, "forbidden");
    }
}

#[tokio::test]
async fn malformed_for_a_document_that_cannot_be_read() {
    let app = TestApp::new();
    let film = app.film().await;
    let send = |body: &'static str| {
        let call = app.call("POST", "/api/v1/videos").key(&film.creator.key);
        call.with("content-type", "application/json").body(body).send()
    };
    for body in ["", "{", "[]", "{}", r#"{"title":1}"#, r#"{"title":"x","unknown":1}"#] {
        send(body).await.problem(400, "malformed");
    }
    send(r#"{"title":"x","msat_per_second":-1}"#).await.problem(400, "malformed");
    let call = app.call("POST", "/api/v1/videos").key(&film.creator.key);
    let reply = call.body(r#"{"title":"x"}"#).send().await;
    assert!([400, 415].contains(&reply.status.as_u16()), "without its media type: {reply:?}");
    let path = "/api/v1/videos?cursor=nothing";
    app.call("GET", path).key(&film.creator.key).send().await.problem(400, "malformed");
}

#[tokio::test]
async fn a_document_beyond_64_kib_is_refused_unread() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let call = app.call("POST", "/api/v1/videos").key(&creator.key);
    let reply = call.json(json!({ "title": "x".repeat(70_000) })).send().await;
    assert!([400, 413].contains(&reply.status.as_u16()), "{reply:?}");
    assert_eq!(reply.header("content-type"), Some("application/problem+json"));
}

#[tokio::test]
async fn not_found_for_what_is_not_there() {
    let app = TestApp::new();
    for path in ["/", "/nowhere", "/watch/nothing", "/api/v1/videos/", "/assets/x.js", "/hls"] {
        app.get(path).await.problem(404, "not_found");
    }
    let nobody = "0".repeat(32);
    app.get(&format!("/api/v1/videos/{nobody}")).await.problem(404, "not_found");
    app.get(&format!("/hls/{nobody}/index.m3u8")).await.problem(404, "not_found");
}

#[tokio::test]
async fn no_pages_where_the_pages_are_not_in_the_build() {
    let app = TestApp::new();
    let film = app.film().await;
    let reply = app.get(&format!("/watch/{}", film.video)).await;
    if reply.status == 200 {
        assert!(reply.header("content-security-policy").unwrap().contains("default-src 'self'"));
        assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
    } else {
        reply.problem(503, "no_pages");
    }
}

#[tokio::test]
async fn method_not_allowed_for_a_known_address() {
    let app = TestApp::new();
    let film = app.film().await;
    app.call("DELETE", &film.segment(1)).send().await.problem(405, "method_not_allowed");
    app.call("PUT", "/api/v1/videos").send().await.problem(405, "method_not_allowed");
    app.call("POST", "/healthz").send().await.problem(405, "method_not_allowed");
}

#[tokio::test]
async fn storage_where_the_store_fails_and_it_leaks_nothing() {
    let app = TestApp::new();
    let film = app.film().await;
    app.engine.fail();
    let reply = app.get(&film.segment(1)).await;
    reply.problem(503, "storage");
    assert!(reply.header("retry-after").is_some());
    leaks_nothing(&reply);
}

#[tokio::test]
async fn internal_where_a_handler_panics_and_the_next_request_is_served() {
    let app = TestApp::new();
    let film = app.film().await;
    app.engine.panic();
    let reply = app.get(&film.segment(1)).await;
    app.engine.mend();
    reply.problem(500, "internal");
    leaks_nothing(&reply);
    assert_eq!(app.get(&film.segment(0)).await.status, 200);
}

#[tokio::test]
async fn invalid_price_under_one_granule_a_segment_names_the_smallest() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let price = |msat: u64| {
        let call = app.call("POST", "/api/v1/videos").key(&creator.key);
        call.json(json!({ "title": "x", "msat_per_second": msat })).send()
    };
    for msat in [1, 249] {
        let body = price(msat).await.problem(422, "invalid_price");
        assert_eq!(body["smallest_msat_per_second"], 250);
    }
    price(u64::MAX).await.problem(422, "invalid_price");
    for msat in [0, 250, 251] {
        assert_eq!(price(msat).await.status, 201, "{msat}");
    }
}

#[tokio::test]
async fn invalid_names_the_field() {
    let app = TestApp::new();
    let creator = app.creator().await;
    for title in ["", "   ", "a\u{7}b", &"x".repeat(201)] {
        let call = app.call("POST", "/api/v1/videos").key(&creator.key);
        let body = call.json(json!({ "title": title })).send().await.problem(422, "invalid");
        assert_eq!(body["field"], "title");
    }
    let call = app.call("PATCH", "/api/v1/creators/me").key(&creator.key);
    let body = call.json(json!({ "name": "" })).send().await.problem(422, "invalid");
    assert_eq!(body["field"], "name");
}

#[tokio::test]
async fn wrong_state_for_a_source_of_a_title_that_is_being_made() {
    let app = TestApp::new();
    app.transcoder.script([Script::Hangs]);
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    assert_eq!(app.upload(&creator, &video).await.status, 202);
    app.reaches(&creator, &video, "transcoding").await;
    app.upload(&creator, &video).await.problem(409, "wrong_state");
    assert_eq!(app.state(&creator, &video).await["state"], "transcoding");
}

#[tokio::test]
async fn too_large_for_a_source_beyond_the_limit_announced_or_not() {
    let app = TestApp::with(|config| config.library.source_bytes_max = 10);
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    let path = format!("/api/v1/videos/{video}/source");
    let put = || app.call("PUT", &path).key(&creator.key);
    let announced = put().with("content-length", "11").body("a source").send().await;
    announced.problem(413, "too_large");
    put().body("a source that goes on").send().await.problem(413, "too_large");
    assert_eq!(put().body("a source").send().await.status, 202, "a smaller one is taken");
    app.reaches(&creator, &video, "ready").await;
}

#[tokio::test]
async fn broken_upload_for_a_stream_that_ends_early_and_it_can_be_sent_again() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    let path = format!("/api/v1/videos/{video}/source");
    let put = || app.call("PUT", &path).key(&creator.key);
    put().with("content-length", "100").body("a sou").send().await.problem(400, "broken_upload");
    put().send().await.problem(400, "broken_upload");
    let broken = [Ok(Bytes::from("a sou")), Err(std::io::Error::other("reset by peer"))];
    let broken = Body::from_stream(futures::stream::iter(broken));
    put().body(broken).send().await.problem(400, "broken_upload");
    let head = app.call("HEAD", &path).key(&creator.key).send().await;
    assert_eq!(head.header("upload-offset"), Some("5"), "what arrived is kept");
    assert_eq!(app.upload(&creator, &video).await.status, 202);
    app.reaches(&creator, &video, "ready").await;
}

#[tokio::test]
async fn storage_where_the_disk_fails_says_when_to_come_again() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    std::fs::remove_dir_all(app.spool.path()).unwrap();
    let reply = app.upload(&creator, &video).await;
    std::fs::create_dir(app.spool.path()).unwrap();
    reply.problem(503, "storage");
    assert_eq!(reply.header("retry-after"), Some("5"));
    assert!(!reply.text().contains("/tmp"), "no path of the server: {reply:?}");
    assert_eq!(app.upload(&creator, &video).await.status, 202);
}

#[tokio::test]
async fn too_many_invoices_say_when_to_ask_again() {
    let app = TestApp::with(|config| {
        config.payment.challenges_per_client_per_minute = NonZeroU32::new(2).unwrap();
    });
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    Challenge::of(&app.get(&film.segment(1)).await);
    let reply = app.get(&film.segment(1)).await;
    reply.problem(429, "too_many");
    let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=30).contains(&seconds), "{seconds}");
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200, "what is paid is served");
    assert_eq!(app.get(&film.segment(0)).await.status, 200, "what is free, too");
}

#[tokio::test]
async fn a_client_behind_a_trusted_proxy_has_a_limit_of_its_own() {
    let app = TestApp::with(|config| {
        config.payment.challenges_per_client_per_minute = NonZeroU32::MIN;
        config.http.trusted_proxies = vec![[127, 0, 0, 1].into()];
    });
    let film = app.film().await;
    let from =
        |chain: &str| app.call("GET", &film.segment(1)).with("x-forwarded-for", chain).send();
    Challenge::of(&from("203.0.113.7").await);
    from("198.51.100.1, 203.0.113.7").await.problem(429, "too_many");
    Challenge::of(&from("203.0.113.8").await);
    Challenge::of(&from("2001:db8:1:2::1").await);
    from("2001:db8:1:2:ffff::9").await.problem(429, "too_many");
    Challenge::of(&from("2001:db8:1:3::1").await);
}

#[tokio::test]
async fn an_untrusted_client_cannot_choose_its_address() {
    let app = TestApp::with(|config| {
        config.payment.challenges_per_client_per_minute = NonZeroU32::MIN;
    });
    let film = app.film().await;
    Challenge::of(&app.get(&film.segment(1)).await);
    let call = app.call("GET", &film.segment(1)).with("x-forwarded-for", "203.0.113.9");
    call.send().await.problem(429, "too_many");
}

#[tokio::test]
async fn no_inbound_rather_than_an_invoice_that_cannot_be_paid() {
    let app = TestApp::new();
    let film = app.film().await;
    app.node.set_inbound(Msat::new(1_999));
    let reply = app.get(&film.segment(1)).await;
    reply.problem(503, "no_inbound");
    assert!(reply.header("retry-after").is_some());
    assert_eq!(reply.header("www-authenticate"), None);
    Challenge::of(&app.get(&film.segment(7)).await);
    app.node.set_inbound(Msat::ZERO);
    let ready = app.get("/readyz").await;
    assert_eq!((ready.status.as_u16(), &ready.json()["ready"]), (503, &json!(false)));
}

#[tokio::test]
async fn suspended_while_payments_cannot_be_booked_and_nothing_is_lost() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    app.engine.fail_writes();
    let preimage = app.node.pay(&challenge.invoice).unwrap();
    until("minting stops", || app.shared.operations.suspension.is_set()).await;
    let reply = app.get(&film.segment(1)).await;
    reply.problem(503, "suspended");
    assert!(reply.header("retry-after").is_some());
    assert_eq!(app.get("/readyz").await.status, 503);
    app.engine.mend();
    app.settled().await;
    let credential = challenge.credential(preimage);
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200);
    assert_eq!(app.ledger().await["channels_msat"], 2_000, "booked once");
    Challenge::of(&app.get(&film.segment(2)).await);
}

#[tokio::test]
async fn a_session_is_told_no_invoice_that_cannot_be_paid() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 25_000 })).await;
    app.node.set_inbound(Msat::new(1_999));
    let mut events = session.events(&app).await;
    let reply = app.get(&session.segment(1)).await;
    reply.problem(503, "no_inbound");
    assert!(reply.header("retry-after").is_some());
    assert!(events.rest().await.iter().all(|event| event.name != "invoice"));
    app.node.set_inbound(Msat::new(1_000_000));
    let held = tokio::spawn(app.call("GET", &session.segment(1)).send());
    let invoice = events.named("invoice").await;
    app.pay(&text(&invoice.data["invoice"])).await;
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_session_is_told_no_invoice_while_payments_cannot_be_booked() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 25_000 })).await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    app.engine.fail_writes();
    app.node.pay(&challenge.invoice).unwrap();
    until("minting stops", || app.shared.operations.suspension.is_set()).await;
    let mut events = session.events(&app).await;
    let reply = app.get(&session.segment(1)).await;
    reply.problem(503, "suspended");
    assert!(reply.header("retry-after").is_some());
    assert!(events.rest().await.iter().all(|event| event.name != "invoice"));
    app.engine.mend();
    app.settled().await;
    let held = tokio::spawn(app.call("GET", &session.segment(1)).send());
    let invoice = events.named("invoice").await;
    app.pay(&text(&invoice.data["invoice"])).await;
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test]
async fn no_invoice_while_the_node_is_down() {
    let app = TestApp::new();
    let film = app.film().await;
    app.node.stop().await;
    let reply = app.get(&film.segment(1)).await;
    reply.problem(503, "no_invoice");
    assert!(reply.header("retry-after").is_some());
}

#[tokio::test]
async fn no_session_for_a_key_that_opens_none() {
    let app = TestApp::new();
    app.get("/s/nothing/index.m3u8").await.problem(404, "no_session");
    app.get("/s/nothing/480p/1.m4s").await.problem(404, "no_session");
    for method in ["GET", "DELETE"] {
        let reply = app.call(method, "/api/v1/sessions/nothing").send().await;
        reply.problem(404, "no_session");
    }
    app.get("/api/v1/sessions/nothing/invoices").await.problem(404, "no_session");
}
