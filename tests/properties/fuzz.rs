//! The fuzzer's targets (fuzz/) with their seeds, as an ordinary test; `make soak` fuzzes.

use std::fs;
use std::path::PathBuf;

use sluice::domain::id::Preimage;
use sluice::paywall::token::{Keys, SessionKind};

use crate::targets;

fn seeds(target: &str) -> Vec<Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let files = fs::read_dir(folder).unwrap();
    files.map(|file| fs::read(file.unwrap().path()).unwrap()).collect()
}

#[test]
fn the_seeds_of_every_fuzz_target_hold() {
    for (name, target) in [
        ("credentials", targets::credentials as fn(&[u8])),
        ("ranges", targets::ranges),
        ("ids", targets::ids),
        ("subtitles", targets::subtitles),
    ] {
        let seeds = seeds(name);
        assert!(seeds.len() > 5, "{name}");
        for seed in seeds {
            target(&seed);
            // And what is next to them.
            for len in 0..seed.len() {
                target(&seed[..len]);
            }
        }
    }
}

/// Without these the fuzzer would never come behind a signature.
#[test]
fn the_seeds_hold_what_opens() {
    let keys = Keys::derive(&[5; 64], 3);
    let sold = seeds("credentials").into_iter().filter(|seed| {
        let presented = sluice::paywall::token::parse_authorization(seed);
        presented.and_then(|presented| keys.verify(&presented)) == Some(targets::sold())
    });
    assert!(sold.count() > 0, "as issued now: L402 {}:{}", keys.issue(&targets::sold()), {
        String::from(Preimage::new([9; 32]))
    });
    let receipt = keys.issue_receipt(&targets::receipt());
    let holds = seeds("ids").iter().any(|seed| String::from_utf8_lossy(seed) == receipt);
    assert!(holds, "as issued now: {receipt}");
    for kind in [SessionKind::Play, SessionKind::Control] {
        let key = keys.issue_session(kind, &targets::opened());
        let holds = seeds("ids").iter().any(|seed| String::from_utf8_lossy(seed).contains(&key));
        assert!(holds, "as issued now: {key}");
    }
}
