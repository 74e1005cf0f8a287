//! How fast a source arrives: over loopback into the executable itself, beside `dd conv=fsync` of the same bytes to the same disk, turn by turn.
//!
//! `make bench ARGS="--bench upload"`; `SLUICE_UPLOAD_MIB` sets the size (1,024).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::print_stdout, missing_docs, dead_code)]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use bytes::Bytes;
use reqwest::Method;
use serde_json::json;

#[path = "common/figures.rs"]
mod figures;
#[path = "../tests/regtest/world.rs"]
mod world;

use figures::{Goal, ROUNDS, compare};
use world::server::{Serving, Settings, resident_kib};

/// Of the disk's own speed.
const GOAL: f64 = 0.7;
/// What is read at once, by `dd` and by the client.
const CHUNK: usize = 1 << 20;

/// Bytes that no disk and no file system makes smaller.
fn noise() -> Bytes {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..CHUNK / 8).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.collect()
}

/// `dd` from memory, as the upload comes from memory.
fn dd(to: &Path, chunk: &Bytes, chunks: usize) -> f64 {
    let _ = std::fs::remove_file(to);
    let begun = Instant::now();
    let mut child = Command::new("dd")
        .args([format!("of={}", to.display()), format!("bs={CHUNK}")])
        .args(["conv=fsync", "iflag=fullblock", "status=none"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = child.stdin.take().unwrap();
    for _ in 0..chunks {
        pipe.write_all(chunk).unwrap();
    }
    drop(pipe);
    assert!(child.wait().unwrap().success());
    let seconds = begun.elapsed().as_secs_f64();
    std::fs::remove_file(to).unwrap();
    seconds
}

/// From the first byte to the answer: received, hashed, synced, queued. What no film is fails by itself afterwards.
async fn upload(server: &Serving, key: &str, chunk: &Bytes, chunks: usize) -> f64 {
    let http = reqwest::Client::new();
    let request = |method, path: &str| {
        let request = http.request(method, format!("{}{path}", server.base_url()));
        request.bearer_auth(key).header("Tus-Resumable", "1.0.0")
    };
    let length = chunks * CHUNK;
    // `Noise`, in base64.
    let made = request(Method::POST, "/api/v1/uploads")
        .header("Upload-Length", length)
        .header("Upload-Metadata", "title Tm9pc2U=");
    let made = made.send().await.unwrap();
    assert_eq!(made.status(), 201);
    let at = made.headers()["location"].to_str().unwrap().to_owned();
    let chunk = chunk.clone();
    let body = (0..chunks).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
    let sent = request(Method::PATCH, &at)
        .header("Upload-Offset", 0)
        .header("Content-Type", "application/offset+octet-stream")
        .header("Content-Length", length)
        .body(reqwest::Body::wrap_stream(futures::stream::iter(body)));
    let begun = Instant::now();
    let answer = sent.send().await.unwrap();
    let seconds = begun.elapsed().as_secs_f64();
    assert_eq!(answer.status(), 204);
    assert_eq!(answer.headers()["upload-offset"].to_str().unwrap(), length.to_string());
    seconds
}

/// Until the worker has looked at the source, and it is gone from the spool: it must not run beside the next round.
async fn quiet(server: &Serving) {
    let spool = server.data_dir.join("spool");
    world::until("the source is gone", async || {
        let files = std::fs::read_dir(&spool).unwrap().map(|file| file.unwrap().path());
        !files.into_iter().any(|path| path.extension().is_some_and(|kind| kind == "source"))
    })
    .await;
}

async fn measure() {
    let mib = std::env::var("SLUICE_UPLOAD_MIB").ok().and_then(|text| text.parse().ok());
    let chunks = mib.unwrap_or(1_024) * (1 << 20) / CHUNK;
    let dir = tempfile::tempdir().unwrap();
    let bitcoind = world::bitcoind().await;
    let data_dir = dir.path().join("server");
    let mut server = Serving::prepare(&data_dir, &bitcoind, &Settings::default());
    server.start(&[]).await;
    let made = server.operator().post("/api/v1/creators", &json!({ "name": "Ada" })).await;
    let key = made["key"].as_str().unwrap();
    let chunk = noise();
    let before = resident_kib(server.pid());
    let speed = |seconds: f64| (chunks * CHUNK) as f64 / seconds / 1e6;
    let (mut ours, mut limit) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(speed(upload(&server, key, &chunk, chunks).await));
        quiet(&server).await;
        limit.push(speed(dd(&data_dir.join("spool/dd"), &chunk, chunks)));
    }
    let what = format!("upload of {} MiB beside dd conv=fsync", (chunks * CHUNK) >> 20);
    compare(&what, "MB/s", &ours, &limit, Goal::AtLeast(GOAL));
    let after = resident_kib(server.pid());
    println!("  resident {} MiB before, {} MiB after", before / 1_024, after / 1_024);
    server.stop().await;
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure());
}
