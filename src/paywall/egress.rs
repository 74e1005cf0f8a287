//! The egress allowance: what is paid once may be fetched again (ranges, retries, other renditions), but not without bound.
//!
//! Kept in memory: after a restart an allowance begins anew, as a grace may after a power cut.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::domain::id::{PaymentHash, SegmentNumber, SessionId};
use crate::runtime::lock;

/// How often a segment may be fetched for one payment, counted in bytes of its largest rendition.
const TIMES: u64 = 3;
/// Responses of one purchase at once: a player's retry beside its first try, twice over.
const AT_ONCE: u32 = 4;
/// What a response counts at least: one of few bytes is work as well.
const RESPONSE_BYTES: u64 = 4 << 10;
/// What is over is looked for when the number of entries has doubled since, from here on.
const SWEEP_FROM: usize = 1_024;

/// What was bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bought {
    /// A segment by a payment of its own.
    Payment(PaymentHash),
    /// A segment within a session.
    InSession(SessionId, SegmentNumber),
}

/// Who fetched how much of what.
#[derive(Debug, Clone)]
pub struct Egress {
    used: Arc<Mutex<Used>>,
    /// For so long a payment's segment is served, and after this an allowance within a session is whole again.
    refill_ms: u64,
}

#[derive(Debug, Default)]
struct Used {
    of: HashMap<Bought, Use>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Use {
    bytes: u64,
    open: u32,
    since_ms: u64,
    last_ms: u64,
}

impl Use {
    fn fresh(now_ms: u64) -> Self {
        Self { bytes: 0, open: 0, since_ms: now_ms, last_ms: now_ms }
    }

    /// Whether an allowance begins anew. That of a payment never does within the grace, which begins a little after the allowance: it lasts as
    /// long again after what was let through last, when no grace is left.
    const fn is_over(&self, bought: Bought, now_ms: u64, refill_ms: u64) -> bool {
        match bought {
            Bought::InSession(..) => now_ms.saturating_sub(self.since_ms) >= refill_ms,
            Bought::Payment(_) => {
                now_ms.saturating_sub(self.last_ms) >= refill_ms.saturating_mul(2)
            }
        }
    }
}

/// The allowance is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UsedUp {
    /// When it may be asked for again.
    pub retry_after: Duration,
}

impl Egress {
    /// Where what is paid once is served for so many milliseconds, and in a session with an allowance for each of such times.
    pub fn new(refill_ms: u64) -> Self {
        Self { used: Arc::default(), refill_ms }
    }

    /// Lets a response of `len` bytes through, of a segment whose largest rendition has `largest`.
    ///
    /// # Errors
    /// [`UsedUp`] where it would be more than the allowance, or more responses at once.
    pub fn enter(
        &self,
        bought: Bought,
        len: u64,
        largest: u64,
        now_ms: u64,
    ) -> Result<Passage, UsedUp> {
        let mut used = lock(&self.used);
        used.sweep(now_ms, self.refill_ms);
        let of = used.of.entry(bought).or_insert_with(|| Use::fresh(now_ms));
        if of.is_over(bought, now_ms, self.refill_ms) {
            (of.bytes, of.since_ms) = (0, now_ms);
        }
        if of.open >= AT_ONCE {
            return Err(UsedUp { retry_after: Duration::from_secs(1) });
        }
        let bytes = of.bytes.saturating_add(len.max(RESPONSE_BYTES));
        if bytes > largest.max(len).max(RESPONSE_BYTES).saturating_mul(TIMES) {
            // Of a payment nothing is left then, and another buys it.
            let until = of.since_ms.saturating_add(self.refill_ms).max(now_ms.saturating_add(1));
            return Err(UsedUp {
                retry_after: Duration::from_millis(until.saturating_sub(now_ms)),
            });
        }
        (of.bytes, of.last_ms) = (bytes, now_ms);
        of.open = of.open.saturating_add(1);
        // What was counted beyond its length is not given back: an answer that was not read is work as well.
        let unsent = len.saturating_sub(RESPONSE_BYTES);
        Ok(Passage { used: Arc::clone(&self.used), bought, unsent, since_ms: of.since_ms })
    }
}

impl Used {
    /// Forgets what is over, each time that there are twice as many as were left.
    fn sweep(&mut self, now_ms: u64, refill_ms: u64) {
        if self.of.len() < self.sweep_at.max(SWEEP_FROM) {
            return;
        }
        self.of.retain(|bought, of| of.open > 0 || !of.is_over(*bought, now_ms, refill_ms));
        self.of.shrink_to(SWEEP_FROM);
        self.sweep_at = self.of.len().saturating_mul(2);
    }
}

/// A response under way; what it did not send is given back when it is dropped.
#[derive(Debug)]
pub struct Passage {
    used: Arc<Mutex<Used>>,
    bought: Bought,
    unsent: u64,
    /// The allowance that it counts against: one that was refilled since gets nothing back.
    since_ms: u64,
}

impl Passage {
    /// So much of it was sent.
    pub const fn sent(&mut self, bytes: u64) {
        self.unsent = self.unsent.saturating_sub(bytes);
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        if let Some(of) = lock(&self.used).of.get_mut(&self.bought) {
            if of.since_ms == self.since_ms {
                of.bytes = of.bytes.saturating_sub(self.unsent);
            }
            of.open = of.open.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYMENT: Bought = Bought::Payment(PaymentHash::new([1; 32]));
    const SEGMENT: Bought = Bought::InSession(SessionId::new(uuid::Uuid::nil()), SegmentNumber(1));
    const REFILL_MS: u64 = 60_000;

    const LARGEST: u64 = 100 * RESPONSE_BYTES;

    fn sent(egress: &Egress, len: u64, sent: u64, now_ms: u64) -> Result<(), UsedUp> {
        let mut passage = egress.enter(SEGMENT, len, LARGEST, now_ms)?;
        passage.sent(sent);
        Ok(())
    }

    #[test]
    fn a_segment_is_fetched_three_times_and_then_no_more_until_the_refill() {
        let egress = Egress::new(REFILL_MS);
        for _ in 0..3 {
            sent(&egress, LARGEST, LARGEST, 0).unwrap();
        }
        let used_up = sent(&egress, 1, 1, 20_000).unwrap_err();
        assert_eq!(used_up.retry_after, Duration::from_secs(40));
        assert!(sent(&egress, 1, 1, REFILL_MS - 1).is_err());
        sent(&egress, LARGEST, LARGEST, REFILL_MS).unwrap();
        for _ in 0..2 {
            sent(&egress, LARGEST, LARGEST, 2 * REFILL_MS - 1).unwrap();
        }
        assert!(sent(&egress, 1, 1, 2 * REFILL_MS - 1).is_err(), "it begins where the last ended");
    }

    #[test]
    fn the_allowance_of_a_payment_is_not_refilled_within_its_grace() {
        let egress = Egress::new(REFILL_MS);
        for n in 0..3 {
            let mut passage = egress.enter(PAYMENT, LARGEST, LARGEST, n).unwrap();
            passage.sent(LARGEST);
        }
        // The grace began after the first of them, by as much as its redemption took, and its last millisecond counts.
        for late in 0..1_000 {
            assert!(egress.enter(PAYMENT, 1, LARGEST, REFILL_MS + late).is_err(), "{late}");
        }
        assert!(egress.enter(PAYMENT, 1, LARGEST, 2 + 2 * REFILL_MS).is_ok(), "it is forgotten");
    }

    #[test]
    fn smaller_renditions_count_by_their_bytes_and_what_was_not_sent_does_not() {
        let egress = Egress::new(REFILL_MS);
        for _ in 0..10 {
            sent(&egress, LARGEST, 0, 0).unwrap();
        }
        for _ in 0..29 {
            sent(&egress, LARGEST / 10, LARGEST / 10, 0).unwrap();
        }
        assert!(sent(&egress, LARGEST / 10, 0, 0).is_err(), "ten answers of nothing count one");
    }

    #[test]
    fn a_response_of_few_bytes_is_not_free() {
        let egress = Egress::new(REFILL_MS);
        for _ in 0..300 {
            sent(&egress, 1, 1, 0).unwrap();
        }
        assert!(sent(&egress, 1, 1, 0).is_err());
    }

    #[test]
    fn four_responses_at_once_and_no_fifth() {
        let egress = Egress::new(REFILL_MS);
        let open: Vec<_> = (0..4).map(|_| egress.enter(SEGMENT, 1, LARGEST, 0).unwrap()).collect();
        assert!(egress.enter(SEGMENT, 1, LARGEST, 0).is_err());
        drop(open);
        assert!(egress.enter(SEGMENT, 1, LARGEST, 0).is_ok());
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let egress = Egress::new(REFILL_MS);
        for n in 0..5_000_u64 {
            let mut hash = [0; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            let bought = Bought::Payment(PaymentHash::new(hash));
            drop(egress.enter(bought, 1, 1, n * REFILL_MS));
        }
        assert!(lock(&egress.used).of.len() <= 2 * SWEEP_FROM);
    }
}
