//! A film in the making, and processes that end in the middle of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

use crate::ffmpeg;
use crate::world::client::Client;
use crate::world::server::{Serving, Settings, run};
use crate::world::{WITHIN, bitcoind};

/// The clip that is in the repository, with sound.
const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/media/bigbuckbunny.mp4");
/// Its pictures in a second.
const RATE: f64 = 25.0;

/// A server without channels and a creator on it.
struct Studio {
    _bitcoind: sluice::lightning::regtest::Bitcoind,
    server: Serving,
    key: String,
    dir: tempfile::TempDir,
}

impl Studio {
    async fn new(environment: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let bitcoind = bitcoind().await;
        let mut server =
            Serving::prepare(&dir.path().join("server"), &bitcoind, &Settings::default());
        server.start(environment).await;
        let made = server.operator().post("/api/v1/creators", &json!({ "name": "Ada" })).await;
        let key = made["key"].as_str().unwrap().to_owned();
        Self { _bitcoind: bitcoind, server, key, dir }
    }

    fn creator(&self) -> Client {
        Client::new(&self.server.base_url(), Some(self.key.clone()))
    }

    /// Sends the clip, so many times over, as a new title that is free.
    async fn send(&self, times: u32) -> String {
        let film = self.dir.path().join(format!("film-{times}.mp4"));
        let mut command = Command::new("ffmpeg");
        let loops = (times - 1).to_string();
        command.args(["-nostdin", "-v", "error", "-y", "-stream_loop", &loops, "-i", CLIP]);
        command.args(["-c", "copy"]).arg(&film);
        assert!(run(command).await.status.success());
        let new = json!({ "title": "Film", "msat_per_second": 0 });
        let video = self.creator().post("/api/v1/videos", &new).await;
        let video = video["id"].as_str().unwrap().to_owned();
        let url = format!("{}/api/v1/videos/{video}/source", self.server.base_url());
        let request = reqwest::Client::new().put(url).bearer_auth(&self.key);
        let answer = request.body(std::fs::read(film).unwrap()).send().await.unwrap();
        assert_eq!(answer.status(), 202);
        video
    }

    async fn shown(&self, video: &str) -> Value {
        self.creator().json(&format!("/api/v1/videos/{video}")).await
    }

    async fn ready(&self, video: &str) {
        let ready = async {
            loop {
                let shown = self.shown(video).await;
                match shown["state"].as_str().unwrap() {
                    "ready" => return,
                    "failed" => panic!("{shown}\n{}", self.server.log()),
                    _ => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        };
        let within = tokio::time::timeout(3 * WITHIN, ready).await;
        within.unwrap_or_else(|_| panic!("not ready\n{}", self.server.log()));
    }

    /// Whether every picture of the film is there once, in each rendition, and nothing beside them is kept.
    async fn is_whole(&self, video: &str) {
        // Of a clip that was looped the pictures of each turn wait for its sound, so that the grid has some more than the turns have together.
        let duration = self.shown(video).await["duration_ms"].as_f64().unwrap();
        let expected = (duration * RATE / 1_000.0).round() as u32;
        let anybody = self.server.anybody();
        let renditions = anybody.renditions(&format!("/hls/{video}/index.m3u8")).await;
        assert!(renditions.len() >= 2);
        let mut served = BTreeSet::new();
        for rendition in &renditions {
            let mut film = anybody.bytes(&rendition.init).await;
            served.insert(rendition.init.clone());
            for segment in &rendition.segments {
                film.extend(anybody.bytes(segment).await);
                served.insert(segment.clone());
            }
            let file = self.dir.path().join("made.mp4");
            std::fs::write(&file, film).unwrap();
            ffmpeg::decodes(&file).await;
            if rendition.height > 0 {
                let (frames, _) = ffmpeg::frames_and_height(&file).await;
                assert_eq!(frames, expected, "{rendition:?}");
            }
        }
        let media = self.server.data_dir.join("media/media");
        let kept: BTreeSet<String> = files(&media)
            .iter()
            .map(|path| format!("/hls/{}", path.strip_prefix(&media).unwrap().display()))
            .filter(|path| path.contains(video) && !path.contains("/extras/"))
            .collect();
        assert_eq!(kept, served);
        let spool = self.server.data_dir.join("spool");
        // Finished uploads, and their sums of the day, are remembered.
        let left = || {
            let remembered = |path: &PathBuf| {
                path.extension().is_some_and(|kind| kind == "upload" || kind == "json")
            };
            files(&spool).into_iter().filter(|path| !remembered(path)).collect::<Vec<_>>()
        };
        for _ in 0..100 {
            if left().is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("{:?}", left());
    }

    /// The server's workers.
    fn workers(&self) -> Vec<Pid> {
        let parent = self.server.pid();
        let of = |entry: std::fs::DirEntry| {
            let pid = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
            let (_, rest) = stat.rsplit_once(')')?;
            let ppid: u32 = rest.split_whitespace().nth(1)?.parse().ok()?;
            (ppid == parent).then_some(Pid::from_raw(pid))
        };
        std::fs::read_dir("/proc").unwrap().flatten().filter_map(of).collect()
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // What goes while it is looked at is not there.
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_film_is_made_whole_and_once_however_often_server_and_workers_are_killed() {
    let environment = [("SLUICE__LIBRARY__CHUNK_SECONDS", "10")];
    let mut studio = Studio::new(&environment).await;
    let video = studio.send(6).await;
    let mut kills = 0;
    for round in 0..6_u64 {
        tokio::time::sleep(Duration::from_millis(200 + round * 97)).await;
        if studio.shown(&video).await["state"] == "ready" {
            break;
        }
        // Two of a piece's three attempts.
        if round < 2 {
            for worker in studio.workers() {
                // It may have ended by itself.
                let _ = kill(worker, Signal::SIGKILL);
            }
        }
        studio.server.kill();
        kills += 1;
        studio.server.start(&environment).await;
    }
    assert!(kills >= 2, "it was made before it could be disturbed");
    studio.ready(&video).await;
    studio.is_whole(&video).await;
    let published = studio.server.logged("published");
    assert_eq!(published.len(), 1, "{published:?}");
    studio.server.stop().await;
}
