//! Use case: what was earned, paid out and owed; and the proof that the books are right.

use std::sync::Arc;

use serde::Serialize;

use crate::domain::amount::Msat;
use crate::domain::id::{CreatorId, PaymentHash};
use crate::domain::ledger::{Account, Balances};
pub use crate::store::Unclaimed;
use crate::store::{self, Payout, PayoutState};

/// The ports of the store that statements read.
pub trait Books: store::Ledger + store::Payouts {}
impl<T: store::Ledger + store::Payouts + ?Sized> Books for T {}

/// Reads the books.
#[derive(Clone)]
pub struct Statements {
    /// The books.
    pub store: Arc<dyn Books>,
}

/// What a creator has and had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Earnings {
    /// Earned in all, after the operator's fee.
    pub earned_msat: Msat,
    /// Reached the creator's wallet.
    pub paid_out_msat: Msat,
    /// Went to routing nodes on the way.
    pub routing_msat: Msat,
    /// On its way.
    pub in_flight_msat: Msat,
    /// Waits to be paid out.
    pub payable_msat: Msat,
}

/// All balances of the server, as positive amounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// What payments left in the channels, opening balances included.
    pub channels_msat: i128,
    /// Paid by viewers and not served.
    pub viewer_credit_msat: i128,
    /// The operator's fee so far.
    pub fee_msat: i128,
    /// Routing fees paid.
    pub routing_msat: i128,
    /// Payments that match nothing.
    pub unclaimed_msat: i128,
    /// Owed to creators.
    pub payable_msat: i128,
    /// Payouts whose outcome is open.
    pub in_flight_msat: i128,
}

/// What the verification of the books found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verification {
    /// Entries read.
    pub entries: u64,
    /// Entries whose postings do not sum to zero.
    pub unbalanced: Vec<String>,
    /// Accounts whose kept balance is not the sum of their postings: account, kept, summed.
    pub differences: Vec<(String, i128, i128)>,
}

impl Verification {
    /// Whether the books are right.
    pub fn holds(&self) -> bool {
        self.unbalanced.is_empty() && self.differences.is_empty()
    }
}

impl Statements {
    /// How many invoices are kept that are not paid.
    pub fn unpaid(&self) -> u64 {
        self.store.unpaid()
    }

    /// Payments that nobody claimed, in the order of their hashes, after a given one.
    ///
    /// # Errors
    /// [`store::Error`] where the store fails.
    pub fn unclaimed(
        &self,
        after: Option<&PaymentHash>,
        limit: usize,
    ) -> Result<Vec<Unclaimed>, store::Error> {
        self.store.unclaimed(after, limit)
    }

    /// What a creator has and had.
    ///
    /// # Errors
    /// [`store::Error`] where the store fails.
    pub fn earnings(&self, creator: CreatorId) -> Result<Earnings, store::Error> {
        let owed = self.store.balance(Account::CreatorPayable(creator))?.saturating_neg();
        let mut earnings = Earnings {
            payable_msat: Msat::from_signed(owed).unwrap_or_default(),
            ..Earnings::default()
        };
        let add = |sum: &mut Msat, amount: Msat| *sum = sum.checked_add(amount).unwrap_or(*sum);
        for payout in self.store.payouts(creator, usize::MAX)? {
            match payout.state {
                PayoutState::Pending => add(&mut earnings.in_flight_msat, payout.planned),
                PayoutState::Arrived { fee, .. } => {
                    add(&mut earnings.paid_out_msat, payout.amount);
                    let spare = payout.planned.saturating_sub(payout.amount);
                    add(&mut earnings.routing_msat, fee.min(spare));
                }
                PayoutState::Returned { .. } => {}
            }
        }
        let parts = [
            earnings.payable_msat,
            earnings.paid_out_msat,
            earnings.routing_msat,
            earnings.in_flight_msat,
        ];
        for part in parts {
            add(&mut earnings.earned_msat, part);
        }
        Ok(earnings)
    }

    /// A creator's payouts, newest first.
    ///
    /// # Errors
    /// [`store::Error`] where the store fails.
    pub fn payouts(&self, creator: CreatorId, limit: usize) -> Result<Vec<Payout>, store::Error> {
        self.store.payouts(creator, limit)
    }

    /// All balances of the server.
    ///
    /// # Errors
    /// [`store::Error`] where the store fails.
    pub fn totals(&self) -> Result<Totals, store::Error> {
        let balances = self.store.balances()?;
        let owed = |account| balances.of(account).saturating_neg();
        let payable = balances.iter().filter(|(of, _)| matches!(of, Account::CreatorPayable(_)));
        Ok(Totals {
            channels_msat: balances.of(Account::ChannelFunds),
            viewer_credit_msat: owed(Account::ViewerCredit),
            fee_msat: owed(Account::OperatorFee),
            routing_msat: balances.of(Account::RoutingExpense),
            unclaimed_msat: owed(Account::Unclaimed),
            payable_msat: payable.map(|(_, sum)| sum.saturating_neg()).sum(),
            in_flight_msat: owed(Account::PayoutsInFlight),
        })
    }

    /// Reads every entry and compares the sums of postings with the balances that were kept.
    ///
    /// # Errors
    /// [`store::Error`] where the store fails.
    pub fn verify(&self) -> Result<Verification, store::Error> {
        /// Entries read at once.
        const PAGE: usize = 1_000;
        let mut found =
            Verification { entries: 0, unbalanced: Vec::new(), differences: Vec::new() };
        let mut sums = Balances::default();
        let mut after: Option<String> = None;
        loop {
            let page = self.store.entries(after.as_deref(), PAGE)?;
            for entry in &page {
                found.entries = found.entries.saturating_add(1);
                if entry.sum() != Some(0) || sums.add(entry).is_none() {
                    found.unbalanced.push(entry.id.clone());
                }
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last.id),
                None => break,
            }
        }
        let kept = self.store.balances()?;
        let accounts: std::collections::BTreeSet<Account> =
            kept.iter().chain(sums.iter()).map(|(account, _)| account).collect();
        for account in accounts {
            if kept.of(account) != sums.of(account) {
                let difference = (account.to_string(), kept.of(account), sums.of(account));
                found.differences.push(difference);
            }
        }
        Ok(found)
    }
}
