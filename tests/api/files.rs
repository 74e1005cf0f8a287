//! Segments that lie on disk, over real sockets: they leave from their file, and what arrives is what was made.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::json;
use sluice::blobs::Blobs;
use sluice::http::Options;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};

use crate::app::{DEADLINE, Film, TestApp};
use crate::connections::{Listening, said};
use crate::limits::metric;
use crate::transcoder::{bytes, large};

/// Of segment 1: several pieces of a body, more than sockets hold, and no round number.
const LARGE: usize = (8 << 20) + 4_321;

/// A server with its media on disk, of which segments 0 (small) and 1 (large) are free.
struct OnDisk {
    // The directory is removed last.
    server: Listening,
    app: TestApp,
    film: Film,
    media: TempDir,
}

impl OnDisk {
    async fn new() -> Self {
        let media = tempfile::tempdir().unwrap();
        let app = TestApp::over(Blobs::on_disk(media.path()).unwrap(), |_| {});
        app.transcoder.large(LARGE);
        let film = app.film().await;
        let path = format!("/api/v1/videos/{}", film.video);
        let free = app.call("PATCH", &path).key(&film.creator.key);
        let reply = free.json(json!({ "preview_seconds": 8 })).send().await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let server = Listening::on(&app, Options::default()).await;
        Self { server, app, film, media }
    }

    /// Where segment 1 lies.
    fn file(&self) -> PathBuf {
        self.media.path().join(format!("media/{}/1/480p/1.m4s", self.film.video))
    }

    fn request(&self, segment: u32, more: &str) -> String {
        format!("GET {} HTTP/1.1\r\nhost: x\r\n{more}\r\n", self.film.segment(segment))
    }

    /// Segment 1 over a connection of its own.
    async fn whole(&self) -> Vec<u8> {
        let mut stream = self.server.connect().await;
        let head = said(&mut stream, &self.request(1, "")).await;
        body(&mut stream, &head, "200").await
    }
}

/// The body of an answer, as long as its head says.
async fn body(stream: &mut TcpStream, head: &str, status: &str) -> Vec<u8> {
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    let len = head.lines().find_map(|line| line.strip_prefix("content-length: ")).expect(head);
    let mut body = vec![0; len.parse().unwrap()];
    let read = tokio::time::timeout(DEADLINE, stream.read_exact(&mut body)).await;
    read.expect("in time").unwrap();
    body
}

/// Unlike `assert_eq`, does not print megabytes.
#[track_caller]
fn same(found: &[u8], expected: &[u8]) {
    assert_eq!(found.len(), expected.len());
    let differs = found.iter().zip(expected).position(|(found, expected)| found != expected);
    assert_eq!(differs, None, "the first byte that differs");
}

#[tokio::test(flavor = "multi_thread")]
async fn segments_on_disk_arrive_byte_for_byte_whole_in_ranges_and_pipelined() {
    let on_disk = OnDisk::new().await;
    let expected = large("480p", Some(1), LARGE);
    same(&on_disk.whole().await, &expected);
    let mut stream = on_disk.server.connect().await;
    // On one connection: within a piece, over several, too few bytes for a file, and the last ones.
    let ranges = [(70_001, 170_000), (1_500_003, 7_000_001), (3_000_000, 3_000_099)];
    for (first, last) in ranges.into_iter().chain([(LARGE - 20_000, LARGE - 1)]) {
        let range = format!("range: bytes={first}-{last}\r\n");
        let head = said(&mut stream, &on_disk.request(1, &range)).await;
        let told = format!("content-range: bytes {first}-{last}/{LARGE}");
        assert!(head.contains(&told), "{head}");
        same(&body(&mut stream, &head, "206").await, &expected[first..=last]);
    }
    // Asked for in one breath: each answer begins where the one before ends.
    let small = bytes("480p", Some(0));
    let range = on_disk.request(1, "range: bytes=2000000-5000000\r\n");
    let all = [on_disk.request(1, ""), on_disk.request(0, ""), range, on_disk.request(1, "")];
    let head = said(&mut stream, &all.concat()).await;
    same(&body(&mut stream, &head, "200").await, &expected);
    let head = said(&mut stream, "").await;
    same(&body(&mut stream, &head, "200").await, &small);
    let head = said(&mut stream, "").await;
    same(&body(&mut stream, &head, "206").await, &expected[2_000_000..=5_000_000]);
    let head = said(&mut stream, "").await;
    same(&body(&mut stream, &head, "200").await, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_pauses_gets_every_byte_of_a_segment_on_disk() {
    let on_disk = OnDisk::new().await;
    let expected = large("480p", Some(1), LARGE);
    let socket = TcpSocket::new_v4().unwrap();
    // So that the server's socket takes a part of a piece, and then nothing.
    socket.set_recv_buffer_size(128 << 10).unwrap();
    let mut stream = socket.connect(on_disk.server.address).await.unwrap();
    let head = said(&mut stream, &on_disk.request(1, "")).await;
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    let mut found = vec![0; LARGE];
    let (begin, rest) = found.split_at_mut(100_000);
    tokio::time::timeout(DEADLINE, stream.read_exact(begin)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let sent = metric(&on_disk.app, "sluice_served_bytes_total ");
    assert!(sent > 0 && sent < LARGE as u64, "the server waits for the reader: {sent}");
    let (middle, rest) = rest.split_at_mut(3_000_000);
    tokio::time::timeout(DEADLINE, stream.read_exact(middle)).await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    tokio::time::timeout(DEADLINE, stream.read_exact(rest)).await.unwrap().unwrap();
    same(&found, &expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_segment_leaves_from_its_file_and_from_memory_where_that_was_cut() {
    const CHANGED: u64 = 2_345_678;
    let on_disk = OnDisk::new().await;
    let expected = large("480p", Some(1), LARGE);
    same(&on_disk.whole().await, &expected);
    // Nobody changes such a file; whoever did would see where the bytes come from.
    let file = File::options().write(true).open(on_disk.file()).unwrap();
    let place = usize::try_from(CHANGED).unwrap();
    file.write_all_at(&[!expected[place]], CHANGED).unwrap();
    let seen = on_disk.whole().await;
    assert_eq!(seen[place], !expected[place], "the socket took it from the file");
    file.write_all_at(&[expected[place]], CHANGED).unwrap();
    for cut in [(5 << 20) + 77, 1, 0] {
        file.set_len(cut).unwrap();
        same(&on_disk.whole().await, &expected);
    }
    let mut stream = on_disk.server.connect().await;
    let range = on_disk.request(1, "range: bytes=4000000-7000000\r\n");
    let head = said(&mut stream, &range).await;
    same(&body(&mut stream, &head, "206").await, &expected[4_000_000..=7_000_000]);
}
