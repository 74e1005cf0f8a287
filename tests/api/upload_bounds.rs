//! What an upload may say and take: hostile headers, quotas, a disk that fills.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::body::{Body, Bytes};

use crate::app::{TestApp, until};
use crate::transcoder::Script;
use crate::uploads::{SOURCE, begun, create, named, offset, offset_of, patch, stream, tus};

#[tokio::test]
async fn hostile_headers_are_refused_with_a_sentence() {
    let app = TestApp::with(|config| config.library.source_bytes_max = 1_000);
    let creator = app.creator().await;
    let video = app.draft(&creator).await;
    let post = |length: &str, metadata: &str| {
        let call = tus(&app, &creator, "POST", "/api/v1/uploads").with("upload-length", length);
        call.with("upload-metadata", metadata).send()
    };
    let own = named(&[("video", &video)]);
    for bad in ["", "-1", "+8", "8.0", "0x8", "eight", "0", "99999999999999999999"] {
        post(bad, &own).await.problem(400, "malformed");
    }
    for large in ["1001", "18446744073709551615"] {
        post(large, &own).await.problem(413, "too_large");
    }
    for bad in [
        "",
        "video",
        "nothing QQ==",
        "title !!!",
        "title /w==",
        &named(&[("video", "../../etc/passwd")]),
        &named(&[("video", &"0".repeat(32))]),
        &named(&[("title", "x"), ("msat_per_second", "-5")]),
        &named(&[("title", "x"), ("preview_seconds", "4294967296")]),
        &named(&[("title", "x"), ("title", "y")]),
        &"x ,".repeat(8_000),
    ] {
        let reply = post("8", bad).await;
        assert!([400, 404].contains(&reply.status.as_u16()), "{bad}: {reply:?}");
        reply.problem(reply.status.as_u16(), reply.json()["code"].as_str().unwrap());
    }
    post("8", &named(&[("title", "\0")])).await.problem(422, "invalid");
    post("8", &named(&[("title", "x"), ("msat_per_second", "1")]))
        .await
        .problem(422, "invalid_price");
    let call = tus(&app, &creator, "POST", "/api/v1/uploads").with("upload-metadata", &own);
    call.with("upload-defer-length", "1").send().await.problem(400, "malformed");
    let call = app.call("POST", "/api/v1/uploads").key(&creator.key).with("upload-length", "8");
    let reply = call.with("upload-metadata", &own).send().await;
    reply.problem(412, "tus_version");
    assert_eq!(reply.header("tus-version"), Some("1.0.0"));

    let reply = post("8", &own).await;
    let at = reply.header("location").unwrap();
    for bad in ["", "-1", "x", "99999999999999999999"] {
        let call = tus(&app, &creator, "PATCH", at).with("upload-offset", bad);
        let call = call.with("content-type", "application/offset+octet-stream");
        call.body("x").send().await.problem(400, "malformed");
    }
    let call = patch(&app, &creator, at, 0).with("upload-offset", "5").body("x");
    call.send().await.problem(400, "malformed");
    let call = tus(&app, &creator, "PATCH", at).with("upload-offset", "0").body("x");
    call.send().await.problem(415, "wrong_type");
    for wrong in [1, u64::MAX] {
        let reply = patch(&app, &creator, at, wrong).body("x").send().await;
        assert_eq!(reply.problem(409, "wrong_offset")["offset"], 0);
    }
    let announced = patch(&app, &creator, at, 0).with("content-length", "9").body("a source.");
    announced.send().await.problem(413, "beyond_length");
    patch(&app, &creator, at, 0).body("a source.").send().await.problem(413, "beyond_length");
    assert_eq!(offset(&app, &creator, at).await, 0);
    for path in ["x", "..%2f..%2fetc%2fpasswd", &"0".repeat(31), "%00"] {
        let reply = tus(&app, &creator, "HEAD", &format!("/api/v1/uploads/{path}")).send().await;
        assert_eq!((reply.status.as_u16(), reply.header("tus-resumable")), (404, Some("1.0.0")));
    }
    assert_eq!(patch(&app, &creator, at, 0).body(SOURCE).send().await.status, 204);
    app.reaches(&creator, &video, "ready").await;
}

#[tokio::test]
async fn quotas_of_a_creator_hold_and_say_what_to_do() {
    let app = TestApp::with(|config| {
        config.uploads.unfinished_per_creator_max = 2;
        config.uploads.spool_bytes_per_creator_max = 1_000;
        config.uploads.day_bytes_per_creator_max = 950;
    });
    let (creator, other) = (app.creator().await, app.creator().await);
    let (first, _) = begun(&app, &creator, 400).await;
    let (second, _) = begun(&app, &creator, 300).await;
    let third = app.draft(&creator).await;
    create(&app, &creator, &third, 1).await.problem(429, "quota");
    tus(&app, &creator, "DELETE", &second).send().await;
    create(&app, &creator, &third, 601).await.problem(413, "spool_quota");
    assert_eq!(app.state(&creator, &third).await["state"], "draft");
    assert_eq!(create(&app, &creator, &third, 600).await.status, 201);
    begun(&app, &other, 900).await;
    // What arrived today counts, whatever becomes of it.
    assert_eq!(patch(&app, &creator, &first, 0).body(vec![1; 399]).send().await.status, 204);
    tus(&app, &creator, "DELETE", &first).send().await;
    let again = begun(&app, &creator, 400).await.0;
    assert_eq!(patch(&app, &creator, &again, 0).body(vec![1; 399]).send().await.status, 204);
    tus(&app, &creator, "DELETE", &again).send().await;
    let video = app.draft(&creator).await;
    let reply = create(&app, &creator, &video, 400).await;
    reply.problem(429, "quota");
    let wait: u64 = reply.header("retry-after").unwrap().parse().unwrap();
    assert!(wait <= 86_400);
    let app = app.restarted(0).await;
    create(&app, &creator, &video, 400).await.problem(429, "quota");
    app.advance(Duration::from_secs(wait + 1));
    assert_eq!(create(&app, &creator, &video, 400).await.status, 201, "another day");
}

#[tokio::test]
async fn only_so_many_requests_of_a_creator_bring_sources_at_once() {
    let app = TestApp::with(|config| config.uploads.at_once_per_creator_max = 1);
    let creator = app.creator().await;
    let (first, video) = begun(&app, &creator, SOURCE.len()).await;
    let (second, _) = begun(&app, &creator, 100).await;
    let (sender, body) = stream();
    let sending = tokio::spawn(patch(&app, &creator, &first, 0).body(body).send());
    sender.send(Ok(Bytes::from("a so"))).unwrap();
    until("its bytes are there", || offset_of(&app, &video) == 4).await;
    patch(&app, &creator, &second, 0).body("x").send().await.problem(429, "quota");
    sender.send(Ok(Bytes::from("urce"))).unwrap();
    drop(sender);
    assert_eq!(sending.await.unwrap().status, 204);
    assert_eq!(patch(&app, &creator, &second, 0).body("x").send().await.status, 204);
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_takes_no_more_and_keeps_what_it_has() {
    let app = TestApp::with(|config| config.uploads.free_bytes_min = 1_000);
    let creator = app.creator().await;
    app.disk.0.store(100_001_500, Ordering::SeqCst);
    let (at, video) = begun(&app, &creator, 100_000_000).await;
    let other = app.draft(&creator).await;
    // What is announced counts, although it is not there yet.
    create(&app, &creator, &other, 501).await.problem(507, "storage_full");
    assert_eq!(app.state(&creator, &other).await["state"], "draft");
    assert_eq!(create(&app, &creator, &other, 500).await.status, 201);
    let (sender, body) = stream();
    let sending = tokio::spawn(patch(&app, &creator, &at, 0).body(body).send());
    sender.send(Ok(Bytes::from(vec![1; 1 << 20]))).unwrap();
    until("its bytes are there", || offset_of(&app, &video) == 1 << 20).await;
    app.disk.0.store(999, Ordering::SeqCst);
    for _ in 0..80 {
        let _ = sender.send(Ok(Bytes::from(vec![1; 1 << 20])));
    }
    sending.await.unwrap().problem(507, "storage_full");
    let kept = offset(&app, &creator, &at).await;
    assert!((64 << 20..80 << 20).contains(&kept), "{kept}");
    patch(&app, &creator, &at, kept).body("x").send().await.problem(507, "storage_full");
    app.disk.0.store(1 << 40, Ordering::SeqCst);
    let reply = patch(&app, &creator, &at, kept).body("x").send().await;
    assert_eq!(reply.status, 204, "{reply:?}");
}

#[tokio::test]
async fn an_upload_is_no_faster_than_its_creator_may_be() {
    let app = TestApp::with(|config| config.uploads.bytes_per_second_per_creator_max = 100_000);
    let creator = app.creator().await;
    let (at, _) = begun(&app, &creator, 1_000_000).await;
    let begun = std::time::Instant::now();
    let pieces = futures::stream::iter((0..15).map(|_| Ok::<_, std::io::Error>(vec![1; 10_000])));
    let reply = patch(&app, &creator, &at, 0).body(Body::from_stream(pieces)).send().await;
    assert_eq!(reply.header("upload-offset"), Some("150000"));
    assert!(begun.elapsed() >= Duration::from_millis(900), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn busy_where_too_many_sources_arrive_at_once() {
    let app = TestApp::with(|config| config.uploads.at_once_max = 1);
    let (creator, other) = (app.creator().await, app.creator().await);
    let (first, video) = begun(&app, &creator, 100).await;
    let (second, _) = begun(&app, &other, 100).await;
    let (sender, body) = stream();
    let sending = tokio::spawn(patch(&app, &creator, &first, 0).body(body).send());
    sender.send(Ok(Bytes::from("some"))).unwrap();
    until("its bytes are there", || offset_of(&app, &video) == 4).await;
    patch(&app, &other, &second, 0).body("x").send().await.problem(503, "busy");
    drop(sender);
    assert_eq!(sending.await.unwrap().status, 204);
    assert_eq!(patch(&app, &other, &second, 0).body("x").send().await.status, 204);
}

#[tokio::test]
async fn a_source_whose_last_step_failed_is_handed_over_when_somebody_asks() {
    let app = TestApp::new();
    let creator = app.creator().await;
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    let (sender, body) = stream();
    let sending = tokio::spawn(patch(&app, &creator, &at, 0).body(body).send());
    sender.send(Ok(Bytes::from("a so"))).unwrap();
    until("its bytes are there", || offset_of(&app, &video) == 4).await;
    app.engine.fail_writes();
    sender.send(Ok(Bytes::from("urce"))).unwrap();
    drop(sender);
    sending.await.unwrap().problem(503, "storage");
    app.engine.mend();
    // A client that goes on hears that all is there.
    assert_eq!(offset(&app, &creator, &at).await, 8);
    app.reaches(&creator, &video, "ready").await;
    assert_eq!(app.transcoder.orders(), 1);
}

#[tokio::test]
async fn a_source_of_unknown_length_has_the_same_room_as_any_other() {
    let app = TestApp::with(|config| config.uploads.spool_bytes_per_creator_max = 1_000);
    let creator = app.creator().await;
    begun(&app, &creator, 600).await;
    let video = app.draft(&creator).await;
    let path = format!("/api/v1/videos/{video}/source");
    let put = |range: Option<&str>, body: Body| {
        let call = app.call("PUT", &path).key(&creator.key).body(body);
        match range {
            Some(range) => call.with("content-range", &format!("bytes {range}")).send(),
            None => call.send(),
        }
    };
    let pieces = |count: usize| {
        let pieces = (0..count).map(|_| Ok::<_, std::io::Error>(Bytes::from(vec![1; 100])));
        Body::from_stream(futures::stream::iter(pieces))
    };
    // The bytes are counted as they come.
    put(None, pieces(9)).await.problem(413, "spool_quota");
    assert_eq!(offset_of(&app, &video), 400, "what fits is kept");
    // A length that is told later is counted when it is told.
    let told = put(Some("400-499/1000"), pieces(1)).await;
    told.problem(413, "spool_quota");
    let broken = [Ok(Bytes::from(vec![1; 100])), Err(std::io::Error::other("reset by peer"))];
    let broken = Body::from_stream(futures::stream::iter(broken));
    put(None, broken).await.problem(400, "broken_upload");
    put(Some("100-199/401"), pieces(1)).await.problem(413, "spool_quota");
    assert_eq!(put(Some("100-199/400"), pieces(1)).await.status, 204);
}

#[tokio::test]
async fn a_source_that_waits_counts_for_as_long_as_it_waits() {
    let app = TestApp::with(|config| config.uploads.spool_bytes_per_creator_max = 10);
    let creator = app.creator().await;
    app.transcoder.script([Script::Hangs]);
    let (at, video) = begun(&app, &creator, SOURCE.len()).await;
    assert_eq!(patch(&app, &creator, &at, 0).body(SOURCE).send().await.status, 204);
    app.reaches(&creator, &video, "transcoding").await;
    let other = app.draft(&creator).await;
    create(&app, &creator, &other, 3).await.problem(413, "spool_quota");
    app.advance(Duration::from_secs(2 * 86_400));
    app.shared.library.sweep_uploads().await;
    assert_eq!(tus(&app, &creator, "HEAD", &at).send().await.status, 404, "it is forgotten");
    create(&app, &creator, &other, 3).await.problem(413, "spool_quota");
    assert_eq!(create(&app, &creator, &other, 2).await.status, 201);
    // Somebody else has room of their own.
    begun(&app, &app.creator().await, 10).await;
}
