//! Decoded pictures to encoded packets: one filter graph, split into the rungs, and an x264 encoder for each.

use ffmpeg_next::util::color::{Primaries, Range as Levels, Space, TransferCharacteristic};
use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::util::picture;
use ffmpeg_next::{
    Dictionary, Error as FfmpegError, Packet, Rational, codec, encoder, filter, format, frame,
};

use super::source::Picture;
use super::{failed, raw, threads};
use crate::media::grid::{Rate, rate_max};
use crate::media::{Error, Options, Rung};

/// Which frames of the film are wanted, and where encoding begins anew.
#[derive(Debug, Clone, Copy)]
pub(super) struct Range<'a> {
    /// The film's rate.
    pub(super) rate: Rate,
    /// All boundaries of the film.
    pub(super) cuts: &'a [u64],
    /// The first frame that is wanted.
    pub(super) from: u64,
    /// The first frame that is not.
    pub(super) to: u64,
    /// Whether decoding began behind the film's first frame.
    pub(super) sought: bool,
}

/// The stage behind the video decoder; made with the first picture, since only that tells the true format.
pub(super) struct Pictures<'a> {
    graph: filter::Graph,
    rungs: Vec<Encoder>,
    range: Range<'a>,
}

struct Encoder {
    sink: String,
    encoder: encoder::video::Encoder,
    frames: u64,
}

/// The colour of a picture as its source tags it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Colour {
    space: Space,
    range: Levels,
    primaries: Primaries,
    transfer: TransferCharacteristic,
}

impl<'a> Pictures<'a> {
    /// Builds the graph for a source's first picture and opens the encoders.
    pub(super) fn begin(
        picture: &Picture,
        rungs: &[Rung],
        range: Range<'a>,
        first: &frame::Video,
        options: &Options,
    ) -> Result<Self, Error> {
        let (chain, colour) = chain(picture, rungs, range, first);
        let base = picture.track.time_base;
        let graph = build(base, rungs.len(), first, &chain).map_err(failed("filter graph"))?;
        let gaps = range.cuts.iter().zip(range.cuts.iter().skip(1));
        let gop = gaps.map(|(from, to)| to.saturating_sub(*from)).max().unwrap_or(1);
        let open = |(number, rung): (usize, &Rung)| -> Result<Encoder, Error> {
            let encoder = open(rung, range.rate, gop, colour, options)?;
            Ok(Encoder { sink: format!("v{number}"), encoder, frames: 0 })
        };
        let rungs = rungs.iter().enumerate().map(open).collect::<Result<_, _>>()?;
        Ok(Self { graph, rungs, range })
    }

    /// The encoders' parameters, highest rung first.
    pub(super) fn contexts(&self) -> impl Iterator<Item = &codec::Context> {
        self.rungs.iter().map(|rung| rung.encoder.as_ref())
    }

    /// How many frames each rung was given.
    pub(super) fn frames(&self) -> u64 {
        self.rungs.iter().map(|rung| rung.frames).min().unwrap_or(0)
    }

    /// Whether all that is wanted was encoded.
    pub(super) fn is_full(&self) -> bool {
        self.frames() >= self.range.to.saturating_sub(self.range.from)
    }

    /// Takes a picture with its timestamp set, and hands on what the encoders give, with the rung's number. The timestamps of packets count
    /// frames of the film.
    pub(super) fn push(
        &mut self,
        picture: &frame::Video,
        packets: &mut dyn FnMut(usize, Packet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.source()?.source().add(picture).map_err(failed("filter graph"))?;
        self.pump(packets)
    }

    /// Ends the source, repeats its last picture as long as more is wanted, and hands on the rest. `end` is beyond what is wanted.
    pub(super) fn finish(
        &mut self,
        end: i64,
        packets: &mut dyn FnMut(usize, Packet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if !self.is_full() {
            self.source()?.source().close(end).map_err(failed("filter graph"))?;
            self.pump(packets)?;
        }
        if !self.is_full() {
            return Err(Error::Worker("the filters left out a frame".to_owned()));
        }
        for (number, rung) in self.rungs.iter_mut().enumerate() {
            rung.encoder.send_eof().map_err(failed("video encoder"))?;
            rung.drain(number, self.range, packets)?;
        }
        Ok(())
    }

    fn source(&mut self) -> Result<filter::Context, Error> {
        self.graph.get("in").ok_or_else(|| Error::Worker("filter graph without input".to_owned()))
    }

    /// Takes one picture from each rung in turn: emptying one before the next would pile up the others' pictures in memory where a
    /// long gap is filled.
    fn pump(
        &mut self,
        packets: &mut dyn FnMut(usize, Packet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        loop {
            let mut idle = true;
            for (number, rung) in self.rungs.iter_mut().enumerate() {
                let Some(mut sink) = self.graph.get(&rung.sink) else { continue };
                let mut picture = frame::Video::empty();
                match sink.sink().frame(&mut picture) {
                    Ok(()) => {}
                    Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => continue,
                    Err(error) => return Err(failed("filter graph")(error)),
                }
                idle = false;
                // On the grid of the rate a timestamp is the frame's number.
                let at = picture.pts().and_then(|at| u64::try_from(at).ok()).unwrap_or(0);
                if at >= self.range.from && at < self.range.to {
                    rung.encode(&mut picture, self.range)?;
                    rung.drain(number, self.range, packets)?;
                }
            }
            if idle || self.is_full() {
                return Ok(());
            }
        }
    }
}

impl Encoder {
    fn encode(&mut self, picture: &mut frame::Video, range: Range<'_>) -> Result<(), Error> {
        // The picture still has the type that its decoder gave it, which x264 would obey.
        let at = range.from.saturating_add(self.frames);
        let key = range.cuts.binary_search(&at).is_ok();
        picture.set_kind(if key { picture::Type::I } else { picture::Type::None });
        picture.set_pts(i64::try_from(self.frames).ok());
        self.frames = self.frames.saturating_add(1);
        self.encoder.send_frame(picture).map_err(failed("video encoder"))
    }

    fn drain(
        &mut self,
        number: usize,
        range: Range<'_>,
        packets: &mut dyn FnMut(usize, Packet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let moved = |at: Option<i64>| at.map(|at| at.saturating_add_unsigned(range.from));
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {
                    packet.set_pts(moved(packet.pts()));
                    packet.set_dts(moved(packet.dts()));
                    packets(number, packet)?;
                }
                Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => return Ok(()),
                Err(error) => return Err(failed("video encoder")(error)),
            }
        }
    }
}

fn open(
    rung: &Rung,
    rate: Rate,
    gop: u64,
    colour: Colour,
    options: &Options,
) -> Result<encoder::video::Encoder, Error> {
    let x264 = encoder::find_by_name("libx264")
        .ok_or_else(|| Error::Worker("FFmpeg was built without libx264".to_owned()))?;
    let mut video =
        codec::Context::new_with_codec(x264).encoder().video().map_err(failed("video encoder"))?;
    let (num, den) = (signed(rate.num), signed(rate.den));
    video.set_width(rung.width);
    video.set_height(rung.height);
    video.set_format(format::Pixel::YUV420P);
    video.set_time_base((den, num));
    video.set_frame_rate(Some((num, den)));
    video.set_aspect_ratio((1, 1));
    video.set_colorspace(colour.space);
    video.set_color_range(colour.range);
    video.set_color_primaries(colour.primaries);
    video.set_color_transfer_characteristic(colour.transfer);
    let bits = rate_max(rung.width, rung.height, rate);
    let mut settings = Dictionary::new();
    settings.set("preset", &options.preset);
    settings.set("crf", &options.crf.to_string());
    settings.set("maxrate", &bits.to_string());
    settings.set("bufsize", &bits.saturating_mul(2).to_string());
    settings.set("g", &gop.to_string());
    settings.set("keyint_min", &gop.to_string());
    settings.set("sc_threshold", "0");
    settings.set("forced-idr", "1");
    settings.set("flags", "+cgop+global_header");
    settings.set("threads", &threads().to_string());
    video.open_with(settings).map_err(failed("video encoder"))
}

/// The graph's text behind the lock on the size, and the colour of what comes out of it.
fn chain(
    picture: &Picture,
    rungs: &[Rung],
    range: Range<'_>,
    first: &frame::Video,
) -> (String, Colour) {
    let mut filters: Vec<String> = Vec::new();
    // A source that changes its size within the film is scaled to what it began with: the filters behind cannot follow.
    filters.push(format!("scale={}:{}", first.width(), first.height()));
    if picture.interlaced {
        filters.push("yadif=deint=interlaced".to_owned());
    }
    filters.extend(picture.upright.iter().map(|filter| (*filter).to_owned()));
    let Rate { num, den } = range.rate;
    // The grid begins at the timeline's zero in either case; a start of its own would make frames from there to the picture that was sought.
    let start = if range.sought { "" } else { ":start_time=0" };
    filters.push(format!("fps=fps={num}/{den}{start}"));
    if range.from > 0 {
        // What only leads up to the first frame need not be scaled.
        filters.push(format!("trim=start_pts={}", range.from));
    }
    let top = rungs.first().map(|rung| (rung.width, rung.height));
    let (convert, colour) = to_sdr(first, top, &mut filters);
    let pads: String = (0..rungs.len()).map(|n| format!("[s{n}]")).collect();
    let mut text = format!("[in]{},split={}{pads}", filters.join(","), rungs.len());
    for (n, rung) in rungs.iter().enumerate() {
        let (width, height) = (rung.width, rung.height);
        let scale = format!("scale={width}:{height}:flags=bicubic{convert}");
        text.push_str(&format!(";[s{n}]{scale},setsar=1,format=yuv420p[v{n}]"));
    }
    (text, colour)
}

/// Adds the filters that map a picture's colours to standard range; also what scalers behind them convert, and the colour that comes out.
pub(super) fn to_sdr(
    first: &frame::Video,
    top: Option<(u32, u32)>,
    filters: &mut Vec<String>,
) -> (String, Colour) {
    let mut colour = Colour {
        space: first.color_space(),
        range: first.color_range(),
        primaries: first.color_primaries(),
        transfer: first.color_transfer_characteristic(),
    };
    let hdr = matches!(
        colour.transfer,
        TransferCharacteristic::SMPTE2084 | TransferCharacteristic::ARIB_STD_B67
    );
    let mut convert = String::new();
    if hdr && filter::find("zscale").is_some() {
        if let Some((width, height)) = top {
            // Scaled first: the mapping works in floating point on every pixel.
            filters.push(format!("scale={width}:{height}:flags=bicubic"));
        }
        filters.push("zscale=t=linear:npl=100".to_owned());
        filters.push("format=gbrpf32le".to_owned());
        filters.push("zscale=p=bt709".to_owned());
        filters.push("tonemap=tonemap=hable:desat=0".to_owned());
        filters.push("zscale=t=bt709:m=bt709:r=tv".to_owned());
        filters.push("format=yuv420p".to_owned());
        colour = Colour { range: Levels::MPEG, ..Colour::BT709 };
    } else if is_rgb(first) {
        convert = ":out_color_matrix=bt709:out_range=tv".to_owned();
        colour = Colour { range: Levels::MPEG, ..Colour::BT709 };
    } else if is_full(first) {
        convert = ":in_range=pc:out_range=tv".to_owned();
        colour.range = Levels::MPEG;
    }
    (convert, colour)
}

impl Colour {
    const BT709: Self = Self {
        space: Space::BT709,
        range: Levels::MPEG,
        primaries: Primaries::BT709,
        transfer: TransferCharacteristic::BT709,
    };
}

fn is_rgb(picture: &frame::Video) -> bool {
    let name = name(picture);
    picture.color_space() == Space::RGB
        || ["rgb", "bgr", "gbr", "pal8"].iter().any(|part| name.contains(part))
}

fn is_full(picture: &frame::Video) -> bool {
    picture.color_range() == Levels::JPEG || name(picture).starts_with("yuvj")
}

fn name(picture: &frame::Video) -> &'static str {
    picture.format().descriptor().map_or("yuv420p", format::pixel::Descriptor::name)
}

/// A graph from pictures like `first` to sinks that are named `v0` and so on.
pub(super) fn build(
    base: Rational,
    sinks: usize,
    first: &frame::Video,
    chain: &str,
) -> Result<filter::Graph, FfmpegError> {
    let find = |name| filter::find(name).ok_or(FfmpegError::FilterNotFound);
    let mut graph = filter::Graph::new();
    raw::limit_threads(&mut graph, threads());
    let source = format!(
        "video_size={}x{}:pix_fmt={}:time_base={}/{}:pixel_aspect=1/1",
        first.width(),
        first.height(),
        name(first),
        base.numerator(),
        base.denominator()
    );
    graph.add(&find("buffer")?, "in", &source)?;
    for n in 0..sinks {
        graph.add(&find("buffersink")?, &format!("v{n}"), "")?;
    }
    let mut parser = graph.output("in", 0)?;
    for n in 0..sinks {
        parser = parser.input(&format!("v{n}"), 0)?;
    }
    parser.parse(chain)?;
    graph.validate()?;
    Ok(graph)
}

fn signed(value: u32) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}
