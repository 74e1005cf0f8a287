//! Payouts. Keys in [`Table::Payouts`]: `payout/{creator}/{id}`, `hash/{payment hash}`, and `pending/{creator}`, whose presence is the
//! lock that keeps a creator to one payout at a time, and `setbacks/{creator}` while payouts come back.

use super::engine::{Engine, Op, Store, Table, put};
use super::{Durability, Error, Ledger, Payout, PayoutState, Payouts, Setbacks, Settle};
use crate::domain::id::{CreatorId, PaymentHash, PayoutId};
use crate::domain::ledger::{Account, Entry};
use crate::runtime::lock;

impl<E: Engine> Payouts for Store<E> {
    fn plan(&self, payout: &Payout) -> Result<bool, Error> {
        let _guard = lock(&self.money);
        let pending = pending_key(payout.creator);
        let busy = self.engine.get(Table::Payouts, pending.as_bytes())?.is_some();
        // Payable is a liability: what is owed is below zero.
        let owed = self.balance(Account::CreatorPayable(payout.creator))?.saturating_neg();
        if busy || owed < payout.planned.signed() || payout.planned.is_zero() {
            return Ok(false);
        }
        let key = (payout.creator, payout.id);
        let entry = Entry::plan(payout.id, payout.created_ms, payout.creator, payout.planned);
        let mut batch = self.post(entry)?;
        batch.push(put(Table::Payouts, payout_key(key), payout)?);
        batch.push(put(Table::Payouts, hash_key(&payout.hash), &key)?);
        batch.push(put(Table::Payouts, pending, &key)?);
        // The intent must outlive a power cut, or a payment could be sent twice.
        self.engine.write(batch, Durability::Disk)?;
        Ok(true)
    }

    fn settle(
        &self,
        hash: &PaymentHash,
        outcome: &Settle,
        now_ms: u64,
    ) -> Result<Option<Payout>, Error> {
        let _guard = lock(&self.money);
        let Some(key) = self.read::<(CreatorId, PayoutId)>(Table::Payouts, hash_key(hash))? else {
            return Ok(None);
        };
        let Some(mut payout) = self.read::<Payout>(Table::Payouts, payout_key(key))? else {
            return Err(Error::Corrupt(format!("the payout {} is missing", key.1)));
        };
        let (id, creator, planned) = (payout.id, payout.creator, payout.planned);
        let first = payout.state == PayoutState::Pending;
        let returned = matches!(payout.state, PayoutState::Returned { .. });
        let (entry, state) = match outcome {
            Settle::Arrived { fee, preimage } if first || returned => (
                if first {
                    Entry::arrived(id, now_ms, creator, planned, payout.amount, *fee)
                } else {
                    tracing::error!(payout = %id, "arrived after it had been booked as come back");
                    Entry::corrected(id, now_ms, creator, planned, payout.amount, *fee)
                },
                PayoutState::Arrived { fee: *fee, preimage: *preimage },
            ),
            Settle::Returned { reason } if first => (
                Entry::returned(id, now_ms, creator, planned),
                PayoutState::Returned { reason: reason.clone() },
            ),
            Settle::Arrived { .. } | Settle::Returned { .. } => return Ok(Some(payout)),
        };
        payout.state = state;
        let mut batch = self.post(entry)?;
        batch.push(match outcome {
            Settle::Arrived { .. } => {
                Op::Delete(Table::Payouts, setbacks_key(creator).into_bytes())
            }
            Settle::Returned { .. } => {
                let before = self.setbacks(creator)?.map_or(0, |before| before.count);
                let count = before.saturating_add(1);
                put(Table::Payouts, setbacks_key(creator), &Setbacks { count, last_ms: now_ms })?
            }
        });
        batch.push(put(Table::Payouts, payout_key(key), &payout)?);
        if first {
            batch.push(Op::Delete(Table::Payouts, pending_key(creator).into_bytes()));
        }
        self.engine.write(batch, Durability::Process)?;
        Ok(Some(payout))
    }

    fn setbacks(&self, creator: CreatorId) -> Result<Option<Setbacks>, Error> {
        self.read(Table::Payouts, setbacks_key(creator))
    }

    fn pending(&self) -> Result<Vec<Payout>, Error> {
        let keys: Vec<(CreatorId, PayoutId)> = self.read_all(Table::Payouts, "pending/")?;
        let mut payouts = Vec::with_capacity(keys.len());
        for key in keys {
            payouts.extend(self.read::<Payout>(Table::Payouts, payout_key(key))?);
        }
        Ok(payouts)
    }

    fn payouts(&self, creator: CreatorId, limit: usize) -> Result<Vec<Payout>, Error> {
        // Identities are in the order of time (UUID version 7).
        let mut payouts: Vec<Payout> =
            self.read_all(Table::Payouts, format!("payout/{creator}/"))?;
        payouts.reverse();
        payouts.truncate(limit);
        Ok(payouts)
    }
}

fn payout_key((creator, id): (CreatorId, PayoutId)) -> String {
    format!("payout/{creator}/{id}")
}

fn hash_key(hash: &PaymentHash) -> String {
    format!("hash/{hash}")
}

fn setbacks_key(creator: CreatorId) -> String {
    format!("setbacks/{creator}")
}

fn pending_key(creator: CreatorId) -> String {
    format!("pending/{creator}")
}
