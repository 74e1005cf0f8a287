//! What a session is asked to pay now: found from what is stored, minted, and told to its wallet.

use std::collections::BTreeSet;
use std::sync::Mutex;

use super::stream::{Live, is_open, planned};
use super::terms::{new_record, terms};
use super::{SessionGate, Stage, UNPAID_KEPT, UNPAID_MAX};
use crate::domain::amount::Msat;
use crate::domain::session::{Due, View};
use crate::paywall::Error;
use crate::paywall::token::SessionToken;
use crate::runtime::lock;
use crate::store::{Purpose, SessionState};

impl SessionGate {
    /// Mints what is due, and tells the wallet what it has not heard of.
    pub(super) fn refresh(
        &self,
        session: &SessionToken,
        stage: Stage<'_>,
        live: &Mutex<Live>,
    ) -> Result<(), Error> {
        // Locked first: who read before another minted would mint the same again.
        let mut live = lock(live);
        let minted = self.look_at(session, stage, &mut live);
        live.looked_ms = Some(self.paywall.parts.clock.now_ms());
        live.failing = minted.is_err();
        minted
    }

    fn look_at(
        &self,
        session: &SessionToken,
        stage: Stage<'_>,
        live: &mut Live,
    ) -> Result<(), Error> {
        let parts = &self.paywall.parts;
        let timeline = &stage.media.timeline;
        let stored = parts.store.session(session.id)?;
        let unpaid = stored.as_ref().map(|state| state.invoices.as_slice()).unwrap_or_default();
        let find = |hash: &_| parts.store.invoice(hash);
        let paid_now = live.announce_changes(unpaid, timeline, &parts.keys, find)?;
        if let Some(client) = live.client {
            self.paywall.forgive(client, paid_now);
        }
        let due = self.due(session, stage, live, stored.as_ref())?;
        let new = stored.as_ref().is_none_or(|state| state.paid == 0);
        for due in due {
            // Who has paid here before is served first, and bounded by the window and by what it pays.
            if new {
                self.paywall.limit_in_all(live.client)?;
            }
            let minted = self.paywall.mint(due.amount)?;
            if new && let Some(client) = live.client {
                self.paywall.owe(client)?;
            }
            let purpose = Purpose::Session { session: session.id, segments: due.segments };
            let invoice = self.paywall.invoice(&minted, due.amount, purpose, stage.split);
            parts.store.open_invoice(&new_record(session, stage.split), &invoice)?;
            parts.metrics.challenge();
            live.announce(&invoice, timeline, &parts.keys);
            live.asked.extend(planned(&invoice));
        }
        Ok(())
    }

    /// What is due; notes which segments can be paid already.
    fn due(
        &self,
        session: &SessionToken,
        stage: Stage<'_>,
        live: &mut Live,
        stored: Option<&SessionState>,
    ) -> Result<Vec<Due>, Error> {
        let now = self.paywall.parts.clock.now_ms();
        let empty = BTreeSet::new();
        let unpaid = stored.map(|state| state.invoices.as_slice()).unwrap_or_default();
        live.asked.clear();
        let mut committed = stored.map_or(Msat::ZERO, |state| state.spent);
        let mut open_ones = 0_usize;
        for invoice in unpaid.iter().filter(|invoice| is_open(invoice, now / 1_000)) {
            open_ones = open_ones.saturating_add(1);
            if !stored.is_some_and(|state| state.record.failed.contains(&invoice.hash)) {
                live.asked.extend(planned(invoice));
                committed = committed.checked_add(invoice.amount).unwrap_or(session.max);
            }
        }
        // What is paid after the end still plays, and would better not be asked for.
        let options = &self.paywall.parts.options;
        let expiry = u64::from(options.invoice_expiry_seconds).min(options.session_seconds / 4);
        let stopped = stored.is_some_and(|state| state.record.ended || state.record.paused);
        if stopped || session.expires_at <= (now / 1_000).saturating_add(expiry) {
            return Ok(Vec::new());
        }
        let credit = stored.map_or(Msat::ZERO, |state| state.credit);
        let committed = committed.checked_add(credit).unwrap_or(session.max);
        // What is kept for who waits longer does not pay for what plays here.
        let credit = credit.saturating_sub(live.queue.before(live.window.playhead()));
        let view = View {
            timeline: &stage.media.timeline,
            terms: terms(session),
            served: stored.map_or(&empty, |state| &state.served),
            open: &live.asked,
            credit,
            left: session.max.saturating_sub(committed),
        };
        let mut due = live.window.due(&view, now)?;
        // A wallet that reports one failure after the other must not fill the disk.
        let paid = stored.map_or(0, |state| state.paid);
        let kept = if paid == 0 { UNPAID_MAX } else { UNPAID_KEPT.saturating_add(paid) };
        // One can be open at any time: what expired would otherwise keep the payer from paying for as long as it is kept.
        let room = kept.saturating_sub(unpaid.len()).max(usize::from(open_ones == 0));
        due.truncate(UNPAID_MAX.saturating_sub(open_ones).min(room));
        Ok(due)
    }
}
