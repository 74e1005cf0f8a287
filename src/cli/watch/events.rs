//! Reads the session's stream of server-sent events, with a bound on everything. Pure.

use serde::Deserialize;

use crate::domain::amount::Msat;
use crate::domain::id::{PaymentHash, SegmentNumber};

/// A bundle of sixty segments and the longest invoice are a tenth of it.
const EVENT_BYTES_MAX: usize = 64 << 10;
/// An id is sent back in a header.
const ID_BYTES_MAX: usize = 64;
/// A film of a day asks for fewer segments at once.
const EVENTS_PER_MINUTE_MAX: u32 = 50_000;
/// Heartbeats and events of any film fit many times.
const BYTES_PER_MINUTE_MAX: usize = 32 << 20;
const MINUTE_MS: u64 = 60_000;

/// An invoice for segments.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct Offer {
    /// What it is planned for.
    pub(super) segments: Vec<SegmentNumber>,
    /// What it is announced to ask.
    pub(super) amount_msat: Msat,
    /// The BOLT 11 text.
    pub(super) invoice: String,
    /// Its announced hash.
    pub(super) payment_hash: PaymentHash,
    /// In seconds since the Unix epoch.
    pub(super) expires_at: u64,
}

#[derive(Deserialize)]
struct OfSegment {
    segment: SegmentNumber,
}

#[derive(Deserialize)]
struct OfPayment {
    payment_hash: PaymentHash,
}

/// What a session tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// Pay this.
    Invoice(Offer),
    /// The server has this money.
    Paid(PaymentHash),
    /// The player waits for a segment.
    Waiting(SegmentNumber),
    /// A segment goes out.
    Served(SegmentNumber),
    /// The player jumped.
    Seek(SegmentNumber),
    /// No further invoice.
    End,
}

/// Puts events together from the bytes of one connection.
#[derive(Debug, Default)]
pub(super) struct Reader {
    line: Vec<u8>,
    name: String,
    data: String,
    id: Option<String>,
    last_id: Option<String>,
    minute_began_ms: u64,
    events: u32,
    bytes: usize,
}

impl Reader {
    /// A new connection that resumes after the last id.
    pub(super) fn resumed(self) -> Self {
        Self {
            last_id: self.last_id,
            minute_began_ms: self.minute_began_ms,
            events: self.events,
            bytes: self.bytes,
            ..Self::default()
        }
    }

    /// The id to resume after.
    pub(super) fn last_id(&self) -> Option<&str> {
        self.last_id.as_deref()
    }

    /// The events that are whole with these bytes.
    ///
    /// # Errors
    /// A sentence where the server sends what no server of ours sends: there is no reading on.
    pub(super) fn push(&mut self, bytes: &[u8], now_ms: u64) -> Result<Vec<Event>, String> {
        if now_ms.saturating_sub(self.minute_began_ms) >= MINUTE_MS {
            (self.minute_began_ms, self.events, self.bytes) = (now_ms, 0, 0);
        }
        self.bytes = self.bytes.saturating_add(bytes.len());
        let mut events = Vec::new();
        for byte in bytes {
            if *byte != b'\n' {
                self.line.push(*byte);
                if self.line.len() > EVENT_BYTES_MAX {
                    return Err("the server sends an event that is larger than any".to_owned());
                }
                continue;
            }
            let line = std::mem::take(&mut self.line);
            let line = std::str::from_utf8(&line).map_err(|_| "the server sends no text")?;
            if let Some(event) = self.line(line.trim_end_matches('\r'))? {
                events.push(event);
                self.events = self.events.saturating_add(1);
            }
            if self.events > EVENTS_PER_MINUTE_MAX || self.bytes > BYTES_PER_MINUTE_MAX {
                return Err("the server floods the stream of invoices".to_owned());
            }
        }
        if self.bytes > BYTES_PER_MINUTE_MAX {
            return Err("the server floods the stream of invoices".to_owned());
        }
        Ok(events)
    }

    fn line(&mut self, line: &str) -> Result<Option<Event>, String> {
        if line.is_empty() {
            return self.whole();
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut self.name),
            "data" => {
                if !self.data.is_empty() {
                    self.data.push('\n');
                }
                self.data.push_str(value);
                if self.data.len() > EVENT_BYTES_MAX {
                    return Err("the server sends an event that is larger than any".to_owned());
                }
            }
            "id" if value.len() <= ID_BYTES_MAX && value.bytes().all(|b| b.is_ascii_graphic()) => {
                self.id = Some(value.to_owned());
            }
            _ => {}
        }
        Ok(None)
    }

    fn whole(&mut self) -> Result<Option<Event>, String> {
        let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        if let Some(id) = self.id.take() {
            self.last_id = Some(id);
        }
        let bad = |_| format!("the server sends an event `{name}` that cannot be read");
        let segment = || serde_json::from_str::<OfSegment>(&data).map(|of| of.segment).map_err(bad);
        Ok(Some(match name.as_str() {
            "invoice" => Event::Invoice(serde_json::from_str(&data).map_err(bad)?),
            "paid" => {
                Event::Paid(serde_json::from_str::<OfPayment>(&data).map_err(bad)?.payment_hash)
            }
            "waiting" => Event::Waiting(segment()?),
            "served" => Event::Served(segment()?),
            "seek" => Event::Seek(segment()?),
            "end" => Event::End,
            // A heartbeat, or what a later version tells.
            _ => return Ok(None),
        }))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAM: &str = ": hello\r\n\r\nevent: waiting\nid: 7-1\ndata: {\"segment\":3}\n\nevent:served\ndata:{\"segment\":4}\n\nevent: news\ndata: x\n\nevent: end\ndata: {}\n\n";

    proptest! {
        #[test]
        fn events_are_whole_however_their_bytes_arrive(cut in 1_usize..40) {
            let mut reader = Reader::default();
            let mut events = Vec::new();
            for chunk in STREAM.as_bytes().chunks(cut) {
                events.extend(reader.push(chunk, 0).unwrap());
            }
            let expected =
                [Event::Waiting(SegmentNumber(3)), Event::Served(SegmentNumber(4)), Event::End];
            prop_assert_eq!(events, expected);
            let reader = reader.resumed();
            prop_assert_eq!(reader.last_id(), Some("7-1"));
        }

        #[test]
        fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let _ = Reader::default().push(&bytes, 0);
        }
    }

    #[test]
    fn a_huge_event_ends_the_reading_before_it_is_in_memory() {
        let mut reader = Reader::default();
        let chunk = [b'x'; 8_192];
        let taken = (0..1_000).take_while(|_| reader.push(&chunk, 0).is_ok()).count();
        assert!(taken <= 8, "{taken}");
        let mut reader = Reader::default();
        let line = format!("data: {}\n", "x".repeat(1_000));
        let taken = (0..1_000).take_while(|_| reader.push(line.as_bytes(), 0).is_ok()).count();
        assert!(taken <= 66, "{taken}");
    }

    #[test]
    fn an_endless_stream_is_told_from_a_busy_one() {
        let mut reader = Reader::default();
        let event = b"event: waiting\ndata: {\"segment\":1}\n\n";
        let taken = (0..1_000_000).take_while(|_| reader.push(event, 0).is_ok()).count();
        assert_eq!(taken, EVENTS_PER_MINUTE_MAX as usize);
        let mut reader = Reader::default();
        assert!(
            (0..200_u64).all(|minute| {
                (0..1_000).all(|_| reader.push(event, minute * MINUTE_MS).is_ok())
            })
        );
        let mut reader = Reader::default();
        let comment = [b":".repeat(8_000), b"\n".to_vec()].concat();
        let taken = (0..1_000_000).take_while(|_| reader.push(&comment, 0).is_ok()).count();
        assert!(taken <= BYTES_PER_MINUTE_MAX / 8_000, "{taken}");
    }
}
