//! A store under test, whichever engine it has. When it is dropped, its books must be right.

use std::ops::Deref;

use sluice::domain::amount::{Granularity, Msat, Price, Share};
use sluice::domain::id::{
    CreatorId, PaymentHash, Preimage, SegmentNumber, SegmentRef, SessionId, Version, VideoId,
};
use sluice::domain::ledger::{Account, Balances, IncomingPayment, Split};
use sluice::domain::video::{Terms, Video, VideoState};
use sluice::store::engine::Engine;
use sluice::store::memory::Memory;
use sluice::store::rocks::Rocks;
use sluice::store::{
    Catalog as _, Credit, Invoice, Ledger as _, Origin, Progress, Purpose, SessionRecord, Store,
};
use tempfile::TempDir;
use uuid::Uuid;

/// An engine and what lies under it.
pub trait Kind: Sized {
    type E: Engine;

    fn begin() -> (Self, Store<Self::E>);

    /// What a new process finds.
    fn again(&self, store: Store<Self::E>) -> Store<Self::E>;
}

/// Nothing outlives the process: a new one is not played.
pub struct InMemory;

impl Kind for InMemory {
    type E = Memory;

    fn begin() -> (Self, Store<Memory>) {
        (Self, Store::new(Memory::default()))
    }

    fn again(&self, store: Store<Memory>) -> Store<Memory> {
        store
    }
}

/// Closed and opened again between steps.
pub struct OnDisk(TempDir);

impl Kind for OnDisk {
    type E = Rocks;

    fn begin() -> (Self, Store<Rocks>) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::new(Rocks::open(directory.path()).unwrap());
        (Self(directory), store)
    }

    fn again(&self, store: Store<Rocks>) -> Store<Rocks> {
        drop(store);
        Store::new(Rocks::open(self.0.path()).unwrap())
    }
}

pub struct Books<K: Kind> {
    store: Option<Store<K::E>>,
    kind: K,
}

impl<K: Kind> Books<K> {
    pub fn begin() -> Self {
        let (kind, store) = K::begin();
        Self { store: Some(store), kind }
    }

    /// A new process opens the store.
    pub fn reopen(&mut self) {
        let store = self.store.take().unwrap();
        self.store = Some(self.kind.again(store));
    }

    /// The sum of an account, as a liability or revenue is read.
    pub fn owed(&self, account: Account) -> i128 {
        -self.balance(account).unwrap()
    }

    /// A creator to whom this much is owed, without a fee.
    pub fn creator_with(&self, number: u128, payable: u64) -> CreatorId {
        let creator = creator(number);
        let split = Split { creator, fee: Share::from_ppm(0).unwrap() };
        let invoice = Invoice { split, ..invoice(1_000 + number, payable) };
        self.record(&invoice).unwrap();
        self.pay(&invoice, payable);
        let segment = segment(1);
        self.redeem(&invoice.hash, segment, 1, 0).unwrap();
        creator
    }

    /// The node tells of a payment, in boot 1.
    pub fn pay(&self, invoice: &Invoice, received: u64) -> Credit {
        self.credit(payment(invoice.hash, received, 1), TOLD, 1_000).unwrap()
    }

    fn verify(&self) {
        let mut sums = Balances::default();
        let mut after: Option<String> = None;
        loop {
            let page = self.entries(after.as_deref(), 3).unwrap();
            for entry in &page {
                assert_eq!(entry.sum(), Some(0), "{} does not balance", entry.id);
                sums.add(entry).unwrap();
            }
            match page.into_iter().next_back() {
                Some(last) => after = Some(last.id),
                None => break,
            }
        }
        let not_zero = |balances: &Balances| -> Vec<(Account, i128)> {
            balances.iter().filter(|(_, sum)| *sum != 0).collect()
        };
        let kept = self.balances().unwrap();
        assert_eq!(not_zero(&kept), not_zero(&sums), "balances are the sums of postings");
        for (account, sum) in not_zero(&kept) {
            assert_eq!(self.balance(account).unwrap(), sum);
        }
        assert_eq!(kept.iter().map(|(_, sum)| sum).sum::<i128>(), 0);
    }
}

impl<K: Kind> Deref for Books<K> {
    type Target = Store<K::E>;

    fn deref(&self) -> &Store<K::E> {
        self.store.as_ref().unwrap()
    }
}

impl<K: Kind> Drop for Books<K> {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.verify();
            self.reopen();
            self.verify();
        }
    }
}

/// Each function is a test over each engine.
macro_rules! suite {
    ($($name:ident)*) => {
        mod memory {
            $(#[test]
            fn $name() {
                super::$name(&mut crate::books::Books::<crate::books::InMemory>::begin());
            })*
        }
        mod rocks {
            $(#[test]
            fn $name() {
                super::$name(&mut crate::books::Books::<crate::books::OnDisk>::begin());
            })*
        }
    };
}
pub(crate) use suite;

pub const TOLD: Origin = Origin::Event { told_before: false };
pub const TOLD_BEFORE: Origin = Origin::Event { told_before: true };

pub fn creator(number: u128) -> CreatorId {
    CreatorId::new(Uuid::from_u128(number))
}

pub fn video_id(number: u128) -> VideoId {
    VideoId::new(Uuid::from_u128(number))
}

pub fn video(number: u128, of: u128) -> Video {
    Video {
        id: video_id(number),
        creator: creator(of),
        title: format!("Film {number}"),
        description: String::new(),
        price: Price::agreed(500),
        preview_seconds: 0,
        state: VideoState::Draft,
        version: Version(1),
        next: None,
        versions: 0,
        created_ms: 1,
        source_sha256: None,
    }
}

pub fn segment(number: u32) -> SegmentRef {
    SegmentRef { video: video_id(1), version: Version(1), number: SegmentNumber(number) }
}

pub fn split() -> Split {
    Split { creator: creator(1), fee: Share::from_ppm(30_000).unwrap() }
}

pub fn hash(number: u128) -> PaymentHash {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&number.to_be_bytes());
    Preimage::new(bytes).hash()
}

/// An invoice for segment 1.
pub fn invoice(number: u128, amount: u64) -> Invoice {
    Invoice {
        hash: hash(number),
        amount: Msat::new(amount),
        purpose: Purpose::Segment { segment: segment(1) },
        split: split(),
        bolt11: None,
        expires_at: 600,
        minted_ms: None,
        progress: Progress::Open,
        credited: Msat::ZERO,
        claimed: false,
    }
}

pub fn session(number: u128) -> SessionRecord {
    let terms =
        Terms { price: Price::agreed(500), preview_seconds: 0, granularity: Granularity::SAT };
    SessionRecord {
        id: SessionId::new(Uuid::from_u128(number)),
        video: video_id(1),
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

pub fn session_invoice(session: &SessionRecord, number: u128, amount: u64) -> Invoice {
    let purpose = Purpose::Session { session: session.id, segments: vec![SegmentNumber(1)] };
    Invoice { purpose, bolt11: Some(format!("lnbcrt{number}")), ..invoice(number, amount) }
}

pub fn payment(hash: PaymentHash, received: u64, boot: u64) -> IncomingPayment {
    IncomingPayment { hash, received: Msat::new(received), boot }
}

/// A creator that the catalogue knows.
pub fn enter<K: Kind>(books: &Books<K>, number: u128) {
    let creator = sluice::store::Creator {
        id: creator(number),
        name: "Ada".to_owned(),
        payout: None,
        payout_from_ms: 0,
        created_ms: 1,
    };
    let key = sluice::store::KeyHash([u8::try_from(number).unwrap(); 32]);
    books.create_creator(&creator, key).unwrap();
}
