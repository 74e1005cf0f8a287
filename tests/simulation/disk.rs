//! A disk that outlives processes: one log of batches, of which a power cut keeps a prefix and a SIGKILL keeps all. It fails, and dies with
//! the process between any two writes, when it is told to.

use std::sync::{Arc, Mutex, MutexGuard};

use sluice::store::engine::{Engine, Op, Rows, Table};
use sluice::store::memory::Memory;
use sluice::store::{Durability, Error};

use crate::chance::Chance;

#[derive(Clone, Default)]
pub struct Disk(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    now: Memory,
    log: Vec<Vec<Op>>,
    /// So many batches of the log survive a power cut.
    synced: usize,
    /// Writes that fail from now on, of those that the node does not make.
    failing: u32,
    /// Writes that failed.
    failed: u32,
    /// Writes until the process dies.
    dies_after: Option<u32>,
    dead: bool,
}

impl Disk {
    /// The next writes of money or sessions fail.
    pub fn fail_writes(&self, count: u32) {
        self.state().failing = count;
    }

    /// The process dies after so many writes more, before the next one.
    pub fn die_after(&self, writes: u32) {
        self.state().dies_after = Some(writes);
    }

    /// Whether the process is dead: nothing that it does from now on leaves a trace.
    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// The process is dead: SIGKILL.
    pub fn kill(&self) {
        self.state().dead = true;
    }

    /// The machine is dead too: of what was not synced a prefix is there. How many batches are gone.
    pub fn cut_power(&self, chance: &Chance) -> usize {
        let mut state = self.state();
        state.dead = true;
        let (synced, len) = (state.synced, state.log.len());
        let kept = synced + chance.below(len - synced + 1);
        state.log.truncate(kept);
        state.now = Memory::default();
        for batch in &state.log {
            state.now.write(batch.clone(), Durability::Disk).unwrap();
        }
        len - kept
    }

    /// A new process: nothing fails, until it is told to. All that a process finds at its start has been read from the disk.
    pub fn revive(&self) {
        let mut state = self.state();
        (state.dead, state.failing, state.dies_after) = (false, 0, None);
    }

    /// How many writes have failed.
    pub fn failed(&self) -> u32 {
        self.state().failed
    }

    /// Nothing fails and nobody dies any more.
    pub fn mend(&self) {
        let mut state = self.state();
        (state.failing, state.dies_after) = (0, None);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    fn alive(&self) -> Result<MutexGuard<'_, State>, Error> {
        let state = self.state();
        if state.dead { Err(failed()) } else { Ok(state) }
    }
}

fn failed() -> Error {
    Error::Failed("simulated".to_owned())
}

/// The node's own writes do not fail one by one: LDK ends the process then.
fn is_the_nodes(op: &Op) -> bool {
    matches!(op, Op::Put(Table::Node, ..) | Op::Delete(Table::Node, ..))
}

impl Engine for Disk {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        self.alive()?.now.get(table, key)
    }

    fn scan(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Rows, Error> {
        self.alive()?.now.scan(table, prefix, after, limit)
    }

    fn write(&self, batch: Vec<Op>, durability: Durability) -> Result<(), Error> {
        let mut state = self.alive()?;
        if state.dies_after == Some(0) {
            state.dead = true;
            return Err(failed());
        }
        state.dies_after = state.dies_after.map(|left| left - 1);
        if state.failing > 0 && !batch.iter().all(is_the_nodes) {
            state.failing -= 1;
            state.failed += 1;
            return Err(failed());
        }
        state.now.write(batch.clone(), durability)?;
        state.log.push(batch);
        if durability == Durability::Disk {
            state.synced = state.log.len();
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), Error> {
        let mut state = self.alive()?;
        state.synced = state.log.len();
        Ok(())
    }
}
