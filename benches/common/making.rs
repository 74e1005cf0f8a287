//! Films, and how they are made of them: the worker's pieces, two at once, joined and written as the library does it, without a server around.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use sluice::domain::id::{RenditionName, SegmentNumber};
use sluice::media::worker::Worker;
use sluice::media::{Error, Options, Order, Piece, Plan, Sink, Told, Transcoder as _};
use tokio_util::sync::CancellationToken;

const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/media/bigbuckbunny.mp4");
/// As a server on two processors.
const WORKERS: usize = 2;

/// A film of 1080p as a creator may send it, with a key frame every so many frames and nowhere else.
pub fn film(to: &Path, seconds: u64, every: u64) {
    let every = every.to_string();
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-stream_loop", "-1", "-i", CLIP]);
    command.args(["-t", &seconds.to_string(), "-vf", "scale=1920:1080,fps=25"]);
    command.args(["-preset", "ultrafast", "-crf", "24", "-g", &every, "-keyint_min", &every]);
    command.args(["-sc_threshold", "0", "-c:a", "aac", "-ar", "48000"]);
    command.args(["-movflags", "+faststart"]).arg(to);
    assert!(command.status().unwrap().success());
}

/// Processor time of this process and of the children that it waited for, in seconds.
pub fn cpu_seconds() -> f64 {
    let of = |who| {
        let used = getrusage(who).unwrap();
        (used.user_time().num_microseconds() + used.system_time().num_microseconds()) as f64 / 1e6
    };
    of(UsageWho::RUSAGE_SELF) + of(UsageWho::RUSAGE_CHILDREN)
}

/// Moves what workers make to one place.
struct Gather {
    from: PathBuf,
    to: PathBuf,
}

#[async_trait]
impl Sink for Gather {
    async fn told(&mut self, told: Told) -> Result<(), Error> {
        if let Told::Init { file, .. } | Told::Segment { file, .. } = told {
            std::fs::rename(self.from.join(&file), self.to.join(&file)).unwrap();
        }
        Ok(())
    }
}

/// Makes a film whole; how many segments were written.
pub async fn make(film: &Path, options: &Options, chunk_seconds: u64, work: &Path) -> usize {
    let worker = Worker::at(env!("CARGO_BIN_EXE_sluice").into(), options.clone());
    let cancel = CancellationToken::new();
    let survey = worker.survey(film.to_owned(), options.clone(), cancel.clone()).await.unwrap();
    let plan = Plan::of(&survey, options).unwrap();
    let parts = work.join("parts");
    std::fs::create_dir_all(&parts).unwrap();
    let pieces = plan.pieces(chunk_seconds, false);
    let pieces = pieces.into_iter().filter(|piece| *piece != Piece::Extras).enumerate();
    let worker = Arc::new(worker);
    let made = futures::stream::iter(pieces).map(|(n, piece)| {
        let output = work.join(n.to_string());
        std::fs::create_dir(&output).unwrap();
        let order = Order {
            source: film.to_owned(),
            output: output.clone(),
            options: options.clone(),
            plan: plan.clone(),
            piece,
        };
        let mut sink = Gather { from: output, to: parts.clone() };
        let (worker, cancel) = (Arc::clone(&worker), cancel.clone());
        async move { worker.work(order, &mut sink, cancel).await.unwrap() }
    });
    made.buffer_unordered(WORKERS).collect::<Vec<()>>().await;
    join(&worker, &plan, &parts, &work.join("served"))
}

fn join(worker: &Worker, plan: &Plan, parts: &Path, served: &Path) -> usize {
    std::fs::create_dir(served).unwrap();
    let part = |name: &str, number: Option<u32>| {
        let file = number.map_or("init.mp4".to_owned(), |number| format!("{number}.m4s"));
        std::fs::read(parts.join(format!("{name}-{file}"))).unwrap()
    };
    let numbers = std::iter::once(None).chain((0..plan.timeline.segments()).map(Some));
    let numbers: Vec<Option<u32>> = numbers.collect();
    let mut written = 0;
    for name in plan.renditions() {
        let name: &RenditionName = &name;
        for number in numbers.iter().copied() {
            let pictures = (name.as_str() != "audio").then(|| part(name.as_str(), number));
            let sound = plan.sound.as_ref().map(|_| part("audio", number));
            let of = number.map(SegmentNumber);
            let bytes = worker.join(pictures.as_deref(), sound.as_deref(), of).unwrap();
            std::fs::write(served.join(format!("{name}-{number:?}")), bytes).unwrap();
            written += 1;
        }
    }
    written
}
