//! What a server lost and a payer can prove: by credential and preimage, or by a session's receipt.

use serde_json::json;
use sluice::domain::id::{PaymentHash, Preimage};
use sluice::store::engine::{Engine as _, Op, Table};
use sluice::store::{Durability, Ledger as _};

use crate::app::{Challenge, Reply, TestApp, text};
use crate::sessions::Session;

/// What a power cut does to the record of an invoice that was made in the same second.
pub fn lose(app: &TestApp, hash: &PaymentHash, session: Option<&Session>) {
    let mut gone = vec![Op::Delete(Table::Invoices, hash.as_bytes().to_vec())];
    if let Some(session) = session {
        let id = text(&session.body["id"]);
        gone.push(Op::Delete(Table::Sessions, format!("invoice/{id}/{hash}").into_bytes()));
    }
    app.engine.write(gone, Durability::Process).unwrap();
    assert_eq!(app.store.invoice(hash).unwrap(), None);
}

pub async fn claim(app: &TestApp, session: &Session, receipt: &str, preimage: &str) -> Reply {
    let call = app.call("POST", &format!("{}/claims", session.control));
    call.json(json!({ "receipt": receipt, "preimage": preimage })).send().await
}

#[tokio::test]
async fn a_payment_that_was_nobodys_opens_its_segment_once_its_credential_is_shown() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let preimage = app.node.pay(&challenge.invoice).unwrap();
    app.settled().await;
    assert_eq!(app.ledger().await["viewer_credit_msat"], 2_000);
    let other = Challenge::of(&app.get(&film.segment(2)).await);
    let hash: PaymentHash =
        text(&app.get(&film.segment(3)).await.json()["payment_hash"]).parse().unwrap();
    assert_ne!(preimage.hash(), hash);
    // The record of the second invoice is lost before its payment is told.
    let paid = lightning_hash(&other.invoice);
    lose(&app, &paid, None);
    let preimage = app.node.pay(&other.invoice).unwrap();
    app.settled().await;
    assert_eq!(app.ledger().await["unclaimed_msat"], 2_000);
    let credential = other.credential(preimage);
    for _ in 0..2 {
        let call = app.call("GET", &film.segment(2)).with("authorization", &credential);
        assert_eq!(call.send().await.status, 200);
    }
    let totals = app.ledger().await;
    assert_eq!((&totals["unclaimed_msat"], &totals["payable_msat"]), (&json!(0), &json!(1_940)));
    assert!(app.store.unclaimed(None, 10).unwrap().is_empty());
}

#[tokio::test]
async fn a_receipt_and_its_preimage_restore_a_sessions_credit_once() {
    let app = TestApp::new();
    let film = app.film().await;
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    let invoice = session.open(&app).await.remove(0);
    let receipt = text(&invoice["receipt"]);
    let hash: PaymentHash = text(&invoice["payment_hash"]).parse().unwrap();
    lose(&app, &hash, Some(&session));
    let preimage = String::from(app.node.pay(&text(&invoice["invoice"])).unwrap());
    app.settled().await;
    assert_eq!(session.status(&app).await["credit_msat"], 0);
    assert_eq!(app.ledger().await["unclaimed_msat"], 2_000);
    for _ in 0..2 {
        let reply = claim(&app, &session, &receipt, &preimage).await;
        assert_eq!((reply.status.as_u16(), &reply.json()["credit_msat"]), (200, &json!(2_000)));
    }
    assert_eq!(app.ledger().await["unclaimed_msat"], 0);
    assert_eq!(app.get(&session.segment(1)).await.status, 200);
    let reply = claim(&app, &session, &receipt, &preimage).await;
    assert_eq!(reply.json()["credit_msat"], 0, "what was watched is not credited again");
}

#[tokio::test]
async fn a_receipt_is_worth_nothing_elsewhere_or_without_its_preimage() {
    let app = TestApp::new();
    let film = app.film().await;
    let (mine, other) = (Session::short(&app, &film).await, Session::short(&app, &film).await);
    app.get(&mine.segment(1)).await;
    let invoice = mine.open(&app).await.remove(0);
    let receipt = text(&invoice["receipt"]);
    let preimage = String::from(app.pay(&text(&invoice["invoice"])).await);
    claim(&app, &other, &receipt, &preimage).await.problem(422, "no_receipt");
    let foreign = String::from(Preimage::new([7; 32]));
    claim(&app, &mine, &receipt, &foreign).await.problem(422, "no_receipt");
    claim(&app, &mine, &receipt[1..], &preimage).await.problem(422, "no_receipt");
    claim(&app, &mine, &receipt, "nothing").await.problem(400, "malformed");
    assert_eq!(mine.status(&app).await["credit_msat"], 2_000);
    assert_eq!(other.status(&app).await["credit_msat"], 0);
}

fn lightning_hash(bolt11: &str) -> PaymentHash {
    use lightning_invoice::Bolt11Invoice;
    let invoice: Bolt11Invoice = bolt11.parse().unwrap();
    let bytes: &[u8] = invoice.payment_hash().as_ref();
    PaymentHash::new(bytes.try_into().unwrap())
}
