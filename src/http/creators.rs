//! Creators: who they are, what they earned, what they were paid.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::App;
use super::error::Answer;
use super::extract::{Caller, Document};
use crate::domain::amount::Msat;
use crate::domain::id::{CreatorId, PaymentHash, PayoutId, Preimage};
use crate::statements::Earnings;
use crate::store::{Creator, Destination, Payout, PayoutState};

/// Payouts of one answer.
const PAYOUTS_MAX: usize = 100;

/// `POST /api/v1/creators`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Create {
    name: String,
    payout: Option<Destination>,
}

/// A new creator; the key is shown here and never again.
pub async fn create(
    State(app): State<App>,
    caller: Caller,
    Document(create): Document<Create>,
) -> Answer {
    caller.operator()?;
    let (creator, key) = app.library.create_creator(&create.name, create.payout)?;
    Ok((StatusCode::CREATED, Json(json!({ "id": creator.id, "key": key }))).into_response())
}

/// `GET /api/v1/creators/me`
pub async fn me(State(app): State<App>, caller: Caller) -> Answer<Json<Creator>> {
    Ok(Json(app.library.creator(caller.creator()?)?))
}

/// `PATCH /api/v1/creators/me`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Edit {
    name: Option<String>,
    payout: Option<Destination>,
}

/// Changes name or destination.
pub async fn edit(
    State(app): State<App>,
    caller: Caller,
    Document(edit): Document<Edit>,
) -> Answer<Json<Creator>> {
    let creator = caller.creator()?;
    Ok(Json(app.library.edit_creator(creator, edit.name.as_deref(), edit.payout)?))
}

/// `GET /api/v1/earnings`
pub async fn earnings(State(app): State<App>, caller: Caller) -> Answer<Json<Earnings>> {
    Ok(Json(app.statements.earnings(caller.creator()?)?))
}

#[derive(Serialize)]
struct Shown {
    id: PayoutId,
    creator: CreatorId,
    destination: Destination,
    amount_msat: Msat,
    payment_hash: PaymentHash,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee_msat: Option<Msat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preimage: Option<Preimage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    created_ms: u64,
}

/// `GET /api/v1/payouts`: newest first.
pub async fn payouts(State(app): State<App>, caller: Caller) -> Answer<Response> {
    let payouts = app.statements.payouts(caller.creator()?, PAYOUTS_MAX)?;
    let payouts: Vec<Shown> = payouts.into_iter().map(shown).collect();
    Ok(Json(json!({ "payouts": payouts })).into_response())
}

fn shown(payout: Payout) -> Shown {
    let (state, fee_msat, preimage, reason) = match payout.state {
        PayoutState::Pending => ("pending", None, None, None),
        PayoutState::Arrived { fee, preimage } => ("arrived", Some(fee), preimage, None),
        // Why exactly is in the operator's log: routes are no creator's business.
        PayoutState::Returned { .. } => {
            ("returned", None, None, Some("it could not be delivered; the amount is payable again"))
        }
    };
    Shown {
        id: payout.id,
        creator: payout.creator,
        destination: payout.destination,
        amount_msat: payout.amount,
        payment_hash: payout.hash,
        state,
        fee_msat,
        preimage,
        reason,
        created_ms: payout.created_ms,
    }
}
