//! What a creator earned reaches the creator's node.

use serde_json::{Value, json};
use sluice::domain::amount::Msat;
use sluice::lightning::fake::{FakeNode, Outcome};
use sluice::lightning::{Issuer as _, Network};
use sluice::store::Payouts as _;

use crate::app::{Challenge, Film, TestApp, until};

async fn sold(outcomes: &[Outcome]) -> (TestApp, Film) {
    let app = TestApp::with(|config| config.payout.threshold_msat = 3_000);
    app.node.set_outcome(Outcome::Succeed, Msat::new(7));
    app.node.script(outcomes.iter().copied());
    let film = app.film().await;
    let node = FakeNode::numbered(Network::Regtest, 2).unwrap().node_id().to_string();
    let edit = json!({ "payout": { "kind": "keysend", "destination": node } });
    let call = app.call("PATCH", "/api/v1/creators/me").key(&film.creator.key);
    assert_eq!(call.json(edit).send().await.status, 200);
    for number in 1..3 {
        buy(&app, &film, number).await;
    }
    (app, film)
}

async fn buy(app: &TestApp, film: &Film, number: u32) {
    let challenge = Challenge::of(&app.get(&film.segment(number)).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let call = app.call("GET", &film.segment(number)).with("authorization", &credential);
    assert_eq!(call.send().await.status, 200);
}

async fn payouts(app: &TestApp, film: &Film) -> Vec<Value> {
    let reply = app.call("GET", "/api/v1/payouts").key(&film.creator.key).send().await;
    reply.json()["payouts"].as_array().unwrap().clone()
}

async fn first(app: &TestApp, film: &Film, state: &str) -> Value {
    let begun = std::time::Instant::now();
    loop {
        if let Some(payout) = payouts(app, film).await.pop().filter(|of| of["state"] == state) {
            return payout;
        }
        assert!(begun.elapsed() < crate::app::DEADLINE, "no payout is {state}");
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn a_creator_is_paid_what_was_earned_less_the_routing_fee() {
    let (app, film) = sold(&[]).await;
    let payout = first(&app, &film, "arrived").await;
    assert_eq!((&payout["amount_msat"], &payout["fee_msat"]), (&json!(2_880), &json!(7)));
    let earnings = app.earnings(&film.creator).await;
    assert_eq!(earnings["earned_msat"], 3_880);
    assert_eq!(earnings["paid_out_msat"], 2_880);
    assert_eq!((&earnings["routing_msat"], &earnings["payable_msat"]), (&json!(7), &json!(993)));
    app.settled().await;
    assert_eq!(app.ledger().await["channels_msat"], 4_000 - 2_887);
}

#[tokio::test]
async fn a_payout_that_comes_back_is_payable_again_and_is_tried_again_only_later() {
    let (app, film) = sold(&[Outcome::Fail; 1_000]).await;
    let payout = first(&app, &film, "returned").await;
    assert!(!payout["reason"].as_str().unwrap().contains("scripted"), "no routes: {payout}");
    buy(&app, &film, 3).await;
    app.settled().await;
    let earnings = app.earnings(&film.creator).await;
    assert_eq!(
        (&earnings["earned_msat"], &earnings["payable_msat"]),
        (&json!(5_820), &json!(5_820))
    );
    assert_eq!(payouts(&app, &film).await.len(), 1, "it rests");
    app.advance(std::time::Duration::from_secs(10));
    buy(&app, &film, 4).await;
    until("it is tried again", || {
        app.store.payouts(film.creator.id.parse().unwrap(), 9).unwrap().len() == 2
    })
    .await;
}

#[tokio::test]
async fn a_payout_of_unknown_outcome_is_asked_about_and_never_sent_twice() {
    let (app, film) = sold(&[Outcome::BreakAndSucceed]).await;
    let payout = first(&app, &film, "arrived").await;
    assert_eq!(payout["amount_msat"], 2_880);
    assert_eq!(app.earnings(&film.creator).await["paid_out_msat"], 2_880);
}

#[tokio::test]
async fn a_payout_on_its_way_outlives_a_restart_and_is_sent_once() {
    let (app, film) = sold(&[Outcome::Hang]).await;
    let payout = first(&app, &film, "pending").await;
    assert_eq!(app.earnings(&film.creator).await["in_flight_msat"], 3_880);
    let app = app.restarted(0).await;
    let hash = payout["payment_hash"].as_str().unwrap().parse().unwrap();
    until("the node still has it", || app.node.settle(&hash, true)).await;
    let payout = first(&app, &film, "arrived").await;
    assert_eq!(payout["payment_hash"].as_str().unwrap(), hash.to_string());
    assert_eq!(payouts(&app, &film).await.len(), 1);
}

#[tokio::test]
async fn a_payout_that_may_be_on_its_way_is_not_given_up_for_want_of_a_route() {
    let (app, film) = sold(&[Outcome::Hang]).await;
    let payout = first(&app, &film, "pending").await;
    app.advance(std::time::Duration::from_secs(1));
    let app = app.restarted(0).await;
    // Longer than the node takes to tell all that it kept: now LDK is asked, which finds no route before it looks whether it knows the payment.
    app.node.script([Outcome::NoRoute; 1_000]);
    for _ in 0..3 {
        let attempts = app.node.attempts();
        app.advance(std::time::Duration::from_secs(120));
        buy(&app, &film, 3).await;
        until("it is tried again", || app.node.attempts() > attempts).await;
    }
    assert_eq!(payouts(&app, &film).await.len(), 1, "nothing is planned beside it");
    assert_eq!(payouts(&app, &film).await[0]["state"], "pending");
    let hash = payout["payment_hash"].as_str().unwrap().parse().unwrap();
    assert!(app.node.settle(&hash, true), "it was on its way all the time");
    first(&app, &film, "arrived").await;
    assert_eq!(app.earnings(&film.creator).await["paid_out_msat"], 2_880);
}
