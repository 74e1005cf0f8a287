//! Several players on one session: together, one behind the other, and far apart.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{TestApp, text, until};
use crate::sessions::{Session, pay};

async fn patient(app: &TestApp, film: &crate::app::Film, ahead: u8) -> Session {
    Session::of(app, film, json!({ "hold_ms": 25_000, "ahead": ahead })).await
}

/// Plays on and on, beside others.
async fn plays(app: Arc<TestApp>, paths: Vec<String>) {
    for path in paths {
        loop {
            let reply = app.get(&path).await;
            match reply.status.as_u16() {
                200 => break,
                402 => {}
                _ => panic!("{path}: {reply:?}"),
            }
        }
    }
}

/// Two players and a wallet that pays what it is told; what was asked, and how the session stands in the end.
async fn two(from: [std::ops::Range<u32>; 2], ahead: u8) -> (Vec<Value>, Value) {
    let app = Arc::new(TestApp::new());
    let film = app.film().await;
    let session = patient(&app, &film, ahead).await;
    let paths = |numbers: std::ops::Range<u32>| numbers.map(|n| session.segment(n)).collect();
    let players = from.map(|numbers| tokio::spawn(plays(Arc::clone(&app), paths(numbers))));
    let begun = std::time::Instant::now();
    let (mut paid, mut told) = (BTreeSet::new(), Vec::new());
    while !players.iter().all(tokio::task::JoinHandle::is_finished) {
        assert!(begun.elapsed() < Duration::from_secs(60), "one starves: {told:?}");
        for invoice in session.open(&app).await {
            if paid.insert(text(&invoice["payment_hash"])) {
                pay(&app, &invoice).await;
                told.push(invoice["segments"].clone());
            }
        }
        app.advance(Duration::from_millis(500));
    }
    for player in players {
        player.await.unwrap();
    }
    (told, session.status(&app).await)
}

#[tokio::test]
async fn two_players_at_one_place_pay_each_segment_once() {
    let (told, status) = two([1..6, 1..6], 3).await;
    assert_eq!((&status["spent_msat"], &status["served"]), (&json!(10_000), &json!(5)));
    let unique: BTreeSet<_> = told.iter().map(Value::to_string).collect();
    assert_eq!(unique.len(), told.len(), "none is asked for twice: {told:?}");
}

#[tokio::test]
async fn of_two_players_far_apart_neither_starves_and_nothing_is_charged_twice() {
    for ahead in [1, 3] {
        let (told, status) = two([1..4, 5..8], ahead).await;
        assert_eq!((&status["spent_msat"], &status["served"]), (&json!(11_000), &json!(6)));
        // What is over is a window's at each of the two places at most.
        let credit = status["credit_msat"].as_u64().unwrap();
        assert!(credit <= 2 * 2_000 * u64::from(ahead), "{credit} is over: {told:?}");
    }
}

#[tokio::test]
async fn a_second_player_behind_watches_what_was_served_and_moves_nothing() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    for number in 0..4 {
        for invoice in session.open(&app).await {
            pay(&app, &invoice).await;
        }
        app.advance(Duration::from_secs(4));
        assert_eq!(app.get(&session.segment(number)).await.status, 200, "{number}");
    }
    let before = session.status(&app).await;
    assert_eq!(before["position"], 4);
    let mut events = session.events(&app).await;
    events.rest().await;
    for number in 0..4 {
        assert_eq!(app.get(&session.segment(number)).await.status, 200, "{number}");
    }
    let told: Vec<_> = events.rest().await.into_iter().map(|event| event.name).collect();
    assert!(!told.contains(&"seek".to_owned()), "{told:?}");
    assert_eq!(session.status(&app).await, before);
}

#[tokio::test]
async fn what_is_paid_goes_to_who_waits_longest() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = patient(&app, &film, 3).await;
    let mut events = session.events(&app).await;
    let first = [events.named("invoice").await, events.named("invoice").await];
    let far = tokio::spawn(app.call("GET", &session.segment(6)).send());
    events.such("waiting", |data| data["segment"] == 6).await;
    let mut near = Vec::new();
    for number in 1..4 {
        near.push(tokio::spawn(app.call("GET", &session.segment(number)).send()));
        events.such("waiting", |data| data["segment"] == number).await;
    }
    pay(&app, &first[0].data).await;
    assert_eq!(far.await.unwrap().status, 200, "it came first");
    pay(&app, &first[1].data).await;
    assert_eq!(near.remove(0).await.unwrap().status, 200, "and then it");
    assert!(near.iter().all(|held| !held.is_finished()), "there is no credit for them");
    for held in near {
        held.abort();
    }
}

#[tokio::test]
async fn where_a_player_waits_the_playhead_stays_for_a_while_and_then_goes_to_the_other() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = patient(&app, &film, 1).await;
    let mut events = session.events(&app).await;
    let far = tokio::spawn(app.call("GET", &session.segment(6)).send());
    assert_eq!(events.named("seek").await.data["segment"], 6);
    app.advance(Duration::from_millis(500));
    events.such("invoice", |data| data["segments"] == json!([6])).await;
    let near = tokio::spawn(app.call("GET", &session.segment(3)).send());
    events.such("waiting", |data| data["segment"] == 3).await;
    assert_eq!(session.status(&app).await["position"], 6, "it is needed there");
    app.advance(Duration::from_millis(1_500));
    assert_eq!(events.named("seek").await.data["segment"], 3, "its turn");
    app.advance(Duration::from_millis(500));
    events.such("invoice", |data| data["segments"] == json!([3])).await;
    far.abort();
    near.abort();
}

#[tokio::test]
async fn however_many_requests_are_held_a_session_is_looked_at_four_times_a_second() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = patient(&app, &film, 3).await;
    let held: Vec<_> =
        (0..40).map(|_| tokio::spawn(app.call("GET", &session.segment(1)).send())).collect();
    let waits = || app.shared.metrics.text().contains("sluice_held_requests 40");
    until("all wait", waits).await;
    let before = app.engine.looks();
    for _ in 0..4 {
        app.advance(Duration::from_millis(250));
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    // One look reads the invoices and what was served.
    let looks = (app.engine.looks() - before) / 2;
    assert!((1..=5).contains(&looks), "{looks} looks in a second");
    for held in held {
        held.abort();
    }
}
