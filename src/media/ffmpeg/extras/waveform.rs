//! Sound to peaks: where a sample lies is told by its frame's time, so that gaps and jumps cost nothing.

use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::{Error as FfmpegError, filter, frame};

use super::{Stage, failed};
use crate::domain::video::{TICKS_PER_SECOND, Ticks};
use crate::media::Error;
use crate::media::extras::{BUCKETS_MAX, Waveform};
use crate::media::ffmpeg::{raw, threads};
use crate::media::grid::SAMPLE_RATE;

/// The stage behind the decoder of the sound.
pub(super) struct Peaks {
    samples_per_bucket: u64,
    peaks: Vec<(i8, i8)>,
    graph: Option<(Format, filter::Graph)>,
    any: bool,
}

#[derive(Debug, PartialEq)]
struct Format {
    rate: u32,
    channels: u16,
    layout: u64,
    format: &'static str,
}

impl Peaks {
    pub(super) fn begin(duration: Ticks) -> Self {
        let samples = duration.get().saturating_mul(u64::from(SAMPLE_RATE)) / TICKS_PER_SECOND;
        let most = u64::try_from(BUCKETS_MAX).unwrap_or(1).max(1);
        let samples_per_bucket = samples.div_ceil(most).max(1);
        let buckets = samples.div_ceil(samples_per_bucket).clamp(1, most);
        let peaks = vec![(0, 0); usize::try_from(buckets).unwrap_or(1)];
        Self { samples_per_bucket, peaks, graph: None, any: false }
    }

    /// The peaks, where there was any sound.
    pub(super) fn finish(self) -> Result<Option<Waveform>, Error> {
        let samples_per_bucket = u32::try_from(self.samples_per_bucket)
            .map_err(|_| Error::Worker("the sound is too long for a waveform".to_owned()))?;
        Ok(self.any.then_some(Waveform { samples_per_bucket, peaks: self.peaks }))
    }

    /// Samples of one channel at a rate, from a time on.
    fn note(&mut self, samples: &[i16], rate: u32, at: i64) {
        let Ok(begin) = u64::try_from(at.max(0)) else { return };
        let begin = begin.saturating_mul(u64::from(SAMPLE_RATE)) / TICKS_PER_SECOND;
        for (n, sample) in (0_u64..).zip(samples) {
            let place = n.saturating_mul(u64::from(SAMPLE_RATE)) / u64::from(rate.max(1));
            let bucket = begin.saturating_add(place) / self.samples_per_bucket;
            let peak = usize::try_from(bucket).ok().and_then(|bucket| self.peaks.get_mut(bucket));
            let Some((least, greatest)) = peak else { return };
            let [_, byte] = sample.to_le_bytes();
            let byte = i8::from_le_bytes([byte]);
            (*least, *greatest) = ((*least).min(byte), (*greatest).max(byte));
        }
        self.any = true;
    }
}

impl Stage for Peaks {
    type Frame = frame::Audio;

    fn empty() -> frame::Audio {
        frame::Audio::empty()
    }

    fn take(&mut self, sound: &mut frame::Audio, at: i64) -> Result<(), Error> {
        if sound.samples() == 0 || sound.rate() == 0 || sound.channels() == 0 {
            return Ok(());
        }
        let format = Format {
            rate: sound.rate(),
            channels: sound.channels(),
            layout: sound.channel_layout().bits(),
            format: sound.format().name(),
        };
        if self.graph.as_ref().is_none_or(|(built, _)| *built != format) {
            let graph = mono(&format).map_err(failed("audio filter"))?;
            self.graph = Some((format, graph));
        }
        let Some((Format { rate, .. }, graph)) = self.graph.as_mut() else { return Ok(()) };
        let rate = *rate;
        if let Some(mut source) = graph.get("in") {
            source.source().add(sound).map_err(failed("audio filter"))?;
        }
        let mut heard: Vec<i16> = Vec::new();
        if let Some(mut sink) = graph.get("out") {
            loop {
                let mut plain = frame::Audio::empty();
                match sink.sink().frame(&mut plain) {
                    Ok(()) => heard.extend(plain.plane::<i16>(0)),
                    Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => break,
                    Err(error) => return Err(failed("audio filter")(error)),
                }
            }
        }
        self.note(&heard, rate, at);
        Ok(())
    }
}

/// Any format to one channel of 16 bits, at its own rate.
fn mono(input: &Format) -> Result<filter::Graph, FfmpegError> {
    let find = |name| filter::find(name).ok_or(FfmpegError::FilterNotFound);
    let layout = if input.layout == 0 {
        format!("channels={}", input.channels)
    } else {
        format!("channel_layout=0x{:x}", input.layout)
    };
    let source = format!(
        "time_base=1/{}:sample_rate={}:sample_fmt={}:{layout}",
        input.rate, input.rate, input.format
    );
    let mut graph = filter::Graph::new();
    raw::limit_threads(&mut graph, threads());
    graph.add(&find("abuffer")?, "in", &source)?;
    graph.add(&find("abuffersink")?, "out", "")?;
    let text = "[in]aformat=sample_fmts=s16:channel_layouts=mono[out]";
    graph.output("in", 0)?.input("out", 0)?.parse(text)?;
    graph.validate()?;
    Ok(graph)
}
