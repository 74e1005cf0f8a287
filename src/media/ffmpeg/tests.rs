use std::fs::File;
use std::io::Write;
use std::path::Path;

use super::{decode, repeat};
use crate::domain::video::Ticks;
use crate::media::fixture::{self, CLIP};
use crate::media::{Error, Options, Probe, Told};

fn decoded(bytes: &[u8]) -> crate::media::Decoded {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    decode(file, &fixture::options(), &mut || Ok(())).unwrap()
}

fn refusal(bytes: &[u8]) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), bytes).unwrap();
    match fixture::make(file.path(), fixture::options()) {
        Err(Error::Source(reason)) => reason,
        Err(error) => format!("{error:?}"),
        Ok(_) => "accepted".to_owned(),
    }
}

#[test]
fn a_clip_becomes_renditions_that_decode_to_every_frame() {
    let clip = fixture::clip();
    let names: Vec<String> = clip.plan.renditions().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["240p", "120p", "audio"]);
    let ticks: Vec<Ticks> = clip.plan.timeline.clone().into();
    assert_eq!(ticks, [0, 180_000, 360_000, 475_200].map(Ticks::new));
    for name in ["240p", "120p"] {
        let decoded = decoded(&clip.whole(name));
        assert_eq!((decoded.frames, decoded.errors), (132, 0));
        assert_eq!(decoded.duration, Ticks::new(475_200));
        assert_eq!(decoded.samples, 248 * 1_024);
    }
    let sound = decoded(&clip.whole("audio"));
    assert_eq!((sound.frames, sound.samples, sound.errors), (0, 248 * 1_024, 0));
}

#[test]
fn each_segment_decodes_by_itself() {
    let clip = fixture::clip();
    let mut frames = 0;
    for number in 0..clip.plan.timeline.segments() {
        let mut alone = clip.files["120p-init.mp4"].clone();
        alone.extend(&clip.files[&format!("120p-{number}.m4s")]);
        let decoded = decoded(&alone);
        assert_eq!(decoded.errors, 0);
        frames += decoded.frames;
    }
    assert_eq!(frames, 132);
}

#[test]
fn the_survey_tells_what_the_source_is_and_every_file_is_told_of() {
    let clip = fixture::clip();
    let probe = Probe {
        duration_ms: 5_312,
        resolution: Some((1_280, 720)),
        frame_rate_milli: Some(25_000),
        audio: true,
    };
    assert_eq!(clip.survey.probe, probe);
    let told = clip.told.iter().filter_map(|told| match told {
        Told::Init { file, bytes, .. } | Told::Segment { file, bytes, .. } => {
            Some((file.as_str(), *bytes))
        }
        _ => None,
    });
    let told: std::collections::BTreeMap<&str, u64> = told.collect();
    let files = clip.files.iter().map(|(name, bytes)| (name.as_str(), bytes.len() as u64));
    assert_eq!(told, files.collect());
}

#[test]
fn what_is_no_media_is_refused_in_words() {
    let clip = std::fs::read(CLIP).unwrap();
    let unreadable = "This file is not a video or audio file that Sluice can read.";
    assert_eq!(refusal(b""), "This file is empty.");
    assert_eq!(refusal(&b"hello world\n".repeat(99)), unreadable);
    assert_eq!(refusal(b"#EXTM3U\n#EXTINF:4,\n/etc/passwd\n#EXT-X-ENDLIST\n"), unreadable);
    assert_eq!(refusal(b"ffconcat version 1.0\nfile /etc/passwd\n"), unreadable);
    assert_eq!(refusal(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x10\0\0\0\x10"), unreadable);
    assert!(refusal(&clip[..100_000]).contains("index (moov) is missing"));
}

#[test]
fn limits_hold() {
    let make = |change: fn(&mut Options)| {
        let mut options = fixture::options();
        change(&mut options);
        match fixture::make(Path::new(CLIP), options) {
            Err(Error::Source(reason)) => reason,
            other => format!("{:?}", other.map(|fixture| fixture.plan)),
        }
    };
    assert!(make(|options| options.duration_max_seconds = 4).contains("too long"));
    assert!(make(|options| options.pixels_max = 1_280 * 719).contains("1280 by 720 pixels"));
    assert!(make(|options| options.output_max_bytes = 50_000).contains("larger than is allowed"));
    assert!(make(|options| options.segments_max = 2).contains("3 segments"));
}

#[test]
fn a_repeated_clip_has_every_frame_and_sound_without_a_gap() {
    let mut film = tempfile::tempfile().unwrap();
    let clip = File::open(CLIP).unwrap();
    repeat(clip, film.try_clone().unwrap(), 62, &mut || Ok(())).unwrap();
    std::io::Seek::rewind(&mut film).unwrap();
    let decoded = decode(film, &fixture::options(), &mut || Ok(())).unwrap();
    assert_eq!((decoded.frames, decoded.errors), (12 * 132, 0));
    assert_eq!(decoded.duration, Ticks::new(12 * 475_200));
    // Twelve times 5.28 seconds are 2970 AAC frames.
    assert_eq!(decoded.samples, 2_970 * 1_024);
}

#[test]
fn sound_alone_makes_one_rendition_cut_at_its_own_frames() {
    let sound = fixture::clip().whole("audio");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), sound).unwrap();
    let made = fixture::make(file.path(), fixture::options()).unwrap();
    assert_eq!(made.plan.pictures, None);
    assert_eq!(made.plan.renditions().len(), 1);
    let ticks: Vec<Ticks> = made.plan.timeline.into();
    // 94 frames of 1024 samples are the first count that is not under two seconds.
    assert_eq!(ticks, [0, 180_480, 360_960, 476_160].map(Ticks::new));
}
