//! The ledger once more, as plainly as it can be said: numbers and lists, no postings.

use std::collections::{BTreeMap, BTreeSet};

/// What an invoice is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    Segment,
    Session(u8),
}

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Open,
    Credited,
    Redeemed,
    Expired,
}

#[derive(Debug, Clone)]
pub struct Invoice {
    pub amount: u64,
    pub of: For,
    pub stage: Stage,
    pub at: u64,
    /// What a session got for it.
    pub credited: u64,
}

#[derive(Debug, Clone, Default)]
struct Paid {
    total: u64,
    /// How many payments were booked.
    payments: u32,
    told: Option<u64>,
    /// Of those, how many before the start that tells now told of any; and how often it has.
    known: u32,
    tellings: u32,
    /// What of it is nobody's.
    unclaimed: u64,
    session: Option<u8>,
}

impl Paid {
    fn first(total: u64, told: Option<u64>, session: Option<u8>, unclaimed: u64) -> Self {
        let tellings = u32::from(told.is_some());
        Self { total, payments: 1, told, known: 0, tellings, unclaimed, session }
    }
}

#[derive(Debug, Clone)]
pub struct Payout {
    pub planned: u64,
    pub sent: u64,
}

/// The word for what a verb did.
pub type Word = &'static str;

#[derive(Debug, Default)]
pub struct Model {
    pub invoices: BTreeMap<u8, Invoice>,
    paid: BTreeMap<u8, Paid>,
    pub credit: BTreeMap<u8, u64>,
    served: BTreeSet<(u8, u8)>,
    pub flying: Option<Payout>,
    pub returned: Vec<Payout>,
    pub received: u64,
    pub sent: u64,
    pub viewers: u64,
    pub unclaimed: u64,
    pub fee: u64,
    /// Below zero after a payout that was paid beside another.
    pub payable: i128,
    pub routing: u64,
    pub charged: u64,
}

impl Model {
    pub fn proof(&mut self, n: u8, amount: u64, now: u64) -> Word {
        let Some(paid) = self.paid.get_mut(&n) else { return self.first(n, amount, None, now) };
        // What came before its invoice was known is claimed by its proof.
        let open = |of: &&mut Invoice| of.stage == Stage::Open && paid.unclaimed >= of.amount;
        let Some(invoice) = self.invoices.get_mut(&n).filter(open) else { return "replayed" };
        (invoice.stage, invoice.at) = (Stage::Credited, now);
        let claimed = match invoice.of {
            For::Segment => invoice.amount,
            For::Session(session) => {
                paid.session = Some(session);
                *self.credit.entry(session).or_default() += paid.unclaimed;
                invoice.credited = paid.unclaimed;
                paid.unclaimed
            }
        };
        paid.unclaimed -= claimed;
        self.unclaimed -= claimed;
        self.viewers += claimed;
        "applied"
    }

    pub fn told(&mut self, n: u8, amount: u64, boot: u64, before: bool, now: u64) -> Word {
        let Some(paid) = self.paid.get_mut(&n) else {
            return self.first(n, amount, Some(boot), now);
        };
        let last = paid.told.replace(boot);
        if last == Some(boot) {
            paid.tellings += u32::from(!before);
        } else {
            (paid.known, paid.tellings) = (if last.is_some() { paid.payments } else { 0 }, 1);
        }
        let further = last == Some(boot) && !before && paid.tellings > paid.known;
        let more = match last {
            None => amount.saturating_sub(paid.total),
            Some(_) if further => amount,
            Some(_) => 0,
        };
        if more == 0 && !further {
            return "replayed";
        }
        paid.total += more;
        paid.payments += 1;
        self.received += more;
        // A session's for as long as the invoice is its credit: nothing would end what comes later.
        let credited = |of: &&mut Invoice| of.stage == Stage::Credited;
        let of_session = paid.session.zip(self.invoices.get_mut(&n).filter(credited));
        paid.session = paid.session.filter(|_| of_session.is_some());
        match of_session {
            Some((session, invoice)) => {
                *self.credit.entry(session).or_default() += more;
                invoice.credited += more;
                self.viewers += more;
            }
            None => {
                self.unclaimed += more;
                self.paid.entry(n).and_modify(|paid| paid.unclaimed += more);
            }
        }
        match (last, self.invoices.contains_key(&n)) {
            (Some(_), _) => "repeated",
            (None, true) => "overpaid",
            (None, false) => "unclaimed",
        }
    }

    fn first(&mut self, n: u8, amount: u64, told: Option<u64>, now: u64) -> Word {
        self.received += amount;
        let invoice = self.invoices.get_mut(&n);
        let Some(invoice) = invoice.filter(|of| of.of != For::Segment || amount >= of.amount)
        else {
            self.unclaimed += amount;
            self.paid.insert(n, Paid::first(amount, told, None, amount));
            return "unclaimed";
        };
        (invoice.stage, invoice.at) = (Stage::Credited, now);
        let session = match invoice.of {
            For::Segment => {
                self.viewers += invoice.amount;
                self.unclaimed += amount - invoice.amount;
                None
            }
            For::Session(session) => {
                self.viewers += amount;
                *self.credit.entry(session).or_default() += amount;
                invoice.credited = amount;
                Some(session)
            }
        };
        let nobodys = if session.is_some() { 0 } else { amount - invoice.amount };
        self.paid.insert(n, Paid::first(amount, told, session, nobodys));
        if amount > invoice.amount { "overpaid" } else { "applied" }
    }

    pub fn redeem(&mut self, n: u8, now: u64, grace: u64) -> Word {
        let Some(invoice) = self.invoices.get_mut(&n).filter(|of| of.of == For::Segment) else {
            return "unknown";
        };
        match invoice.stage {
            Stage::Open => "unpaid",
            Stage::Redeemed if now <= invoice.at + grace => "again",
            Stage::Redeemed | Stage::Expired => "spent",
            Stage::Credited => {
                (invoice.stage, invoice.at) = (Stage::Redeemed, now);
                let amount = invoice.amount;
                self.earn(amount, amount * 3 / 100);
                "first"
            }
        }
    }

    pub fn draw(&mut self, session: u8, segment: u8, amount: u64) -> Word {
        if self.served.contains(&(session, segment)) {
            return "again";
        }
        let credit = self.credit.entry(session).or_default();
        if *credit < amount {
            return "short";
        }
        *credit -= amount;
        self.served.insert((session, segment));
        self.earn(amount, amount * 3 / 100);
        "first"
    }

    /// Credit and what is finished before `before` ends; unpaid invoices stay.
    pub fn sweep(&mut self, before: u64, now: u64) {
        for n in self.invoices.keys().copied().collect::<Vec<_>>() {
            let of = self.invoices[&n].of;
            let others = self.invoices.iter().filter(|(m, other)| **m != n && other.of == of);
            let others = others.filter(|(_, other)| other.stage == Stage::Credited);
            let of_others: u64 = others.map(|(_, other)| other.credited).sum();
            let invoice = self.invoices.get_mut(&n).unwrap();
            match invoice.stage {
                Stage::Credited if invoice.at < before => {
                    (invoice.stage, invoice.at) = (Stage::Expired, now);
                    let mut left = invoice.amount;
                    if let For::Session(session) = invoice.of {
                        let credit = self.credit.entry(session).or_default();
                        // What is left belongs to the others first.
                        left = credit.saturating_sub(of_others);
                        *credit -= left;
                    }
                    self.earn(left, 0);
                }
                Stage::Redeemed | Stage::Expired if invoice.at < before => {
                    self.invoices.remove(&n);
                }
                _ => {}
            }
        }
    }

    pub fn plan(&mut self, planned: u64, sent: u64) -> bool {
        let good = self.flying.is_none() && planned > 0 && i128::from(planned) <= self.payable;
        if good {
            self.payable -= i128::from(planned);
            self.flying = Some(Payout { planned, sent });
        }
        good
    }

    /// The outcome of every payout that there ever was: what is in flight ends, and what came back and arrived after all is taken back.
    pub fn settle(&mut self, fee: Option<u64>) {
        let Some(fee) = fee else {
            if let Some(payout) = self.flying.take() {
                self.payable += i128::from(payout.planned);
                self.returned.push(payout);
            }
            return;
        };
        for payout in std::mem::take(&mut self.returned) {
            self.payable -= i128::from(payout.planned);
            self.arrive(&payout, fee);
        }
        if let Some(payout) = self.flying.take() {
            self.arrive(&payout, fee);
        }
    }

    fn arrive(&mut self, Payout { planned, sent }: &Payout, fee: u64) {
        let charged = fee.min(planned - sent);
        self.sent += sent + fee;
        self.routing += fee;
        self.charged += charged;
        self.payable += i128::from(planned - sent - charged);
    }

    fn earn(&mut self, amount: u64, fee: u64) {
        self.viewers -= amount;
        self.fee += fee;
        self.payable += i128::from(amount - fee);
    }
}
