//! What it costs to serve a film whose video and sound are kept as they are, beside `ffmpeg -c copy` to HLS.
//!
//! `make bench ARGS="--bench copy"`; `SLUICE_SECONDS` sets the length of the film (600).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use sluice::media::Options;

#[path = "common/figures.rs"]
mod figures;
#[path = "common/making.rs"]
mod making;

use figures::{Goal, ROUNDS, compare};
use making::{cpu_seconds, film, make};

fn peer(film: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(film).args(["-c", "copy", "-f", "hls"]);
    command.args(["-hls_time", "4", "-hls_playlist_type", "vod", "-hls_segment_type", "fmp4"]);
    command.arg(to.join("film.m3u8"));
    assert!(command.status().unwrap().success());
}

async fn measure() {
    let seconds = std::env::var("SLUICE_SECONDS").ok().and_then(|text| text.parse().ok());
    let seconds = seconds.unwrap_or(600);
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("film.mp4");
    film(&source, seconds, 100);
    // What is copied is neither measured nor made louder, and the peer makes one rendition.
    let options = Options {
        ladder: vec![1_080],
        loudness_lufs: "off".parse().unwrap(),
        audio_only: false,
        ..Options::default()
    };
    let (mut wall, mut cpu) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for _ in 0..ROUNDS {
        let work = tempfile::tempdir_in(dir.path()).unwrap();
        let (used, begun) = (cpu_seconds(), Instant::now());
        let written = make(&source, &options, 300, &work.path().join("ours")).await;
        assert!(written as u64 >= seconds / 6, "it was not cut");
        wall.0.push(begun.elapsed().as_secs_f64());
        cpu.0.push(cpu_seconds() - used);
        let (used, begun) = (cpu_seconds(), Instant::now());
        peer(&source, &work.path().join("peer"));
        wall.1.push(begun.elapsed().as_secs_f64());
        cpu.1.push(cpu_seconds() - used);
    }
    let what = |of: &str| format!("{seconds} s of 1080p copied, {of}");
    compare(&what("wall time"), "s", &wall.0, &wall.1, Goal::AtMost(1.2));
    compare(&what("processor time"), "s", &cpu.0, &cpu.1, Goal::AtMost(1.2));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}
