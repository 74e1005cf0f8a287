//! The real router over the fake node, on a port of loopback, with one film of small boxes.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};
use sluice::app::{Pieces, assemble};
use sluice::blobs::Blobs;
use sluice::config::Config;
use sluice::domain::id::{RenditionName, SegmentNumber};
use sluice::domain::video::{Rendition, Ticks};
use sluice::http::{Shared, router};
use sluice::lightning::Network;
use sluice::lightning::fake::FakeNode;
use sluice::media::extras::{Extras, ExtrasOrder};
use sluice::media::{
    Copyable, Decoded, Error, Options, Order, Pictured, Piece, Plan, Probe, Sink, Survey, Told,
    Transcoder,
};
use sluice::runtime::{SystemClock, Tasks};
use sluice::store::memory::Memory;
use sluice::store::{Storage as _, Store};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// Segments of the film, of which the first is free.
pub const SEGMENTS: u32 = 10;
/// How long each of the others is; the first lasts a second, which is the preview.
pub const SEGMENT_MS: u64 = 800;
/// What each of the others costs: 0.8 s at 5 sat a second.
pub const SEGMENT_MSAT: u64 = 4_000;
pub const WHOLE_MSAT: u64 = SEGMENT_MSAT * (SEGMENTS as u64 - 1);

pub struct Server {
    pub node: Arc<FakeNode>,
    pub shared: Arc<Shared>,
    pub video: String,
    pub base: String,
    tasks: Tasks,
    _spool: TempDir,
}

impl Server {
    pub async fn start() -> Self {
        let mut config = Config::default();
        config.lightning.network = Network::Regtest;
        config.media.segment_ms = SEGMENT_MS;
        let store = Arc::new(Store::new(Memory::default()));
        let node = Arc::new(FakeNode::new(Network::Regtest).unwrap());
        let (tasks, spool) = (Tasks::default(), tempfile::tempdir().unwrap());
        let pieces = Pieces {
            store: Arc::clone(&store),
            node: Arc::clone(&node),
            seed: [7; 64],
            boot: store.next_boot().unwrap(),
            blobs: Blobs::in_memory(),
            transcoder: Arc::new(SmallBoxes),
            clock: Arc::new(SystemClock),
            spool: spool.path().to_owned(),
            disk: Arc::new(sluice::library::upload::SystemDisk),
            wire: Arc::new(sluice::payout::outbound::Internet),
        };
        let shared = assemble(pieces, &config, &tasks).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let app = router(Arc::clone(&shared));
        let service = app.into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        let video = upload(&base, &shared).await;
        Self { node, shared, video, base, tasks, _spool: spool }
    }

    pub fn page(&self) -> String {
        format!("{}/watch/{}", self.base, self.video)
    }

    /// What the books say: paid by viewers and not yet served, earned, and whether all is right.
    pub async fn credit_msat(&self) -> i128 {
        let begun = Instant::now();
        while self.node.waiting() > 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "the node's events are booked");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(self.shared.statements.verify().unwrap().holds());
        self.shared.statements.totals().unwrap().viewer_credit_msat
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.cancellation().cancel();
    }
}

async fn upload(base: &str, shared: &Shared) -> String {
    let http = reqwest::Client::new();
    let operator = shared.library.create_operator_key().unwrap();
    let post = async |path: &str, key: &str, body: Value| {
        let request = http.post(format!("{base}{path}")).bearer_auth(key).json(&body);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let creator = post("/api/v1/creators", &operator, json!({ "name": "Ada" })).await;
    let key = creator["key"].as_str().unwrap();
    let film = json!({ "title": "A film", "msat_per_second": 5_000, "preview_seconds": 1 });
    let video = post("/api/v1/videos", key, film).await["id"].as_str().unwrap().to_owned();
    let path = format!("{base}/api/v1/videos/{video}");
    let source = http.put(format!("{path}/source")).bearer_auth(key).body("a source");
    assert!(source.send().await.unwrap().status().is_success());
    let begun = Instant::now();
    loop {
        let shown = http.get(&path).bearer_auth(key).send().await.unwrap();
        if shown.json::<Value>().await.unwrap()["state"] == "ready" {
            return video;
        }
        assert!(begun.elapsed() < Duration::from_secs(10), "the film is never ready");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A box of this kind.
fn boxed(kind: &str, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 8).unwrap();
    [&len.to_be_bytes(), kind.as_bytes(), body].concat()
}

/// An init segment.
pub fn init(rendition: &str) -> Vec<u8> {
    [boxed("ftyp", b"isom"), boxed("moov", rendition.as_bytes())].concat()
}

/// A segment.
pub fn segment(rendition: &str, n: u32) -> Vec<u8> {
    let text = format!("{rendition}/{n} ").repeat(50);
    [boxed("moof", &n.to_be_bytes()), boxed("mdat", text.as_bytes())].concat()
}

/// The film as it lies in a file that kept segments of a rendition.
pub fn film(rendition: &str, segments: impl IntoIterator<Item = u32>) -> Vec<u8> {
    segments.into_iter().fold(init(rendition), |all, n| [all, segment(rendition, n)].concat())
}

struct SmallBoxes;

async fn write(output: &Path, file: String, bytes: Vec<u8>) -> (String, u64) {
    tokio::fs::write(output.join(&file), &bytes).await.unwrap();
    (file, bytes.len() as u64)
}

#[async_trait]
impl Transcoder for SmallBoxes {
    /// A film whose key frames fit: its first segment is cut at the first of them behind a second.
    async fn survey(&self, _: PathBuf, _: Options, _: CancellationToken) -> Result<Survey, Error> {
        let frames_per_segment = SEGMENT_MS * 25 / 1_000;
        let keys = (0..u64::from(SEGMENTS)).map(|n| match n {
            0 => 0,
            n => 25 + (n - 1) * frames_per_segment,
        });
        let keys: Vec<u64> = keys.collect();
        let frames = keys[keys.len() - 1] + frames_per_segment;
        let probe = Probe {
            duration_ms: frames * 40,
            resolution: Some((854, 480)),
            frame_rate_milli: Some(25_000),
            audio: false,
        };
        let pictures = Pictured {
            width: 854,
            height: 480,
            rate_num: 25,
            rate_den: 1,
            end: Ticks::from_millis(frames * 40),
            bytes: 100_000,
            seekable: true,
            copyable: Some(Copyable { frames, keys, delay: 0 }),
        };
        Ok(Survey { probe, pictures: Some(pictures), sound: None })
    }

    async fn work(
        &self,
        order: Order,
        sink: &mut dyn Sink,
        _: CancellationToken,
    ) -> Result<(), Error> {
        assert_eq!(order.plan.timeline.segments(), SEGMENTS);
        let renditions = match order.piece {
            Piece::Pictures { renditions, .. } => renditions,
            Piece::Copied { rendition } => vec![rendition],
            piece => return Err(Error::Worker(format!("not here: {piece:?}"))),
        };
        for rendition in renditions {
            let name = rendition.as_str();
            let (file, bytes) = write(&order.output, format!("{name}-init.mp4"), init(name)).await;
            sink.told(Told::Init { rendition: rendition.clone(), file, bytes }).await?;
            for n in 0..SEGMENTS {
                let file = format!("{name}-{n}.m4s");
                let (file, bytes) = write(&order.output, file, segment(name, n)).await;
                let (number, rendition) = (SegmentNumber(n), rendition.clone());
                sink.told(Told::Segment { rendition, number, file, bytes }).await?;
            }
        }
        Ok(())
    }

    fn check(
        &self,
        _: &Plan,
        _: &RenditionName,
        _: Option<SegmentNumber>,
        _: &[u8],
    ) -> Result<(), Error> {
        Ok(())
    }

    fn join(
        &self,
        picture: Option<&[u8]>,
        _: Option<&[u8]>,
        _: Option<SegmentNumber>,
    ) -> Result<Bytes, Error> {
        Ok(Bytes::copy_from_slice(picture.unwrap()))
    }

    fn rendition(
        &self,
        _: &Plan,
        name: &RenditionName,
        _: &[u8],
        _: &[u64],
    ) -> Result<Rendition, Error> {
        let height: u32 = name.as_str().trim_end_matches('p').parse().unwrap();
        Ok(Rendition {
            name: name.clone(),
            resolution: Some((height * 16 / 9, height)),
            frame_rate_milli: Some(25_000),
            codecs: "avc1.64001f,mp4a.40.2".to_owned(),
            bandwidth: 1_000_000,
            average_bandwidth: 900_000,
        })
    }

    async fn extras(&self, _: ExtrasOrder, _: CancellationToken) -> Result<Extras, Error> {
        Ok(Extras::default())
    }

    async fn decode(&self, _: PathBuf) -> Result<Decoded, Error> {
        Err(Error::Worker("not here".to_owned()))
    }

    async fn repeat(&self, _: PathBuf, _: PathBuf, _: u64) -> Result<(), Error> {
        Err(Error::Worker("not here".to_owned()))
    }
}
