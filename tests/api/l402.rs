//! Segments by L402: each request an invoice, each payment one segment.

use std::time::Duration;

use serde_json::json;
use sluice::store::Ledger as _;

use crate::app::{Challenge, TestApp, text};
use crate::transcoder::bytes;

#[tokio::test]
async fn the_preview_is_free_and_mints_nothing() {
    let app = TestApp::new();
    let film = app.film().await;
    let reply = app.get(&film.segment(0)).await;
    assert_eq!((reply.status.as_u16(), &reply.body[..]), (200, &bytes("480p", Some(0))[..]));
    assert_eq!(reply.header("content-type"), Some("video/mp4"));
    assert_eq!(app.ledger().await["channels_msat"], 0);
}

#[tokio::test]
async fn an_unpaid_segment_answers_with_one_challenge_in_the_form_that_all_clients_read() {
    let app = TestApp::new();
    let film = app.film().await;
    let reply = app.get(&film.segment(1)).await;
    let challenge = Challenge::of(&reply);
    assert!(challenge.invoice.starts_with("lnbcrt20n1"), "2 satoshi: {}", challenge.invoice);
    let body = reply.json();
    assert_eq!(body["amount_msat"], 2_000);
    assert_eq!(body["segment"], 1);
    assert_eq!(text(&body["payment_hash"]).len(), 64);
    assert!(body["expires_at"].as_u64().is_some());
    let other = app.get(&film.segment(1)).await;
    assert_ne!(Challenge::of(&other).invoice, challenge.invoice, "each request a fresh invoice");
    assert_eq!(app.get(&film.segment(7)).await.json()["amount_msat"], 1_000, "the short last one");
}

#[tokio::test]
async fn a_paid_segment_is_served_again_within_the_grace_and_costs_anew_after_it() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let again =
        async |path: &str| app.call("GET", path).with("authorization", &credential).send().await;
    for path in [film.segment(1), film.segment(1), film.segment(1).replace("480p", "240p")] {
        let reply = again(&path).await;
        assert_eq!(reply.status, 200, "{path}");
        assert_eq!(reply.header("cache-control"), Some("private, no-transform"));
        assert!(reply.headers.get_all("vary").iter().any(|vary| vary == "Authorization"));
        app.advance(Duration::from_secs(20));
    }
    app.advance(Duration::from_secs(1));
    let reply = again(&film.segment(1)).await;
    assert_ne!(Challenge::of(&reply).invoice, challenge.invoice);
    let totals = app.ledger().await;
    assert_eq!((&totals["payable_msat"], &totals["fee_msat"]), (&json!(1_940), &json!(60)));
    assert_eq!(totals["viewer_credit_msat"], 0);
}

#[tokio::test]
async fn what_is_paid_waits_to_be_redeemed_and_is_only_then_earned() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let preimage = app.pay(&challenge.invoice).await;
    let totals = app.ledger().await;
    assert_eq!(
        (&totals["viewer_credit_msat"], &totals["payable_msat"]),
        (&json!(2_000), &json!(0))
    );
    app.advance(Duration::from_secs(6 * 86_400));
    let credential = challenge.credential(preimage);
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200, "long after its invoice expired");
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 1_940);
}

/// Takes the 8 seconds of the protocol: tokio's clock cannot be moved without its `test-util`, which would build every crate twice.
#[tokio::test]
async fn a_preimage_that_outruns_its_event_waits_then_proves_the_payment_and_the_event_adds_nothing()
 {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let preimage = app.node.pay_silently(&challenge.invoice).unwrap();
    let begun = std::time::Instant::now();
    let credential = challenge.credential(preimage);
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    let reply = call.send().await;
    assert_eq!(reply.status, 200, "never 402: {reply:?}");
    assert!((8..10).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    assert_eq!(app.ledger().await["channels_msat"], 2_000);
    app.node.tell();
    app.settled().await;
    let totals = app.ledger().await;
    assert_eq!((&totals["channels_msat"], &totals["unclaimed_msat"]), (&json!(2_000), &json!(0)));
    assert_eq!(totals["viewer_credit_msat"], 0);
}

#[tokio::test]
async fn a_waiting_request_is_served_the_moment_its_event_comes() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let preimage = app.node.pay_silently(&challenge.invoice).unwrap();
    let credential = challenge.credential(preimage);
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    let waiting = tokio::spawn(call.send());
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished());
    app.node.tell();
    let reply = tokio::time::timeout(Duration::from_secs(4), waiting).await.expect("woken");
    assert_eq!(reply.unwrap().status, 200);
}

#[tokio::test]
async fn a_second_payment_of_an_invoice_and_an_excess_become_unclaimed() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let preimage = app.pay(&challenge.invoice).await;
    app.node.repeat(&preimage.hash()).unwrap();
    app.settled().await;
    assert_eq!(app.ledger().await["unclaimed_msat"], 2_000);
    let challenge = Challenge::of(&app.get(&film.segment(2)).await);
    let more = sluice::domain::amount::Msat::new(2_500);
    app.node.pay_amount(&challenge.invoice, more).unwrap();
    app.settled().await;
    let totals = app.ledger().await;
    assert_eq!(totals["unclaimed_msat"], 2_500);
    assert_eq!(
        (&totals["viewer_credit_msat"], &totals["channels_msat"]),
        (&json!(4_000), &json!(6_500))
    );
}

#[tokio::test]
async fn two_requests_that_race_with_one_credential_are_charged_once() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let call = || app.call("GET", &film.segment(1)).with("authorization", &credential).send();
    let replies = futures::future::join_all((0..8).map(|_| call())).await;
    assert!(replies.iter().filter(|reply| reply.status == 200).count() >= 4, "{replies:?}");
    assert!(replies.iter().all(|reply| reply.status != 402), "never a new charge");
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 1_940);
}

#[tokio::test]
async fn after_a_change_of_price_an_invoice_still_buys_what_it_was_made_for() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let preimage = app.pay(&challenge.invoice).await;
    let path = format!("/api/v1/videos/{}", film.video);
    let edit = json!({ "msat_per_second": 1_000 });
    let reply = app.call("PATCH", &path).key(&film.creator.key).json(edit).send().await;
    assert_eq!(reply.json()["msat_per_second"], 1_000);
    let credential = challenge.credential(preimage);
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200);
    assert_eq!(app.get(&film.segment(1)).await.json()["amount_msat"], 4_000);
}

#[tokio::test]
async fn a_free_title_mints_nothing() {
    let app = TestApp::new();
    let film = app.film().await;
    let path = format!("/api/v1/videos/{}", film.video);
    let edit = json!({ "msat_per_second": 0 });
    app.call("PATCH", &path).key(&film.creator.key).json(edit).send().await;
    assert_eq!(app.get(&film.segment(5)).await.status, 200);
}

#[tokio::test]
async fn no_more_is_sold_of_a_version_that_another_one_took_the_place_of() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = crate::sessions::Session::short(&app, &film).await;
    let paid = Challenge::of(&app.get(&film.segment(1)).await);
    let credential = paid.credential(app.pay(&paid.invoice).await);
    assert_eq!(app.upload(&film.creator, &film.video).await.status, 202);
    let path = format!("/api/v1/videos/{}", film.video);
    while app.get(&path).await.json()["version"] != 2 {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    let unpaid = app.store.unpaid();
    let gone = app.get(&film.segment(1)).await.problem(410, "gone");
    let playlist = format!("/hls/{}/index.m3u8", film.video);
    assert!(gone["detail"].as_str().unwrap().contains(&playlist), "{gone}");
    let other = app.call("GET", &film.segment(2)).with("authorization", &credential);
    other.send().await.problem(410, "gone");
    assert_eq!(app.call("HEAD", &film.segment(1)).send().await.status, 410);
    assert_eq!(app.store.unpaid(), unpaid, "nothing was minted");
    for _ in 0..2 {
        let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
        assert_eq!(call.send().await.status, 200, "what was paid is served");
    }
    assert_eq!(app.get(&film.segment(0)).await.status, 200, "and the preview");
    // A session goes on with the version that it began.
    app.get(&session.segment(1)).await.problem(402, "payment_required");
    let invoice = session.open(&app).await.remove(0);
    crate::sessions::pay(&app, &invoice).await;
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    Challenge::of(&app.get(&film.segment(1).replace("/1/480p", "/2/480p")).await);
}
