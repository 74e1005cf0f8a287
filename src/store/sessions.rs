//! Sessions. Keys in [`Table::Sessions`]: `session/{id}`, `served/{id}/{number}`, `invoice/{id}/{hash}` of those that are not paid and
//! `paid/{id}/{hash}` of those that are.

use super::engine::{Engine, Op, Store, Table, put};
use super::money::{credit_key, number_text, spent_key};
use super::{Durability, Error, Invoice, Ledger, SessionRecord, SessionState, Sessions};
use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, SegmentNumber, SessionId};
use crate::runtime::lock;

impl<E: Engine> Sessions for Store<E> {
    fn open_invoice(&self, session: &SessionRecord, invoice: &Invoice) -> Result<(), Error> {
        let _guard = lock(&self.money);
        let mut batch = vec![
            put(Table::Invoices, invoice.hash.as_bytes(), invoice)?,
            put(Table::Sessions, invoice_key(session.id, &invoice.hash), &invoice.hash)?,
        ];
        if self.engine.get(Table::Sessions, session_key(session.id).as_bytes())?.is_none() {
            batch.push(put(Table::Sessions, session_key(session.id), session)?);
        }
        self.write_counted(batch, 1)
    }

    fn covers(&self, id: SessionId, number: SegmentNumber, amount: Msat) -> Result<bool, Error> {
        let served = self.engine.get(Table::Sessions, served_key(id, number).as_bytes())?.is_some();
        Ok(served || self.sum(credit_key(id))? >= amount.signed())
    }

    fn has_paid(&self, id: SessionId) -> Result<bool, Error> {
        Ok(self.sum(paid_count_key(id))? > 0)
    }

    fn session(&self, id: SessionId) -> Result<Option<SessionState>, Error> {
        let _guard = lock(&self.money);
        let Some(record) = self.read::<SessionRecord>(Table::Sessions, session_key(id))? else {
            return Ok(None);
        };
        let hashes: Vec<PaymentHash> = self.read_all(Table::Sessions, format!("invoice/{id}/"))?;
        let mut invoices = Vec::with_capacity(hashes.len());
        for hash in hashes {
            invoices.extend(self.invoice(&hash)?);
        }
        let served: Vec<SegmentNumber> = self.read_all(Table::Sessions, format!("served/{id}/"))?;
        let amount = |sum: i128| Msat::from_signed(sum).unwrap_or_default();
        Ok(Some(SessionState {
            record,
            credit: amount(self.sum(credit_key(id))?),
            spent: amount(self.sum(spent_key(id))?),
            served: served.into_iter().collect(),
            paid: usize::try_from(self.sum(paid_count_key(id))?).unwrap_or_default(),
            invoices,
        }))
    }

    fn forget_sessions(&self, expired_before_s: u64) -> Result<u64, Error> {
        let mut forgotten = 0_u64;
        let records: Vec<SessionRecord> = self.read_all(Table::Sessions, "session/")?;
        for record in records.iter().filter(|of| of.expires_at < expired_before_s) {
            let _guard = lock(&self.money);
            let id = record.id;
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
            self.engine.write(batch, Durability::Process)?;
            forgotten = forgotten.saturating_add(1);
        }
        Ok(forgotten)
    }

    fn put_session(&self, session: &SessionRecord) -> Result<(), Error> {
        let _guard = lock(&self.money);
        let op = put(Table::Sessions, session_key(session.id), session)?;
        self.engine.write(vec![op], Durability::Process)
    }
}

impl<E: Engine> Store<E> {
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

pub(super) fn paid_key(id: SessionId, hash: &PaymentHash) -> String {
    format!("paid/{id}/{hash}")
}
