use super::*;
use crate::media::fixture;

#[test]
fn what_the_muxer_writes_is_read() {
    let clip = fixture::clip();
    let init = Init::parse(&clip.served("240p", None)).unwrap();
    let kinds: Vec<(Kind, u32)> =
        init.tracks.iter().map(|track| (track.kind, track.timescale)).collect();
    assert_eq!(kinds, [(Kind::Video, 90_000), (Kind::Audio, 48_000)]);
    assert!(init.codecs().starts_with("avc1.42") && init.codecs().ends_with(",mp4a.40.2"));
    let runs = segment(&clip.served("240p", Some(1)), &init).unwrap();
    assert_eq!((runs[0].start, runs[0].duration, runs[0].samples), (180_000, 180_000, 50));
    assert!(runs[0].begins_with_key);
    assert_eq!(runs[1].start % 1_024, 0);
    assert_eq!(runs[1].duration, runs[1].samples * 1_024);
}

/// The fragment of one track: runs of (samples, flags, offset), no field of a sample its own.
fn of_runs(tfhd: &[u32], runs: &[(u32, u32, u32)], data: usize) -> Vec<u8> {
    let boxed = |kind: &[u8; 4], body: &[u8]| {
        let length = u32::try_from(body.len() + 8).unwrap();
        [&length.to_be_bytes()[..], kind, body].concat()
    };
    let words = |words: &[u32]| words.iter().flat_map(|w| w.to_be_bytes()).collect::<Vec<u8>>();
    let mut traf = boxed(b"tfhd", &words(tfhd));
    traf.extend(boxed(b"tfdt", &words(&[0, 0])));
    for (samples, flags, offset) in runs {
        traf.extend(boxed(b"trun", &words(&[*flags, *samples, *offset])));
    }
    let moof = [boxed(b"mfhd", &words(&[0, 1])), boxed(b"traf", &traf)].concat();
    [boxed(b"moof", &moof), boxed(b"mdat", &vec![7; data])].concat()
}

/// `tfhd` with a duration of 1 and a size for every sample.
const fn sized(size: u32) -> [u32; 4] {
    [BASE_IS_MOOF | 0x18, 1, 1, size]
}

#[test]
fn samples_are_counted_over_all_runs_and_cost_no_more_than_their_bound() {
    let init = Init::of_part(Kind::Audio);
    // Header, mfhd, traf, tfhd, tfdt, runs of 20 bytes, header.
    let ahead = |runs: u32| 8 + 16 + 8 + 24 + 16 + runs * 20 + 8;
    let one = of_runs(&sized(2), &[(3, 1, ahead(1))], 6);
    assert_eq!(segment(&one, &init).unwrap()[0].samples, 3);
    let many = |samples: u32, runs: u32| {
        let runs: Vec<_> = (0..runs).map(|_| (samples, 1, ahead(runs))).collect();
        segment(&of_runs(&sized(0), &runs, 1), &init)
    };
    let most = u32::try_from(SAMPLES_MAX).unwrap();
    assert_eq!(many(most, 2), Err(BoxError("too many samples")));
    assert_eq!(many(u32::MAX, 1), Err(BoxError("too many samples")));
    assert_eq!(many(1, RUNS_MAX + 1), Err(BoxError("too many runs")));
    let began = std::time::Instant::now();
    assert_eq!(many(864_000, 50_000), Err(BoxError("too many samples")));
    assert_eq!(many(1, 60_000), Err(BoxError("a moof too long")));
    assert!(began.elapsed() < std::time::Duration::from_secs(1));
}

#[test]
fn runs_lie_in_the_data_and_are_all_of_it() {
    let init = Init::of_part(Kind::Audio);
    let ahead = 8 + 16 + 8 + 24 + 16 + 20 + 8;
    let of = |size: u32, flags: u32, offset: u32, data: usize| {
        segment(&of_runs(&sized(size), &[(3, flags, offset)], data), &init)
    };
    of(2, 1, ahead, 6).unwrap();
    for (size, flags, offset, data) in [
        (2, 1, ahead, 5),
        (2, 1, ahead, 7),
        (2, 1, ahead + 1, 6),
        (2, 1, 0, 6),
        (2, 1, (-8_i32).cast_unsigned(), 6),
        (u32::MAX, 1, ahead, 6),
        (2, 0, ahead, 6),
    ] {
        assert!(of(size, flags, offset, data).is_err(), "{size} {flags} {offset} {data}");
    }
    let based = [BASE_IS_MOOF | 0x19, 1, 0, 0, 1, 2];
    let runs = [(3, 1, ahead + 8)];
    assert!(segment(&of_runs(&based, &runs, 6), &init).is_err(), "a base of its own");
    let mut wide = of_runs(&sized(2), &[(3, 1, ahead + 8)], 6);
    let mdat = wide.len() - 14;
    wide.splice(mdat.., [&b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x16"[..], &[7; 6]].concat());
    assert_eq!(segment(&wide, &init), Err(BoxError("a header of another length")));
}

#[test]
fn the_init_segment_of_a_part_cannot_give_its_fragments_another_meaning() {
    let clip = fixture::clip();
    for (file, kind) in [("240p-init.mp4", Kind::Video), ("audio-init.mp4", Kind::Audio)] {
        let whole = &clip.files[file];
        Init::parse_part(whole, kind).unwrap();
        let other = if kind == Kind::Video { Kind::Audio } else { Kind::Video };
        assert!(Init::parse_part(whole, other).is_err());
        // The byte so many places behind a box's kind.
        let changed = |name: &[u8; 4], behind: usize, value: u8| {
            let mut bytes = whole.clone();
            let at = bytes.windows(4).position(|four| four == name).unwrap();
            bytes[at + behind] = value;
            Init::parse_part(&bytes, kind)
        };
        for (name, behind) in [
            (b"trex", 4 + 15),
            (b"trex", 4 + 19),
            (b"trex", 4 + 23),
            (b"url ", 4 + 3),
            (b"stts", 4 + 7),
            (b"stsd", 4 + 7),
            (b"mvhd", 0),
            (b"mdhd", 4 + 15),
        ] {
            assert!(changed(name, behind, 2).is_err(), "{name:?} {behind}");
        }
        assert!(match kind {
            Kind::Video => changed(b"avcC", 4 + 1, 122).is_err(),
            Kind::Audio => Init::parse_part(&clip.served("240p", None), kind).is_err(),
        });
    }
}

#[test]
fn cut_off_and_altered_bytes_never_panic() {
    let clip = fixture::clip();
    let init = &clip.served("240p", None);
    let parsed = Init::parse(init).unwrap();
    let whole = &clip.served("120p", Some(1));
    // Behind the moof there is only data.
    let moof = u32::from_be_bytes(whole[..4].try_into().unwrap()) as usize + 16;
    for end in 0..init.len() {
        assert!(Init::parse(&init[..end]).is_err());
    }
    for end in 0..moof {
        assert!(segment(&whole[..end], &parsed).is_err());
    }
    for at in 0..init.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = init.clone();
            bytes[at] = value;
            let _ = Init::parse(&bytes);
        }
    }
    for at in 0..moof {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            let _ = segment(&bytes, &parsed);
        }
    }
}

#[test]
fn sizes_that_lie_are_errors() {
    let of = |bytes: &[u8]| Boxes(bytes).next().map(|found| found.map(|(kind, _)| *kind));
    assert_eq!(of(b""), Ok(None));
    assert_eq!(of(b"\0\0\0\x08free"), Ok(Some(*b"free")));
    assert_eq!(of(b"\0\0\0\x01free\0\0\0\0\0\0\0\x10"), Ok(Some(*b"free")));
    for bad in [
        &b"\0\0\0\0free"[..],
        b"\0\0\0\x07free",
        b"\0\0\0\x09free",
        b"\0\0\0\x01free\0\0\0\0\0\0\0\x0f",
        b"\0\0\0\x01free\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\0\0\0",
    ] {
        assert!(of(bad).is_err());
    }
}
