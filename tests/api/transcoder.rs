//! A transcoder that writes a few small files as the worker would.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use sluice::domain::id::{RenditionName, SegmentNumber};
use sluice::domain::video::{Rendition, Ticks, Timeline};
use sluice::media::extras::{Extras, ExtrasOrder};
use sluice::media::{Decoded, Error, Made, Order, Probe, Sink, Told, Transcoder};
use tokio_util::sync::CancellationToken;

/// Segments of every film here; all but the last are 4 seconds long, the last is 2.
pub const SEGMENTS: u32 = 8;
/// Its renditions, highest first.
pub const RENDITIONS: [&str; 2] = ["480p", "240p"];

/// How an order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// The source is no film.
    NoFilm,
    /// The worker dies.
    Dies,
    /// It never ends by itself.
    Hangs,
}

/// Follows its script, then does as it is told.
#[derive(Default)]
pub struct FakeTranscoder {
    script: Mutex<VecDeque<Script>>,
    orders: Mutex<u32>,
    large: Mutex<usize>,
    /// What it makes around each film; nothing makes it fail there.
    extras: Mutex<Option<Extras>>,
}

/// The files that lie around each film.
pub const FILES: [(&str, &[u8]); 3] = [
    ("poster.jpg", b"a poster"),
    ("sheet-0.jpg", b"a sheet"),
    ("iframes.mp4", b"init, picture and picture"),
];

impl FakeTranscoder {
    pub fn script(&self, script: impl IntoIterator<Item = Script>) {
        self.script.lock().unwrap().extend(script);
    }

    /// Segment 1 is as [`large`] from now on.
    pub fn large(&self, bytes: usize) {
        *self.large.lock().unwrap() = bytes;
    }

    /// What is made around films from now on.
    pub fn extras(&self, extras: Extras) {
        *self.extras.lock().unwrap() = Some(extras);
    }

    pub fn orders(&self) -> u32 {
        *self.orders.lock().unwrap()
    }
}

/// The bytes of a segment, or of the init segment.
pub fn bytes(rendition: &str, number: Option<u32>) -> Vec<u8> {
    let name = number.map_or("init".to_owned(), |number| number.to_string());
    format!("{rendition}/{name} ").repeat(20).into_bytes()
}

/// The bytes of a segment that has at least so many: no two places look alike.
pub fn large(rendition: &str, number: Option<u32>, len: usize) -> Vec<u8> {
    let mut bytes = bytes(rendition, number);
    let len = len.max(bytes.len());
    // By eight, because this is not optimised.
    let words = (1_u64..).map(|n| n.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
    for word in words {
        if bytes.len() >= len {
            break;
        }
        bytes.extend(word);
    }
    bytes.truncate(len);
    bytes
}

fn timeline() -> Timeline {
    let starts = (0..SEGMENTS).map(|n| u64::from(n) * 4_000);
    let ends = starts.chain([u64::from(SEGMENTS) * 4_000 - 2_000]);
    Timeline::new(ends.map(Ticks::from_millis).collect()).unwrap()
}

fn rendition(name: &str) -> Rendition {
    let height = name.trim_end_matches('p').parse().unwrap();
    Rendition {
        name: name.parse().unwrap(),
        resolution: Some((height * 16 / 9, height)),
        frame_rate_milli: Some(25_000),
        codecs: "avc1.64001f,mp4a.40.2".to_owned(),
        bandwidth: u64::from(height) * 1_000,
        average_bandwidth: u64::from(height) * 900,
    }
}

async fn write(
    output: &Path,
    rendition: &RenditionName,
    number: Option<u32>,
    len: usize,
) -> (String, u64) {
    let name = number.map_or("init.mp4".to_owned(), |number| format!("{number}.m4s"));
    let len = if number == Some(1) { len } else { 0 };
    let (file, bytes) = (format!("{rendition}-{name}"), large(rendition.as_str(), number, len));
    tokio::fs::write(output.join(&file), &bytes).await.unwrap();
    (file, bytes.len() as u64)
}

#[async_trait]
impl Transcoder for FakeTranscoder {
    async fn transcode(
        &self,
        order: Order,
        sink: &mut dyn Sink,
        cancel: CancellationToken,
    ) -> Result<Made, Error> {
        *self.orders.lock().unwrap() += 1;
        let next = self.script.lock().unwrap().pop_front();
        match next {
            Some(Script::NoFilm) => {
                return Err(Error::Source("This file holds no video.".to_owned()));
            }
            Some(Script::Dies) => return Err(Error::Worker("killed by signal 9".to_owned())),
            Some(Script::Hangs) => {
                cancel.cancelled().await;
                return Err(Error::Cancelled);
            }
            None => {}
        }
        assert_eq!(tokio::fs::read(&order.source).await.unwrap(), b"a source");
        let probe = Probe {
            duration_ms: 30_000,
            resolution: Some((854, 480)),
            frame_rate_milli: Some(25_000),
            audio: true,
        };
        sink.told(Told::Probed(probe)).await?;
        let large = *self.large.lock().unwrap();
        for name in RENDITIONS {
            let rendition: RenditionName = name.parse().unwrap();
            let (file, bytes) = write(&order.output, &rendition, None, 0).await;
            sink.told(Told::Init { rendition: rendition.clone(), file, bytes }).await?;
            for n in 0..SEGMENTS {
                let (file, bytes) = write(&order.output, &rendition, Some(n), large).await;
                let number = SegmentNumber(n);
                let rendition = rendition.clone();
                sink.told(Told::Segment { rendition, number, file, bytes }).await?;
            }
            sink.told(Told::Progress { permille: 500 }).await?;
        }
        let renditions = RENDITIONS.map(rendition).to_vec();
        Ok(Made { timeline: timeline(), renditions, frames: 750 })
    }

    async fn extras(&self, order: ExtrasOrder, _: CancellationToken) -> Result<Extras, Error> {
        let extras = self.extras.lock().unwrap().clone();
        for (name, bytes) in FILES {
            tokio::fs::write(order.output.join(name), bytes).await.unwrap();
        }
        assert_eq!((order.pictures, order.sound), (true, false), "a film with pictures");
        extras.ok_or_else(|| Error::Worker("killed by signal 11".to_owned()))
    }

    async fn decode(&self, _: PathBuf) -> Result<Decoded, Error> {
        Err(Error::Worker("not here".to_owned()))
    }

    async fn repeat(&self, _: PathBuf, _: PathBuf, _: u64) -> Result<(), Error> {
        Err(Error::Worker("not here".to_owned()))
    }
}
