//! The arithmetic of cutting: which frame rate, which rungs, where segments begin. Pure; it knows nothing of FFmpeg.
//!
//! Every boundary is computed from a frame's index by exact integers, so that renditions agree to the tick.

use crate::domain::video::{TICKS_PER_SECOND, Ticks};
use crate::media::Rung;

/// The sample rate of all audio that is made.
pub(crate) const SAMPLE_RATE: u32 = 48_000;
/// Samples in an AAC-LC frame (ISO/IEC 14496-3).
pub(crate) const AAC_SAMPLES: u64 = 1_024;
/// An AAC frame at [`SAMPLE_RATE`] in ticks: a whole number, so audio boundaries are exact too.
pub(crate) const AAC_TICKS: u64 = AAC_SAMPLES * TICKS_PER_SECOND / SAMPLE_RATE as u64;

/// Rates that screens and players expect; a source gets the first that is not below its own.
const STANDARD_RATES: [Rate; 13] = [
    Rate::new(10, 1),
    Rate::new(12, 1),
    Rate::new(15, 1),
    Rate::new(20, 1),
    Rate::new(24_000, 1_001),
    Rate::new(24, 1),
    Rate::new(25, 1),
    Rate::new(30_000, 1_001),
    Rate::new(30, 1),
    Rate::new(48, 1),
    Rate::new(50, 1),
    Rate::new(60_000, 1_001),
    Rate::new(60, 1),
];

/// A frame rate as a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Frames ...
    pub(crate) num: u32,
    /// ... in this many seconds.
    pub(crate) den: u32,
}

impl Rate {
    pub(crate) const fn new(num: u32, den: u32) -> Self {
        Self { num, den }
    }

    /// The constant rate for a source. `exact` is the lowest rate that shows every frame, `mean` the average; containers with a
    /// coarse or variable clock name an `exact` of 90000 or 1000, and then the mean decides.
    pub(crate) fn standard(exact: Option<f64>, mean: Option<f64>) -> Self {
        let sane = |rate: &f64| rate.is_finite() && *rate > 0.0;
        let highest = STANDARD_RATES.last().map_or(60.0, |rate| rate.per_second());
        let mean = mean.filter(sane);
        let wanted = match exact.filter(sane) {
            Some(rate) if rate <= highest * 1.001 => rate,
            Some(_) => mean.unwrap_or(30.0),
            None => mean.unwrap_or(25.0),
        };
        // A thousandth of slack: 29.97003 is 30000/1001, 25.0001 is 25.
        let fits = |rate: &&Self| rate.per_second() * 1.000_5 >= wanted;
        STANDARD_RATES.iter().find(fits).copied().unwrap_or(Self::new(60, 1))
    }

    /// Whether it is one that is chosen here.
    pub(crate) fn is_standard(self) -> bool {
        STANDARD_RATES.contains(&self)
    }

    pub(crate) fn per_second(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }

    /// Frames per 1,000 seconds.
    pub(crate) fn milli(self) -> u32 {
        let milli = (u64::from(self.num) * 1_000 + u64::from(self.den) / 2) / u64::from(self.den);
        u32::try_from(milli).unwrap_or(u32::MAX)
    }

    /// How many frames make a segment that is not shorter than `segment_ms`.
    pub(crate) fn frames_per_segment(self, segment_ms: u64) -> u64 {
        let frames =
            (u128::from(segment_ms) * u128::from(self.num)).div_ceil(1_000 * u128::from(self.den));
        u64::try_from(frames).unwrap_or(u64::MAX).max(1)
    }

    /// The frame whose beginning is nearest to a tick.
    pub(crate) fn frame_at(self, ticks: u64) -> u64 {
        let per = u128::from(TICKS_PER_SECOND) * u128::from(self.den);
        let frame = (u128::from(ticks) * u128::from(self.num) + per / 2) / per.max(1);
        u64::try_from(frame).unwrap_or(u64::MAX)
    }

    /// When a frame begins, rounded to the nearest tick.
    pub(crate) fn ticks(self, frame: u64) -> u64 {
        let num = u128::from(self.num);
        let ticks = u128::from(frame) * u128::from(TICKS_PER_SECOND) * u128::from(self.den);
        u64::try_from((ticks + num / 2) / num).unwrap_or(u64::MAX)
    }
}

/// Where segments begin: every `frames` video frames, or every `frames` AAC frames where there is no video.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grid {
    /// Cut by video frames.
    Video {
        /// The constant rate.
        rate: Rate,
        /// Frames in each segment but the last.
        frames: u64,
    },
    /// Cut by AAC frames.
    Audio {
        /// Frames in each segment but the last.
        frames: u64,
    },
}

impl Grid {
    pub(crate) fn video(rate: Rate, segment_ms: u64) -> Self {
        Self::Video { rate, frames: rate.frames_per_segment(segment_ms) }
    }

    pub(crate) fn audio(segment_ms: u64) -> Self {
        Self::Audio { frames: Ticks::from_millis(segment_ms).get().div_ceil(AAC_TICKS).max(1) }
    }

    /// Frames in each segment but the last.
    pub(crate) const fn frames(self) -> u64 {
        match self {
            Self::Video { frames, .. } | Self::Audio { frames } => frames,
        }
    }

    /// When a frame of the grid begins.
    pub(crate) fn ticks(self, frame: u64) -> u64 {
        match self {
            Self::Video { rate, .. } => rate.ticks(frame),
            Self::Audio { .. } => frame.saturating_mul(AAC_TICKS),
        }
    }

    /// All boundaries of a film of so many frames; the last is the end of the last frame.
    pub(crate) fn boundaries(self, frames: u64) -> Vec<Ticks> {
        self.cuts(frames).into_iter().map(|frame| Ticks::new(self.ticks(frame))).collect()
    }

    /// The frames that the boundaries of a film of so many frames lie at.
    pub(crate) fn cuts(self, frames: u64) -> Vec<u64> {
        let segments = frames.div_ceil(self.frames());
        (0..segments).map(|n| n.saturating_mul(self.frames())).chain([frames]).collect()
    }
}

/// The first AAC frame that belongs behind a boundary: the cut that lies nearest to it.
pub(crate) const fn aac_frame_at(boundary: u64) -> u64 {
    boundary.saturating_sub(AAC_TICKS / 2).div_ceil(AAC_TICKS)
}

/// How many AAC frames begin before the end of the film.
pub(crate) const fn aac_frames_until(end: u64) -> u64 {
    end.div_ceil(AAC_TICKS)
}

/// The rungs for a source that is shown at `width` by `height`: never above it; one at its own height where all are above.
pub(crate) fn rungs(ladder: &[u32], width: u32, height: u32) -> Vec<Rung> {
    let even = |lines: u32| (lines & !1).max(2);
    let mut heights: Vec<u32> =
        ladder.iter().copied().filter(|lines| *lines <= height && *lines >= 2).map(even).collect();
    heights.sort_unstable_by(|a, b| b.cmp(a));
    heights.dedup();
    if heights.is_empty() {
        heights.push(even(height));
    }
    let rung = |lines: u32| {
        let wide = u64::from(width) * u64::from(lines);
        let half = (wide + u64::from(height)) / (2 * u64::from(height.max(1)));
        let width = u32::try_from(half * 2).unwrap_or(u32::MAX).max(2);
        let name = format!("{lines}p").parse().ok()?;
        Some(Rung { name, width, height: lines })
    };
    heights.into_iter().filter_map(rung).collect()
}

/// The highest rate for a rung in bits per second: points between which 16:9 pictures at 30 frames a second are interpolated, and
/// half as much again above 30.
pub(crate) fn rate_max(width: u32, height: u32, rate: Rate) -> u64 {
    const POINTS: [(u64, u64); 7] = [
        (426 * 240, 600_000),
        (640 * 360, 1_100_000),
        (854 * 480, 2_000_000),
        (1_280 * 720, 4_000_000),
        (1_920 * 1_080, 7_000_000),
        (2_560 * 1_440, 12_000_000),
        (3_840 * 2_160, 24_000_000),
    ];
    let pixels = u64::from(width) * u64::from(height);
    let mut below = (0, 300_000);
    let mut bits = None;
    for point in POINTS {
        if pixels <= point.0 {
            let span = point.0 - below.0;
            bits = Some(below.1 + (point.1 - below.1) * (pixels - below.0) / span.max(1));
            break;
        }
        below = point;
    }
    let bits = bits.unwrap_or(below.1 * pixels / below.0.max(1));
    if rate.per_second() > 31.0 { bits * 3 / 2 } else { bits }
}

/// The peak and the mean rate of a rendition in bits per second, from its segments' bytes and spans.
///
/// The peak is taken over runs of at least half a target duration (RFC 8216, section 4.3.4.2), so that a last segment of a few frames
/// is counted together with the one before it.
pub(crate) fn bandwidth(segments: &[(u64, Ticks)]) -> (u64, u64) {
    let target = segments.iter().map(|(_, ticks)| ticks.get()).max().unwrap_or(0);
    let bits = |bytes: u64, ticks: u64| {
        let bits = u128::from(bytes) * 8 * u128::from(TICKS_PER_SECOND);
        u64::try_from(bits.div_ceil(u128::from(ticks.max(1)))).unwrap_or(u64::MAX)
    };
    let mut before = (0_u64, 0_u64);
    let mut peak = 0;
    let mut all = (0_u64, 0_u64);
    for (bytes, ticks) in segments {
        let own = (*bytes, ticks.get());
        let (bytes, ticks) = if own.1 * 2 < target {
            (own.0.saturating_add(before.0), own.1.saturating_add(before.1))
        } else {
            own
        };
        peak = peak.max(bits(bytes, ticks));
        all = (all.0.saturating_add(own.0), all.1.saturating_add(own.1));
        before = own;
    }
    (peak, bits(all.0, all.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_segment_but_the_last_is_at_least_as_long_as_asked_for_at_every_rate() {
        for rate in STANDARD_RATES {
            for segment_ms in [1, 40, 1_000, 1_999, 2_000, 4_000, 4_001, 6_000, 10_000] {
                for grid in [Grid::video(rate, segment_ms), Grid::audio(segment_ms)] {
                    let frames = grid.frames() * 50 + 1;
                    let boundaries = grid.boundaries(frames);
                    assert_eq!(boundaries.len(), 52);
                    let nominal = Ticks::from_millis(segment_ms);
                    for pair in boundaries.windows(2).take(50) {
                        assert!(pair[1].since(pair[0]) >= nominal, "{grid:?} {segment_ms}");
                    }
                    assert!(boundaries[51] > boundaries[50]);
                }
            }
        }
    }

    #[test]
    fn a_film_of_whole_segments_has_no_empty_one_at_its_end() {
        let grid = Grid::video(Rate::new(25, 1), 4_000);
        assert_eq!(grid.boundaries(200), [0, 360_000, 720_000].map(Ticks::new));
        assert_eq!(grid.boundaries(132), [0, 360_000, 475_200].map(Ticks::new));
    }

    #[test]
    fn ntsc_rates_round_to_the_nearest_tick_and_never_drift() {
        let rate = Rate::new(24_000, 1_001);
        assert_eq!(rate.ticks(1), 3_754);
        assert_eq!(rate.ticks(24_000), 1_001 * 90_000);
        assert_eq!(rate.milli(), 23_976);
    }

    #[test]
    fn sources_get_a_standard_rate_at_or_above_their_own() {
        let rate = |exact, mean| Rate::standard(exact, mean);
        assert_eq!(rate(Some(25.0), Some(25.0)), Rate::new(25, 1));
        assert_eq!(rate(Some(29.97), Some(29.97)), Rate::new(30_000, 1_001));
        assert_eq!(rate(Some(29.99), None), Rate::new(30, 1));
        assert_eq!(rate(Some(90_000.0), Some(24.8)), Rate::new(25, 1));
        assert_eq!(rate(Some(1_000.0), None), Rate::new(30, 1));
        assert_eq!(rate(Some(120.0), Some(120.0)), Rate::new(60, 1));
        assert_eq!(rate(Some(60.0), Some(59.0)), Rate::new(60, 1));
        assert_eq!(rate(None, Some(f64::NAN)), Rate::new(25, 1));
        assert_eq!(rate(Some(7.5), Some(7.5)), Rate::new(10, 1));
    }

    #[test]
    fn the_ladder_never_upscales_and_keeps_even_sizes() {
        let names = |ladder: &[u32], w, h| -> Vec<String> {
            let of = |rung: Rung| format!("{} {}x{}", rung.name, rung.width, rung.height);
            rungs(ladder, w, h).into_iter().map(of).collect()
        };
        let ladder = [1_080, 720, 480, 240];
        assert_eq!(names(&ladder, 1_280, 720), ["720p 1280x720", "480p 854x480", "240p 426x240"]);
        assert_eq!(names(&ladder, 321, 181), ["180p 320x180"]);
        assert_eq!(names(&ladder, 720, 576), ["480p 600x480", "240p 300x240"]);
        assert_eq!(names(&[240, 240, 720], 1_280, 720).len(), 2);
        assert_eq!(names(&[], 16, 16), ["16p 16x16"]);
        assert_eq!(names(&ladder, 16, 8_000)[0], "1080p 2x1080");
    }

    #[test]
    fn audio_is_cut_at_the_frame_nearest_to_the_boundary_and_covers_the_end() {
        assert_eq!(AAC_TICKS, 1_920);
        assert_eq!(aac_frame_at(0), 0);
        assert_eq!(aac_frame_at(360_000), 187);
        for boundary in 0..10_000_u64 {
            let cut = aac_frame_at(boundary) * AAC_TICKS;
            assert!(cut.abs_diff(boundary) <= AAC_TICKS / 2);
            // One frame of video at 60 a second is the shortest last segment: it has audio.
            assert!(aac_frames_until(boundary + 1_500) > aac_frame_at(boundary));
        }
    }

    #[test]
    fn a_last_segment_of_one_frame_does_not_set_the_peak() {
        let second = Ticks::from_millis(1_000);
        let segments = [(1_000, second), (2_000, second), (500, Ticks::from_millis(40))];
        assert_eq!(bandwidth(&segments), (19_231, 13_726));
        assert_eq!(bandwidth(&[(1_000, second)]), (8_000, 8_000));
        assert_eq!(bandwidth(&[]), (0, 0));
    }

    #[test]
    fn the_rate_limit_grows_with_the_picture() {
        let at = |w, h| rate_max(w, h, Rate::new(25, 1));
        assert_eq!(at(1_280, 720), 4_000_000);
        assert!(at(16, 16) >= 300_000 && at(426, 240) < at(854, 480));
        assert!(at(7_680, 4_320) > 90_000_000);
        assert_eq!(rate_max(1_280, 720, Rate::new(60, 1)), 6_000_000);
    }
}
