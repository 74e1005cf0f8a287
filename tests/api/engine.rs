//! A store in memory that fails when told to, and counts what is asked of it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use sluice::store::engine::{Engine, Op, Rows, Table};
use sluice::store::memory::Memory;
use sluice::store::{Durability, Error};

/// What is said where the disk fails: no client may ever see it.
pub const SECRET: &str = "/dev/secret";

#[derive(Clone, Default)]
pub struct Flaky(Arc<Inner>);

#[derive(Default)]
struct Inner {
    memory: Memory,
    fails: AtomicU8,
    looks: AtomicUsize,
    writes: AtomicUsize,
    synced: AtomicUsize,
}

impl Flaky {
    /// Writes fail from now on.
    pub fn fail_writes(&self) {
        self.0.fails.store(1, Ordering::SeqCst);
    }

    /// Reads and writes fail from now on.
    pub fn fail(&self) {
        self.0.fails.store(2, Ordering::SeqCst);
    }

    /// Reads panic from now on: a bug in a handler.
    pub fn panic(&self) {
        self.0.fails.store(3, Ordering::SeqCst);
    }

    /// Nothing fails any more.
    pub fn mend(&self) {
        self.0.fails.store(0, Ordering::SeqCst);
    }

    /// How often rows of sessions were read together.
    pub fn looks(&self) -> usize {
        self.0.looks.load(Ordering::SeqCst)
    }

    /// How often something was written, and how often of these the disk was waited for.
    pub fn writes(&self) -> (usize, usize) {
        (self.0.writes.load(Ordering::SeqCst), self.0.synced.load(Ordering::SeqCst))
    }

    fn check(&self, from: u8) -> Result<(), Error> {
        match self.0.fails.load(Ordering::SeqCst) {
            3 => panic!("{SECRET}"),
            now if now >= from => Err(Error::Failed(SECRET.to_owned())),
            _ => Ok(()),
        }
    }
}

impl Engine for Flaky {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.check(2)?;
        self.0.memory.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Error> {
        self.check(2)?;
        self.0.looks.fetch_add(usize::from(table == Table::Sessions), Ordering::SeqCst);
        self.0.memory.scan(table, prefix, after, limit)
    }

    fn write(&self, batch: Vec<Op>, durability: Durability) -> Result<(), Error> {
        self.check(1)?;
        self.0.writes.fetch_add(1, Ordering::SeqCst);
        self.0.synced.fetch_add(usize::from(durability == Durability::Disk), Ordering::SeqCst);
        self.0.memory.write(batch, durability)
    }

    fn flush(&self) -> Result<(), Error> {
        Ok(())
    }
}
