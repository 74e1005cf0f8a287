//! From the last byte of an upload to the first segment that could be played: the real executable, default ladder and preset, and a film of 1080p.
//!
//! `make bench ARGS="--bench first_segment"`; `SLUICE_SECONDS` sets the length of the film (600), `SLUICE_ROUNDS` how often it is sent (3).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

#[path = "common/figures.rs"]
mod figures;
#[path = "../tests/regtest/world.rs"]
mod world;

use figures::median;
use world::client::Client;
use world::server::{Serving, Settings};

const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/media/bigbuckbunny.mp4");
const LOOK_EVERY: Duration = Duration::from_millis(20);
const GIVE_UP: Duration = Duration::from_secs(1_800);

/// A film of 1080p with a key frame every ten seconds, which are too far apart for it to be copied.
fn film(dir: &Path, seconds: u64) -> PathBuf {
    let film = dir.join("film.mp4");
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-stream_loop", "-1", "-i", CLIP]);
    command.args(["-t", &seconds.to_string(), "-vf", "scale=1920:1080", "-preset", "ultrafast"]);
    command
        .args([
            "-crf",
            "22",
            "-g",
            "250",
            "-sc_threshold",
            "0",
            "-c:a",
            "copy",
            "-movflags",
            "+faststart",
        ])
        .arg(&film);
    assert!(command.status().unwrap().success());
    film
}

/// Whether a rendition's first segment and its init segment are there.
fn first_segment(media: &Path, video: &str) -> bool {
    let versions = std::fs::read_dir(media.join(video)).into_iter().flatten().flatten();
    let renditions = versions.flat_map(|of| std::fs::read_dir(of.path()).into_iter().flatten());
    let whole = |of: std::fs::DirEntry| {
        let path = of.path();
        let shown = !path.ends_with("audio");
        shown && path.join("init.mp4").exists() && path.join("0.m4s").exists()
    };
    renditions.flatten().any(whole)
}

async fn wait(what: &str, mut there: impl AsyncFnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !there().await {
        assert!(begun.elapsed() < GIVE_UP, "{what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    begun.elapsed()
}

#[tokio::main]
async fn main() {
    let number = |name: &str, usual: u64| {
        std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
    };
    let (seconds, rounds) = (number("SLUICE_SECONDS", 600), number("SLUICE_ROUNDS", 3));
    let dir = tempfile::tempdir().unwrap();
    let film = film(dir.path(), seconds);
    let bitcoind = world::bitcoind().await;
    let mut server = Serving::prepare(&dir.path().join("server"), &bitcoind, &Settings::default());
    let environment = [
        ("SLUICE__MEDIA__SEGMENT_MS", "4000"),
        ("SLUICE__MEDIA__LADDER", "1080,720,480,240"),
        ("SLUICE__MEDIA__PRESET", "veryfast"),
    ];
    server.start(&environment).await;
    let made = server.operator().post("/api/v1/creators", &json!({ "name": "Ada" })).await;
    let key = made["key"].as_str().unwrap().to_owned();
    let creator = Client::new(&server.base_url(), Some(key.clone()));
    let media = server.data_dir.join("media/media");
    let mut firsts = Vec::new();
    for _ in 0..rounds {
        let new = json!({ "title": "Film", "msat_per_second": 0 });
        let video = creator.post("/api/v1/videos", &new).await;
        let video = video["id"].as_str().unwrap().to_owned();
        let file = tokio::fs::File::open(&film).await.unwrap();
        let url = format!("{}/api/v1/videos/{video}/source", server.base_url());
        let request = reqwest::Client::new().put(url).bearer_auth(&key);
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(file));
        // The answer comes when the last byte is on disk.
        let answer = request.body(body).send().await.unwrap();
        assert_eq!(answer.status(), 202, "{}", answer.text().await.unwrap());
        let first = wait("no first segment", async || first_segment(&media, &video)).await;
        println!("  first segment after {first:.2?}");
        firsts.push(first.as_secs_f64());
        // The rest would take minutes, and tell nothing more.
        creator.delete(&format!("/api/v1/videos/{video}")).await;
    }
    println!(
        "{seconds} s of 1080p, from the last byte: first segment after {:.2} s; goal under 10 s",
        median(&firsts)
    );
    server.stop().await;
}
