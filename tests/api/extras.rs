//! What lies around a film: stills, chapters, key frames, and subtitles, free or paid.

use std::time::Duration;

use serde_json::{Value, json};
use sluice::blobs::Extra;
use sluice::domain::id::Version;
use sluice::domain::subtitle::Cue;
use sluice::domain::video::Ticks;
use sluice::media::extras::{Chapter, Extras, IFrame, IFrames, Still, Storyboard, Subtitles};
use tokio_util::sync::CancellationToken;

use crate::app::{Call, Challenge, Film, Reply, TestApp, text};
use crate::sessions::{Session, pay};
use crate::transcoder::FILES;

fn at(ms: u64) -> Ticks {
    Ticks::from_millis(ms)
}

fn extras() -> Extras {
    let still = |n: usize, height| {
        let (file, bytes) = FILES[n];
        Still { file: file.to_owned(), bytes: bytes.len() as u64, width: 426, height }
    };
    let cue = |start, end, text: &str| Cue::new(at(start), at(end), text).unwrap();
    Extras {
        poster: Some(still(0, 240)),
        storyboard: Some(Storyboard {
            sheets: vec![still(1, 90)],
            columns: 5,
            rows: 5,
            tile_width: 160,
            tile_height: 90,
            interval: at(5_000),
            tiles: vec![at(0), at(5_000)],
        }),
        waveform: None,
        chapters: vec![Chapter { start: at(0), end: at(10_000), title: "<One>".to_owned() }],
        subtitles: vec![Subtitles {
            language: Some("en".parse().unwrap()),
            name: "English".to_owned(),
            forced: false,
            default: true,
            cues: vec![
                cue(1_000, 2_000, "first"),
                cue(3_000, 9_000, "long"),
                cue(5_000, 6_000, "paid"),
            ],
        }],
        iframes: Some(IFrames {
            bytes: 25,
            init: 6,
            width: 426,
            height: 240,
            codecs: "avc1.64000d".to_owned(),
            frames: vec![
                IFrame { offset: 6, length: 8, start: at(0) },
                IFrame { offset: 14, length: 11, start: at(5_000) },
            ],
        }),
    }
}

/// A film with all that a film can have around it.
async fn film(app: &TestApp) -> Film {
    app.transcoder.extras(extras());
    let film = app.film().await;
    let poster = format!("/hls/{}/1/poster.jpg", film.video);
    for _ in 0..1_000 {
        if app.get(&poster).await.status == 200 {
            // The record is the last write; what was read before it is forgotten.
            tokio::time::sleep(Duration::from_millis(20)).await;
            return film;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    panic!("the extras are never made");
}

fn subtitles<'a>(app: &'a TestApp, film: &Film, method: &str, language: &str) -> Call<'a> {
    let path = format!("/api/v1/videos/{}/subtitles/{language}", film.video);
    app.call(method, &path).key(&film.creator.key)
}

async fn patch(app: &TestApp, film: &Film, edit: Value) -> Reply {
    let path = format!("/api/v1/videos/{}", film.video);
    app.call("PATCH", &path).key(&film.creator.key).json(edit).send().await
}

#[tokio::test]
async fn files_around_a_film_are_free_and_may_be_kept() {
    let app = TestApp::new();
    let film = film(&app).await;
    let shown = app.get(&format!("/api/v1/videos/{}", film.video)).await.json();
    let base = format!("/hls/{}/1", film.video);
    for (name, kind, link) in [
        ("poster.jpg", "image/jpeg", "poster"),
        ("storyboard.vtt", "text/vtt; charset=utf-8", "storyboard"),
        ("chapters.vtt", "text/vtt; charset=utf-8", "chapters"),
        ("sheet-0.jpg", "image/jpeg", ""),
        ("iframes.mp4", "video/mp4", ""),
    ] {
        let path = format!("{base}/{name}");
        let reply = app.get(&path).await;
        assert_eq!(reply.status, 200, "{name}: {reply:?}");
        assert_eq!(reply.header("content-type"), Some(kind));
        assert_eq!(reply.header("cache-control"), Some("public, max-age=600"));
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"));
        if !link.is_empty() {
            assert_eq!(shown[link], path.as_str());
        }
        let tag = reply.header("etag").unwrap().to_owned();
        assert_eq!(app.call("GET", &path).with("if-none-match", &tag).send().await.status, 304);
        assert_eq!(app.call("HEAD", &path).send().await.body.len(), 0);
        let redirect = app.get(&format!("/hls/{}/{name}", film.video)).await;
        assert_eq!(
            (redirect.status.as_u16(), redirect.header("location")),
            (307, Some(path.as_str()))
        );
    }
    assert_eq!(shown["waveform"], Value::Null);
    let ranged = app.call("GET", &format!("{base}/iframes.mp4")).with("range", "bytes=6-13");
    let ranged = ranged.send().await;
    assert_eq!((ranged.status.as_u16(), &ranged.body[..]), (206, &FILES[2].1[6..14]));
    for missing in ["waveform.json", "sheet-1.jpg", "sheet-00.jpg", "extras.json", "sub-en.vtt"] {
        app.get(&format!("{base}/{missing}")).await.problem(404, "not_found");
    }
    let chapters = app.get(&format!("{base}/chapters.vtt")).await;
    assert!(chapters.text().contains("&lt;One&gt;"), "{}", chapters.text());
}

#[tokio::test]
async fn playlists_name_subtitles_and_key_frames_in_films_and_in_sessions() {
    let app = TestApp::new();
    let film = film(&app).await;
    let session = json!({ "video": film.video });
    let session = app.call("POST", "/api/v1/sessions").json(session).send().await.json();
    let play = text(&session["playlist"]).replace("/index.m3u8", "");
    for (base, prefix) in [(format!("/hls/{}", film.video), "1/"), (play, "")] {
        let playlist = app.get(&format!("{base}/index.m3u8")).await;
        let media = format!("#EXT-X-MEDIA:TYPE=SUBTITLES,URI=\"{prefix}sub-en/index.m3u8\"");
        let frames = format!("#EXT-X-I-FRAME-STREAM-INF:URI=\"{prefix}iframes/index.m3u8\"");
        for part in [media.as_str(), &frames, "SUBTITLES=\"subs\"", "DEFAULT=YES"] {
            assert!(playlist.text().contains(part), "{part} in {}", playlist.text());
        }
        let cues = app.get(&format!("{base}/{prefix}sub-en/index.m3u8")).await;
        assert!(
            cues.text().contains("#EXTINF:4,\n7.vtt") || cues.text().contains("\n7.vtt"),
            "{}",
            cues.text()
        );
        let frames = app.get(&format!("{base}/{prefix}iframes/index.m3u8")).await;
        assert!(frames.text().contains("#EXT-X-BYTERANGE:8@6\n"), "{}", frames.text());
        let file = app.get(&format!("{base}/{prefix}iframes.mp4")).await;
        assert_eq!(&file.body[..], FILES[2].1, "beside the playlist's directory");
        let segment = app.get(&format!("{base}/{prefix}sub-en/0.vtt")).await;
        assert_eq!(
            segment.text(),
            "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:0\n\n\
             00:00:01.000 --> 00:00:02.000\nfirst\n\n00:00:03.000 --> 00:00:09.000\nlong\n"
        );
        for missing in ["sub-de/index.m3u8", "sub-en/8.vtt", "sub-EN/0.vtt", "iframes/0.m4s"] {
            app.get(&format!("{base}/{prefix}{missing}")).await.problem(404, "not_found");
        }
    }
}

#[tokio::test]
async fn subtitles_behind_the_preview_open_with_their_segments_payment() {
    let app = TestApp::new();
    let film = film(&app).await;
    let path = format!("/hls/{}/1/sub-en/1.vtt", film.video);
    app.call("HEAD", &path).send().await;
    let challenge = Challenge::of(&app.get(&path).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    for path in [&film.segment(1), &path] {
        let call = app.call("GET", path).with("authorization", &credential);
        let reply = call.send().await;
        assert_eq!(reply.status, 200, "one payment opens both: {reply:?}");
        assert_eq!(reply.header("cache-control"), Some("private, no-transform"));
    }
    let other = format!("/hls/{}/1/sub-en/2.vtt", film.video);
    let call = app.call("GET", &other).with("authorization", &credential).send().await;
    call.problem(402, "payment_required");
}

#[tokio::test]
async fn within_a_session_a_segment_and_its_subtitles_are_drawn_once() {
    let app = TestApp::new();
    let film = film(&app).await;
    let session = Session::short(&app, &film).await;
    let cues = session.segment(1).replace("480p/1.m4s", "sub-en/1.vtt");
    app.get(&cues).await.problem(402, "payment_required");
    let invoice = session.open(&app).await.remove(0);
    pay(&app, &invoice).await;
    let reply = app.get(&cues).await;
    assert_eq!(reply.header("content-type"), Some("text/vtt; charset=utf-8"), "{reply:?}");
    assert!(reply.text().contains("paid"), "{}", reply.text());
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    assert_eq!(session.status(&app).await["spent_msat"], 2_000, "one payment, drawn once");
}

#[tokio::test]
async fn a_creator_may_give_all_subtitles_away() {
    let app = TestApp::new();
    let film = film(&app).await;
    let path = format!("/hls/{}/1/sub-en/2.vtt", film.video);
    app.get(&path).await.problem(402, "payment_required");
    let reply = patch(&app, &film, json!({ "subtitles_free": true })).await;
    assert_eq!(reply.json()["subtitles_free"], true);
    let reply = app.get(&path).await;
    assert_eq!(
        reply.text(),
        "WEBVTT\nX-TIMESTAMP-MAP=LOCAL:00:00:00.000,MPEGTS:0\n\n00:00:03.000 --> 00:00:09.000\nlong\n"
    );
    app.get(&film.segment(2)).await.problem(402, "payment_required");
    let session = json!({ "video": film.video, "hold_ms": 0 });
    let session = app.call("POST", "/api/v1/sessions").json(session).send().await.json();
    let play = text(&session["playlist"]).replace("index.m3u8", "");
    assert_eq!(app.get(&format!("{play}sub-en/2.vtt")).await.status, 200);
    app.get(&format!("{play}480p/2.m4s")).await.problem(402, "payment_required");
    patch(&app, &film, json!({ "subtitles_free": false })).await;
    app.get(&path).await.problem(402, "payment_required");
    app.get(&format!("{play}sub-en/2.vtt")).await.problem(402, "payment_required");
}

#[tokio::test]
async fn subtitles_may_be_sent_replaced_and_deleted() {
    let app = TestApp::new();
    let film = film(&app).await;
    let srt =
        "\u{feff}1\r\n00:00:01,000 --> 00:00:02,000\r\n<b>Hallo</b> <script>alert(1)</script>\r\n";
    let path = format!("pt-br?name={}", "Portugu%C3%AAs%0A%22");
    let reply = subtitles(&app, &film, "PUT", &path).body(srt).send().await;
    assert_eq!(reply.status, 204, "{reply:?}");
    let listed = || async {
        app.get(&format!("/api/v1/videos/{}", film.video)).await.json()["subtitles"].clone()
    };
    let track = listed().await[1].clone();
    assert_eq!((&track["language"], &track["name"]), (&json!("pt-BR"), &json!("Português")));
    assert_eq!(track["uploaded"], true);
    let segment = format!("/hls/{}/1/sub-pt-BR/0.vtt", film.video);
    assert!(app.get(&segment).await.text().ends_with("\nHallo alert(1)\n"));
    let vtt = "WEBVTT\n\n00:01.000 --> 00:02.000\nOlá\n";
    assert_eq!(subtitles(&app, &film, "PUT", "pt-BR").body(vtt).send().await.status, 204);
    assert!(app.get(&segment).await.text().ends_with("\nOlá\n"), "at once");
    let list = app.get(&format!("/hls/{}/index.m3u8", film.video)).await;
    assert!(list.text().contains("LANGUAGE=\"pt-BR\",NAME=\"pt-BR\""), "{}", list.text());
    assert_eq!(subtitles(&app, &film, "DELETE", "pt-BR").send().await.status, 204);
    app.get(&segment).await.problem(404, "not_found");
    subtitles(&app, &film, "DELETE", "pt-BR").send().await.problem(404, "not_found");
    assert_eq!(subtitles(&app, &film, "DELETE", "en").send().await.status, 204, "of the source");
    assert_eq!(listed().await, json!([]));
    subtitles(&app, &film, "DELETE", "en").send().await.problem(404, "not_found");
    assert_eq!(subtitles(&app, &film, "PUT", "en").body(vtt).send().await.status, 204);
    assert_eq!(listed().await[0]["uploaded"], true);
}

#[tokio::test]
async fn what_are_no_subtitles_is_refused_with_the_line() {
    let app = TestApp::new();
    let film = film(&app).await;
    let refused = async |language: &str, body: Vec<u8>| {
        let reply = subtitles(&app, &film, "PUT", language).body(body).send().await;
        text(&reply.problem(422, "invalid")["detail"])
    };
    let reversed = b"WEBVTT\n\n00:01.000 --> 00:02.000\na\n\n00:05.000 --> 00:04.000\nb\n".to_vec();
    assert!(refused("en", reversed).await.contains("line 6: this cue ends before it begins"));
    assert!(refused("en", b"PK\x03\x04zip".to_vec()).await.contains("line 1"));
    assert!(refused("en_US", b"WEBVTT\n".to_vec()).await.contains("BCP 47"));
    let many = "\n00:01.000 --> 00:02.000\nx\n".repeat(100_000);
    assert!(
        refused("en", format!("WEBVTT\n{many}").into_bytes())
            .await
            .contains("more than 20000 cues")
    );
    let large = vec![b'x'; (4 << 20) + 1];
    subtitles(&app, &film, "PUT", "en").body(large).send().await.problem(413, "too_large");
    let stranger = app.creator().await;
    let path = format!("/api/v1/videos/{}/subtitles/en", film.video);
    app.call("PUT", &path).key(&stranger.key).body("x").send().await.problem(404, "not_found");
    app.call("PUT", &path).body("x").send().await.problem(401, "unauthorized");
}

#[tokio::test]
async fn a_film_whose_extras_fail_plays_and_a_deleted_one_leaves_nothing() {
    let app = TestApp::new();
    let without = app.film().await;
    let shown = app.get(&format!("/api/v1/videos/{}", without.video)).await.json();
    assert_eq!((&shown["poster"], &shown["subtitles"]), (&Value::Null, &json!([])));
    assert_eq!(app.get(&without.segment(0)).await.status, 200);
    let film = film(&app).await;
    let vtt = "WEBVTT\n\n00:01.000 --> 00:02.000\nx\n";
    assert_eq!(subtitles(&app, &film, "PUT", "de").body(vtt).send().await.status, 204);
    let path = format!("/api/v1/videos/{}", film.video);
    assert_eq!(app.call("DELETE", &path).key(&film.creator.key).send().await.status, 204);
    for file in ["poster.jpg", "iframes.mp4", "sub-de/0.vtt", "sub-en/index.m3u8"] {
        app.get(&format!("/hls/{}/1/{file}", film.video)).await.problem(404, "not_found");
    }
    subtitles(&app, &film, "PUT", "de").body(vtt).send().await.problem(404, "not_found");
    let id = film.video.parse().unwrap();
    assert_eq!(app.blobs.delete(id).await.unwrap(), 0, "no byte is left");
}

#[tokio::test]
async fn subtitles_are_made_for_who_paid_and_never_larger_than_a_segment_may_be() {
    let app = TestApp::new();
    let film = film(&app).await;
    let cue = format!("\n00:00.000 --> 00:30.000\n{}\n", "&".repeat(1_000));
    let vtt = format!("WEBVTT\n{}", cue.repeat(4_000));
    assert_eq!(subtitles(&app, &film, "PUT", "de").body(vtt).send().await.status, 204);
    let path = |number: u32| format!("/hls/{}/1/sub-de/{number}.vtt", film.video);
    let head = async |number: u32| app.call("HEAD", &path(number)).send().await;
    assert_eq!(head(1).await.status, 402);
    // The preview's. Nothing was made, so its length is not known.
    let free = head(0).await;
    assert_eq!((free.status.as_u16(), free.header("content-length")), (200, None));
    let challenge = Challenge::of(&app.get(&path(1)).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let get = async || {
        let call = app.call("GET", &path(1)).with("authorization", &credential);
        call.send().await
    };
    let reply = get().await;
    assert_eq!(reply.status, 200, "{reply:?}");
    assert!((200 << 10..257 << 10).contains(&reply.body.len()), "{}", reply.body.len());
    let tag = reply.header("etag").unwrap().to_owned();
    assert_eq!(get().await.header("etag"), Some(tag.as_str()), "the same bytes");
    let call = app.call("GET", &path(1)).with("authorization", &credential);
    assert_eq!(call.with("if-none-match", &tag).send().await.status, 304);
    assert_eq!(app.get(&path(0)).await.body.len(), reply.body.len(), "the preview's as well");
}

/// Whoever does not pay costs a look at a record: the cues are not read for them.
#[tokio::test]
async fn the_payment_is_looked_at_before_the_cues() {
    let app = TestApp::new();
    let film = film(&app).await;
    let path = format!("/hls/{}/1/sub-en/1.vtt", film.video);
    let (id, english) = (film.video.parse().unwrap(), "en".parse().unwrap());
    let cues = Extra::Subtitles(english);
    app.blobs.delete_extra(id, Some(Version(1)), &cues).await.unwrap();
    let challenge = Challenge::of(&app.get(&path).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let call = app.call("GET", &path).with("authorization", &credential);
    call.send().await.problem(404, "not_found");
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200, "nothing was charged, and the film opens");
}

#[tokio::test]
async fn extras_of_a_version_that_nobody_wants_any_more_are_not_kept() {
    let app = TestApp::new();
    let film = film(&app).await;
    let id = film.video.parse().unwrap();
    let kept = async |version| {
        let record = app.blobs.extra(id, Some(version), &Extra::Record).await.unwrap();
        let poster = app.blobs.extra(id, Some(version), &Extra::Poster).await.unwrap();
        (record.is_some(), poster.is_some())
    };
    // What was cancelled, or swept, while its extras were made.
    for version in [Version(7), Version(1)] {
        let work = tempfile::tempdir().unwrap();
        let source = work.path().join("source");
        let made = app.shared.library.make_extras(
            (id, version),
            (at(30_000), true),
            &source,
            work.path(),
            CancellationToken::new(),
        );
        made.await.unwrap();
        let published = version == Version(1);
        assert_eq!(kept(version).await, (published, published), "{version}");
    }
}
