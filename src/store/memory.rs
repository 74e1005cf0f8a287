//! The engine of fast tests: everything in memory, every write at once durable.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Mutex;

use super::engine::{Engine, Op, Rows, Table, decode_sum};
use super::{Durability, Error};
use crate::runtime::lock;

type Values = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// Keys and values in memory.
#[derive(Debug, Default)]
pub struct Memory(Mutex<Values>);

impl Engine for Memory {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        Ok(lock(&self.0).get(&(table, key.to_vec())).cloned())
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Error> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded((table, after.to_vec())),
            _ => Bound::Included((table, prefix.to_vec())),
        };
        let rows = lock(&self.0);
        Ok(rows
            .range((from, Bound::Unbounded))
            .take_while(|((of, key), _)| *of == table && key.starts_with(prefix))
            .take(limit)
            .map(|((_, key), value)| (key.clone(), value.clone()))
            .collect())
    }

    fn write(&self, batch: Vec<Op>, _durability: Durability) -> Result<(), Error> {
        let mut rows = lock(&self.0);
        for op in batch {
            match op {
                Op::Put(table, key, value) => {
                    rows.insert((table, key), value);
                }
                Op::Delete(table, key) => {
                    rows.remove(&(table, key));
                }
                Op::Add(key, amount) => {
                    let sum = rows.entry((Table::Balances, key)).or_insert_with(|| vec![0; 16]);
                    let total = decode_sum(sum)?.saturating_add(amount);
                    *sum = total.to_be_bytes().to_vec();
                }
            }
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}
