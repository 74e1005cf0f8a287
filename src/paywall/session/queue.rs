//! Who waits in a session: what is paid goes to who has waited longest, so that of several players none starves.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use super::stream::Live;
use crate::domain::amount::Msat;
use crate::domain::id::SegmentNumber;
use crate::domain::session::Window;
use crate::runtime::lock;

/// The segments that requests are held for.
#[derive(Debug, Default)]
pub(super) struct Queue {
    of: BTreeMap<SegmentNumber, Place>,
    next: u64,
}

#[derive(Debug)]
struct Place {
    nth: u64,
    amount: Msat,
    requests: usize,
}

impl Queue {
    /// What those segments cost for which somebody waits longer than for this one.
    pub(super) fn before(&self, number: SegmentNumber) -> Msat {
        let own = self.of.get(&number).map_or(u64::MAX, |place| place.nth);
        let before = self.of.values().filter(|place| place.nth < own);
        let sum = before.map(|place| place.amount.get()).fold(0, u64::saturating_add);
        Msat::new(sum)
    }

    /// Whether somebody waits where the session plays, for another segment than this one.
    pub(super) fn is_within(&self, window: &Window, but: SegmentNumber) -> bool {
        self.of.keys().any(|number| *number != but && window.reaches(*number))
    }

    /// Nobody needs to wait for it any more.
    pub(super) fn served(&mut self, number: SegmentNumber) {
        self.of.remove(&number);
    }

    fn enter(&mut self, number: SegmentNumber, amount: Msat) {
        let nth = self.next;
        let place = self.of.entry(number).or_insert(Place { nth, amount, requests: 0 });
        place.requests = place.requests.saturating_add(1);
        self.next = nth.saturating_add(1);
    }

    fn leave(&mut self, number: SegmentNumber) {
        if let Some(place) = self.of.get_mut(&number) {
            place.requests = place.requests.saturating_sub(1);
            if place.requests == 0 {
                self.of.remove(&number);
            }
        }
    }
}

/// A request's place among those that wait; while it is kept, the session stays in memory.
pub struct Waiting {
    live: Arc<Mutex<Live>>,
    number: SegmentNumber,
}

impl Waiting {
    pub(super) fn enter(live: &Arc<Mutex<Live>>, number: SegmentNumber, amount: Msat) -> Self {
        lock(live).queue.enter(number, amount);
        Self { live: Arc::clone(live), number }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        lock(&self.live).queue.leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_longest_is_first_and_a_segment_counts_once() {
        let mut queue = Queue::default();
        let (one, two, three) = (SegmentNumber(1), SegmentNumber(2), SegmentNumber(3));
        for number in [two, one, two] {
            queue.enter(number, Msat::new(2_000));
        }
        let before = |queue: &Queue, number| queue.before(number).get();
        assert_eq!([two, one, three].map(|number| before(&queue, number)), [0, 2_000, 4_000]);
        queue.leave(two);
        assert_eq!(before(&queue, one), 2_000, "another one waits for it");
        queue.served(two);
        queue.leave(two);
        assert_eq!(before(&queue, one), 0);
        queue.leave(one);
        assert!(queue.of.is_empty());
    }
}
