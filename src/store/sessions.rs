//! Sessions. Keys in [`Table::Sessions`]: `session/{id}`, `served/{id}/{number}`, `invoice/{id}/{hash}` of those that are not paid and
//! `paid/{id}/{hash}` of those that are.

use super::engine::{Engine, Op, Store, Table, decode, put};
use super::money::{credit_key, number_text, spent_key};
use super::{Error, Invoice, Ledger, SessionRecord, SessionState, Sessions};
use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, SegmentNumber, SessionId};
use crate::runtime::lock;

impl<E: Engine> Sessions for Store<E> {
    fn open_invoice(&self, session: &SessionRecord, invoice: &Invoice) -> Result<(), Error> {
        let _guard = lock(&self.money);
        let (batch, change) = self.opened(session, invoice)?;
        self.write_counted(batch, change)
    }

    fn covers(&self, id: SessionId, number: SegmentNumber, amount: Msat) -> Result<bool, Error> {
        let served = self.engine.get(Table::Sessions, served_key(id, number).as_bytes())?.is_some();
        Ok(served || self.sum(credit_key(id))? >= amount.signed())
    }

    fn has_paid(&self, id: SessionId) -> Result<bool, Error> {
        Ok(self.sum(paid_count_key(id))? > 0)
    }

    fn session_record(&self, id: SessionId) -> Result<Option<SessionRecord>, Error> {
        self.read(Table::Sessions, session_key(id))
    }

    /// Without the lock, so that who looks never holds up the money. The order counts: what is paid or drawn in between shows twice, as open and
    /// as credit, or as credit and as served, never not at all, so that no invoice is made for what is paid or served.
    fn session(&self, id: SessionId) -> Result<Option<SessionState>, Error> {
        let Some(record) = self.session_record(id)? else { return Ok(None) };
        let hashes: Vec<PaymentHash> = self.read_all(Table::Sessions, format!("invoice/{id}/"))?;
        let mut invoices = Vec::with_capacity(hashes.len());
        for hash in hashes {
            invoices.extend(self.invoice(&hash)?);
        }
        let amount = |sum: i128| Msat::from_signed(sum).unwrap_or_default();
        let credit = amount(self.sum(credit_key(id))?);
        let spent = amount(self.sum(spent_key(id))?);
        let served: Vec<SegmentNumber> = self.read_all(Table::Sessions, format!("served/{id}/"))?;
        Ok(Some(SessionState {
            record,
            credit,
            spent,
            served: served.into_iter().collect(),
            paid: usize::try_from(self.sum(paid_count_key(id))?).unwrap_or_default(),
            invoices,
        }))
    }

    fn forget_sessions(&self, expired_before_s: u64) -> Result<u64, Error> {
        /// Sessions looked at at once.
        const PAGE: usize = 256;
        let mut forgotten = 0_u64;
        let mut after: Option<Vec<u8>> = None;
        loop {
            let rows = self.engine.scan(Table::Sessions, b"session/", after.as_deref(), PAGE)?;
            let Some((last, _)) = rows.last() else { return Ok(forgotten) };
            after = Some(last.clone());
            let mut over = Vec::new();
            for (_, value) in &rows {
                let record: SessionRecord = decode(value)?;
                if record.expires_at < expired_before_s {
                    over.push(record);
                }
            }
            forgotten = forgotten.saturating_add(self.forget(over)?);
        }
    }

    fn put_session(&self, session: &SessionRecord) -> Result<(), Error> {
        let _guard = lock(&self.money);
        let stored = self.session_record(session.id)?;
        let bare = stored.as_ref().is_none_or(|record| record.bare);
        let record = SessionRecord { bare, ..session.clone() };
        let op = put(Table::Sessions, session_key(session.id), &record)?;
        self.write_counted(vec![op], i64::from(stored.is_none()))
    }
}

impl<E: Engine> Store<E> {
    /// Forgets those of some sessions that have neither invoices nor credit; how many.
    fn forget(&self, over: Vec<SessionRecord>) -> Result<u64, Error> {
        let mut forgotten = 0_u64;
        for SessionRecord { id, .. } in over {
            let _guard = lock(&self.money);
            // It may have got its first invoice meanwhile.
            let bare = self.session_record(id)?.is_some_and(|record| record.bare);
            let invoices = self.rows(format!("invoice/{id}/"))?;
            let paid = self.rows(format!("paid/{id}/"))?;
            if !invoices.is_empty() || !paid.is_empty() || self.sum(credit_key(id))? != 0 {
                continue;
            }
            let mut keys = self.rows(format!("served/{id}/"))?;
            keys.push(session_key(id).into_bytes());
            let mut batch: Vec<Op> =
                keys.into_iter().map(|key| Op::Delete(Table::Sessions, key)).collect();
            batch.push(Op::Delete(Table::Balances, credit_key(id)));
            batch.push(Op::Delete(Table::Balances, spent_key(id)));
            batch.push(Op::Delete(Table::Balances, paid_count_key(id)));
            batch.push(Op::Delete(Table::Balances, credited_key(id)));
            self.write_counted(batch, if bare { -1 } else { 0 })?;
            forgotten = forgotten.saturating_add(1);
        }
        Ok(forgotten)
    }

    /// The changes that keep an invoice of a session, and the session with its first one; and how the number of what is unpaid changes with them.
    pub(super) fn opened(
        &self,
        session: &SessionRecord,
        invoice: &Invoice,
    ) -> Result<(Vec<Op>, i64), Error> {
        let mut batch = vec![
            self.put_invoice(invoice)?,
            put(Table::Sessions, invoice_key(session.id, &invoice.hash), &invoice.hash)?,
        ];
        let stored = self.session_record(session.id)?;
        // A record that stood alone is counted with its invoice from now on.
        let change = i64::from(!stored.as_ref().is_some_and(|record| record.bare));
        let record = match stored {
            Some(record) if record.bare => Some(SessionRecord { bare: false, ..record }),
            Some(_) => None,
            None => Some(SessionRecord { bare: false, ..session.clone() }),
        };
        if let Some(record) = record {
            batch.push(put(Table::Sessions, session_key(session.id), &record)?);
        }
        Ok((batch, change))
    }

    /// The keys with a prefix.
    fn rows(&self, prefix: String) -> Result<Vec<Vec<u8>>, Error> {
        let rows = self.engine.scan(Table::Sessions, prefix.as_bytes(), None, usize::MAX)?;
        Ok(rows.into_iter().map(|(key, _)| key).collect())
    }
}

fn session_key(id: SessionId) -> String {
    format!("session/{id}")
}

pub(super) fn served_key(id: SessionId, number: SegmentNumber) -> String {
    format!("served/{id}/{}", number_text(number))
}

pub(super) fn invoice_key(id: SessionId, hash: &PaymentHash) -> String {
    format!("invoice/{id}/{hash}")
}

/// The changes that move an invoice to those that are paid.
pub(super) fn paid(id: SessionId, hash: &PaymentHash) -> Result<[Op; 3], Error> {
    Ok([
        Op::Add(paid_count_key(id), 1),
        Op::Delete(Table::Sessions, invoice_key(id, hash).into_bytes()),
        put(Table::Sessions, paid_key(id, hash), hash)?,
    ])
}

fn paid_count_key(id: SessionId) -> Vec<u8> {
    format!("paid/{id}").into_bytes()
}

/// The changes that add to a session's credit.
pub(super) fn credited(id: SessionId, amount: Msat) -> [Op; 2] {
    [Op::Add(credit_key(id), amount.signed()), Op::Add(credited_key(id), amount.signed())]
}

/// What was credited for those of its invoices that have not expired since, drawn or not.
pub(super) fn credited_key(id: SessionId) -> Vec<u8> {
    format!("credited/{id}").into_bytes()
}

pub(super) fn paid_key(id: SessionId, hash: &PaymentHash) -> String {
    format!("paid/{id}/{hash}")
}
