//! What a session is fixed to from its beginning: its price, and what is first stored of it.

use std::collections::BTreeSet;

use super::Stage;
use crate::domain::amount::Msat;
use crate::domain::id::SegmentNumber;
use crate::domain::ledger::Split;
use crate::domain::video::{SegmentPrice, Terms};
use crate::paywall::Error;
use crate::paywall::token::SessionToken;
use crate::store::SessionRecord;

/// What a segment costs in a session; `None` where it is free.
pub(super) fn price(
    session: &SessionToken,
    stage: Stage<'_>,
    number: SegmentNumber,
) -> Result<Option<Msat>, Error> {
    Ok(match terms(session).price_of(&stage.media.timeline, number)? {
        Some(SegmentPrice::Paid(amount)) => Some(amount),
        Some(SegmentPrice::Free) | None => None,
    })
}

/// The terms that a session is fixed to.
pub const fn terms(session: &SessionToken) -> Terms {
    Terms {
        price: session.price,
        preview_seconds: session.preview_seconds,
        granularity: session.granularity,
    }
}

pub(super) fn new_record(session: &SessionToken, split: Split) -> SessionRecord {
    SessionRecord {
        id: session.id,
        video: session.video,
        version: session.version,
        terms: terms(session).into(),
        split,
        generation: session.generation,
        ended: false,
        paused: false,
        failed: BTreeSet::new(),
        bare: false,
        expires_at: session.expires_at,
    }
}
