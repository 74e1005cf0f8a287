//! A transcoder that writes a few small files as the worker would.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use sluice::domain::id::{RenditionName, SegmentNumber};
use sluice::domain::video::{Rendition, Ticks};
use sluice::media::{
    Decoded, Error, Options, Order, Pictured, Piece, Plan, Probe, Sink, Survey, Told, Transcoder,
};
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
}

impl FakeTranscoder {
    pub fn script(&self, script: impl IntoIterator<Item = Script>) {
        self.script.lock().unwrap().extend(script);
    }

    /// Segment 1 is as [`large`] from now on.
    pub fn large(&self, bytes: usize) {
        *self.large.lock().unwrap() = bytes;
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

/// 30 seconds of pictures: with segments of 4 seconds, [`SEGMENTS`] of them.
pub fn survey() -> Survey {
    let probe = Probe {
        duration_ms: 30_000,
        resolution: Some((854, 480)),
        frame_rate_milli: Some(25_000),
        audio: false,
    };
    let pictures = Pictured {
        width: 854,
        height: 480,
        rate_num: 25,
        rate_den: 1,
        end: Ticks::from_millis(30_000),
        bytes: 3_000_000,
        seekable: true,
        copyable: None,
    };
    Survey { probe, pictures: Some(pictures), sound: None }
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
    async fn survey(
        &self,
        source: PathBuf,
        _: Options,
        cancel: CancellationToken,
    ) -> Result<Survey, Error> {
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
        assert_eq!(tokio::fs::read(&source).await.unwrap(), b"a source");
        Ok(survey())
    }

    async fn work(
        &self,
        order: Order,
        sink: &mut dyn Sink,
        _: CancellationToken,
    ) -> Result<(), Error> {
        let Piece::Pictures { renditions, from, to } = order.piece else {
            return Err(Error::Worker("not here".to_owned()));
        };
        let large = *self.large.lock().unwrap();
        for rendition in renditions {
            let (file, bytes) = write(&order.output, &rendition, None, 0).await;
            sink.told(Told::Init { rendition: rendition.clone(), file, bytes }).await?;
            for n in from..to {
                let (file, bytes) = write(&order.output, &rendition, Some(n), large).await;
                let number = SegmentNumber(n);
                let rendition = rendition.clone();
                sink.told(Told::Segment { rendition, number, file, bytes }).await?;
            }
            sink.told(Told::Progress { permille: 500 }).await?;
        }
        Ok(())
    }

    fn check(
        &self,
        _: &Plan,
        rendition: &RenditionName,
        number: Option<SegmentNumber>,
        found: &[u8],
    ) -> Result<(), Error> {
        let whole = bytes(rendition.as_str(), number.map(|number| number.0));
        if found.starts_with(&whole) { Ok(()) } else { Err(Error::Worker("torn".to_owned())) }
    }

    fn join(
        &self,
        picture: Option<&[u8]>,
        sound: Option<&[u8]>,
        _: Option<SegmentNumber>,
    ) -> Result<Bytes, Error> {
        Ok(Bytes::copy_from_slice(picture.or(sound).unwrap()))
    }

    fn rendition(
        &self,
        _: &Plan,
        name: &RenditionName,
        init: &[u8],
        sizes: &[u64],
    ) -> Result<Rendition, Error> {
        assert_eq!((init, sizes.len()), (&bytes(name.as_str(), None)[..], SEGMENTS as usize));
        Ok(rendition(name.as_str()))
    }

    async fn decode(&self, _: PathBuf) -> Result<Decoded, Error> {
        Err(Error::Worker("not here".to_owned()))
    }

    async fn repeat(&self, _: PathBuf, _: PathBuf, _: u64) -> Result<(), Error> {
        Err(Error::Worker("not here".to_owned()))
    }
}
