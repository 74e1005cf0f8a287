//! The window of a session, whatever the player, the wallet and the clock do.

use std::collections::BTreeSet;

use proptest::prelude::*;
use sluice::domain::amount::{Granularity, Msat, Price};
use sluice::domain::id::SegmentNumber;
use sluice::domain::session::{Due, View, Window};
use sluice::domain::video::{SegmentPrice, Terms, Ticks, Timeline};

const SEGMENTS: u32 = 40;

#[derive(Debug, Clone)]
enum Act {
    /// The player fetches what plays next, if it is paid or free.
    Onward,
    /// The viewer jumps.
    Seek(u32),
    /// The wallet pays its n-th open invoice.
    Pay(usize),
    /// An open invoice expires.
    Expire(usize),
    Wait(u64),
}

fn act(seeks: bool) -> impl Strategy<Value = Act> {
    prop_oneof![
        5 => Just(Act::Onward),
        u32::from(seeks) => (0..SEGMENTS).prop_map(Act::Seek),
        5 => any::<usize>().prop_map(Act::Pay),
        1 => any::<usize>().prop_map(Act::Expire),
        5 => (0..6_000_u64).prop_map(Act::Wait),
    ]
}

struct Session {
    window: Window,
    timeline: Timeline,
    terms: Terms,
    served: BTreeSet<SegmentNumber>,
    /// Invoices, and what each asks.
    open: Vec<Due>,
    credit: u64,
    left: u64,
    now_ms: u64,
}

impl Session {
    fn new(ahead: u8, bundle: u8, preview_seconds: u32, left: u64) -> Self {
        let ends = (0..=u64::from(SEGMENTS)).map(|n| Ticks::from_millis(n * 4_000));
        let price = Price::new(333, Granularity::SAT, Ticks::from_millis(4_000)).unwrap();
        Self {
            window: Window::new(ahead, bundle, 0),
            timeline: Timeline::new(ends.collect()).unwrap(),
            terms: Terms { price, preview_seconds, granularity: Granularity::SAT },
            served: BTreeSet::new(),
            open: Vec::new(),
            credit: 0,
            left,
            now_ms: 0,
        }
    }

    /// What a segment costs; nothing where it is free.
    fn price(&self, number: SegmentNumber) -> u64 {
        match self.terms.price_of(&self.timeline, number).unwrap() {
            Some(SegmentPrice::Paid(amount)) => amount.get(),
            Some(SegmentPrice::Free) | None => 0,
        }
    }

    fn act(&mut self, act: &Act) {
        match *act {
            Act::Onward => self.fetch(self.window.playhead()),
            Act::Seek(to) => self.fetch(SegmentNumber(to)),
            Act::Pay(n) if !self.open.is_empty() => {
                self.credit += self.open.remove(n % self.open.len()).amount.get();
            }
            Act::Expire(n) if !self.open.is_empty() => {
                let gone = self.open.remove(n % self.open.len());
                self.left += gone.amount.get();
            }
            Act::Pay(_) | Act::Expire(_) => {}
            Act::Wait(ms) => self.now_ms += ms,
        }
    }

    fn fetch(&mut self, number: SegmentNumber) {
        if number.0 >= SEGMENTS {
            return;
        }
        if !self.served.contains(&number) {
            self.window.ask(number, false, self.now_ms);
        }
        if let Some(rest) = self.credit.checked_sub(self.price(number)) {
            if self.served.insert(number) {
                self.credit = rest;
            }
            self.window.served(number);
        }
    }

    /// What is due, opened.
    fn open_due(&mut self) -> Result<Vec<Due>, TestCaseError> {
        let open: Vec<_> = self.open.iter().flat_map(|of| of.segments.clone()).collect();
        let unique: BTreeSet<_> = open.iter().copied().collect();
        prop_assert_eq!(unique.len(), open.len(), "no segment is in two open invoices");
        let view = View {
            timeline: &self.timeline,
            terms: self.terms,
            served: &self.served,
            open: &unique,
            credit: Msat::new(self.credit),
            left: Msat::new(self.left),
        };
        let due = self.window.due(&view, self.now_ms).unwrap();
        for invoice in &due {
            let fair: u64 = invoice.segments.iter().map(|of| self.price(*of)).sum();
            prop_assert_eq!(invoice.amount.get(), fair, "it asks what its segments cost");
            prop_assert!(fair <= self.left, "nothing beyond what the viewer would spend");
            self.left -= fair;
            for number in &invoice.segments {
                prop_assert!(*number >= self.window.playhead() && number.0 < SEGMENTS);
                prop_assert!(!self.served.contains(number) && self.price(*number) > 0);
            }
        }
        self.open.extend(due.iter().cloned());
        Ok(due)
    }
}

proptest! {
    #[test]
    fn invoices_ahead_of_the_playhead_never_exceed_the_window(
        ahead in 1..=10_u8, preview in 0..20_u32, acts in prop::collection::vec(act(false), 1..120),
    ) {
        let mut session = Session::new(ahead, 1, preview, u64::MAX >> 1);
        for act in &acts {
            session.act(act);
            session.open_due()?;
            // What lies behind is of no account: its segment was drawn from credit that another invoice brought.
            let playhead = session.window.playhead();
            let waits = session.open.iter().filter(|of| of.segments[0] >= playhead).count() as u64;
            prop_assert!(waits <= u64::from(ahead), "{} open of {}", waits, ahead);
        }
    }

    #[test]
    fn whatever_a_viewer_does_no_segment_is_invoiced_twice_and_no_more_than_the_window_at_once(
        ahead in 1..=10_u8, bundle in 1..=5_u8, left in 0..80_000_u64,
        acts in prop::collection::vec(act(true), 1..120),
    ) {
        let mut session = Session::new(ahead, bundle, 4, left);
        for act in &acts {
            session.act(act);
            let due = session.open_due()?;
            prop_assert!(due.len() <= usize::from(ahead));
            prop_assert!(due.iter().all(|of| of.segments.len() <= usize::from(bundle)));
            prop_assert!(session.open_due()?.is_empty() || bundle > 1, "asked again, nothing more");
        }
    }

    #[test]
    fn nothing_is_invoiced_while_a_jump_may_not_stand(to in 12..SEGMENTS, early in 0..500_u64) {
        let mut session = Session::new(3, 1, 4, u64::MAX >> 1);
        session.now_ms = 10_000;
        session.open_due()?;
        session.act(&Act::Seek(to));
        session.now_ms += early;
        prop_assert!(session.open_due()?.is_empty());
        session.now_ms = 10_500;
        let due = session.open_due()?;
        prop_assert_eq!(due.len(), 1);
        prop_assert_eq!(&due[0].segments, &[SegmentNumber(to)]);
    }

    /// Money that comes in another order than it was asked for plays what is next, and what was planned for that comes late. A wallet that
    /// begins no payment for what was served has a window and its payments under way over in the end, and no more.
    #[test]
    fn what_is_over_in_the_end_is_a_window_and_the_payments_under_way_at_most(
        ahead in 1..=6_u8, at_once in 1..=6_usize, order in prop::collection::vec(any::<usize>(), 300),
    ) {
        let mut session = Session::new(ahead, 1, 0, u64::MAX >> 1);
        let mut under_way: Vec<Due> = Vec::new();
        let mut landing = order.into_iter().chain(std::iter::repeat(0));
        for _ in 0..1_000 {
            session.open_due()?;
            for due in &session.open {
                let begun = under_way.contains(due) || session.served.contains(&due.segments[0]);
                if !begun && under_way.len() < at_once {
                    under_way.push(due.clone());
                }
            }
            let next = landing.next().unwrap();
            // Some time passes without a payment.
            if !under_way.is_empty() && next % 3 > 0 || next == 0 && !under_way.is_empty() {
                let landed = under_way.remove(next % under_way.len());
                let at = session.open.iter().position(|of| *of == landed).unwrap();
                session.act(&Act::Pay(at));
            }
            session.act(&Act::Wait(1_000));
            session.act(&Act::Onward);
        }
        prop_assert_eq!(session.served.len(), SEGMENTS as usize, "it plays to its end");
        let late: u64 = under_way.iter().map(|of| of.amount.get()).sum();
        let bound = 2_000 * (u64::from(ahead) + at_once as u64);
        prop_assert!(session.credit + late <= bound, "{} and {} over {}", session.credit, late, bound);
    }
}
