//! A data directory as a server leaves it behind: a creator, published films, and payments that were credited and not served.

use std::path::Path;

use sluice::app::write_private;
use sluice::blobs::{Blobs, Part};
use sluice::domain::amount::{Granularity, Msat, Price, Share};
use sluice::domain::id::{
    CreatorId, PaymentHash, Preimage, SegmentNumber, SegmentRef, Version, VideoId,
};
use sluice::domain::ledger::{IncomingPayment, Split};
use sluice::domain::video::{Media, Rendition, Ticks, Timeline, Video, VideoState};
use sluice::paywall::token::{Bound, Keys};
use sluice::runtime::random_bytes;
use sluice::store::engine::Engine;
use sluice::store::rocks::Rocks;
use sluice::store::{
    Catalog as _, Change, Creator, Invoice, Job, Jobs as _, KeyHash, Lease, Ledger as _, Origin,
    Progress, Purpose, Store,
};
use uuid::Uuid;

pub const SEED: [u8; 64] = [7; 64];
/// Each segment lasts this long and costs two satoshis.
pub const SEGMENT_MS: u64 = 4_000;
pub const MSAT_PER_SECOND: u64 = 500;
pub const SEGMENT_PRICE: Msat = Msat::new(2_000);
const RENDITION: &str = "720p";

/// A published film whose segments all have one length and cost something from the first on.
#[derive(Debug, Clone, Copy)]
pub struct Film {
    pub video: VideoId,
    pub segments: u32,
}

impl Film {
    pub fn segment(&self, number: u32) -> SegmentRef {
        SegmentRef { video: self.video, version: Version(1), number: SegmentNumber(number) }
    }

    /// Where a segment is asked for.
    pub fn path(&self, number: u32) -> String {
        format!("/hls/{}/1/{RENDITION}/{number}.m4s", self.video)
    }

    /// Where its bytes lie, under the directory of all media.
    pub fn file(&self, number: u32) -> String {
        format!("/media/{}/1/{RENDITION}/{number}.m4s", self.video)
    }
}

/// A data directory with a seed and a store.
pub fn prepare(data_dir: &Path) -> Store<Rocks> {
    Store::new(database(data_dir))
}

/// The same without the verbs.
pub fn database(data_dir: &Path) -> Rocks {
    std::fs::create_dir_all(data_dir.join("media")).unwrap();
    write_private(&data_dir.join("seed"), &SEED).unwrap();
    Rocks::open(&data_dir.join("db")).unwrap()
}

/// Publishes a film in this store, with its bytes.
pub async fn publish<E: Engine>(
    store: &Store<E>,
    blobs: &Blobs,
    number: u128,
    segments: u32,
    segment_bytes: usize,
) -> Film {
    let creator = Creator {
        id: CreatorId::new(Uuid::from_u128(1)),
        name: "Ada".to_owned(),
        payout: None,
        payout_from_ms: 0,
        created_ms: 0,
    };
    store.create_creator(&creator, KeyHash([1; 32])).unwrap();
    let id = VideoId::new(Uuid::from_u128(number));
    let nominal = Ticks::from_millis(SEGMENT_MS);
    let video = Video {
        id,
        creator: creator.id,
        title: "Film".to_owned(),
        description: String::new(),
        price: Price::new(MSAT_PER_SECOND, Granularity::SAT, nominal).unwrap(),
        preview_seconds: 0,
        state: VideoState::Draft,
        version: Version(1),
        next: None,
        versions: 0,
        created_ms: 0,
        source_sha256: None,
    };
    store.create_video(&video).unwrap();
    store.advance(id, VideoState::Uploading).unwrap();
    let job = Job::new(&video, String::new(), String::new(), 0);
    store.enqueue(&job).unwrap();
    let job = store.claim(Lease { boot: 1, until_ms: 1 }, 0).unwrap().unwrap().job;
    let ticks = (0..=u64::from(segments)).map(|n| Ticks::from_millis(n * SEGMENT_MS)).collect();
    let rendition = Rendition {
        name: RENDITION.parse().unwrap(),
        resolution: Some((1_280, 720)),
        frame_rate_milli: Some(25_000),
        codecs: "avc1.64001f,mp4a.40.2".to_owned(),
        bandwidth: 2_000_000,
        average_bandwidth: 2_000_000,
    };
    for number in 0..segments {
        // Not all alike, so that no layer below can take them for one.
        let bytes: Vec<u8> = (0..segment_bytes).map(|at| (at as u32 ^ number) as u8).collect();
        let part = Part::Segment(SegmentNumber(number));
        blobs.put(id, Version(1), &rendition.name, part, bytes.into()).await.unwrap();
    }
    let timeline = Timeline::new(ticks).unwrap();
    let media = Media { version: Version(1), timeline, renditions: vec![rendition], frames: 1 };
    assert!(matches!(store.publish(&job, &media, true, 0).unwrap(), Change::Done(_)));
    Film { video: id, segments }
}

/// What a viewer shows: paid, credited, and not served yet.
pub struct Paid {
    pub number: u32,
    /// The value of the header `Authorization`.
    pub credential: String,
}

/// Payments for the segments of a film, one after the other, and the credentials that they complete.
pub fn pay<E: Engine>(store: &Store<E>, film: Film, count: usize, now_ms: u64) -> Vec<Paid> {
    let keys = Keys::derive(&SEED, 0);
    let paid = |n: usize| {
        let (number, preimage) = pay_one(store, film, n, now_ms);
        let bound = Bound {
            hash: preimage.hash(),
            segment: film.segment(number),
            amount: SEGMENT_PRICE,
            pay_before: now_ms / 1_000 + 600,
        };
        let preimage = hex::encode(preimage.as_bytes());
        Paid { number, credential: format!("L402 {}:{preimage}", keys.issue(&bound)) }
    };
    (0..count).map(paid).collect()
}

/// The same without credentials.
pub fn pay_hashes<E: Engine>(
    store: &Store<E>,
    film: Film,
    count: usize,
    now_ms: u64,
) -> Vec<(u32, PaymentHash)> {
    let paid = |n: usize| {
        let (number, preimage) = pay_one(store, film, n, now_ms);
        (number, preimage.hash())
    };
    (0..count).map(paid).collect()
}

fn pay_one<E: Engine>(store: &Store<E>, film: Film, n: usize, now_ms: u64) -> (u32, Preimage) {
    let number = n as u32 % film.segments;
    let preimage = Preimage::new(random_bytes());
    let invoice = Invoice {
        hash: preimage.hash(),
        amount: SEGMENT_PRICE,
        purpose: Purpose::Segment { segment: film.segment(number) },
        split: Split {
            creator: CreatorId::new(Uuid::from_u128(1)),
            fee: Share::from_ppm(30_000).unwrap(),
        },
        bolt11: None,
        expires_at: now_ms / 1_000 + 600,
        minted_ms: None,
        progress: Progress::Open,
        credited: Msat::ZERO,
        claimed: false,
    };
    store.record(&invoice).unwrap();
    let payment = IncomingPayment { hash: invoice.hash, received: SEGMENT_PRICE, boot: 1 };
    store.credit(payment, Origin::Event { told_before: false }, now_ms).unwrap();
    (number, preimage)
}
