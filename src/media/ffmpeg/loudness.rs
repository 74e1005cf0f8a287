//! How loud a film is (EBU R128, ITU-R BS.1770), and the one gain that brings it to where it shall be.

use ffmpeg_next::util::error::EAGAIN;
use ffmpeg_next::{Error as FfmpegError, Rational, filter, frame};

use super::audio::{Format, resampler};
use super::failed;
use crate::media::Error;
use crate::media::grid::SAMPLE_RATE;

/// True peaks stay below this, in dBTP (EBU R128).
const PEAK_MAX: f64 = -1.0;
/// What the limiter aims at: a little lower, since the encoder adds to peaks.
const LIMIT: f64 = -1.5;
/// The limiter takes this many decibels off the highest peak at most; what is more dynamic gets a smaller gain instead.
const LIMITED_MAX: f64 = 8.0;
/// A gain below this is not heard.
const GAIN_MIN: f64 = 0.1;
/// Nobody turns a whisper of noise into a shout.
const GAIN_MAX: f64 = 30.0;
/// What is quieter is silence; the gate of the measurement is at -70.
const SILENCE: f64 = -60.0;
/// What is shorter has no loudness.
const SAMPLES_MIN: u64 = SAMPLE_RATE as u64;

/// What is done to the sound.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Gain {
    /// Decibels.
    gain: f64,
    /// Whether peaks must be held.
    limited: bool,
}

impl Gain {
    /// For a film of this loudness (LUFS) and true peak (dBTP).
    fn of(loudness: f64, peak: f64, target: f64) -> Self {
        if !loudness.is_finite() || !peak.is_finite() || loudness < SILENCE {
            return Self::default();
        }
        let gain = (target - loudness).min(PEAK_MAX - peak + LIMITED_MAX).min(GAIN_MAX);
        let gain = if gain.abs() < GAIN_MIN { 0.0 } else { gain };
        Self { gain, limited: peak + gain > PEAK_MAX }
    }

    /// Filters for 48 kHz stereo, each with a comma before it; none where nothing is to be done.
    pub(super) fn filters(self) -> String {
        let mut filters = String::new();
        if self.gain != 0.0 {
            filters.push_str(&format!(",volume={:.2}dB:precision=float", self.gain));
        }
        if self.limited {
            // Between samples peaks are higher than at them: four times as many are looked at.
            let limit = 10_f64.powf(LIMIT / 20.0);
            filters.push_str(&format!(
                ",aresample={},alimiter=limit={limit:.4}:level=disabled:attack=5:release=50:latency=1,\
                 aresample={SAMPLE_RATE},aformat=sample_fmts=fltp:channel_layouts=stereo",
                SAMPLE_RATE * 4
            ));
        }
        filters
    }
}

/// Measures sound.
#[derive(Default)]
pub(super) struct Meter {
    graph: Option<(Format, filter::Graph)>,
    samples: u64,
    /// Samples that the graph was given, at the source's rate.
    given: i64,
    /// Integrated loudness so far, of each graph, weighed by its samples.
    parts: Vec<(u64, f64)>,
    peak: f64,
}

impl Meter {
    /// Samples that were heard.
    pub(super) const fn samples(&self) -> u64 {
        self.samples
    }

    pub(super) fn hear(&mut self, sound: &mut frame::Audio) -> Result<(), Error> {
        if sound.samples() == 0 || sound.rate() == 0 || sound.channels() == 0 {
            return Ok(());
        }
        let format = Format::of(sound);
        if self.graph.as_ref().is_none_or(|(built, _)| *built != format) {
            self.end()?;
            let ears = ",ebur128=metadata=1:peak=true";
            let base = Rational::new(1, i32::try_from(sound.rate()).unwrap_or(i32::MAX));
            let graph = resampler(&format, base, 0, ears).map_err(failed("loudness filter"))?;
            self.given = 0;
            self.graph = Some((format, graph));
            self.parts.push((0, f64::NEG_INFINITY));
        }
        // Gaps have no loudness: samples are counted, not stamped.
        sound.set_pts(Some(self.given));
        self.given = self.given.saturating_add(i64::try_from(sound.samples()).unwrap_or(0));
        if let Some(mut source) = self.graph.as_mut().and_then(|(_, graph)| graph.get("in")) {
            source.source().add(sound).map_err(failed("loudness filter"))?;
        }
        self.pump()
    }

    /// The gain that brings what was heard to a loudness in LUFS.
    pub(super) fn gain(mut self, target: f64) -> Result<Gain, Error> {
        self.end()?;
        if self.samples < SAMPLES_MIN {
            return Ok(Gain::default());
        }
        // Where the format changes within the film there are several measurements; their mean is that of their energies.
        let energy = |(samples, loudness): &(u64, f64)| {
            #[expect(clippy::cast_precision_loss, reason = "a weight")]
            let weight = *samples as f64;
            weight * 10_f64.powf(loudness / 10.0)
        };
        #[expect(clippy::cast_precision_loss, reason = "a weight")]
        let all = self.samples as f64;
        let mean = self.parts.iter().map(energy).sum::<f64>() / all;
        Ok(Gain::of(10.0 * mean.log10(), 20.0 * self.peak.log10(), target))
    }

    fn end(&mut self) -> Result<(), Error> {
        if let Some(mut source) = self.graph.as_mut().and_then(|(_, graph)| graph.get("in")) {
            source.source().flush().map_err(failed("loudness filter"))?;
            self.pump()?;
        }
        self.graph = None;
        Ok(())
    }

    fn pump(&mut self) -> Result<(), Error> {
        loop {
            let mut frame = frame::Audio::empty();
            let Some((_, graph)) = self.graph.as_mut() else { return Ok(()) };
            let Some(mut sink) = graph.get("out") else { return Ok(()) };
            match sink.sink().frame(&mut frame) {
                Ok(()) => {}
                Err(FfmpegError::Eof | FfmpegError::Other { errno: EAGAIN }) => return Ok(()),
                Err(error) => return Err(failed("loudness filter")(error)),
            }
            let samples = u64::try_from(frame.samples()).unwrap_or(0);
            self.samples = self.samples.saturating_add(samples);
            let told = frame.metadata();
            let number = |key: &str| told.get(key).and_then(|text| text.parse::<f64>().ok());
            for key in ["lavfi.r128.true_peaks_ch0", "lavfi.r128.true_peaks_ch1"] {
                self.peak = self.peak.max(number(key).unwrap_or(0.0));
            }
            let loudness = number("lavfi.r128.I");
            if let Some(part) = self.parts.last_mut() {
                part.0 = part.0.saturating_add(samples);
                // The last frame carries no value.
                part.1 = loudness.unwrap_or(part.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gain_reaches_the_target_unless_peaks_forbid_it() {
        let of = |loudness, peak| Gain::of(loudness, peak, -16.0);
        assert_eq!(of(-26.0, -12.0), Gain { gain: 10.0, limited: false });
        assert_eq!(of(-26.0, -10.0), Gain { gain: 10.0, limited: true });
        assert_eq!(of(-22.0, -8.0), Gain { gain: 6.0, limited: false });
        assert_eq!(of(-8.0, 0.0), Gain { gain: -8.0, limited: false });
        // A clap in a quiet room.
        assert_eq!(of(-40.0, -3.0), Gain { gain: 10.0, limited: true });
        assert_eq!(of(-16.05, -6.0), Gain::default());
        assert_eq!(of(-16.0, 0.0), Gain { gain: 0.0, limited: true });
    }

    #[test]
    fn silence_and_what_has_no_loudness_are_left_alone() {
        for (loudness, peak) in [
            (-70.0, -60.0),
            (f64::NEG_INFINITY, f64::NEG_INFINITY),
            (f64::NAN, -3.0),
            (-30.0, f64::NEG_INFINITY),
        ] {
            assert_eq!(Gain::of(loudness, peak, -16.0), Gain::default());
        }
        assert_eq!(Gain::default().filters(), "");
        let very_short =
            Meter { samples: 47_999, parts: vec![(47_999, -30.0)], peak: 0.1, ..Meter::default() };
        assert_eq!(very_short.gain(-16.0).unwrap(), Gain::default());
    }
}
