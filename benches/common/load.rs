//! A load of its own: blocking connections that ask and read as fast as they are answered. What it costs is the same for whoever is asked.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use super::figures::{ms, quantile};

/// The heads of answers are shorter.
const BUFFER_BYTES: usize = 256 << 10;

/// A kept connection.
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        Self { stream, buffer: vec![0; BUFFER_BYTES] }
    }

    /// Asks and reads the whole answer; its status and the length of its body.
    pub fn ask(&mut self, request: &[u8]) -> (u16, u64) {
        self.stream.write_all(request).unwrap();
        let mut filled = 0;
        let (status, end, length) = loop {
            let read = self.stream.read(&mut self.buffer[filled..]).unwrap();
            assert!(read > 0, "the connection was closed");
            filled += read;
            let head = &self.buffer[..filled];
            if let Some(end) = head.windows(4).position(|four| four == b"\r\n\r\n") {
                let head = std::str::from_utf8(&head[..end]).unwrap();
                let status = head[9..12].parse().unwrap();
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
                });
                break (status, end + 4, length.expect("a length").unwrap());
            }
        };
        let mut left = length - (filled - end) as u64;
        while left > 0 {
            let read = self.stream.read(&mut self.buffer).unwrap();
            assert!(read > 0, "the body broke off");
            left -= read as u64;
        }
        (status, length)
    }
}

/// A `GET` over a kept connection.
pub fn get(path: &str, authorization: Option<&str>) -> Vec<u8> {
    let credential =
        authorization.map(|value| format!("Authorization: {value}\r\n")).unwrap_or_default();
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{credential}\r\n").into_bytes()
}

/// What a load was answered.
#[derive(Debug, Default, Clone)]
pub struct Answered {
    pub requests: u64,
    pub bytes: u64,
    pub seconds: f64,
    pub waits_ms: Vec<f64>,
}

impl Answered {
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }

    pub fn bytes_per_second(&self) -> f64 {
        self.bytes as f64 / self.seconds
    }

    pub fn p99_ms(&self) -> f64 {
        quantile(&self.waits_ms, 0.99)
    }
}

/// Asks over so many connections at once for so long; `next` makes the requests of a connection one after the other.
pub fn run<F>(
    address: &str,
    connections: usize,
    lasts: Duration,
    next: impl Fn(usize) -> F + Sync,
) -> Answered
where
    F: FnMut() -> Option<Vec<u8>>,
{
    let barrier = Barrier::new(connections);
    let one = |number: usize| {
        let (mut connection, mut next) = (Connection::open(address), next(number));
        let mut answered = Answered::default();
        barrier.wait();
        let begun = Instant::now();
        while begun.elapsed() < lasts {
            let Some(request) = next() else { break };
            let asked = Instant::now();
            let (status, bytes) = connection.ask(&request);
            assert_eq!(status, 200, "{}", String::from_utf8_lossy(&connection.buffer[..1_000]));
            answered.waits_ms.push(ms(asked.elapsed()));
            answered.requests += 1;
            answered.bytes += bytes;
        }
        answered.seconds = begun.elapsed().as_secs_f64();
        answered
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|number| {
                let one = &one;
                scope.spawn(move || one(number))
            })
            .collect();
        let mut all = Answered::default();
        for thread in threads {
            let one = thread.join().unwrap();
            all.requests += one.requests;
            all.bytes += one.bytes;
            all.seconds = all.seconds.max(one.seconds);
            all.waits_ms.extend(one.waits_ms);
        }
        all
    })
}
