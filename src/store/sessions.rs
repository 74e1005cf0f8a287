//! Sessions. Keys in [`Table::Sessions`]: `session/{id}`, `served/{id}/{number}`, `invoice/{id}/{hash}`.

use super::engine::{Engine, Store, Table, put};
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
        self.engine.write(batch, Durability::Process)
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
            invoices,
        }))
    }

    fn put_session(&self, session: &SessionRecord) -> Result<(), Error> {
        let _guard = lock(&self.money);
        let op = put(Table::Sessions, session_key(session.id), session)?;
        self.engine.write(vec![op], Durability::Process)
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
