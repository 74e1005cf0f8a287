//! A store in memory that fails when told to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use sluice::store::engine::{Engine, Op, Rows, Table};
use sluice::store::memory::Memory;
use sluice::store::{Durability, Error};

/// What is said where the disk fails: no client may ever see it.
pub const SECRET: &str = "/dev/secret";

#[derive(Clone, Default)]
pub struct Flaky(Arc<(Memory, AtomicU8, AtomicUsize)>);

impl Flaky {
    /// Writes fail from now on.
    pub fn fail_writes(&self) {
        self.0.1.store(1, Ordering::SeqCst);
    }

    /// Reads and writes fail from now on.
    pub fn fail(&self) {
        self.0.1.store(2, Ordering::SeqCst);
    }

    /// Reads panic from now on: a bug in a handler.
    pub fn panic(&self) {
        self.0.1.store(3, Ordering::SeqCst);
    }

    /// Nothing fails any more.
    pub fn mend(&self) {
        self.0.1.store(0, Ordering::SeqCst);
    }

    /// How often rows of sessions were read together.
    pub fn looks(&self) -> usize {
        self.0.2.load(Ordering::SeqCst)
    }

    fn check(&self, from: u8) -> Result<(), Error> {
        match self.0.1.load(Ordering::SeqCst) {
            3 => panic!("{SECRET}"),
            now if now >= from => Err(Error::Failed(SECRET.to_owned())),
            _ => Ok(()),
        }
    }
}

impl Engine for Flaky {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.check(2)?;
        self.0.0.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Error> {
        self.check(2)?;
        self.0.2.fetch_add(usize::from(table == Table::Sessions), Ordering::SeqCst);
        self.0.0.scan(table, prefix, after, limit)
    }

    fn write(&self, batch: Vec<Op>, durability: Durability) -> Result<(), Error> {
        self.check(1)?;
        self.0.0.write(batch, durability)
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}
