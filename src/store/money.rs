//! The ledger's verbs. Keys: invoices, payments booked and entries by their identity; sums in [`Table::Balances`] under
//! `account/{account}`, `credit/{session}`, `spent/{session}`, `paid/{session}` and `credited/{session}`.

use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};

use super::dust::is_dust;
use super::engine::{Engine, Op, Store, Table, decode, decode_sum, pack, put, unpack};
use super::{
    ChannelBooking, Credit, Draw, Durability, Error, Invoice, Ledger, Origin, Progress, Purpose,
    Redeem, SessionRecord, Swept, Unclaimed,
};
use crate::domain::amount::{Msat, Share};
use crate::domain::id::{PaymentHash, SegmentNumber, SegmentRef, SessionId};
use crate::domain::ledger::{
    Account, Balances, Entry, EntryId, IncomingPayment, Split, Unbalanced, negative,
};
use crate::runtime::lock;

/// What was booked under a payment hash.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Booked {
    /// In all.
    total: Msat,
    /// How many payments.
    payments: u32,
    /// In which start of the process the node last told of it; `None` while only a preimage has.
    told_boot: Option<u64>,
    /// Payments that were booked before that start told any: it may tell each of them again.
    known: u32,
    /// How often that start has told of this hash.
    told: u32,
    /// The session whose credit a further payment becomes.
    session: Option<SessionId>,
    /// What of the total nobody claimed.
    unclaimed: Msat,
}

/// An entry under its identity.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Kept {
    at_ms: u64,
    pub(super) postings: Vec<(Account, i128)>,
}

/// An entry as it is written.
pub(super) fn kept(entry: &Entry) -> Result<Op, Error> {
    let kept = Kept { at_ms: entry.at_ms, postings: entry.postings.clone() };
    pack(Table::Entries, &entry.id, &kept)
}

impl<E: Engine> Store<E> {
    /// An entry and the sums that it changes.
    pub(super) fn post(&self, entry: Result<Entry, Unbalanced>) -> Result<Vec<Op>, Error> {
        let entry = entry.map_err(|error| Error::Corrupt(error.to_string()))?;
        let mut batch = vec![kept(&entry)?];
        for (account, amount) in entry.postings {
            batch.push(Op::Add(account_key(account), amount));
        }
        Ok(batch)
    }

    /// Books a payment: `to_credit` to whoever the invoice is for, the rest to nobody. With it the number of unpaid invoices changes.
    fn book(
        &self,
        payment: IncomingPayment,
        received: Msat,
        to_credit: Msat,
        mut booked: Booked,
        (mut batch, change): (Vec<Op>, i64),
        now_ms: u64,
    ) -> Result<(), Error> {
        let rest = received.saturating_sub(to_credit);
        let nth = booked.payments;
        let dust = to_credit.is_zero() && is_dust(received);
        batch.extend(if dust {
            self.post_dust(rest, now_ms)?
        } else {
            self.post(Entry::credit(payment.hash, nth, now_ms, to_credit, rest))?
        });
        if let Some(session) = booked.session {
            batch.extend(super::sessions::credited(session, to_credit));
        }
        booked.payments = nth.saturating_add(1);
        booked.total = booked.total.checked_add(received).ok_or_else(overflow)?;
        if !rest.is_zero() {
            booked.unclaimed = booked.unclaimed.checked_add(rest).ok_or_else(overflow)?;
            if !is_dust(booked.unclaimed) {
                batch.push(unclaimed(payment.hash, booked.unclaimed, now_ms)?);
            }
        }
        batch.push(pack(Table::Booked, payment.hash.as_bytes(), &booked)?);
        self.write_counted(batch, change)
    }

    /// What was booked as nobody's is the credit of an invoice that is known by now; `None` where there is none, or it is too little.
    fn claim(
        &self,
        hash: &PaymentHash,
        mut booked: Booked,
        now_ms: u64,
    ) -> Result<Option<Invoice>, Error> {
        let Some(mut invoice) = self.invoice(hash)? else { return Ok(None) };
        let amount = invoice.amount;
        if invoice.progress != Progress::Open || booked.unclaimed < amount {
            return Ok(None);
        }
        let session = match invoice.purpose {
            Purpose::Session { session, .. } => Some(session),
            Purpose::Segment { .. } => None,
        };
        // A session takes all of it as its credit, as it would have at the time.
        let claimed = if session.is_some() { booked.unclaimed } else { amount };
        let postings =
            [(Account::Unclaimed, claimed.signed()), (Account::ViewerCredit, negative(claimed))];
        let id = self.fresh(EntryId::Claim(*hash))?;
        let mut batch = self.post(Entry::new(&id, now_ms, postings))?;
        invoice.progress = Progress::Credited { at_ms: now_ms };
        invoice.claimed = true;
        invoice.credited = claimed;
        batch.push(self.put_invoice(&invoice)?);
        if let Some(session) = session {
            batch.extend(super::sessions::paid(session, hash)?);
            batch.extend(super::sessions::credited(session, claimed));
        }
        booked.session = session;
        booked.unclaimed = booked.unclaimed.saturating_sub(claimed);
        batch.push(if booked.unclaimed.is_zero() {
            Op::Delete(Table::Unclaimed, hash.as_bytes().to_vec())
        } else {
            unclaimed(*hash, booked.unclaimed, now_ms)?
        });
        batch.push(pack(Table::Booked, hash.as_bytes(), &booked)?);
        self.write_counted(batch, -1)?;
        Ok(Some(invoice))
    }

    fn credit_first(
        &self,
        payment: IncomingPayment,
        told_boot: Option<u64>,
        now_ms: u64,
    ) -> Result<Credit, Error> {
        let told = u32::from(told_boot.is_some());
        let booked = Booked { told_boot, told, ..Booked::default() };
        let received = payment.received;
        let Some(mut invoice) = self.invoice(&payment.hash)? else {
            self.book(payment, received, Msat::ZERO, booked, unchanged(), now_ms)?;
            return Ok(Credit::Unclaimed);
        };
        let (session, to_credit) = match invoice.purpose {
            Purpose::Session { session, .. } => (Some(session), received),
            Purpose::Segment { .. } if received < invoice.amount => {
                self.book(payment, received, Msat::ZERO, booked, unchanged(), now_ms)?;
                return Ok(Credit::Unclaimed);
            }
            Purpose::Segment { .. } => (None, invoice.amount),
        };
        invoice.progress = Progress::Credited { at_ms: now_ms };
        invoice.credited = to_credit;
        let mut batch = vec![self.put_invoice(&invoice)?];
        if let Some(session) = session {
            batch.extend(super::sessions::paid(session, &invoice.hash)?);
        }
        let booked = Booked { session, ..booked };
        self.book(payment, received, to_credit, booked, (batch, -1), now_ms)?;
        let excess = received.saturating_sub(invoice.amount);
        Ok(if excess.is_zero() {
            Credit::Applied(invoice)
        } else {
            Credit::Overpaid(invoice, excess)
        })
    }

    /// A further payment of a hash: credit of its session for as long as its invoice is, else unclaimed: nothing would ever expire it.
    fn credit_further(
        &self,
        payment: IncomingPayment,
        amount: Msat,
        mut booked: Booked,
        now_ms: u64,
    ) -> Result<Option<SessionId>, Error> {
        let invoice = match booked.session {
            Some(_) => self.invoice(&payment.hash)?,
            None => None,
        };
        match invoice {
            Some(mut invoice) if matches!(invoice.progress, Progress::Credited { .. }) => {
                invoice.credited = invoice.credited.checked_add(amount).ok_or_else(overflow)?;
                let batch = vec![self.put_invoice(&invoice)?];
                let session = booked.session;
                self.book(payment, amount, amount, booked, (batch, 0), now_ms)?;
                Ok(session)
            }
            _ => {
                booked.session = None;
                self.book(payment, amount, Msat::ZERO, booked, unchanged(), now_ms)?;
                Ok(None)
            }
        }
    }

    /// An identity that no entry has yet: a hash that is paid again, long after, is claimed, earned or expired again.
    fn fresh(&self, id: EntryId) -> Result<EntryId, Error> {
        let mut fresh = id.clone();
        let mut nth = 0_u32;
        while self.has_entry(&fresh)? {
            nth = nth.checked_add(1).ok_or_else(overflow)?;
            fresh = EntryId::Again(Box::new(id.clone()), nth);
        }
        Ok(fresh)
    }

    fn has_entry(&self, id: &EntryId) -> Result<bool, Error> {
        Ok(self.engine.get(Table::Entries, id.to_string().as_bytes())?.is_some())
    }

    /// What those of some channels hold together that were booked as opened.
    fn booked(&self, channels: &[(String, Msat)]) -> Result<i128, Error> {
        let mut sum = 0_i128;
        for (channel, balance) in channels {
            if self.has_entry(&EntryId::ChannelOpened(channel.clone()))? {
                sum = sum.checked_add(balance.signed()).ok_or_else(overflow)?;
            }
        }
        Ok(sum)
    }

    pub(super) fn put_invoice(&self, invoice: &Invoice) -> Result<Op, Error> {
        pack(Table::Invoices, invoice.hash.as_bytes(), invoice)
    }

    /// The changes that end an invoice's life, and what they are; nothing where it lives on.
    fn sweep_one(
        &self,
        invoice: &Invoice,
        unpaid_before_s: u64,
        credited_before_ms: u64,
        now_ms: u64,
    ) -> Result<(Vec<Op>, Swept), Error> {
        let forget = || {
            let mut batch = vec![Op::Delete(Table::Invoices, invoice.hash.as_bytes().to_vec())];
            if let Purpose::Session { session, .. } = invoice.purpose {
                use super::sessions::{invoice_key, paid_key};
                for key in [invoice_key(session, &invoice.hash), paid_key(session, &invoice.hash)] {
                    batch.push(Op::Delete(Table::Sessions, key.into_bytes()));
                }
            }
            batch
        };
        match invoice.progress {
            Progress::Open if invoice.expires_at < unpaid_before_s => {
                Ok((forget(), Swept { forgotten: 1, expired: 0 }))
            }
            Progress::Redeemed { at_ms } | Progress::Expired { at_ms }
                if at_ms < credited_before_ms =>
            {
                Ok((forget(), Swept { forgotten: 1, expired: 0 }))
            }
            Progress::Credited { at_ms } if at_ms < credited_before_ms => {
                let left = match invoice.purpose {
                    Purpose::Segment { .. } => invoice.amount.signed(),
                    Purpose::Session { session, .. } => {
                        // What is left is of the newest: those that expire later have the first claim on it.
                        let credit = self.sum(credit_key(session))?;
                        let credited = self.sum(super::sessions::credited_key(session))?;
                        let later = credited.saturating_sub(invoice.credited.signed());
                        credit.saturating_sub(later)
                    }
                };
                let left = Msat::from_signed(left).unwrap_or_default();
                let id = self.fresh(EntryId::Expire(invoice.hash.to_string()))?;
                // What nobody watched goes to the creator whole: the operator's fee is for serving.
                let none = Share::from_ppm(0).map_err(|error| Error::Corrupt(error.to_string()))?;
                let split = Split { fee: none, ..invoice.split };
                // What a session drew already leaves nothing to book.
                let mut batch = if left.is_zero() {
                    Vec::new()
                } else {
                    self.post(Entry::earn(&id, now_ms, left, &split))?
                };
                if let Purpose::Session { session, .. } = invoice.purpose {
                    batch.push(Op::Add(credit_key(session), negative(left)));
                    let key = super::sessions::credited_key(session);
                    batch.push(Op::Add(key, negative(invoice.credited)));
                }
                let expired = Progress::Expired { at_ms: now_ms };
                batch.push(self.put_invoice(&Invoice { progress: expired, ..invoice.clone() })?);
                Ok((batch, Swept { forgotten: 0, expired: 1 }))
            }
            _ => Ok((Vec::new(), Swept::default())),
        }
    }
}

impl<E: Engine> Ledger for Store<E> {
    fn record(&self, invoice: &Invoice) -> Result<(), Error> {
        self.write_counted(vec![self.put_invoice(invoice)?], 1)
    }

    fn restore(&self, session: Option<&SessionRecord>, invoice: &Invoice) -> Result<(), Error> {
        let _guard = lock(&self.money);
        let booked = self.read_packed::<Booked>(Table::Booked, invoice.hash.as_bytes())?;
        let used = booked.is_some_and(|booked| booked.unclaimed < invoice.amount);
        if used || self.invoice(&invoice.hash)?.is_some() {
            return Ok(());
        }
        let (batch, change) = match session {
            Some(session) => self.opened(session, invoice)?,
            None => (vec![self.put_invoice(invoice)?], 1),
        };
        self.write_counted(batch, change)
    }

    fn unpaid(&self) -> u64 {
        u64::try_from(self.unpaid.load(Ordering::Relaxed)).unwrap_or_default()
    }

    fn unclaimed(
        &self,
        after: Option<&PaymentHash>,
        limit: usize,
    ) -> Result<Vec<Unclaimed>, Error> {
        let after = after.map(|hash| hash.as_bytes().as_slice());
        let rows = self.engine.scan(Table::Unclaimed, b"", after, limit)?;
        rows.iter().map(|(_, value)| decode(value)).collect()
    }

    fn invoice(&self, hash: &PaymentHash) -> Result<Option<Invoice>, Error> {
        self.read_packed(Table::Invoices, hash.as_bytes())
    }

    fn credit(
        &self,
        payment: IncomingPayment,
        origin: Origin,
        now_ms: u64,
    ) -> Result<Credit, Error> {
        let _guard = lock(&self.money);
        let booked = self.read_packed::<Booked>(Table::Booked, payment.hash.as_bytes())?;
        let (mut booked, told_before) = match (booked, origin) {
            (None, Origin::Event { .. }) => {
                return self.credit_first(payment, Some(payment.boot), now_ms);
            }
            (None, Origin::Proof) => return self.credit_first(payment, None, now_ms),
            (Some(booked), Origin::Proof) => {
                let claimed = self.claim(&payment.hash, booked, now_ms)?;
                return Ok(claimed.map_or(Credit::Replayed, Credit::Applied));
            }
            (Some(booked), Origin::Event { told_before }) => (booked, told_before),
        };
        let last_told = booked.told_boot.replace(payment.boot);
        if last_told == Some(payment.boot) {
            booked.told = booked.told.saturating_add(u32::from(!told_before));
        } else {
            // What only a preimage has told of counts as not known: this telling is of it.
            booked.known = if last_told.is_some() { booked.payments } else { 0 };
            booked.told = 1;
        }
        if last_told.is_none() {
            // A preimage was here first; what the event tells is the same payment.
            let excess = payment.received.saturating_sub(booked.total);
            if !excess.is_zero() {
                self.credit_further(payment, excess, booked, now_ms)?;
                let invoice = self.invoice(&payment.hash)?;
                return Ok(invoice.map_or(Credit::Unclaimed, |of| Credit::Overpaid(of, excess)));
            }
        } else if last_told == Some(payment.boot) && !told_before && booked.told > booked.known {
            let session = self.credit_further(payment, payment.received, booked, now_ms)?;
            return Ok(Credit::Repeated(session));
        }
        let told = pack(Table::Booked, payment.hash.as_bytes(), &booked)?;
        self.engine.write(vec![told], Durability::Process)?;
        Ok(Credit::Replayed)
    }

    fn redeem(
        &self,
        hash: &PaymentHash,
        segment: SegmentRef,
        now_ms: u64,
        grace_ms: u64,
    ) -> Result<Redeem, Error> {
        let _guard = lock(&self.money);
        let Some(mut invoice) = self.invoice(hash)? else { return Ok(Redeem::Unknown) };
        if invoice.purpose != (Purpose::Segment { segment }) {
            return Ok(Redeem::Unknown);
        }
        match invoice.progress {
            Progress::Open => Ok(Redeem::Unpaid),
            Progress::Redeemed { at_ms } if now_ms <= at_ms.saturating_add(grace_ms) => {
                Ok(Redeem::Again)
            }
            Progress::Redeemed { .. } | Progress::Expired { .. } => Ok(Redeem::Spent),
            Progress::Credited { .. } => {
                // A first payment was never earned: no need to look.
                let id = EntryId::Earn(*hash);
                let id = if invoice.claimed { self.fresh(id)? } else { id };
                let entry = Entry::earn(&id, now_ms, invoice.amount, &invoice.split);
                let mut batch = self.post(entry)?;
                invoice.progress = Progress::Redeemed { at_ms: now_ms };
                batch.push(self.put_invoice(&invoice)?);
                self.engine.write(batch, Durability::Process)?;
                Ok(Redeem::First)
            }
        }
    }

    fn draw(
        &self,
        session: SessionId,
        segment: SegmentRef,
        amount: Msat,
        split: &Split,
        now_ms: u64,
    ) -> Result<Draw, Error> {
        let _guard = lock(&self.money);
        let served = super::sessions::served_key(session, segment.number);
        if self.engine.get(Table::Sessions, served.as_bytes())?.is_some() {
            return Ok(Draw::Again);
        }
        let credit = Msat::from_signed(self.sum(credit_key(session))?).unwrap_or_default();
        if credit < amount {
            return Ok(Draw::Short { credit });
        }
        let id = EntryId::Draw(format!("{session}:{}", segment.number));
        let mut batch = self.post(Entry::earn(&id, now_ms, amount, split))?;
        batch.push(Op::Add(credit_key(session), negative(amount)));
        batch.push(Op::Add(spent_key(session), amount.signed()));
        batch.push(put(Table::Sessions, served, &segment.number)?);
        self.engine.write(batch, Durability::Process)?;
        Ok(Draw::First)
    }

    fn sweep(
        &self,
        unpaid_before_s: u64,
        credited_before_ms: u64,
        now_ms: u64,
    ) -> Result<Swept, Error> {
        /// Invoices looked at while the money waits: a few milliseconds.
        const PAGE: usize = 256;
        let mut after: Option<Vec<u8>> = None;
        let mut swept = Swept::default();
        loop {
            let _guard = lock(&self.money);
            let rows = self.engine.scan(Table::Invoices, b"", after.as_deref(), PAGE)?;
            for (_, value) in &rows {
                let invoice: Invoice = unpack(value)?;
                let (batch, one) =
                    self.sweep_one(&invoice, unpaid_before_s, credited_before_ms, now_ms)?;
                if !batch.is_empty() {
                    let unpaid = invoice.progress == Progress::Open;
                    self.write_counted(batch, if unpaid { -1 } else { 0 })?;
                }
                swept.forgotten = swept.forgotten.saturating_add(one.forgotten);
                swept.expired = swept.expired.saturating_add(one.expired);
            }
            match rows.into_iter().next_back() {
                Some((key, _)) => after = Some(key),
                None => return Ok(swept),
            }
        }
    }

    fn book_channel(&self, booking: &ChannelBooking, now_ms: u64) -> Result<bool, Error> {
        let _guard = lock(&self.money);
        let (id, other, amount) = match booking {
            ChannelBooking::Opened { channel, balance } => {
                let id = EntryId::ChannelOpened(channel.clone());
                (id, Account::Capital, balance.signed())
            }
            ChannelBooking::Closed { channel, remaining, books } => {
                if self.balance(Account::ChannelFunds)? != *books {
                    return Ok(false);
                }
                let gone = self.booked(remaining)?.checked_sub(*books).ok_or_else(overflow)?;
                (EntryId::ChannelClosed(channel.clone()), Account::OnchainFunds, gone)
            }
        };
        if self.has_entry(&id)? {
            return Ok(false);
        }
        let counter = amount.checked_neg().ok_or_else(overflow)?;
        let entry = Entry::new(&id, now_ms, [(Account::ChannelFunds, amount), (other, counter)]);
        let mut batch = self.post(entry)?;
        if let ChannelBooking::Closed { channel, .. } = booking {
            batch.push(Op::Delete(Table::Channels, channel.clone().into_bytes()));
        }
        self.engine.write(batch, Durability::Disk)?;
        Ok(true)
    }

    fn channel_closed(&self, channel: &str) -> Result<(), Error> {
        let _guard = lock(&self.money);
        if self.has_entry(&EntryId::ChannelClosed(channel.to_owned()))? {
            return Ok(());
        }
        let mark = put(Table::Channels, channel, &channel)?;
        self.engine.write(vec![mark], Durability::Disk)
    }

    fn closings(&self) -> Result<Vec<String>, Error> {
        self.read_all(Table::Channels, "")
    }

    fn book_forward(&self, boot: u64, nth: u64, fee: Msat, now_ms: u64) -> Result<(), Error> {
        let _guard = lock(&self.money);
        let id = EntryId::Forward(boot, nth);
        if self.has_entry(&id)? {
            return Ok(());
        }
        let postings =
            [(Account::ChannelFunds, fee.signed()), (Account::Forwarding, negative(fee))];
        let entry = Entry::new(&id, now_ms, postings);
        self.engine.write(self.post(entry)?, Durability::Process)
    }

    fn balance(&self, account: Account) -> Result<i128, Error> {
        self.sum(account_key(account))
    }

    fn balances(&self) -> Result<Balances, Error> {
        let rows = self.engine.scan(Table::Balances, ACCOUNT, None, usize::MAX)?;
        let read = |(key, value): &(Vec<u8>, Vec<u8>)| {
            let text = std::str::from_utf8(key.get(ACCOUNT.len()..).unwrap_or_default());
            let account = text.ok().and_then(|text| text.parse::<Account>().ok());
            let account = account.ok_or_else(|| Error::Corrupt("an account".to_owned()))?;
            Ok((account, decode_sum(value)?))
        };
        rows.iter().map(read).collect()
    }

    fn entries(&self, after: Option<&str>, limit: usize) -> Result<Vec<Entry>, Error> {
        let rows = self.engine.scan(Table::Entries, b"", after.map(str::as_bytes), limit)?;
        let read = |(key, value): (Vec<u8>, Vec<u8>)| {
            let id = String::from_utf8(key).map_err(|_| Error::Corrupt("an entry".to_owned()))?;
            let Kept { at_ms, postings } = unpack(&value)?;
            Ok(Entry { id, at_ms, postings })
        };
        rows.into_iter().map(read).collect()
    }
}

/// What the sums of accounts begin with.
pub(super) const ACCOUNT: &[u8] = b"account/";

pub(super) fn account_key(account: Account) -> Vec<u8> {
    [ACCOUNT, account.to_string().as_bytes()].concat()
}

pub(super) fn credit_key(session: SessionId) -> Vec<u8> {
    format!("credit/{session}").into_bytes()
}

pub(super) fn spent_key(session: SessionId) -> Vec<u8> {
    format!("spent/{session}").into_bytes()
}

/// Nothing else is written, and the number of unpaid invoices stays.
const fn unchanged() -> (Vec<Op>, i64) {
    (Vec::new(), 0)
}

fn unclaimed(payment_hash: PaymentHash, amount_msat: Msat, at_ms: u64) -> Result<Op, Error> {
    let row = Unclaimed { payment_hash, amount_msat, at_ms };
    put(Table::Unclaimed, payment_hash.as_bytes(), &row)
}

pub(super) fn overflow() -> Error {
    Error::Corrupt("a sum overflows".to_owned())
}

/// Session segments are keyed with a fixed width, so that a scan gives them in order.
pub(super) fn number_text(number: SegmentNumber) -> String {
    format!("{:08x}", number.0)
}
