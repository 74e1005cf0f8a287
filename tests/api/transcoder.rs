//! A transcoder that writes a few small files as the worker would.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use sluice::domain::id::{RenditionName, SegmentNumber};
use sluice::domain::video::{Rendition, Ticks};
use sluice::media::extras::{Extras, ExtrasOrder};
use sluice::media::{
    Decoded, Error, Heard, Options, Order, Pictured, Piece, Plan, Probe, Sink, Survey, Told,
    Transcoder,
};
use tokio_util::sync::CancellationToken;

/// Segments of every film here; all but the last are 4 seconds long, the last is 2.
pub const SEGMENTS: u32 = 8;
/// Its renditions, highest first.
pub const RENDITIONS: [&str; 2] = ["480p", "240p"];

/// How an order goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Script {
    /// Nothing happens.
    Goes,
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
    piece_script: Mutex<VecDeque<Script>>,
    pieces: Mutex<Vec<Piece>>,
    made: Mutex<Vec<(String, u32)>>,
    sound: Mutex<bool>,
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

    /// The same for pieces, each after its first segment.
    pub fn script_pieces(&self, script: impl IntoIterator<Item = Script>) {
        self.piece_script.lock().unwrap().extend(script);
    }

    /// Films have sound from now on.
    pub fn with_sound(&self) {
        *self.sound.lock().unwrap() = true;
    }

    /// The pieces that were ordered.
    pub fn pieces(&self) -> Vec<Piece> {
        self.pieces.lock().unwrap().clone()
    }

    /// The segments that were made, in order.
    pub fn made(&self) -> Vec<(String, u32)> {
        self.made.lock().unwrap().clone()
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

/// 30 seconds of pictures: with segments of 4 seconds, [`SEGMENTS`] of them.
pub fn survey(sound: bool) -> Survey {
    let probe = Probe {
        duration_ms: 30_000,
        resolution: Some((854, 480)),
        frame_rate_milli: Some(25_000),
        audio: sound,
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
    let sound = sound.then(|| Heard { end: Ticks::from_millis(30_000), copyable: false });
    Survey { probe, pictures: Some(pictures), sound }
}

fn rendition(name: &str) -> Rendition {
    let height: u32 = name.trim_end_matches('p').parse().unwrap_or_default();
    let shown = height > 0;
    Rendition {
        name: name.parse().unwrap(),
        resolution: shown.then_some((height * 16 / 9, height)),
        frame_rate_milli: shown.then_some(25_000),
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
        self.follow(next, &cancel).await?;
        assert_eq!(tokio::fs::read(&source).await.unwrap(), b"a source");
        Ok(survey(*self.sound.lock().unwrap()))
    }

    async fn work(
        &self,
        order: Order,
        sink: &mut dyn Sink,
        cancel: CancellationToken,
    ) -> Result<(), Error> {
        self.pieces.lock().unwrap().push(order.piece.clone());
        let next = self.piece_script.lock().unwrap().pop_front();
        let large = *self.large.lock().unwrap();
        let (renditions, segments) = match &order.piece {
            Piece::Sound => (vec!["audio".parse().unwrap()], 0..SEGMENTS),
            Piece::Pictures { renditions, from, to } => (renditions.clone(), *from..*to),
            piece => panic!("{piece:?}"),
        };
        for rendition in &renditions {
            let (file, bytes) = write(&order.output, rendition, None, 0).await;
            sink.told(Told::Init { rendition: rendition.clone(), file, bytes }).await?;
        }
        for (made, n) in segments.enumerate() {
            // What a script says happens in the middle of a piece.
            if made == 1 {
                self.follow(next, &cancel).await?;
            }
            for rendition in &renditions {
                let (file, bytes) = write(&order.output, rendition, Some(n), large).await;
                let (number, rendition) = (SegmentNumber(n), rendition.clone());
                self.made.lock().unwrap().push((rendition.to_string(), n));
                sink.told(Told::Segment { rendition, number, file, bytes }).await?;
            }
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

impl FakeTranscoder {
    async fn follow(
        &self,
        script: Option<Script>,
        cancel: &CancellationToken,
    ) -> Result<(), Error> {
        match script {
            Some(Script::NoFilm) => Err(Error::Source("This file holds no video.".to_owned())),
            Some(Script::Dies) => Err(Error::Worker("killed by signal 9".to_owned())),
            Some(Script::Hangs) => {
                cancel.cancelled().await;
                Err(Error::Cancelled)
            }
            Some(Script::Goes) | None => Ok(()),
        }
    }
}
