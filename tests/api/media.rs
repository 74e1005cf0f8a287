//! Bodies and what is asked of them: ranges, HEAD, playlists, and paths that name nothing.

use crate::app::{Challenge, Film, Reply, TestApp};
use crate::transcoder::{RENDITIONS, SEGMENTS, bytes};

async fn ranged(app: &TestApp, path: &str, credential: Option<&str>, range: &str) -> Reply {
    let call = app.call("GET", path).with("range", range);
    match credential {
        Some(credential) => call.with("authorization", credential).send().await,
        None => call.send().await,
    }
}

async fn paid(app: &TestApp, film: &Film) -> String {
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    challenge.credential(app.pay(&challenge.invoice).await)
}

#[tokio::test]
async fn one_range_is_served_and_several_are_answered_whole() {
    let app = TestApp::new();
    let film = app.film().await;
    let (path, whole) = (film.segment(1), bytes("480p", Some(1)));
    let credential = paid(&app, &film).await;
    for (range, from, to) in [("bytes=0-9", 0, 9), ("bytes=5-", 5, whole.len() - 1)] {
        let reply = ranged(&app, &path, Some(&credential), range).await;
        assert_eq!((reply.status.as_u16(), &reply.body[..]), (206, &whole[from..=to]), "{range}");
        let expected = format!("bytes {from}-{to}/{}", whole.len());
        assert_eq!(reply.header("content-range"), Some(expected.as_str()));
        assert_eq!(reply.header("content-length"), Some((to - from + 1).to_string().as_str()));
    }
    let reply = ranged(&app, &path, Some(&credential), "bytes=0-1,4-5").await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &whole[..]));
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 1_940, "one payment for all");
}

#[tokio::test]
async fn a_range_outside_is_refused_and_redeems_nothing() {
    let app = TestApp::new();
    let film = app.film().await;
    let credential = paid(&app, &film).await;
    let reply = ranged(&app, &film.segment(1), Some(&credential), "bytes=9000-").await;
    reply.problem(416, "bad_range");
    let expected = format!("bytes */{}", bytes("480p", Some(1)).len());
    assert_eq!(reply.header("content-range"), Some(expected.as_str()));
    assert_eq!(app.ledger().await["viewer_credit_msat"], 2_000, "still the viewer's");
    Challenge::of(&ranged(&app, &film.segment(1), None, "bytes=0-1").await);
}

#[tokio::test]
async fn a_head_neither_mints_nor_redeems() {
    let app = TestApp::new();
    let film = app.film().await;
    let path = film.segment(1);
    let reply = app.call("HEAD", &path).send().await;
    assert_eq!((reply.status.as_u16(), reply.header("www-authenticate")), (402, None));
    assert!(reply.body.is_empty());
    let minted = app.get("/metrics").await;
    assert!(minted.text().contains("sluice_challenges_total 0"), "{}", minted.text());
    let credential = paid(&app, &film).await;
    for _ in 0..2 {
        let reply = app.call("HEAD", &path).with("authorization", &credential).send().await;
        assert_eq!(reply.status, 200);
        let len = bytes("480p", Some(1)).len().to_string();
        assert_eq!(reply.header("content-length"), Some(len.as_str()));
        assert!(reply.body.is_empty());
    }
    assert_eq!(app.ledger().await["viewer_credit_msat"], 2_000, "not redeemed");
    app.advance(std::time::Duration::from_secs(120));
    let call = app.call("GET", &path).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200, "and no grace began");
}

#[tokio::test]
async fn the_playlists_name_every_rendition_and_every_segment() {
    let app = TestApp::new();
    let film = app.film().await;
    let reply = app.get(&format!("/hls/{}/index.m3u8", film.video)).await;
    assert_eq!(reply.header("content-type"), Some("application/vnd.apple.mpegurl"));
    let master = hls_m3u8::MasterPlaylist::try_from(reply.text()).unwrap();
    assert_eq!(master.variant_streams.len(), RENDITIONS.len());
    for name in RENDITIONS {
        assert!(reply.text().contains(&format!("\n1/{name}/index.m3u8")), "{}", reply.text());
        let reply = app.get(&format!("/hls/{}/1/{name}/index.m3u8", film.video)).await;
        let media = hls_m3u8::MediaPlaylist::try_from(reply.text()).unwrap();
        assert_eq!(media.segments.values().count(), SEGMENTS as usize);
        assert!(reply.text().contains("#EXTINF:4") && reply.text().contains("#EXT-X-ENDLIST"));
        let init = app.get(&format!("/hls/{}/1/{name}/init.mp4", film.video)).await;
        assert_eq!((init.status.as_u16(), &init.body[..]), (200, &bytes(name, None)[..]));
    }
    let reply = app.get(&format!("/hls/{}/480p/3.m4s", film.video)).await;
    let to = film.segment(3);
    assert_eq!((reply.status.as_u16(), reply.header("location")), (307, Some(to.as_str())));
}

#[tokio::test]
async fn a_path_that_names_nothing_is_not_found_and_mints_nothing() {
    let app = TestApp::new();
    let film = app.film().await;
    let video = &film.video;
    let upper = video.to_uppercase();
    for path in [
        format!("/hls/{video}/1/480p/8.m4s"),
        format!("/hls/{video}/1/480p/4294967296.m4s"),
        format!("/hls/{video}/1/480p/99999999999999999999999999.m4s"),
        format!("/hls/{video}/1/480p/-1.m4s"),
        format!("/hls/{video}/1/480p/01.m4s"),
        format!("/hls/{video}/1/480p/..%2finit.mp4"),
        format!("/hls/{video}/1/480p/%2e%2e"),
        format!("/hls/{video}/1/%2e%2e/1.m4s"),
        format!("/hls/{video}/1/../1/480p/1.m4s"),
        format!("/hls/{video}/1/480p/../480p/1.m4s"),
        format!("/hls/{video}/1/480p/%00.m4s"),
        format!("/hls/{video}/1/1080p/1.m4s"),
        format!("/hls/{video}/2/480p/1.m4s"),
        format!("/hls/{video}/01/480p/1.m4s"),
        format!("/hls/{upper}/1/480p/1.m4s"),
        format!("/hls/{video}0/1/480p/1.m4s"),
        "/hls/..%2f..%2fetc%2fpasswd/index.m3u8".to_owned(),
        "/hls/%2e%2e/index.m3u8".to_owned(),
        "/assets/%2e%2e/index.html".to_owned(),
        "/assets/../index.html".to_owned(),
        "/s/%2e%2e/480p/1.m4s".to_owned(),
        "/watch/%2e%2e".to_owned(),
    ] {
        let reply = app.get(&path).await;
        assert_eq!(reply.status, 404, "{path}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{path}");
    }
    assert!(app.get("/metrics").await.text().contains("sluice_challenges_total 0"));
}

#[tokio::test]
async fn a_path_that_is_no_text_is_refused_with_a_problem_document() {
    let app = TestApp::new();
    for path in ["/hls/%ff/index.m3u8", "/api/v1/videos/%ff", "/s/%fe/index.m3u8"] {
        let reply = app.get(path).await;
        assert!([400, 404].contains(&reply.status.as_u16()), "{path}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some("application/problem+json"), "{path}");
    }
}

#[tokio::test]
async fn no_range_header_breaks_the_server() {
    let app = TestApp::new();
    let film = app.film().await;
    let (path, whole) = (film.segment(0), bytes("480p", Some(0)));
    let pieces =
        ["bytes=", "bytes", "=", "-", ",", " ", "0", "7", "99999999999999999999", "+1", "-1", "x"];
    let mut state = 1_u64;
    for _ in 0..2_000 {
        let mut range = String::new();
        for _ in 0..6 {
            // Knuth's linear congruential generator: the same headers in every run.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            range.push_str(pieces[(state >> 33) as usize % pieces.len()]);
        }
        let reply = ranged(&app, &path, None, range.trim()).await;
        match reply.status.as_u16() {
            200 => assert_eq!(&reply.body[..], &whole[..], "{range}"),
            206 => assert!(!reply.body.is_empty() && reply.body.len() <= whole.len(), "{range}"),
            416 => {}
            other => panic!("{other} for {range}"),
        }
    }
}
