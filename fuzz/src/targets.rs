//! What is asked of each parser for any bytes. The fuzzer runs these, and so does an ordinary test (`tests/properties/fuzz.rs`) with the seeds
//! that lie beside them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::domain::amount::{Granularity, Msat, Price};
use crate::domain::id::{
    CreatorId, NodeId, PaymentHash, Preimage, RenditionName, SegmentNumber, SegmentRef, SessionId,
    Version, VideoId,
};
use crate::domain::ledger::Account;
use crate::domain::subtitle;
use crate::http::range::{Range, Unsatisfiable};
use crate::paywall::token::{Bound, Keys, Receipt, SessionKind, SessionToken, parse_all};

/// The server's keys: who fuzzes does not know them.
fn keys() -> Keys {
    Keys::derive(&[5; 64], 3)
}

const PREIMAGE: Preimage = Preimage::new([9; 32]);

/// The one thing that was ever sold here; a seed holds its credential.
pub fn sold() -> Bound {
    Bound {
        hash: PREIMAGE.hash(),
        segment: SegmentRef {
            video: VideoId::new(uuid::Uuid::from_u128(7)),
            version: Version(1),
            number: SegmentNumber(3),
        },
        amount: Msat::new(2_000),
        pay_before: 1_700_000_000,
    }
}

/// The one session; seeds hold its two keys.
pub fn opened() -> SessionToken {
    SessionToken {
        id: SessionId::new(uuid::Uuid::from_u128(1)),
        video: VideoId::new(uuid::Uuid::from_u128(7)),
        version: Version(1),
        price: Price::agreed(500),
        preview_seconds: 4,
        granularity: Granularity::SAT,
        ahead: 3,
        bundle: 1,
        hold_ms: 8_000,
        max: Msat::new(u64::MAX),
        expires_at: 1_700_000_000,
        generation: 0,
    }
}

/// The one receipt; a seed holds it.
pub fn receipt() -> Receipt {
    Receipt {
        session: opened().id,
        hash: PREIMAGE.hash(),
        amount: Msat::new(2_000),
        expires_at: 1_700_000_000,
        segments: vec![SegmentNumber(3), SegmentNumber(4)],
    }
}

/// `Authorization` headers, one a line, and the same bytes as a macaroon: nothing opens but what was sold.
pub fn credentials(data: &[u8]) {
    let keys = keys();
    let lines = data.split(|byte| *byte == b'\n');
    let as_macaroon = format!("L402 {}:{}", STANDARD.encode(data), String::from(PREIMAGE));
    let presented = parse_all(lines.chain([as_macaroon.as_bytes()]));
    assert!(presented.len() <= 4, "a request's work is bounded");
    for presented in presented {
        if let Some(bound) = keys.verify(&presented) {
            assert_eq!(bound, sold());
            assert!(presented.preimage() == &PREIMAGE);
        }
    }
}

/// A body's length (eight bytes) and the value of a `Range` header: what is served lies within the body.
pub fn ranges(data: &[u8]) {
    let Some((len, value)) = data.split_first_chunk::<8>() else { return };
    let (of, value) = (u64::from_be_bytes(*len), String::from_utf8_lossy(value));
    match Range::of(&value, of) {
        Ok(range @ Range::Whole { of: whole }) => assert_eq!((whole, range.len()), (of, of)),
        Ok(range @ Range::Part { first, last, of: whole }) => {
            assert!(first <= last && last < of && whole == of);
            assert_eq!(range.len(), last - first + 1);
            assert!(!value.contains(','), "one range");
        }
        Err(Unsatisfiable) => {
            // No range is refused of a body that holds the byte it begins with.
            let spec = value.trim().strip_prefix("bytes=").expect("another unit is no range");
            let first = spec.trim().split('-').next().unwrap_or_default().trim();
            assert!(first.parse::<u64>().map_or(true, |first| first >= of));
        }
    }
}

/// The parts of a path, and receipts: what is read is printed as it was written, and names nothing outside.
pub fn ids(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for part in text.split('/') {
        let printed = [
            part.parse::<VideoId>().map(|id| id.to_string()),
            part.parse::<CreatorId>().map(|id| id.to_string()),
            part.parse::<RenditionName>().map(|name| name.to_string()),
            part.parse::<SegmentNumber>().map(|number| number.to_string()),
            part.parse::<Version>().map(|version| version.to_string()),
            part.parse::<Account>().map(|account| account.to_string()),
        ];
        for printed in printed.into_iter().flatten() {
            assert_eq!(printed, part);
            assert!(part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b':'));
        }
        // These are read in either case.
        let hex = [
            part.parse::<PaymentHash>().map(|hash| hash.to_string()),
            part.parse::<NodeId>().map(|node| node.to_string()),
            part.parse::<Preimage>().map(String::from),
        ];
        for printed in hex.into_iter().flatten() {
            assert_eq!(printed, part.to_lowercase());
        }
        if let Some(read) = keys().verify_receipt(part) {
            assert_eq!(read, receipt());
            assert_eq!(keys().issue_receipt(&read), part, "a receipt has one spelling");
        }
        for kind in [SessionKind::Play, SessionKind::Control] {
            if let Some(token) = keys().verify_session(kind, part) {
                assert_eq!(token, opened());
                assert_eq!(keys().issue_session(kind, &token), part, "a key has one spelling");
            }
        }
    }
}

/// Subtitles: what is read is plain, and written it is read as the same.
pub fn subtitles(data: &[u8]) {
    let Ok(cues) = subtitle::parse(data) else { return };
    assert!(!cues.is_empty() && cues.len() <= subtitle::CUES_MAX);
    for cue in &cues {
        assert!(cue.start() < cue.end());
        assert!(cue.text().lines().all(|line| !line.trim().is_empty()));
    }
    let written = subtitle::vtt(None, &cues);
    assert_eq!(written.matches("-->").count(), cues.len());
    let read = subtitle::parse(written.as_bytes());
    assert_eq!(read.as_ref(), Ok(&cues), "{written}");
}
