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

/// What payments do, as `payments` counts them.
const PAYMENTS: [&str; 8] =
    ["applied", "overpaid", "replayed", "repeated", "unclaimed", "proof", "claimed", "deferred"];
/// How payouts end.
const PAYOUTS: [&str; 2] = ["arrived", "returned"];
/// What is refused.
const REFUSALS: [&str; 7] =
    ["connection", "challenge", "session", "stream", "hold", "egress", "memory"];

/// Which side of the channels.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Side {
    side: &'static str,
}

/// What was refused.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct What {
    what: &'static str,
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
    connections: Gauge<i64, AtomicI64>,
    streams: Gauge<i64, AtomicI64>,
    sessions: Gauge<i64, AtomicI64>,
    unpaid: Gauge<i64, AtomicI64>,
    channels: Family<Side, Gauge<i64, AtomicI64>>,
    channels_usable: Gauge<i64, AtomicI64>,
    channel_record: Gauge<i64, AtomicI64>,
    refused: Family<What, Counter>,
    to_payment: Histogram,
    to_bytes: Histogram,
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
        let connections = Gauge::default();
        let streams = Gauge::default();
        let sessions = Gauge::default();
        let unpaid = Gauge::default();
        let channels = Family::<Side, Gauge<i64, AtomicI64>>::default();
        let channels_usable = Gauge::default();
        let channel_record = Gauge::default();
        let refused = Family::<What, Counter>::default();
        let to_payment = Histogram::new([0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0, 600.0]);
        let to_bytes = Histogram::new([0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0, 3_600.0]);
        let channels_closed = Counter::default();
        let payouts = Family::<Outcome, Counter>::default();
        let segments = Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 8.0]);
        registry.register("challenges", "Invoices handed to viewers", challenges.clone());
        registry.register("payments", "Payments in, by what they did", payments.clone());
        registry.register("credited_msat", "Millisatoshi credited", credited.clone());
        registry.register("earned_msat", "Millisatoshi earned", earned.clone());
        registry.register_with_unit("served", "Segment bytes served", Unit::Bytes, bytes.clone());
        registry.register("held_requests", "Requests that wait for a payment", held.clone());
        registry.register("connections", "Connections that are open", connections.clone());
        registry.register("sessions", "Sessions in memory", sessions.clone());
        registry.register("unpaid_invoices", "Invoices kept that are not paid", unpaid.clone());
        let help = "Millisatoshi in usable channels, by side; pending is on its way";
        registry.register("channels_msat", help, channels.clone());
        registry.register("channels_usable", "Channels that can be used", channels_usable.clone());
        let help =
            "The longest record that the node keeps of a channel; it grows with each payment";
        let unit = Unit::Bytes;
        registry.register_with_unit("channel_record", help, unit, channel_record.clone());
        registry.register("invoice_streams", "Wallets that follow a session", streams.clone());
        registry.register(
            "refused",
            "What was refused for want of room or for haste",
            refused.clone(),
        );
        let help = "Time from an invoice to its payment";
        registry.register_with_unit(
            "challenge_to_payment",
            help,
            Unit::Seconds,
            to_payment.clone(),
        );
        let help = "Time from a payment to its first byte served";
        registry.register_with_unit("payment_to_bytes", help, Unit::Seconds, to_bytes.clone());
        registry.register("channels_closed", "Channels that closed", channels_closed.clone());
        registry.register("payouts", "Payouts, by outcome", payouts.clone());
        let help = "Time from a segment's request to its answer";
        registry.register_with_unit("segment", help, Unit::Seconds, segments.clone());
        // Told from the start, so that a rate begins at nothing and an alert has something to look at.
        for outcome in PAYMENTS {
            let _ = payments.get_or_create(&Outcome { outcome });
        }
        for outcome in PAYOUTS {
            let _ = payouts.get_or_create(&Outcome { outcome });
        }
        for what in REFUSALS {
            let _ = refused.get_or_create(&What { what });
        }
        Self {
            registry: Arc::new(registry),
            challenges,
            payments,
            credited,
            earned,
            bytes,
            held,
            connections,
            streams,
            sessions,
            unpaid,
            channels,
            channels_usable,
            channel_record,
            refused,
            to_payment,
            to_bytes,
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
    pub fn served(&self, after: Duration) {
        self.segments.observe(after.as_secs_f64());
    }

    /// Bytes of a segment went out.
    pub fn sent(&self, bytes: u64) {
        self.bytes.inc_by(bytes);
    }

    /// A request waits until the guard is dropped.
    pub fn hold(&self) -> Held {
        Held::new(&self.held)
    }

    /// A connection is open until the guard is dropped.
    pub fn connection(&self) -> Held {
        Held::new(&self.connections)
    }

    /// A wallet follows a session until the guard is dropped.
    pub fn stream(&self) -> Held {
        Held::new(&self.streams)
    }

    /// Something was refused for want of room or for haste: a `connection`, `challenge`, `session`, `stream`, `hold` or `egress`.
    pub fn refused(&self, what: &'static str) {
        self.refused.get_or_create(&What { what }).inc();
    }

    /// A payment came so long after its invoice was made.
    pub fn paid_after(&self, wait: Duration) {
        self.to_payment.observe(wait.as_secs_f64());
    }

    /// The first byte went so long after its payment was booked.
    pub fn served_after(&self, wait: Duration) {
        self.to_bytes.observe(wait.as_secs_f64());
    }

    /// A channel closed.
    pub fn channel_closed(&self) {
        self.channels_closed.inc();
    }

    /// A payout ended.
    pub fn payout(&self, outcome: &'static str) {
        self.payouts.get_or_create(&Outcome { outcome }).inc();
    }

    /// What is counted when it is asked for: sessions in memory and unpaid invoices.
    pub fn kept(&self, sessions: usize, unpaid: u64) {
        self.sessions.set(i64::try_from(sessions).unwrap_or(i64::MAX));
        self.unpaid.set(i64::try_from(unpaid).unwrap_or(i64::MAX));
    }

    /// What the usable channels hold, when it is asked for: inbound, outbound and pending.
    pub fn channels(&self, usable: usize, sides: [(&'static str, u64); 3]) {
        self.channels_usable.set(i64::try_from(usable).unwrap_or(i64::MAX));
        for (side, msat) in sides {
            let gauge = self.channels.get_or_create(&Side { side });
            gauge.set(i64::try_from(msat).unwrap_or(i64::MAX));
        }
    }

    /// The longest record that the node keeps of a channel, when it is asked for.
    pub fn channel_record(&self, bytes: u64) {
        self.channel_record.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// All of it in the OpenMetrics text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

/// Something that is counted while it lasts.
#[derive(Debug)]
pub struct Held(Gauge<i64, AtomicI64>);

impl Held {
    fn new(gauge: &Gauge<i64, AtomicI64>) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

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
