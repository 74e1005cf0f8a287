//! What the server tells Prometheus, and that the dashboard asks for nothing else.

use serde_json::Value;

use crate::app::{Challenge, TestApp};

#[tokio::test]
async fn a_sale_is_counted_from_challenge_to_bytes() {
    let app = TestApp::new();
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let call = app.call("GET", &film.segment(1)).with("authorization", &credential);
    let bytes = call.send().await.body.len();
    let text = app.get("/metrics").await.text().to_owned();
    for line in [
        "sluice_challenges_total 1".to_owned(),
        "sluice_payments_total{outcome=\"applied\"} 1".to_owned(),
        "sluice_credited_msat_total 2000".to_owned(),
        "sluice_earned_msat_total 2000".to_owned(),
        "sluice_challenge_to_payment_seconds_count 1".to_owned(),
        "sluice_payment_to_bytes_seconds_count 1".to_owned(),
        format!("sluice_served_bytes_total {bytes}"),
        "sluice_unpaid_invoices 0".to_owned(),
        "sluice_held_requests 0".to_owned(),
    ] {
        assert!(text.lines().any(|told| told == line), "{line} is missing in\n{text}");
    }
}

#[tokio::test]
async fn the_dashboard_asks_for_what_is_told() {
    let app = TestApp::new();
    let text = app.get("/metrics").await.text().to_owned();
    let board: Value = serde_json::from_str(include_str!("../../docs/grafana.json")).unwrap();
    let mut asked = 0;
    for panel in board["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let expr = target["expr"].as_str().unwrap();
            for name in expr.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
                let Some(family) = name.strip_prefix("sluice_") else { continue };
                let family = ["_total", "_bucket"]
                    .iter()
                    .fold(family, |family, end| family.strip_suffix(end).unwrap_or(family));
                let told = format!("# TYPE sluice_{family} ");
                assert!(text.contains(&told), "{expr}: nothing tells sluice_{family}");
                asked += 1;
            }
        }
    }
    assert!(asked > 20, "{asked}");
}
