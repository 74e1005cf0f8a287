//! Uploads to the executable itself: clients that nobody here wrote, connections that break, a server that is killed.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use reqwest::{Method, RequestBuilder, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use sluice::lightning::regtest::Bitcoind;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::world::server::{Serving, Settings, resident_kib, run, sluice, utf8};
use crate::world::{bitcoind, clip, until};

/// A server without channels, and a creator.
struct Site {
    server: Serving,
    key: String,
    key_file: std::path::PathBuf,
    dir: TempDir,
    _bitcoind: Bitcoind,
}

impl Site {
    async fn new() -> Self {
        let (dir, bitcoind) = (tempfile::tempdir().unwrap(), bitcoind().await);
        let data_dir = dir.path().join("server");
        let mut server = Serving::prepare(&data_dir, &bitcoind, &Settings::default());
        server.start(&[]).await;
        let made = server.operator().post("/api/v1/creators", &json!({ "name": "Ada" })).await;
        let key = made["key"].as_str().unwrap().to_owned();
        let key_file = dir.path().join("creator.key");
        std::fs::write(&key_file, &key).unwrap();
        Self { server, key, key_file, dir, _bitcoind: bitcoind }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let http = reqwest::Client::builder().pool_max_idle_per_host(0).build().unwrap();
        let request = http.request(method, format!("{}{path}", self.server.base_url()));
        request.bearer_auth(&self.key).header("Tus-Resumable", "1.0.0")
    }

    /// An upload for a new title.
    async fn begin(&self, title: &str, length: usize) -> String {
        let title = format!("title {}", STANDARD.encode(title));
        let request = self.request(Method::POST, "/api/v1/uploads");
        let request = request.header("Upload-Length", length).header("Upload-Metadata", title);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 201);
        answer.headers()["location"].to_str().unwrap().to_owned()
    }

    fn patch(&self, at: &str, offset: u64, body: reqwest::Body) -> RequestBuilder {
        self.request(Method::PATCH, at)
            .header("Upload-Offset", offset)
            .header("Content-Type", "application/offset+octet-stream")
            .body(body)
    }

    async fn offset(&self, at: &str) -> u64 {
        number(&self.request(Method::HEAD, at).send().await.unwrap())
    }

    async fn only_title(&self) -> Value {
        let listed = self.request(Method::GET, "/api/v1/videos").send().await.unwrap();
        let listed: Value = listed.json().await.unwrap();
        let titles = listed["videos"].as_array().unwrap();
        assert_eq!(titles.len(), 1, "{listed}");
        titles[0].clone()
    }

    /// The clip arrived byte for byte, was handed over once, and is published once.
    async fn holds_the_clip_once(&self) {
        let ready = async || {
            let title = self.only_title().await;
            assert_ne!(title["state"], "failed", "{title}");
            title["state"] == "ready"
        };
        until("the title is ready", ready).await;
        let sha256 = hex::encode(Sha256::digest(std::fs::read(clip()).unwrap()));
        assert_eq!(self.only_title().await["source_sha256"], sha256.as_str());
        assert_eq!(self.server.logged("source received").len(), 1);
        assert_eq!(self.server.logged(" published").len(), 1, "{}", self.server.log());
    }
}

fn number(answer: &Response) -> u64 {
    assert!(answer.status().is_success(), "{}", answer.status());
    answer.headers()["upload-offset"].to_str().unwrap().parse().unwrap()
}

/// Sends bytes and then nothing, without an end.
fn hanging(bytes: Bytes) -> reqwest::Body {
    let first = futures::stream::once(async move { Ok::<_, std::io::Error>(bytes) });
    let rest = futures::stream::pending();
    reqwest::Body::wrap_stream(futures::StreamExt::chain(first, rest))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_in_the_middle_of_a_patch_loses_nothing_and_makes_one_job() {
    let mut site = Site::new().await;
    let film = std::fs::read(clip()).unwrap();
    let at = site.begin("Film", film.len()).await;
    let mut there = 0;
    for part in [400_000_usize, 900_000] {
        let bytes = Bytes::copy_from_slice(&film[there..part]);
        let sending = tokio::spawn(site.patch(&at, there as u64, hanging(bytes)).send());
        until("the bytes are there", async || site.offset(&at).await == part as u64).await;
        site.server.kill();
        assert!(sending.await.unwrap().is_err());
        site.server.start(&[]).await;
        assert_eq!(site.offset(&at).await, part as u64, "every byte");
        there = part;
    }
    let rest = Bytes::copy_from_slice(&film[there..]);
    let answer = site.patch(&at, there as u64, rest.into()).send().await.unwrap();
    assert_eq!(number(&answer), film.len() as u64);
    site.holds_the_clip_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_killed_between_the_last_byte_and_the_job_makes_one_job() {
    let mut site = Site::new().await;
    site.server.stop().await;
    site.server.start(&[("FAILPOINTS", "source-kept=sleep(600000)")]).await;
    let film = std::fs::read(clip()).unwrap();
    let at = site.begin("Film", film.len()).await;
    let sending = tokio::spawn(site.patch(&at, 0, film.clone().into()).send());
    let spool = site.server.data_dir.join("spool");
    until("the source is kept", async || {
        let files = std::fs::read_dir(&spool).unwrap().map(|file| file.unwrap().path());
        files.into_iter().any(|path| path.extension().is_some_and(|kind| kind == "source"))
    })
    .await;
    site.server.kill();
    assert!(sending.await.unwrap().is_err());
    assert!(site.server.logged("source received").is_empty());
    site.server.start(&[]).await;
    assert_eq!(site.offset(&at).await, film.len() as u64);
    site.holds_the_clip_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_memory_of_a_server_stays_flat_while_it_takes_a_large_source() {
    const BYTES: usize = 384 << 20;
    let site = Site::new().await;
    let at = site.begin("Zeros", BYTES).await;
    let before = resident_kib(site.server.pid());
    let chunk = Bytes::from(vec![0; 1 << 20]);
    let chunks = (0..BYTES >> 20).map(move |_| Ok::<_, std::io::Error>(chunk.clone()));
    let body = reqwest::Body::wrap_stream(futures::stream::iter(chunks));
    let sending = tokio::spawn(site.patch(&at, 0, body).send());
    let mut most = before;
    while !sending.is_finished() {
        most = most.max(resident_kib(site.server.pid()));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(number(&sending.await.unwrap().unwrap()), BYTES as u64);
    let grown = (most - before) / 1_024;
    assert!(grown < 64, "{grown} MiB more for {} MiB", BYTES >> 20);
}

/// Hands bytes on to a server, and drops connections, once each time that this many bytes have gone up.
async fn breaking(to: String, after: Vec<i64>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let left = Arc::new(AtomicI64::new(0));
    tokio::spawn(async move {
        let mut breaks = after.into_iter();
        let mut this = breaks.next();
        left.store(this.unwrap_or(i64::MAX), Ordering::SeqCst);
        while let Ok((client, _)) = listener.accept().await {
            if left.load(Ordering::SeqCst) <= 0 {
                this = breaks.next();
                left.store(this.unwrap_or(i64::MAX), Ordering::SeqCst);
            }
            let Ok(server) = TcpStream::connect(&to).await else { continue };
            tokio::spawn(hand_on(client, server, Arc::clone(&left)));
        }
    });
    address
}

async fn hand_on(mut client: TcpStream, mut server: TcpStream, left: Arc<AtomicI64>) {
    let (mut up, mut down) = (vec![0; 16 << 10], vec![0; 16 << 10]);
    loop {
        tokio::select! {
            read = client.read(&mut up) => match read {
                Ok(read) if read > 0 => {
                    if left.fetch_sub(read as i64, Ordering::SeqCst) <= read as i64
                        || server.write_all(&up[..read]).await.is_err()
                    {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut down) => match read {
                Ok(read) if read > 0 => {
                    if client.write_all(&down[..read]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}

/// Runs a client that others wrote, through two breaks of the line.
async fn by(mut client: Command) {
    let site = Site::new().await;
    let through = breaking(site.server.http.clone(), vec![300_000, 500_000]).await;
    client.env("TUS_ENDPOINT", format!("{through}/api/v1/uploads"));
    client.env("TUS_KEY", &site.key).env("TUS_FILE", clip());
    let output = run(client).await;
    let (said, wrong) = (utf8(&output.stdout), utf8(&output.stderr));
    assert!(output.status.success(), "{said}\n{wrong}\n{}", site.server.log());
    assert!(said.contains("done"), "{said}\n{wrong}");
    site.holds_the_clip_once().await;
}

fn here(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn tus_js_client_uploads_through_a_line_that_breaks() {
    let mut client = Command::new("node");
    client.arg(here("web/tests/upload.mjs"));
    by(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tuspy_uploads_with_checksums_through_a_line_that_breaks() {
    let cache = std::env::var_os("SLUICE_CACHE").map(std::path::PathBuf::from);
    let home = std::env::home_dir().unwrap_or_default();
    let cache = cache.unwrap_or_else(|| home.join(".cache/sluice"));
    let mut client = Command::new("python3");
    client.arg(here("tests/regtest/upload.py")).env("PYTHONPATH", cache.join("tuspy"));
    by(client).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_goes_on_through_broken_lines_a_restart_and_its_own_end() {
    let mut site = Site::new().await;
    let state = site.dir.path().join("state");
    let upload = |server: &str| {
        let file = clip();
        let mut command = sluice(&["upload", file.to_str().unwrap(), "--server", server]);
        command.args(["--title", "Film", "--msat-per-second", "2000"]);
        command.arg("--key-file").arg(&site.key_file).env("XDG_STATE_HOME", &state);
        command
    };
    // A line that carries 300 kB and breaks, again and again.
    let through = breaking(site.server.http.clone(), vec![300_000; 1_000]).await;
    let spool = site.server.data_dir.join("spool");
    let there = async |bytes: u64| {
        until("a part of it is there", async || {
            let mut files = std::fs::read_dir(&spool).unwrap().map(|file| file.unwrap().path());
            files.any(|path| {
                path.extension().is_some_and(|kind| kind == "part")
                    && path.metadata().is_ok_and(|of| of.len() > bytes)
            })
        })
        .await;
    };
    let mut first = upload(&through).spawn().unwrap();
    there(200_000).await;
    first.kill().unwrap();
    first.wait().unwrap();
    assert_eq!(site.only_title().await["state"], "uploading");
    let running = tokio::spawn(run(upload(&through)));
    there(400_000).await;
    site.server.kill();
    tokio::time::sleep(Duration::from_millis(500)).await;
    site.server.start(&[]).await;
    let output = running.await.unwrap();
    let (said, wrong) = (utf8(&output.stdout), utf8(&output.stderr));
    assert!(output.status.success(), "{wrong}\n{}", site.server.log());
    assert!(wrong.contains("going on with an upload"), "{wrong}");
    assert!(said.contains("/watch/"), "{said}");
    site.holds_the_clip_once().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_is_wrong() {
    let site = Site::new().await;
    let wrong = async |file: &Path, key_file: &Path| {
        let server = site.server.base_url();
        let mut command = sluice(&["upload", file.to_str().unwrap(), "--server", &server]);
        command.args(["--msat-per-second", "0", "--key-file"]).arg(key_file);
        command.env("XDG_STATE_HOME", site.dir.path());
        let output = run(command).await;
        assert!(!output.status.success());
        utf8(&output.stderr)
    };
    let said = wrong(Path::new("/nowhere/film.mp4"), &site.key_file).await;
    assert!(said.contains("/nowhere/film.mp4 cannot be read"), "{said}");
    let said = wrong(site.dir.path(), &site.key_file).await;
    assert!(said.contains("is no file"), "{said}");
    let empty = site.dir.path().join("empty.mp4");
    std::fs::write(&empty, "").unwrap();
    assert!(wrong(&empty, &site.key_file).await.contains("is empty"));
    let other = site.dir.path().join("other.key");
    std::fs::write(&other, "sluice_creator_0").unwrap();
    let said = wrong(&clip(), &other).await;
    assert!(said.contains("(401)"), "{said}");
    let large = site.dir.path().join("large.mp4");
    std::fs::File::create(&large).unwrap().set_len(60 << 30).unwrap();
    let said = wrong(&large, &site.key_file).await;
    assert!(said.contains("(413)") && said.contains("--video"), "{said}");
}
