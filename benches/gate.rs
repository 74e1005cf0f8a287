//! What the gate itself costs, without network and node: credentials, invoices, and the three batches of a sale on RocksDB beside the limit,
//! which is RocksDB taking as many plain values of the same size.
//!
//! `make bench ARGS="--bench gate"`
#![allow(clippy::unwrap_used, missing_docs)]

use std::cell::Cell;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sluice::domain::amount::{Msat, Share};
use sluice::domain::id::{
    CreatorId, PaymentHash, Preimage, SegmentNumber, SegmentRef, Version, VideoId,
};
use sluice::domain::ledger::{IncomingPayment, Split};
use sluice::lightning::Network;
use sluice::lightning::mint::Mint;
use sluice::paywall::token::{Bound, Keys, parse_authorization};
use sluice::store::engine::Engine;
use sluice::store::memory::Memory;
use sluice::store::rocks::Rocks;
use sluice::store::{Invoice, Ledger as _, Origin, Progress, Purpose, Redeem, Store};
use uuid::Uuid;

const AMOUNT: Msat = Msat::new(2_000);
const NOW_S: u64 = 1_790_000_000;
/// Bytes of a record: an invoice, a booked payment and an entry are this long, give or take a fifth.
const RECORD_BYTES: usize = 320;
/// Records that a sale writes: invoice three times, booked payment, two entries, five sums of 16 bytes.
const RECORDS_OF_A_SALE: u64 = 6;

fn segment() -> SegmentRef {
    SegmentRef {
        video: VideoId::new(Uuid::from_u128(7)),
        version: Version(1),
        number: SegmentNumber(3),
    }
}

fn hash(number: u64) -> PaymentHash {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[24..].copy_from_slice(&number.to_be_bytes());
    PaymentHash::new(bytes)
}

fn credentials(bench: &mut Criterion) {
    let keys = Keys::derive(&[5; 64], 0);
    let preimage = Preimage::new([9; 32]);
    let bound = Bound {
        hash: preimage.hash(),
        segment: segment(),
        amount: AMOUNT,
        pay_before: NOW_S + 600,
    };
    let header = format!("L402 {}:{}", keys.issue(&bound), hex::encode(preimage.as_bytes()));
    let mut group = bench.benchmark_group("credential");
    group.throughput(Throughput::Elements(1));
    group.bench_function("issue", |b| b.iter(|| keys.issue(black_box(&bound))));
    group.bench_function("parse and verify", |b| {
        b.iter(|| {
            let presented = parse_authorization(black_box(header.as_bytes())).unwrap();
            keys.verify(&presented).unwrap()
        });
    });
    let mint = Mint::new(Network::Regtest, &[7; 64]).unwrap();
    let (expiry, now) = (Duration::from_secs(600), Duration::from_secs(NOW_S));
    group.bench_function("mint an invoice", |b| {
        b.iter(|| mint.invoice(AMOUNT, expiry, Vec::new(), now, None).unwrap());
    });
    group.finish();
}

/// An invoice is recorded, paid and redeemed.
fn sell<E: Engine>(store: &Store<E>, number: u64) {
    let invoice = Invoice {
        hash: hash(number),
        amount: AMOUNT,
        purpose: Purpose::Segment { segment: segment() },
        split: Split {
            creator: CreatorId::new(Uuid::from_u128(1)),
            fee: Share::from_ppm(30_000).unwrap(),
        },
        bolt11: None,
        expires_at: NOW_S + 600,
        minted_ms: None,
        progress: Progress::Open,
        credited: Msat::ZERO,
        claimed: false,
    };
    store.record(&invoice).unwrap();
    let payment = IncomingPayment { hash: invoice.hash, received: AMOUNT, boot: 1 };
    store.credit(payment, Origin::Event { told_before: false }, NOW_S * 1_000).unwrap();
    let outcome = store.redeem(&invoice.hash, segment(), NOW_S * 1_000, 60_000).unwrap();
    assert_eq!(outcome, Redeem::First);
}

fn sales(bench: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let rocks = Store::new(Rocks::open(&directory.path().join("sales")).unwrap());
    let memory = Store::new(Memory::default());
    let limit = rocksdb::DB::open_default(directory.path().join("limit")).unwrap();
    let number = Cell::new(0_u64);
    let next = || {
        number.set(number.get() + 1);
        number.get()
    };
    let mut group = bench.benchmark_group("record, credit, redeem");
    group.throughput(Throughput::Elements(1));
    group.bench_function("RocksDB", |b| b.iter(|| sell(&rocks, next())));
    group.bench_function("memory", |b| b.iter(|| sell(&memory, next())));
    group.bench_function("the limit: as many plain values", |b| {
        let value = [b'x'; RECORD_BYTES];
        b.iter(|| {
            // Three batches, as a sale has.
            for batch in 0..3 {
                let mut writes = rocksdb::WriteBatch::default();
                for record in 0..RECORDS_OF_A_SALE / 3 {
                    let key = [next().to_be_bytes(), [batch; 8], record.to_be_bytes()].concat();
                    writes.put(key, value);
                }
                limit.write(writes).unwrap();
            }
        });
    });
    group.finish();
}

criterion_group!(benches, credentials, sales);
criterion_main!(benches);
