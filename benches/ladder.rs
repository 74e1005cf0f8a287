//! What it costs to make a film: the full ladder of 1080p, made by the sandboxed workers, beside the `ffmpeg` command that makes the same ladder in one
//! go; and the same in chunks beside whole. Processor time and wall time.
//!
//! `make bench ARGS="--bench ladder"`; `SLUICE_SECONDS` sets the length of the film (60), `SLUICE_ROUNDS` the rounds (5).
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

use figures::{Goal, compare};
use making::{cpu_seconds, film, make};

/// The ladder of the defaults for a source of 1080p, and the ceilings of its rungs in kbit/s.
const RUNGS: [(u32, u32, u32); 4] =
    [(1_920, 1_080, 7_000), (1_280, 720, 4_000), (854, 480, 2_000), (426, 240, 600)];

/// Processor and wall seconds of something.
async fn measured(what: impl AsyncFnOnce()) -> (f64, f64) {
    let (cpu, begun) = (cpu_seconds(), Instant::now());
    what().await;
    (cpu_seconds() - cpu, begun.elapsed().as_secs_f64())
}

/// One decode, four encoders, and HLS out of it.
fn peer(film: &Path, to: &Path) {
    std::fs::create_dir(to).unwrap();
    let pads: String = (0..RUNGS.len()).map(|n| format!("[s{n}]")).collect();
    let mut graph = format!("[0:v]split={}{pads}", RUNGS.len());
    for (n, (width, height, _)) in RUNGS.iter().enumerate() {
        graph += &format!(";[s{n}]scale={width}:{height}:flags=bicubic[v{n}]");
    }
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(film).args(["-filter_complex", &graph]);
    for n in 0..RUNGS.len() {
        command.args(["-map", &format!("[v{n}]"), "-map", "0:a"]);
    }
    command.args(["-c:v", "libx264", "-preset", "veryfast", "-crf", "23", "-g", "100"]);
    command.args(["-keyint_min", "100", "-sc_threshold", "0", "-c:a", "aac", "-b:a", "128k"]);
    for (n, (.., kbits)) in RUNGS.iter().enumerate() {
        command.args([format!("-maxrate:v:{n}"), format!("{kbits}k")]);
        command.args([format!("-bufsize:v:{n}"), format!("{}k", kbits * 2)]);
    }
    let map: Vec<String> = (0..RUNGS.len()).map(|n| format!("v:{n},a:{n}")).collect();
    command.args(["-f", "hls", "-hls_time", "4", "-hls_playlist_type", "vod"]);
    command.args(["-hls_segment_type", "fmp4", "-var_stream_map", &map.join(" ")]);
    command.arg(to.join("%v.m3u8"));
    assert!(command.status().unwrap().success());
}

async fn measure() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
    };
    let (seconds, rounds) = (number("SLUICE_SECONDS", 60), number("SLUICE_ROUNDS", 5));
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("film.mp4");
    // Too far between key frames for it to be copied.
    film(&source, seconds, 250);
    let options = Options::default();
    let (mut cpu, mut wall) = ([vec![], vec![], vec![]], [vec![], vec![], vec![]]);
    for _ in 0..rounds {
        let work = tempfile::tempdir_in(dir.path()).unwrap();
        let at = |name: &str| work.path().join(name);
        let whole = measured(async || {
            make(&source, &options, 100_000, &at("whole")).await;
        });
        let whole = whole.await;
        let limit = measured(async || peer(&source, &at("peer"))).await;
        let chunked = measured(async || {
            make(&source, &options, (seconds / 3).max(10), &at("chunked")).await;
        });
        for (n, (used, lasted)) in [whole, limit, chunked.await].into_iter().enumerate() {
            cpu[n].push(used);
            wall[n].push(lasted);
        }
    }
    let what = |of: &str| format!("the ladder of {seconds} s of 1080p, {of}");
    compare(&what("processor time"), "s", &cpu[0], &cpu[1], Goal::AtMost(1.05));
    compare(&what("wall time"), "s", &wall[0], &wall[1], Goal::AtMost(1.0));
    compare(
        "in three chunks beside whole, processor time",
        "s",
        &cpu[2],
        &cpu[0],
        Goal::AtMost(1.1),
    );
    compare("in three chunks beside ffmpeg, wall time", "s", &wall[2], &wall[1], Goal::AtMost(1.0));
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}
