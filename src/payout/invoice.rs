//! What an invoice must be before it is paid on a creator's behalf.

use crate::domain::amount::Msat;
use crate::domain::id::NodeId;
use crate::lightning::bolt11::{self, Facts};
use crate::lightning::{self, Network};
use crate::store::Cause;

/// With less time than this to its expiry a payment may come too late.
const SECONDS_LEFT_MIN: u64 = 10;

/// What an invoice is held against.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// Our network.
    pub network: Network,
    /// Our own node: paying it would only move the operator's money in a circle.
    pub own: NodeId,
    /// What it must ask for; `None` where the payee chooses, as for a withdrawal.
    pub amount: Option<Msat>,
    /// What its `h` field must be (LUD-06: SHA-256 of the metadata).
    pub description: Option<[u8; 32]>,
    /// Now, in seconds since the Unix epoch.
    pub now_s: u64,
}

/// Reads an invoice and holds it against what is expected; whether its hash was seen before is the store's to say, in the verb that keeps it.
///
/// # Errors
/// The [`Cause`] of the refusal.
pub fn check(bolt11: &str, expected: &Expected) -> Result<(Facts, Msat), Cause> {
    let facts = bolt11::facts(bolt11).map_err(|_: lightning::Error| Cause::NoInvoice)?;
    if facts.network != Some(expected.network) {
        return Err(Cause::OtherNetwork);
    }
    if facts.payee == expected.own {
        return Err(Cause::OwnPayee);
    }
    let amount = facts.amount.filter(|amount| !amount.is_zero()).ok_or(Cause::NoAmount)?;
    if expected.amount.is_some_and(|wanted| wanted != amount) {
        return Err(Cause::OtherAmount);
    }
    if expected.description.is_some() && facts.description_hash != expected.description {
        return Err(Cause::OtherDescription);
    }
    if facts.expires_at < expected.now_s.saturating_add(SECONDS_LEFT_MIN) {
        return Err(Cause::Expired);
    }
    Ok((facts, amount))
}
