//! What viewers expect around a film: stills, a waveform, chapters, subtitles, pictures for scrubbing. Made by the sandboxed child; what it
//! wrote is looked at here before anybody uses it.
//!
//! None of it gives the film away: stills have [`LINES_MAX`] lines at most and lie [`APART`] apart or further, in files of their own.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::boxes::{self, Init, Kind};
use super::worker::plain_file;
use super::{Error, Options};
use crate::domain::subtitle::{CUES_MAX, Cue, Language, name};
use crate::domain::video::Ticks;

/// The most lines of a still, and of a picture of the I-frame rendition.
pub const LINES_MAX: u32 = 240;
/// Stills of one kind lie at least this far apart.
pub const APART: Ticks = Ticks::from_millis(5_000);
/// Stills of a film at most: a longer one has sparser ones.
pub(crate) const STILLS_MAX: usize = 1_000;
/// The most buckets of a waveform.
pub const BUCKETS_MAX: usize = 1_800;
/// The most chapters.
pub(crate) const CHAPTERS_MAX: usize = 500;
/// The most tracks of subtitles.
pub(crate) const SUBTITLES_MAX: usize = 32;
/// Characters of a chapter's title, and of a track's name.
pub(crate) const NAME_CHARS_MAX: usize = 200;
/// The poster's file.
pub(crate) const POSTER: &str = "poster.jpg";
/// The I-frame rendition's file.
pub(crate) const IFRAMES: &str = "iframes.mp4";
/// What is told in a file, since it may be more than a line.
pub(crate) const TOLD: &str = "extras.json";
/// The largest still or sheet.
const JPEG_BYTES_MAX: u64 = 4 << 20;
/// The largest I-frame rendition.
const IFRAMES_BYTES_MAX: u64 = 128 << 20;
/// The largest telling: a few tracks of many cues.
pub(crate) const TOLD_BYTES_MAX: u64 = 32 << 20;
/// Tiles beside each other, and below each other.
const GRID_MAX: u32 = 10;

/// A sheet's file.
pub(crate) fn sheet_file(number: usize) -> String {
    format!("sheet-{number}.jpg")
}

/// A source and what is wanted of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExtrasOrder {
    /// The source file.
    pub source: PathBuf,
    /// An empty directory that takes the files.
    pub output: PathBuf,
    /// What the worker may use.
    pub options: Options,
    /// How long the film is that was made of it.
    pub duration: Ticks,
    /// Whether that film has pictures.
    pub pictures: bool,
    /// Whether it has sound.
    pub sound: bool,
}

/// What came out. Files lie in the order's output directory.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Extras {
    /// One picture for the whole.
    pub poster: Option<Still>,
    /// Pictures along the film.
    pub storyboard: Option<Storyboard>,
    /// How loud it is along the way; of titles without pictures.
    pub waveform: Option<Waveform>,
    /// Chapters by their start.
    pub chapters: Vec<Chapter>,
    /// Subtitles that the source holds as text.
    pub subtitles: Vec<Subtitles>,
    /// Pictures for scrubbing, as a rendition.
    pub iframes: Option<IFrames>,
}

/// A JPEG file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Still {
    /// The file's name in the output directory.
    pub file: String,
    /// Its length.
    pub bytes: u64,
    /// Its width in pixels.
    pub width: u32,
    /// Its height in pixels.
    pub height: u32,
}

/// Stills along the film, as tiles of sheets: from left to right, from top to bottom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Storyboard {
    /// The sheets; all but the last are full.
    pub sheets: Vec<Still>,
    /// Tiles beside each other.
    pub columns: u32,
    /// Tiles below each other.
    pub rows: u32,
    /// A tile's width in pixels.
    pub tile_width: u32,
    /// A tile's height in pixels.
    pub tile_height: u32,
    /// Tiles lie at least this far apart.
    pub interval: Ticks,
    /// When each tile is; the first stands for the beginning, too.
    pub tiles: Vec<Ticks>,
}

/// The peaks of the sound, in buckets of equal length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waveform {
    /// Samples of each bucket, at 48,000 a second.
    pub samples_per_bucket: u32,
    /// The least and the greatest sample of each, scaled to a byte.
    pub peaks: Vec<(i8, i8)>,
}

/// A named part of the film.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chapter {
    /// When it begins.
    pub start: Ticks,
    /// When it ends.
    pub end: Ticks,
    /// Its name; may be empty.
    pub title: String,
}

/// A track of subtitles.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subtitles {
    /// The language, as far as the source tells.
    pub language: Option<Language>,
    /// Its name; may be empty.
    pub name: String,
    /// Whether it translates only what is foreign in the film.
    pub forced: bool,
    /// Whether it is shown to who chose nothing.
    pub default: bool,
    /// Its cues by their start.
    pub cues: Vec<Cue>,
}

/// A rendition of key frames alone: one file, an init segment and then one fragment for each picture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IFrames {
    /// The file's length.
    pub bytes: u64,
    /// The init segment's length; it is the file's beginning.
    pub init: u64,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// The RFC 6381 codec string; the parent reads it from the init segment.
    #[serde(default)]
    pub codecs: String,
    /// The pictures in order.
    pub frames: Vec<IFrame>,
}

/// A picture of an I-frame rendition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IFrame {
    /// Where its fragment begins in the file.
    pub offset: u64,
    /// How long that is.
    pub length: u64,
    /// When it is shown.
    pub start: Ticks,
}

/// Checks all that a worker says it made, and gives it with every text cleaned.
///
/// # Errors
/// [`Error::Worker`] for what is not as it was told, [`Error::Io`] where a file cannot be read.
pub(crate) fn checked(output: &Path, order: &ExtrasOrder, told: Extras) -> Result<Extras, Error> {
    let poster = told.poster.map(|still| {
        let right = still.file == POSTER && still.height <= LINES_MAX;
        if right { jpeg(output, still) } else { Err(lie("a poster that is none")) }
    });
    let storyboard = told.storyboard.filter(|_| order.pictures);
    let iframes = told.iframes.filter(|_| order.pictures);
    let waveform = told.waveform.filter(|of| {
        order.sound && of.samples_per_bucket > 0 && (1..=BUCKETS_MAX).contains(&of.peaks.len())
    });
    Ok(Extras {
        poster: poster.transpose()?,
        storyboard: storyboard.map(|board| storyboard_of(output, order, board)).transpose()?,
        waveform,
        chapters: chapters(told.chapters, order.duration),
        subtitles: subtitles(told.subtitles, order.duration),
        iframes: iframes.map(|of| iframes_of(output, order, of)).transpose()?,
    })
}

fn storyboard_of(
    output: &Path,
    order: &ExtrasOrder,
    board: Storyboard,
) -> Result<Storyboard, Error> {
    let grid = 1..=GRID_MAX;
    let lines = 2..=LINES_MAX;
    let tiles_each = board.columns.saturating_mul(board.rows) as usize;
    let sheets = board.tiles.len().div_ceil(tiles_each.max(1));
    let sized = grid.contains(&board.columns)
        && grid.contains(&board.rows)
        && lines.contains(&board.tile_height)
        && (2..=LINES_MAX * 8).contains(&board.tile_width);
    if !sized || board.sheets.len() != sheets || board.interval < APART {
        return Err(lie("a storyboard that is none"));
    }
    sparse(&board.tiles, order.duration)?;
    let width = board.columns.saturating_mul(board.tile_width);
    let height = board.rows.saturating_mul(board.tile_height);
    let check = |(number, sheet): (usize, Still)| {
        let right =
            sheet.file == sheet_file(number) && sheet.width == width && sheet.height <= height;
        if right { jpeg(output, sheet) } else { Err(lie("a sheet that is none")) }
    };
    let sheets = board.sheets.into_iter().enumerate().map(check).collect::<Result<_, _>>()?;
    Ok(Storyboard { sheets, ..board })
}

/// Times that are far enough from each other, and within the film.
fn sparse(times: &[Ticks], duration: Ticks) -> Result<(), Error> {
    let far = times.iter().zip(times.iter().skip(1)).all(|(a, b)| b.since(*a) >= APART);
    let within = times.last().is_some_and(|last| *last < duration);
    if far && within && times.len() <= STILLS_MAX {
        Ok(())
    } else {
        Err(lie("stills that are too many or too near to each other"))
    }
}

fn iframes_of(output: &Path, order: &ExtrasOrder, of: IFrames) -> Result<IFrames, Error> {
    let starts: Vec<Ticks> = of.frames.iter().map(|frame| frame.start).collect();
    sparse(&starts, order.duration)?;
    if of.height > LINES_MAX
        || of.bytes > IFRAMES_BYTES_MAX
        || starts.first() != Some(&Ticks::new(0))
    {
        return Err(lie("an I-frame rendition beyond its limits"));
    }
    let data = file(output, IFRAMES, of.bytes)?;
    let part = |from: u64, length: u64| {
        let from = usize::try_from(from).ok()?;
        data.get(from..from.checked_add(usize::try_from(length).ok()?)?)
    };
    let malformed = |error: boxes::BoxError| Error::Worker(error.to_string());
    let init = part(0, of.init).ok_or_else(|| lie("an init segment that is not there"))?;
    let init = Init::parse(init).map_err(malformed)?;
    let [track] = init.tracks.as_slice() else { return Err(lie("more than one track")) };
    if track.kind != Kind::Video {
        return Err(lie("pictures that are none"));
    }
    let mut at = of.init;
    let ends = starts.iter().copied().skip(1).chain([order.duration]);
    for (frame, end) in of.frames.iter().zip(ends) {
        let fragment = part(frame.offset, frame.length).filter(|_| frame.offset == at);
        let fragment = fragment.ok_or_else(|| lie("a picture that is not where it was told"))?;
        let runs = boxes::segment(fragment, &init).map_err(malformed)?;
        let scale = |ticks: Ticks| {
            u128::from(ticks.get()) * u128::from(track.timescale)
                / u128::from(Ticks::from_millis(1_000).get())
        };
        let right = |run: &boxes::Run| {
            run.samples == 1
                && run.begins_with_key
                && u128::from(run.start) == scale(frame.start)
                && u128::from(run.start.saturating_add(run.duration)) <= scale(end)
        };
        if !matches!(runs.as_slice(), [run] if right(run)) {
            return Err(lie("a fragment that is not one key frame at its time"));
        }
        at = at.saturating_add(frame.length);
    }
    if at != of.bytes {
        return Err(lie("an I-frame rendition of another length"));
    }
    Ok(IFrames { codecs: init.codecs(), ..of })
}

fn chapters(told: Vec<Chapter>, duration: Ticks) -> Vec<Chapter> {
    let mut chapters: Vec<Chapter> = told
        .into_iter()
        .filter(|chapter| chapter.start < chapter.end.min(duration))
        .take(CHAPTERS_MAX)
        .map(|chapter| Chapter {
            title: name(&chapter.title, NAME_CHARS_MAX),
            end: chapter.end.min(duration),
            start: chapter.start,
        })
        .collect();
    chapters.sort_by_key(|chapter| chapter.start);
    chapters
}

/// Cues are made anew, so that what a worker says of them holds for none; what lies behind the film's end is left out.
fn subtitles(told: Vec<Subtitles>, duration: Ticks) -> Vec<Subtitles> {
    let clean = |track: Subtitles| {
        let mut cues: Vec<Cue> = track
            .cues
            .iter()
            .filter(|cue| cue.start() < duration)
            .filter_map(|cue| Cue::new(cue.start(), cue.end().min(duration), cue.text()))
            .take(CUES_MAX)
            .collect();
        cues.sort_by_key(|cue| (cue.start(), cue.end()));
        let name = name(&track.name, NAME_CHARS_MAX);
        (!cues.is_empty()).then_some(Subtitles { name, cues, ..track })
    };
    told.into_iter().take(SUBTITLES_MAX).filter_map(clean).collect()
}

/// A JPEG file of the size that was told: its markers are followed up to the frame header (ITU-T T.81, annex B).
fn jpeg(output: &Path, still: Still) -> Result<Still, Error> {
    if still.bytes > JPEG_BYTES_MAX {
        return Err(lie("a picture beyond its limit"));
    }
    let data = file(output, &still.file, still.bytes)?;
    if jpeg_size(&data) != Some((still.width, still.height)) {
        return Err(lie("a picture that is no JPEG of its size"));
    }
    Ok(still)
}

/// Width and height of a baseline or progressive JPEG; `None` where the bytes are none.
fn jpeg_size(data: &[u8]) -> Option<(u32, u32)> {
    let mut rest = data.strip_prefix(&[0xff, 0xd8])?;
    rest.ends_with(&[0xff, 0xd9]).then_some(())?;
    loop {
        let &[0xff, marker, high, low, ..] = rest else { return None };
        let length = usize::from(u16::from_be_bytes([high, low]));
        let body = rest.get(4..length.checked_add(2)?)?;
        match (marker, body) {
            (0xc0..=0xc2, &[8, h1, h0, w1, w0, ..]) => {
                let (width, height) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
                return Some((u32::from(width), u32::from(height)));
            }
            // Application data, comments, tables: what may stand before the frame header.
            (0xc4 | 0xdb | 0xdd | 0xe0..=0xef | 0xfe, _) => {
                rest = rest.get(length.checked_add(2)?..)?
            }
            _ => return None,
        }
    }
}

fn file(output: &Path, name: &str, bytes: u64) -> Result<Vec<u8>, Error> {
    let read = plain_file(&output.join(name), bytes);
    let read = read.map_err(|source| Error::Io { what: "reading an extra", source })?;
    read.ok_or_else(|| lie("a file that is not as it was told"))
}

impl IFrames {
    /// The file's name in the output directory.
    pub const fn file(&self) -> &'static str {
        IFRAMES
    }
}

fn lie(what: &str) -> Error {
    Error::Worker(format!("it told of {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jpeg_is_known_by_its_markers_and_tells_its_size() {
        let mut data =
            vec![0xff, 0xd8, 0xff, 0xe0, 0, 4, 1, 2, 0xff, 0xc0, 0, 8, 8, 0, 240, 1, 170, 3];
        data.extend([0xff, 0xd9]);
        assert_eq!(jpeg_size(&data), Some((426, 240)));
        for cut in 0..data.len() {
            assert_eq!(jpeg_size(&data[..cut]), None, "{cut}");
        }
        assert_eq!(jpeg_size(b"\x89PNG\r\n"), None);
        assert_eq!(jpeg_size(b"<svg xmlns='http://www.w3.org/2000/svg'/>"), None);
        assert_eq!(
            jpeg_size(&[0xff, 0xd8, 0xff, 0xe0, 0, 0, 0xff, 0xd9]),
            None,
            "a length of none"
        );
    }

    #[test]
    fn stills_that_are_nearer_than_five_seconds_are_refused() {
        let seconds = |times: &[u64]| {
            let times: Vec<_> = times.iter().map(|s| Ticks::from_millis(s * 1_000)).collect();
            sparse(&times, Ticks::from_millis(60_000)).is_ok()
        };
        assert!(seconds(&[0, 5, 10, 59]));
        assert!(!seconds(&[0, 4]) && !seconds(&[0, 60]) && !seconds(&[]) && !seconds(&[10, 0]));
    }

    #[test]
    fn titles_of_chapters_hold_one_line_and_cues_end_with_the_film() {
        let chapter = |start, end, title: &str| Chapter {
            start: Ticks::new(start),
            end: Ticks::new(end),
            title: title.to_owned(),
        };
        let told = vec![
            chapter(50, 400, "b\n\n00:00.000 --> 01:00.000\n\"x\""),
            chapter(0, 50, "a"),
            chapter(70, 60, "reversed"),
            chapter(300, 400, "behind the end"),
        ];
        let expected = [chapter(0, 50, "a"), chapter(50, 200, "b00:00.000 --> 01:00.000x")];
        assert_eq!(chapters(told, Ticks::new(200)), expected);
        let cue = |start, end| Cue::new(Ticks::new(start), Ticks::new(end), "x");
        let track = Subtitles {
            language: None,
            name: "n\na".to_owned(),
            forced: false,
            default: false,
            cues: [cue(100, 300), cue(0, 10), cue(250, 260)].into_iter().flatten().collect(),
        };
        let clean = subtitles(vec![track; 100], Ticks::new(200));
        assert_eq!((clean.len(), clean[0].name.as_str()), (SUBTITLES_MAX, "na"));
        assert_eq!(clean[0].cues, [cue(0, 10).unwrap(), cue(100, 200).unwrap()]);
    }
}
