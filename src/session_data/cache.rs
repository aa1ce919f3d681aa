//! Copies of sessions that are good for one epoch.

use std::{
    fmt,
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use quick_cache::{
    UnitWeighter,
    sync::{Cache, EntryAction, EntryResult},
};
use serde_json::Value;
use tokio::time::Instant;
use tower_sessions_core::{
    SessionStore,
    session::{Id, Record},
    session_store,
};

use super::scope::{self, CopyUse};

/// Where the number of a copy stands in it. No application uses a name like this.
const NUMBER: &str = "\0tower-sticky copy";

/// A local cache in front of any store of sessions: what this backend has read or saved of a session
/// is good **as long as the session stays here**.
///
/// A copy is used by a request that is [pinned](crate::Verdict::Pinned) here, in the epoch of the copy or
/// an earlier one. Everything else is read from the store:
///
/// | request | reads | leaves a copy |
/// |---|---|---|
/// | pinned, same epoch or an earlier one | the copy | after a save |
/// | pinned, a later epoch; moved or assigned here | the store | yes, unless another backend has the session by now |
/// | borrowed | the store | no; after a save there is none |
/// | without a scope or an epoch | the store | no; after a save there is none |
///
/// Saves go to the store first, and a save that fails leaves no copy. With a store that has a
/// [fence](super) nothing is saved that was built on a copy which is out of date; and while a session is
/// here nobody else saves it, unless [gateways do not agree](super#where-gateways-do-not-agree) whose it
/// is. Then, for as long as [`fresh_for`](Self::fresh_for) says, what is read may be out of date.
///
/// # Logouts
///
/// A session that is deleted is gone in the store, for all backends, and so is the copy where it was
/// deleted. A session that has moved is read from the store wherever it goes, back to here too. Two
/// kinds of requests still find a copy of a session that was deleted elsewhere: of a session whose home
/// this is while another backend, which had borrowed it, served the logout; and those that come with an
/// old token of before a move. That ends when the copy is older than [`fresh_for`](Self::fresh_for). No
/// such request can save: the store refuses.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sessions::SessionManagerLayer;
/// use tower_sticky::session_data::{FencedCache, MemoryStore};
///
/// # let shared = MemoryStore::new();
/// let cache = FencedCache::new(MemoryStore::new(), shared).fresh_for(Duration::from_secs(10));
/// let sessions = SessionManagerLayer::new(cache);
/// ```
#[derive(Clone)]
pub struct FencedCache<L, S> {
    local: L,
    store: S,
    shared: Arc<Shared>,
    fresh_for: Duration,
}

struct Shared {
    /// What is known of the copies in `local`; a copy of which nothing is known is worth nothing.
    notes: Cache<Id, CopyMeta, UnitWeighter, RandomState>,
    numbers: AtomicU64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct CopyMeta {
    /// The number that the copy must have. Each reading and each save has its own, taken before the
    /// store is asked: so a copy counts only if nothing else has begun since, and whatever is late in
    /// coming to `local` has a number that is not wanted any more.
    number: u64,
    epoch: u64,
    since: Instant,
}

impl<L: SessionStore, S: SessionStore> FencedCache<L, S> {
    /// Keeps copies in `local`, for 100,000 sessions, of what is in `store`.
    pub fn new(local: L, store: S) -> Self {
        Self { local, store, shared: Arc::new(Shared::new(100_000)), fresh_for: Self::FRESH_FOR }
    }

    const FRESH_FOR: Duration = Duration::from_secs(30);

    /// How many sessions may have a copy; the copies themselves are dropped as `local` does it. Default
    /// 100,000.
    #[must_use]
    pub fn capacity(mut self, sessions: usize) -> Self {
        self.shared = Arc::new(Shared::new(sessions));
        self
    }

    /// How old a copy may become; default 30 s. This bounds for how long a logout that was served
    /// elsewhere may not be known here: see [above](Self#logouts). With `Duration::MAX` the epoch alone
    /// decides.
    #[must_use]
    pub fn fresh_for(mut self, time: Duration) -> Self {
        self.fresh_for = time;
        self
    }

    /// The copy, if there is one that the request may use.
    async fn copy(&self, id: &Id, copies: CopyUse) -> Option<Record> {
        let note = self.shared.notes.get(id)?;
        if !copies.read || note.epoch < copies.epoch || note.since.elapsed() >= self.fresh_for {
            return None;
        }
        let mut record = outside(self.local.load(id)).await.ok().flatten()?;
        if record.data.remove(NUMBER)?.as_u64() != Some(note.number) {
            return None;
        }
        scope::saw_copy(id, note.epoch);
        Some(record)
    }

    /// Puts a copy where the next request finds it.
    async fn keep(&self, mut record: Record, number: u64) {
        record.data.insert(NUMBER.to_owned(), Value::from(number));
        if let Err(error) = outside(self.local.save(&record)).await {
            // The session is as it should be; it is only not at hand.
            tracing::debug!(%error, "no copy of a session is kept");
        }
    }
}

impl Shared {
    fn new(capacity: usize) -> Self {
        let capacity = capacity.max(2);
        let hasher = RandomState::default();
        let notes =
            Cache::with(capacity, capacity as u64, UnitWeighter, hasher, Default::default());
        Self { notes, numbers: AtomicU64::new(0) }
    }

    /// Begins a copy: those that are there or are being made are worth nothing any more.
    fn begin(&self, id: &Id, epoch: u64) -> u64 {
        let number = self.numbers.fetch_add(1, Relaxed);
        self.notes.insert(*id, CopyMeta { number, epoch, since: Instant::now() });
        number
    }

    /// Says of which epoch a copy is, once that is known. `false` when it is worth nothing any more.
    fn settle(&self, id: &Id, number: u64, epoch: u64) -> bool {
        let settled = self.notes.entry(id, None, |_, note| {
            let is_current = note.number == number;
            if is_current {
                note.epoch = epoch;
            }
            EntryAction::Retain(is_current)
        });
        matches!(settled, EntryResult::Retained(true))
    }

    fn forget(&self, id: &Id) {
        self.notes.remove(id);
    }
}

/// Forgets the copy of a session, unless it is told not to: also when a request is given up while the
/// store is at work, of which nobody knows then what it did.
struct Forget<'a> {
    shared: &'a Shared,
    id: &'a Id,
    armed: bool,
}

impl<'a> Forget<'a> {
    fn new(shared: &'a Shared, id: &'a Id) -> Self {
        Self { shared, id, armed: true }
    }

    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.shared.forget(self.id);
        }
    }
}

/// The local cache has no part in the fence.
async fn outside<F: Future>(future: F) -> F::Output {
    scope::enter(None, future).await
}

#[async_trait]
impl<L: SessionStore, S: SessionStore> SessionStore for FencedCache<L, S> {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        self.store.create(record).await?;
        // Nobody else knows the id yet.
        if let Some(copies) = scope::copies(&record.id) {
            let number = self.shared.begin(&record.id, copies.epoch);
            self.keep(record.clone(), number).await;
        }
        Ok(())
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        let forget = Forget::new(&self.shared, &record.id);
        let copies = scope::copies(&record.id);
        let number = copies.map(|copies| self.shared.begin(&record.id, copies.epoch));
        self.store.save(record).await?;
        // Of two that were under way at the same time nobody knows which the store took last. And what
        // was saved may be nobody's.
        if let (Some(number), Some(copies)) = (number, scope::copies(&record.id))
            && self.shared.settle(&record.id, number, copies.epoch)
        {
            forget.disarm();
            self.keep(record.clone(), number).await;
        }
        Ok(())
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let Some(copies) = scope::copies(id) else {
            return self.store.load(id).await;
        };
        if let Some(record) = self.copy(id, copies).await {
            return Ok(Some(record));
        }
        let number = self.shared.begin(id, copies.epoch);
        let forget = Forget::new(&self.shared, id);
        let found = self.store.load(id).await?;
        // By what was read the request may go on in a later epoch, or not be of use here any more.
        if let (Some(record), Some(copies)) = (&found, scope::copies(id)) {
            forget.disarm();
            if self.shared.settle(id, number, copies.epoch) {
                self.keep(record.clone(), number).await;
            }
        }
        Ok(found)
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        // At once, and again when the store has done it: somebody may have read meanwhile.
        self.shared.forget(id);
        let _forget = Forget::new(&self.shared, id);
        self.store.delete(id).await?;
        if let Err(error) = outside(self.local.delete(id)).await {
            tracing::debug!(%error, "a copy of a session that was deleted stays, out of use");
        }
        Ok(())
    }
}

impl<L: fmt::Debug, S: fmt::Debug> fmt::Debug for FencedCache<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FencedCache")
            .field("local", &self.local)
            .field("store", &self.store)
            .field("copies", &self.shared.notes.len())
            .field("fresh_for", &self.fresh_for)
            .finish()
    }
}
