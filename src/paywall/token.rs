//! What opens a segment: L402 credentials (bLIP 26) and the two keys of a session.
//!
//! A credential is a version 2 macaroon (libmacaroons' binary format) bound to one payment hash, and the preimage of that hash. Its
//! root key is derived from the server's secret, the key epoch and the token's own random id, so nothing is looked up to verify it.
//! A preimage alone is worth nothing, because every hop of its route knows it.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{
    GeneralPurpose, GeneralPurposeConfig, STANDARD, URL_SAFE_NO_PAD,
};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;
use uuid::Uuid;

use crate::domain::amount::{Granularity, Msat, Price};
use crate::domain::id::{PaymentHash, Preimage, SegmentRef, SessionId, Version, VideoId};
use crate::runtime::random_bytes;

mod receipt;

pub use receipt::Receipt;

/// The macaroon's location, told to clients; it plays no part in the check.
const LOCATION: &str = "sluice";
/// A credential of ours has under 300 bytes; a longer one is not ours.
const MACAROON_BYTES_MAX: usize = 1_024;
/// How many credentials of one request are looked at.
const CREDENTIALS_MAX: usize = 4;

const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The server's token keys. They have no `Debug`, so that they are never logged.
#[derive(Clone)]
pub struct Keys {
    secret: [u8; 32],
    epoch: u32,
}

/// What a credential says once its signature holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The payment that opens it.
    pub hash: PaymentHash,
    /// What it opens.
    pub segment: SegmentRef,
    /// What it costs.
    pub amount: Msat,
    /// Until when it may be paid, in seconds since the Unix epoch.
    pub pay_before: u64,
}

/// A macaroon and a preimage, as a client sent them.
#[derive(Clone, PartialEq, Eq)]
pub struct Presented {
    macaroon: Vec<u8>,
    preimage: Preimage,
}

impl Presented {
    /// The preimage that was shown.
    pub const fn preimage(&self) -> &Preimage {
        &self.preimage
    }
}

/// What the credentials of one `Authorization` header value are: scheme `L402` or `LSAT` in any case, possibly doubled, then macaroon, a
/// colon and 64 hexadecimal digits. Anything else is no credential.
pub fn parse_authorization(value: &[u8]) -> Option<Presented> {
    let text = std::str::from_utf8(value).ok()?;
    let mut rest = text.trim();
    let mut schemes = 0;
    while let Some((word, after)) = rest.split_once(' ') {
        if !word.eq_ignore_ascii_case("l402") && !word.eq_ignore_ascii_case("lsat") {
            break;
        }
        schemes += 1;
        rest = after.trim_start();
    }
    if schemes == 0 || schemes > 2 {
        return None;
    }
    let (macaroons, preimage) = rest.rsplit_once(':')?;
    // Several macaroons may be joined by commas (bLIP 26); the first is the one that we issued.
    let macaroon = macaroons.split(',').next()?.trim();
    if macaroon.len() > MACAROON_BYTES_MAX {
        return None;
    }
    Some(Presented {
        macaroon: LENIENT.decode(macaroon).or_else(|_| URL_SAFE_NO_PAD.decode(macaroon)).ok()?,
        preimage: preimage.trim().parse().ok()?,
    })
}

/// The credentials of all `Authorization` headers of a request, the first few.
pub fn parse_all<'a>(values: impl Iterator<Item = &'a [u8]>) -> Vec<Presented> {
    values.filter_map(parse_authorization).take(CREDENTIALS_MAX).collect()
}

impl Keys {
    /// Keys from the node's seed, so that one secret is all that there is to keep.
    pub fn derive(seed: &[u8; 64], epoch: u32) -> Self {
        Self { secret: hmac(seed, &[b"sluice tokens"]), epoch }
    }

    /// A credential for a payment, as the header carries it: padded standard base64.
    pub fn issue(&self, bound: &Bound) -> String {
        let mut token_id = random_bytes::<32>();
        if let Some(epoch) = token_id.first_chunk_mut::<4>() {
            *epoch = self.epoch.to_be_bytes();
        }
        STANDARD.encode(self.macaroon(bound, &token_id))
    }

    fn macaroon(&self, bound: &Bound, token_id: &[u8; 32]) -> Vec<u8> {
        macaroon(&self.root(token_id), bound, token_id)
    }

    fn root(&self, token_id: &[u8; 32]) -> [u8; 32] {
        hmac(&self.secret, &[b"l402", token_id])
    }

    /// What a credential says; `None` where it is not ours, is of another epoch, is garbled, or the preimage is not its payment's.
    pub fn verify(&self, presented: &Presented) -> Option<Bound> {
        let (bound, token_id) = read_macaroon(&presented.macaroon)?;
        let epoch = token_id.first_chunk::<4>().copied().map(u32::from_be_bytes)?;
        // Made again and compared whole: one encoding is accepted, and nothing of a foreign one is trusted.
        let ours = self.macaroon(&bound, &token_id);
        let same: bool = ours.as_slice().ct_eq(&presented.macaroon).into();
        (same && epoch == self.epoch && presented.preimage.hash() == bound.hash).then_some(bound)
    }

    /// A session's key of one kind.
    pub fn issue_session(&self, kind: SessionKind, session: &SessionToken) -> String {
        let mut bytes = session.to_bytes(kind);
        let mac = self.session_mac(&bytes);
        bytes.extend_from_slice(&mac);
        URL_SAFE_NO_PAD.encode(bytes)
    }

    /// What a session's key says; `None` where it is not ours or of the other kind.
    pub fn verify_session(&self, kind: SessionKind, text: &str) -> Option<SessionToken> {
        let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
        let (body, mac) = bytes.split_last_chunk::<16>()?;
        let good: bool = self.session_mac(body).ct_eq(mac).into();
        if good { SessionToken::from_bytes(kind, body) } else { None }
    }

    fn session_mac(&self, body: &[u8]) -> [u8; 16] {
        let mac = hmac(&self.secret, &[b"session", &self.epoch.to_be_bytes(), body]);
        let mut short = [0; 16];
        short.copy_from_slice(mac.first_chunk::<16>().unwrap_or(&[0; 16]));
        short
    }
}

/// The macaroon's bytes: version, location, identifier, end; each caveat and its end; end; signature.
fn macaroon(root: &[u8; 32], bound: &Bound, token_id: &[u8; 32]) -> Vec<u8> {
    let identifier = [&[0, 0], bound.hash.as_bytes().as_slice(), token_id].concat();
    // libmacaroons stretches every root key with this constant, padded to 32 bytes.
    let mut signature =
        hmac(&hmac(b"macaroons-key-generator\0\0\0\0\0\0\0\0\0", &[root]), &[&identifier]);
    let mut bytes = vec![2];
    field(&mut bytes, 1, LOCATION.as_bytes());
    field(&mut bytes, 2, &identifier);
    bytes.push(0);
    for caveat in caveats(bound) {
        signature = hmac(&signature, &[caveat.as_bytes()]);
        field(&mut bytes, 2, caveat.as_bytes());
        bytes.push(0);
    }
    bytes.push(0);
    field(&mut bytes, 6, &signature);
    bytes
}

/// A field: type, length, bytes. All of ours are shorter than 128 bytes, so the length is one byte of the varint.
fn field(bytes: &mut Vec<u8>, kind: u8, value: &[u8]) {
    bytes.push(kind);
    bytes.push(u8::try_from(value.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(value);
}

/// The conditions, one first-party caveat each.
fn caveats(bound: &Bound) -> [String; 5] {
    [
        format!("video={}", bound.segment.video),
        format!("version={}", bound.segment.version),
        format!("segment={}", bound.segment.number),
        format!("amount_msat={}", bound.amount.get()),
        format!("pay_before={}", bound.pay_before),
    ]
}

/// Reads what a macaroon claims; nothing of it holds before it was made again and compared.
fn read_macaroon(bytes: &[u8]) -> Option<(Bound, [u8; 32])> {
    let rest = take(bytes, &[2])?;
    let (location, rest) = read_field(rest, 1)?;
    let (identifier, rest) = read_field(rest, 2)?;
    let mut rest = take(rest, &[0])?;
    let mut values = [""; 5];
    let names = ["video=", "version=", "segment=", "amount_msat=", "pay_before="];
    for (value, name) in values.iter_mut().zip(names) {
        let (caveat, after) = read_field(rest, 2)?;
        rest = take(after, &[0])?;
        *value = std::str::from_utf8(caveat).ok()?.strip_prefix(name)?;
    }
    let [video, version, segment, amount, pay_before] = values;
    let identifier = take(identifier, &[0, 0])?;
    let (hash, token_id) = identifier.split_first_chunk::<32>()?;
    let bound = Bound {
        hash: PaymentHash::new(*hash),
        segment: SegmentRef {
            video: video.parse().ok()?,
            version: version.parse().ok()?,
            number: segment.parse().ok()?,
        },
        amount: Msat::new(amount.parse().ok()?),
        pay_before: pay_before.parse().ok()?,
    };
    (location == LOCATION.as_bytes()).then_some((bound, token_id.try_into().ok()?))
}

fn take<'a>(bytes: &'a [u8], expected: &[u8]) -> Option<&'a [u8]> {
    bytes.strip_prefix(expected)
}

fn read_field(bytes: &[u8], kind: u8) -> Option<(&[u8], &[u8])> {
    let (&len, rest) = take(bytes, &[kind])?.split_first()?;
    rest.split_at_checked(usize::from(len))
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac =
        <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

/// A 32-byte secret derived from the node's seed for one use.
pub fn derive(seed: &[u8; 64], label: &[u8], what: &[u8]) -> [u8; 32] {
    hmac(seed, &[label, what])
}

/// Which of a session's two keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionKind {
    /// Opens media and nothing else.
    Play,
    /// Shows invoices and ends the session.
    Control,
}

/// A session as its keys carry it: until its first invoice nothing else is known of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionToken {
    /// Its id.
    pub id: SessionId,
    /// The title.
    pub video: VideoId,
    /// The version that it is pinned to.
    pub version: Version,
    /// The price that it is fixed to.
    pub price: Price,
    /// The free preview.
    pub preview_seconds: u32,
    /// What invoices are rounded up to.
    pub granularity: Granularity,
    /// How many invoices may be ahead of the playhead.
    pub ahead: u8,
    /// How many segments an invoice is for.
    pub bundle: u8,
    /// How long an unpaid segment is held.
    pub hold_ms: u16,
    /// What may be spent in all; `u64::MAX` for no bound.
    pub max: Msat,
    /// When it ends, in seconds since the Unix epoch.
    pub expires_at: u64,
    /// Which rotation of the play key this is.
    pub generation: u32,
}

impl SessionToken {
    fn to_bytes(self, kind: SessionKind) -> Vec<u8> {
        let mut bytes = vec![match kind {
            SessionKind::Play => 1,
            SessionKind::Control => 2,
        }];
        bytes.extend_from_slice(self.id.as_bytes());
        bytes.extend_from_slice(self.video.as_bytes());
        bytes.extend_from_slice(&self.version.0.to_be_bytes());
        bytes.extend_from_slice(&self.price.get().to_be_bytes());
        bytes.extend_from_slice(&self.preview_seconds.to_be_bytes());
        bytes.extend_from_slice(&self.granularity.get().to_be_bytes());
        bytes.extend_from_slice(&[self.ahead, self.bundle]);
        bytes.extend_from_slice(&self.hold_ms.to_be_bytes());
        bytes.extend_from_slice(&self.max.get().to_be_bytes());
        bytes.extend_from_slice(&self.expires_at.to_be_bytes());
        bytes.extend_from_slice(&self.generation.to_be_bytes());
        bytes
    }

    fn from_bytes(kind: SessionKind, bytes: &[u8]) -> Option<Self> {
        let mut read = Read(bytes);
        let expected = match kind {
            SessionKind::Play => 1,
            SessionKind::Control => 2,
        };
        let [tag] = read.take::<1>()?;
        let token = Self {
            id: SessionId::new(Uuid::from_bytes(read.take()?)),
            video: VideoId::new(Uuid::from_bytes(read.take()?)),
            version: Version(u32::from_be_bytes(read.take()?)),
            price: Price::agreed(u64::from_be_bytes(read.take()?)),
            preview_seconds: u32::from_be_bytes(read.take()?),
            granularity: Granularity::new(u64::from_be_bytes(read.take()?))?,
            ahead: u8::from_be_bytes(read.take()?),
            bundle: u8::from_be_bytes(read.take()?),
            hold_ms: u16::from_be_bytes(read.take()?),
            max: Msat::new(u64::from_be_bytes(read.take()?)),
            expires_at: u64::from_be_bytes(read.take()?),
            generation: u32::from_be_bytes(read.take()?),
        };
        (tag == expected && read.0.is_empty()).then_some(token)
    }
}

struct Read<'a>(&'a [u8]);

impl Read<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (bytes, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*bytes)
    }
}

#[cfg(test)]
mod independent;

#[cfg(test)]
mod tests {
    use super::*;

    const PREIMAGE: Preimage = Preimage::new([9; 32]);

    fn bound() -> Bound {
        Bound {
            hash: PREIMAGE.hash(),
            segment: SegmentRef {
                video: VideoId::new(Uuid::from_u128(7)),
                version: Version(1),
                number: crate::domain::id::SegmentNumber(3),
            },
            amount: Msat::new(2_000),
            pay_before: 1_700_000_000,
        }
    }

    fn keys() -> Keys {
        Keys::derive(&[5; 64], 0)
    }

    fn header(scheme: &str, macaroon: &str, preimage: &str) -> Option<Bound> {
        let value = format!("{scheme} {macaroon}:{preimage}");
        keys().verify(&parse_authorization(value.as_bytes())?)
    }

    /// Made with pymacaroons 0.13.0 from the same root key, identifier, location and caveats.
    #[test]
    fn a_macaroon_equals_that_of_an_independent_library() {
        let bound = Bound { hash: PaymentHash::new([0x11; 32]), ..bound() };
        let ours = STANDARD.encode(macaroon(&[0x33; 32], &bound, &[0x22; 32]));
        assert_eq!(ours, include_str!("token.vector").trim());
    }

    #[test]
    fn a_credential_opens_what_it_was_issued_for_in_every_accepted_spelling() {
        let macaroon = keys().issue(&bound());
        let preimage = hex::encode([9; 32]);
        for scheme in ["L402", "LSAT", "l402", "L402 L402", "lsat  LSAT"] {
            assert_eq!(header(scheme, &macaroon, &preimage), Some(bound()), "{scheme}");
        }
        assert_eq!(header("L402", macaroon.trim_end_matches('='), &preimage), Some(bound()));
        assert_eq!(header("L402", &macaroon, &preimage.to_uppercase()), Some(bound()));
    }

    #[test]
    fn everything_else_opens_nothing() {
        let macaroon = keys().issue(&bound());
        let preimage = hex::encode([9; 32]);
        assert_eq!(header("Bearer", &macaroon, &preimage), None);
        assert_eq!(header("L402 L402 L402", &macaroon, &preimage), None);
        assert_eq!(header("L402", &macaroon, &hex::encode([8; 32])), None);
        assert_eq!(header("L402", &macaroon, ""), None);
        assert_eq!(header("L402", "", &preimage), None);
        assert_eq!(header("L402", &"A".repeat(70_000), &preimage), None);
        let foreign = Keys::derive(&[6; 64], 0).issue(&bound());
        assert_eq!(header("L402", &foreign, &preimage), None);
        let older = Keys::derive(&[5; 64], 1).issue(&bound());
        assert_eq!(header("L402", &older, &preimage), None);
    }

    #[test]
    fn no_changed_byte_of_a_macaroon_is_accepted() {
        let bytes = STANDARD.decode(keys().issue(&bound())).unwrap();
        for at in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            let presented = Presented { macaroon: changed, preimage: PREIMAGE };
            assert_eq!(keys().verify(&presented), None, "byte {at}");
        }
        for len in 0..bytes.len() {
            let presented = Presented { macaroon: bytes[..len].to_vec(), preimage: PREIMAGE };
            assert_eq!(keys().verify(&presented), None, "length {len}");
        }
    }

    #[test]
    fn the_play_key_of_a_session_is_no_control_key() {
        let token = SessionToken {
            id: SessionId::new(Uuid::from_u128(1)),
            video: VideoId::new(Uuid::from_u128(7)),
            version: Version(2),
            price: Price::FREE,
            preview_seconds: 10,
            granularity: Granularity::SAT,
            ahead: 3,
            bundle: 1,
            hold_ms: 8_000,
            max: Msat::new(u64::MAX),
            expires_at: 1_700_000_000,
            generation: 0,
        };
        let play = keys().issue_session(SessionKind::Play, &token);
        assert_eq!(keys().verify_session(SessionKind::Play, &play), Some(token));
        assert_eq!(keys().verify_session(SessionKind::Control, &play), None);
        let foreign = Keys::derive(&[6; 64], 0);
        assert_eq!(foreign.verify_session(SessionKind::Play, &play), None);
        for bad in ["", "A", &play[1..], &format!("{play}AAAA")] {
            assert_eq!(keys().verify_session(SessionKind::Play, bad), None);
        }
    }
}
