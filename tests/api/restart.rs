//! A crash or stop between any two steps: what was paid is there, and nothing is booked twice.

use serde_json::json;

use sluice::store::{Ledger as _, Storage as _};

use crate::app::{Challenge, TestApp, text, until};
use crate::sessions::{Session, pay};

#[tokio::test]
async fn what_was_paid_before_a_restart_opens_after_it() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let unpaid = Challenge::of(&app.get(&film.segment(2)).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let app = app.restarted(0).await;
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200);
    let late = unpaid.credential(app.pay(&unpaid.invoice).await);
    let call = app.call("GET", &film.segment(2)).with("authorization", &late);
    assert_eq!(call.send().await.status, 200, "an invoice of the earlier process");
    let app = app.restarted(0).await;
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200, "the grace goes on");
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 3_880);
}

#[tokio::test]
async fn payments_that_are_told_again_after_a_restart_are_booked_once() {
    let app = TestApp::new();
    let film = app.film().await;
    for number in 1..4 {
        let challenge = Challenge::of(&app.get(&film.segment(number)).await);
        app.pay(&challenge.invoice).await;
    }
    let mut app = app;
    for _ in 0..3 {
        app = app.restarted(3).await;
        app.settled().await;
        let totals = app.ledger().await;
        assert_eq!(
            (&totals["channels_msat"], &totals["unclaimed_msat"]),
            (&json!(6_000), &json!(0))
        );
    }
}

#[tokio::test]
async fn a_payment_that_came_while_the_store_failed_is_booked_by_the_next_process() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    app.engine.fail_writes();
    let preimage = app.node.pay(&challenge.invoice).unwrap();
    until("minting stops", || app.shared.operations.suspension.is_set()).await;
    app.engine.mend();
    let app = app.restarted(1).await;
    app.settled().await;
    let credential = challenge.credential(preimage);
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200);
    assert_eq!(app.ledger().await["channels_msat"], 2_000);
}

#[tokio::test]
async fn rotated_keys_void_what_was_issued_before_and_its_money_goes_to_the_creators_when_it_expires()
 {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let unpaid = Challenge::of(&app.get(&film.segment(2)).await);
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    let open = session.open(&app).await;
    pay(&app, &open[0]).await;
    app.store.rotate_keys().unwrap();
    let call = app.call("HEAD", &film.segment(1)).with("authorization", &credential);
    assert_eq!(
        call.send().await.status,
        200,
        "the process that runs has the keys that it began with"
    );
    let app = app.restarted(0).await;
    let show = |credential: &str, number| {
        app.call("GET", &film.segment(number)).with("authorization", credential).send()
    };
    let fresh = Challenge::of(&show(&credential, 1).await);
    let late = unpaid.credential(app.pay(&unpaid.invoice).await);
    Challenge::of(&show(&late, 2).await);
    app.get(&session.segment(1)).await.problem(404, "no_session");
    app.get(&session.control).await.problem(404, "no_session");
    let next = Session::short(&app, &film).await;
    let claim = json!({ "receipt": text(&open[0]["receipt"]), "preimage": "00".repeat(32) });
    let call = app.call("POST", &format!("{}/claims", next.control)).json(claim);
    call.send().await.problem(422, "no_receipt");
    assert_eq!(app.ledger().await["viewer_credit_msat"], 6_000, "booked as it was");
    let credential = fresh.credential(app.pay(&fresh.invoice).await);
    assert_eq!(show(&credential, 1).await.status, 200, "what is issued now is good");
    let now = sluice::runtime::Clock::now_ms(&*app.clock);
    app.store.sweep(0, now + 1, now + 1).unwrap();
    assert_eq!(app.ledger().await["viewer_credit_msat"], 0);
    assert_eq!(app.earnings(&film.creator).await["payable_msat"], 1_940 + 6_000);
}
