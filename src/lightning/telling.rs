//! Which telling of a payment this is, so that the ledger can know a repeated telling from a second
//! payment.
//!
//! LDK tells a payment once per start of the process at most: by the claim itself, or again from
//! its monitors at a later start (`PaymentClaimed` is at least once). Beside that, ldk-node keeps
//! what was told and not acknowledged, and tells it again at the next start. So in one start a
//! payment can be told twice without having been paid twice: from what was kept, and by LDK. Each
//! start therefore owns four numbers, and what was kept is told under other ones than what is new.

use std::collections::HashMap;

use crate::domain::id::PaymentHash;

/// Numbers that a start of the process owns: what is new, and two for what was kept; one is spare.
const NUMBERS: u64 = 4;

/// Numbers the tellings of one start.
#[derive(Debug, Clone, Default)]
pub(super) struct Tellings {
    new: u64,
    /// How many events from before this start are not acknowledged yet; they come first.
    kept: usize,
    /// How often a hash was met among them: LDK may have told it at several starts that
    /// acknowledged nothing.
    met: HashMap<PaymentHash, u64>,
}

impl Tellings {
    /// For the start with this number, with so many events kept from before.
    pub(super) fn new(boot: u64, kept: usize) -> Self {
        Self { new: boot.saturating_mul(NUMBERS), kept, met: HashMap::new() }
    }

    /// The number of what is new in this start: greater than every number of earlier starts.
    pub(super) const fn current(&self) -> u64 {
        self.new
    }

    /// The number under which the payment at the head of the queue is told.
    pub(super) fn of(&self, hash: &PaymentHash) -> u64 {
        if self.kept == 0 {
            return self.new;
        }
        let odd = self.met.get(hash).copied().unwrap_or_default() % 2;
        self.new.saturating_sub(1).saturating_sub(odd)
    }

    /// The event at the head of the queue was acknowledged; it told this payment.
    pub(super) fn acknowledged(&mut self, hash: Option<&PaymentHash>) {
        if self.kept == 0 {
            return;
        }
        self.kept = self.kept.saturating_sub(1);
        if let Some(hash) = hash {
            let met = self.met.entry(*hash).or_default();
            *met = met.saturating_add(1);
        }
        if self.kept == 0 {
            self.met = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: PaymentHash = PaymentHash::new([1; 32]);
    const B: PaymentHash = PaymentHash::new([2; 32]);

    #[test]
    fn no_two_tellings_of_one_payment_in_a_row_have_one_number() {
        // Told in the first start, credited, not acknowledged; told by LDK in the second, not
        // acknowledged either.
        let first = Tellings::new(1, 0).of(&A);
        let second = Tellings::new(2, 1);
        let (second_kept, second_new) = (second.of(&A), second.current());
        let mut third = Tellings::new(3, 2);
        let mut numbers = vec![first, second_kept, second_new];
        for _ in 0..2 {
            numbers.push(third.of(&A));
            third.acknowledged(Some(&A));
        }
        numbers.push(third.of(&A));
        assert!(numbers.windows(2).all(|pair| pair[0] != pair[1]), "{numbers:?}");
        assert_eq!(third.of(&A), third.current());
    }

    #[test]
    fn a_second_payment_in_one_start_has_the_number_of_the_first() {
        let mut tellings = Tellings::new(7, 1);
        tellings.acknowledged(None);
        let first = tellings.of(&B);
        tellings.acknowledged(Some(&B));
        assert_eq!(tellings.of(&B), first);
    }

    #[test]
    fn numbers_grow_from_start_to_start() {
        let kept = Tellings::new(2, 1);
        assert!(Tellings::new(1, 0).current() < kept.of(&A) && kept.of(&A) < kept.current());
    }
}
