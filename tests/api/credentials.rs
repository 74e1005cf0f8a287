//! Which credentials open a segment, in which spellings; everything else gets a challenge that can be paid.

use crate::app::{Challenge, Film, Reply, TestApp};

struct Paid {
    app: TestApp,
    film: Film,
    challenge: Challenge,
    preimage: String,
}

impl Paid {
    async fn segment_1() -> Self {
        let app = TestApp::new();
        let film = app.film().await;
        let challenge = Challenge::of(&app.get(&film.segment(1)).await);
        let preimage = String::from(app.pay(&challenge.invoice).await);
        Self { app, film, challenge, preimage }
    }

    async fn shown(&self, number: u32, authorization: &[&str]) -> Reply {
        let mut call = self.app.call("GET", &self.film.segment(number));
        for value in authorization {
            call = call.with("authorization", value);
        }
        call.send().await
    }

    /// The answer is a challenge that, paid, opens the segment.
    async fn is_challenged(&self, number: u32, authorization: &str) {
        let reply = self.shown(number, &[authorization]).await;
        let fresh = Challenge::of(&reply);
        assert_ne!(fresh.invoice, self.challenge.invoice, "{authorization}");
        let credential = fresh.credential(self.app.pay(&fresh.invoice).await);
        let reply = self.shown(number, &[&credential]).await;
        assert_eq!(reply.status, 200, "{authorization}");
    }
}

#[tokio::test]
async fn every_spelling_that_clients_use_is_accepted() {
    let paid = Paid::segment_1().await;
    let (macaroon, preimage) = (&paid.challenge.macaroon, &paid.preimage);
    let upper = preimage.to_uppercase();
    let unpadded = macaroon.trim_end_matches('=');
    for value in [
        format!("L402 {macaroon}:{preimage}"),
        format!("LSAT {macaroon}:{preimage}"),
        format!("l402 {macaroon}:{preimage}"),
        format!("lsat {macaroon}:{preimage}"),
        format!("L402 L402 {macaroon}:{preimage}"),
        format!("L402  {macaroon}:{preimage}"),
        format!("L402 {macaroon}:{upper}"),
        format!("L402 {unpadded}:{preimage}"),
    ] {
        assert_eq!(paid.shown(1, &[&value]).await.status, 200, "{value}");
    }
}

#[tokio::test]
async fn the_good_one_of_several_authorization_headers_counts() {
    let paid = Paid::segment_1().await;
    let good = format!("L402 {}:{}", paid.challenge.macaroon, paid.preimage);
    let other = Challenge::of(&paid.app.get(&paid.film.segment(2)).await);
    let wrong = format!("L402 {}:{}", other.macaroon, paid.preimage);
    for values in [["Basic dTpw", good.as_str()], [&wrong, &good], [&good, "Bearer x"]] {
        assert_eq!(paid.shown(1, &values).await.status, 200, "{values:?}");
    }
}

#[tokio::test]
async fn the_credential_of_one_segment_buys_a_challenge_for_another() {
    let paid = Paid::segment_1().await;
    let good = format!("L402 {}:{}", paid.challenge.macaroon, paid.preimage);
    paid.is_challenged(2, &good).await;
    assert_eq!(paid.shown(1, &[&good]).await.status, 200, "and still opens its own");
}

#[tokio::test]
async fn a_bad_credential_buys_a_challenge_that_can_be_paid() {
    let paid = Paid::segment_1().await;
    let (macaroon, preimage) = (&paid.challenge.macaroon, &paid.preimage);
    let wrong = "00".repeat(32);
    let short = &preimage[..62];
    let turned: String = macaroon.chars().rev().collect();
    for value in [
        format!("L402 {macaroon}:{wrong}"),
        format!("L402 {macaroon}:{short}"),
        format!("L402 {macaroon}:"),
        format!("L402 {macaroon}"),
        format!("L402 {turned}:{preimage}"),
        format!("L402 :{preimage}"),
        format!("L402 {}:{preimage}", "A".repeat(9_000)),
        format!("Bearer {macaroon}:{preimage}"),
        "L402 \u{1f4b8}:x".to_owned(),
        "L402".to_owned(),
    ] {
        paid.is_challenged(1, &value).await;
    }
}

#[tokio::test]
async fn a_preimage_without_the_credential_opens_nothing() {
    let paid = Paid::segment_1().await;
    let other = Challenge::of(&paid.app.get(&paid.film.segment(1)).await);
    paid.is_challenged(1, &format!("L402 {}:{}", other.macaroon, paid.preimage)).await;
}

#[tokio::test]
async fn the_credential_of_one_title_opens_no_other() {
    let paid = Paid::segment_1().await;
    let other = paid.app.film().await;
    let good = format!("L402 {}:{}", paid.challenge.macaroon, paid.preimage);
    let call = paid.app.call("GET", &other.segment(1)).with("authorization", &good);
    Challenge::of(&call.send().await);
}
