//! What becomes of a session's money near its end and after it.

use std::time::Duration;

use serde_json::{Value, json};
use sluice::domain::id::PaymentHash;
use sluice::runtime::Clock as _;
use sluice::store::{Ledger as _, Sessions as _};

use crate::app::{Film, TestApp, text};
use crate::claims::{claim, lose};
use crate::sessions::{Session, pay};

const LATE: Duration = Duration::from_secs(4 * 3_600);
const REDEEM: Duration = Duration::from_secs(7 * 86_400);

/// A session of a minute, of which nobody has paid anything, and its open invoices.
async fn minute() -> (TestApp, Film, Session, Vec<Value>) {
    let app = TestApp::with(|config| config.payment.session_seconds = 60);
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    let open = session.open(&app).await;
    assert_eq!(open.len(), 2);
    (app, film, session, open)
}

/// What the program does from time to time.
fn sweep(app: &TestApp) {
    let now = app.clock.now_ms();
    let redeem = u64::try_from(REDEEM.as_millis()).unwrap();
    app.store.sweep(now / 1_000 - LATE.as_secs(), now - redeem, now).unwrap();
    app.store.forget_sessions(now / 1_000).unwrap();
}

#[tokio::test]
async fn what_is_paid_after_the_end_plays_and_nothing_is_minted_then() {
    let (app, _film, session, open) = minute().await;
    app.advance(Duration::from_secs(61));
    let unpaid = app.store.unpaid();
    app.get(&session.segment(2)).await.problem(402, "payment_required");
    pay(&app, &open[0]).await;
    let status = session.status(&app).await;
    assert_eq!(status["credit_msat"], 2_000);
    assert_eq!(app.get(&text(&session.body["playlist"])).await.status, 200);
    let master = text(&session.body["playlist"]);
    assert_eq!(app.get(&master.replace("index.m3u8", "480p/index.m3u8")).await.status, 200);
    for _ in 0..2 {
        assert_eq!(app.get(&session.segment(1)).await.status, 200, "drawn, and again");
    }
    let body = app.get(&session.segment(3)).await.problem(402, "payment_required");
    assert_eq!(body["invoice"], Value::Null);
    assert_eq!(session.status(&app).await["spent_msat"], 2_000);
    assert_eq!(app.store.unpaid(), unpaid - 1, "nothing was minted");
}

#[tokio::test]
async fn who_follows_a_session_after_its_end_is_told_that_and_nothing_to_pay() {
    let (app, _film, session, open) = minute().await;
    app.advance(Duration::from_secs(61));
    pay(&app, &open[0]).await;
    let mut events = session.events(&app).await;
    assert_eq!(events.next().await.name, "end");
    assert!(events.has_ended().await);
}

#[tokio::test]
async fn the_keys_end_when_no_credit_is_left_and_no_payment_may_come() {
    let (app, _film, session, open) = minute().await;
    pay(&app, &open[0]).await;
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    app.advance(Duration::from_secs(600) + LATE);
    sweep(&app);
    assert_eq!(app.get(&session.segment(1)).await.status, 200, "the other one may still be paid");
    app.advance(Duration::from_secs(1));
    app.get(&session.segment(1)).await.problem(404, "no_session");
    app.get(&session.control).await.problem(404, "no_session");
    app.get(&session.invoices).await.problem(404, "no_session");
}

#[tokio::test]
async fn credit_keeps_the_keys_good_until_it_could_not_be_redeemed_any_more() {
    let (app, _film, session, open) = minute().await;
    for invoice in &open {
        pay(&app, invoice).await;
    }
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    for _ in 0..6 {
        app.advance(Duration::from_secs(86_400));
        sweep(&app);
        assert_eq!(app.get(&session.segment(1)).await.status, 200, "served before");
    }
    assert_eq!(app.get(&session.segment(2)).await.status, 200, "from the credit");
    app.get(&session.segment(1)).await.problem(404, "no_session");
    let (app, _film, session, open) = minute().await;
    pay(&app, &open[0]).await;
    app.advance(REDEEM + Duration::from_secs(61));
    app.get(&session.segment(1)).await.problem(404, "no_session");
    app.get(&session.control).await.problem(404, "no_session");
}

#[tokio::test]
async fn credit_that_was_lost_is_claimed_after_the_end_too() {
    let (app, _film, session, open) = minute().await;
    let hash: PaymentHash = text(&open[0]["payment_hash"]).parse().unwrap();
    lose(&app, &hash, Some(&session));
    let preimage = String::from(app.node.pay(&text(&open[0]["invoice"])).unwrap());
    app.settled().await;
    app.advance(LATE + LATE);
    sweep(&app);
    app.get(&session.segment(1)).await.problem(404, "no_session");
    let receipt = text(&open[0]["receipt"]);
    let reply = claim(&app, &session, &receipt, &preimage).await;
    assert_eq!((reply.status.as_u16(), &reply.json()["credit_msat"]), (200, &json!(2_000)));
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    app.advance(REDEEM);
    claim(&app, &session, &receipt, &preimage).await.problem(404, "no_session");
}

#[tokio::test]
async fn a_claim_for_a_title_that_was_removed_is_credited_and_told_what_is_left() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    let open = session.open(&app).await;
    let hash: PaymentHash = text(&open[0]["payment_hash"]).parse().unwrap();
    lose(&app, &hash, Some(&session));
    let preimage = String::from(app.node.pay(&text(&open[0]["invoice"])).unwrap());
    app.settled().await;
    assert_eq!(app.ledger().await["unclaimed_msat"], 2_000);
    let path = format!("/api/v1/videos/{}", film.video);
    let call = app.call("DELETE", &path).key(&film.creator.key);
    assert_eq!(call.send().await.status, 204);
    for _ in 0..2 {
        let reply = claim(&app, &session, &text(&open[0]["receipt"]), &preimage).await;
        assert_eq!(reply.problem(410, "gone")["credit_msat"], 2_000);
    }
    let totals = app.ledger().await;
    assert_eq!(
        (&totals["unclaimed_msat"], &totals["viewer_credit_msat"]),
        (&json!(0), &json!(2_000))
    );
    let other = Session { control: format!("{}x", session.control), ..session };
    claim(&app, &other, "nothing", &preimage).await.problem(404, "no_session");
}
