//! Sessions: playback for players that cannot pay, and the stream of invoices for the wallet beside them.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::app::{Film, Reply, TestApp, text};
use crate::sse::{Event, Events};
use crate::transcoder::bytes;

pub struct Session {
    pub body: Value,
    pub control: String,
    pub invoices: String,
}

impl Session {
    pub async fn of(app: &TestApp, film: &Film, wish: Value) -> Self {
        let mut document = json!({ "video": film.video });
        document.as_object_mut().unwrap().extend(wish.as_object().unwrap().clone());
        let reply = app.call("POST", "/api/v1/sessions").json(document).send().await;
        assert_eq!(reply.status, 201, "{reply:?}");
        assert_eq!(reply.header("cache-control"), Some("no-store"));
        let body = reply.json();
        let control = text(&body["control"]);
        Self { invoices: format!("{control}/invoices"), control, body }
    }

    /// With a hold that a test can wait for.
    pub async fn short(app: &TestApp, film: &Film) -> Self {
        Self::of(app, film, json!({ "hold_ms": 50 })).await
    }

    pub fn segment(&self, number: u32) -> String {
        let playlist = text(&self.body["playlist"]);
        playlist.replace("index.m3u8", &format!("480p/{number}.m4s"))
    }

    pub async fn events(&self, app: &TestApp) -> Events {
        Events::of(app.call("GET", &self.invoices)).await
    }

    pub async fn status(&self, app: &TestApp) -> Value {
        app.get(&self.control).await.json()
    }

    pub async fn patch(&self, app: &TestApp, change: Value) -> Reply {
        let reply = app.call("PATCH", &self.control).json(change).send().await;
        assert_eq!(reply.status, 200, "{reply:?}");
        reply
    }

    /// The open invoices, as a wallet that connects anew is told them.
    pub async fn open(&self, app: &TestApp) -> Vec<Value> {
        let told = self.events(app).await.rest().await;
        told.into_iter().filter(|event| event.name == "invoice").map(|event| event.data).collect()
    }
}

pub fn segments(invoices: &[Value]) -> Vec<Value> {
    invoices.iter().map(|invoice| invoice["segments"].clone()).collect()
}

pub async fn pay(app: &TestApp, invoice: &Value) {
    app.pay(&text(&invoice["invoice"])).await;
}

#[tokio::test]
async fn a_session_begins_with_two_keys_and_its_terms() {
    let app = TestApp::new();
    let film = app.film().await;
    let body = Session::short(&app, &film).await.body;
    assert_eq!(body["payee"], app.shared.payee.to_string());
    assert_eq!((&body["msat_per_second"], &body["granularity_msat"]), (&json!(500), &json!(1_000)));
    assert_eq!(body["first_paid_segment"], 1);
    let (playlist, control) = (text(&body["playlist"]), text(&body["control"]));
    let play = playlist.strip_prefix("/s/").unwrap().strip_suffix("/index.m3u8").unwrap();
    let control = control.strip_prefix("/api/v1/sessions/").unwrap();
    assert!(play.len() >= 43 && control.len() >= 43 && play != control);
    let master = app.get(&playlist).await;
    assert!(master.text().contains("\n480p/index.m3u8"), "{}", master.text());
    let media = app.get(&playlist.replace("index.m3u8", "480p/index.m3u8")).await;
    assert!(media.text().contains("\n7.m4s"), "{}", media.text());
    let init = app.get(&playlist.replace("index.m3u8", "480p/init.mp4")).await;
    assert_eq!(&init.body[..], bytes("480p", None));
}

#[tokio::test]
async fn the_free_preview_plays_at_once() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let reply = app.get(&session.segment(0)).await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &bytes("480p", Some(0))[..]));
    assert_eq!(session.status(&app).await["spent_msat"], 0);
}

#[tokio::test]
async fn an_unpaid_segment_is_held_then_answered_with_the_open_invoice_and_no_challenge() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 300 })).await;
    let begun = Instant::now();
    let reply = app.get(&session.segment(1)).await;
    assert!(begun.elapsed() >= Duration::from_millis(300), "held: {:?}", begun.elapsed());
    let body = reply.problem(402, "payment_required");
    assert_eq!(reply.header("www-authenticate"), None);
    assert_eq!(
        (&body["amount_msat"], &body["invoice_amount_msat"]),
        (&json!(2_000), &json!(2_000))
    );
    let open = session.open(&app).await;
    assert_eq!(
        (&body["invoice"], &body["payment_hash"]),
        (&open[0]["invoice"], &open[0]["payment_hash"])
    );
    let again = app.get(&session.segment(1)).await.json();
    assert_eq!(again["invoice"], body["invoice"], "one open invoice a segment");
}

#[tokio::test]
async fn the_stream_tells_the_invoices_ahead_with_amounts_by_the_formula() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let mut events = session.events(&app).await;
    assert_eq!(events.headers["cache-control"], "no-store");
    for (number, start) in [(1, 4_000), (2, 8_000)] {
        let data = events.named("invoice").await.data;
        assert_eq!((&data["segments"], &data["amount_msat"]), (&json!([number]), &json!(2_000)));
        assert_eq!((&data["start_ms"], &data["duration_ms"]), (&json!(start), &json!(4_000)));
        assert!(text(&data["invoice"]).starts_with("lnbcrt20n1"));
    }
    assert!(events.rest().await.is_empty(), "it stands still when nothing is fetched");
    app.get(&session.segment(7)).await;
    app.advance(Duration::from_secs(1));
    app.get(&session.segment(7)).await;
    let open = session.open(&app).await;
    let last = open.iter().find(|invoice| invoice["segments"] == json!([7]));
    assert_eq!(last.expect("the last")["amount_msat"], 1_000, "half as long");
}

#[tokio::test]
async fn a_payment_releases_a_held_request_and_the_stream_tells_each_step_once() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 25_000 })).await;
    assert_eq!(app.get(&session.segment(0)).await.status, 200);
    let mut events = session.events(&app).await;
    let first = events.named("invoice").await;
    events.named("invoice").await;
    let held = tokio::spawn(app.call("GET", &session.segment(1)).send());
    assert_eq!(events.named("waiting").await.data["segment"], 1);
    pay(&app, &first.data).await;
    let told = [events.next().await, events.next().await];
    let of = |name: &str| &told.iter().find(|event| event.name == name).expect(name).data;
    assert_eq!(of("paid")["payment_hash"], first.data["payment_hash"]);
    assert_eq!((&of("paid")["segments"], &of("paid")["amount_msat"]), (&json!([1]), &json!(2_000)));
    assert_eq!(of("served")["segment"], 1);
    let reply = held.await.unwrap();
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &bytes("480p", Some(1))[..]));
    let rest: Vec<_> = events.rest().await.into_iter().map(|event| event.name).collect();
    assert!(rest.iter().all(|name| name == "invoice"), "nothing twice: {rest:?}");
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 1_940);
}

#[tokio::test]
async fn a_payment_between_two_reads_of_the_stream_is_told() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let mut events = session.events(&app).await;
    let first = events.named("invoice").await;
    pay(&app, &first.data).await;
    let paid = events.named("paid").await;
    assert_eq!(paid.data["payment_hash"], first.data["payment_hash"], "with no player about");
}

#[tokio::test]
async fn what_was_served_may_be_watched_again_until_the_session_ends() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    pay(&app, &session.open(&app).await[0]).await;
    for hours in 0..20 {
        assert_eq!(app.get(&session.segment(1)).await.status, 200, "{hours}");
        app.advance(Duration::from_secs(3_600));
    }
    let other = session.segment(1).replace("480p", "240p");
    assert_eq!(app.get(&other).await.status, 200, "in every rendition");
    let status = session.status(&app).await;
    assert_eq!((&status["spent_msat"], &status["served"]), (&json!(2_000), &json!(1)));
    app.advance(Duration::from_secs(5 * 3_600));
    app.get(&session.segment(1)).await.problem(404, "no_session");
}

#[tokio::test]
async fn two_players_that_race_for_one_segment_are_charged_once() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 25_000 })).await;
    let held: Vec<_> =
        (0..6).map(|_| tokio::spawn(app.call("GET", &session.segment(1)).send())).collect();
    let mut events = session.events(&app).await;
    pay(&app, &events.named("invoice").await.data).await;
    for reply in held {
        assert_eq!(reply.await.unwrap().status, 200);
    }
    let status = session.status(&app).await;
    assert_eq!((&status["spent_msat"], &status["credit_msat"]), (&json!(2_000), &json!(0)));
}

#[tokio::test]
async fn the_window_follows_the_player_and_never_exceeds_its_width() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let mut bought = Vec::new();
    for number in 0..4 {
        for invoice in session.open(&app).await {
            bought.push(invoice["segments"].clone());
            pay(&app, &invoice).await;
        }
        app.advance(Duration::from_secs(4));
        assert_eq!(app.get(&session.segment(number)).await.status, 200, "{number}");
        let status = session.status(&app).await;
        let open = session.open(&app).await.len() as u64;
        let ahead = status["credit_msat"].as_u64().unwrap() / 2_000 + open;
        assert!(ahead <= 3, "{number}: {ahead} ahead");
    }
    bought.dedup();
    assert_eq!(bought, [1, 2, 3, 4, 5].map(|n| json!([n]))[..bought.len()].to_vec());
    assert!(bought.len() >= 4, "{bought:?}");
}

#[tokio::test]
async fn a_seek_is_invoiced_alone_once_it_stands() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let mut events = session.events(&app).await;
    events.named("invoice").await;
    let reply = app.get(&session.segment(5)).await;
    let body = reply.problem(402, "payment_required");
    assert_eq!(body["invoice"], Value::Null, "not yet: a viewer who drags the bar passes many");
    assert_eq!(events.named("seek").await.data["segment"], 5);
    assert!(session.open(&app).await.iter().all(|open| open["segments"] != json!([5])));
    app.advance(Duration::from_millis(500));
    let body = app.get(&session.segment(5)).await.problem(402, "payment_required");
    assert!(body["invoice"].is_string());
    let open = segments(&session.open(&app).await);
    assert!(open.contains(&json!([5])) && !open.contains(&json!([6])), "and no further: {open:?}");
}

#[tokio::test]
async fn a_request_that_is_held_does_not_pull_the_playhead_back() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 25_000 })).await;
    let mut events = session.events(&app).await;
    let near = tokio::spawn(app.call("GET", &session.segment(1)).send());
    assert_eq!(events.named("waiting").await.data["segment"], 1);
    let far = tokio::spawn(app.call("GET", &session.segment(6)).send());
    assert_eq!(events.named("seek").await.data["segment"], 6);
    app.advance(Duration::from_millis(500));
    let mut told = Vec::new();
    while !told.iter().any(|event: &Event| event.data["segments"] == json!([6])) {
        told.push(events.next().await);
    }
    assert!(told.iter().all(|event| event.name != "seek"), "one jump is told once: {told:?}");
    near.abort();
    assert!(near.await.is_err(), "it left unserved");
    pay(&app, &told.last().unwrap().data).await;
    assert_eq!(far.await.unwrap().status, 200);
}

#[tokio::test]
async fn a_bundle_is_one_invoice_for_several_segments_and_each_is_drawn_as_it_is_served() {
    let app = TestApp::new();
    let film = app.film().await;
    let wish = json!({ "bundle": 3, "ahead": 1, "hold_ms": 50 });
    let session = Session::of(&app, &film, wish).await;
    let open = session.open(&app).await;
    assert_eq!(segments(&open), [json!([1, 2, 3])]);
    assert_eq!((&open[0]["amount_msat"], &open[0]["duration_ms"]), (&json!(6_000), &json!(12_000)));
    pay(&app, &open[0]).await;
    assert_eq!(app.get(&session.segment(2)).await.status, 200, "a seek wastes nothing");
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    assert_eq!(session.status(&app).await["credit_msat"], 2_000);
}

#[tokio::test]
async fn a_bound_on_spending_ends_the_invoices() {
    let app = TestApp::new();
    let film = app.film().await;
    let wish = json!({ "max_msat": 3_999, "hold_ms": 50 });
    let session = Session::of(&app, &film, wish).await;
    let open = session.open(&app).await;
    assert_eq!(segments(&open), [json!([1])]);
    pay(&app, &open[0]).await;
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    app.advance(Duration::from_secs(60));
    let body = app.get(&session.segment(2)).await.problem(402, "payment_required");
    assert_eq!(body["invoice"], Value::Null);
}

#[tokio::test]
async fn the_price_is_fixed_when_the_session_begins() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let path = format!("/api/v1/videos/{}", film.video);
    let edit = json!({ "msat_per_second": 5_000, "preview_seconds": 0 });
    app.call("PATCH", &path).key(&film.creator.key).json(edit).send().await;
    assert_eq!(session.open(&app).await[0]["amount_msat"], 2_000);
    let later = Session::short(&app, &film).await;
    let first = &later.open(&app).await[0];
    assert_eq!((&first["segments"], &first["amount_msat"]), (&json!([0]), &json!(20_000)));
}

#[tokio::test]
async fn a_head_of_a_session_neither_mints_nor_draws() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    app.call("HEAD", &session.segment(1)).send().await;
    assert!(app.get("/metrics").await.text().contains("sluice_challenges_total 0"));
    pay(&app, &session.open(&app).await[0]).await;
    assert_eq!(app.call("HEAD", &session.segment(1)).send().await.status, 200);
    assert_eq!(session.status(&app).await["credit_msat"], 2_000);
}

#[tokio::test]
async fn a_failed_payment_is_replaced_and_what_is_no_open_invoice_is_not() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let open = session.open(&app).await;
    session.patch(&app, json!({ "failed": "00".repeat(32) })).await;
    assert_eq!(session.open(&app).await.len(), open.len(), "nobody knows that hash");
    session.patch(&app, json!({ "failed": open[0]["payment_hash"] })).await;
    let replaced = session.open(&app).await;
    let planned = |invoices: &[Value]| {
        let mut planned: Vec<String> = segments(invoices).iter().map(Value::to_string).collect();
        planned.sort();
        planned
    };
    assert_eq!(planned(&replaced), planned(&open));
    assert!(replaced.iter().all(|invoice| invoice["invoice"] != open[0]["invoice"]));
    // The payment that was reported as failed comes after all: it is credit.
    pay(&app, &open[0]).await;
    assert_eq!(session.status(&app).await["credit_msat"], 2_000);
}

#[tokio::test]
async fn a_wallet_that_reports_failures_without_end_gets_no_invoices_without_end() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let mut asked = std::collections::BTreeSet::new();
    for _ in 0..200 {
        let Some(invoice) = session.open(&app).await.pop() else { break };
        asked.insert(text(&invoice["payment_hash"]));
        session.patch(&app, json!({ "failed": invoice["payment_hash"] })).await;
    }
    assert!((100..=130).contains(&asked.len()), "{}", asked.len());
    let body = app.get(&session.segment(1)).await.problem(402, "payment_required");
    assert!(body["invoice"].is_string(), "those that are open can still be paid");
}

#[tokio::test]
async fn a_request_whose_invoice_is_open_is_held_also_while_none_can_be_minted() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::of(&app, &film, json!({ "hold_ms": 25_000 })).await;
    assert_eq!(app.get(&session.segment(0)).await.status, 200);
    let open = session.open(&app).await;
    app.node.set_inbound(sluice::domain::amount::Msat::new(2_000));
    let held = tokio::spawn(app.call("GET", &session.segment(1)).send());
    let mut events = session.events(&app).await;
    assert_eq!(events.named("waiting").await.data["segment"], 1);
    // The window has moved on and wants more than the node can take.
    app.advance(Duration::from_secs(60));
    app.node.set_inbound(sluice::domain::amount::Msat::ZERO);
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert!(!held.is_finished(), "it is held");
    app.node.set_inbound(sluice::domain::amount::Msat::new(1_000_000));
    pay(&app, &open[0]).await;
    assert_eq!(held.await.unwrap().status, 200);
}

#[tokio::test]
async fn who_follows_a_session_that_has_ended_is_told_the_end_and_nothing_to_pay() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    assert_eq!(session.open(&app).await.len(), 2);
    let reply = app.call("DELETE", &session.control).send().await;
    assert_eq!(reply.status, 204);
    let told: Vec<_> = session.events(&app).await.rest().await;
    let names: Vec<_> = told.iter().map(|event| event.name.as_str()).collect();
    assert_eq!(names, ["end"]);
}

#[tokio::test]
async fn only_so_many_follow_one_session() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let mut following = Vec::new();
    for _ in 0..5 {
        let mut events = session.events(&app).await;
        events.named("invoice").await;
        events.rest().await;
        following.push(events);
    }
    // Its connection may be long dead; if not, it connects again.
    assert!(following.remove(0).has_ended().await, "the oldest made room");
    pay(&app, &session.open(&app).await[0]).await;
    following.remove(0);
    for events in &mut following {
        events.named("paid").await;
    }
}

#[tokio::test]
async fn what_is_paid_plays_where_there_is_no_room_for_the_session() {
    let app = TestApp::with(|config| config.payment.sessions_max = 1);
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    pay(&app, &session.open(&app).await[0]).await;
    let app = app.restarted(0).await;
    let other = Session::short(&app, &film).await;
    other.open(&app).await;
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    // Nobody uses the other one now: it makes room.
    app.get(&session.segment(2)).await.problem(402, "payment_required");
}

#[tokio::test]
async fn a_stream_with_nothing_to_tell_says_within_sixteen_seconds_that_it_lives() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let mut events = session.events(&app).await;
    assert!(!events.rest().await.is_empty(), "the first invoices");
    let beat = events.raw(Duration::from_secs(16)).await.expect("a comment in time");
    assert_eq!(&beat[..], b":\n\n", "a comment is no event");
}
