//! Connections, over real sockets: how many, how long, how large.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sluice::http::{Options, router, server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::app::{DEADLINE, Film, TestApp};

struct Listening {
    address: SocketAddr,
    cancel: CancellationToken,
}

impl Listening {
    async fn on(app: &TestApp, options: Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let (shared, metrics) = (app.shared.clone(), app.shared.metrics.clone());
        let served = server::serve(listener, router(shared), options, metrics, cancel.clone());
        tokio::spawn(served);
        Self { address, cancel }
    }

    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

async fn said(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    let read = async {
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => head.push(byte),
                Err(_) => break,
            }
        }
    };
    tokio::time::timeout(DEADLINE, read).await.expect("an answer in time");
    String::from_utf8(head).unwrap()
}

const HEALTH: &str = "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn a_client_with_too_many_connections_is_told_and_the_server_too_full_says_so() {
    let app = TestApp::new();
    for (in_all, of_one, status) in [(8, 2, "429"), (2, 8, "503")] {
        let options = Options {
            connections_max: in_all,
            connections_per_client_max: of_one,
            ..Options::default()
        };
        let server = Listening::on(&app, options).await;
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut stream = server.connect().await;
            assert!(said(&mut stream, HEALTH).await.starts_with("HTTP/1.1 200"));
            held.push(stream);
        }
        let refused = said(&mut server.connect().await, HEALTH).await;
        assert!(refused.starts_with(&format!("HTTP/1.1 {status}")), "{refused}");
        assert!(refused.contains("\r\nretry-after: "), "{refused}");
        held.clear();
        let begun = Instant::now();
        while !said(&mut server.connect().await, HEALTH).await.starts_with("HTTP/1.1 200") {
            assert!(begun.elapsed() < DEADLINE, "a place comes free");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn sixty_four_kib_of_header_are_refused_and_the_server_goes_on() {
    let app = TestApp::new();
    let server = Listening::on(&app, Options::default()).await;
    let film = app.film().await;
    for (bytes, status) in [(8_000, "402"), (64 << 10, "431")] {
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: x\r\nauthorization: L402 {}:00\r\n\r\n",
            film.segment(1),
            "A".repeat(bytes)
        );
        let answer = said(&mut server.connect().await, &request).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{bytes}: {answer}");
    }
}

#[tokio::test]
async fn who_sends_headers_slowly_or_nothing_is_disconnected() {
    let app = TestApp::new();
    let options = Options { header_seconds: 1, ..Options::default() };
    let server = Listening::on(&app, options).await;
    for beginning in ["", "GET /healthz HTTP/1.1\r\nx-slow: "] {
        let mut stream = server.connect().await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let mut rest = Vec::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut rest)).await;
        assert!(read.is_ok(), "{beginning:?}: still open");
    }
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_disconnected_and_one_that_waits_for_events_is_not() {
    let app = TestApp::new();
    let options = Options { stall_seconds: 1, header_seconds: 1, ..Options::default() };
    let server = Listening::on(&app, options).await;
    let film: Film = app.film().await;
    let session = crate::sessions::Session::short(&app, &film).await;
    let mut waits = server.connect().await;
    let request = format!("GET {} HTTP/1.1\r\nhost: x\r\n\r\n", session.invoices);
    assert!(said(&mut waits, &request).await.starts_with("HTTP/1.1 200"));
    let mut stalls = server.connect().await;
    // Asks again and again without reading: the answers fill every buffer on the way.
    let flood = async {
        loop {
            if stalls.write_all(HEALTH.repeat(100).as_bytes()).await.is_err() {
                return;
            }
        }
    };
    assert!(tokio::time::timeout(DEADLINE, flood).await.is_ok(), "the stalled one is cut off");
    let mut byte = [0];
    let quiet = tokio::time::timeout(Duration::from_millis(50), waits.read(&mut byte)).await;
    assert!(!matches!(quiet, Ok(Ok(0) | Err(_))), "who waits for events stays");
}
