//! Workers that crash, hang or take too much: that work fails with a reason, and nothing else is touched.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use sluice::media::worker::Worker;
use sluice::media::{Error, Options, Transcoder};
use tokio_util::sync::CancellationToken;

use crate::made::{ffmpeg, make, options};

/// A program in the worker's place.
async fn scripted(script: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("worker");
    std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
    let worker = Worker::at(program, Options::default()).with_patience(Duration::from_secs(1));
    let source = directory.path().join("source");
    std::fs::write(&source, "a source").unwrap();
    let survey = worker.survey(source, Options::default(), CancellationToken::new()).await;
    survey.unwrap_err().to_string()
}

#[tokio::test]
async fn a_worker_that_crashes_or_hangs_or_lies_is_told_of() {
    assert!(scripted("read task; kill -SEGV $$").await.contains("SIGSEGV"));
    assert!(scripted("read task; exec sleep 600").await.contains("said nothing for 1 seconds"));
    assert!(scripted("read task; echo nonsense").await.contains("make no sense"));
    assert!(scripted("read task; echo '\"repeated\"'").await.contains("what was not asked"));
}

#[tokio::test]
async fn what_takes_more_than_is_allowed_fails_with_a_reason() {
    let directory = tempfile::tempdir().unwrap();
    let words = "-f lavfi -i testsrc2=s=1280x720:r=25:d=20 -c:v libx264 -preset ultrafast a.mp4";
    let source = ffmpeg(directory.path(), words);
    let reason = async |change: fn(&mut Options)| {
        let mut options = options();
        change(&mut options);
        match make(&source, &options, 300).await {
            Err(Error::Source(reason)) => reason,
            other => panic!("{:?}", other.map(|made| made.plan)),
        }
    };
    let slow = |options: &mut Options| {
        (options.cpu_max_seconds, options.preset) = (1, "placebo".to_owned());
        options.ladder = vec![720];
    };
    assert!(reason(slow).await.contains("processor time"));
    assert!(reason(|options| options.output_max_bytes = 1 << 14).await.contains("larger than"));
    assert!(reason(|options| options.segments_max = 3).await.contains("10 segments"));
}

#[tokio::test]
async fn a_worker_whose_memory_runs_out_fails_alone() {
    let directory = tempfile::tempdir().unwrap();
    let words = "-f lavfi -i color=s=3840x2160:r=25:d=4 -c:v libx264 -preset ultrafast a.mp4";
    let source = ffmpeg(directory.path(), words);
    // The encoder looks ahead by more pictures of this size than there is memory for.
    let options = Options {
        memory_max_bytes: 1 << 30,
        ladder: vec![2_160],
        segment_ms: 10_000,
        preset: "placebo".to_owned(),
        ..options()
    };
    let failed = make(&source, &Options { crf: 23, ..options }, 300).await;
    let reason = failed.map(|made| made.plan).unwrap_err().to_string();
    assert!(!reason.is_empty() && !reason.contains("cancelled"), "{reason}");
}
