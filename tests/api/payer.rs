//! The payer's side of a session: what it controls, and what becomes of its money when things go wrong.

use std::time::Duration;

use serde_json::{Value, json};
use sluice::paywall::session::Stage;
use sluice::paywall::token::SessionKind;
use sluice::store::Sessions as _;

use crate::app::{TestApp, text};
use crate::sessions::{Session, pay, segments};
use crate::sse::Events;

#[tokio::test]
async fn a_pause_stops_the_invoices_and_its_end_lets_them_out() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let reply = session.patch(&app, json!({ "paused": true })).await;
    assert_eq!(reply.json()["paused"], true);
    assert!(session.open(&app).await.is_empty());
    let body = app.get(&session.segment(1)).await.problem(402, "payment_required");
    assert_eq!(body["invoice"], Value::Null);
    let mut events = session.events(&app).await;
    session.patch(&app, json!({ "paused": false })).await;
    assert_eq!(events.named("invoice").await.data["segments"], json!([1]));
}

#[tokio::test]
async fn an_invoice_whose_payment_failed_is_replaced_and_paid_late_becomes_credit() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let first = session.open(&app).await.remove(0);
    session.patch(&app, json!({ "failed": first["payment_hash"] })).await;
    let open = session.open(&app).await;
    let second = open.iter().find(|open| open["segments"] == json!([1])).expect("another");
    assert_ne!(second["payment_hash"], first["payment_hash"]);
    assert!(open.iter().all(|open| open["payment_hash"] != first["payment_hash"]));
    pay(&app, second).await;
    pay(&app, &first).await;
    assert_eq!(session.status(&app).await["credit_msat"], 4_000, "it never vanishes");
    app.advance(Duration::from_secs(8));
    for number in 1..3 {
        assert_eq!(app.get(&session.segment(number)).await.status, 200, "{number}");
    }
}

#[tokio::test]
async fn an_invoice_is_replaced_only_after_it_expired() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let first = session.open(&app).await.remove(0);
    app.advance(Duration::from_secs(599));
    assert!(session.open(&app).await.iter().any(|open| open["invoice"] == first["invoice"]));
    app.advance(Duration::from_secs(2));
    let open = session.open(&app).await;
    assert!(open.iter().all(|open| open["invoice"] != first["invoice"]));
    assert_eq!(open.iter().filter(|open| open["segments"] == json!([1])).count(), 1);
    pay(&app, &first).await;
    assert_eq!(session.status(&app).await["credit_msat"], 2_000, "late, and still the viewer's");
}

#[tokio::test]
async fn a_new_play_key_voids_the_old_one() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    pay(&app, &session.open(&app).await[0]).await;
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    let reply = session.patch(&app, json!({ "rotate_play": true })).await;
    let fresh = text(&reply.json()["playlist"]);
    app.get(&text(&session.body["playlist"])).await.problem(404, "no_session");
    app.get(&session.segment(1)).await.problem(404, "no_session");
    let again = app.get(&fresh.replace("index.m3u8", "480p/1.m4s")).await;
    assert_eq!(again.status, 200, "the same session");
    assert_eq!(session.status(&app).await["spent_msat"], 2_000);
    let reply = session.patch(&app, json!({ "rotate_play": true })).await;
    app.get(&fresh).await.problem(404, "no_session");
    assert_eq!(app.get(&text(&reply.json()["playlist"])).await.status, 200);
}

#[tokio::test]
async fn a_request_that_is_held_when_its_key_is_rotated_ends_and_draws_nothing() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 25_000 })).await;
    let mut events = session.events(&app).await;
    let first = events.named("invoice").await;
    let held = tokio::spawn(app.call("GET", &session.segment(1)).send());
    events.named("waiting").await;
    let reply = session.patch(&app, json!({ "rotate_play": true })).await;
    // Paid at once: whichever of the two it wakes for.
    pay(&app, &first.data).await;
    held.await.unwrap().problem(404, "no_session");
    let status = session.status(&app).await;
    assert_eq!((&status["credit_msat"], &status["spent_msat"]), (&json!(2_000), &json!(0)));
    let fresh = text(&reply.json()["playlist"]);
    assert_eq!(app.get(&fresh.replace("index.m3u8", "480p/1.m4s")).await.status, 200);
}

#[tokio::test]
async fn a_restart_keeps_a_pause_and_what_failed() {
    let app = TestApp::new();
    let film = app.film().await;
    let (paused, failing) = (Session::short(&app, &film).await, Session::short(&app, &film).await);
    paused.patch(&app, json!({ "paused": true })).await;
    let failed = failing.open(&app).await.remove(0);
    failing.patch(&app, json!({ "failed": failed["payment_hash"] })).await;
    let before = failing.open(&app).await;
    let app = app.restarted(0).await;
    assert_eq!(paused.status(&app).await["paused"], true);
    assert!(paused.open(&app).await.is_empty());
    let after = failing.open(&app).await;
    assert!(after.iter().all(|open| open["payment_hash"] != failed["payment_hash"]), "{after:?}");
    assert_eq!(after.len(), before.len(), "and its place is taken once");
    paused.patch(&app, json!({ "paused": false })).await;
    assert_eq!(segments(&paused.open(&app).await), [json!([1]), json!([2])]);
}

#[tokio::test]
async fn neither_key_does_the_others_work() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let (playlist, control) = (text(&session.body["playlist"]), session.control.clone());
    let play_key = playlist.split('/').nth(2).unwrap();
    let control_key = control.rsplit('/').next().unwrap();
    app.get(&format!("/s/{control_key}/index.m3u8")).await.problem(404, "no_session");
    app.get(&format!("/s/{control_key}/480p/0.m4s")).await.problem(404, "no_session");
    let path = format!("/api/v1/sessions/{play_key}");
    app.get(&path).await.problem(404, "no_session");
    app.get(&format!("{path}/invoices")).await.problem(404, "no_session");
    app.call("DELETE", &path).send().await.problem(404, "no_session");
    let patch = app.call("PATCH", &path).json(json!({ "paused": true }));
    patch.send().await.problem(404, "no_session");
    let id = format!("/api/v1/sessions/{}", text(&session.body["id"]));
    app.get(&id).await.problem(404, "no_session");
}

#[tokio::test]
async fn an_ended_session_asks_for_nothing_more_and_plays_what_is_paid() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let open = session.open(&app).await;
    pay(&app, &open[0]).await;
    let mut events = session.events(&app).await;
    let reply = app.call("DELETE", &session.control).send().await;
    assert_eq!(reply.status, 204);
    events.named("end").await;
    assert_eq!(app.get(&session.segment(0)).await.status, 200);
    assert_eq!(app.get(&session.segment(1)).await.status, 200, "paid");
    app.advance(Duration::from_secs(60));
    app.get(&session.segment(3)).await.problem(402, "payment_required");
    let later = events.rest().await;
    assert!(later.iter().all(|event| event.name != "invoice"), "{later:?}");
    assert_eq!(session.status(&app).await["ended"], true);
}

#[tokio::test]
async fn a_second_payment_of_an_invoice_is_credit_of_its_session() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let open = session.open(&app).await;
    let preimage = app.pay(&text(&open[0]["invoice"])).await;
    app.node.repeat(&preimage.hash()).unwrap();
    app.settled().await;
    assert_eq!(session.status(&app).await["credit_msat"], 4_000);
    app.advance(Duration::from_secs(8));
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    assert_eq!(app.get(&session.segment(2)).await.status, 200, "drawn first");
    assert_eq!(app.ledger().await["unclaimed_msat"], 0);
}

#[tokio::test]
async fn an_excess_is_credit_of_its_session_and_a_part_payment_too() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let open = session.open(&app).await;
    let amount = sluice::domain::amount::Msat::new;
    app.node.pay_amount(&text(&open[0]["invoice"]), amount(3_000)).unwrap();
    app.settled().await;
    assert_eq!(session.status(&app).await["credit_msat"], 3_000);
    app.node.pay_amount(&text(&open[1]["invoice"]), amount(1_000)).unwrap();
    app.settled().await;
    assert_eq!(session.status(&app).await["credit_msat"], 4_000);
}

#[tokio::test]
async fn a_wallet_that_comes_back_hears_what_it_missed_and_a_stranger_a_snapshot() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let mut events = session.events(&app).await;
    let (first, second) = (events.named("invoice").await, events.named("invoice").await);
    drop(events);
    let last = second.id.expect("a place to resume from");
    pay(&app, &first.data).await;
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    let resume = async |id: &str| {
        let call = app.call("GET", &session.invoices).with("last-event-id", id);
        Events::of(call).await.rest().await
    };
    let missed = resume(&last).await;
    let names: Vec<_> = missed.iter().map(|event| event.name.as_str()).collect();
    assert!(names.contains(&"paid") && names.contains(&"served"), "{names:?}");
    let last = missed.last().unwrap().id.clone().unwrap();
    assert!(resume(&last).await.is_empty(), "nothing was missed");
    for unknown in ["9-1", "1-999", "x", "", "-", "1-18446744073709551615"] {
        let told = resume(unknown).await;
        assert!(!told.is_empty() && told.iter().all(|event| event.name == "invoice"), "{unknown}");
        let data: Vec<_> = told.into_iter().map(|event| event.data).collect();
        assert!(!segments(&data).contains(&json!([1])), "what is paid is not open");
    }
}

#[tokio::test]
async fn a_restart_keeps_credit_and_what_was_served_and_tells_open_invoices_again() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    assert_eq!(app.get(&session.segment(0)).await.status, 200);
    let open = session.open(&app).await;
    for invoice in &open {
        pay(&app, invoice).await;
    }
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    app.advance(Duration::from_secs(8));
    let before = session.open(&app).await;
    assert!(!before.is_empty(), "the window moved on");
    let app = app.restarted(10).await;
    app.settled().await;
    let status = session.status(&app).await;
    assert_eq!((&status["spent_msat"], &status["served"]), (&json!(2_000), &json!(1)));
    let credit = status["credit_msat"].as_u64().unwrap();
    assert_eq!(credit, open.len() as u64 * 2_000 - 2_000, "what LDK tells again adds nothing");
    let mut events =
        Events::of(app.call("GET", &session.invoices).with("last-event-id", "1-3")).await;
    let told = events.rest().await;
    let ids: Vec<_> = told.iter().filter_map(|event| event.id.as_deref()).collect();
    assert!(!ids.is_empty() && ids.iter().all(|id| id.starts_with("2-")), "{ids:?}");
    let told: Vec<_> = told.into_iter().map(|event| event.data).collect();
    assert!(before.iter().all(|invoice| told.contains(invoice)), "{told:?} lacks of {before:?}");
    assert_eq!(app.get(&session.segment(1)).await.status, 200, "served before");
    assert_eq!(app.get(&session.segment(2)).await.status, 200, "drawn from the credit");
    assert_eq!(session.status(&app).await["spent_msat"], 4_000);
    pay(&app, &before[0]).await;
    app.advance(Duration::from_secs(20));
    let number = before[0]["segments"][0].as_u64().unwrap();
    let number = u32::try_from(number).unwrap();
    assert_eq!(app.get(&session.segment(number)).await.status, 200, "paid in the new process");
}

#[tokio::test]
async fn a_session_that_minted_nothing_outlives_a_restart_too() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let app = app.restarted(0).await;
    assert_eq!(app.get(&session.segment(0)).await.status, 200);
    assert_eq!(segments(&session.open(&app).await).len(), 2);
}

#[tokio::test]
async fn a_snapshot_that_was_cut_short_is_told_again() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let mut events = session.events(&app).await;
    let first = events.named("invoice").await;
    drop(events);
    let call = app.call("GET", &session.invoices);
    let call = match &first.id {
        Some(id) => call.with("last-event-id", id),
        None => call,
    };
    let told: Vec<_> = Events::of(call).await.rest().await;
    let told: Vec<_> = told.into_iter().map(|event| event.data).collect();
    assert!(segments(&told).contains(&json!([2])), "{told:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_segment_has_one_open_invoice_however_many_follow_at_once() {
    let app = TestApp::new();
    let film = app.film().await;
    let gate = &app.shared.sessions;
    let published = app.shared.library.published(film.video.parse().unwrap(), None).unwrap();
    for _ in 0..100 {
        let session = Session::short(&app, &film).await;
        let key = session.control.rsplit('/').next().unwrap();
        let token = gate.session(SessionKind::Control, key).unwrap();
        let barrier = std::sync::Barrier::new(4);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let stage = Stage { media: &published.media, split: published.split };
                    let client = std::net::IpAddr::from([127, 0, 0, 1]).into();
                    barrier.wait();
                    gate.follow(&token, stage, None, client).unwrap();
                });
            }
        });
        let stored = app.store.session(token.id).unwrap().unwrap();
        assert_eq!(stored.invoices.len(), 2, "a segment is in two open invoices");
    }
}
