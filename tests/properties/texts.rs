//! Text and back; and text from anyone.

use proptest::prelude::*;
use sluice::domain::amount::{Granularity, Msat, Price, Share};
use sluice::domain::id::{
    CreatorId, NodeId, PaymentHash, Preimage, RenditionName, SegmentNumber, SegmentRef, SessionId,
    Version, VideoId,
};
use sluice::domain::ledger::Account;
use sluice::domain::subtitle::{self, Cue, Language};
use sluice::domain::video::Ticks;
use sluice::paywall::token::{Bound, Keys, SessionKind, SessionToken, parse_authorization};
use uuid::Uuid;

/// A preimage (as hexadecimal digits, because secrets have no `Debug`) and what its payment is bound to.
fn bound() -> impl Strategy<Value = (String, Bound)> {
    (any::<[u8; 32]>(), any::<u128>(), any::<(u32, u32, u64, u64)>()).prop_map(
        |(preimage, video, (version, number, amount, pay_before))| {
            let preimage = Preimage::new(preimage);
            let segment = SegmentRef {
                video: VideoId::new(Uuid::from_u128(video)),
                version: Version(version),
                number: SegmentNumber(number),
            };
            let amount = Msat::new(amount);
            (String::from(preimage), Bound { hash: preimage.hash(), segment, amount, pay_before })
        },
    )
}

fn session() -> impl Strategy<Value = SessionToken> {
    (any::<(u128, u128, u32, u64, u32)>(), 1_u64.., any::<(u8, u8, u16, u64, u64, u32)>()).prop_map(
        |((id, video, version, price, preview_seconds), granule, rest)| {
            let (ahead, bundle, hold_ms, max, expires_at, generation) = rest;
            SessionToken {
                id: SessionId::new(Uuid::from_u128(id)),
                video: VideoId::new(Uuid::from_u128(video)),
                version: Version(version),
                price: Price::agreed(price),
                preview_seconds,
                granularity: Granularity::new(granule).unwrap(),
                ahead,
                bundle,
                hold_ms,
                max: Msat::new(max),
                expires_at,
                generation,
            }
        },
    )
}

proptest! {
    #[test]
    fn an_id_is_read_as_it_was_printed(id: u128, bytes: [u8; 32], number: u32) {
        let video = VideoId::new(Uuid::from_u128(id));
        prop_assert_eq!(video.to_string().parse(), Ok(video));
        let hash = PaymentHash::new(bytes);
        prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        let preimage = Preimage::new(bytes);
        prop_assert!(String::from(preimage).parse() == Ok(preimage));
        let mut node = [2; 33];
        node[1..].copy_from_slice(&bytes);
        prop_assert_eq!(NodeId::new(node).to_string().parse(), Ok(NodeId::new(node)));
        prop_assert_eq!(SegmentNumber(number).to_string().parse(), Ok(SegmentNumber(number)));
        prop_assert_eq!(Version(number).to_string().parse(), Ok(Version(number)));
        let account = Account::CreatorPayable(CreatorId::new(Uuid::from_u128(id)));
        prop_assert_eq!(account.to_string().parse(), Ok(account));
    }

    #[test]
    fn an_id_has_one_spelling(text in "\\PC{0,40}") {
        if let Ok(id) = text.parse::<VideoId>() {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(number) = text.parse::<SegmentNumber>() {
            prop_assert_eq!(number.to_string(), text.clone());
        }
        if let Ok(name) = text.parse::<RenditionName>() {
            prop_assert_eq!(name.as_str(), text.as_str());
        }
        if let Ok(account) = text.parse::<Account>() {
            prop_assert_eq!(account.to_string(), text);
        }
    }

    #[test]
    fn a_number_has_one_spelling(text in "[+-]?0{0,2}[0-9]{1,11}") {
        if let Ok(number) = text.parse::<SegmentNumber>() {
            prop_assert_eq!(number.to_string(), text);
        }
    }

    #[test]
    fn amounts_and_shares_are_read_as_they_were_written(msat: u64, ppm in 0..=1_000_000_u32) {
        let amount = Msat::new(msat);
        let text = serde_json::to_string(&amount).unwrap();
        prop_assert_eq!(serde_json::from_str::<Msat>(&text).unwrap(), amount);
        prop_assert_eq!(Msat::from_signed(amount.signed()), Some(amount));
        let share = Share::from_ppm(ppm).unwrap();
        let text = serde_json::to_string(&share).unwrap();
        prop_assert_eq!(serde_json::from_str::<Share>(&text).unwrap(), share);
        let (part, rest) = share.split(amount);
        prop_assert_eq!(part.checked_add(rest), Some(amount));
    }

    #[test]
    fn a_credential_says_what_it_was_issued_for((preimage, bound) in bound(), seed: [u8; 32]) {
        let keys = Keys::derive(&[seed, seed].concat().try_into().unwrap(), 3);
        let header = format!("L402 {}:{}", keys.issue(&bound), preimage);
        let presented = parse_authorization(header.as_bytes()).expect("a credential");
        prop_assert_eq!(keys.verify(&presented), Some(bound));
        prop_assert_eq!(Keys::derive(&[1; 64], 3).verify(&presented), None);
    }

    #[test]
    fn a_session_key_says_what_it_was_issued_for(token in session(), play: bool) {
        let keys = Keys::derive(&[5; 64], 0);
        let (kind, other) = match play {
            true => (SessionKind::Play, SessionKind::Control),
            false => (SessionKind::Control, SessionKind::Play),
        };
        let key = keys.issue_session(kind, &token);
        prop_assert_eq!(keys.verify_session(kind, &key), Some(token));
        prop_assert_eq!(keys.verify_session(other, &key), None);
    }

    #[test]
    fn a_session_key_of_anyone_opens_nothing(text in "[A-Za-z0-9_-]{0,200}", bytes: Vec<u8>) {
        let keys = Keys::derive(&[5; 64], 0);
        prop_assert_eq!(keys.verify_session(SessionKind::Play, &text), None);
        let text = String::from_utf8_lossy(&bytes);
        prop_assert_eq!(keys.verify_session(SessionKind::Control, &text), None);
    }

    #[test]
    fn an_authorization_of_anyone_opens_nothing(bytes: Vec<u8>, schemes in "(L402|LSAT|l402 ){0,3}") {
        let keys = Keys::derive(&[5; 64], 0);
        let mut value = schemes.into_bytes();
        value.push(b' ');
        value.extend_from_slice(&bytes);
        for value in [&bytes, &value] {
            let verified = parse_authorization(value).and_then(|presented| keys.verify(&presented));
            prop_assert_eq!(verified, None);
        }
    }

    #[test]
    fn a_macaroon_of_anyone_opens_nothing(bytes: Vec<u8>, (preimage, bound) in bound(), at: usize) {
        use base64::Engine as _;
        use base64::engine::general_purpose::STANDARD;
        let keys = Keys::derive(&[5; 64], 0);
        let mut changed = STANDARD.decode(keys.issue(&bound)).unwrap();
        let at = at % changed.len();
        changed.splice(at..at, bytes.iter().copied());
        for macaroon in [&bytes, &changed] {
            let header = format!("L402 {}:{}", STANDARD.encode(macaroon), preimage);
            let presented = parse_authorization(header.as_bytes());
            let verified = presented.and_then(|presented| keys.verify(&presented));
            prop_assert!(verified.is_none() || bytes.is_empty());
        }
    }

    #[test]
    fn subtitles_are_read_as_they_were_written(
        texts in prop::collection::vec(("\\PC{0,60}|[<>&{}\\\\;\\-\n ]{0,20}", 0..100_000_000_u64, 1..100_000_u64), 1..20)
    ) {
        let at = Ticks::from_millis;
        let cue = |(text, start, length): (String, u64, u64)| Cue::new(at(start), at(start + length), &text);
        let mut cues: Vec<Cue> = texts.into_iter().filter_map(cue).collect();
        cues.sort_by_key(|cue| (cue.start(), cue.end()));
        let written = subtitle::vtt(None, &cues);
        prop_assert_eq!(written.matches("-->").count(), cues.len());
        match subtitle::parse(written.as_bytes()) {
            Ok(read) => prop_assert_eq!(read, cues),
            Err(_) => prop_assert!(cues.is_empty(), "{}", written),
        }
    }

    #[test]
    fn subtitles_of_anyone_are_plain_or_refused(
        bytes: Vec<u8>,
        lines in "(WEBVTT\n\n)?([0-9]{1,3}\n|[0-9:.,]{0,13} --> [0-9:.,]{0,13}\r?\n|NOTE\n|<script>&lt;\\{x\n|\n|\r){0,40}",
    ) {
        for text in [bytes.as_slice(), lines.as_bytes()] {
            for cue in subtitle::parse(text).unwrap_or_default() {
                prop_assert!(cue.start() < cue.end());
                prop_assert!(cue.text().lines().all(|line| !line.trim().is_empty()));
            }
        }
    }

    #[test]
    fn a_language_is_read_as_it_was_printed(text in "[a-zA-Z]{2,3}(-[a-zA-Z0-9]{1,8}){0,4}") {
        if let Ok(language) = text.parse::<Language>() {
            prop_assert_eq!(language.to_string().parse(), Ok(language.clone()));
            prop_assert!(language.as_str().eq_ignore_ascii_case(&text));
        }
    }
}
