//! The formula of docs/PROTOCOL.md, Money.

use proptest::prelude::*;
use sluice::domain::amount::{Granularity, Msat, Price};
use sluice::domain::id::SegmentNumber;
use sluice::domain::video::{SegmentPrice, Terms, Ticks, Timeline};

const NOMINAL: u64 = 360_000;

/// Segments of the nominal length at least, the last perhaps shorter, and terms that every one of them pays for.
fn sale() -> impl Strategy<Value = (Timeline, Terms, bool)> {
    let lengths = prop::collection::vec(NOMINAL..NOMINAL * 2, 1..60);
    (lengths, 1..NOMINAL, any::<bool>(), 1..5_000_u64, 0..400_u64, 0..60_u32).prop_map(
        |(mut lengths, last, short, granule, factor, preview_seconds)| {
            if short {
                lengths.push(last);
            }
            let ends = lengths.iter().scan(0, |end, length| {
                *end += length;
                Some(Ticks::new(*end))
            });
            let timeline =
                Timeline::new([Ticks::new(0)].into_iter().chain(ends).collect()).unwrap();
            let granularity = Granularity::new(granule).unwrap();
            let smallest = (granule * 90_000).div_ceil(NOMINAL);
            let price = Price::new(smallest + factor, granularity, Ticks::new(NOMINAL)).unwrap();
            (timeline, Terms { price, preview_seconds, granularity }, short)
        },
    )
}

fn amounts(timeline: &Timeline, terms: Terms) -> Vec<Option<Msat>> {
    let price = |n| terms.price_of(timeline, SegmentNumber(n)).unwrap().unwrap();
    let amount = |n| match price(n) {
        SegmentPrice::Free => None,
        SegmentPrice::Paid(amount) => Some(amount),
    };
    (0..timeline.segments()).map(amount).collect()
}

proptest! {
    #[test]
    fn a_contiguous_run_exceeds_its_exact_price_by_one_granule_at_most(
        (timeline, terms, short) in sale(), from: usize, to: usize,
    ) {
        let amounts = amounts(&timeline, terms);
        let spans: Vec<_> = timeline.spans().collect();
        let from = from % amounts.len();
        let to = from + to % (amounts.len() - from);
        let run = || (from..=to).filter_map(|n| amounts[n].map(|amount| (n, amount)));
        let paid: u128 = run().map(|(_, amount)| u128::from(amount.get())).sum();
        let ticks: u128 = run().map(|(n, _)| u128::from(spans[n].1.since(spans[n].0).get())).sum();
        // In parts of 1/90000 msat, so that nothing is rounded here.
        let exact = ticks * u128::from(terms.price.get());
        let granule = u128::from(terms.granularity.get()) * 90_000;
        let with_last = short && to + 1 == amounts.len();
        let slack = if with_last { 2 * granule } else { granule };
        prop_assert!(paid * 90_000 + granule > exact, "{paid} is too little for {exact}");
        prop_assert!(paid * 90_000 <= exact + slack, "{paid} is too much for {exact}");
    }

    #[test]
    fn every_segment_costs_whole_granules_or_nothing((timeline, terms, _) in sale()) {
        let amounts = amounts(&timeline, terms);
        for ((start, _), amount) in timeline.spans().zip(&amounts) {
            let preview = start.get() < u64::from(terms.preview_seconds) * 90_000;
            prop_assert_eq!(amount.is_none(), preview, "free where it starts before the preview ends");
            let granule = terms.granularity.get();
            prop_assert!(amount.is_none_or(|of| of.get() >= granule && of.get() % granule == 0));
        }
        prop_assert_eq!(
            terms.first_paid(&timeline).map(|n| n.0 as usize),
            amounts.iter().position(Option::is_some)
        );
    }

    #[test]
    fn no_price_and_no_time_panics(price: u64, granule in 1_u64.., start: u64, end: u64) {
        let granularity = Granularity::new(granule).unwrap();
        let _ = Price::agreed(price).of_segment(granularity, Ticks::new(start), Ticks::new(end));
        let _ = Price::new(price, granularity, Ticks::new(start));
    }
}
