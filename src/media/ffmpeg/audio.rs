//! Decoded sound to AAC packets without a gap: 48 kHz, two channels, the first sample at the timeline's zero.

use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::{
    ChannelLayout, Dictionary, Error as FfmpegError, Packet, Rational, Rescale, codec, encoder,
    filter, format, frame,
};

use super::loudness::Gain;
use super::source::Track;
use super::{failed, raw, threads};
use crate::media::Error;
use crate::media::grid::{AAC_SAMPLES, SAMPLE_RATE};

/// A gap in the sound beyond this many samples, ten seconds, is filled frame by frame; a resampler would hold all of it in memory.
const GAP_SAMPLES: u64 = 10 * SAMPLE_RATE as u64;
/// Enough for stereo in AAC-LC to be no issue.
const BIT_RATE: &str = "128000";

/// Opens the AAC encoder.
fn open(layout: ChannelLayout) -> Result<encoder::audio::Encoder, Error> {
    let aac = encoder::find_by_name("aac")
        .ok_or_else(|| Error::Worker("FFmpeg was built without its AAC encoder".to_owned()))?;
    let mut audio =
        codec::Context::new_with_codec(aac).encoder().audio().map_err(failed("audio encoder"))?;
    let rate = i32::try_from(SAMPLE_RATE).unwrap_or(48_000);
    audio.set_rate(rate);
    audio.set_channel_layout(layout);
    audio.set_format(format::Sample::F32(format::sample::Type::Planar));
    audio.set_time_base((1, rate));
    let mut settings = Dictionary::new();
    settings.set("b", BIT_RATE);
    settings.set("flags", "+global_header");
    audio.open_with(settings).map_err(failed("audio encoder"))
}

/// An AAC frame of silence in one or two channels.
pub(super) fn silent_packet(channels: i32) -> Result<Packet, Error> {
    let (layout, name) = if channels == 1 {
        (ChannelLayout::MONO, "mono")
    } else {
        (ChannelLayout::STEREO, "stereo")
    };
    let mut encoder = open(layout)?;
    let mut silence = silence(name).map_err(failed("audio filter"))?;
    let mut last = None;
    // The first packets carry the encoder's beginning.
    for number in 0..4_i64 {
        let mut frame = frame::Audio::empty();
        let mut sink = silence.get("out").ok_or_else(no_sink)?;
        sink.sink().frame(&mut frame).map_err(failed("audio filter"))?;
        frame.set_pts(Some(number.saturating_mul(i64::try_from(AAC_SAMPLES).unwrap_or(1_024))));
        encoder.send_frame(&frame).map_err(failed("audio encoder"))?;
        let mut packet = Packet::empty();
        while encoder.receive_packet(&mut packet).is_ok() {
            last = Some(packet.clone());
        }
    }
    last.ok_or_else(|| Error::Worker("the audio encoder gives nothing".to_owned()))
}

/// The stage behind the audio decoder.
pub(super) struct Sound {
    encoder: encoder::audio::Encoder,
    time_base: Rational,
    gain: Gain,
    /// How many samples the film has.
    until: u64,
    /// The graph and the format that it was built for.
    graph: Option<(Format, filter::Graph)>,
    /// Samples that the encoder was given.
    samples: u64,
    /// Packets that the encoder gave.
    packets: u64,
}

/// What a filter graph was built for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Format {
    rate: u32,
    channels: u16,
    layout: u64,
    format: &'static str,
}

impl Format {
    pub(super) fn of(frame: &frame::Audio) -> Self {
        Self {
            rate: frame.rate(),
            channels: frame.channels(),
            layout: frame.channel_layout().bits(),
            format: frame.format().name(),
        }
    }
}

impl Sound {
    /// Opens the encoder.
    pub(super) fn begin(track: &Track, gain: Gain, until: u64) -> Result<Self, Error> {
        let encoder = open(ChannelLayout::STEREO)?;
        let time_base = track.time_base;
        Ok(Self { encoder, time_base, gain, until, graph: None, samples: 0, packets: 0 })
    }

    /// The encoder's parameters.
    pub(super) fn context(&self) -> &codec::Context {
        self.encoder.as_ref()
    }

    /// Takes a frame with its timestamp set, and hands on what the encoder gives.
    pub(super) fn push(
        &mut self,
        frame: &frame::Audio,
        packets: &mut dyn FnMut(Packet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if frame.samples() == 0 || frame.rate() == 0 || frame.channels() == 0 {
            return Ok(());
        }
        let format = Format::of(frame);
        let base = (1, i32::try_from(SAMPLE_RATE).unwrap_or(48_000));
        let at = frame.pts().map(|at| at.rescale(self.time_base, base));
        let at = at.and_then(|at| u64::try_from(at).ok()).unwrap_or(0).min(self.until);
        if at > self.samples.saturating_add(GAP_SAMPLES) {
            self.fill(at, packets)?;
        }
        if self.graph.as_ref().is_none_or(|(built, _)| *built != format) {
            self.end_graph(packets)?;
            let graph = resampler(&format, self.time_base, self.samples, &self.gain.filters())
                .map_err(failed("audio filter"))?;
            self.graph = Some((format, graph));
        }
        if let Some(mut source) = self.graph.as_mut().and_then(|(_, graph)| graph.get("in")) {
            source.source().add(frame).map_err(failed("audio filter"))?;
        }
        self.pump(packets)
    }

    /// Puts silence where the source has nothing, up to a sample; what comes later for that time is left out.
    pub(super) fn fill(
        &mut self,
        until: u64,
        packets: &mut dyn FnMut(Packet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.end_graph(packets)?;
        if self.samples >= until {
            return Ok(());
        }
        let mut silence = silence("stereo").map_err(failed("audio filter"))?;
        while self.samples < until {
            let mut frame = frame::Audio::empty();
            let mut sink = silence.get("out").ok_or_else(no_sink)?;
            sink.sink().frame(&mut frame).map_err(failed("audio filter"))?;
            self.encode(&mut frame, packets)?;
        }
        Ok(())
    }

    /// Ends the track.
    pub(super) fn finish(
        &mut self,
        packets: &mut dyn FnMut(Packet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.end_graph(packets)?;
        self.encoder.send_eof().map_err(failed("audio encoder"))?;
        self.drain(packets)
    }

    fn end_graph(
        &mut self,
        packets: &mut dyn FnMut(Packet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if let Some(mut source) = self.graph.as_mut().and_then(|(_, graph)| graph.get("in")) {
            source.source().flush().map_err(failed("audio filter"))?;
            self.pump(packets)?;
        }
        self.graph = None;
        Ok(())
    }

    fn pump(&mut self, packets: &mut dyn FnMut(Packet) -> Result<(), Error>) -> Result<(), Error> {
        loop {
            let mut frame = frame::Audio::empty();
            let Some((_, graph)) = self.graph.as_mut() else { return Ok(()) };
            let mut sink = graph.get("out").ok_or_else(no_sink)?;
            match sink.sink().frame(&mut frame) {
                Ok(()) => self.encode(&mut frame, packets)?,
                Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => return Ok(()),
                Err(error) => return Err(failed("audio filter")(error)),
            }
        }
    }

    fn encode(
        &mut self,
        frame: &mut frame::Audio,
        packets: &mut dyn FnMut(Packet) -> Result<(), Error>,
    ) -> Result<(), Error> {
        // Samples are counted, not stamped: what the encoder is told never jumps back, whatever the source does.
        frame.set_pts(i64::try_from(self.samples).ok());
        let samples = u64::try_from(frame.samples()).unwrap_or(0);
        self.samples = self.samples.saturating_add(samples);
        self.encoder.send_frame(frame).map_err(failed("audio encoder"))?;
        self.drain(packets)
    }

    fn drain(&mut self, packets: &mut dyn FnMut(Packet) -> Result<(), Error>) -> Result<(), Error> {
        loop {
            let mut packet = Packet::empty();
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => return Ok(()),
                Err(error) => return Err(failed("audio encoder")(error)),
            }
            // The encoder's priming frame lies before zero; without an edit list it would delay all that follows.
            if packet.pts().is_some_and(|pts| pts < 0) {
                continue;
            }
            let pts = i64::try_from(self.packets.saturating_mul(AAC_SAMPLES)).ok();
            packet.set_pts(pts);
            packet.set_dts(pts);
            packet.set_duration(i64::try_from(AAC_SAMPLES).unwrap_or(1_024));
            self.packets = self.packets.saturating_add(1);
            packets(packet)?;
        }
    }
}

fn no_sink() -> Error {
    Error::Worker("audio filter without output".to_owned())
}

/// Any format to the encoder's, gaps filled and overlaps cut so that `first` is the next sample; then further filters.
pub(super) fn resampler(
    input: &Format,
    time_base: Rational,
    first: u64,
    further: &str,
) -> Result<filter::Graph, FfmpegError> {
    let layout = if input.layout == 0 {
        format!("channels={}", input.channels)
    } else {
        format!("channel_layout=0x{:x}", input.layout)
    };
    let source = format!(
        "time_base={}/{}:sample_rate={}:sample_fmt={}:{layout}",
        time_base.numerator(),
        time_base.denominator(),
        input.rate,
        input.format
    );
    let spec = format!(
        "[in]aresample={SAMPLE_RATE}:async=1:first_pts={first},\
         aformat=sample_fmts=fltp:sample_rates={SAMPLE_RATE}:channel_layouts=stereo{further}[out]"
    );
    graph(Some(&source), &spec)
}

fn silence(layout: &str) -> Result<filter::Graph, FfmpegError> {
    let spec = format!(
        "anullsrc=channel_layout={layout}:sample_rate={SAMPLE_RATE}:nb_samples={AAC_SAMPLES},\
         aformat=sample_fmts=fltp[out]"
    );
    graph(None, &spec)
}

fn graph(source: Option<&str>, spec: &str) -> Result<filter::Graph, FfmpegError> {
    let find = |name| filter::find(name).ok_or(FfmpegError::FilterNotFound);
    let mut graph = filter::Graph::new();
    raw::limit_threads(&mut graph, threads());
    if let Some(source) = source {
        graph.add(&find("abuffer")?, "in", source)?;
    }
    graph.add(&find("abuffersink")?, "out", "")?;
    match source {
        Some(_) => graph.output("in", 0)?.input("out", 0)?.parse(spec)?,
        None => graph.input("out", 0)?.parse(spec)?,
    }
    graph.validate()?;
    if let Some(mut sink) = graph.get("out") {
        sink.sink().set_frame_size(u32::try_from(AAC_SAMPLES).unwrap_or(1_024));
    }
    Ok(graph)
}
