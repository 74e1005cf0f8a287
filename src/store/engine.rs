//! Ordered keys and atomic batches: what the verbs of the store are written over.

use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, Ordering};

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::jobs::Turns;
use super::{Durability, Error, NodeKey, NodeState, Storage};

/// The tables; a column family each in RocksDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The Lightning node's state.
    Node,
    /// Creators, keys, titles, versions, counters.
    Catalog,
    /// Sources that wait for a worker.
    Jobs,
    /// Invoices, by payment hash.
    Invoices,
    /// Payments booked, by payment hash. Never pruned: LDK may tell one again long after.
    Booked,
    /// Sessions, what they served, and which invoices are theirs.
    Sessions,
    /// Entries of the ledger, by identity.
    Entries,
    /// Sums of postings and credits: the only table that takes [`Op::Add`].
    Balances,
    /// Payouts, by id and by payment hash.
    Payouts,
    /// Channels that closed and are not booked.
    Channels,
    /// Payments that nobody claimed, by payment hash.
    Unclaimed,
}

impl Table {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Node,
        Self::Catalog,
        Self::Jobs,
        Self::Invoices,
        Self::Booked,
        Self::Sessions,
        Self::Entries,
        Self::Balances,
        Self::Payouts,
        Self::Channels,
        Self::Unclaimed,
    ];

    /// Its name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Catalog => "catalog",
            Self::Jobs => "jobs",
            Self::Invoices => "invoices",
            Self::Booked => "booked",
            Self::Sessions => "sessions",
            Self::Entries => "entries",
            Self::Balances => "balances",
            Self::Payouts => "payouts",
            Self::Channels => "channels",
            Self::Unclaimed => "unclaimed",
        }
    }
}

/// One change in a batch.
#[derive(Debug, Clone)]
pub enum Op {
    /// Sets a value.
    Put(Table, Vec<u8>, Vec<u8>),
    /// Removes a value.
    Delete(Table, Vec<u8>),
    /// Adds to a sum in [`Table::Balances`]; a sum begins at zero.
    Add(Vec<u8>, i128),
}

/// Keys and values, as a scan gives them.
pub type Rows = Vec<(Vec<u8>, Vec<u8>)>;

/// Ordered keys and atomic batches.
pub trait Engine: Send + Sync + 'static {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Error`] where the database fails; so in all calls.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error>;
    /// Up to `limit` keys with a prefix and their values in order, those greater than `after`.
    ///
    /// # Errors
    /// See [`Engine::get`].
    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Error>;
    /// All changes or none.
    ///
    /// # Errors
    /// See [`Engine::get`].
    fn write(&self, batch: Vec<Op>, durability: Durability) -> Result<(), Error>;
    /// Writes down what is still in memory.
    ///
    /// # Errors
    /// See [`Engine::get`].
    fn flush(&self) -> Result<(), Error>;
}

/// The verbs of all ports over one engine.
#[derive(Debug)]
pub struct Store<E> {
    pub(super) engine: E,
    /// Held by each verb that reads before it writes money.
    pub(super) money: Mutex<()>,
    /// The same for creators, titles and jobs, whose writes wait for the disk and must not hold up the money.
    pub(super) catalog: Mutex<Turns>,
    /// How many invoices are kept that are not paid: asked for at each challenge, so it is not read from the engine.
    pub(super) unpaid: AtomicI64,
}

/// The sum that [`Store::unpaid`] begins with at each start.
pub(super) const UNPAID: &str = "unpaid";

impl<E: Engine> Store<E> {
    /// Over an engine.
    pub fn new(engine: E) -> Self {
        let store = Self {
            engine,
            money: Mutex::new(()),
            catalog: Mutex::default(),
            unpaid: AtomicI64::new(0),
        };
        // An engine that cannot be read fails at the first verb that matters; the count is a bound, not a balance.
        let unpaid = store.sum(UNPAID).unwrap_or_default();
        store.unpaid.store(i64::try_from(unpaid).unwrap_or_default(), Ordering::Relaxed);
        store
    }

    /// Writes a batch with which the number of unpaid invoices changes.
    pub(super) fn write_counted(&self, mut batch: Vec<Op>, change: i64) -> Result<(), Error> {
        if change != 0 {
            batch.push(Op::Add(UNPAID.into(), i128::from(change)));
        }
        self.engine.write(batch, Durability::Process)?;
        self.unpaid.fetch_add(change, Ordering::Relaxed);
        Ok(())
    }

    pub(super) fn read<T: DeserializeOwned>(
        &self,
        table: Table,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<T>, Error> {
        self.engine.get(table, key.as_ref())?.map(|value| decode(&value)).transpose()
    }

    pub(super) fn read_packed<T: DeserializeOwned>(
        &self,
        table: Table,
        key: impl AsRef<[u8]>,
    ) -> Result<Option<T>, Error> {
        self.engine.get(table, key.as_ref())?.map(|value| unpack(&value)).transpose()
    }

    /// All records with a prefix.
    pub(super) fn read_all<T: DeserializeOwned>(
        &self,
        table: Table,
        prefix: impl AsRef<[u8]>,
    ) -> Result<Vec<T>, Error> {
        let rows = self.engine.scan(table, prefix.as_ref(), None, usize::MAX)?;
        rows.iter().map(|(_, value)| decode(value)).collect()
    }

    pub(super) fn sum(&self, key: impl AsRef<[u8]>) -> Result<i128, Error> {
        let value = self.engine.get(Table::Balances, key.as_ref())?;
        value.map_or(Ok(0), |value| decode_sum(&value))
    }
}

impl<E: Engine> Storage for Store<E> {
    fn next_boot(&self) -> Result<u64, Error> {
        let _guard = crate::runtime::lock(&self.catalog);
        let boot = self.read::<u64>(Table::Catalog, "boot")?.unwrap_or_default().saturating_add(1);
        self.engine.write(vec![put(Table::Catalog, "boot", &boot)?], Durability::Disk)?;
        Ok(boot)
    }

    fn key_epoch(&self) -> Result<u32, Error> {
        Ok(self.read(Table::Catalog, "key_epoch")?.unwrap_or_default())
    }

    fn rotate_keys(&self) -> Result<u32, Error> {
        let _guard = crate::runtime::lock(&self.catalog);
        let next = self.key_epoch()?.checked_add(1);
        let next = next.ok_or_else(|| Error::Corrupt("the key epoch".to_owned()))?;
        self.engine.write(vec![put(Table::Catalog, "key_epoch", &next)?], Durability::Disk)?;
        Ok(next)
    }

    fn flush(&self) -> Result<(), Error> {
        self.engine.flush()
    }
}

impl<E: Engine> NodeState for Store<E> {
    fn read(&self, key: &NodeKey) -> Result<Option<Vec<u8>>, Error> {
        self.engine.get(Table::Node, &node_key(&key.primary, &key.secondary, &key.key))
    }

    fn write(&self, key: &NodeKey, value: &[u8], durability: Durability) -> Result<(), Error> {
        let key = node_key(&key.primary, &key.secondary, &key.key);
        self.engine.write(vec![Op::Put(Table::Node, key, value.to_vec())], durability)
    }

    fn remove(&self, key: &NodeKey) -> Result<(), Error> {
        let key = node_key(&key.primary, &key.secondary, &key.key);
        self.engine.write(vec![Op::Delete(Table::Node, key)], Durability::Process)
    }

    fn list(&self, primary: &str, secondary: &str) -> Result<Vec<String>, Error> {
        let prefix = node_key(primary, secondary, "");
        let rows = self.engine.scan(Table::Node, &prefix, None, usize::MAX)?;
        let name = |(key, _): &(Vec<u8>, Vec<u8>)| {
            let name = key.get(prefix.len()..).unwrap_or_default();
            String::from_utf8(name.to_vec()).map_err(|_| Error::Corrupt("a node key".to_owned()))
        };
        rows.iter().map(name).collect()
    }
}

/// Namespaces end with a zero byte, which LDK's key alphabet does not hold: no namespace is a prefix of another.
fn node_key(primary: &str, secondary: &str, key: &str) -> Vec<u8> {
    [primary.as_bytes(), b"\0", secondary.as_bytes(), b"\0", key.as_bytes()].concat()
}

/// A record to be written that people may have to read: JSON.
pub(super) fn put(
    table: Table,
    key: impl AsRef<[u8]>,
    value: &impl Serialize,
) -> Result<Op, Error> {
    let value = serde_json::to_vec(value).map_err(|error| Error::Corrupt(error.to_string()))?;
    Ok(Op::Put(table, key.as_ref().to_vec(), value))
}

pub(super) fn decode<T: DeserializeOwned>(value: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(value).map_err(|error| Error::Corrupt(error.to_string()))
}

/// What the first byte of a packed record says: a change of its fields takes the next number, and reads this one still.
const PACKED: u8 = 1;

/// A record that each sale writes and reads: postcard, a quarter of JSON's bytes and time.
pub(super) fn pack(
    table: Table,
    key: impl AsRef<[u8]>,
    value: &impl Serialize,
) -> Result<Op, Error> {
    let value = postcard::to_extend(value, vec![PACKED]);
    let value = value.map_err(|error| Error::Corrupt(error.to_string()))?;
    Ok(Op::Put(table, key.as_ref().to_vec(), value))
}

pub(super) fn unpack<T: DeserializeOwned>(value: &[u8]) -> Result<T, Error> {
    let packed = value.strip_prefix(&[PACKED]);
    let packed = packed.ok_or_else(|| Error::Corrupt("it is of another version".to_owned()))?;
    postcard::from_bytes(packed).map_err(|error| Error::Corrupt(error.to_string()))
}

pub(super) fn decode_sum(value: &[u8]) -> Result<i128, Error> {
    let bytes = value.try_into().map_err(|_| Error::Corrupt("a sum".to_owned()))?;
    Ok(i128::from_be_bytes(bytes))
}
