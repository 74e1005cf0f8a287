//! Connections, over real sockets: how many, how long, how large.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice::http::{Options, router, server};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::app::{Challenge, DEADLINE, Film, TestApp, until};
use crate::limits::metric;
use crate::sessions::{Session, pay};

pub struct Listening {
    pub address: SocketAddr,
    cancel: CancellationToken,
}

impl Listening {
    pub async fn on(app: &TestApp, options: Options) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let cancel = CancellationToken::new();
        let (shared, metrics) = (app.shared.clone(), app.shared.metrics.clone());
        let served = server::serve(listener, router(shared), options, metrics, cancel.clone());
        tokio::spawn(served);
        Self { address, cancel }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Asks; the head of the answer, up to its empty line.
pub async fn said(stream: &mut TcpStream, request: &str) -> String {
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
    let session = Session::short(&app, &film).await;
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

/// Many ask for the same at the same moment: how many were served, and how many were told that four are under way.
async fn race(server: &Listening, path: &str, credential: Option<&str>, racers: usize) -> usize {
    let client = reqwest::Client::new();
    let barrier = Arc::new(tokio::sync::Barrier::new(racers));
    let asked: Vec<_> = (0..racers)
        .map(|_| {
            let mut request = client.get(server.url(path));
            if let Some(credential) = credential {
                request = request.header("authorization", credential);
            }
            let barrier = Arc::clone(&barrier);
            tokio::spawn(async move {
                barrier.wait().await;
                let reply = request.send().await.unwrap();
                let status = reply.status().as_u16();
                assert!(!reply.bytes().await.unwrap().is_empty());
                status
            })
        })
        .collect();
    let mut served = 0;
    for asked in asked {
        match asked.await.unwrap() {
            200 => served += 1,
            other => assert_eq!(other, 429, "served, or told that others are under way"),
        }
    }
    served
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_that_race_with_one_credential_are_charged_once() {
    let app = TestApp::new();
    let server = Listening::on(&app, Options::default()).await;
    let film = app.film().await;
    for (round, racers) in (1..).zip([2, 2, 2, 64, 64]) {
        let challenge = Challenge::of(&app.get(&film.segment(round)).await);
        let credential = challenge.credential(app.pay(&challenge.invoice).await);
        let served = race(&server, &film.segment(round), Some(&credential), racers).await;
        assert!(served >= racers.min(4), "{served} of {racers}");
        assert_eq!(metric(&app, "sluice_earned_msat_total "), 2_000 * u64::from(round));
        assert_eq!(app.ledger().await["viewer_credit_msat"], 0);
    }
    assert_eq!(metric(&app, "sluice_challenges_total "), 5, "nobody is asked a second time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_that_race_in_a_session_draw_a_segment_once() {
    let app = TestApp::new();
    let server = Listening::on(&app, Options::default()).await;
    let film = app.film().await;
    for (round, racers) in (1..).zip([2, 2, 64]) {
        let session = Session::short(&app, &film).await;
        app.get(&session.segment(1)).await;
        for invoice in session.open(&app).await {
            pay(&app, &invoice).await;
        }
        let before = session.status(&app).await;
        let served = race(&server, &session.segment(1), None, racers).await;
        assert!(served >= racers.min(4), "{served} of {racers}");
        let status = session.status(&app).await;
        assert_eq!(status["spent_msat"], 2_000);
        let credit = |status: &serde_json::Value| status["credit_msat"].as_u64().unwrap();
        assert_eq!(credit(&before) - credit(&status), 2_000);
        assert_eq!(metric(&app, "sluice_earned_msat_total "), 2_000 * round);
    }
}

#[tokio::test]
async fn a_reader_of_a_paid_segment_that_stops_is_disconnected_and_its_payment_stays_good() {
    const LARGE: usize = 24 << 20;
    let app = TestApp::new();
    app.transcoder.large(LARGE);
    let options = Options { stall_seconds: 1, ..Options::default() };
    let server = Listening::on(&app, options).await;
    let film = app.film().await;
    let challenge = Challenge::of(&app.get(&film.segment(1)).await);
    let credential = challenge.credential(app.pay(&challenge.invoice).await);
    let session = Session::short(&app, &film).await;
    app.get(&session.segment(1)).await;
    pay(&app, &session.open(&app).await[0]).await;
    for (path, header) in [
        (film.segment(1), format!("authorization: {credential}\r\n")),
        (session.segment(1), String::new()),
    ] {
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\n{header}\r\n");
        let mut stalls = server.connect().await;
        assert!(said(&mut stalls, &request).await.starts_with("HTTP/1.1 200"));
        assert_eq!(metric(&app, "sluice_connections "), 1);
        until("it is cut off", || metric(&app, "sluice_connections ") == 0).await;
        let mut rest = Vec::new();
        let _ = stalls.read_to_end(&mut rest).await;
        assert!(rest.len() < LARGE, "cut off before its end");
        // Within the grace, or the session, it is served whole.
        let mut again = server.connect().await;
        assert!(said(&mut again, &request).await.starts_with("HTTP/1.1 200"));
        let mut whole = vec![0; LARGE];
        let read = tokio::time::timeout(DEADLINE, again.read_exact(&mut whole)).await;
        read.expect("in time").unwrap();
    }
    assert_eq!(metric(&app, "sluice_earned_msat_total "), 4_000, "each was charged once");
    assert_eq!(app.ledger().await["viewer_credit_msat"], 0);
}
