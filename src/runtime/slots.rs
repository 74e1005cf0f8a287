//! Places of which there are only so many, in all and for each client, so that one cannot take what all need.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use super::lock;

/// A quarter of all places is kept for those who have paid before.
const KEPT_FOR_PAYERS: usize = 4;

/// So many places, and so many for each key.
#[derive(Debug)]
pub struct Slots<K: Eq + Hash> {
    taken: Arc<Mutex<Taken<K>>>,
    max: usize,
    per_key: usize,
}

#[derive(Debug)]
struct Taken<K> {
    in_all: usize,
    by_key: HashMap<K, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// This client has all that it may have.
    ForKey,
    /// All are taken.
    InAll,
}

impl<K: Eq + Hash> Clone for Slots<K> {
    fn clone(&self) -> Self {
        Self { taken: Arc::clone(&self.taken), ..*self }
    }
}

impl<K: Eq + Hash + Copy> Slots<K> {
    /// `max` places in all, `per_key` for each.
    pub fn new(max: usize, per_key: usize) -> Self {
        let taken = Taken { in_all: 0, by_key: HashMap::new() };
        Self { taken: Arc::new(Mutex::new(taken)), max, per_key }
    }

    /// Takes a place until the slot is dropped. `None` for who is not counted by itself, such as a trusted proxy. Who has paid before finds
    /// places that others do not.
    ///
    /// # Errors
    /// [`Full`] where there is none.
    pub fn take(&self, key: Option<K>, paid: bool) -> Result<Slot<K>, Full> {
        let kept = if paid { 0 } else { self.max / KEPT_FOR_PAYERS };
        let mut taken = lock(&self.taken);
        if taken.in_all >= self.max.saturating_sub(kept).max(1) {
            return Err(Full::InAll);
        }
        if let Some(key) = key {
            let of_key = taken.by_key.entry(key).or_default();
            if *of_key >= self.per_key {
                return Err(Full::ForKey);
            }
            *of_key = of_key.saturating_add(1);
        }
        taken.in_all = taken.in_all.saturating_add(1);
        Ok(Slot { taken: Arc::clone(&self.taken), key })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        lock(&self.taken).in_all
    }
}

/// A place, given back when it is dropped.
#[derive(Debug)]
pub struct Slot<K: Eq + Hash> {
    taken: Arc<Mutex<Taken<K>>>,
    key: Option<K>,
}

impl<K: Eq + Hash> Drop for Slot<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.in_all = taken.in_all.saturating_sub(1);
        if let Some(key) = &self.key
            && let Some(of_key) = taken.by_key.get_mut(key)
        {
            *of_key = of_key.saturating_sub(1);
            if *of_key == 0 {
                taken.by_key.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_client_cannot_take_all_and_a_quarter_is_kept_for_who_paid() {
        let slots = Slots::new(8, 3);
        let mut held: Vec<_> = (0..3).map(|_| slots.take(Some(1), false).unwrap()).collect();
        assert_eq!(slots.take(Some(1), true).err(), Some(Full::ForKey));
        held.extend((0..3).map(|_| slots.take(Some(2), false).unwrap()));
        assert_eq!(slots.take(Some(3), false).err(), Some(Full::InAll));
        held.extend((0..2).map(|_| slots.take(Some(3), true).unwrap()));
        assert_eq!(slots.take(Some(4), true).err(), Some(Full::InAll));
        assert_eq!(slots.taken(), 8);
        held.clear();
        assert_eq!(slots.taken(), 0);
        assert!(lock(&slots.taken).by_key.is_empty(), "clients that left are forgotten");
    }

    #[test]
    fn a_proxy_is_counted_in_all_and_not_by_itself() {
        let slots = Slots::<u8>::new(4, 1);
        let held: Vec<_> = (0..3).map(|_| slots.take(None, false).unwrap()).collect();
        assert_eq!(slots.take(None, false).err(), Some(Full::InAll));
        drop(held);
    }
}
