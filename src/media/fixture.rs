//! For tests: the clip, made into renditions once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{Made, Options, Order, Told, ffmpeg};

/// The clip of the demo: 132 frames at 25 a second, 1280 by 720, with sound.
pub(super) const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/media/bigbuckbunny.mp4");

/// What a transcode told and left behind.
#[derive(Clone)]
pub(super) struct Fixture {
    pub(super) options: Options,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) told: Vec<Told>,
    pub(super) made: Made,
}

impl Fixture {
    /// Writes its files.
    pub(super) fn write(&self, directory: &Path) {
        for (name, bytes) in &self.files {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }

    /// A rendition as one file.
    pub(super) fn whole(&self, rendition: &str) -> Vec<u8> {
        let mut bytes = self.files[&format!("{rendition}-init.mp4")].clone();
        for number in 0..self.made.timeline.segments() {
            bytes.extend(&self.files[&format!("{rendition}-{number}.m4s")]);
        }
        bytes
    }
}

/// Small and fast.
pub(super) fn options() -> Options {
    Options {
        segment_ms: 2_000,
        ladder: vec![240, 120],
        preset: "ultrafast".to_owned(),
        ..Options::default()
    }
}

/// The clip in two rungs and sound, cut into three segments.
pub(super) fn clip() -> &'static Fixture {
    static MADE: OnceLock<Fixture> = OnceLock::new();
    MADE.get_or_init(|| make(Path::new(CLIP), options()).unwrap())
}

/// Makes renditions of a file in this process.
pub(super) fn make(source: &Path, options: Options) -> Result<Fixture, super::Error> {
    ffmpeg::begin();
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().to_owned();
    let order = Order { source: PathBuf::from(source), output, options: options.clone() };
    let mut told = Vec::new();
    let mut tell = |telling| {
        told.push(telling);
        Ok(())
    };
    let made = ffmpeg::transcode(&order, File::open(source).unwrap(), &mut tell)?;
    let mut files = BTreeMap::new();
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        files.insert(name, fs::read(entry.path()).unwrap());
    }
    Ok(Fixture { options, files, told, made })
}
