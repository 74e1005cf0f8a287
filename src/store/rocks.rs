//! The engine that runs: one RocksDB with one write-ahead log for everything, the Lightning node's state included.
//!
//! A column family for each [`Table`]; keys are the text that the verbs make, values are JSON or what [`super::engine::pack`] makes, sums are 16
//! bytes (an i128, big endian), node state is LDK's bytes. After a power cut the disk holds a prefix of what was written, so
//! a credit is there wherever its acknowledgement is: hence point-in-time recovery, and never a disabled log, unordered writes or a
//! manual flush of the log. [`Durability::Disk`] syncs the log and with it every write before.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Mutex;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Direction,
    IteratorMode, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::engine::{Engine, Op, Rows, Table, decode_sum};
use super::{Durability, Error};
use crate::runtime::lock;

/// Bytes of one write buffer, taken as it fills: so large that what a burst of payments writes is sorted once, not again and again.
const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// The log is cut at this size, which bounds what a start has to read again.
const LOG_BYTES_MAX: u64 = 128 << 20;
/// What was read is kept in memory up to this size, for all tables together; by itself each would have a cache of its own.
const BLOCK_CACHE_BYTES: usize = 64 << 20;
/// A look for what a file does not hold costs a read in one of a hundred.
const BLOOM_BITS: f64 = 10.0;
/// Sums that are kept in memory: those of accounts, of which there are few. Sums of sessions are read again for each addition.
const HOT_SUMS: usize = 4_096;
/// Where the number of the form of all records stands.
const FORMAT_KEY: &str = "format";
/// Of this program. A change that no code reads any more takes the next one.
const FORMAT: &[u8] = b"2";

/// An open database.
pub struct Rocks {
    db: DB,
    /// Held while sums are changed, so that each addition is a plain write.
    sums: Mutex<HashMap<Vec<u8>, i128>>,
}

impl Rocks {
    /// Opens the database in a directory, or makes one.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process has it open; [`Error::Failed`] where RocksDB refuses.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_max_total_wal_size(LOG_BYTES_MAX);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(256);
        let mut blocks = BlockBasedOptions::default();
        blocks.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
        blocks.set_bloom_filter(BLOOM_BITS, false);
        // Otherwise the filters and indexes of each open file would come on top of the cache.
        blocks.set_cache_index_and_filter_blocks(true);
        blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
        let families = Table::ALL.map(|table| {
            let mut options = Options::default();
            options.set_write_buffer_size(WRITE_BUFFER_BYTES);
            options.set_block_based_table_factory(&blocks);
            ColumnFamilyDescriptor::new(table.name(), options)
        });
        match DB::open_cf_descriptors(&options, path, families) {
            Ok(db) => Self { db, sums: Mutex::default() }.of_this_format(path),
            Err(error) if is_locked(&error) => Err(Error::Locked(format!(
                "{} is in use by another process: stop it, or choose another data_dir",
                path.display()
            ))),
            Err(error) => Err(failed(&error)),
        }
    }

    /// Refuses what another form of this program wrote, and marks what is new.
    fn of_this_format(self, path: &Path) -> Result<Self, Error> {
        let catalog = self.family(Table::Catalog)?;
        let found = self.db.get_cf(catalog, FORMAT_KEY).map_err(|error| failed(&error))?;
        let is_new = self.scan(Table::Catalog, b"", None, 1)?.is_empty()
            && self.scan(Table::Node, b"", None, 1)?.is_empty();
        match found.as_deref() {
            Some(FORMAT) => {}
            None if is_new => {
                self.db.put_cf(catalog, FORMAT_KEY, FORMAT).map_err(|error| failed(&error))?;
            }
            other => {
                let other = other.map_or("1".into(), String::from_utf8_lossy);
                return Err(Error::Failed(format!(
                    "{} is of format {other}, and this version of sluice reads format {}: run the version that wrote it, or choose \
                     another data_dir",
                    path.display(),
                    String::from_utf8_lossy(FORMAT),
                )));
            }
        }
        Ok(self)
    }

    /// Adds to sums, and writes what they come to with the rest.
    fn write_sums(
        &self,
        mut writes: WriteBatch,
        added: Vec<(Vec<u8>, i128)>,
        options: &WriteOptions,
    ) -> Result<(), Error> {
        let family = self.family(Table::Balances)?;
        let mut sums = lock(&self.sums);
        let mut changed: Vec<(Vec<u8>, i128)> = Vec::with_capacity(added.len());
        for (key, amount) in added {
            // A batch may add to one sum twice.
            let before = match changed.iter().rev().find(|(of, _)| *of == key) {
                Some((_, sum)) => *sum,
                None => match sums.get(&key) {
                    Some(sum) => *sum,
                    None => match self.get(Table::Balances, &key)? {
                        Some(value) => decode_sum(&value)?,
                        None => 0,
                    },
                },
            };
            let overflows = || Error::Corrupt("a sum overflows".to_owned());
            let sum = before.checked_add(amount).ok_or_else(overflows)?;
            writes.put_cf(family, &key, sum.to_be_bytes());
            changed.push((key, sum));
        }
        if let Err(error) = self.db.write_opt(writes, options) {
            // Whether it is on disk is not known: what is, is read again.
            sums.clear();
            return Err(failed(&error));
        }
        for (key, sum) in changed {
            if sums.contains_key(&key) || (is_hot(&key) && sums.len() < HOT_SUMS) {
                sums.insert(key, sum);
            }
        }
        Ok(())
    }

    fn family(&self, table: Table) -> Result<&ColumnFamily, Error> {
        let missing = || Error::Failed(format!("the table {} is missing", table.name()));
        self.db.cf_handle(table.name()).ok_or_else(missing)
    }
}

impl Engine for Rocks {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.db.get_cf(self.family(table)?, key).map_err(|error| failed(&error))
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Error> {
        let from = after.filter(|after| *after >= prefix).unwrap_or(prefix);
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        let mode = IteratorMode::From(from, Direction::Forward);
        let mut rows = Vec::new();
        for row in self.db.iterator_cf_opt(self.family(table)?, options, mode) {
            let (key, value) = row.map_err(|error| failed(&error))?;
            if !key.starts_with(prefix) || rows.len() >= limit {
                break;
            }
            if after != Some(&*key) {
                rows.push((key.into_vec(), value.into_vec()));
            }
        }
        Ok(rows)
    }

    fn write(&self, batch: Vec<Op>, durability: Durability) -> Result<(), Error> {
        let mut writes = WriteBatch::default();
        let mut added = Vec::new();
        for op in batch {
            match op {
                Op::Put(table, key, value) => writes.put_cf(self.family(table)?, key, value),
                Op::Delete(table, key) => writes.delete_cf(self.family(table)?, key),
                Op::Add(key, amount) => added.push((key, amount)),
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Disk);
        if added.is_empty() {
            return self.db.write_opt(writes, &options).map_err(|error| failed(&error));
        }
        self.write_sums(writes, added, &options)
    }

    fn flush(&self) -> Result<(), Error> {
        self.db.flush_wal(true).map_err(|error| failed(&error))
    }
}

/// Whether a sum is one of the few that each sale adds to.
fn is_hot(key: &[u8]) -> bool {
    key.starts_with(super::money::ACCOUNT) || key == super::engine::UNPAID.as_bytes()
}

/// RocksDB has no code for it: the two sentences are that of another process and that of this one. "lock" alone is in "block checksum
/// mismatch" and may be in the path.
fn is_locked(error: &rocksdb::Error) -> bool {
    let text = error.to_string();
    text.contains("While lock file") || text.contains("lock hold by current process")
}

fn failed(error: &rocksdb::Error) -> Error {
    Error::Failed(error.to_string())
}
