//! [`MemoryStore`]: pins in this process.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    table::{self, Evictions, Table},
    traits::{Answer, Lookup, OpenSession, PinStore, SessionKey, StoredPin, WhenClosed},
};
use crate::util::lock;

/// A table of pins in this process: the default store. A handle that is cheap to clone; clones share
/// the table.
///
/// A session takes 140 bytes when there are a million, and at most 170 while the table grows. A new
/// session is always inserted; when the table is full, one that has not been used for long is evicted.
/// Half of the table is for new sessions, first in, first out, and the other half for sessions with a
/// second request. A session with a request or stream in flight is not evicted. Expired sessions are
/// dropped when their room is needed.
///
/// # Example
///
/// Two layers that share a table, and therefore need the same secret:
///
/// ```
/// use tower_sticky::{Key, affinity::Learned, store::MemoryStore};
///
/// let (table, secret) = (MemoryStore::new(100_000), Key::generate()?);
/// let first = Learned::cookie("JSESSIONID").store(table.clone()).secret(secret.clone());
/// let second = Learned::cookie("JSESSIONID").store(table).secret(secret);
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct MemoryStore {
    table: Arc<Table<Entry>>,
    evictions: Evictions,
}

/// One session.
struct Entry {
    /// Requests and streams in flight.
    open: AtomicU32,
    state: Mutex<State>,
}

#[derive(Clone, Copy)]
struct State {
    pin: StoredPin,
    last_used: Instant,
}

impl table::HasOpenRequests for Entry {
    fn is_open(&self) -> bool {
        self.open.load(Relaxed) > 0
    }
}

impl MemoryStore {
    /// A table for about `capacity` sessions. It grows as it is filled.
    pub fn new(capacity: usize) -> Self {
        let (table, evictions) = table::new(capacity);
        Self { table: Arc::new(table), evictions }
    }

    /// The number of sessions, including expired ones.
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// About how many sessions it has room for.
    pub fn capacity(&self) -> usize {
        usize::try_from(self.table.capacity()).unwrap_or(usize::MAX)
    }

    /// How many sessions were evicted to make room for others.
    pub fn evictions(&self) -> u64 {
        self.evictions.count()
    }

    /// Calls `visit` with each session, its pin and the time of its last request. That of a session with a request in
    /// flight is now.
    pub(super) fn each(&self, mut visit: impl FnMut(SessionKey, StoredPin, Instant)) {
        for (key, entry) in self.table.iter() {
            let state = *lock(&entry.state);
            let is_open = entry.open.load(Relaxed) > 0;
            visit(key, state.pin, if is_open { Instant::now() } else { state.last_used });
        }
    }

    /// Inserts a session without requests in flight, unless the table has it. Whether it did.
    pub(super) fn insert_if_absent(
        &self,
        key: SessionKey,
        pin: StoredPin,
        last_used: Instant,
    ) -> bool {
        if self.table.get(&key).is_some() {
            return false;
        }
        let state = Mutex::new(State { pin, last_used });
        self.table.insert(key, Arc::new(Entry { open: AtomicU32::new(0), state }));
        true
    }

    /// Whether the table has no sessions.
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }
}

impl PinStore for MemoryStore {
    fn get(&self, key: SessionKey, idle: Duration) -> Lookup {
        let Some(entry) = self.table.get(&key) else {
            return Lookup::Now(Answer::Nothing);
        };
        let now = Instant::now();
        let mut state = lock(&entry.state);
        let unused = now.saturating_duration_since(state.last_used);
        if unused >= idle && entry.open.load(Relaxed) == 0 {
            return Lookup::Now(Answer::Idle);
        }
        if unused >= idle / 16 {
            state.last_used = now;
        }
        // Under the lock, so that the session cannot expire after the check above.
        entry.open.fetch_add(1, Relaxed);
        let pin = state.pin;
        drop(state);
        Lookup::Now(Answer::Pin(pin, Some(OpenSession::new(entry))))
    }

    fn peek(&self, key: SessionKey, idle: Duration) -> Lookup {
        let Some(entry) = self.table.get(&key) else {
            return Lookup::Now(Answer::Nothing);
        };
        let state = *lock(&entry.state);
        let is_idle = state.last_used.elapsed() >= idle && entry.open.load(Relaxed) == 0;
        Lookup::Now(if is_idle { Answer::Idle } else { Answer::Pin(state.pin, None) })
    }

    fn put(&self, key: SessionKey, pin: StoredPin, _: Duration) -> Option<OpenSession> {
        let state = State { pin, last_used: Instant::now() };
        let entry = match self.table.get(&key) {
            // Open streams still count for the session after it has moved.
            Some(entry) => {
                *lock(&entry.state) = state;
                entry.open.fetch_add(1, Relaxed);
                entry
            }
            None => {
                let entry = Arc::new(Entry { open: AtomicU32::new(1), state: Mutex::new(state) });
                self.table.insert(key, entry.clone());
                entry
            }
        };
        Some(OpenSession::new(entry))
    }

    fn remove(&self, key: SessionKey) {
        self.table.remove(&key);
    }
}

impl WhenClosed for Entry {
    fn closed(&self) {
        let mut state = lock(&self.state);
        state.last_used = Instant::now();
        self.open.fetch_sub(1, Relaxed);
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("sessions", &self.len())
            .field("capacity", &self.table.capacity())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(1600);

    fn key(number: u64) -> SessionKey {
        let mut hasher = siphasher::sip128::SipHasher13::new();
        std::hash::Hasher::write_u64(&mut hasher, number);
        SessionKey::new(siphasher::sip128::Hasher128::finish128(&hasher))
    }

    fn pin(backend: u64) -> StoredPin {
        StoredPin { backend, epoch: 1, issued: 0 }
    }

    /// The backend of the session, if it has a pin.
    fn backend(store: &MemoryStore, number: u64) -> Option<u64> {
        match store.get(key(number), IDLE) {
            Lookup::Now(Answer::Pin(pin, _)) => Some(pin.backend),
            _ => None,
        }
    }

    fn is_idle(store: &MemoryStore, number: u64) -> bool {
        matches!(store.get(key(number), IDLE), Lookup::Now(Answer::Idle))
    }

    #[tokio::test(start_paused = true)]
    async fn sessions_expire_when_they_are_idle_and_closed() {
        let store = MemoryStore::new(10);
        let open = store.put(key(1), pin(7), IDLE);
        tokio::time::advance(2 * IDLE).await;
        assert_eq!(backend(&store, 1), Some(7), "a stream is in flight");
        drop(open);
        tokio::time::advance(IDLE - Duration::from_secs(1)).await;
        assert_eq!(backend(&store, 1), Some(7), "the idle time starts at the end of the stream");
        tokio::time::advance(IDLE).await;
        assert!(is_idle(&store, 1));
        assert!(is_idle(&store, 1), "the first look-up does not renew it");
        drop(store.put(key(1), pin(8), IDLE));
        assert_eq!(backend(&store, 1), Some(8), "a new session");
        store.remove(key(1));
        assert_eq!(backend(&store, 1), None);
    }

    #[test]
    fn a_full_table_keeps_the_newest_sessions() {
        let store = MemoryStore::new(1000);
        for round in 0..3 {
            // A cache that counts uses would prefer the old ones.
            for old in 0..1000 {
                backend(&store, old);
            }
            for new in 0..5000 {
                let number = round * 10_000 + new;
                drop(store.put(key(number), pin(number), IDLE));
                assert_eq!(backend(&store, number), Some(number), "the newest session is kept");
                let recent = number.saturating_sub(100).max(round * 10_000);
                assert_eq!(backend(&store, recent), Some(recent), "recent sessions are kept");
            }
            assert!(store.len() <= 1016, "the table has {} sessions", store.len());
        }
    }

    #[test]
    fn open_sessions_are_not_evicted() {
        let store = MemoryStore::new(1000);
        let streams: Vec<_> = (0..100).map(|n| store.put(key(n), pin(n), IDLE)).collect();
        for new in 1000..10_000 {
            drop(store.put(key(new), pin(new), IDLE));
        }
        assert!((0..100).all(|n| backend(&store, n) == Some(n)), "their streams are in flight");
        drop(streams);
        for new in 10_000..30_000 {
            drop(store.put(key(new), pin(new), IDLE));
            backend(&store, new);
        }
        assert!(
            (0..100).all(|n| backend(&store, n).is_none()),
            "they can be evicted after their streams have ended"
        );
    }

    #[test]
    fn a_table_full_of_open_sessions_accepts_new_ones() {
        let store = MemoryStore::new(100);
        let streams: Vec<_> = (0..300).map(|n| store.put(key(n), pin(n), IDLE)).collect();
        assert!((0..300).all(|n| backend(&store, n) == Some(n)));
        drop(streams);
        drop(store.put(key(1000), pin(1), IDLE));
        assert_eq!(backend(&store, 1000), Some(1));
    }

    #[test]
    fn a_table_with_capacity_zero_keeps_a_session() {
        let store = MemoryStore::new(0);
        drop(store.put(key(1), pin(1), IDLE));
        assert_eq!(backend(&store, 1), Some(1));
    }
}
