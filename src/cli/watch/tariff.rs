//! What each segment costs, by the viewer's own sums (PROTOCOL.md, Money), and how long was watched. Pure.
//!
//! The formula stands here a second time on purpose: a client that asked the server's code would believe the server.

use super::playlist;
use crate::domain::amount::Msat;
use crate::domain::id::{NodeId, SegmentNumber};
use crate::domain::video::{TICKS_PER_SECOND, Ticks, Timeline};
use crate::lightning::Network;

/// One bitcoin per second: nobody means more.
const MSAT_PER_SECOND_MAX: u64 = 100_000_000_000;
/// Time between two requests that counts as watched at most: beyond it the viewer has paused.
const GAP_MS_MAX: u64 = 60_000;

/// What a session is fixed to, as the viewer accepted it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tariff {
    /// Who is paid.
    pub(super) payee: NodeId,
    /// On which network.
    pub(super) network: Network,
    /// The price.
    pub(super) msat_per_second: u64,
    /// What invoices are rounded up to.
    pub(super) granularity_msat: u64,
    /// The first segment that is not free; `None` where all are.
    pub(super) first_paid: Option<SegmentNumber>,
    /// Where each segment lies.
    pub(super) timeline: Timeline,
    /// Invoices ahead of the playhead.
    pub(super) ahead: u8,
    /// Segments of one invoice.
    pub(super) bundle: u8,
}

impl Tariff {
    /// Terms that make sense, from the media playlist that they are for.
    pub(super) fn new(tariff: Self) -> Result<Self, String> {
        if tariff.msat_per_second > MSAT_PER_SECOND_MAX {
            return Err("the server's price is out of all bounds".to_owned());
        }
        let longest = tariff.timeline.spans().map(|(start, end)| end.since(start)).max();
        let dearest = exact(longest.unwrap_or_default(), tariff.msat_per_second);
        // A coarser one would charge more than the price says.
        if tariff.granularity_msat == 0 || u128::from(tariff.granularity_msat) > dearest.max(1_000)
        {
            return Err("the server rounds its invoices to more than a segment costs".to_owned());
        }
        Ok(tariff)
    }

    /// Of a playlist's text.
    pub(super) fn timeline(text: &str) -> Result<Timeline, String> {
        playlist::timeline(text)
    }

    /// What a segment costs: the rounded price of the way to its end less that to its start, both from the start of the first paid
    /// segment, and at least one granule. Nothing for a free one; `None` where there is none of this number.
    pub(super) fn price_of(&self, number: SegmentNumber) -> Option<Msat> {
        let (start, end) = self.timeline.span(number)?;
        let Some(first) = self.first_paid.filter(|first| *first <= number) else {
            return Some(Msat::ZERO);
        };
        if self.msat_per_second == 0 {
            return Some(Msat::ZERO);
        }
        let (origin, _) = self.timeline.span(first)?;
        let granule = u128::from(self.granularity_msat);
        let unit = granule.checked_mul(TICKS_PER_SECOND.into())?;
        let way = |to: Ticks| {
            u128::from(to.since(origin).get())
                .checked_mul(self.msat_per_second.into())?
                .div_ceil(unit)
                .checked_mul(granule)
        };
        let amount = way(end)?.checked_sub(way(start)?)?.max(granule);
        u64::try_from(amount).ok().map(Msat::new)
    }

    /// The dearest segment: the bound on what a window of so many may cost.
    pub(super) fn dearest(&self) -> Msat {
        self.prices().max().unwrap_or_default()
    }

    /// What the whole film costs.
    pub(super) fn whole(&self) -> Msat {
        self.prices().fold(Msat::ZERO, add)
    }

    fn prices(&self) -> impl Iterator<Item = Msat> + '_ {
        (0..self.timeline.segments()).filter_map(|n| self.price_of(SegmentNumber(n)))
    }

    /// How many segments may be paid and not yet here: max(`ahead`, `bundle`).
    pub(super) fn reach(&self) -> u32 {
        self.ahead.max(self.bundle).into()
    }

    /// What that many segments cost at most.
    pub(super) fn window(&self) -> Msat {
        times(self.dearest(), self.reach())
    }

    /// What a time of watching costs, rounded down.
    pub(super) fn of_time(&self, ms: u64) -> Msat {
        let msat = u128::from(ms).saturating_mul(self.msat_per_second.into()) / 1_000;
        Msat::new(u64::try_from(msat).unwrap_or(u64::MAX))
    }

    /// A minute at this price, as the segments are charged in the end.
    pub(super) fn of_minute(&self) -> Msat {
        let first = self.first_paid.and_then(|first| self.timeline.span(first));
        let from = first.map(|(start, _)| start).unwrap_or_default();
        let paid_ms = u128::from(self.timeline.duration().since(from).millis().max(1));
        let charged = u128::from(self.whole().get()).saturating_mul(60_000).div_ceil(paid_ms);
        let charged = if paid_ms < 60_000 { 0 } else { charged };
        let named = u128::from(self.msat_per_second).saturating_mul(60);
        Msat::new(u64::try_from(charged.max(named)).unwrap_or(u64::MAX))
    }
}

fn exact(length: Ticks, msat_per_second: u64) -> u128 {
    let product = u128::from(length.get()).saturating_mul(msat_per_second.into());
    product.div_ceil(TICKS_PER_SECOND.into())
}

/// A sum that stays at the top where it does not fit: a bound, never a booking.
pub(super) fn add(a: Msat, b: Msat) -> Msat {
    a.checked_add(b).unwrap_or(Msat::new(u64::MAX))
}

/// A multiple, with the same bound.
pub(super) fn times(amount: Msat, n: u32) -> Msat {
    Msat::new(amount.get().saturating_mul(n.into()))
}

/// How long was watched: stalls included, pauses of more than a minute not.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watched {
    counted_ms: u64,
    last_ms: u64,
}

impl Watched {
    /// From the start of the session.
    pub(super) const fn new(now_ms: u64) -> Self {
        Self { counted_ms: 0, last_ms: now_ms }
    }

    /// The player asked for something, or still waits for it.
    pub(super) fn touch(&mut self, now_ms: u64) {
        self.counted_ms = self.until(now_ms);
        self.last_ms = self.last_ms.max(now_ms);
    }

    /// Milliseconds until now.
    pub(super) fn until(self, now_ms: u64) -> u64 {
        let gap = now_ms.saturating_sub(self.last_ms).min(GAP_MS_MAX);
        self.counted_ms.saturating_add(gap)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::domain::amount::{Granularity, Price};
    use crate::domain::video::{SegmentPrice, Terms};

    /// Ten segments of 4 s at 500 msat a second, the first free.
    pub(in super::super) fn tariff() -> Tariff {
        Tariff {
            payee: NodeId::new([2; 33]),
            network: Network::Regtest,
            msat_per_second: 500,
            granularity_msat: 1_000,
            first_paid: Some(SegmentNumber(1)),
            timeline: Timeline::new((0..=10).map(|n| Ticks::from_millis(n * 4_000)).collect())
                .unwrap(),
            ahead: 3,
            bundle: 1,
        }
    }

    proptest! {
        #[test]
        fn the_viewers_sums_are_the_servers(
            lengths in prop::collection::vec(1_u64..4_000_000, 1..40),
            msat_per_second in 0_u64..2_000_000,
            granularity in 1_u64..3_000,
            preview_seconds in 0_u32..60,
        ) {
            let mut boundaries = vec![Ticks::new(0)];
            for length in lengths {
                boundaries.push(Ticks::new(boundaries.last().unwrap().get() + length));
            }
            let timeline = Timeline::new(boundaries).unwrap();
            let terms = Terms {
                price: Price::agreed(msat_per_second),
                preview_seconds,
                granularity: Granularity::new(granularity).unwrap(),
            };
            let ours = Tariff {
                msat_per_second,
                granularity_msat: granularity,
                first_paid: terms.first_paid(&timeline),
                timeline: timeline.clone(),
                ..tariff()
            };
            for n in 0..=timeline.segments() {
                let theirs = terms.price_of(&timeline, SegmentNumber(n)).unwrap().map(|price| {
                    match price {
                        SegmentPrice::Free => Msat::ZERO,
                        SegmentPrice::Paid(amount) => amount,
                    }
                });
                prop_assert_eq!(ours.price_of(SegmentNumber(n)), theirs);
            }
        }
    }

    #[test]
    fn terms_that_charge_more_than_they_say_are_refused() {
        assert!(Tariff::new(tariff()).is_ok());
        let coarse = Tariff { granularity_msat: 1_000_000, ..tariff() };
        assert!(Tariff::new(coarse).is_err());
        assert!(Tariff::new(Tariff { granularity_msat: 0, ..tariff() }).is_err());
        assert!(Tariff::new(Tariff { msat_per_second: u64::MAX, ..tariff() }).is_err());
    }

    #[test]
    fn a_long_pause_counts_as_a_minute() {
        let mut watched = Watched::new(0);
        watched.touch(10_000);
        assert_eq!(watched.until(15_000), 15_000);
        assert_eq!(watched.until(3_600_000), 70_000);
        watched.touch(3_600_000);
        assert_eq!(watched.until(3_601_000), 71_000);
        watched.touch(5);
        assert_eq!(watched.until(3_601_000), 71_000, "a clock that goes back adds nothing");
    }
}
