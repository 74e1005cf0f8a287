//! Payouts. Keys in [`Table::Payouts`]: `payout/{creator}/{id}`, `hash/{payment hash}`, and `pending/{creator}`, whose presence is the
//! lock that keeps a creator to one payout at a time, withdrawals included, and `setbacks/{creator}` while payouts come back. The keys of hashes
//! are never removed: they are the set of hashes that were seen.

use super::engine::{Engine, Op, Store, Table, put};
use super::{
    Attach, Cause, Durability, Error, Ledger, Payout, PayoutInvoice, PayoutState, Payouts, Plan,
    Setbacks, Settle,
};
use crate::domain::amount::Msat;
use crate::domain::id::{CreatorId, PaymentHash, PayoutId};
use crate::domain::ledger::{Account, Entry};
use crate::runtime::lock;

impl<E: Engine> Store<E> {
    /// A payout as it is now, where its outcome is open.
    fn open_payout(&self, of: &Payout) -> Result<Option<Payout>, Error> {
        let kept = self.payout(of.creator, of.id)?;
        Ok(kept.filter(|payout| payout.state == PayoutState::Pending))
    }

    fn is_seen(&self, hash: &PaymentHash) -> Result<bool, Error> {
        Ok(self.engine.get(Table::Payouts, hash_key(hash).as_bytes())?.is_some())
    }

    /// One more setback of a creator.
    fn set_payouts_back(&self, creator: CreatorId, cause: Cause, now_ms: u64) -> Result<Op, Error> {
        let before = self.setbacks(creator)?.map_or(0, |before| before.count);
        let setbacks = Setbacks { count: before.saturating_add(1), last_ms: now_ms, cause };
        put(Table::Payouts, setbacks_key(creator), &setbacks)
    }
}

impl<E: Engine> Payouts for Store<E> {
    fn plan(&self, payout: &Payout) -> Result<Plan, Error> {
        let _guard = lock(&self.money);
        let pending = pending_key(payout.creator);
        if self.engine.get(Table::Payouts, pending.as_bytes())?.is_some() {
            return Ok(Plan::InFlight);
        }
        // Payable is a liability: what is owed is below zero.
        let owed = self.balance(Account::CreatorPayable(payout.creator))?.saturating_neg();
        if owed < payout.planned.signed() || payout.planned.is_zero() {
            return Ok(Plan::Short);
        }
        let key = (payout.creator, payout.id);
        let entry = Entry::plan(payout.id, payout.created_ms, payout.creator, payout.planned);
        let mut batch = self.post(entry)?;
        batch.push(put(Table::Payouts, payout_key(key), payout)?);
        if let Some(hash) = &payout.hash {
            if self.is_seen(hash)? {
                return Ok(Plan::Seen);
            }
            batch.push(put(Table::Payouts, hash_key(hash), &key)?);
        }
        batch.push(put(Table::Payouts, pending, &key)?);
        // The intent must outlive a power cut, or a payment could be sent twice.
        self.engine.write(batch, Durability::Disk)?;
        Ok(Plan::Made)
    }

    fn attach(
        &self,
        payout: &Payout,
        hash: PaymentHash,
        amount: Msat,
        invoice: &PayoutInvoice,
    ) -> Result<Attach, Error> {
        let _guard = lock(&self.money);
        let Some(mut payout) = self.open_payout(payout)?.filter(|of| of.hash.is_none()) else {
            return Ok(Attach::Refused);
        };
        if amount > payout.amount || amount.is_zero() {
            return Ok(Attach::Refused);
        }
        if self.is_seen(&hash)? {
            return Ok(Attach::Seen);
        }
        (payout.hash, payout.amount) = (Some(hash), amount);
        payout.invoice = Some(invoice.clone());
        let key = (payout.creator, payout.id);
        let batch = vec![
            put(Table::Payouts, payout_key(key), &payout)?,
            put(Table::Payouts, hash_key(&hash), &key)?,
        ];
        // By this hash the node is asked after a crash: it must be known before anything is sent.
        self.engine.write(batch, Durability::Disk)?;
        Ok(Attach::Done(Box::new(payout)))
    }

    fn begin_sending(&self, payout: &Payout) -> Result<bool, Error> {
        let _guard = lock(&self.money);
        let Some(mut payout) = self.open_payout(payout)? else { return Ok(false) };
        let Some(invoice) = payout.invoice.as_mut().filter(|invoice| !invoice.sending) else {
            return Ok(false);
        };
        invoice.sending = true;
        let key = payout_key((payout.creator, payout.id));
        let batch = vec![put(Table::Payouts, key, &payout)?];
        self.engine.write(batch, Durability::Disk)?;
        Ok(true)
    }

    fn give_back(
        &self,
        payout: &Payout,
        (cause, reason): (Cause, &str),
        setback: bool,
        now_ms: u64,
    ) -> Result<bool, Error> {
        let _guard = lock(&self.money);
        let Some(mut payout) = self.open_payout(payout)? else { return Ok(false) };
        let unsent = match &payout.invoice {
            Some(invoice) => !invoice.sending,
            // A keysend has its hash from the beginning, and may have been sent at any time.
            None => payout.hash.is_none(),
        };
        if !unsent {
            return Ok(false);
        }
        let creator = payout.creator;
        let mut batch = self.post(Entry::returned(payout.id, now_ms, creator, payout.planned))?;
        payout.state = PayoutState::Returned { reason: reason.to_owned(), cause };
        batch.push(put(Table::Payouts, payout_key((creator, payout.id)), &payout)?);
        batch.push(Op::Delete(Table::Payouts, pending_key(creator).into_bytes()));
        if setback {
            batch.push(self.set_payouts_back(creator, cause, now_ms)?);
        }
        self.engine.write(batch, Durability::Process)?;
        Ok(true)
    }

    fn resume(&self, creator: CreatorId) -> Result<(), Error> {
        let _guard = lock(&self.money);
        let batch = vec![Op::Delete(Table::Payouts, setbacks_key(creator).into_bytes())];
        self.engine.write(batch, Durability::Process)
    }

    fn payout(&self, creator: CreatorId, id: PayoutId) -> Result<Option<Payout>, Error> {
        self.read(Table::Payouts, payout_key((creator, id)))
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
                PayoutState::Returned { reason: reason.clone(), cause: Cause::Undelivered },
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
                self.set_payouts_back(creator, Cause::Undelivered, now_ms)?
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

pub(super) fn setbacks_key(creator: CreatorId) -> String {
    format!("setbacks/{creator}")
}

fn pending_key(creator: CreatorId) -> String {
    format!("pending/{creator}")
}
