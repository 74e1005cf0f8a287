//! RocksDB behind large batches: what a store's verbs write is gathered, later values replace earlier ones, and a batch of thousands goes to disk
//! at once. What lies there in the end is what the same verbs leave without it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard};

use sluice::store::engine::{Engine, Op, Rows, Table};
use sluice::store::rocks::Rocks;
use sluice::store::{Durability, Error};

/// Changes that are gathered: some 10 MB.
const GATHERED_MAX: usize = 20_000;

#[derive(Default)]
struct Gathered {
    /// The last value of each key; nothing where it was removed.
    values: HashMap<(Table, Vec<u8>), Option<Vec<u8>>>,
    /// What was added to each sum.
    sums: HashMap<Vec<u8>, i128>,
}

/// The engine.
pub struct Bulk {
    rocks: Rocks,
    gathered: Mutex<Gathered>,
}

impl Bulk {
    pub fn new(rocks: Rocks) -> Self {
        Self { rocks, gathered: Mutex::default() }
    }

    fn gathered(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap()
    }

    fn write_down(&self, gathered: &mut Gathered) -> Result<(), Error> {
        let values = gathered.values.drain().map(|((table, key), value)| match value {
            Some(value) => Op::Put(table, key, value),
            None => Op::Delete(table, key),
        });
        let sums = gathered.sums.drain().map(|(key, sum)| Op::Add(key, sum));
        self.rocks.write(values.chain(sums).collect(), Durability::Process)
    }
}

impl Engine for Bulk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let mut gathered = self.gathered();
        if table == Table::Balances {
            self.write_down(&mut gathered)?;
        }
        match gathered.values.get(&(table, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => self.rocks.get(table, key),
        }
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Error> {
        self.write_down(&mut self.gathered())?;
        self.rocks.scan(table, prefix, after, limit)
    }

    fn write(&self, batch: Vec<Op>, _: Durability) -> Result<(), Error> {
        let mut gathered = self.gathered();
        for op in batch {
            match op {
                Op::Put(table, key, value) => {
                    gathered.values.insert((table, key), Some(value));
                }
                Op::Delete(table, key) => {
                    gathered.values.insert((table, key), None);
                }
                Op::Add(key, amount) => {
                    let sum = gathered.sums.entry(key).or_default();
                    *sum = sum.checked_add(amount).expect("a bench adds no such sums");
                }
            }
        }
        if gathered.values.len() >= GATHERED_MAX {
            self.write_down(&mut gathered)?;
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        self.write_down(&mut self.gathered())?;
        self.rocks.flush()
    }
}
