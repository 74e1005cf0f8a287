use super::*;

fn survey(frames: u64, sound_ms: Option<u64>) -> Survey {
    let rate = Rate::new(25, 1);
    let probe = Probe {
        duration_ms: frames * 40,
        resolution: Some((1_280, 720)),
        frame_rate_milli: Some(25_000),
        audio: sound_ms.is_some(),
    };
    let pictures = Pictured {
        width: 1_280,
        height: 720,
        rate_num: 25,
        rate_den: 1,
        end: Ticks::new(rate.ticks(frames)),
        bytes: frames * 10_000,
        seekable: true,
        copyable: None,
    };
    let sound = sound_ms.map(|ms| Heard { end: Ticks::from_millis(ms), copyable: false });
    Survey { probe, pictures: Some(pictures), sound }
}

fn copyable(frames: u64, every: u64) -> Survey {
    let mut survey = survey(frames, None);
    let keys = (0..frames).step_by(usize::try_from(every).unwrap()).collect();
    let copyable = Copyable { frames, keys, delay: 2 };
    survey.pictures.as_mut().unwrap().copyable = Some(copyable);
    survey
}

fn plan(survey: &Survey) -> Plan {
    Plan::of(survey, &Options::default()).unwrap()
}

#[test]
fn every_frame_is_in_one_segment_and_every_segment_in_one_chunk() {
    for frames in [1, 2, 99, 100, 101, 149, 150, 1_000, 7_777, 90_000] {
        for chunk_seconds in [1, 4, 10, 60, 100_000] {
            let plan = plan(&survey(frames, Some(frames * 40 + 300)));
            let pictures = plan.pictures.clone().unwrap();
            assert_eq!(pictures.cuts.first(), Some(&0));
            assert_eq!(pictures.cuts.last(), Some(&frames));
            assert!(pictures.cuts.is_sorted_by(|a, b| a < b));
            let ends: Vec<Ticks> = plan.timeline.clone().into();
            let rate = plan.rate().unwrap();
            let of_cuts: Vec<Ticks> =
                pictures.cuts.iter().map(|cut| Ticks::new(rate.ticks(*cut))).collect();
            assert_eq!(ends, of_cuts);
            let mut sounds = 0;
            for n in 0..plan.timeline.segments() {
                let (from, to) = plan.sounds(SegmentNumber(n)).unwrap();
                assert_eq!(from, sounds);
                assert!(to > from, "each segment has sound");
                sounds = to;
            }
            assert_eq!(sounds, plan.all_sounds());
            let mut next = 0;
            for piece in plan.pieces(chunk_seconds, false) {
                if let Piece::Pictures { from, to, renditions } = piece {
                    assert_eq!((from, renditions.len()), (next, 3));
                    assert!(to > from);
                    next = to;
                }
            }
            assert_eq!(next, plan.timeline.segments());
        }
    }
}

#[test]
fn pieces_come_in_the_order_in_which_they_make_a_title_watchable() {
    let plan = plan(&survey(1_000, Some(40_000)));
    let words = |early| -> Vec<String> {
        let word = |piece: Piece| match piece {
            Piece::Sound => "sound".to_owned(),
            Piece::Pictures { renditions, from, to } => {
                let names: Vec<&str> = renditions.iter().map(RenditionName::as_str).collect();
                format!("{} {from}-{to}", names.join("+"))
            }
            Piece::Copied { rendition } => format!("copy {rendition}"),
            Piece::Extras => "extras".to_owned(),
        };
        plan.pieces(20, early).into_iter().map(word).collect()
    };
    let all = "720p+480p+240p";
    let whole = ["sound".into(), format!("{all} 0-5"), format!("{all} 5-10"), "extras".into()];
    assert_eq!(words(false), whole);
    assert_eq!(
        words(true),
        ["sound", "480p 0-5", "480p 5-10", "720p+240p 0-5", "720p+240p 5-10", "extras"]
    );
    let names: Vec<String> = plan.renditions().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["720p", "480p", "240p", "audio"]);
}

#[test]
fn what_cannot_be_sought_in_is_made_in_one_chunk() {
    let mut survey = survey(10_000, None);
    survey.pictures.as_mut().unwrap().seekable = false;
    let pieces = plan(&survey).pieces(10, false);
    assert_eq!(pieces.len(), 2);
    assert!(matches!(pieces[0], Piece::Pictures { from: 0, to: 100, .. }));
}

#[test]
fn a_source_whose_key_frames_fit_is_copied_and_its_cuts_are_theirs() {
    let options = Options::default();
    let of = |every| plan(&copyable(1_000, every)).pictures.unwrap();
    for every in [10, 25, 50, 100, 101, 125, 150] {
        let pictures = of(every);
        assert_eq!(pictures.copied.as_ref().map(RenditionName::as_str), Some("720p"), "{every}");
        assert_eq!(pictures.copied_delay, 2);
        for (n, pair) in pictures.cuts.windows(2).enumerate() {
            let long = pair[1] - pair[0];
            assert!(pair[0].is_multiple_of(every) && long <= 150);
            assert!(long >= 100 || n == pictures.cuts.len() - 2);
        }
    }
    // 90 and 180 frames lie around the bounds of 100 and 150.
    for every in [60 + 21, 90, 151, 1_000] {
        assert_eq!(of(every).copied, None, "{every}");
    }
    let refused = |change: fn(&mut Pictured)| {
        let mut survey = copyable(1_000, 100);
        change(survey.pictures.as_mut().unwrap());
        assert_eq!(Plan::of(&survey, &options).unwrap().pictures.unwrap().copied, None);
    };
    refused(|of| of.bytes = 1_000_000_000);
    refused(|of| (of.width, of.height) = (1_276, 718));
    refused(|of| of.end = Ticks::new(of.end.get() + 3_600));
    refused(|of| of.copyable.as_mut().unwrap().keys[0] = 1);
    let mut long = copyable(1_000, 100);
    long.sound = Some(Heard { end: Ticks::from_millis(45_000), copyable: true });
    assert_eq!(plan(&long).pictures.unwrap().copied, None, "its last picture is repeated");
}

#[test]
fn the_other_rungs_of_a_copied_title_are_encoded_and_nothing_needs_to_go_first() {
    let pieces = plan(&copyable(1_000, 100)).pieces(300, true);
    assert!(matches!(&pieces[0], Piece::Copied { rendition } if rendition.as_str() == "720p"));
    let Piece::Pictures { renditions, .. } = &pieces[1] else { panic!("{pieces:?}") };
    assert_eq!(renditions.len(), 2);
    assert_eq!(pieces.len(), 3);
}

#[test]
fn sound_is_copied_only_where_its_loudness_is_left_alone() {
    let mut survey = survey(1_000, Some(40_000));
    survey.sound.as_mut().unwrap().copyable = true;
    let sound = plan(&survey).sound.unwrap();
    assert_eq!((sound.copied, sound.normalise_lufs_centi), (false, Some(-1_600)));
    let options = Options {
        loudness_lufs: super::super::Loudness::OFF,
        audio_only: false,
        ..Options::default()
    };
    let plan = Plan::of(&survey, &options).unwrap();
    assert_eq!(
        plan.sound,
        Some(SoundPlan { copied: true, normalise_lufs_centi: None, alone: false })
    );
    assert_eq!(plan.renditions().len(), 3);
    survey.pictures = None;
    assert!(Plan::of(&survey, &options).unwrap().sound.unwrap().alone);
}

#[test]
fn sound_that_outlasts_the_picture_by_more_than_a_second_is_kept() {
    let frames =
        |sound_ms| *plan(&survey(100, Some(sound_ms))).pictures.unwrap().cuts.last().unwrap();
    assert_eq!(frames(4_900), 100);
    assert_eq!(frames(6_000), 150);
}

#[test]
fn sound_alone_is_cut_at_its_own_frames() {
    let mut survey = survey(0, Some(5_290));
    survey.pictures = None;
    let plan = plan(&survey);
    let ends: Vec<Ticks> = plan.timeline.clone().into();
    assert_eq!(ends, [0, 360_960, 476_160].map(Ticks::new));
    assert_eq!(plan.pieces(1, true), [Piece::Sound, Piece::Extras]);
}

#[test]
fn limits_hold() {
    let reason = |change: fn(&mut Options)| {
        let mut options = Options::default();
        change(&mut options);
        match Plan::of(&survey(1_000, None), &options) {
            Err(Error::Source(reason)) => reason,
            other => format!("{other:?}"),
        }
    };
    assert!(reason(|options| options.duration_max_seconds = 38).contains("too long"));
    assert!(reason(|options| options.segments_max = 9).contains("10 segments"));
    assert!(reason(|options| options.pixels_max = 1_280 * 719).contains("1280 by 720 pixels"));
    let mut small = survey(10, None);
    small.pictures.as_mut().unwrap().width = 8;
    assert!(Plan::of(&small, &Options::default()).is_err());
    small.pictures = None;
    assert!(Plan::of(&small, &Options::default()).is_err(), "nothing to play");
}

#[test]
fn a_plan_is_what_was_written_of_it() {
    for plan in [plan(&survey(777, Some(31_000))), plan(&copyable(1_000, 100))] {
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
