//! Creators and titles: from a key to something to watch, and away again.

use std::time::Duration;

use serde_json::{Value, json};

use crate::app::{Challenge, TestApp, text, until};
use crate::sse::Events;
use crate::transcoder::{SEGMENTS, Script};

#[tokio::test]
async fn the_operator_makes_a_creator_whose_key_works_and_is_shown_once() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let me = app.call("GET", "/api/v1/creators/me").key(&creator.key).send().await;
    assert_eq!((me.status.as_u16(), me.json()["name"].as_str()), (200, Some("Ada")));
    assert_eq!(me.json()["id"], creator.id);
    assert!(!me.text().contains(&creator.key));
    let bearer = format!("bearer  {}", creator.key);
    let call = app.call("GET", "/api/v1/creators/me").with("authorization", &bearer);
    assert_eq!(call.send().await.status, 200, "the scheme in any case");
}

#[tokio::test]
async fn a_creator_changes_name_and_destination() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let node = format!("02{}", "11".repeat(32));
    let edit = json!({ "name": "Grace", "payout": { "kind": "keysend", "destination": node } });
    let call = app.call("PATCH", "/api/v1/creators/me").key(&creator.key);
    let reply = call.json(edit.clone()).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!((&reply.json()["name"], &reply.json()["payout"]), (&edit["name"], &edit["payout"]));
    for bad in [json!({ "kind": "keysend", "destination": "x" }), json!({ "kind": "cheque" })] {
        let call = app.call("PATCH", "/api/v1/creators/me").key(&creator.key);
        call.json(json!({ "payout": bad })).send().await.problem(400, "malformed");
    }
}

#[tokio::test]
async fn a_draft_becomes_ready_by_way_of_its_source_and_the_events_tell_it() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    assert_eq!(app.state(&creator, &video).await["state"], "draft");
    let path = format!("/api/v1/videos/{video}/events");
    let mut events = Events::of(app.call("GET", &path).key(&creator.key)).await;
    assert_eq!(events.headers["cache-control"], "no-store");
    assert_eq!(events.next().await.data["state"], "draft");
    assert_eq!(app.upload(&creator, &video).await.status, 202);
    let mut last = Value::Null;
    while last["state"] != "ready" {
        let event = events.next().await;
        assert_eq!(event.name, "progress");
        last = event.data;
    }
    let shown = app.get(&format!("/api/v1/videos/{video}")).await.json();
    assert_eq!((&shown["segments"], &shown["duration_ms"]), (&json!(SEGMENTS), &json!(30_000)));
    assert_eq!(shown["creator"], json!({ "id": creator.id, "name": "Ada" }));
    let source = app.spool.path().join(format!("{video}.source"));
    until("the spool is swept", || !source.exists()).await;
}

#[tokio::test]
async fn nobody_else_sees_a_draft() {
    let app = TestApp::new();
    let (creator, other) = (app.creator().await, app.creator().await);
    let video = app.draft(&creator).await;
    let path = format!("/api/v1/videos/{video}");
    app.get(&path).await.problem(404, "not_found");
    app.call("GET", &path).key(&other.key).send().await.problem(404, "not_found");
    assert_eq!(app.call("GET", &path).key(&app.operator).send().await.status, 200);
    app.get(&format!("/hls/{video}/index.m3u8")).await.problem(404, "not_found");
    // The page is the same for every address, and asks the API.
    let page = app.get(&format!("/watch/{video}")).await;
    let nobody = app.get(&format!("/watch/{}", "0".repeat(32))).await;
    assert_eq!((page.status, &page.body), (nobody.status, &nobody.body));
    let call = app.call("POST", "/api/v1/sessions").json(json!({ "video": video }));
    call.send().await.problem(404, "not_found");
}

#[tokio::test]
async fn another_creators_title_cannot_be_changed() {
    let app = TestApp::new();
    let film = app.film().await;
    let other = app.creator().await;
    let path = format!("/api/v1/videos/{}", film.video);
    let patch = app.call("PATCH", &path).key(&other.key).json(json!({ "title": "mine" }));
    patch.send().await.problem(404, "not_found");
    app.call("DELETE", &path).key(&other.key).send().await.problem(404, "not_found");
    app.upload(&other, &film.video).await.problem(404, "not_found");
    let events = app.call("GET", &format!("{path}/events")).key(&other.key);
    events.send().await.problem(404, "not_found");
    assert_eq!(app.get(&path).await.json()["title"], "Film");
}

#[tokio::test]
async fn a_list_shows_a_creators_own_titles_page_by_page() {
    let app = TestApp::new();
    let (creator, other) = (app.creator().await, app.creator().await);
    let mut made = Vec::new();
    for _ in 0..3 {
        app.advance(Duration::from_millis(1));
        made.push(app.draft(&creator).await);
        app.draft(&other).await;
    }
    let list = async |query: &str, key: &str| {
        let path = format!("/api/v1/videos{query}");
        let body = app.call("GET", &path).key(key).send().await.json();
        let ids: Vec<_> =
            body["videos"].as_array().unwrap().iter().map(|v| text(&v["id"])).collect();
        (ids, body["cursor"].clone())
    };
    let (first, cursor) = list("?limit=2", &creator.key).await;
    assert_eq!(first, made[..2]);
    let (second, end) = list(&format!("?cursor={}", text(&cursor)), &creator.key).await;
    assert_eq!((second, end), (made[2..].to_vec(), Value::Null));
    assert_eq!(list("", &app.operator).await.0.len(), 6);
}

#[tokio::test]
async fn hostile_names_are_kept_as_given_and_escaped_as_json() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let title = "</script><script>alert(1)</script> \"'&\\ ../../etc \u{202e}gpj";
    let description = "#EXTM3U\n#EXTINF:1,\nhttp://evil/";
    let new = json!({ "title": title, "description": description, "msat_per_second": 500 });
    let reply = app.call("POST", "/api/v1/videos").key(&creator.key).json(new).send().await;
    let body = reply.json();
    assert_eq!(
        (body["title"].as_str(), body["description"].as_str()),
        (Some(title), Some(description))
    );
    assert!(reply.text().contains(r#"\"'&\\"#), "{}", reply.text());
    let video = text(&body["id"]);
    app.upload(&creator, &video).await;
    app.reaches(&creator, &video, "ready").await;
    let path = format!("/hls/{video}/1/480p");
    for path in [format!("/hls/{video}/index.m3u8"), format!("{path}/index.m3u8")] {
        let playlist = app.get(&path).await;
        assert!(!playlist.text().contains("evil") && !playlist.text().contains("script"));
    }
    let page = app.get(&format!("/watch/{video}")).await;
    assert!(!page.text().contains("alert(1)"), "the page asks the API, it carries no title");
}

#[tokio::test]
async fn a_source_that_is_no_film_fails_with_a_reason_and_another_may_be_sent() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    app.transcoder.script([Script::NoFilm]);
    app.upload(&creator, &video).await;
    app.reaches(&creator, &video, "failed").await;
    let reason = text(&app.state(&creator, &video).await["reason"]);
    assert_eq!(reason, "This file holds no video.");
    assert_eq!(app.transcoder.orders(), 1, "tried once: trying again cannot help");
    app.get(&format!("/api/v1/videos/{video}")).await.problem(404, "not_found");
    assert_eq!(app.upload(&creator, &video).await.status, 202);
    app.reaches(&creator, &video, "ready").await;
}

#[tokio::test]
async fn a_worker_that_dies_is_started_again_up_to_a_limit() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    app.transcoder.script([Script::Dies, Script::Dies]);
    app.upload(&creator, &video).await;
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(app.transcoder.orders(), 3);
    let video = app.draft(&creator).await;
    app.transcoder.script([Script::Dies; 3]);
    app.upload(&creator, &video).await;
    app.reaches(&creator, &video, "failed").await;
    assert_eq!(app.transcoder.orders(), 6);
    let reason = text(&app.state(&creator, &video).await["reason"]);
    assert!(!reason.contains("signal"), "words for the creator: {reason}");
}

#[tokio::test]
async fn a_deleted_title_is_gone_at_once_with_every_byte() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let path = format!("/api/v1/videos/{}", film.video);
    let reply = app.call("DELETE", &path).key(&film.creator.key).send().await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (204, 0));
    for path in [&path, &film.segment(0), &film.segment(1)] {
        app.get(path).await.problem(404, "not_found");
    }
    app.call("DELETE", &path).key(&film.creator.key).send().await.problem(404, "not_found");
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    let body = call.send().await.problem(410, "gone");
    assert_eq!(body["credit_msat"], 2_000, "who paid and was not served is told");
    assert_eq!(app.ledger().await["viewer_credit_msat"], 2_000, "what came late is not lost");
}

#[tokio::test]
async fn a_title_deleted_while_it_is_made_ends_the_work_and_frees_the_queue() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    app.transcoder.script([Script::Hangs]);
    app.upload(&creator, &video).await;
    app.reaches(&creator, &video, "transcoding").await;
    until("the worker is started", || app.transcoder.orders() == 1).await;
    let path = format!("/api/v1/videos/{video}");
    assert_eq!(app.call("DELETE", &path).key(&creator.key).send().await.status, 204);
    let next = app.draft(&creator).await;
    app.upload(&creator, &next).await;
    app.reaches(&creator, &next, "ready").await;
}

#[tokio::test]
async fn a_job_that_a_stop_cut_short_runs_again_after_the_start() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    app.transcoder.script([Script::Hangs]);
    app.upload(&creator, &video).await;
    until("the worker is started", || app.transcoder.orders() == 1).await;
    let app = app.restarted(0).await;
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(app.transcoder.orders(), 2);
}
