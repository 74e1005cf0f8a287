//! Rounds of two peers, taken turn by turn in one run, and what is told of them.

use std::time::Duration;

/// Rounds of each figure; the median counts.
pub const ROUNDS: usize = 5;

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value that this part of all others lie below.
pub fn quantile(values: &[f64], of: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted
        .get(((sorted.len().saturating_sub(1)) as f64 * of).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1_000.0
}

/// Ours and the limit's, round by round, and the median of their ratios beside the goal.
pub fn compare(what: &str, unit: &str, ours: &[f64], limit: &[f64], goal: Goal) {
    let ratios: Vec<f64> = ours.iter().zip(limit).map(|(ours, limit)| ours / limit).collect();
    let line = |values: &[f64]| {
        values
            .iter()
            .map(|value| format!("{value:.5}"))
            .map(|text| text.chars().take(6).collect::<String>())
            .collect::<Vec<_>>()
            .join(" ")
    };
    println!("{what}, {unit}: ours {:.1}, limit {:.1}", median(ours), median(limit));
    println!("  ratios {} -> median {:.2}, goal {goal}", line(&ratios), median(&ratios));
}

/// What is to be reached.
pub enum Goal {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl std::fmt::Display for Goal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(goal) => write!(f, "{goal} or more"),
            Self::AtMost(goal) => write!(f, "{goal} or less"),
        }
    }
}
