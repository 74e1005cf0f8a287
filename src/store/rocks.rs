//! The engine that runs: one RocksDB with one write-ahead log for everything, the Lightning node's state included.
//!
//! A column family for each [`Table`]; keys are the text that the verbs make, values are JSON, sums are 16 bytes (an i128, big
//! endian) folded by a merge operator, node state is LDK's bytes. After a power cut the disk holds a prefix of what was written, so
//! a credit is there wherever its acknowledgement is: hence point-in-time recovery, and never a disabled log, unordered writes or a
//! manual flush of the log. [`Durability::Disk`] syncs the log and with it every write before.

use std::path::Path;

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Direction,
    IteratorMode, MergeOperands, Options, ReadOptions, WriteBatch, WriteOptions,
};

use super::engine::{Engine, Op, Rows, Table, decode_sum};
use super::{Durability, Error};

/// Bytes of one write buffer: small enough for an idle server on a small machine, large enough for minutes of payments.
const WRITE_BUFFER_BYTES: usize = 8 << 20;
/// The log is cut at this size, which bounds what a start has to read again.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// What was read is kept in memory up to this size, for all tables together; by itself each would have a cache of its own.
const BLOCK_CACHE_BYTES: usize = 64 << 20;
/// A look for what a file does not hold costs a read in one of a hundred.
const BLOOM_BITS: f64 = 10.0;
/// So many additions to a sum wait to be folded; a reading folds them each time, and balances are read after each sale.
const ADDITIONS_MAX: usize = 16;

/// An open database.
pub struct Rocks {
    db: DB,
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
            if table == Table::Balances {
                options.set_merge_operator_associative("sum", add);
                options.set_max_successive_merges(ADDITIONS_MAX);
            }
            ColumnFamilyDescriptor::new(table.name(), options)
        });
        match DB::open_cf_descriptors(&options, path, families) {
            Ok(db) => Ok(Self { db }),
            Err(error) if is_locked(&error) => Err(Error::Locked(format!(
                "{} is in use by another process: stop it, or choose another data_dir",
                path.display()
            ))),
            Err(error) => Err(failed(&error)),
        }
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
        for op in batch {
            match op {
                Op::Put(table, key, value) => writes.put_cf(self.family(table)?, key, value),
                Op::Delete(table, key) => writes.delete_cf(self.family(table)?, key),
                Op::Add(key, amount) => {
                    writes.merge_cf(self.family(Table::Balances)?, key, amount.to_be_bytes());
                }
            }
        }
        let mut options = WriteOptions::default();
        options.set_sync(durability == Durability::Disk);
        self.db.write_opt(writes, &options).map_err(|error| failed(&error))
    }

    fn flush(&self) -> Result<(), Error> {
        self.db.flush_wal(true).map_err(|error| failed(&error))
    }
}

/// Folds additions into a sum. A sum that cannot be read or that overflows fails the read; it is never guessed.
fn add(_key: &[u8], sum: Option<&[u8]>, operands: &MergeOperands) -> Option<Vec<u8>> {
    let mut total = sum.map_or(Some(0), |sum| decode_sum(sum).ok())?;
    for operand in operands {
        total = total.checked_add(decode_sum(operand).ok()?)?;
    }
    Some(total.to_be_bytes().to_vec())
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
