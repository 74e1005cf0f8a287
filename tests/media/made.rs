//! A source, and what the worker makes of it.

use std::path::{Path, PathBuf};
use std::process::Command;

use async_trait::async_trait;
use sluice::domain::id::{RenditionName, SegmentNumber};
use sluice::media::worker::Worker;
use sluice::media::{Error, Loudness, Options, Order, Piece, Plan, Sink, Survey, Told, Transcoder};
use tokio_util::sync::CancellationToken;

pub fn worker(options: &Options) -> Worker {
    Worker::at(PathBuf::from(env!("CARGO_BIN_EXE_sluice")), options.clone())
}

/// Small, fast and without loss, so that pictures can be compared.
pub fn options() -> Options {
    Options {
        segment_ms: 2_000,
        ladder: vec![120],
        crf: 0,
        preset: "ultrafast".to_owned(),
        loudness_lufs: Loudness::OFF,
        ..Options::default()
    }
}

/// Runs `ffmpeg` with these words; the last is a name in the directory.
pub fn ffmpeg(directory: &Path, words: &str) -> PathBuf {
    let mut words: Vec<&str> = words.split_whitespace().collect();
    let file = directory.join(words.pop().unwrap());
    let mut command = Command::new("ffmpeg");
    command.current_dir(directory).args(["-nostdin", "-v", "error", "-y"]).args(&words).arg(&file);
    let output = command.output().expect("ffmpeg is installed");
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
    file
}

/// The `ffprobe` words' answer.
pub fn ffprobe(file: &Path, words: &str) -> String {
    let mut command = Command::new("ffprobe");
    command.args(["-v", "error"]).args(words.split_whitespace()).args(["-of", "csv=p=0"]).arg(file);
    let output = command.output().expect("ffprobe is installed");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A hash of each decoded picture.
pub fn pictures(file: &Path) -> Vec<String> {
    let mut command = Command::new("ffmpeg");
    command.args(["-nostdin", "-v", "error", "-i"]).arg(file);
    command.args(["-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"]);
    let output = command.output().expect("ffmpeg is installed");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && complaints.is_empty(), "{complaints}");
    let text = String::from_utf8(output.stdout).unwrap();
    let hash = |line: &str| line.rsplit(',').next().unwrap().trim().to_owned();
    text.lines().filter(|line| !line.starts_with('#')).map(hash).collect()
}

pub struct Made {
    pub survey: Survey,
    pub plan: Plan,
    pub pieces: Vec<Piece>,
    directory: tempfile::TempDir,
}

struct Deaf;

#[async_trait]
impl Sink for Deaf {
    async fn told(&mut self, _: Told) -> Result<(), Error> {
        Ok(())
    }
}

/// Makes all pieces; chunks have this many seconds.
pub async fn make(source: &Path, options: &Options, chunk_seconds: u64) -> Result<Made, Error> {
    let worker = worker(options);
    let cancel = CancellationToken::new();
    let survey = worker.survey(source.to_owned(), options.clone(), cancel.clone()).await?;
    let plan = Plan::of(&survey, options)?;
    let directory = tempfile::tempdir().unwrap();
    let mut pieces = plan.pieces(chunk_seconds, false);
    pieces.retain(|piece| *piece != Piece::Extras);
    let mut inits: Vec<Vec<u8>> = Vec::new();
    for piece in &pieces {
        let order = Order {
            source: source.to_owned(),
            output: directory.path().to_owned(),
            options: options.clone(),
            plan: plan.clone(),
            piece: piece.clone(),
        };
        worker.work(order, &mut Deaf, cancel.clone()).await?;
        if let Piece::Pictures { renditions, .. } = piece {
            let init = directory.path().join(format!("{}-init.mp4", renditions[0]));
            inits.push(std::fs::read(init).unwrap());
        }
    }
    assert!(inits.windows(2).all(|pair| pair[0] == pair[1]), "each chunk begins alike");
    Ok(Made { survey, plan, pieces, directory })
}

impl Made {
    /// A rendition as it is served, in one file.
    pub fn whole(&self, name: &str) -> PathBuf {
        let worker = worker(&Options::default());
        let audio: RenditionName = "audio".parse().unwrap();
        let name: RenditionName = name.parse().unwrap();
        let mut bytes = Vec::new();
        let numbers = (0..self.plan.timeline.segments()).map(|n| Some(SegmentNumber(n)));
        for number in std::iter::once(None).chain(numbers) {
            let part = |name: &RenditionName| {
                let file = number
                    .map_or(format!("{name}-init.mp4"), |number| format!("{name}-{number}.m4s"));
                let bytes = std::fs::read(self.directory.path().join(file)).unwrap();
                worker.check(&self.plan, name, number, &bytes).unwrap();
                bytes
            };
            let picture = (name != audio).then(|| part(&name));
            let sound = self.plan.sound.as_ref().map(|_| part(&audio));
            let joined = worker.join(picture.as_deref(), sound.as_deref(), number).unwrap();
            bytes.extend_from_slice(&joined);
        }
        let file = self.directory.path().join(format!("{name}.mp4"));
        std::fs::write(&file, bytes).unwrap();
        file
    }

    pub fn frames(&self) -> u64 {
        self.plan.pictures.as_ref().map_or(0, |pictures| *pictures.cuts.last().unwrap())
    }
}
