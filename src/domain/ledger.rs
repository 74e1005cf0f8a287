//! Double-entry bookkeeping in millisatoshi: accounts, postings, and entries that sum to zero.
//!
//! A posting above zero is a debit (assets and expenses grow), one below zero a credit (liabilities and revenue grow). An entry has
//! an identity made from the event it books, so that booking it twice changes nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::amount::{Msat, Share};
use super::id::{CreatorId, IdError, PaymentHash, PayoutId};

/// Where value lies or whom it is owed to.
///
/// The order of the variants is that of the store's records: a new one goes to the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Account {
    /// Asset: what this node owns in its channels.
    ChannelFunds,
    /// Asset: what closed channels owe the on-chain wallet.
    OnchainFunds,
    /// Equity: what the operator brought in by opening channels, and what peers gave when they did.
    Capital,
    /// Liability: paid by viewers and not served yet.
    ViewerCredit,
    /// Liability: earned by a creator and not paid out.
    CreatorPayable(CreatorId),
    /// Liability: left the payable balance; its payment is not decided yet.
    PayoutsInFlight,
    /// Revenue: the operator's share.
    OperatorFee,
    /// Revenue: routing fees that creators bear.
    RoutingCharged,
    /// Revenue: fees of payments that this node forwarded for others.
    Forwarding,
    /// Expense: routing fees paid.
    RoutingExpense,
    /// Liability: payments that match no invoice, and excess beyond one.
    Unclaimed,
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChannelFunds => f.write_str("assets:channels"),
            Self::OnchainFunds => f.write_str("assets:onchain"),
            Self::Capital => f.write_str("equity:capital"),
            Self::ViewerCredit => f.write_str("liabilities:viewers"),
            Self::CreatorPayable(creator) => write!(f, "liabilities:creators:{creator}"),
            Self::PayoutsInFlight => f.write_str("liabilities:payouts"),
            Self::OperatorFee => f.write_str("revenue:fee"),
            Self::RoutingCharged => f.write_str("revenue:routing"),
            Self::Forwarding => f.write_str("revenue:forwarding"),
            Self::RoutingExpense => f.write_str("expenses:routing"),
            Self::Unclaimed => f.write_str("liabilities:unclaimed"),
        }
    }
}

impl FromStr for Account {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Ok(match text {
            "assets:channels" => Self::ChannelFunds,
            "assets:onchain" => Self::OnchainFunds,
            "equity:capital" => Self::Capital,
            "liabilities:viewers" => Self::ViewerCredit,
            "liabilities:payouts" => Self::PayoutsInFlight,
            "revenue:fee" => Self::OperatorFee,
            "revenue:routing" => Self::RoutingCharged,
            "revenue:forwarding" => Self::Forwarding,
            "expenses:routing" => Self::RoutingExpense,
            "liabilities:unclaimed" => Self::Unclaimed,
            other => match other.strip_prefix("liabilities:creators:") {
                Some(creator) => Self::CreatorPayable(creator.parse()?),
                None => return Err(IdError("account")),
            },
        })
    }
}

/// The event that an entry books; at most one entry has each.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryId {
    /// The `nth` payment of a hash came in (from 0).
    Credit(PaymentHash, u32),
    /// All payments below a satoshi that no invoice asked for, of one day since the Unix epoch: the one entry that grows.
    Dust(u64),
    /// A payment that nobody had claimed found its invoice.
    Claim(PaymentHash),
    /// What a payment bought was served.
    Earn(PaymentHash),
    /// A session's segment was served.
    Draw(String),
    /// Credit ran out unserved.
    Expire(String),
    /// One of these once more, for a hash that was paid again after the record of its first payment was gone; counted from 1.
    Again(Box<EntryId>, u32),
    /// A payout left the payable balance.
    Plan(PayoutId),
    /// A payout arrived or came back.
    Settle(PayoutId),
    /// A payout arrived after it had been booked as come back.
    Correct(PayoutId),
    /// A channel's opening balance.
    ChannelOpened(String),
    /// A channel's funds went on-chain.
    ChannelClosed(String),
    /// The `nth` payment that was forwarded in a start of the process.
    Forward(u64, u64),
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credit(hash, nth) => write!(f, "credit:{hash}:{nth}"),
            Self::Dust(day) => write!(f, "dust:{day}"),
            Self::Claim(hash) => write!(f, "claim:{hash}"),
            Self::Earn(hash) => write!(f, "earn:{hash}"),
            Self::Draw(what) => write!(f, "draw:{what}"),
            Self::Expire(what) => write!(f, "expire:{what}"),
            Self::Again(id, nth) => write!(f, "{id}:{nth}"),
            Self::Plan(payout) => write!(f, "payout:{payout}:plan"),
            Self::Settle(payout) => write!(f, "payout:{payout}:settle"),
            Self::Correct(payout) => write!(f, "payout:{payout}:correct"),
            Self::ChannelOpened(channel) => write!(f, "channel:{channel}:opened"),
            Self::ChannelClosed(channel) => write!(f, "channel:{channel}:closed"),
            Self::Forward(boot, nth) => write!(f, "forward:{boot}:{nth}"),
        }
    }
}

/// Postings that do not balance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the postings of an entry must sum to zero")]
pub struct Unbalanced;

/// One event in the books.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The event, as text.
    pub id: String,
    /// When it was booked, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// Account and signed amount in millisatoshi.
    pub postings: Vec<(Account, i128)>,
}

impl Entry {
    /// An entry whose postings sum to zero; postings of nothing are left out.
    ///
    /// # Errors
    /// [`Unbalanced`] where they do not.
    pub fn new(
        id: &EntryId,
        at_ms: u64,
        postings: impl IntoIterator<Item = (Account, i128)>,
    ) -> Result<Self, Unbalanced> {
        let postings: Vec<_> = postings.into_iter().filter(|(_, amount)| *amount != 0).collect();
        let entry = Self { id: id.to_string(), at_ms, postings };
        if entry.sum() == Some(0) { Ok(entry) } else { Err(Unbalanced) }
    }

    /// The sum of all postings; `None` where it overflows.
    pub fn sum(&self) -> Option<i128> {
        self.postings.iter().try_fold(0_i128, |sum, (_, amount)| sum.checked_add(*amount))
    }

    /// A payment in, to the viewer's credit and, beyond it, to what nobody claimed.
    ///
    /// # Errors
    /// [`Unbalanced`] never for amounts that fit.
    pub fn credit(
        hash: PaymentHash,
        nth: u32,
        at_ms: u64,
        to_credit: Msat,
        to_unclaimed: Msat,
    ) -> Result<Self, Unbalanced> {
        let total = to_credit.signed().checked_add(to_unclaimed.signed()).ok_or(Unbalanced)?;
        Self::new(
            &EntryId::Credit(hash, nth),
            at_ms,
            [
                (Account::ChannelFunds, total),
                (Account::ViewerCredit, negative(to_credit)),
                (Account::Unclaimed, negative(to_unclaimed)),
            ],
        )
    }

    /// What was credit is earned: the operator's share, rounded down, and the rest to the creator.
    ///
    /// # Errors
    /// [`Unbalanced`] never for amounts that fit.
    pub fn earn(id: &EntryId, at_ms: u64, amount: Msat, split: &Split) -> Result<Self, Unbalanced> {
        let (fee, rest) = split.fee.split(amount);
        Self::new(
            id,
            at_ms,
            [
                (Account::ViewerCredit, amount.signed()),
                (Account::OperatorFee, negative(fee)),
                (Account::CreatorPayable(split.creator), negative(rest)),
            ],
        )
    }

    /// A payout leaves the payable balance.
    ///
    /// # Errors
    /// [`Unbalanced`] never for amounts that fit.
    pub fn plan(
        payout: PayoutId,
        at_ms: u64,
        creator: CreatorId,
        amount: Msat,
    ) -> Result<Self, Unbalanced> {
        Self::new(
            &EntryId::Plan(payout),
            at_ms,
            [
                (Account::CreatorPayable(creator), amount.signed()),
                (Account::PayoutsInFlight, negative(amount)),
            ],
        )
    }

    /// A payout of `planned` arrived: `sent` reached the creator, `fee` the routing nodes, the rest returns to the payable balance.
    /// A fee beyond what was planned (the cap given to the node forbids it) is the operator's expense, never the creator's debt.
    ///
    /// # Errors
    /// [`Unbalanced`] where more was sent than planned.
    pub fn arrived(
        payout: PayoutId,
        at_ms: u64,
        creator: CreatorId,
        planned: Msat,
        sent: Msat,
        fee: Msat,
    ) -> Result<Self, Unbalanced> {
        let spent = sent.checked_add(fee).ok_or(Unbalanced)?;
        let spare = planned.checked_sub(sent).ok_or(Unbalanced)?;
        let charged = fee.min(spare);
        let rest = spare.saturating_sub(charged);
        Self::new(
            &EntryId::Settle(payout),
            at_ms,
            [
                (Account::PayoutsInFlight, planned.signed()),
                (Account::ChannelFunds, negative(spent)),
                (Account::CreatorPayable(creator), negative(rest)),
                (Account::RoutingExpense, fee.signed()),
                (Account::RoutingCharged, negative(charged)),
            ],
        )
    }

    /// A payout that was booked as come back did arrive: what [`Entry::returned`] made payable again is taken back. The payable balance may
    /// fall below zero, which later earnings make good.
    ///
    /// # Errors
    /// [`Unbalanced`] where more was sent than planned.
    pub fn corrected(
        payout: PayoutId,
        at_ms: u64,
        creator: CreatorId,
        planned: Msat,
        sent: Msat,
        fee: Msat,
    ) -> Result<Self, Unbalanced> {
        let arrived = Self::arrived(payout, at_ms, creator, planned, sent, fee)?;
        let payable = Account::CreatorPayable(creator);
        let from = |(account, amount)| match account {
            Account::PayoutsInFlight => (payable, amount),
            other => (other, amount),
        };
        Self::new(&EntryId::Correct(payout), at_ms, arrived.postings.into_iter().map(from))
    }

    /// A payout came back whole.
    ///
    /// # Errors
    /// [`Unbalanced`] never for amounts that fit.
    pub fn returned(
        payout: PayoutId,
        at_ms: u64,
        creator: CreatorId,
        amount: Msat,
    ) -> Result<Self, Unbalanced> {
        Self::new(
            &EntryId::Settle(payout),
            at_ms,
            [
                (Account::PayoutsInFlight, amount.signed()),
                (Account::CreatorPayable(creator), negative(amount)),
            ],
        )
    }
}

/// A payment that reached the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IncomingPayment {
    /// Its payment hash.
    pub hash: PaymentHash,
    /// What arrived.
    pub received: Msat,
    /// Which start of this process told it: the same hash in another boot is a repeated telling, not a second payment.
    pub boot: u64,
}

/// Who earns from a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Split {
    /// The creator of the title.
    pub creator: CreatorId,
    /// The operator's share.
    pub fee: Share,
}

/// Folds postings into balances.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Balances(BTreeMap<Account, i128>);

impl Balances {
    /// Adds an entry; `None` where a balance overflows.
    pub fn add(&mut self, entry: &Entry) -> Option<()> {
        for (account, amount) in &entry.postings {
            let balance = self.0.entry(*account).or_default();
            *balance = balance.checked_add(*amount)?;
        }
        Some(())
    }

    /// The balance of an account: debits less credits.
    pub fn of(&self, account: Account) -> i128 {
        self.0.get(&account).copied().unwrap_or_default()
    }

    /// All accounts that were ever posted to.
    pub fn iter(&self) -> impl Iterator<Item = (Account, i128)> + '_ {
        self.0.iter().map(|(account, balance)| (*account, *balance))
    }
}

impl FromIterator<(Account, i128)> for Balances {
    fn from_iter<I: IntoIterator<Item = (Account, i128)>>(iter: I) -> Self {
        Self(iter.into_iter().collect())
    }
}

/// The posting that takes an amount away.
pub fn negative(amount: Msat) -> i128 {
    // A u64 always fits, so this cannot overflow.
    amount.signed().saturating_neg()
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn creator() -> CreatorId {
        CreatorId::new(Uuid::from_u128(1))
    }

    #[test]
    fn an_entry_that_does_not_balance_cannot_be_made() {
        let id = EntryId::Plan(PayoutId::new(Uuid::from_u128(2)));
        assert_eq!(Entry::new(&id, 0, [(Account::ChannelFunds, 1)]), Err(Unbalanced));
        assert!(Entry::new(&id, 0, [(Account::ChannelFunds, 1), (Account::Capital, -1)]).is_ok());
    }

    #[test]
    fn a_payout_cannot_send_more_than_was_planned() {
        let payout = PayoutId::new(Uuid::from_u128(2));
        let of = |sent, fee| {
            Entry::arrived(payout, 0, creator(), Msat::new(100), Msat::new(sent), Msat::new(fee))
        };
        assert_eq!(of(101, 0), Err(Unbalanced));
        let beyond = of(100, 1).unwrap();
        assert!(!beyond.postings.iter().any(|(of, _)| *of == Account::CreatorPayable(creator())));
    }

    #[test]
    fn a_sale_from_payment_to_payout_leaves_only_the_fee() {
        let hash = PaymentHash::new([7; 32]);
        let payout = PayoutId::new(Uuid::from_u128(2));
        let split = Split { creator: creator(), fee: Share::from_ppm(30_000).unwrap() };
        let mut balances = Balances::default();
        let amount = Msat::new(2_000);
        for entry in [
            Entry::credit(hash, 0, 0, amount, Msat::new(5)),
            Entry::earn(&EntryId::Earn(hash), 0, amount, &split),
            Entry::plan(payout, 0, creator(), Msat::new(1_940)),
            Entry::arrived(payout, 0, creator(), Msat::new(1_940), Msat::new(900), Msat::new(40)),
        ] {
            balances.add(&entry.unwrap()).unwrap();
        }
        assert_eq!(balances.of(Account::ChannelFunds), 2_005 - 940);
        assert_eq!(balances.of(Account::OperatorFee), -60);
        assert_eq!(balances.of(Account::CreatorPayable(creator())), -1_000);
        assert_eq!(balances.of(Account::Unclaimed), -5);
        assert_eq!(balances.of(Account::ViewerCredit), 0);
        assert_eq!(balances.of(Account::PayoutsInFlight), 0);
    }

    #[test]
    fn accounts_are_read_as_they_are_written() {
        for account in [Account::ChannelFunds, Account::CreatorPayable(creator())] {
            assert_eq!(account.to_string().parse(), Ok(account));
        }
        assert!("assets:moon".parse::<Account>().is_err());
    }
}
