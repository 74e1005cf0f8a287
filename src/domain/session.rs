//! The window of a viewing session: which segments an invoice is due for, decided from the playhead and the clock alone.
//!
//! The window belongs to the server, not to the player's appetite: some players ask for a whole film at once. Invoices that are open, or
//! paid and not yet served, never exceed `ahead`, counted from the playhead on; the playhead moves as segments are fetched, and
//! invoices run ahead of it no faster than twice the playback speed.

use std::collections::BTreeSet;

use super::amount::{AmountError, Msat};
use super::id::SegmentNumber;
use super::video::{SegmentPrice, Terms, Ticks, Timeline};

/// How long a seek must stand before its segment is invoiced: a viewer who drags the bar passes many.
pub const SEEK_STABLE_MS: u64 = 500;
/// How long the playhead stays where players wait before a jump of another one takes it away.
pub const TURN_MS: u64 = 2_000;
/// How much faster than playback invoices may run.
const SPEED_MAX: u64 = 2;

/// What a request for a segment means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ask {
    /// Playback goes on.
    Onward,
    /// The viewer jumped here.
    Seek,
    /// Another player waits where the playhead is: this one has its turn later.
    Later,
}

/// Where a session plays.
#[derive(Debug, Clone)]
pub struct Window {
    ahead: u32,
    bundle: u32,
    playhead: u32,
    width: u32,
    /// When and where the playback clock was last set.
    clock_ms: u64,
    clock_at: u32,
    /// Until when the seek that set it is not yet believed.
    stable_at_ms: u64,
    /// Until when it stays for those who wait there.
    turn_until_ms: u64,
    /// When the last jump was, and since when jumps have followed each other without one that stood.
    jumped_ms: u64,
    jumps_since_ms: u64,
}

/// What else the plan depends on.
#[derive(Debug)]
pub struct View<'a> {
    /// The version's boundaries.
    pub timeline: &'a Timeline,
    /// The session's price.
    pub terms: Terms,
    /// What was served already.
    pub served: &'a BTreeSet<SegmentNumber>,
    /// What open invoices are planned for.
    pub open: &'a BTreeSet<SegmentNumber>,
    /// Paid and not drawn.
    pub credit: Msat,
    /// What may still be invoiced under the viewer's bound.
    pub left: Msat,
}

/// An invoice that is due.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The segments that it is planned for.
    pub segments: Vec<SegmentNumber>,
    /// Their price.
    pub amount: Msat,
}

impl Window {
    /// At the start of a title; `ahead` and `bundle` are one at least.
    pub fn new(ahead: u8, bundle: u8, now_ms: u64) -> Self {
        let ahead = u32::from(ahead.max(1));
        Self {
            ahead,
            bundle: u32::from(bundle.max(1)),
            playhead: 0,
            width: ahead,
            clock_ms: now_ms,
            clock_at: 0,
            stable_at_ms: 0,
            turn_until_ms: 0,
            jumped_ms: 0,
            jumps_since_ms: 0,
        }
    }

    /// The segment that plays next.
    pub const fn playhead(&self) -> SegmentNumber {
        SegmentNumber(self.playhead)
    }

    /// From when on the playhead is believed.
    pub const fn stable_at_ms(&self) -> u64 {
        self.stable_at_ms
    }

    /// Whether a segment is among those that play next.
    pub fn reaches(&self, number: SegmentNumber) -> bool {
        (self.playhead..=self.playhead.saturating_add(self.ahead)).contains(&number.0)
    }

    /// A segment that is neither served nor covered is asked for, while others wait within the window or nobody does. A jump that does not stand
    /// yet gives way to the next: the viewer passes on.
    pub fn ask(&mut self, number: SegmentNumber, others_wait: bool, now_ms: u64) -> Ask {
        if self.reaches(number) {
            return Ask::Onward;
        }
        if others_wait && (self.stable_at_ms..self.turn_until_ms).contains(&now_ms) {
            return Ask::Later;
        }
        self.playhead = number.0;
        self.width = 1;
        self.clock_ms = now_ms;
        self.clock_at = number.0;
        // Who jumps on and on is believed once each turn: nobody keeps the others waiting for ever.
        if now_ms >= self.jumped_ms.saturating_add(SEEK_STABLE_MS) {
            self.jumps_since_ms = now_ms;
        }
        let latest = self.jumps_since_ms.saturating_add(TURN_MS);
        self.stable_at_ms = now_ms.saturating_add(SEEK_STABLE_MS).min(latest).max(now_ms);
        if now_ms >= latest {
            self.jumps_since_ms = now_ms;
        }
        self.jumped_ms = now_ms;
        self.turn_until_ms = now_ms.saturating_add(TURN_MS);
        Ask::Seek
    }

    /// A segment was served: the playhead follows, the window grows again.
    pub fn served(&mut self, number: SegmentNumber) {
        if number.0 >= self.playhead {
            self.playhead = number.0.saturating_add(1);
            self.width = self.width.saturating_add(1).min(self.ahead);
        }
    }

    /// Sets the playback clock to the playhead: a process that starts anew does not know how long it played.
    pub const fn restart_clock(&mut self, now_ms: u64) {
        self.clock_ms = now_ms;
        self.clock_at = self.playhead;
    }

    /// The invoices that are due now.
    ///
    /// # Errors
    /// [`AmountError`] where a price does not fit.
    pub fn due(&self, view: &View<'_>, now_ms: u64) -> Result<Vec<Due>, AmountError> {
        let mut due: Vec<Due> = Vec::new();
        if now_ms < self.stable_at_ms {
            return Ok(due);
        }
        let horizon = self.horizon(view.timeline, now_ms);
        let mut credit = view.credit;
        let mut left = view.left;
        let mut invoices = 0_u32;
        let mut number = self.playhead;
        while invoices < self.width {
            let segment = SegmentNumber(number);
            number = number.saturating_add(1);
            let Some((start, _)) = view.timeline.span(segment) else { break };
            // A bundle that was begun is filled: the clock decides when the next one begins.
            let begun = due.last().is_some_and(|due| self.has_room(due));
            if start > horizon && !begun {
                break;
            }
            let amount = match view.terms.price_of(view.timeline, segment)? {
                Some(SegmentPrice::Paid(amount)) if !view.served.contains(&segment) => amount,
                Some(_) => continue,
                None => break,
            };
            if view.open.contains(&segment) {
                invoices = invoices.saturating_add(1);
            } else if let Some(rest) = credit.checked_sub(amount) {
                credit = rest;
                invoices = invoices.saturating_add(1);
            } else {
                let Some(rest) = left.checked_sub(amount) else { break };
                left = rest;
                invoices = invoices.saturating_add(self.add(&mut due, segment, amount)?);
            }
        }
        Ok(due)
    }

    fn has_room(&self, due: &Due) -> bool {
        u32::try_from(due.segments.len()).is_ok_and(|len| len < self.bundle)
    }

    /// Adds a segment to the bundle that is being filled, or begins the next; how many invoices that makes more.
    fn add(
        &self,
        due: &mut Vec<Due>,
        segment: SegmentNumber,
        amount: Msat,
    ) -> Result<u32, AmountError> {
        match due.last_mut().filter(|due| self.has_room(due)) {
            Some(last) => {
                last.segments.push(segment);
                last.amount = last.amount.checked_add(amount).ok_or(AmountError::Overflow)?;
                // Bundles count once, when they are full.
                Ok(u32::from(!self.has_room(last)))
            }
            None => {
                due.push(Due { segments: vec![segment], amount });
                Ok(u32::from(self.bundle == 1))
            }
        }
    }

    /// How far invoices may run now: the window's own length beyond twice the playback clock.
    fn horizon(&self, timeline: &Timeline, now_ms: u64) -> Ticks {
        let from = timeline.span(SegmentNumber(self.clock_at)).map(|(start, _)| start);
        let slack = self.ahead.saturating_mul(self.bundle).saturating_sub(1);
        let upto = self.clock_at.saturating_add(slack);
        let first = timeline
            .span(SegmentNumber(upto))
            .map_or_else(|| timeline.duration(), |(start, _)| start);
        let elapsed = now_ms.saturating_sub(self.clock_ms).saturating_mul(SPEED_MAX);
        let run = Ticks::from_millis(elapsed).get();
        let first = first.max(from.unwrap_or_default());
        Ticks::new(first.get().saturating_add(run))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::amount::{Granularity, Price};

    struct Film {
        timeline: Timeline,
        terms: Terms,
        served: BTreeSet<SegmentNumber>,
        open: BTreeSet<SegmentNumber>,
    }

    impl Film {
        fn new(preview_seconds: u32) -> Self {
            let timeline =
                Timeline::new((0..=100).map(|n| Ticks::from_millis(n * 4_000)).collect());
            let price = Price::new(250, Granularity::SAT, Ticks::from_millis(4_000)).unwrap();
            let terms = Terms { price, preview_seconds, granularity: Granularity::SAT };
            Self {
                timeline: timeline.unwrap(),
                terms,
                served: BTreeSet::new(),
                open: BTreeSet::new(),
            }
        }

        fn due(&self, window: &Window, credit: u64, now_ms: u64) -> Vec<Vec<u32>> {
            let view = View {
                timeline: &self.timeline,
                terms: self.terms,
                served: &self.served,
                open: &self.open,
                credit: Msat::new(credit),
                left: Msat::new(u64::MAX),
            };
            let numbers = |due: Due| due.segments.into_iter().map(|n| n.0).collect();
            window.due(&view, now_ms).unwrap().into_iter().map(numbers).collect()
        }

        fn serve(&mut self, window: &mut Window, number: u32, now_ms: u64) {
            window.ask(SegmentNumber(number), false, now_ms);
            window.served(SegmentNumber(number));
            self.served.insert(SegmentNumber(number));
        }
    }

    #[test]
    fn the_window_opens_ahead_segments_past_the_preview() {
        let film = Film::new(8);
        assert_eq!(film.due(&Window::new(3, 1, 0), 0, 0), [[2]]);
        assert_eq!(film.due(&Window::new(3, 1, 0), 0, 4_000), [[2], [3], [4]]);
        assert_eq!(Film::new(0).due(&Window::new(3, 1, 0), 0, 0), [[0], [1], [2]]);
    }

    #[test]
    fn who_jumps_on_and_on_is_believed_in_the_end_and_once_each_turn() {
        let film = Film::new(0);
        let mut window = Window::new(3, 1, 0);
        let mut invoiced = Vec::new();
        for n in 1..=20_u32 {
            let now = 10_000 + u64::from(n) * 400;
            window.ask(SegmentNumber((n * 37) % 100), false, now);
            invoiced.extend(film.due(&window, 0, now).first().map(|_| now));
        }
        assert_eq!(invoiced, [12_400, 14_400, 16_400], "not never, and not each of them");
    }

    #[test]
    fn what_is_open_or_covered_counts_and_is_not_invoiced_again() {
        let mut film = Film::new(0);
        film.open.insert(SegmentNumber(0));
        assert_eq!(film.due(&Window::new(3, 1, 0), 1_000, 0), [[2]]);
        assert_eq!(film.due(&Window::new(3, 1, 0), 2_000, 0), Vec::<Vec<u32>>::new());
    }

    #[test]
    fn invoices_run_at_most_at_twice_the_playback_speed() {
        let mut film = Film::new(0);
        let mut window = Window::new(3, 1, 0);
        for number in 0..3 {
            film.serve(&mut window, number, 0);
        }
        assert_eq!(film.due(&window, 0, 0), Vec::<Vec<u32>>::new());
        assert_eq!(film.due(&window, 0, 2_000), [[3]]);
        assert_eq!(film.due(&window, 0, 60_000), [[3], [4], [5]]);
    }

    #[test]
    fn a_seek_is_invoiced_alone_once_it_stands_and_the_window_grows_again() {
        let mut film = Film::new(0);
        let mut window = Window::new(3, 1, 0);
        assert_eq!(window.ask(SegmentNumber(2), false, 0), Ask::Onward);
        assert_eq!(window.ask(SegmentNumber(50), false, 1_000), Ask::Seek);
        assert_eq!(film.due(&window, 0, 1_499), Vec::<Vec<u32>>::new());
        assert_eq!(film.due(&window, 0, 1_500), [[50]]);
        film.serve(&mut window, 50, 1_500);
        assert_eq!(film.due(&window, 0, 3_000), [[51], [52]]);
        assert_eq!(window.ask(SegmentNumber(10), false, 3_000), Ask::Seek);
        assert_eq!(film.due(&window, 0, 3_500), [[10]]);
    }

    #[test]
    fn where_players_wait_the_playhead_stays_for_a_turn() {
        let mut window = Window::new(3, 1, 0);
        assert_eq!(window.ask(SegmentNumber(50), true, 10_000), Ask::Seek, "no turn was begun");
        assert_eq!(window.ask(SegmentNumber(7), true, 10_499), Ask::Seek, "it did not stand");
        for late in [10_999, 11_500, 12_498] {
            assert_eq!(window.ask(SegmentNumber(50), true, late), Ask::Later);
        }
        assert_eq!(window.ask(SegmentNumber(8), true, 11_500), Ask::Onward);
        assert_eq!(window.ask(SegmentNumber(30), false, 11_500), Ask::Seek, "nobody else waits");
        assert_eq!(window.ask(SegmentNumber(50), true, 13_500), Ask::Seek, "its turn");
    }

    #[test]
    fn a_bundle_is_one_invoice_for_several_segments() {
        let film = Film::new(0);
        let window = Window::new(2, 3, 0);
        assert_eq!(film.due(&window, 0, 60_000), [[0, 1, 2], [3, 4, 5]]);
    }

    #[test]
    fn a_bound_on_spending_ends_the_invoices() {
        let film = Film::new(0);
        let view = View {
            timeline: &film.timeline,
            terms: film.terms,
            served: &film.served,
            open: &film.open,
            credit: Msat::ZERO,
            left: Msat::new(1_999),
        };
        assert_eq!(Window::new(3, 1, 0).due(&view, 60_000).unwrap().len(), 1);
    }

    #[test]
    fn the_last_segments_make_a_smaller_bundle() {
        let mut film = Film::new(0);
        let mut window = Window::new(3, 4, 0);
        film.serve(&mut window, 97, 0);
        assert_eq!(film.due(&window, 0, 60_000), [[98, 99]]);
    }
}
