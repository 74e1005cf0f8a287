//! Key frames to stills: the poster, the sheets of the storyboard, and the pictures of the I-frame rendition, all from one decode.

use std::path::PathBuf;

use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::{Error as FfmpegError, Rational, filter, format, frame};

use super::iframes::Maker;
use super::{Stage, failed, jpeg};
use crate::domain::video::Ticks;
use crate::media::extras::{
    APART, ExtrasOrder, IFrames, LINES_MAX, POSTER, STILLS_MAX, Still, Storyboard, sheet_file,
};
use crate::media::ffmpeg::source::Picture;
use crate::media::ffmpeg::video::{build, to_sdr};
use crate::media::{Error, Options};

/// Tiles beside each other and below each other.
const COLUMNS: u32 = 5;
const ROWS: u32 = 5;
/// A tile's lines.
const TILE_LINES: u32 = 90;
/// The poster is one of so many first stills.
const CANDIDATES: usize = 12;
/// A wider picture is taken for this wide.
const ASPECT_MAX: u32 = 4;
/// The filters' sinks: for the I-frame rendition, for tiles, for the poster.
const SINKS: usize = 3;

/// What becomes of the stills.
#[derive(Default)]
pub(super) struct Made {
    pub(super) poster: Option<Still>,
    pub(super) board: Option<Storyboard>,
    pub(super) iframes: Option<IFrames>,
}

/// The stage behind the decoder of the pictures.
pub(super) struct Stills {
    picture: Picture,
    output: PathBuf,
    options: Options,
    duration: Ticks,
    interval: Ticks,
    size: (u32, u32),
    tile: (u32, u32),
    graph: Option<filter::Graph>,
    /// When the last packet was that was fed, and when the last still was that came out.
    fed: Option<i64>,
    last: Option<i64>,
    times: Vec<Ticks>,
    sheet: Option<(frame::Video, u32)>,
    sheets: Vec<Still>,
    best: Option<(u64, frame::Video)>,
    maker: Option<Maker>,
}

impl Stills {
    pub(super) fn begin(picture: Picture, order: &ExtrasOrder) -> Self {
        let most = u64::try_from(STILLS_MAX).unwrap_or(1).max(1);
        let interval = Ticks::new(order.duration.get().div_ceil(most)).max(APART);
        Self {
            size: within(picture.width, picture.height, LINES_MAX),
            tile: within(picture.width, picture.height, TILE_LINES),
            output: order.output.clone(),
            options: order.options.clone(),
            duration: order.duration,
            interval,
            graph: None,
            fed: None,
            last: None,
            times: Vec::new(),
            sheet: None,
            sheets: Vec::new(),
            best: None,
            maker: None,
            picture,
        }
    }

    /// Whether a key frame at this time becomes a still.
    pub(super) fn wants(&mut self, at: i64) -> bool {
        let wanted = self.is_due(self.fed, at);
        if wanted {
            self.fed = Some(at.max(0));
        }
        wanted
    }

    fn is_due(&self, last: Option<i64>, at: i64) -> bool {
        let end = i64::try_from(self.duration.get()).unwrap_or(i64::MAX);
        let interval = i64::try_from(self.interval.get()).unwrap_or(i64::MAX);
        at.max(0) < end && last.is_none_or(|last| at >= last.saturating_add(interval))
    }

    /// The filters: upright and in standard range as the film is, then down to the sizes that are wanted.
    fn graph(&self, first: &frame::Video) -> Result<filter::Graph, Error> {
        let mut filters = vec![format!("scale={}:{}", first.width(), first.height())];
        if self.picture.interlaced {
            // Half the lines are more than a still has, and its neighbours in time are not at hand.
            filters.push("field=type=top".to_owned());
        }
        filters.extend(self.picture.upright.iter().map(|filter| (*filter).to_owned()));
        let ((width, height), (tile_width, tile_height)) = (self.size, self.tile);
        to_sdr(first, Some(self.size), &mut filters);
        let scale =
            |width, height, to| format!("scale={width}:{height}:flags=bicubic:{to},setsar=1");
        let film = "out_color_matrix=bt709:out_range=tv";
        let text = format!(
            "[in]{},split=3[a][b][c];[a]{},format=yuv420p[v0];[b]{},format=yuvj420p[v1];[c]{},format=yuvj420p[v2]",
            filters.join(","),
            scale(width, height, film),
            scale(tile_width, tile_height, JFIF),
            scale(width, height, JFIF),
        );
        build(self.picture.track.time_base, SINKS, first, &text).map_err(failed("filter graph"))
    }

    fn still(&mut self, mut taken: [frame::Video; SINKS], at: Ticks) -> Result<(), Error> {
        let [film, tile, poster] = &mut taken;
        let maker = match &mut self.maker {
            Some(maker) => maker,
            none => none.insert(Maker::begin(&self.output, self.size, &self.options)?),
        };
        maker.picture(film, at)?;
        self.times.push(at);
        let (canvas, tiles) = match &mut self.sheet {
            Some(sheet) => sheet,
            none => none.insert((canvas(self.tile, ROWS), 0)),
        };
        let place = (*tiles % COLUMNS, *tiles / COLUMNS);
        copy(tile, canvas, (place.0 * self.tile.0, place.1 * self.tile.1));
        *tiles += 1;
        if *tiles == COLUMNS * ROWS {
            self.end_sheet()?;
        }
        if self.times.len() <= CANDIDATES {
            let worth = variance(poster);
            if self.best.as_ref().is_none_or(|(best, _)| worth > *best) {
                self.best = Some((worth, poster.clone()));
            }
        }
        Ok(())
    }

    fn end_sheet(&mut self) -> Result<(), Error> {
        let Some((mut whole, tiles)) = self.sheet.take() else { return Ok(()) };
        let rows = tiles.div_ceil(COLUMNS);
        let mut used = if rows == ROWS {
            whole
        } else {
            let mut used = canvas(self.tile, rows);
            copy(&mut whole, &mut used, (0, 0));
            used
        };
        let file = sheet_file(self.sheets.len());
        self.sheets.push(jpeg::write(&self.output, &file, &mut used)?);
        Ok(())
    }

    /// Writes what is left.
    pub(super) fn finish(mut self) -> Result<Made, Error> {
        self.end_sheet()?;
        let Some(maker) = self.maker.take() else { return Ok(Made::default()) };
        let iframes = Some(maker.finish(self.duration)?);
        let poster = match self.best.take() {
            Some((_, mut picture)) => Some(jpeg::write(&self.output, POSTER, &mut picture)?),
            None => None,
        };
        let board = Some(Storyboard {
            sheets: self.sheets,
            columns: COLUMNS,
            rows: ROWS,
            tile_width: self.tile.0,
            tile_height: self.tile.1,
            interval: self.interval,
            tiles: self.times,
        });
        Ok(Made { poster, board, iframes })
    }
}

/// JPEG's colours (ITU-T T.871).
pub(super) const JFIF: &str = "out_color_matrix=bt601:out_range=pc";

impl Stage for Stills {
    type Frame = frame::Video;

    fn empty() -> frame::Video {
        frame::Video::empty()
    }

    fn take(&mut self, picture: &mut frame::Video, at: i64) -> Result<(), Error> {
        if !self.is_due(self.last, at) || self.times.len() >= STILLS_MAX {
            return Ok(());
        }
        // What comes first stands for the beginning.
        let time = if self.last.is_none() { 0 } else { u64::try_from(at).unwrap_or(0) };
        self.last = Some(at.max(0));
        let graph = match &mut self.graph {
            Some(graph) => graph,
            None => {
                let graph = self.graph(picture)?;
                self.graph.insert(graph)
            }
        };
        let none = || Error::Worker("filter graph without input".to_owned());
        graph.get("in").ok_or_else(none)?.source().add(picture).map_err(failed("filter graph"))?;
        let mut taken = [frame::Video::empty(), frame::Video::empty(), frame::Video::empty()];
        for (number, frame) in taken.iter_mut().enumerate() {
            let mut sink = graph.get(&format!("v{number}")).ok_or_else(none)?;
            match sink.sink().frame(frame) {
                Ok(()) => {}
                Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => return Ok(()),
                Err(error) => return Err(failed("filter graph")(error)),
            }
        }
        self.still(taken, Ticks::new(time))
    }
}

/// The size for so many lines at most: never larger than it is, even, and not wider than is sane.
pub(super) fn within(width: u32, height: u32, lines: u32) -> (u32, u32) {
    let even = |value: u64, most: u32| {
        let value = u32::try_from(value).unwrap_or(u32::MAX).clamp(2, most.max(2));
        value - value % 2
    };
    let (width, height) = (u64::from(width.max(1)), u64::from(height.max(1)));
    let tall = height.min(u64::from(lines));
    let wide = (width * tall + height / 2) / height;
    (even(wide, lines.saturating_mul(ASPECT_MAX)), even(tall, lines))
}

/// An empty sheet: black.
fn canvas((width, height): (u32, u32), rows: u32) -> frame::Video {
    let mut canvas = frame::Video::new(
        format::Pixel::YUVJ420P,
        width.saturating_mul(COLUMNS),
        height.saturating_mul(rows),
    );
    for (plane, shade) in [(0, 0), (1, 128), (2, 128)] {
        canvas.data_mut(plane).fill(shade);
    }
    canvas
}

/// Copies a picture into a larger one at a place, as far as it fits; all numbers are even.
fn copy(from: &mut frame::Video, to: &mut frame::Video, place: (u32, u32)) {
    for plane in 0..3 {
        let half = if plane == 0 { 1 } else { 2 };
        let size = |of: &frame::Video| (of.width() / half, of.height() / half);
        let ((width, height), (to_width, to_height)) = (size(from), size(to));
        let (left, top) = (place.0 / half, place.1 / half);
        let columns = width.min(to_width.saturating_sub(left)) as usize;
        let rows = height.min(to_height.saturating_sub(top));
        let (stride, to_stride) = (from.stride(plane), to.stride(plane));
        for row in 0..rows as usize {
            let begin = row * stride;
            let to_begin = (top as usize + row) * to_stride + left as usize;
            let source = from.data(plane).get(begin..begin + columns);
            let target = to.data_mut(plane).get_mut(to_begin..to_begin + columns);
            if let (Some(source), Some(target)) = (source, target) {
                target.copy_from_slice(source);
            }
        }
    }
}

/// How much a picture shows: the variance of its brightness, of every fourth pixel; black and fades have next to none.
fn variance(picture: &frame::Video) -> u64 {
    let (width, stride) = (picture.width() as usize, picture.stride(0).max(1));
    let rows = picture.data(0).chunks(stride).take(picture.height() as usize).step_by(2);
    let (mut count, mut sum, mut squares) = (0_u64, 0_u64, 0_u64);
    for pixel in rows.flat_map(|row| row.iter().take(width).step_by(2)) {
        let value = u64::from(*pixel);
        (count, sum, squares) = (count + 1, sum + value, squares + value * value);
    }
    let count = count.max(1);
    (squares / count).saturating_sub((sum / count) * (sum / count))
}

/// A graph from one kind of picture to a still for JPEG.
pub(super) fn to_jpeg(first: &frame::Video, size: (u32, u32)) -> Result<frame::Video, Error> {
    let text = format!(
        "[in]scale={}:{}:flags=bicubic:{JFIF},setsar=1,format=yuvj420p[v0]",
        size.0, size.1
    );
    let mut graph = build(Rational::new(1, 25), 1, first, &text).map_err(failed("filter graph"))?;
    let none = || Error::Worker("filter graph without input".to_owned());
    graph.get("in").ok_or_else(none)?.source().add(first).map_err(failed("filter graph"))?;
    let mut still = frame::Video::empty();
    let mut sink = graph.get("v0").ok_or_else(none)?;
    sink.sink().frame(&mut still).map_err(failed("filter graph"))?;
    Ok(still)
}
