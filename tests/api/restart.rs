//! A crash or stop between any two steps: what was paid is there, and nothing is booked twice.

use serde_json::json;

use crate::app::{Challenge, TestApp, until};

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
