//! LDK's key-value store over the port [`NodeState`]: which key survives a power cut at once, and
//! the order of writes.
//!
//! LDK writes through two traits. `KVStoreSync` blocks its caller. `KVStore` returns a future, and
//! the writes of one key must take effect in the order of the *calls*, whenever the futures run:
//! each call takes a [`Ticket`], and a ticket that is overtaken by a later one of its key does
//! nothing. Unsynced writes and removals run inline in the call, so that the write-ahead log has
//! them in the order in which LDK decided them; only what waits for the disk leaves the caller's
//! thread.

use std::collections::HashMap;
use std::future::ready;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lightning::io;
use lightning::util::async_poll::AsyncResult;
use lightning::util::persist::{KVStore, KVStoreSync};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::runtime::lock;
use crate::store::{Durability, Error, NodeKey, NodeState};

/// What a write of this key must survive.
///
/// Unsynced is what LDK can lose in a power cut together with everything after it (the log keeps a
/// prefix) or can build again. Anything unknown is synced.
pub fn durability(key: &NodeKey) -> Durability {
    match (key.primary.as_str(), key.secondary.as_str(), key.key.as_str()) {
        // The event queue: whatever made LDK forget an event durably comes later in the log than
        // the event.
        ("", "", "events")
        // Found again by connecting, by polling, by gossip and by paying.
        | ("", "", "peers" | "node_metrics" | "network_graph" | "scorer")
        | ("", "", "external_pathfinding_scores_cache")
        // Records of payments; the payments themselves lie in the manager and the monitors.
        | ("payments", _, _)
        // Copies of monitors of channels that are closed and resolved.
        | ("archived_monitors", _, _) => Durability::Process,
        // monitors, monitor_updates, manager, output_sweeper, bdk_wallet, lightning_liquidity_state
        // and what is yet to come.
        _ => Durability::Disk,
    }
}

/// The store that is handed to LDK.
pub struct NodeStore {
    shared: Arc<Shared>,
    runtime: Handle,
}

struct Shared {
    state: Arc<dyn NodeState>,
    /// How long the record of each channel is.
    records: Records,
    lanes: Arc<Lanes>,
    failure: watch::Sender<Option<String>>,
}

/// How long LDK's records of channels are: each grows by some hundred bytes with each payment for as long as its channel is open, is written
/// anew every hundred changes, and is read at each start.
#[derive(Debug, Clone, Default)]
pub struct Records(Arc<Mutex<HashMap<String, u64>>>);

impl Records {
    /// That of the channel with this funding output, in bytes; LDK names it so.
    pub fn of(&self, transaction: &impl std::fmt::Display, output: u32) -> u64 {
        lock(&self.0).get(&format!("{transaction}_{output}")).copied().unwrap_or_default()
    }

    fn note(&self, key: &NodeKey, len: Option<usize>) {
        if key.primary != "monitors" {
            return;
        }
        let mut records = lock(&self.0);
        match len {
            Some(len) => records.insert(key.key.clone(), u64::try_from(len).unwrap_or(u64::MAX)),
            None => records.remove(&key.key),
        };
    }
}

impl NodeStore {
    /// Over this state; writes that wait for the disk run on the blocking threads of this runtime.
    pub fn new(state: Arc<dyn NodeState>, runtime: Handle) -> Self {
        let (failure, _) = watch::channel(None);
        let records = Records::default();
        let shared = Arc::new(Shared { state, records, lanes: Arc::default(), failure });
        Self { shared, runtime }
    }

    /// Tells the first write or removal that failed. LDK cannot go on after one.
    pub fn failure(&self) -> watch::Receiver<Option<String>> {
        self.shared.failure.subscribe()
    }

    /// Tells how long the records of channels are.
    pub fn records(&self) -> Records {
        self.shared.records.clone()
    }

    fn read_now(&self, key: &NodeKey) -> Result<Vec<u8>, io::Error> {
        let value = self.shared.state.read(key).map_err(failed)?;
        self.shared.records.note(key, value.as_ref().map(Vec::len));
        value.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no such key"))
    }

    fn list_now(&self, primary: &str, secondary: &str) -> Result<Vec<String>, io::Error> {
        self.shared.state.list(primary, secondary).map_err(failed)
    }

    fn remove_now(&self, key: NodeKey) -> Result<(), io::Error> {
        self.shared.apply(self.shared.lanes.enter(key), |state, key| {
            state.remove(key)?;
            self.shared.records.note(key, None);
            Ok(())
        })
    }
}

impl Shared {
    /// Does what a call asked for, unless a later call of the same key was done already.
    fn apply(
        &self,
        ticket: Ticket,
        change: impl FnOnce(&dyn NodeState, &NodeKey) -> Result<(), Error>,
    ) -> Result<(), io::Error> {
        let mut done = lock(&ticket.lane);
        if *done > ticket.version {
            return Ok(());
        }
        match change(&*self.state, &ticket.key) {
            Ok(()) => {
                *done = ticket.version;
                Ok(())
            }
            Err(error) => {
                self.failure.send_if_modified(|first| {
                    let is_first = first.is_none();
                    first.get_or_insert_with(|| error.to_string());
                    is_first
                });
                Err(failed(error))
            }
        }
    }

    fn write(&self, ticket: Ticket, value: &[u8]) -> Result<(), io::Error> {
        self.apply(ticket, |state, key| {
            state.write(key, value, durability(key))?;
            self.records.note(key, Some(value.len()));
            Ok(())
        })
    }
}

/// One lane for each key that is being changed; a lane nobody uses is closed.
#[derive(Default)]
struct Lanes {
    /// Counts over all keys, so that a lane that was closed and opened again needs no memory.
    calls: AtomicU64,
    open: Mutex<HashMap<NodeKey, Arc<Mutex<u64>>>>,
}

impl Lanes {
    fn enter(self: &Arc<Self>, key: NodeKey) -> Ticket {
        let mut open = lock(&self.open);
        let lane = Arc::clone(open.entry(key.clone()).or_default());
        // Taken under the lock, and from 1: a lane starts at 0, "nothing done".
        let version = self.calls.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        Ticket { version, key, lane, lanes: Arc::clone(self) }
    }
}

/// A call's place in the order of its key.
struct Ticket {
    version: u64,
    key: NodeKey,
    /// The version of the last call that took effect.
    lane: Arc<Mutex<u64>>,
    lanes: Arc<Lanes>,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut open = lock(&self.lanes.open);
        // The map's and this ticket's: nobody else waits in this lane, and none can enter under the
        // lock.
        if Arc::strong_count(&self.lane) <= 2 {
            open.remove(&self.key);
        }
    }
}

impl KVStoreSync for NodeStore {
    fn read(&self, primary: &str, secondary: &str, key: &str) -> Result<Vec<u8>, io::Error> {
        self.read_now(&name(primary, secondary, key))
    }

    fn write(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        value: Vec<u8>,
    ) -> Result<(), io::Error> {
        self.shared.write(self.shared.lanes.enter(name(primary, secondary, key)), &value)
    }

    fn remove(&self, primary: &str, secondary: &str, key: &str, _: bool) -> Result<(), io::Error> {
        self.remove_now(name(primary, secondary, key))
    }

    fn list(&self, primary: &str, secondary: &str) -> Result<Vec<String>, io::Error> {
        self.list_now(primary, secondary)
    }
}

impl KVStore for NodeStore {
    fn read(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
    ) -> AsyncResult<'static, Vec<u8>, io::Error> {
        Box::pin(ready(self.read_now(&name(primary, secondary, key))))
    }

    fn write(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        value: Vec<u8>,
    ) -> AsyncResult<'static, (), io::Error> {
        let key = name(primary, secondary, key);
        let synced = durability(&key) == Durability::Disk;
        let ticket = self.shared.lanes.enter(key);
        if !synced {
            return Box::pin(ready(self.shared.write(ticket, &value)));
        }
        let shared = Arc::clone(&self.shared);
        let write = self.runtime.spawn_blocking(move || shared.write(ticket, &value));
        Box::pin(async move {
            write.await.unwrap_or_else(|_| {
                Err(io::Error::new(io::ErrorKind::Interrupted, "the runtime is shutting down"))
            })
        })
    }

    fn remove(
        &self,
        primary: &str,
        secondary: &str,
        key: &str,
        _: bool,
    ) -> AsyncResult<'static, (), io::Error> {
        Box::pin(ready(self.remove_now(name(primary, secondary, key))))
    }

    fn list(&self, primary: &str, secondary: &str) -> AsyncResult<'static, Vec<String>, io::Error> {
        Box::pin(ready(self.list_now(primary, secondary)))
    }
}

fn name(primary: &str, secondary: &str, key: &str) -> NodeKey {
    NodeKey { primary: primary.to_owned(), secondary: secondary.to_owned(), key: key.to_owned() }
}

fn failed(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::Other, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Keeps each write and how it was asked for; the older of two waits longer.
    #[derive(Default)]
    struct Recorder {
        writes: Mutex<Vec<(NodeKey, Vec<u8>, Durability)>>,
        slow: bool,
        broken: bool,
    }

    impl NodeState for Recorder {
        fn read(&self, key: &NodeKey) -> Result<Option<Vec<u8>>, Error> {
            let writes = self.writes.lock().unwrap();
            Ok(writes.iter().rev().find(|(k, ..)| k == key).map(|(_, value, _)| value.clone()))
        }

        fn write(&self, key: &NodeKey, value: &[u8], how: Durability) -> Result<(), Error> {
            if self.broken {
                return Err(Error::Failed("disk full".to_owned()));
            }
            if self.slow {
                let wait = u64::from(251 - value[0] % 251) % 7;
                std::thread::sleep(Duration::from_millis(wait));
            }
            self.writes.lock().unwrap().push((key.clone(), value.to_vec(), how));
            Ok(())
        }

        fn remove(&self, key: &NodeKey) -> Result<(), Error> {
            self.writes.lock().unwrap().retain(|(k, ..)| k != key);
            Ok(())
        }

        fn list(&self, primary: &str, secondary: &str) -> Result<Vec<String>, Error> {
            let writes = self.writes.lock().unwrap();
            let here = |k: &&NodeKey| k.primary == primary && k.secondary == secondary;
            Ok(writes.iter().map(|(k, ..)| k).filter(here).map(|k| k.key.clone()).collect())
        }
    }

    #[test]
    fn the_table_of_synchronous_keys_is_pinned() {
        let synced = [
            ("monitors", "", "00_0"),
            ("monitor_updates", "00_0", "1"),
            ("", "", "manager"),
            ("", "", "output_sweeper"),
            ("bdk_wallet", "", "tx_graph"),
            ("lightning_liquidity_state", "", "event_queue"),
            ("lightning_liquidity_state", "lsps2_service", "02ab"),
            ("static_invoices", "", "x"),
            ("", "", "a key of a later LDK"),
        ];
        let unsynced = [
            ("", "", "events"),
            ("", "", "peers"),
            ("", "", "node_metrics"),
            ("", "", "scorer"),
            ("", "", "external_pathfinding_scores_cache"),
            ("", "", "network_graph"),
            ("payments", "", "00"),
            ("archived_monitors", "", "00_0"),
        ];
        for (primary, secondary, key) in synced {
            assert_eq!(durability(&name(primary, secondary, key)), Durability::Disk, "{key}");
        }
        for (primary, secondary, key) in unsynced {
            assert_eq!(durability(&name(primary, secondary, key)), Durability::Process, "{key}");
        }
    }

    #[tokio::test]
    async fn a_missing_key_is_not_found_and_nothing_else() {
        let store = NodeStore::new(Arc::new(Recorder::default()), Handle::current());
        let error = KVStoreSync::read(&store, "", "", "manager").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let error = KVStore::read(&store, "", "", "manager").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn the_record_of_a_channel_is_told_after_a_start_too_and_forgotten_with_its_channel() {
        let store = NodeStore::new(Arc::new(Recorder::default()), Handle::current());
        let records = store.records();
        let write = |primary, key, len| {
            KVStoreSync::write(&store, primary, "", key, vec![1; len]).unwrap();
        };
        write("monitors", "a_0", 10);
        write("monitors", "b_1", 30);
        write("monitors", "b_1", 20);
        write("monitor_updates", "a_0", 99);
        assert_eq!((records.of(&"a", 0), records.of(&"b", 1)), (10, 20));
        let again = NodeStore::new(Arc::clone(&store.shared.state), Handle::current());
        KVStoreSync::read(&again, "monitors", "", "b_1").unwrap();
        assert_eq!(again.records().of(&"b", 1), 20, "a start reads them all");
        KVStoreSync::remove(&store, "monitors", "", "b_1", false).unwrap();
        assert_eq!((records.of(&"a", 0), records.of(&"b", 1)), (10, 0));
    }

    #[tokio::test]
    async fn a_call_that_was_overtaken_does_nothing() {
        let state = Arc::new(Recorder::default());
        let store = NodeStore::new(state.clone(), Handle::current());
        let first = store.shared.lanes.enter(name("", "", "manager"));
        let second = store.shared.lanes.enter(name("", "", "manager"));
        let other = store.shared.lanes.enter(name("", "", "output_sweeper"));
        store.shared.write(second, b"new").unwrap();
        store.shared.write(first, b"old").unwrap();
        store.shared.write(other, b"x").unwrap();
        assert_eq!(KVStoreSync::read(&store, "", "", "manager").unwrap(), b"new");
        assert_eq!(state.writes.lock().unwrap().len(), 2);
        assert!(store.shared.lanes.open.lock().unwrap().is_empty(), "no lane is kept");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn writes_take_effect_in_the_order_of_the_calls() {
        let state = Arc::new(Recorder { slow: true, ..Recorder::default() });
        let store = NodeStore::new(state.clone(), Handle::current());
        let calls = (0..200_u8).map(|n| KVStore::write(&store, "", "", "manager", vec![n]));
        let calls: Vec<_> = calls.collect();
        // Awaited backwards: what counts is the order of the calls.
        for call in calls.into_iter().rev() {
            call.await.unwrap();
        }
        let seen: Vec<u8> = state.writes.lock().unwrap().iter().map(|(_, v, _)| v[0]).collect();
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!(seen.last(), Some(&199));
        assert!(store.shared.lanes.open.lock().unwrap().is_empty(), "no lane is kept");
    }

    #[tokio::test]
    async fn a_removal_is_not_undone_by_an_older_write() {
        let store = NodeStore::new(Arc::new(Recorder::default()), Handle::current());
        let write = store.shared.lanes.enter(name("monitors", "", "m"));
        KVStoreSync::remove(&store, "monitors", "", "m", true).unwrap();
        store.shared.write(write, b"old").unwrap();
        assert!(KVStoreSync::list(&store, "monitors", "").unwrap().is_empty());
    }

    #[tokio::test]
    async fn unsynced_writes_run_in_the_call() {
        let store = NodeStore::new(Arc::new(Recorder::default()), Handle::current());
        let unpolled = KVStore::write(&store, "", "", "events", vec![1]);
        assert_eq!(KVStoreSync::read(&store, "", "", "events").unwrap(), [1]);
        unpolled.await.unwrap();
    }

    #[tokio::test]
    async fn the_first_failure_is_told() {
        let state = Recorder { broken: true, ..Recorder::default() };
        let store = NodeStore::new(Arc::new(state), Handle::current());
        let mut failure = store.failure();
        assert!(KVStore::write(&store, "", "", "manager", vec![1]).await.is_err());
        assert!(KVStoreSync::write(&store, "", "", "events", vec![1]).is_err());
        let told = failure.wait_for(Option::is_some).await.unwrap().clone();
        assert_eq!(told.as_deref(), Some("the store failed: disk full"));
    }
}
