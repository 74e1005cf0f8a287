//! What the program tells about itself: log lines and Prometheus metrics.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tracing_subscriber::EnvFilter;

use crate::domain::amount::Msat;

/// Which outcome a payment had.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Counters of the server; cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    challenges: Counter,
    payments: Family<Outcome, Counter>,
    credited: Counter,
    earned: Counter,
    bytes: Counter,
    held: Gauge<i64, AtomicI64>,
    channels_closed: Counter,
    payouts: Family<Outcome, Counter>,
    segments: Histogram,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sluice");
        let challenges = Counter::default();
        let payments = Family::<Outcome, Counter>::default();
        let credited = Counter::default();
        let earned = Counter::default();
        let bytes = Counter::default();
        let held = Gauge::default();
        let channels_closed = Counter::default();
        let payouts = Family::<Outcome, Counter>::default();
        let segments = Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 8.0]);
        registry.register("challenges", "Invoices handed to viewers", challenges.clone());
        registry.register("payments", "Payments in, by what they did", payments.clone());
        registry.register("credited_msat", "Millisatoshi credited", credited.clone());
        registry.register("earned_msat", "Millisatoshi earned", earned.clone());
        registry.register_with_unit("served", "Segment bytes served", Unit::Bytes, bytes.clone());
        registry.register("held_requests", "Requests that wait for a payment", held.clone());
        registry.register("channels_closed", "Channels that closed", channels_closed.clone());
        registry.register("payouts", "Payouts, by outcome", payouts.clone());
        let help = "Time from a segment's request to its answer";
        registry.register_with_unit("segment", help, Unit::Seconds, segments.clone());
        Self {
            registry: Arc::new(registry),
            challenges,
            payments,
            credited,
            earned,
            bytes,
            held,
            channels_closed,
            payouts,
            segments,
        }
    }
}

impl Metrics {
    /// An invoice was handed out.
    pub fn challenge(&self) {
        self.challenges.inc();
    }

    /// A payment came in.
    pub fn payment(&self, outcome: &'static str) {
        self.payments.get_or_create(&Outcome { outcome }).inc();
    }

    /// So much was credited.
    pub fn credited(&self, amount: Msat) {
        self.credited.inc_by(amount.get());
    }

    /// So much was earned.
    pub fn earned(&self, amount: Msat) {
        self.earned.inc_by(amount.get());
    }

    /// A segment request was answered.
    pub fn served(&self, bytes: u64, after: Duration) {
        self.bytes.inc_by(bytes);
        self.segments.observe(after.as_secs_f64());
    }

    /// A request waits until the guard is dropped.
    pub fn hold(&self) -> Held {
        self.held.inc();
        Held(self.held.clone())
    }

    /// A channel closed.
    pub fn channel_closed(&self) {
        self.channels_closed.inc();
    }

    /// A payout ended.
    pub fn payout(&self, outcome: &'static str) {
        self.payouts.get_or_create(&Outcome { outcome }).inc();
    }

    /// All of it in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// A request that waits.
#[derive(Debug)]
pub struct Held(Gauge<i64, AtomicI64>);

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Whether this can be understood as a filter in the syntax of `RUST_LOG`.
///
/// # Errors
/// Why not, in a few words.
pub fn check_filter(filter: &str) -> Result<(), String> {
    EnvFilter::try_new(filter).map(|_| ()).map_err(|error| error.to_string())
}

/// Begins to log to standard error: plain lines for a terminal, JSON where `json` asks for it.
/// `filter` is in the syntax of `RUST_LOG`; one that [`check_filter`] refuses counts as `info`, and
/// the first line says so.
pub fn start_logging(filter: &str, json: bool) {
    let (filter, wrong) = match EnvFilter::try_new(filter) {
        Ok(filter) => (filter, None),
        Err(error) => (EnvFilter::new("info"), Some(error)),
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, as in tests, keeps the first subscriber.
    let _ = if json { builder.json().try_init() } else { builder.with_target(false).try_init() };
    if let Some(error) = wrong {
        tracing::warn!(%error, "the log filter cannot be understood: `info` is used");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_is_understood_or_refused() {
        for filter in ["info", "", "off", "sluice::paywall=debug,info", "warn,sluice=trace"] {
            assert_eq!(check_filter(filter), Ok(()), "{filter}");
        }
        for filter in ["sluice=loud", "info,,=", "sluice=debug=info"] {
            let why = check_filter(filter).expect_err(filter);
            assert!(!why.is_empty() && !why.contains('\n'), "{filter}: {why}");
        }
    }
}
