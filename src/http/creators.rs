//! Creators: who they are, what they earned, what they were paid.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::App;
use super::error::Answer;
use super::extract::{Caller, Document, Path};
use crate::domain::amount::Msat;
use crate::domain::destination::Destination;
use crate::domain::id::{CreatorId, PaymentHash, PayoutId, Preimage};
use crate::payout::Paused;
use crate::statements::Earnings;
use crate::store::{Cause, Creator, Payout, PayoutState};

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
pub async fn me(State(app): State<App>, caller: Caller) -> Answer<Json<Me>> {
    let creator = app.library.creator(caller.creator()?)?;
    let payouts_paused = app.payer.paused(creator.id)?;
    Ok(Json(Me { creator, payouts_paused }))
}

/// What a creator reads of itself.
#[derive(Serialize)]
pub struct Me {
    #[serde(flatten)]
    creator: Creator,
    payouts_paused: Option<Paused>,
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
) -> Answer<Json<Me>> {
    let creator = caller.creator()?;
    let wait = app.payer.options.change_seconds;
    let creator = app.library.edit_creator(creator, edit.name.as_deref(), edit.payout, wait)?;
    let payouts_paused = app.payer.paused(creator.id)?;
    Ok(Json(Me { creator, payouts_paused }))
}

/// `PATCH /api/v1/creators/{id}`: the operator's change of a creator; a destination does not wait.
pub async fn edit_any(
    State(app): State<App>,
    caller: Caller,
    Path(id): Path<String>,
    Document(edit): Document<Edit>,
) -> Answer<Json<Me>> {
    caller.operator()?;
    let creator: CreatorId = id.parse()?;
    let creator = app.library.edit_creator(creator, edit.name.as_deref(), edit.payout, 0)?;
    let payouts_paused = app.payer.paused(creator.id)?;
    Ok(Json(Me { creator, payouts_paused }))
}

/// `POST /api/v1/creators/me/payout/test`: a satoshi to the destination, now.
pub async fn test_payout(State(app): State<App>, caller: Caller) -> Answer {
    let creator = app.library.creator(caller.creator()?)?;
    let payout = app.payer.test(&creator).await?;
    Ok((StatusCode::CREATED, Json(shown(payout))).into_response())
}

/// `POST /api/v1/creators/me/withdrawals`
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Withdrawal {
    invoice: String,
}

/// Pays a creator's own invoice.
pub async fn withdraw(
    State(app): State<App>,
    caller: Caller,
    Document(withdrawal): Document<Withdrawal>,
) -> Answer {
    let payout = app.payer.withdraw(caller.creator()?, &withdrawal.invoice).await?;
    Ok((StatusCode::CREATED, Json(shown(payout))).into_response())
}

/// `GET /api/v1/earnings`
pub async fn earnings(State(app): State<App>, caller: Caller) -> Answer<Json<Earnings>> {
    Ok(Json(app.statements.earnings(caller.creator()?)?))
}

#[derive(Serialize)]
struct Shown {
    id: PayoutId,
    creator: CreatorId,
    /// `None` for a withdrawal.
    destination: Option<Destination>,
    amount_msat: Msat,
    payment_hash: Option<PaymentHash>,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    fee_msat: Option<Msat>,
    #[serde(skip_serializing_if = "Option::is_none")]
    preimage: Option<Preimage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    created_ms: u64,
}

/// `GET /api/v1/payouts`: newest first.
pub async fn payouts(State(app): State<App>, caller: Caller) -> Answer<Response> {
    let payouts = app.statements.payouts(caller.creator()?, PAYOUTS_MAX)?;
    let payouts: Vec<Shown> = payouts.into_iter().map(shown).collect();
    Ok(Json(json!({ "payouts": payouts })).into_response())
}

fn shown(payout: Payout) -> Shown {
    let (state, fee_msat, preimage, cause) = match payout.state {
        PayoutState::Pending => ("pending", None, None, None),
        PayoutState::Arrived { fee, preimage } => ("arrived", Some(fee), preimage, None),
        // Why exactly is in the operator's log: routes are no creator's business.
        PayoutState::Returned { cause, .. } => ("returned", None, None, Some(cause)),
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
        reason: cause.map(Cause::sentence),
        code: cause.map(Cause::code),
        created_ms: payout.created_ms,
    }
}
