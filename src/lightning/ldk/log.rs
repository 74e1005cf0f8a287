//! LDK's log lines as `tracing` events of the target `ldk`.

use std::borrow::Cow;

use ldk_node::logger::{LogRecord, LogWriter};
use lightning::util::logger::Level;

/// Passes LDK's lines on. Levels `TRACE` and `GOSSIP` are dropped: they hold whole messages, and
/// with them preimages.
pub(super) struct Log;

impl LogWriter for Log {
    fn log(&self, record: LogRecord<'_>) {
        // `tracing` wants the level when it is compiled.
        macro_rules! event {
            ($level:ident) => {
                if tracing::enabled!(target: "ldk", tracing::Level::$level) {
                    let text = record.args.to_string();
                    tracing::event!(
                        target: "ldk",
                        tracing::Level::$level,
                        module = record.module_path,
                        "{}",
                        without_preimage(&text)
                    )
                }
            };
        }
        match worth(&record) {
            Some(tracing::Level::ERROR) => event!(ERROR),
            Some(tracing::Level::WARN) => event!(WARN),
            Some(tracing::Level::INFO) => event!(INFO),
            Some(_) => event!(DEBUG),
            None => {}
        }
    }
}

/// LDK names the preimage of each claim at `DEBUG`, and of those that it cannot replay at `ERROR`.
fn without_preimage(text: &str) -> Cow<'_, str> {
    const DIGITS: usize = 64;
    let secret = text.split_once("preimage ").and_then(|(before, after)| {
        let digits = after.bytes().take_while(u8::is_ascii_hexdigit).count();
        (digits >= DIGITS).then(|| (before, after.get(digits..).unwrap_or_default()))
    });
    match secret {
        Some((before, after)) => Cow::Owned(format!("{before}preimage (hidden){after}")),
        None => Cow::Borrowed(text),
    }
}

/// Lines that LDK writes at `INFO` for each payment.
const PER_PAYMENT: [&str; 8] = [
    "Received payment from payment hash",
    "Claimed payment with ID",
    "Initiated sending",
    "Successfully sent payment",
    "Failed to send payment",
    "Forwarded payment",
    "Ignoring late payment failure",
    "Refused ",
];

/// How much a line matters to an operator, who acts on errors only.
fn worth(record: &LogRecord<'_>) -> Option<tracing::Level> {
    match record.level {
        Level::Gossip | Level::Trace => None,
        Level::Debug => Some(tracing::Level::DEBUG),
        Level::Warn => Some(tracing::Level::WARN),
        // LDK proper tells of each route, commitment and monitor update here.
        Level::Info if record.module_path.starts_with("lightning") => Some(tracing::Level::DEBUG),
        Level::Info if starts_with_any(record, &PER_PAYMENT) => Some(tracing::Level::DEBUG),
        Level::Info => Some(tracing::Level::INFO),
        Level::Error if is_harmless(record) => None,
        // A test network has no fee market; on mainnet the line ends otherwise and is an error.
        Level::Error if record.args.to_string().contains(". Falling back to default") => {
            Some(tracing::Level::DEBUG)
        }
        // Whoever asked for the payment gets the error and tells it.
        Level::Error if is_of_sending(record) => Some(tracing::Level::DEBUG),
        // A peer that is away is tried again; whoever asked for the connection gets the error.
        Level::Error if record.module_path.starts_with("ldk_node::connection") => {
            Some(tracing::Level::INFO)
        }
        Level::Error => Some(tracing::Level::ERROR),
    }
}

/// Each payment of an invoice that was minted beside the node makes ldk-node look for a record that
/// it never had.
fn is_harmless(record: &LogRecord<'_>) -> bool {
    record.module_path.starts_with("ldk_node::event")
        && record.args.to_string().ends_with("couldn't be found in store")
}

fn is_of_sending(record: &LogRecord<'_>) -> bool {
    ["ldk_node::payment", "lightning::ln::outbound_payment"]
        .iter()
        .any(|module| record.module_path.starts_with(module))
}

fn starts_with_any(record: &LogRecord<'_>, beginnings: &[&str]) -> bool {
    let text = record.args.to_string();
    beginnings.iter().any(|beginning| text.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(level: Level, module: &'static str, text: &str) -> Option<tracing::Level> {
        worth(&LogRecord { level, args: format_args!("{text}"), module_path: module, line: 1 })
    }

    #[test]
    fn noise_stays_below_info_and_errors_stay_errors() {
        let lost = "Claimed payment with ID 00 couldn't be found in store";
        assert_eq!(line(Level::Error, "ldk_node::event", lost), None);
        let paid = "Received payment from payment hash 00 of 1000msat";
        assert_eq!(line(Level::Info, "ldk_node::event", paid), Some(tracing::Level::DEBUG));
        assert_eq!(line(Level::Trace, "lightning::ln::peer_handler", "{preimage}"), None);
        let closed = "Failed to push to event queue";
        assert_eq!(line(Level::Error, "ldk_node::event", closed), Some(tracing::Level::ERROR));
        let fees =
            "Failed to retrieve fee rate estimates: []. Falling back to default of 1 sat/vb.";
        let chain = "ldk_node::chain::bitcoind";
        assert_eq!(line(Level::Error, chain, fees), Some(tracing::Level::DEBUG));
        let route = "Failed to find route for payment with id 00";
        let sending = "lightning::ln::outbound_payment";
        assert_eq!(line(Level::Error, sending, route), Some(tracing::Level::DEBUG));
        let update = "Applying update to monitor 00";
        let monitor = "lightning::chain::channelmonitor";
        assert_eq!(line(Level::Info, monitor, update), Some(tracing::Level::DEBUG));
        let start = "Startup complete.";
        assert_eq!(line(Level::Info, "ldk_node", start), Some(tracing::Level::INFO));
    }
    #[test]
    fn a_preimage_is_hidden() {
        let preimage = "7a".repeat(32);
        let line = format!("Claiming inbound HTLC id 20 with preimage {preimage} now");
        assert_eq!(
            without_preimage(&line),
            "Claiming inbound HTLC id 20 with preimage (hidden) now"
        );
        let line = format!("We need to replay it (preimage {preimage})");
        assert_eq!(without_preimage(&line), "We need to replay it (preimage (hidden))");
        for line in ["", "preimage unknown", "preimage "] {
            assert_eq!(without_preimage(line), line);
        }
    }
}
