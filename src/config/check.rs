//! What no type can say of a value: bounds, and values that must fit each other. Each line names the
//! key and the mend, so that a wrong value stops the start and not, hours later, a sale or a payout.

use std::fmt::Display;
use std::ops::RangeInclusive;

use super::{Config, Error, Log};
use crate::lightning::Network;
use crate::payout::AMOUNT_MIN;
use crate::paywall::limits::LATE_SECONDS;
use crate::{http, library, media, payout, paywall, telemetry};

/// x264's presets, from the fastest to the smallest result.
const PRESETS: [&str; 10] = [
    "ultrafast",
    "superfast",
    "veryfast",
    "faster",
    "fast",
    "medium",
    "slow",
    "slower",
    "veryslow",
    "placebo",
];
/// Heights that are no slip of the pen: from 16 lines to 8K.
const HEIGHTS: RangeInclusive<u32> = 16..=4_320;
/// Beside the audio-only rendition these are what the worker's parent accepts.
const HEIGHTS_MAX: usize = 15;
/// What a worker gets at least: decoder, encoders and their threads share it.
const WORKER_BYTES_MIN: u64 = 1 << 30;

impl Config {
    /// What no type can say.
    ///
    /// # Errors
    /// [`Error`]: one line that names the key and the mend.
    pub fn check(&self) -> Result<(), Error> {
        check_log(&self.log)
            .and_then(|()| check_http(&self.http))
            .and_then(|()| check_payment(&self.payment))
            .and_then(|()| check_payout(&self.payout, self.lightning.network))
            .and_then(|()| check_library(&self.library))
            .and_then(|()| check_uploads(&self.uploads))
            .and_then(|()| check_media(&self.media))
            .map_err(Error)
    }
}

fn check_log(log: &Log) -> Result<(), String> {
    telemetry::check_filter(&log.filter).map_err(|why| {
        format!(
            "log.filter: `{}`: {why}: write it in the syntax of RUST_LOG, such as `info` or \
             `sluice::paywall=debug,info`",
            log.filter.escape_debug()
        )
    })
}

fn check_http(http: &http::Options) -> Result<(), String> {
    let usual = http::Options::default();
    at_least("http.connections_max", http.connections_max, 1, usual.connections_max)?;
    let (of_one, usual_of_one) =
        (http.connections_per_client_max, usual.connections_per_client_max);
    at_least("http.connections_per_client_max", of_one, 1, usual_of_one)?;
    between("http.header_seconds", http.header_seconds, 1..=600, usual.header_seconds)?;
    between("http.document_seconds", http.document_seconds, 1..=600, usual.document_seconds)?;
    let (header, usual_header) = (http.header_bytes_max, usual.header_bytes_max);
    // An L402 credential has some 600 bytes; what browsers send beside it is larger.
    between("http.header_bytes_max", header, 8_192..=1 << 20, usual_header)?;
    between("http.stall_seconds", http.stall_seconds, 5..=3_600, usual.stall_seconds)?;
    at_least("http.body_bytes_max", http.body_bytes_max, 16 << 20, usual.body_bytes_max)?;
    if http.listen.ip().is_loopback() || !http.trusted_proxies.is_empty() {
        return Ok(());
    }
    refuse(
        "http.listen is not a loopback address: keys and payments would travel in the clear. \
         Listen on 127.0.0.1 behind a proxy that speaks HTTPS, or name that proxy in \
         http.trusted_proxies",
    )
}

fn check_payment(payment: &paywall::Options) -> Result<(), String> {
    let usual = paywall::Options::default();
    let paywall::Options {
        invoice_expiry_seconds,
        replay_seconds,
        redeem_seconds,
        sessions_max,
        session_seconds,
        ..
    } = *payment;
    payment.granularity()?;
    payment.fee()?;
    // A wallet needs time to find a route; a day old, the price of a title is no offer any more.
    let (expiry, usual_expiry) = (invoice_expiry_seconds, usual.invoice_expiry_seconds);
    between("payment.invoice_expiry_seconds", expiry, 30..=86_400, usual_expiry)?;
    // Credit that is not redeemed by then goes to the creators. A session draws on what was paid at its beginning and late, up to four hours after
    // an invoice expired, until its end: before that nothing of it may run out.
    let redeem_min = session_seconds.saturating_add(u64::from(expiry)).saturating_add(LATE_SECONDS);
    if redeem_seconds < redeem_min {
        return Err(format!(
            "payment.redeem_seconds = {redeem_seconds} is less than {redeem_min}, which \
             payment.session_seconds and payment.invoice_expiry_seconds need: raise it (default {}), \
             or shorten sessions",
            usual.redeem_seconds
        ));
    }
    // Without a grace a player that asks for a range, or asks again, would pay twice.
    let (replay, usual_replay) = (replay_seconds, usual.replay_seconds);
    between("payment.replay_seconds", replay, 1..=redeem_seconds, usual_replay)?;
    at_least("payment.sessions_max", sessions_max, 1, usual.sessions_max)?;
    for (key, value, usual) in [
        ("unpaid_max", usize::try_from(payment.unpaid_max).unwrap_or(usize::MAX), 200_000),
        ("sessions_per_client_max", payment.sessions_per_client_max, usual.sessions_per_client_max),
        ("streams_max", payment.streams_max, usual.streams_max),
        ("streams_per_client_max", payment.streams_per_client_max, usual.streams_per_client_max),
        ("held_max", payment.held_max, usual.held_max),
        ("held_per_client_max", payment.held_per_client_max, usual.held_per_client_max),
    ] {
        at_least(&format!("payment.{key}"), value, 1, usual)?;
    }
    at_least("payment.session_seconds", session_seconds, 60, usual.session_seconds)
}

fn check_payout(payout: &payout::Options, network: Network) -> Result<(), String> {
    if payout.lnurl_allow_loopback && network == Network::Mainnet {
        return refuse(
            "payout.lnurl_allow_loopback lets creators call this machine's own services, without HTTPS: it is for \
             tests alone. Take it away on mainnet",
        );
    }
    let usual = payout::Options::default();
    at_least("payout.interval_seconds", payout.interval_seconds, 1, usual.interval_seconds)?;
    between("payout.fee_max_ppm", payout.fee_max_ppm, 0..=999_999, usual.fee_max_ppm)?;
    let threshold = payout.threshold_msat;
    let part = u128::from(threshold) * u128::from(payout.fee_max_ppm) / 1_000_000;
    let fee = part.max(payout.fee_max_floor_msat.into());
    if u128::from(threshold) < fee + u128::from(AMOUNT_MIN.get()) {
        return Err(format!(
            "payout.threshold_msat = {threshold} leaves less than {} msat beside the routing fee \
             of {fee}, and so little is never sent: raise it (default {}), or lower \
             payout.fee_max_ppm or payout.fee_max_floor_msat",
            AMOUNT_MIN.get(),
            usual.threshold_msat
        ));
    }
    Ok(())
}

fn check_library(library: &library::Options) -> Result<(), String> {
    let usual = library::Options::default();
    at_least("library.source_bytes_max", library.source_bytes_max, 1, usual.source_bytes_max)?;
    at_least("library.attempts_max", library.attempts_max, 1, usual.attempts_max)?;
    at_least("library.chunk_seconds", library.chunk_seconds, 10, usual.chunk_seconds)
}

fn check_uploads(uploads: &library::upload::Options) -> Result<(), String> {
    let usual = library::upload::Options::default();
    let (expire, usual_expire) = (uploads.expire_seconds, usual.expire_seconds);
    // A night without a network is no reason to begin anew.
    at_least("uploads.expire_seconds", expire, 60, usual_expire)?;
    at_least(
        "uploads.spool_bytes_per_creator_max",
        uploads.spool_bytes_per_creator_max,
        1,
        usual.spool_bytes_per_creator_max,
    )?;
    for (key, value, usual) in [
        (
            "unfinished_per_creator_max",
            uploads.unfinished_per_creator_max,
            usual.unfinished_per_creator_max,
        ),
        ("at_once_per_creator_max", uploads.at_once_per_creator_max, usual.at_once_per_creator_max),
    ] {
        at_least(&format!("uploads.{key}"), value, 1, usual)?;
    }
    // Each has a thread of its own, of which there are 512.
    between("uploads.at_once_max", uploads.at_once_max, 1..=256, usual.at_once_max)?;
    let rate = uploads.bytes_per_second_per_creator_max;
    if rate != 0 && rate < 1_024 {
        return refuse(
            "uploads.bytes_per_second_per_creator_max must be 0 (no limit) or 1024 at least (default 0)",
        );
    }
    Ok(())
}

/// A plan of more segments would not fit into a worker's task.
const SEGMENTS_MAX: u32 = 400_000;

fn check_media(media: &media::Options) -> Result<(), String> {
    let usual = media::Options::default();
    between("media.segment_ms", media.segment_ms, 1_000..=60_000, usual.segment_ms)?;
    let ladder = &media.ladder;
    if !(1..=HEIGHTS_MAX).contains(&ladder.len())
        || !ladder.iter().all(|height| HEIGHTS.contains(height))
        || !ladder.is_sorted_by(|higher, lower| higher > lower)
    {
        return Err(format!(
            "media.ladder must name 1 to {HEIGHTS_MAX} heights between {} and {}, highest first \
             and each once (default {:?})",
            HEIGHTS.start(),
            HEIGHTS.end(),
            usual.ladder
        ));
    }
    between("media.crf", media.crf, 0..=51, usual.crf)?;
    if !PRESETS.contains(&media.preset.as_str()) {
        return Err(format!(
            "media.preset must be one of {} (default {})",
            PRESETS.join(", "),
            usual.preset
        ));
    }
    let (duration, usual_duration) = (media.duration_max_seconds, usual.duration_max_seconds);
    at_least("media.duration_max_seconds", duration, 1, usual_duration)?;
    at_least("media.pixels_max", media.pixels_max, 1, usual.pixels_max)?;
    at_least("media.output_max_bytes", media.output_max_bytes, 1 << 20, usual.output_max_bytes)?;
    between("media.segments_max", media.segments_max, 1..=SEGMENTS_MAX, usual.segments_max)?;
    let (memory, usual_memory) = (media.memory_max_bytes, usual.memory_max_bytes);
    at_least("media.memory_max_bytes", memory, WORKER_BYTES_MIN, usual_memory)?;
    at_least("media.cpu_max_seconds", media.cpu_max_seconds, 1, usual.cpu_max_seconds)?;
    at_least("media.piece_max_seconds", media.piece_max_seconds, 60, usual.piece_max_seconds)
}

fn at_least<T: PartialOrd + Display>(
    key: &str,
    value: T,
    least: T,
    usual: T,
) -> Result<(), String> {
    if value >= least {
        return Ok(());
    }
    Err(format!("{key} must be {least} at least (default {usual})"))
}

fn between<T: PartialOrd + Display>(
    key: &str,
    value: T,
    range: RangeInclusive<T>,
    usual: T,
) -> Result<(), String> {
    if range.contains(&value) {
        return Ok(());
    }
    let (least, most) = (range.start(), range.end());
    Err(format!("{key} must lie between {least} and {most} (default {usual})"))
}

fn refuse(line: &str) -> Result<(), String> {
    Err(line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Change = fn(&mut Config);

    fn checked(change: Change) -> Result<(), Error> {
        let mut config = Config::default();
        change(&mut config);
        config.check()
    }

    #[test]
    fn a_value_out_of_bounds_is_named_with_the_mend() {
        let wrong: [(&str, Change); 53] = [
            ("log.filter", |c| c.log.filter = "sluice=loud".into()),
            ("http.listen", |c| c.http.listen = ([0, 0, 0, 0], 80).into()),
            ("http.connections_max", |c| c.http.connections_max = 0),
            ("http.connections_per_client_max", |c| c.http.connections_per_client_max = 0),
            ("http.header_seconds", |c| c.http.header_seconds = 0),
            ("http.header_bytes_max", |c| c.http.header_bytes_max = 8_191),
            ("http.stall_seconds", |c| c.http.stall_seconds = 4),
            ("http.body_bytes_max", |c| c.http.body_bytes_max = 1 << 20),
            ("payment.unpaid_max", |c| c.payment.unpaid_max = 0),
            ("payment.sessions_per_client_max", |c| c.payment.sessions_per_client_max = 0),
            ("payment.streams_max", |c| c.payment.streams_max = 0),
            ("payment.streams_per_client_max", |c| c.payment.streams_per_client_max = 0),
            ("payment.held_max", |c| c.payment.held_max = 0),
            ("payment.held_per_client_max", |c| c.payment.held_per_client_max = 0),
            ("payment.granularity_msat", |c| c.payment.granularity_msat = 0),
            ("payment.fee_ppm", |c| c.payment.fee_ppm = 1_000_001),
            ("payment.invoice_expiry_seconds", |c| c.payment.invoice_expiry_seconds = 29),
            ("payment.invoice_expiry_seconds", |c| c.payment.invoice_expiry_seconds = 86_401),
            ("payment.redeem_seconds", |c| c.payment.redeem_seconds = 3_599),
            ("payment.replay_seconds", |c| c.payment.replay_seconds = 0),
            ("payment.replay_seconds", |c| c.payment.replay_seconds = 7 * 86_400 + 1),
            ("payment.sessions_max", |c| c.payment.sessions_max = 0),
            ("payment.session_seconds", |c| c.payment.session_seconds = 59),
            ("payout.interval_seconds", |c| c.payout.interval_seconds = 0),
            ("payout.fee_max_ppm", |c| c.payout.fee_max_ppm = 1_000_000),
            ("payout.fee_max_ppm", |c| c.payout.fee_max_ppm = 999_999),
            ("payout.threshold_msat", |c| c.payout.threshold_msat = 1_999),
            ("payout.fee_max_floor_msat", |c| c.payout.fee_max_floor_msat = u64::MAX),
            ("library.source_bytes_max", |c| c.library.source_bytes_max = 0),
            ("library.attempts_max", |c| c.library.attempts_max = 0),
            ("library.chunk_seconds", |c| c.library.chunk_seconds = 9),
            ("uploads.expire_seconds", |c| c.uploads.expire_seconds = 59),
            ("uploads.spool_bytes_per_creator_max", |c| c.uploads.spool_bytes_per_creator_max = 0),
            ("uploads.unfinished_per_creator_max", |c| c.uploads.unfinished_per_creator_max = 0),
            ("uploads.at_once_per_creator_max", |c| c.uploads.at_once_per_creator_max = 0),
            ("uploads.at_once_max", |c| c.uploads.at_once_max = 0),
            ("uploads.at_once_max", |c| c.uploads.at_once_max = 257),
            ("uploads.bytes_per_second_per_creator_max", |c| {
                c.uploads.bytes_per_second_per_creator_max = 1_023;
            }),
            ("media.segment_ms", |c| c.media.segment_ms = 999),
            ("media.output_max_bytes", |c| c.media.output_max_bytes = 0),
            ("media.segments_max", |c| c.media.segments_max = 0),
            ("media.piece_max_seconds", |c| c.media.piece_max_seconds = 59),
            ("media.ladder", |c| c.media.ladder.clear()),
            ("media.ladder", |c| c.media.ladder = vec![15]),
            ("media.ladder", |c| c.media.ladder = vec![4_321]),
            ("media.ladder", |c| c.media.ladder = vec![480, 480]),
            ("media.ladder", |c| c.media.ladder = (16..32).rev().collect()),
            ("media.crf", |c| c.media.crf = 52),
            ("media.preset", |c| c.media.preset = "quick".into()),
            ("media.duration_max_seconds", |c| c.media.duration_max_seconds = 0),
            ("media.pixels_max", |c| c.media.pixels_max = 0),
            ("media.memory_max_bytes", |c| c.media.memory_max_bytes = WORKER_BYTES_MIN - 1),
            ("media.cpu_max_seconds", |c| c.media.cpu_max_seconds = 0),
        ];
        for (key, change) in wrong {
            let line = checked(change).expect_err(key).to_string();
            assert!(line.contains(key) && !line.contains('\n'), "{key}: {line}");
            // Every line says what would do.
            let mend = ["(default ", "such as", "0 to", "or name"];
            assert!(mend.iter().any(|word| line.contains(word)), "{key}: {line}");
        }
    }

    #[test]
    fn the_outermost_values_will_do() {
        let right: [Change; 8] = [
            |_| {},
            |c| c.payment.replay_seconds = c.payment.redeem_seconds,
            |c| c.payment.invoice_expiry_seconds = 86_400,
            |c| c.payout.threshold_msat = 2_000,
            |c| c.payout.interval_seconds = 1,
            |c| c.media.ladder = vec![4_320, 16],
            |c| c.media.crf = 0,
            |c| c.media.preset = "placebo".into(),
        ];
        for change in right {
            assert_eq!(checked(change), Ok(()));
        }
    }
}
