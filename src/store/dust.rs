//! Payments below a satoshi that no invoice asked for: one entry a day for all of them. ldk-node claims every keysend and can refuse none, so
//! that otherwise whoever sends one millisatoshi after the other buys three rows for each. Of each its hash stays as booked: without it a
//! later telling would book it again, and a credential that comes late could not claim it.

use super::Error;
use super::engine::{Engine, Op, Store, Table};
use super::money::{Kept, account_key, kept, overflow};
use crate::domain::amount::Msat;
use crate::domain::ledger::{Account, Entry, EntryId, negative};

/// No invoice of a whole satoshi can be meant by less.
const DUST_BELOW: Msat = Msat::new(1_000);
const DAY_MS: u64 = 86_400_000;

/// Whether an amount that nobody claims is so small.
pub(super) fn is_dust(amount: Msat) -> bool {
    amount < DUST_BELOW
}

impl<E: Engine> Store<E> {
    /// The day's entry with this amount in it, and the sums that it changes.
    pub(super) fn post_dust(&self, amount: Msat, now_ms: u64) -> Result<Vec<Op>, Error> {
        let id = EntryId::Dust(now_ms / DAY_MS);
        let before: Option<Kept> = self.read_packed(Table::Entries, id.to_string())?;
        let funds = before.iter().flat_map(|entry| &entry.postings);
        let funds = funds.filter(|(account, _)| *account == Account::ChannelFunds);
        let total = funds.map(|(_, amount)| *amount).try_fold(amount.signed(), i128::checked_add);
        let total = total.ok_or_else(overflow)?;
        let counter = total.checked_neg().ok_or_else(overflow)?;
        let postings = [(Account::ChannelFunds, total), (Account::Unclaimed, counter)];
        let entry = Entry::new(&id, now_ms, postings);
        let entry = entry.map_err(|error| Error::Corrupt(error.to_string()))?;
        Ok(vec![
            kept(&entry)?,
            Op::Add(account_key(Account::ChannelFunds), amount.signed()),
            Op::Add(account_key(Account::Unclaimed), negative(amount)),
        ])
    }
}
