use super::*;
use crate::media::fixture::{self, Fixture};

/// A worker that tells what it made of one piece, but for one change.
async fn judged(name: &str, change: impl Fn(&mut Fixture)) -> Result<(), Error> {
    let mut fixture = fixture::clip().clone();
    change(&mut fixture);
    let directory = tempfile::tempdir().unwrap();
    fixture.write(directory.path());
    let (order, told) = fixture.of(directory.path(), name);
    let mut checker = Checker::new(&order)?;
    for told in &told {
        checker.told(told).await?;
    }
    checker.done()
}

fn of<'a>(fixture: &'a mut Fixture, name: &str) -> &'a mut Told {
    let named = |told: &&mut Told| match told {
        Told::Init { file, .. } | Told::Segment { file, .. } => file == name,
        _ => false,
    };
    fixture.told.iter_mut().find(named).unwrap()
}

#[tokio::test]
async fn an_honest_worker_is_believed() {
    judged("240p", |_| ()).await.unwrap();
    judged("audio", |_| ()).await.unwrap();
}

#[tokio::test]
async fn files_that_are_not_as_told_are_refused() {
    let replaced = |by: &'static str| {
        judged("240p", move |f| {
            let other = f.files.get(by).cloned().unwrap();
            let bytes = other.len() as u64;
            f.files.insert("240p-1.m4s".to_owned(), other);
            if let Told::Segment { bytes: told, .. } = of(f, "240p-1.m4s") {
                *told = bytes;
            }
        })
    };
    let refused = [
        judged("240p", |f| drop(f.files.remove("240p-1.m4s"))).await,
        judged("240p", |f| f.files.get_mut("240p-1.m4s").unwrap().push(0)).await,
        judged("240p", |f| f.files.get_mut("240p-1.m4s").unwrap()[4] ^= 1).await,
        replaced("audio-1.m4s").await,
        replaced("240p-0.m4s").await,
        replaced("240p-init.mp4").await,
    ];
    assert!(refused.iter().all(Result::is_err), "{refused:?}");
    replaced("120p-1.m4s").await.expect("which pixels it shows no box tells");
}

#[tokio::test]
async fn names_and_numbers_out_of_place_are_refused() {
    let rename = |to: &'static str| {
        judged("240p", move |f| {
            if let Told::Segment { file, .. } = of(f, "240p-1.m4s") {
                *file = to.to_owned();
            }
        })
    };
    for name in ["../240p-1.m4s", "/etc/passwd", "240p-2.m4s", "audio-1.m4s", ""] {
        assert!(rename(name).await.is_err(), "{name}");
    }
    let told = |change: fn(&mut Vec<Told>)| judged("audio", move |f| change(&mut f.told));
    assert!(told(|told| told.retain(|t| !matches!(t, Told::Init { .. }))).await.is_err());
    assert!(told(|told| told.truncate(3)).await.is_err(), "the last segment is missing");
    assert!(told(|told| told.extend_from_within(..)).await.is_err());
    assert!(told(|told| told.reverse()).await.is_err());
    let skipped = judged("audio", |f| {
        if let Told::Segment { number, .. } = of(f, "audio-1.m4s") {
            *number = SegmentNumber(2);
        }
    });
    assert!(skipped.await.is_err());
}

#[tokio::test]
async fn more_bytes_than_are_allowed_are_refused() {
    assert!(judged("240p", |f| f.options.output_max_bytes = 5_000).await.is_err());
}

#[tokio::test]
async fn a_segment_may_have_what_its_rung_needs_in_its_time_and_no_more() {
    let clip = fixture::clip();
    let most = |name: &str, number: Option<u32>| {
        bytes_max(&clip.plan, &name.parse().unwrap(), number.map(SegmentNumber))
    };
    assert_eq!(most("240p", None), INIT_BYTES_MAX);
    // 600 kbit/s, four times, over two seconds and two of buffer.
    assert_eq!(most("240p", Some(1)), 1_200_000);
    assert_eq!(most("120p", Some(1)), SEGMENT_BYTES_MAX_LEAST);
    assert_eq!(most("audio", Some(1)), SEGMENT_BYTES_MAX_LEAST);
    let large = async |bytes: usize, crf: u32| {
        let judged = judged("240p", move |f| {
            f.options.crf = crf;
            f.files.insert("240p-1.m4s".to_owned(), vec![0; bytes]);
            if let Told::Segment { bytes: told, .. } = of(f, "240p-1.m4s") {
                *told = bytes as u64;
            }
        });
        judged.await.unwrap_err().to_string().contains("beyond its limit")
    };
    assert!(large(1_200_001, 23).await);
    assert!(!large(1_200_000, 23).await && !large(1_200_001, 0).await);
}

#[test]
fn a_part_belongs_to_its_place_in_its_plan() {
    let clip = fixture::clip();
    let check = |plan: &Plan, name: &str, number: Option<u32>, file: &str| {
        let name = name.parse().unwrap();
        part(plan, &name, number.map(SegmentNumber), &clip.files[file])
    };
    for (name, number, file) in [
        ("240p", Some(1), "240p-1.m4s"),
        ("120p", None, "120p-init.mp4"),
        ("audio", Some(2), "audio-2.m4s"),
        ("audio", None, "audio-init.mp4"),
    ] {
        check(&clip.plan, name, number, file).unwrap();
    }
    for (name, number, file) in [
        ("240p", Some(2), "240p-1.m4s"),
        ("240p", Some(9), "240p-1.m4s"),
        ("720p", Some(1), "240p-1.m4s"),
        ("240p", None, "audio-init.mp4"),
        ("audio", None, "240p-init.mp4"),
        ("240p", Some(1), "audio-1.m4s"),
        ("240p", Some(1), "240p-init.mp4"),
    ] {
        assert!(check(&clip.plan, name, number, file).is_err(), "{name} {number:?} {file}");
    }
    let mut moved = clip.plan.clone();
    moved.pictures.as_mut().unwrap().cuts[1] += 1;
    assert!(check(&moved, "240p", Some(1), "240p-1.m4s").is_err());
}

#[test]
fn a_survey_that_cannot_be_is_refused() {
    let good = fixture::clip().survey.clone();
    survey(&good).unwrap();
    let refused = |change: fn(&mut Pictured)| {
        let mut bad = good.clone();
        change(bad.pictures.as_mut().unwrap());
        assert!(survey(&bad).is_err());
    };
    refused(|of| of.rate_num = 0);
    refused(|of| of.rate_den = 0);
    refused(|of| of.height = 0);
    refused(|of| {
        let keys = vec![0, 5, 5];
        of.copyable = Some(crate::media::Copyable { frames: 10, keys, delay: 0 });
    });
    let nothing = Survey { pictures: None, sound: None, ..good };
    assert!(survey(&nothing).is_err());
}

#[test]
fn links_are_not_followed() {
    let directory = tempfile::tempdir().unwrap();
    let (plain_file, link) = (directory.path().join("a"), directory.path().join("b"));
    std::fs::write(&plain_file, "abc").unwrap();
    std::os::unix::fs::symlink(&plain_file, &link).unwrap();
    assert_eq!(plain(&plain_file, 3).unwrap().unwrap(), b"abc");
    assert!(plain(&link, 3).is_err());
    assert_eq!(plain(&plain_file, 2).unwrap(), None);
    assert_eq!(plain(directory.path(), 0).ok().flatten(), None);
}
