//! What a program needs besides its rules: time, chance, tasks that end, and bells that wake who waits.

pub mod filed;
pub mod slots;

use std::collections::HashMap;
use std::future::Future;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

/// The time of day.
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;

    /// Seconds since the Unix epoch.
    fn now_s(&self) -> u64 {
        self.now_ms() / 1_000
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

/// A clock that a test moves.
#[derive(Debug, Default)]
pub struct ManualClock(std::sync::atomic::AtomicU64);

impl ManualClock {
    /// Starts at a time.
    pub fn at_ms(ms: u64) -> Self {
        Self(std::sync::atomic::AtomicU64::new(ms))
    }

    /// Moves it on.
    pub fn advance(&self, by: Duration) {
        let ms = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        self.0.fetch_add(ms, std::sync::atomic::Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_ms(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// Identities and secrets from the operating system's generator.
///
/// A machine without randomness cannot run a node that holds money: then the process ends.
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0_u8; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// A UUID in the order of time (version 7, RFC 9562).
pub fn new_uuid(clock: &dyn Clock) -> Uuid {
    uuid::Builder::from_unix_timestamp_millis(clock.now_ms(), &random_bytes()).into_uuid()
}

/// The tasks of a running program: each ends when it is told to, and the stop waits for all.
#[derive(Debug, Clone, Default)]
pub struct Tasks {
    cancel: CancellationToken,
    tracker: TaskTracker,
    failed: Arc<Mutex<Option<&'static str>>>,
}

impl Tasks {
    /// Starts a task without which the program is worth nothing: should it end before the stop, the program stops.
    pub fn spawn_critical<F>(&self, name: &'static str, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = Critical { tasks: self.clone(), name };
        self.tracker.spawn(async move {
            let guard = guard;
            task.await;
            drop(guard);
        });
    }

    /// Told to end when the program stops.
    pub fn cancellation(&self) -> CancellationToken {
        self.cancel.clone()
    }

    /// Tells all tasks to end and waits for them; false where some did not end in time.
    pub async fn stop(&self, within: Duration) -> bool {
        self.cancel.cancel();
        self.tracker.close();
        tokio::time::timeout(within, self.tracker.wait()).await.is_ok()
    }

    /// The critical task that ended early, if one did.
    pub fn failed(&self) -> Option<&'static str> {
        *lock(&self.failed)
    }
}

struct Critical {
    tasks: Tasks,
    name: &'static str,
}

impl Drop for Critical {
    fn drop(&mut self) {
        if !self.tasks.cancel.is_cancelled() {
            tracing::error!(task = self.name, "a critical task ended early: stopping");
            lock(&self.tasks.failed).get_or_insert(self.name);
            self.tasks.cancel.cancel();
        }
    }
}

/// Waits that double from a first to a longest, with up to a quarter of chance so that many do not knock at once.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// From the first wait to the longest.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first, first, longest }
    }

    /// The next wait.
    pub fn step(&mut self) -> Duration {
        let wait = self.next;
        self.next = self.next.saturating_mul(2).min(self.longest);
        let [chance] = random_bytes::<1>();
        wait.saturating_add(wait.saturating_mul(u32::from(chance)) / 1_024)
    }

    /// Starts over after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

/// Sleeps unless told to end; false where it was.
pub async fn sleep(cancel: &CancellationToken, wait: Duration) -> bool {
    tokio::select! {
        () = cancel.cancelled() => false,
        () = tokio::time::sleep(wait) => true,
    }
}

/// Wakes whoever waits for a key. A listener remembers that it was rung since it last looked, so no ring is lost on it; a ring that nobody
/// listens for is, and who begins to listen looks first.
#[derive(Debug)]
pub struct Bells<K: Eq + Hash>(Arc<Mutex<HashMap<K, watch::Sender<()>>>>);

impl<K: Eq + Hash> Clone for Bells<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<K: Eq + Hash> Default for Bells<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Eq + Hash + Clone> Bells<K> {
    /// Starts to listen.
    pub fn listen(&self, key: K) -> Listener<K> {
        let mut bells = lock(&self.0);
        let rings = bells.entry(key.clone()).or_insert_with(|| watch::channel(()).0).subscribe();
        Listener { bells: self.clone(), key, rings }
    }

    /// Wakes all who listen to this key.
    pub fn ring(&self, key: &K) {
        if let Some(bell) = lock(&self.0).get(key) {
            bell.send_replace(());
        }
    }
}

/// Listens to one key until it is dropped.
#[derive(Debug)]
pub struct Listener<K: Eq + Hash + Clone> {
    bells: Bells<K>,
    key: K,
    rings: watch::Receiver<()>,
}

impl<K: Eq + Hash + Clone> Listener<K> {
    /// Waits for a ring since the last one that was waited for, or since the start.
    pub async fn rung(&mut self) {
        // The sender lives as long as this listener does, so this fails never.
        let _ = self.rings.changed().await;
    }
}

impl<K: Eq + Hash + Clone> Drop for Listener<K> {
    fn drop(&mut self) {
        let mut bells = lock(&self.bells.0);
        // The one that is left is this listener's own.
        if bells.get(&self.key).is_some_and(|bell| bell.receiver_count() <= 1) {
            bells.remove(&self.key);
        }
    }
}

/// Locks; a panic elsewhere does not poison what it guards, because every guarded change is one step.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A named point at which a test holds or ends the process: `FAILPOINTS="name=action"` (crate `fail`), in development builds only.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        #[cfg(debug_assertions)]
        ::fail::fail_point!($name);
    };
    // Held on a thread that may block: a worker that sleeps may be the one that waits for the sockets, and the whole process stands still.
    (await $name:literal) => {
        #[cfg(debug_assertions)]
        let _ = ::tokio::task::spawn_blocking(|| ::fail::fail_point!($name)).await;
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_bell_wakes_who_listens_and_is_forgotten_afterwards() {
        let bells = Bells::<u8>::default();
        let mut listener = bells.listen(1);
        bells.ring(&2);
        bells.ring(&1);
        listener.rung().await;
        drop(listener);
        assert!(lock(&bells.0).is_empty());
    }

    #[tokio::test]
    async fn a_critical_task_that_ends_early_stops_the_program() {
        let tasks = Tasks::default();
        tasks.spawn_critical("heart", async {});
        tasks.cancellation().cancelled().await;
        assert_eq!(tasks.failed(), Some("heart"));
    }

    #[test]
    fn a_backoff_grows_to_its_longest() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_millis(300));
        let waits: Vec<_> = (0..4).map(|_| backoff.step().as_millis()).collect();
        assert!(waits.iter().zip([100, 200, 300, 300]).all(|(w, f)| (f..=f * 5 / 4).contains(w)));
    }
}
