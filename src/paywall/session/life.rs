//! How long a session's keys are good: until its end, and after that for as long as money of it is here or may still come.

use std::time::Duration;

use super::SessionGate;
use crate::paywall::Error;
use crate::paywall::limits::LATE_SECONDS;
use crate::paywall::token::{SessionKind, SessionToken};
use crate::store::Invoice;

impl SessionGate {
    /// The session of a key. After its end the key is good for [`redeem_seconds`](crate::paywall::Options::redeem_seconds) more while
    /// credit is left or a payment may still come; nothing is minted then.
    ///
    /// # Errors
    /// [`Error::NoSession`] where the key is not ours, of the other kind, rotated away, or over.
    pub fn session(&self, kind: SessionKind, key: &str) -> Result<SessionToken, Error> {
        let session = self.genuine(kind, key)?;
        if self.is_over(&session) && !self.is_owing(&session)? {
            return Err(Error::NoSession);
        }
        if kind == SessionKind::Play {
            self.ensure_current(&session)?;
        }
        Ok(session)
    }

    /// The session of a control key whose holder claims credit: what was lost leaves no trace here, so that a session which seems over is
    /// listened to.
    ///
    /// # Errors
    /// [`Error::NoSession`] where the key is not ours or of the other kind, or where credit of it would have expired.
    pub fn claimed(&self, key: &str) -> Result<SessionToken, Error> {
        self.genuine(SessionKind::Control, key)
    }

    /// How long a session has left.
    pub fn ends_in(&self, session: &SessionToken) -> Duration {
        let now = self.paywall.parts.clock.now_ms();
        Duration::from_millis(session.expires_at.saturating_mul(1_000).saturating_sub(now))
    }

    /// Whether a session's time is over.
    pub(super) fn is_over(&self, session: &SessionToken) -> bool {
        session.expires_at < self.paywall.parts.clock.now_s()
    }

    /// Refuses a play key that was rotated away.
    pub(super) fn ensure_current(&self, session: &SessionToken) -> Result<(), Error> {
        let stored = self.paywall.parts.store.session_record(session.id)?;
        match stored.is_some_and(|record| record.generation > session.generation) {
            true => Err(Error::NoSession),
            false => Ok(()),
        }
    }

    fn genuine(&self, kind: SessionKind, key: &str) -> Result<SessionToken, Error> {
        let parts = &self.paywall.parts;
        let session = parts.keys.verify_session(kind, key).ok_or(Error::NoSession)?;
        let last = session.expires_at.saturating_add(parts.options.redeem_seconds);
        if last < parts.clock.now_s() { Err(Error::NoSession) } else { Ok(session) }
    }

    /// Whether credit is left, or an invoice of it may still be paid: Lightning takes a payment for a while after the invoice expired.
    fn is_owing(&self, session: &SessionToken) -> Result<bool, Error> {
        let parts = &self.paywall.parts;
        let now = parts.clock.now_s();
        let Some(state) = parts.store.session(session.id)? else { return Ok(false) };
        let may_come = |of: &Invoice| of.expires_at.saturating_add(LATE_SECONDS) >= now;
        Ok(!state.credit.is_zero() || state.invoices.iter().any(may_come))
    }
}
