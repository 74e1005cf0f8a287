//! Sources by tus 1.0.0, and by `PUT` in parts: nothing that arrived is lost, and nothing becomes two jobs.

use std::time::Duration;

use axum::body::{Body, Bytes};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use sluice::runtime::Clock as _;
use tokio::sync::mpsc;

use crate::app::{Call, Creator, DEADLINE, Reply, TestApp, until};
use crate::transcoder::Script;

/// What the fake transcoder takes for a film.
pub const SOURCE: &str = "a source";

pub fn tus<'a>(app: &'a TestApp, creator: &Creator, method: &str, path: &str) -> Call<'a> {
    app.call(method, path).key(&creator.key).with("tus-resumable", "1.0.0")
}

pub fn named(pairs: &[(&str, &str)]) -> String {
    let pairs = pairs.iter().map(|(key, value)| format!("{key} {}", STANDARD.encode(value)));
    pairs.collect::<Vec<_>>().join(",")
}

pub async fn create(app: &TestApp, creator: &Creator, video: &str, length: usize) -> Reply {
    let call = tus(app, creator, "POST", "/api/v1/uploads");
    let call = call.with("upload-length", &length.to_string());
    call.with("upload-metadata", &named(&[("video", video)])).send().await
}

/// The address of a new upload for a new draft, and that draft.
pub async fn begun(app: &TestApp, creator: &Creator, length: usize) -> (String, String) {
    let video = app.draft(creator).await;
    let reply = create(app, creator, &video, length).await;
    assert_eq!(reply.status, 201, "{reply:?}");
    (reply.header("location").unwrap().to_owned(), video)
}

pub fn patch<'a>(app: &'a TestApp, creator: &Creator, at: &str, offset: u64) -> Call<'a> {
    let call = tus(app, creator, "PATCH", at).with("upload-offset", &offset.to_string());
    call.with("content-type", "application/offset+octet-stream")
}

pub async fn offset(app: &TestApp, creator: &Creator, at: &str) -> u64 {
    let reply = tus(app, creator, "HEAD", at).send().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("cache-control"), Some("no-store"));
    reply.header("upload-offset").unwrap().parse().unwrap()
}

/// A body that goes on until its sender is dropped, or says an error.
pub fn stream() -> (mpsc::UnboundedSender<Result<Bytes, std::io::Error>>, Body) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let stream = futures::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    (sender, Body::from_stream(stream))
}

fn reset() -> std::io::Error {
    std::io::Error::other("reset by peer")
}

fn jobs(app: &TestApp) -> u32 {
    app.transcoder.orders()
}

#[tokio::test]
async fn options_tell_what_the_server_can_to_anybody() {
    let app = TestApp::with(|config| config.library.source_bytes_max = 77);
    for path in ["/api/v1/uploads", "/api/v1/uploads/x"] {
        let reply = app.call("OPTIONS", path).with("origin", "https://evil.example").send().await;
        assert_eq!(reply.status, 204, "{reply:?}");
        for (name, value) in [
            ("tus-resumable", "1.0.0"),
            ("tus-version", "1.0.0"),
            ("tus-extension", "creation,creation-with-upload,termination,checksum,expiration"),
            ("tus-checksum-algorithm", "sha1,sha256"),
            ("tus-max-size", "77"),
        ] {
            assert_eq!(reply.header(name), Some(value), "{name}");
        }
        assert_eq!(reply.header("access-control-allow-origin"), None, "same origin only");
    }
}

#[tokio::test]
async fn a_source_arrives_in_parts_and_is_made_once() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    assert_eq!(app.state(&creator, &video).await["state"], "uploading");
    let reply = patch(&app, &creator, &at, 0).body("a so").send().await;
    assert_eq!((reply.status.as_u16(), reply.header("upload-offset")), (204, Some("4")));
    assert_eq!(reply.header("tus-resumable"), Some("1.0.0"));
    assert!(reply.header("upload-expires").unwrap().ends_with(" GMT"));
    let head = tus(&app, &creator, "HEAD", &at).send().await;
    assert_eq!(head.header("upload-length"), Some("8"));
    assert_eq!(head.header("upload-metadata"), Some(named(&[("video", &video)]).as_str()));
    let reply = patch(&app, &creator, &at, 4).body("urce").send().await;
    assert_eq!((reply.status.as_u16(), reply.header("upload-offset")), (204, Some("8")));
    assert_eq!(reply.header("upload-expires"), None);
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(jobs(&app), 1);
    assert_eq!(offset(&app, &creator, &at).await, 8, "a finished upload still answers");
    let sha256 = hex::encode(Sha256::digest(SOURCE));
    assert_eq!(app.state(&creator, &video).await["source_sha256"], sha256.as_str());
    let more = patch(&app, &creator, &at, 8).body("more").send().await;
    more.problem(413, "beyond_length");
    let none = patch(&app, &creator, &at, 8).with("content-length", "0").send().await;
    assert_eq!(none.status, 204, "a client that missed the answer asks again");
    assert_eq!(tus(&app, &creator, "DELETE", &at).send().await.status, 204);
    assert_eq!(app.state(&creator, &video).await["state"], "ready", "the title stays");
}

#[tokio::test]
async fn the_bytes_may_come_with_the_creation_and_the_title_be_made_by_it() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let metadata = named(&[
        ("filename", "../My film.mp4"),
        ("filetype", "video/mp4"),
        ("msat_per_second", "500"),
        ("preview_seconds", "4"),
    ]);
    let call = tus(&app, &creator, "POST", "/api/v1/uploads").with("upload-length", "8");
    let call = call.with("upload-metadata", &metadata).body(SOURCE);
    let reply = call.with("content-type", "application/offset+octet-stream").send().await;
    assert_eq!((reply.status.as_u16(), reply.header("upload-offset")), (201, Some("8")));
    let videos = app.call("GET", "/api/v1/videos").key(&creator.key).send().await.json();
    let video = &videos["videos"][0];
    assert_eq!(video["title"], "My film");
    assert_eq!((&video["msat_per_second"], &video["preview_seconds"]), (&json!(500), &json!(4)));
    app.reaches(&creator, video["id"].as_str().unwrap(), "ready").await;
}

#[tokio::test]
async fn a_creation_that_is_refused_leaves_no_draft() {
    let app = TestApp::with(|config| config.library.source_bytes_max = 10);
    let creator = app.creator().await;
    let call = tus(&app, &creator, "POST", "/api/v1/uploads").with("upload-length", "11");
    call.with("upload-metadata", &named(&[("title", "x")])).send().await.problem(413, "too_large");
    let videos = app.call("GET", "/api/v1/videos").key(&creator.key).send().await.json();
    assert_eq!(videos["videos"], json!([]));
    // The operator earns from no title.
    let call =
        app.call("POST", "/api/v1/uploads").key(&app.operator).with("tus-resumable", "1.0.0");
    let call = call.with("upload-length", "8").with("upload-metadata", &named(&[("title", "x")]));
    call.send().await.problem(403, "forbidden");
}

#[tokio::test]
async fn a_connection_that_breaks_at_99_percent_leaves_99_percent() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, _) = begun(&app, &creator, 100_000).await;
    for _ in 0..3 {
        let from = offset(&app, &creator, &at).await;
        let (sender, body) = stream();
        let sending = tokio::spawn(patch(&app, &creator, &at, from).body(body).send());
        for _ in 0..33 {
            sender.send(Ok(Bytes::from(vec![7; 1_000]))).unwrap();
        }
        sender.send(Err(reset())).unwrap();
        sending.await.unwrap().problem(400, "broken_upload");
    }
    assert_eq!(offset(&app, &creator, &at).await, 99_000);
    let rest = patch(&app, &creator, &at, 99_000).body(vec![7; 1_000]).send().await;
    assert_eq!(rest.header("upload-offset"), Some("100000"));
}

#[tokio::test]
async fn a_request_that_is_dropped_leaves_what_it_brought() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    let (sender, body) = stream();
    let sending = tokio::spawn(patch(&app, &creator, &at, 0).body(body).send());
    sender.send(Ok(Bytes::from("a sour"))).unwrap();
    let part = app.spool.path().join(format!("{video}.part"));
    until("the bytes are written", || std::fs::metadata(&part).unwrap().len() == 6).await;
    sending.abort();
    assert!(sending.await.unwrap_err().is_cancelled());
    let reply = patch(&app, &creator, &at, 6).body("ce").send().await;
    assert_eq!(reply.status, 204, "{reply:?}");
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(jobs(&app), 1);
}

pub fn offset_of(app: &TestApp, video: &str) -> u64 {
    let part = app.spool.path().join(format!("{video}.part"));
    std::fs::metadata(part).map(|of| of.len()).unwrap_or_default()
}

#[tokio::test]
async fn one_writes_at_a_time_and_a_dead_one_is_taken_over() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    let (sender, body) = stream();
    let hanging = tokio::spawn(patch(&app, &creator, &at, 0).body(body).send());
    sender.send(Ok(Bytes::from("a so"))).unwrap();
    until("its bytes are there", || offset_of(&app, &video) == 4).await;
    let reply = patch(&app, &creator, &at, 4).body("urce").send().await;
    reply.problem(423, "locked");
    assert_eq!(reply.header("retry-after"), Some("3"));
    create(&app, &creator, &video, 8).await.problem(423, "locked");
    app.upload(&creator, &video).await.problem(423, "locked");
    // It says nothing more: its client may be gone, and the next one goes on.
    tokio::time::sleep(Duration::from_millis(3_100)).await;
    let reply = patch(&app, &creator, &at, 4).body("urce").send().await;
    assert_eq!((reply.status.as_u16(), reply.header("upload-offset")), (204, Some("8")));
    let dead = tokio::time::timeout(DEADLINE, hanging).await.unwrap().unwrap();
    dead.problem(400, "broken_upload");
    drop(sender);
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(jobs(&app), 1);
}

#[tokio::test]
async fn bytes_that_do_not_match_their_checksum_are_taken_back() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    let sha1 = |text: &str| format!("sha1 {}", STANDARD.encode(Sha1::digest(text)));
    let sha256 = |text: &str| format!("sha256 {}", STANDARD.encode(Sha256::digest(text)));
    let part = |from, said: String| patch(&app, &creator, &at, from).with("upload-checksum", &said);
    let reply = part(0, sha1("a so")).body("a so").send().await;
    assert_eq!(reply.status, 204, "{reply:?}");
    part(4, sha1("other")).body("URCE").send().await.problem(460, "checksum");
    part(4, sha256("other")).body("URCE").send().await.problem(460, "checksum");
    assert_eq!(offset(&app, &creator, &at).await, 4);
    // Cut off, they are nobody's word.
    let broken = [Ok(Bytes::from("UR")), Err(reset())];
    let broken = Body::from_stream(futures::stream::iter(broken));
    part(4, sha1("urce")).body(broken).send().await.problem(400, "broken_upload");
    assert_eq!(offset(&app, &creator, &at).await, 4);
    for bad in ["md5 AAAA", "sha1", "sha1 AAAA", "sha1 !", "sha256"] {
        part(4, bad.to_owned()).body("urce").send().await.problem(400, "malformed");
    }
    assert_eq!(part(4, sha256("urce")).body("urce").send().await.status, 204);
    app.reaches(&creator, &video, "ready").await;
    let sha256 = hex::encode(Sha256::digest(SOURCE));
    assert_eq!(app.state(&creator, &video).await["source_sha256"], sha256.as_str());
}

#[tokio::test]
async fn an_upload_that_was_ended_leaves_a_draft_and_no_byte() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, 100).await;
    patch(&app, &creator, &at, 0).body("half").send().await;
    let reply = tus(&app, &creator, "DELETE", &at).send().await;
    assert_eq!((reply.status.as_u16(), reply.header("tus-resumable")), (204, Some("1.0.0")));
    tus(&app, &creator, "HEAD", &at).send().await;
    assert_eq!(tus(&app, &creator, "HEAD", &at).send().await.status, 404);
    patch(&app, &creator, &at, 4).body("x").send().await.problem(404, "not_found");
    assert_eq!(app.state(&creator, &video).await["state"], "draft");
    assert_eq!(offset_of(&app, &video), 0);
    let path = format!("/api/v1/videos/{video}");
    assert_eq!(app.call("DELETE", &path).key(&creator.key).send().await.status, 204);
}

#[tokio::test]
async fn a_title_that_goes_takes_its_upload_with_it() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, 100).await;
    let (sender, body) = stream();
    let sending = tokio::spawn(patch(&app, &creator, &at, 0).body(body).send());
    sender.send(Ok(Bytes::from("half"))).unwrap();
    until("its bytes are there", || offset_of(&app, &video) == 4).await;
    let path = format!("/api/v1/videos/{video}");
    assert_eq!(app.call("DELETE", &path).key(&creator.key).send().await.status, 204);
    sending.await.unwrap().problem(400, "broken_upload");
    assert_eq!(tus(&app, &creator, "HEAD", &at).send().await.status, 404);
    let left: Vec<_> = std::fs::read_dir(app.spool.path()).unwrap().flatten().collect();
    let of_it = left.iter().any(|file| file.file_name().to_string_lossy().starts_with(&video));
    assert!(!of_it, "{left:?}");
}

#[tokio::test]
async fn an_upload_to_which_nothing_is_added_expires() {
    let app = TestApp::with(|config| config.uploads.expire_seconds = 1_000);
    let creator = app.creator().await;
    let (kept, _) = begun(&app, &creator, 100).await;
    let (at, video) = begun(&app, &creator, 100).await;
    app.advance(Duration::from_secs(600));
    patch(&app, &creator, &kept, 0).body("more").send().await;
    app.advance(Duration::from_secs(600));
    app.shared.library.sweep_uploads().await;
    assert_eq!(tus(&app, &creator, "HEAD", &at).send().await.status, 404);
    assert_eq!(offset(&app, &creator, &kept).await, 4);
    assert_eq!(app.state(&creator, &video).await["state"], "draft");
    // Also over a restart, by the file's own time.
    let now = std::time::UNIX_EPOCH + Duration::from_millis(app.clock.now_ms());
    let parts = std::fs::read_dir(app.spool.path()).unwrap().map(|entry| entry.unwrap().path());
    for part in parts.filter(|path| path.extension().is_some_and(|kind| kind == "part")) {
        std::fs::File::options().write(true).open(part).unwrap().set_modified(now).unwrap();
    }
    let app = app.restarted(0).await;
    app.shared.library.sweep_spool().await;
    assert_eq!(offset(&app, &creator, &kept).await, 4);
    app.advance(Duration::from_secs(1_200));
    app.shared.library.sweep_spool().await;
    assert_eq!(tus(&app, &creator, "HEAD", &kept).send().await.status, 404);
    assert_eq!(std::fs::read_dir(app.spool.path()).unwrap().flatten().count(), 1, "the counts");
}

#[tokio::test]
async fn an_upload_goes_on_after_a_restart_and_is_hashed_whole() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    patch(&app, &creator, &at, 0).body("a so").send().await;
    let (other, _) = begun(&app, &creator, 100).await;
    let sum = "sha1 AAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    patch(&app, &creator, &other, 0).body("kept").send().await;
    let call = patch(&app, &creator, &other, 4).with("upload-checksum", sum);
    call.body("dropped").send().await.problem(460, "checksum");
    let app = app.restarted(0).await;
    app.shared.library.sweep_spool().await;
    assert_eq!(offset(&app, &creator, &at).await, 4);
    assert_eq!(offset(&app, &creator, &other).await, 4);
    let head = tus(&app, &creator, "HEAD", &at).send().await;
    assert_eq!(head.header("upload-metadata"), Some(named(&[("video", &video)]).as_str()));
    patch(&app, &creator, &at, 4).body("urce").send().await;
    app.reaches(&creator, &video, "ready").await;
    let sha256 = hex::encode(Sha256::digest(SOURCE));
    assert_eq!(app.state(&creator, &video).await["source_sha256"], sha256.as_str());
    let app = app.restarted(0).await;
    app.shared.library.sweep_spool().await;
    assert_eq!(offset(&app, &creator, &at).await, 8, "finished ones are remembered");
    app.advance(Duration::from_secs(2 * 86_400));
    app.shared.library.sweep_uploads().await;
    assert_eq!(tus(&app, &creator, "HEAD", &at).send().await.status, 404, "for a day");
}

/// What a process leaves that died at each point after the last byte: the next start hands the source over, and once.
#[tokio::test]
async fn a_source_that_is_whole_is_handed_over_once_wherever_the_process_died() {
    let sha256 = hex::encode(Sha256::digest(SOURCE));
    let whole = json!({ "stage": "whole", "sha256": sha256 });
    for (renamed, stage) in
        [(false, json!({ "stage": "arriving" })), (false, whole.clone()), (true, whole)]
    {
        let app = TestApp::new();
        let creator = app.creator().await;
        let (at, video) = begun(&app, &creator, SOURCE.len()).await;
        let file = |kind: &str| app.spool.path().join(format!("{video}.{kind}"));
        let read = std::fs::read(file("upload")).unwrap();
        let mut record: serde_json::Value = serde_json::from_slice(&read).unwrap();
        record.as_object_mut().unwrap().extend(stage.as_object().unwrap().clone());
        std::fs::write(file("upload"), record.to_string()).unwrap();
        std::fs::write(file("part"), SOURCE).unwrap();
        if renamed {
            std::fs::rename(file("part"), file("source")).unwrap();
        }
        let app = app.restarted(0).await;
        app.shared.library.sweep_spool().await;
        app.reaches(&creator, &video, "ready").await;
        assert_eq!(offset(&app, &creator, &at).await, 8);
        assert_eq!(app.state(&creator, &video).await["source_sha256"], sha256.as_str());
        // Killed between the queue and the record: the title has moved on, and nothing is queued again.
        let file = app.spool.path().join(format!("{video}.upload"));
        std::fs::write(&file, record.to_string()).unwrap();
        std::fs::write(app.spool.path().join(format!("{video}.part")), SOURCE).unwrap();
        let app = app.restarted(0).await;
        app.shared.library.sweep_spool().await;
        until("the record is settled", || {
            std::fs::read_to_string(&file).unwrap().contains("handed")
        })
        .await;
        assert_eq!(app.state(&creator, &video).await["state"], "ready");
        assert_eq!(jobs(&app), 1);
    }
}

#[tokio::test]
async fn what_belongs_to_no_upload_is_swept_at_the_start() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, 100).await;
    let stray = "0".repeat(32);
    let place = app.spool.path().to_owned();
    for kind in ["part", "source", "upload-new"] {
        std::fs::write(place.join(format!("{stray}.{kind}")), "x").unwrap();
    }
    std::fs::write(place.join(format!("{}.upload", "1".repeat(32))), "{ no record").unwrap();
    let app = app.restarted(0).await;
    app.shared.library.sweep_spool().await;
    let mut left: Vec<_> = std::fs::read_dir(&place)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "sent.json")
        .collect();
    left.sort();
    assert_eq!(left, [format!("{video}.part"), format!("{video}.upload")]);
    assert_eq!(offset(&app, &creator, &at).await, 0);
}

#[tokio::test]
async fn a_new_upload_of_a_title_replaces_one_that_was_not_finished() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (old, video) = begun(&app, &creator, 100).await;
    patch(&app, &creator, &old, 0).body("half of another").send().await;
    let new = create(&app, &creator, &video, SOURCE.len()).await;
    let new = new.header("location").unwrap();
    patch(&app, &creator, &old, 15).body("x").send().await.problem(404, "not_found");
    assert_eq!(patch(&app, &creator, new, 0).body(SOURCE).send().await.status, 204);
    app.reaches(&creator, &video, "ready").await;
}

#[tokio::test]
async fn a_title_of_which_something_is_made_takes_no_upload() {
    let app = TestApp::new();
    let creator = app.creator().await;
    app.transcoder.script([Script::Hangs]);
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    assert_eq!(patch(&app, &creator, &at, 0).body(SOURCE).send().await.status, 204);
    app.reaches(&creator, &video, "transcoding").await;
    create(&app, &creator, &video, 8).await.problem(409, "wrong_state");
}

#[tokio::test]
async fn a_failed_title_takes_another_source() {
    let app = TestApp::new();
    let creator = app.creator().await;
    app.transcoder.script([Script::NoFilm]);
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    patch(&app, &creator, &at, 0).body(SOURCE).send().await;
    app.reaches(&creator, &video, "failed").await;
    let reply = create(&app, &creator, &video, SOURCE.len()).await;
    let at = reply.header("location").unwrap();
    assert_eq!(patch(&app, &creator, at, 0).body(SOURCE).send().await.status, 204);
    app.reaches(&creator, &video, "ready").await;
}

#[tokio::test]
async fn nobody_else_sees_an_upload() {
    let app = TestApp::new();
    let (creator, other) = (app.creator().await, app.creator().await);
    let (at, video) = begun(&app, &creator, 8).await;
    create(&app, &other, &video, 8).await.problem(404, "not_found");
    assert_eq!(tus(&app, &other, "HEAD", &at).send().await.status, 404);
    patch(&app, &other, &at, 0).body("x").send().await.problem(404, "not_found");
    tus(&app, &other, "DELETE", &at).send().await.problem(404, "not_found");
    let nobody = app.call("POST", "/api/v1/uploads").with("tus-resumable", "1.0.0");
    nobody.with("upload-length", "8").send().await.problem(401, "unauthorized");
    let call = app.call("DELETE", &at).with("tus-resumable", "1.0.0");
    call.send().await.problem(401, "unauthorized");
    assert_eq!(offset(&app, &creator, &at).await, 0);
}

#[tokio::test]
async fn a_client_that_can_only_post_says_what_it_means() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    let post =
        |method: &str| tus(&app, &creator, "POST", &at).with("x-http-method-override", method);
    let call = post("PATCH").with("upload-offset", "0");
    let call = call.with("content-type", "application/offset+octet-stream");
    assert_eq!(call.body("a so").send().await.header("upload-offset"), Some("4"));
    assert_eq!(post("HEAD").send().await.header("upload-offset"), Some("4"));
    post("BREW").send().await.problem(405, "method_not_allowed");
    assert_eq!(post("DELETE").send().await.status, 204);
    assert_eq!(app.state(&creator, &video).await["state"], "draft");
}

#[tokio::test]
async fn a_put_that_breaks_off_goes_on_with_a_range() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    let path = format!("/api/v1/videos/{video}/source");
    let put = || app.call("PUT", &path).key(&creator.key);
    let there = async || {
        let head = app.call("HEAD", &path).key(&creator.key).send().await;
        assert_eq!(head.status, 200);
        (
            head.header("upload-offset").unwrap().to_owned(),
            head.header("upload-length").map(str::to_owned),
        )
    };
    assert_eq!(there().await, ("0".to_owned(), None));
    let broken = [Ok(Bytes::from("a s")), Err(reset())];
    let broken = Body::from_stream(futures::stream::iter(broken));
    put().with("content-length", "8").body(broken).send().await.problem(400, "broken_upload");
    assert_eq!(there().await, ("3".to_owned(), Some("8".to_owned())));
    let range = |of: &str| put().with("content-range", &format!("bytes {of}"));
    let body = range("2-3/8").body("so").send().await.problem(409, "wrong_offset");
    assert_eq!(body["offset"], 3);
    range("3-4/9").body("ou").send().await.problem(422, "invalid");
    range("3-4/8").with("content-length", "3").body("our").send().await.problem(400, "malformed");
    range("4-3/8").body("ou").send().await.problem(400, "malformed");
    let reply = range("3-4/8").body("ou").send().await;
    assert_eq!((reply.status.as_u16(), reply.header("upload-offset")), (204, Some("5")));
    let reply = range("5-7/8").body("rce").send().await;
    assert_eq!(reply.status, 202, "{reply:?}");
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(jobs(&app), 1);
    let head = app.call("HEAD", &path).send().await;
    assert_eq!(head.status, 401);
}

#[tokio::test]
async fn a_range_without_a_beginning_is_told_where_to_begin() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    let call = app.call("PUT", &format!("/api/v1/videos/{video}/source")).key(&creator.key);
    let body = call.with("content-range", "bytes 3-7/8").body("ource").send().await;
    assert_eq!(body.problem(409, "wrong_offset")["offset"], 0);
}

/// Files of a title in the spool, what is remembered of its upload among them.
fn files_of(app: &TestApp, video: &str) -> Vec<String> {
    let entries = std::fs::read_dir(app.spool.path()).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.starts_with(video)).collect()
}

#[tokio::test]
async fn of_a_source_that_was_handed_over_nothing_stays_when_its_title_goes() {
    for script in [Script::Hangs, Script::NoFilm, Script::Goes] {
        let app = TestApp::with(|config| config.library.keep_sources = true);
        let creator = app.creator().await;
        app.transcoder.script([script]);
        let (at, video) = begun(&app, &creator, SOURCE.len()).await;
        assert_eq!(patch(&app, &creator, &at, 0).body(SOURCE).send().await.status, 204);
        let state = match script {
            Script::Hangs => "transcoding",
            Script::NoFilm => "failed",
            _ => "ready",
        };
        app.reaches(&creator, &video, state).await;
        let path = format!("/api/v1/videos/{video}");
        assert_eq!(app.call("DELETE", &path).key(&creator.key).send().await.status, 204);
        until("nothing is left", || files_of(&app, &video).is_empty()).await;
        assert_eq!(tus(&app, &creator, "HEAD", &at).send().await.status, 404);
    }
}

#[tokio::test]
async fn a_source_whose_making_was_cancelled_does_not_stay() {
    let app = TestApp::new();
    let creator = app.creator().await;
    app.transcoder.script([Script::Hangs]);
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    assert_eq!(patch(&app, &creator, &at, 0).body(SOURCE).send().await.status, 204);
    app.reaches(&creator, &video, "transcoding").await;
    let path = format!("/api/v1/videos/{video}/cancel");
    let cancelled = app.call("POST", &path).key(&creator.key).send().await;
    assert!(cancelled.status.is_success(), "{cancelled:?}");
    until("the source is gone", || app.spooled().is_empty()).await;
    assert_eq!(offset(&app, &creator, &at).await, 8, "a client that missed the answer hears it");
}

/// The process died after the title was removed from the store and before its files were.
#[tokio::test]
async fn an_upload_whose_title_is_gone_is_swept_at_once() {
    use sluice::store::Catalog as _;
    for whole in [false, true] {
        let app = TestApp::new();
        let creator = app.creator().await;
        let (at, video) = begun(&app, &creator, SOURCE.len()).await;
        if whole {
            app.transcoder.script([Script::NoFilm]);
            patch(&app, &creator, &at, 0).body(SOURCE).send().await;
            app.reaches(&creator, &video, "failed").await;
        } else {
            patch(&app, &creator, &at, 0).body("a so").send().await;
        }
        app.store.delete_video(video.parse().unwrap()).unwrap();
        let app = app.restarted(0).await;
        app.shared.library.sweep_spool().await;
        assert_eq!(files_of(&app, &video), [""; 0]);
        assert_eq!(tus(&app, &creator, "HEAD", &at).send().await.status, 404);
    }
}
