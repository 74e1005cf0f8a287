//! What holds for every answer: headers, origins, health.

use serde_json::json;

use crate::app::{TestApp, text};

#[tokio::test]
async fn every_answer_forbids_sniffing_and_tells_no_referrer() {
    let app = TestApp::new();
    let film = app.film().await;
    app.engine.mend();
    for path in [
        "/healthz",
        "/nowhere",
        "/metrics",
        "/api/v1/node",
        &film.segment(0),
        &film.segment(1),
        &format!("/hls/{}/index.m3u8", film.video),
        &format!("/watch/{}", film.video),
        "/hls/%ff/index.m3u8",
    ] {
        let reply = app.get(path).await;
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert_eq!(reply.header("referrer-policy"), Some("no-referrer"), "{path}");
    }
    app.engine.panic();
    let reply = app.get(&film.segment(1)).await;
    app.engine.mend();
    assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "after a panic");
}

#[tokio::test]
async fn pages_of_any_origin_may_play_and_pay() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = app.call("POST", "/api/v1/sessions").json(json!({ "video": film.video }));
    let session = session.send().await.json();
    for path in [film.segment(1), text(&session["playlist"]), text(&session["control"])] {
        let reply = app.call("GET", &path).with("origin", "https://player.example").send().await;
        assert_eq!(reply.header("access-control-allow-origin"), Some("*"), "{path}");
        let exposed = reply.header("access-control-expose-headers").unwrap().to_lowercase();
        for name in ["www-authenticate", "content-range", "retry-after"] {
            assert!(exposed.contains(name), "{path}: {exposed}");
        }
        let call = app.call("OPTIONS", &path).with("origin", "https://player.example");
        let call = call.with("access-control-request-method", "GET");
        let call = call.with("access-control-request-headers", "authorization,range");
        let reply = call.send().await;
        assert!(reply.status.is_success(), "{path}: {reply:?}");
        assert_eq!(reply.header("www-authenticate"), None);
        let methods = reply.header("access-control-allow-methods").unwrap();
        for method in ["GET", "HEAD", "POST", "PATCH", "DELETE"] {
            assert!(methods.contains(method), "{methods}");
        }
        let headers = reply.header("access-control-allow-headers").unwrap().to_lowercase();
        for name in ["authorization", "range", "content-type", "last-event-id"] {
            assert!(headers.contains(name), "{headers}");
        }
    }
}

#[tokio::test]
async fn options_never_mint() {
    let app = TestApp::new();
    let film = app.film().await;
    for _ in 0..3 {
        let call = app.call("OPTIONS", &film.segment(1)).with("origin", "https://player.example");
        call.with("access-control-request-method", "GET").send().await;
        app.call("OPTIONS", &film.segment(1)).send().await;
    }
    let metrics = app.get("/metrics").await;
    assert!(metrics.text().contains("sluice_challenges_total 0"), "{}", metrics.text());
}

#[tokio::test]
async fn nothing_else_is_shared_across_origins() {
    let app = TestApp::new();
    let film = app.film().await;
    let video = format!("/api/v1/videos/{}", film.video);
    for path in ["/api/v1/videos", "/api/v1/creators/me", &video, "/api/v1/node", "/metrics"] {
        for method in ["GET", "OPTIONS"] {
            let call = app.call(method, path).with("origin", "https://evil.example");
            let reply = call.with("access-control-request-method", "GET").send().await;
            assert_eq!(reply.header("access-control-allow-origin"), None, "{method} {path}");
        }
    }
}

#[tokio::test]
async fn health_readiness_and_metrics_answer_without_a_key() {
    let app = TestApp::new();
    assert_eq!(app.get("/healthz").await.text(), "ok\n");
    let ready = app.get("/readyz").await;
    assert_eq!(ready.json(), json!({ "ready": true, "missing": [] }));
    let metrics = app.get("/metrics").await;
    assert!(metrics.header("content-type").unwrap().starts_with("application/openmetrics-text"));
    assert!(metrics.text().ends_with("# EOF\n"));
}

#[tokio::test]
async fn the_operator_sees_the_node_and_the_books() {
    let app = TestApp::new();
    let node = app.call("GET", "/api/v1/node").key(&app.operator).send().await.json();
    assert_eq!(node["network"], "regtest");
    let ledger = app.call("GET", "/api/v1/ledger").key(&app.operator).send().await.json();
    assert_eq!(ledger["verified"], true);
}

#[tokio::test]
async fn the_operator_alone_gets_an_address_to_fund() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let ask = || app.call("POST", "/api/v1/node/address");
    ask().send().await.problem(401, "unauthorized");
    ask().key(&creator.key).send().await.problem(403, "forbidden");
    let reply = ask().key(&app.operator).send().await;
    assert_eq!((reply.status.as_u16(), &reply.json()["address"]), (201, &"bcrt1qfake".into()));
}
