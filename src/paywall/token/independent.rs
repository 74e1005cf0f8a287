//! For tests: our macaroons against those of a library that nobody here wrote, the crate `macaroon` over libsodium.

use macaroon::{ByteString, Macaroon, MacaroonKey, Verifier};
use proptest::prelude::*;

use super::*;
use crate::domain::id::SegmentNumber;

fn bound() -> impl Strategy<Value = Bound> {
    (any::<[u8; 32]>(), any::<u128>(), any::<(u32, u32, u64, u64)>()).prop_map(
        |(hash, video, (version, number, amount, pay_before))| Bound {
            hash: PaymentHash::new(hash),
            segment: SegmentRef {
                video: VideoId::new(Uuid::from_u128(video)),
                version: Version(version),
                number: SegmentNumber(number),
            },
            amount: Msat::new(amount),
            pay_before,
        },
    )
}

/// What the library makes of the same root key, identifier, location and caveats.
fn theirs(root: &[u8; 32], bound: &Bound, token_id: &[u8; 32]) -> Vec<u8> {
    let identifier = [&[0, 0], bound.hash.as_bytes().as_slice(), token_id].concat();
    let key = MacaroonKey::generate(root);
    let mut made =
        Macaroon::create(Some(LOCATION.to_owned()), &key, ByteString(identifier)).unwrap();
    for caveat in caveats(bound) {
        made.add_first_party_caveat(caveat.as_str().into());
    }
    // It writes the URL-safe alphabet, padded.
    let text = made.serialize(macaroon::Format::V2).unwrap();
    base64::engine::general_purpose::URL_SAFE.decode(text).unwrap()
}

/// Whether the library accepts these bytes under a root key, for a request that all the caveats of `bound` fit.
fn accepted(bytes: &[u8], root: &[u8; 32], bound: &Bound) -> bool {
    let Ok(read) = Macaroon::deserialize_binary(bytes) else { return false };
    let mut verifier = Verifier::default();
    for caveat in caveats(bound) {
        verifier.satisfy_exact(caveat.as_str().into());
    }
    verifier.verify(&read, &MacaroonKey::generate(root), Vec::new()).is_ok()
}

proptest! {
    #[test]
    fn an_issued_macaroon_equals_that_of_an_independent_library_byte_for_byte(
        bound in bound(), seed: [u8; 32], epoch: u32,
    ) {
        macaroon::initialize().unwrap();
        let keys = Keys::derive(&[seed, seed].concat().try_into().unwrap(), epoch);
        let issued = STANDARD.decode(keys.issue(&bound)).unwrap();
        // The token id is drawn when it is issued, and read back from it.
        let (said, token_id) = read_macaroon(&issued).unwrap();
        prop_assert_eq!(said, bound);
        prop_assert_eq!(&token_id[..4], &epoch.to_be_bytes());
        let root = keys.root(&token_id);
        prop_assert_eq!(&issued, &theirs(&root, &bound, &token_id));
        prop_assert!(accepted(&issued, &root, &bound));
    }

    #[test]
    fn a_flipped_bit_is_refused_by_the_library_and_by_us(
        bound in bound(), preimage: [u8; 32], at: usize, bit in 0..8_u32,
    ) {
        macaroon::initialize().unwrap();
        let preimage = Preimage::new(preimage);
        let bound = Bound { hash: preimage.hash(), ..bound };
        let keys = Keys::derive(&[5; 64], 3);
        let mut bytes = STANDARD.decode(keys.issue(&bound)).unwrap();
        let root = keys.root(&read_macaroon(&bytes).unwrap().1);
        prop_assert!(accepted(&bytes, &root, &bound));
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        // A location is a hint outside of the signature: the library ignores it, we do not.
        let hint = (3..3 + LOCATION.len()).contains(&at);
        prop_assert!(hint || !accepted(&bytes, &root, &bound), "byte {}, bit {}", at, bit);
        let ours = keys.verify(&Presented { macaroon: bytes, preimage });
        prop_assert!(ours.is_none());
    }

    #[test]
    fn a_macaroon_of_the_library_opens_what_it_says(
        bound in bound(), preimage: [u8; 32], token: [u8; 28],
    ) {
        macaroon::initialize().unwrap();
        let preimage = Preimage::new(preimage);
        let bound = Bound { hash: preimage.hash(), ..bound };
        let keys = Keys::derive(&[5; 64], 3);
        let token_id = [&3_u32.to_be_bytes()[..], &token].concat().try_into().unwrap();
        let macaroon = theirs(&keys.root(&token_id), &bound, &token_id);
        let said = keys.verify(&Presented { macaroon, preimage });
        prop_assert_eq!(said, Some(bound));
    }
}
