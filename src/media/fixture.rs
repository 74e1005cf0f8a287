//! For tests: the clip, made into renditions once.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::{Options, Order, Piece, Plan, Survey, Told, ffmpeg, join};
use crate::domain::id::SegmentNumber;

/// The clip of the demo: 132 frames at 25 a second, 1280 by 720, with sound.
pub(super) const CLIP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/media/bigbuckbunny.mp4");

/// What was told of all pieces, and their files.
#[derive(Clone)]
pub(super) struct Fixture {
    pub(super) options: Options,
    pub(super) survey: Survey,
    pub(super) plan: Plan,
    pub(super) files: BTreeMap<String, Vec<u8>>,
    pub(super) told: Vec<Told>,
}

impl Fixture {
    /// Writes its files.
    pub(super) fn write(&self, directory: &Path) {
        for (name, bytes) in &self.files {
            fs::write(directory.join(name), bytes).unwrap();
        }
    }

    /// The order of one rendition, and what was told of it.
    pub(super) fn of(&self, output: &Path, name: &str) -> (Order, Vec<Told>) {
        let to = self.plan.timeline.segments();
        let piece = match name {
            "audio" => Piece::Sound,
            name => Piece::Pictures { renditions: vec![name.parse().unwrap()], from: 0, to },
        };
        let order = order(&PathBuf::from(CLIP), output, &self.options, &self.plan, piece);
        let ours = |told: &&Told| match told {
            Told::Init { rendition, .. } | Told::Segment { rendition, .. } => {
                rendition.as_str() == name
            }
            _ => false,
        };
        (order, self.told.iter().filter(ours).cloned().collect())
    }

    /// A part as it is served.
    pub(super) fn served(&self, rendition: &str, number: Option<u32>) -> Vec<u8> {
        let part = |name: &str| {
            let file =
                number.map_or(format!("{name}-init.mp4"), |number| format!("{name}-{number}.m4s"));
            self.files.get(&file).map(Vec::as_slice)
        };
        let picture = (rendition != "audio").then(|| part(rendition).unwrap());
        join::join(picture, part("audio"), number.map(SegmentNumber)).unwrap().to_vec()
    }

    /// A rendition as one file, joined as it is served.
    pub(super) fn whole(&self, rendition: &str) -> Vec<u8> {
        let numbers = (0..self.plan.timeline.segments()).map(Some);
        let parts = std::iter::once(None).chain(numbers);
        parts.flat_map(|number| self.served(rendition, number)).collect()
    }
}

fn order(source: &Path, output: &Path, options: &Options, plan: &Plan, piece: Piece) -> Order {
    let (source, output) = (source.to_owned(), output.to_owned());
    Order { source, output, options: options.clone(), plan: plan.clone(), piece }
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

/// Makes all renditions of a file in this process.
pub(super) fn make(source: &Path, options: Options) -> Result<Fixture, super::Error> {
    make_in_chunks(source, options, u64::MAX)
}

/// The same with pictures in chunks of so many seconds.
pub(super) fn make_in_chunks(
    source: &Path,
    options: Options,
    chunk_seconds: u64,
) -> Result<Fixture, super::Error> {
    ffmpeg::begin();
    let survey = ffmpeg::survey(File::open(source).unwrap(), &options, &mut || Ok(()))?;
    let plan = Plan::of(&survey, &options)?;
    let mut fixture = Fixture { options, survey, plan, files: BTreeMap::new(), told: Vec::new() };
    for piece in fixture.plan.pieces(chunk_seconds, false) {
        if piece != Piece::Extras {
            work(&mut fixture, source, piece)?;
        }
    }
    Ok(fixture)
}

/// Makes one piece more.
pub(super) fn work(fixture: &mut Fixture, source: &Path, piece: Piece) -> Result<(), super::Error> {
    let directory = tempfile::tempdir().unwrap();
    let order = order(source, directory.path(), &fixture.options, &fixture.plan, piece);
    let mut tell = |telling| {
        fixture.told.push(telling);
        Ok(())
    };
    ffmpeg::work(&order, File::open(source).unwrap(), &mut tell)?;
    for entry in fs::read_dir(directory.path()).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let bytes = fs::read(entry.path()).unwrap();
        if let Some(before) = fixture.files.insert(name.clone(), bytes.clone()) {
            assert_eq!(before, bytes, "{name} is the same from each piece");
        }
    }
    Ok(())
}
