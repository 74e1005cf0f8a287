//! How a source becomes a film: in pieces, side by side, once each, whatever ends the process in between; and how one takes another's place.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use serde_json::{Value, json};
use sluice::media::Piece;
use sluice::store::{Catalog as _, Jobs as _};

use crate::app::{Challenge, Creator, TestApp, text, until};
use crate::sse::Events;
use crate::transcoder::{RENDITIONS, SEGMENTS, Script, bytes};

/// All that is kept of a film of these renditions.
fn whole(renditions: &[&str]) -> BTreeSet<String> {
    let of = |name: &&str| {
        let name = (*name).to_owned();
        let segments = (0..SEGMENTS).map(|n| n.to_string()).chain(["init".to_owned()]);
        segments.map(move |part| format!("{name}/{part}")).collect::<Vec<_>>()
    };
    renditions.iter().flat_map(of).collect()
}

async fn kept(app: &TestApp, video: &str, version: u32) -> BTreeSet<String> {
    app.kept(video, version).await.into_iter().collect()
}

fn in_chunks(chunk_seconds: u64, workers: usize) -> TestApp {
    TestApp::with(|config| {
        config.library.chunk_seconds = chunk_seconds;
        config.library.workers = workers;
    })
}

async fn sent(app: &TestApp, creator: &Creator) -> String {
    let video = app.draft(creator).await;
    assert_eq!(app.upload(creator, &video).await.status, 202);
    video
}

#[tokio::test]
async fn a_film_is_made_in_pieces_each_segment_once_and_nothing_else_is_left() {
    for (chunk, workers) in [(8, 1), (12, 3), (300, 2)] {
        let app = in_chunks(chunk, workers);
        app.transcoder.with_sound();
        let creator = app.creator().await;
        let video = sent(&app, &creator).await;
        app.reaches(&creator, &video, "ready").await;
        let all = whole(&["480p", "240p", "audio"]);
        assert_eq!(kept(&app, &video, 1).await, all, "{chunk} {workers}");
        let made = app.transcoder.made();
        let once: BTreeSet<_> = made.iter().collect();
        assert_eq!((made.len(), once.len()), (24, 24));
        let pieces = u64::from(SEGMENTS).div_ceil(chunk / 4) + 1;
        assert_eq!(app.transcoder.pieces().len() as u64, pieces);
        until("the spool is empty", || app.spooled().is_empty()).await;
    }
}

#[tokio::test]
async fn progress_tells_of_each_rendition() {
    let app = in_chunks(300, 1);
    app.transcoder.script_pieces([Script::Hangs]);
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    let path = format!("/api/v1/videos/{video}/events");
    let mut events = Events::of(app.call("GET", &path).key(&creator.key)).await;
    app.upload(&creator, &video).await;
    let told = loop {
        let event = events.next().await.data;
        if event["permille"] == 125 {
            break event;
        }
    };
    let renditions: Vec<Value> =
        ["480p", "240p"].iter().map(|name| json!({ "name": name, "permille": 125 })).collect();
    assert_eq!(told, json!({ "state": "transcoding", "permille": 125, "renditions": renditions }));
}

#[tokio::test]
async fn what_a_start_before_made_is_not_made_again() {
    let app = in_chunks(16, 2);
    app.transcoder.with_sound();
    // Both begin, make a segment, and are at it when the process ends.
    app.transcoder.script_pieces([Script::Hangs, Script::Hangs]);
    let creator = app.creator().await;
    let video = sent(&app, &creator).await;
    until("three parts are made", || app.transcoder.made().len() == 3).await;
    let app = app.restarted(0).await;
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(kept(&app, &video, 1).await, whole(&["480p", "240p", "audio"]));
    let pictures: Vec<_> =
        app.transcoder.made().into_iter().filter(|(name, _)| name != "audio").collect();
    assert_eq!(pictures.len(), 16, "each once: {pictures:?}");
    let narrowed = |piece: &Piece| matches!(piece, Piece::Pictures { from: 1, to: 4, .. });
    assert!(app.transcoder.pieces().iter().any(narrowed), "{:?}", app.transcoder.pieces());
    assert_eq!(app.transcoder.orders(), 1, "looked at once");
}

#[tokio::test]
async fn a_part_that_a_power_cut_tore_is_made_again() {
    let app = in_chunks(300, 1);
    app.transcoder.with_sound();
    // The sound waits, so that pictures lie about as their worker made them.
    app.transcoder.script_pieces([Script::Dies, Script::Hangs]);
    let creator = app.creator().await;
    let video = sent(&app, &creator).await;
    until("two workers made something", || app.transcoder.made().len() >= 2).await;
    let part =
        |app: &TestApp| app.spooled().into_iter().find(|path| path.ends_with("parts/audio-0.m4s"));
    until("a part lies about", || part(&app).is_some()).await;
    std::fs::write(part(&app).unwrap(), "torn").unwrap();
    let app = app.restarted(0).await;
    app.reaches(&creator, &video, "ready").await;
    let path = format!("/hls/{video}/1/audio/0.m4s");
    assert_eq!(&app.get(&path).await.body[..], &bytes("audio", Some(0))[..]);
    assert_eq!(kept(&app, &video, 1).await, whole(&["480p", "240p", "audio"]));
}

#[tokio::test]
async fn parts_that_somebody_removed_are_made_again_before_a_title_is_published() {
    let app = in_chunks(16, 1);
    app.transcoder.script_pieces([Script::Goes, Script::Hangs]);
    let creator = app.creator().await;
    let video = sent(&app, &creator).await;
    until("the second piece is under way", || app.transcoder.made().len() == 10).await;
    app.lose(&video, 1, "480p", 2).await;
    let app = app.restarted(0).await;
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(kept(&app, &video, 1).await, whole(&RENDITIONS));
}

#[tokio::test]
async fn what_lies_where_a_film_is_made_is_never_taken_for_a_part_of_it() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    app.plant(&video, 1, "480p", 2).await;
    app.upload(&creator, &video).await;
    app.reaches(&creator, &video, "ready").await;
    let served = app.get(&format!("/hls/{video}/1/480p/0.m4s")).await;
    assert_eq!(&served.body[..], &bytes("480p", Some(0))[..]);
    assert_eq!(app.transcoder.made().len(), 16, "none was there");
}

#[tokio::test]
async fn a_title_whose_deletion_was_cut_short_goes_with_its_bytes_at_the_next_start() {
    let app = TestApp::new();
    let film = app.film().await;
    let video = film.video.parse().unwrap();
    // The process dies behind the first write of a deletion.
    app.store.delete_video(video).unwrap();
    let app = app.restarted(0).await;
    while !app.kept(&film.video, 1).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    until("it is forgotten", || app.store.deleted().unwrap().is_empty()).await;
}

#[tokio::test]
async fn a_film_waits_for_room_on_the_disk_and_nothing_of_it_is_lost() {
    let app = TestApp::new();
    let creator = app.creator().await;
    app.transcoder.script([Script::Hangs]);
    let video = sent(&app, &creator).await;
    until("it is looked at", || app.transcoder.orders() == 1).await;
    app.disk.0.store(1, SeqCst);
    let app = app.restarted(0).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(
        (app.transcoder.orders(), app.state(&creator, &video).await["state"].as_str()),
        (1, Some("transcoding"))
    );
    app.disk.0.store(u64::MAX, SeqCst);
    app.reaches(&creator, &video, "ready").await;
}

#[tokio::test]
async fn a_piece_whose_worker_dies_goes_on_behind_what_is_there() {
    let app = in_chunks(300, 1);
    app.transcoder.script_pieces([Script::Dies, Script::Dies]);
    let creator = app.creator().await;
    let video = sent(&app, &creator).await;
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(app.transcoder.made().len(), 16, "each once");
    let from: Vec<u32> = app
        .transcoder
        .pieces()
        .iter()
        .filter_map(|piece| match piece {
            Piece::Pictures { from, .. } => Some(*from),
            _ => None,
        })
        .collect();
    assert_eq!(from, [0, 1, 2]);
}

#[tokio::test]
async fn a_title_can_be_watched_in_its_first_rendition_where_the_operator_wants_that() {
    let app = TestApp::with(|config| {
        config.library.early = true;
        config.library.workers = 1;
    });
    app.transcoder.script_pieces(vec![Script::Goes, Script::Hangs]);
    let creator = app.creator().await;
    let video = sent(&app, &creator).await;
    app.reaches(&creator, &video, "ready").await;
    let playlist = app.get(&format!("/hls/{video}/index.m3u8")).await;
    assert!(playlist.text().contains("480p") && !playlist.text().contains("240p"));
    until("the rest is under way", || app.transcoder.pieces().len() == 2).await;
    app.upload(&creator, &video).await.problem(409, "wrong_state");
    let app = app.restarted(0).await;
    loop {
        let playlist = app.get(&format!("/hls/{video}/index.m3u8")).await;
        if playlist.text().contains("240p") {
            assert!(playlist.text().contains("480p"));
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(kept(&app, &video, 1).await, whole(&RENDITIONS));
}

#[tokio::test]
async fn what_is_made_can_be_cancelled_and_leaves_nothing() {
    let app = TestApp::new();
    app.transcoder.script_pieces([Script::Hangs]);
    let creator = app.creator().await;
    let video = sent(&app, &creator).await;
    until("a part is made", || app.transcoder.made().len() == 2).await;
    let path = format!("/api/v1/videos/{video}/cancel");
    let other = app.creator().await;
    app.call("POST", &path).key(&other.key).send().await.problem(404, "not_found");
    assert_eq!(app.call("POST", &path).key(&creator.key).send().await.status, 204);
    let state = app.state(&creator, &video).await;
    assert_eq!(
        (&state["state"], text(&state["reason"])),
        (&json!("failed"), "It was cancelled.".into())
    );
    until("the spool is empty", || app.spooled().is_empty()).await;
    while !app.kept(&video, 1).await.is_empty() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    app.call("POST", &path).key(&creator.key).send().await.problem(404, "not_found");
    assert_eq!(app.upload(&creator, &video).await.status, 202);
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(kept(&app, &video, 2).await, whole(&RENDITIONS));
}

#[tokio::test]
async fn a_title_deleted_while_workers_write_leaves_no_byte() {
    let app = in_chunks(8, 4);
    app.transcoder.script_pieces([Script::Hangs; 4]);
    let creator = app.creator().await;
    let video = sent(&app, &creator).await;
    until("all are at it", || app.transcoder.made().len() == 8).await;
    let path = format!("/api/v1/videos/{video}");
    assert_eq!(app.call("DELETE", &path).key(&creator.key).send().await.status, 204);
    until("the spool is empty", || app.spooled().is_empty()).await;
    assert_eq!(app.kept(&video, 1).await, [""; 0]);
}

#[tokio::test]
async fn a_new_source_takes_the_place_of_the_old_one_and_what_was_paid_for_that_is_served() {
    let app = TestApp::new();
    let film = app.film().await;
    let paid = Challenge::of(&app.get(&film.segment(1)).await);
    let credential = paid.credential(app.pay(&paid.invoice).await);
    app.transcoder.script([Script::NoFilm]);
    assert_eq!(app.upload(&film.creator, &film.video).await.status, 202);
    let path = format!("/api/v1/videos/{}", film.video);
    let next = async |app: &TestApp| {
        app.call("GET", &path).key(&film.creator.key).send().await.json()["next"].clone()
    };
    while next(&app).await["state"] != "failed" {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(next(&app).await["reason"], "This file holds no video.");
    let public = app.get(&path).await.json();
    assert_eq!((&public["state"], &public["next"]), (&json!("ready"), &Value::Null));
    app.upload(&film.creator, &film.video).await;
    while app.get(&path).await.json()["version"] != 3 {
        assert_eq!(app.get(&film.segment(0)).await.status, 200, "served all the while");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(next(&app).await, Value::Null);
    let playlist = app.get(&format!("/hls/{}/index.m3u8", film.video)).await;
    assert!(playlist.text().contains("\n3/480p/index.m3u8"), "{}", playlist.text());
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200, "of the old version");
    // It stays for as long as somebody may have a claim on it.
    app.advance(Duration::from_secs(8 * 86_400));
    app.shared.library.sweep_versions().await.unwrap();
    assert_eq!(kept(&app, &film.video, 1).await, whole(&RENDITIONS));
    app.advance(Duration::from_secs(86_400));
    assert_eq!(app.shared.library.sweep_versions().await.unwrap(), 1);
    assert_eq!(app.kept(&film.video, 1).await, [""; 0]);
    assert_eq!(kept(&app, &film.video, 3).await, whole(&RENDITIONS));
    app.get(&film.segment(0)).await.problem(404, "not_found");
}

#[tokio::test]
async fn sources_are_kept_where_the_operator_wants_that_and_go_with_their_titles() {
    let app = TestApp::with(|config| config.library.keep_sources = true);
    let film = app.film().await;
    until("only the source is left", || app.spooled().len() == 1).await;
    let app = app.restarted(0).await;
    app.shared.library.sweep_spool().await;
    assert_eq!(app.spooled().len(), 1);
    let path = format!("/api/v1/videos/{}", film.video);
    assert_eq!(app.call("DELETE", &path).key(&film.creator.key).send().await.status, 204);
    until("the spool is empty", || app.spooled().is_empty()).await;
}
