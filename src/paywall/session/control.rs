//! What the holder of a session's control key asks: where it stands, pause, another play key, the end.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use serde::Serialize;

use super::stream::is_open;
use super::{Event, SessionGate, new_record};
use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, SegmentNumber};
use crate::domain::ledger::Split;
use crate::paywall::token::{SessionKind, SessionToken};
use crate::paywall::{Client, Error, Wake};
use crate::runtime::lock;
use crate::store::SessionRecord;

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The segment that plays next.
    pub position: SegmentNumber,
    /// Invoices paid.
    pub paid: usize,
    /// Segments served.
    pub served: usize,
    /// Paid and not drawn.
    pub credit_msat: Msat,
    /// Drawn so far.
    pub spent_msat: Msat,
    /// The payer has paused it.
    pub paused: bool,
    /// No further invoices.
    pub ended: bool,
}

impl SessionGate {
    /// Where a session stands.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn status(&self, session: &SessionToken) -> Result<Status, Error> {
        // Asked for without taking room: who only asks costs nothing.
        let live = match self.streams.get(session.id) {
            Some(live) => live,
            None => Arc::new(Mutex::new(self.made_anew(session)?)),
        };
        let state = self.paywall.parts.store.session(session.id)?;
        let guard = lock(&live);
        Ok(Status {
            position: guard.window.playhead(),
            paid: state.as_ref().map_or(0, |state| state.paid),
            served: state.as_ref().map_or(0, |state| state.served.len()),
            credit_msat: state.as_ref().map_or(Msat::ZERO, |state| state.credit),
            spent_msat: state.as_ref().map_or(Msat::ZERO, |state| state.spent),
            paused: state.as_ref().is_some_and(|state| state.record.paused),
            ended: state.is_some_and(|state| state.record.ended),
        })
    }

    /// The payer pauses or resumes.
    ///
    /// # Errors
    /// [`Error`] where the store fails, or the client may cause no further record.
    pub fn pause(
        &self,
        session: &SessionToken,
        paused: bool,
        split: Split,
        client: Client,
    ) -> Result<(), Error> {
        self.change(session, split, client, |record| record.paused = paused)?;
        Ok(())
    }

    /// The payer's payment of an invoice failed for good: another may take its place. Of what is not an open invoice of this session nothing
    /// is noted.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn report_failed(
        &self,
        session: &SessionToken,
        hash: PaymentHash,
        split: Split,
        client: Client,
    ) -> Result<(), Error> {
        let now = self.paywall.parts.clock.now_s();
        let Some(state) = self.paywall.parts.store.session(session.id)? else { return Ok(()) };
        let open = state.invoices.iter().filter(|invoice| is_open(invoice, now));
        let open: BTreeSet<PaymentHash> = open.map(|invoice| invoice.hash).collect();
        if open.contains(&hash) {
            self.change(session, split, client, |record| {
                // Of those that were paid or expired nothing needs to be known.
                record.failed.retain(|of| open.contains(of));
                record.failed.insert(hash);
            })?;
        }
        Ok(())
    }

    /// A new play key; the old ones open nothing from now on, and requests that are held under them end.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn rotate(
        &self,
        session: &SessionToken,
        split: Split,
        client: Client,
    ) -> Result<String, Error> {
        let record = self.change(session, split, client, |record| {
            record.generation = record.generation.saturating_add(1);
        })?;
        let rotated = SessionToken { generation: record.generation, ..*session };
        Ok(self.paywall.parts.keys.issue_session(SessionKind::Play, &rotated))
    }

    /// Ends a session: no further invoice; what is paid still plays.
    ///
    /// # Errors
    /// [`Error::Store`] where the store fails.
    pub fn end(&self, session: &SessionToken, split: Split, client: Client) -> Result<(), Error> {
        self.change(session, split, client, |record| record.ended = true)?;
        // Nobody follows one that is not in memory; who does so later is told from what is stored.
        if let Some(live) = self.streams.get(session.id) {
            lock(&live).tell(Event::End {});
        }
        Ok(())
    }

    /// Changes what is stored of a session; one change at a time, so that none undoes another. Who waits looks again.
    fn change(
        &self,
        session: &SessionToken,
        split: Split,
        client: Client,
        change: impl FnOnce(&mut SessionRecord),
    ) -> Result<SessionRecord, Error> {
        let live = self.streams.get(session.id);
        let record = {
            // What mints or draws under it is done, or begins after the change.
            let _live = live.as_deref().map(lock);
            let _guard = lock(&self.changes);
            let mut record = match self.paywall.parts.store.session_record(session.id)? {
                Some(record) => record,
                None => {
                    // A record that no invoice made weighs as much as one.
                    self.paywall.limit_in_all(Some(client))?;
                    self.paywall.owe(client)?;
                    new_record(session, split)
                }
            };
            change(&mut record);
            self.paywall.parts.store.put_session(&record)?;
            record
        };
        self.paywall.parts.bells.ring(&Wake::Session(session.id));
        Ok(record)
    }
}
