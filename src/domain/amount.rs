//! Money: millisatoshi, prices and shares. Checked operations only; one parser and one printer.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::video::{TICKS_PER_SECOND, Ticks};

/// Why an amount could not be computed or accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// The result does not fit.
    #[error("the amount is out of range")]
    Overflow,
    /// A price between zero and the smallest that charges every segment.
    #[error(
        "the price is too small: use 0 (free) or at least {smallest_msat_per_second} msat per \
         second"
    )]
    Sparse {
        /// The smallest price above zero that is accepted.
        smallest_msat_per_second: u64,
    },
    /// A share above the whole.
    #[error("a share is counted in parts per million, 0 to 1000000")]
    Share,
}

/// An amount in millisatoshi.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Msat(u64);

impl Msat {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// From a count of millisatoshi.
    pub const fn new(msat: u64) -> Self {
        Self(msat)
    }

    /// From whole satoshis.
    pub const fn from_sat(sat: u64) -> Option<Self> {
        match sat.checked_mul(1_000) {
            Some(msat) => Some(Self(msat)),
            None => None,
        }
    }

    /// The count of millisatoshi.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether this is nothing.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// The sum, where it fits.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(sum) => Some(Self(sum)),
            None => None,
        }
    }

    /// The difference, where it is not negative.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(rest) => Some(Self(rest)),
            None => None,
        }
    }

    /// The difference, or nothing where it would be negative.
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// The signed form that postings use.
    pub fn signed(self) -> i128 {
        i128::from(self.0)
    }

    /// From a signed sum of postings.
    pub fn from_signed(msat: i128) -> Option<Self> {
        u64::try_from(msat).ok().map(Self)
    }
}

impl fmt::Display for Msat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} msat", self.0)
    }
}

/// A title's price in millisatoshi per second of media. Zero means free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Price(u64);

impl Price {
    /// Free of charge.
    pub const FREE: Self = Self(0);

    /// A price that charges every segment of at least `nominal` ticks: above zero and under one granule per nominal segment is refused.
    ///
    /// # Errors
    /// [`AmountError::Sparse`] with the smallest price that is accepted, [`AmountError::Overflow`] beyond one bitcoin per second.
    pub fn new(
        msat_per_second: u64,
        granularity: Granularity,
        nominal: Ticks,
    ) -> Result<Self, AmountError> {
        const MSAT_PER_BITCOIN: u64 = 100_000_000_000;
        if msat_per_second > MSAT_PER_BITCOIN {
            return Err(AmountError::Overflow);
        }
        let smallest = u128::from(granularity.0)
            .checked_mul(u128::from(TICKS_PER_SECOND))
            .map(|ticks| ticks.div_ceil(u128::from(nominal.get().max(1))))
            .and_then(|smallest| u64::try_from(smallest).ok())
            .ok_or(AmountError::Overflow)?;
        if msat_per_second > 0 && msat_per_second < smallest {
            return Err(AmountError::Sparse { smallest_msat_per_second: smallest });
        }
        Ok(Self(msat_per_second))
    }

    /// A price that was accepted before, read back from where it was kept.
    pub const fn agreed(msat_per_second: u64) -> Self {
        Self(msat_per_second)
    }

    /// Millisatoshi per second.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// Whether nothing is charged.
    pub const fn is_free(self) -> bool {
        self.0 == 0
    }

    /// What the segment that covers `[start, end)` costs, both counted from the start of the first paid segment:
    /// `max(g, ceil_g(end * price) - ceil_g(start * price))`, so that a contiguous run never drifts from its exact price.
    ///
    /// # Errors
    /// [`AmountError::Overflow`] where the amount does not fit.
    pub fn of_segment(
        self,
        granularity: Granularity,
        start: Ticks,
        end: Ticks,
    ) -> Result<Msat, AmountError> {
        if self.is_free() {
            return Ok(Msat::ZERO);
        }
        let upto_end = self.rounded_up_to(granularity, end)?;
        let upto_start = self.rounded_up_to(granularity, start)?;
        let exact = upto_end.checked_sub(upto_start).ok_or(AmountError::Overflow)?;
        let amount = exact.max(u128::from(granularity.0));
        u64::try_from(amount).map(Msat).map_err(|_| AmountError::Overflow)
    }

    /// `ceil_g(at * price)`, in millisatoshi.
    fn rounded_up_to(self, granularity: Granularity, at: Ticks) -> Result<u128, AmountError> {
        let granule = u128::from(granularity.0);
        let unit =
            granule.checked_mul(u128::from(TICKS_PER_SECOND)).ok_or(AmountError::Overflow)?;
        u128::from(at.get())
            .checked_mul(u128::from(self.0))
            .and_then(|product| product.div_ceil(unit).checked_mul(granule))
            .ok_or(AmountError::Overflow)
    }
}

/// What invoices are rounded up to, in millisatoshi; never zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Granularity(u64);

impl Granularity {
    /// Whole satoshis: several wallets refuse less.
    pub const SAT: Self = Self(1_000);

    /// From millisatoshi; `None` for zero.
    pub const fn new(msat: u64) -> Option<Self> {
        if msat == 0 { None } else { Some(Self(msat)) }
    }

    /// The granule in millisatoshi.
    pub const fn get(self) -> u64 {
        self.0
    }
}

/// A part of an amount, in parts per million.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct Share(u32);

impl Share {
    /// The whole.
    pub const WHOLE_PPM: u32 = 1_000_000;

    /// From parts per million.
    ///
    /// # Errors
    /// [`AmountError::Share`] above one million.
    pub const fn from_ppm(ppm: u32) -> Result<Self, AmountError> {
        if ppm > Self::WHOLE_PPM { Err(AmountError::Share) } else { Ok(Self(ppm)) }
    }

    /// Parts per million.
    pub const fn ppm(self) -> u32 {
        self.0
    }

    /// Splits an amount into this share, rounded down, and the rest: nothing is lost and nothing is made.
    pub fn split(self, amount: Msat) -> (Msat, Msat) {
        let part = u128::from(amount.0)
            .saturating_mul(u128::from(self.0))
            .checked_div(u128::from(Self::WHOLE_PPM))
            .and_then(|part| u64::try_from(part).ok())
            .unwrap_or(amount.0);
        (Msat(part), Msat(amount.0.saturating_sub(part)))
    }
}

impl TryFrom<u32> for Share {
    type Error = AmountError;

    fn try_from(ppm: u32) -> Result<Self, AmountError> {
        Self::from_ppm(ppm)
    }
}

impl From<Share> for u32 {
    fn from(share: Share) -> Self {
        share.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUR_SECONDS: Ticks = Ticks::new(360_000);

    #[test]
    fn a_sparse_price_is_refused_with_the_smallest_one() {
        assert_eq!(
            Price::new(249, Granularity::SAT, FOUR_SECONDS),
            Err(AmountError::Sparse { smallest_msat_per_second: 250 })
        );
        assert!(Price::new(250, Granularity::SAT, FOUR_SECONDS).is_ok());
        assert!(Price::new(0, Granularity::SAT, FOUR_SECONDS).is_ok_and(Price::is_free));
    }

    #[test]
    fn a_contiguous_run_exceeds_its_exact_price_by_at_most_one_granule() {
        let price = Price::new(333, Granularity::SAT, FOUR_SECONDS).unwrap();
        let mut total = 0;
        for n in 0_u64..900 {
            let (start, end) = (Ticks::new(n * 360_000), Ticks::new((n + 1) * 360_000));
            let amount = price.of_segment(Granularity::SAT, start, end).unwrap();
            assert!(amount.get() >= 1_000 && amount.get().is_multiple_of(1_000));
            total += amount.get();
        }
        let exact = 900 * 4 * 333;
        assert!(total >= exact && total - exact < 1_000, "{total} against {exact}");
    }

    #[test]
    fn a_short_last_segment_costs_one_granule_at_least() {
        let price = Price::new(250, Granularity::SAT, FOUR_SECONDS).unwrap();
        let amount = price.of_segment(Granularity::SAT, Ticks::new(360_000), Ticks::new(360_001));
        assert_eq!(amount, Ok(Msat::new(1_000)));
    }

    #[test]
    fn a_split_neither_loses_nor_makes_a_millisatoshi() {
        let share = Share::from_ppm(30_000).unwrap();
        assert_eq!(share.split(Msat::new(1_000)), (Msat::new(30), Msat::new(970)));
        assert_eq!(share.split(Msat::new(33)), (Msat::ZERO, Msat::new(33)));
        assert_eq!(
            Share::from_ppm(1_000_000).unwrap().split(Msat::new(7)),
            (Msat::new(7), Msat::ZERO)
        );
    }
}
