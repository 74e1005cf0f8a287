//! Random sequences of verbs: the store says and holds what the model does, and its books balance after each.

use std::sync::Arc;

use proptest::prelude::*;
use sluice::domain::amount::{Granularity, Msat, Price, Share};
use sluice::domain::destination::Destination;
use sluice::domain::id::{
    CreatorId, NodeId, PaymentHash, PayoutId, Preimage, SegmentNumber, SegmentRef, SessionId,
    Version, VideoId,
};
use sluice::domain::ledger::{Account, IncomingPayment, Split};
use sluice::domain::video::Terms;
use sluice::statements::Statements;
use sluice::store::memory::Memory;
use sluice::store::{
    Credit, Draw, Invoice, Ledger as _, Origin, Payout, PayoutState, Payouts as _, Plan, Progress,
    Purpose, Redeem, SessionRecord, Sessions as _, Settle, Store,
};
use uuid::Uuid;

use crate::model::{self, For, Model, Stage};

#[derive(Debug, Clone)]
enum Verb {
    Record { n: u8, amount: u64, session: Option<u8> },
    Told { n: u8, amount: u64, boot: u64, before: bool },
    Proof { n: u8 },
    Redeem { n: u8 },
    Draw { session: u8, segment: u8, amount: u64 },
    Sweep { age: u64 },
    Plan { planned: u64, kept: u64 },
    Settle { fee: Option<u64> },
    Wait { ms: u64 },
}

fn verb() -> impl Strategy<Value = Verb> {
    let (n, amount) = (0..6_u8, prop_oneof![Just(1_000_u64), Just(2_000), 1..5_000_u64]);
    let session = prop::option::of(0..2_u8);
    prop_oneof![
        3 => (n.clone(), amount.clone(), session)
            .prop_map(|(n, amount, session)| Verb::Record { n, amount, session }),
        4 => (n.clone(), amount.clone(), 1..3_u64, any::<bool>())
            .prop_map(|(n, amount, boot, before)| Verb::Told { n, amount, boot, before }),
        1 => n.clone().prop_map(|n| Verb::Proof { n }),
        3 => n.prop_map(|n| Verb::Redeem { n }),
        3 => (0..2_u8, 0..4_u8, amount)
            .prop_map(|(session, segment, amount)| Verb::Draw { session, segment, amount }),
        1 => (0..400_u64).prop_map(|age| Verb::Sweep { age }),
        2 => (0..3_000_u64, 0..300_u64).prop_map(|(planned, kept)| Verb::Plan { planned, kept }),
        2 => prop::option::of(0..500_u64).prop_map(|fee| Verb::Settle { fee }),
        2 => (1..200_u64).prop_map(|ms| Verb::Wait { ms }),
    ]
}

const GRACE: u64 = 60;

struct Both {
    model: Model,
    store: Arc<Store<Memory>>,
    payouts: Vec<PaymentHash>,
    now: u64,
}

fn creator() -> CreatorId {
    CreatorId::new(Uuid::from_u128(1))
}

fn split() -> Split {
    Split { creator: creator(), fee: Share::from_ppm(30_000).unwrap() }
}

fn segment(number: u8) -> SegmentRef {
    let video = VideoId::new(Uuid::from_u128(1));
    SegmentRef { video, version: Version(1), number: SegmentNumber(number.into()) }
}

fn session(number: u8) -> SessionRecord {
    let price = Price::agreed(500);
    let terms = Terms { price, preview_seconds: 0, granularity: Granularity::SAT };
    SessionRecord {
        id: SessionId::new(Uuid::from_u128(number.into())),
        video: segment(0).video,
        version: Version(1),
        terms: terms.into(),
        split: split(),
        generation: 0,
        ended: false,
        paused: false,
        failed: std::collections::BTreeSet::new(),
        bare: false,
        expires_at: 2_000_000_000,
    }
}

fn hash(n: u8) -> PaymentHash {
    Preimage::new([n; 32]).hash()
}

impl Both {
    fn new() -> Self {
        let store = Arc::new(Store::new(Memory::default()));
        Self { model: Model::default(), store, payouts: Vec::new(), now: 1_000 }
    }

    fn act(&mut self, verb: &Verb) -> Result<(), TestCaseError> {
        match *verb {
            Verb::Record { n, amount, session } => self.record(n, amount, session),
            Verb::Told { n, amount, boot, before } => {
                let expected = self.model.told(n, amount, boot, before, self.now);
                let payment = IncomingPayment { hash: hash(n), received: Msat::new(amount), boot };
                let origin = Origin::Event { told_before: before };
                let credit = self.store.credit(payment, origin, self.now).unwrap();
                prop_assert_eq!(word(&credit), expected);
            }
            Verb::Proof { n } => {
                let Some(invoice) = self.model.invoices.get(&n) else { return Ok(()) };
                let received = Msat::new(invoice.amount);
                let expected = self.model.proof(n, received.get(), self.now);
                let payment = IncomingPayment { hash: hash(n), received, boot: 0 };
                let credit = self.store.credit(payment, Origin::Proof, self.now).unwrap();
                prop_assert_eq!(word(&credit), expected);
            }
            Verb::Redeem { n } => {
                let expected = self.model.redeem(n, self.now, GRACE);
                let redeem = self.store.redeem(&hash(n), segment(n), self.now, GRACE).unwrap();
                let word = match redeem {
                    Redeem::First => "first",
                    Redeem::Again => "again",
                    Redeem::Spent => "spent",
                    Redeem::Unpaid => "unpaid",
                    Redeem::Unknown => "unknown",
                };
                prop_assert_eq!(word, expected);
            }
            Verb::Draw { session: of, segment: number, amount } => {
                let expected = self.model.draw(of, number, amount);
                let (id, amount) = (session(of).id, Msat::new(amount));
                let draw =
                    self.store.draw(id, segment(number), amount, &split(), self.now).unwrap();
                let word = match draw {
                    Draw::First => "first",
                    Draw::Again => "again",
                    Draw::Short { .. } => "short",
                };
                prop_assert_eq!(word, expected);
            }
            Verb::Sweep { age } => {
                let before = self.now.saturating_sub(age);
                self.model.sweep(before, self.now);
                self.store.sweep(0, before, self.now).unwrap();
            }
            Verb::Plan { planned, kept } => {
                let planned = if planned == 0 {
                    u64::try_from(self.model.payable).unwrap_or(0)
                } else {
                    planned
                };
                let amount = planned.saturating_sub(kept);
                let expected = self.model.plan(planned, amount);
                prop_assert_eq!(self.plan(planned, amount), expected);
            }
            Verb::Settle { fee } => self.settle(fee),
            Verb::Wait { ms } => self.now += ms,
        }
        Ok(())
    }

    fn record(&mut self, n: u8, amount: u64, of: Option<u8>) {
        if self.model.invoices.contains_key(&n) {
            return;
        }
        let purpose = match of {
            None => Purpose::Segment { segment: segment(n) },
            Some(of) => Purpose::Session { session: session(of).id, segments: Vec::new() },
        };
        let invoice = Invoice {
            hash: hash(n),
            amount: Msat::new(amount),
            purpose,
            split: split(),
            bolt11: None,
            expires_at: 600,
            minted_ms: None,
            progress: Progress::Open,
            credited: Msat::ZERO,
            claimed: false,
        };
        match of {
            None => self.store.record(&invoice).unwrap(),
            Some(of) => self.store.open_invoice(&session(of), &invoice).unwrap(),
        }
        let of = of.map_or(For::Segment, For::Session);
        self.model
            .invoices
            .insert(n, model::Invoice { amount, of, stage: Stage::Open, at: 0, credited: 0 });
    }

    fn plan(&mut self, planned: u64, amount: u64) -> bool {
        let number = self.payouts.len() as u128;
        let mut preimage = [0xAA; 32];
        preimage[..16].copy_from_slice(&number.to_be_bytes());
        let payout = Payout {
            id: PayoutId::new(Uuid::from_u128(number)),
            creator: creator(),
            destination: Some(Destination::Keysend(NodeId::new([2; 33]))),
            planned: Msat::new(planned),
            amount: Msat::new(amount),
            hash: Some(Preimage::new(preimage).hash()),
            invoice: None,
            state: PayoutState::Pending,
            created_ms: self.now,
        };
        let done = self.store.plan(&payout).unwrap() == Plan::Made;
        if done {
            self.payouts.extend(payout.hash);
        }
        done
    }

    /// Settles every payout that there ever was: the one in flight, and those that came back where they arrive after all.
    fn settle(&mut self, fee: Option<u64>) {
        self.model.settle(fee);
        let outcome = match fee {
            Some(fee) => Settle::Arrived { fee: Msat::new(fee), preimage: None },
            None => Settle::Returned { reason: "x".to_owned() },
        };
        for hash in &self.payouts {
            assert!(self.store.settle(hash, &outcome, self.now).unwrap().is_some());
        }
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let model = &self.model;
        let balance = |account| self.store.balance(account).unwrap();
        let flying = model.flying.as_ref().map_or(0, |payout| payout.planned);
        for (account, expected) in [
            (Account::ChannelFunds, i128::from(model.received) - i128::from(model.sent)),
            (Account::ViewerCredit, -i128::from(model.viewers)),
            (Account::Unclaimed, -i128::from(model.unclaimed)),
            (Account::OperatorFee, -i128::from(model.fee)),
            (Account::CreatorPayable(creator()), -model.payable),
            (Account::PayoutsInFlight, -i128::from(flying)),
            (Account::RoutingExpense, i128::from(model.routing)),
            (Account::RoutingCharged, -i128::from(model.charged)),
        ] {
            prop_assert_eq!(balance(account), expected, "{}", account);
        }
        for (of, credit) in &model.credit {
            if let Some(state) = self.store.session(session(*of).id).unwrap() {
                prop_assert_eq!(state.credit.get(), *credit);
            }
        }
        let verification = Statements { store: Arc::clone(&self.store) as _ }.verify().unwrap();
        prop_assert!(verification.holds(), "{:?}", verification);
        Ok(())
    }
}

fn word(credit: &Credit) -> &'static str {
    match credit {
        Credit::Applied(_) => "applied",
        Credit::Overpaid(..) => "overpaid",
        Credit::Replayed => "replayed",
        Credit::Repeated(_) => "repeated",
        Credit::Unclaimed => "unclaimed",
    }
}

proptest! {
    #[test]
    fn the_ledger_does_what_its_model_does(verbs in prop::collection::vec(verb(), 1..80)) {
        let mut both = Both::new();
        for verb in &verbs {
            both.act(verb)?;
            both.check()?;
        }
    }
}
