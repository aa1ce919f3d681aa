//! The cache of pins in front of Redis: answers look-ups from local copies, and sends writes to Redis in
//! the background.

use std::{sync::Arc, time::Duration};

use tokio::{runtime::Handle, sync::Semaphore, time::Instant};

use super::{
    cached_pin::{CacheLookup, CachedPin},
    engine::{CallError, Engine},
    keep_alive::KeepAlive,
    on_down::OnDown,
    script::{FRACTION, PinWrite, WriteCondition},
    single_flight::{LookupResult, Sender, SingleFlight, wait},
    stats::count,
};
use crate::store::{
    table::{Evictions, Table},
    traits::{Answer, Lookup, OpenSession, SessionKey, StoredPin},
};

/// The most writes in flight: at a millisecond each, eight million a second.
pub(super) const MAX_WRITES: usize = 8192;

pub(super) struct PinCache {
    pub(super) engine: Engine,
    pub(super) table: Table<CachedPin>,
    pub(super) evictions: Evictions,
    pub(super) lookups: SingleFlight,
    /// A permit per write in flight.
    pub(super) writes: Arc<Semaphore>,
    pub(super) on_down: OnDown,
    pub(super) recheck: Duration,
    pub(super) keep_alive: KeepAlive,
}

impl PinCache {
    pub(super) fn get(self: &Arc<Self>, key: SessionKey, idle: Duration) -> Lookup {
        self.keep_alive(idle);
        let Some(entry) = self.table.get(&key) else {
            return self.look_up_remote(key, idle, false);
        };
        let recheck = self.recheck.min(idle / FRACTION);
        match entry.look_up(Instant::now(), idle, recheck, self.engine.is_up()) {
            CacheLookup::Fresh(pin, open) => {
                count(&self.engine.counters().local_hits);
                Lookup::Now(Answer::Pin(pin, Some(open)))
            }
            CacheLookup::Stale(pin, open, write) => {
                self.touch(key, idle, entry, (pin, open), write)
            }
            CacheLookup::Idle => self.look_up_remote(key, idle, true),
        }
    }

    /// Asks Redis for a session, and changes nothing, neither there nor here.
    pub(super) fn peek(self: &Arc<Self>, key: SessionKey) -> Lookup {
        let cache = self.clone();
        Lookup::Later(Box::pin(async move {
            match cache.engine.peek(key).await {
                Ok(Some(pin)) => Answer::Pin(pin, None),
                Ok(None) => Answer::Nothing,
                Err(_) => match cache.table.get(&key) {
                    Some(entry) => Answer::Pin(entry.pin(), None),
                    None => cache.unanswered(false),
                },
            }
        }))
    }

    /// Asks Redis for a session that has no local copy, or one that has expired (`was_known`).
    fn look_up_remote(
        self: &Arc<Self>,
        key: SessionKey,
        idle: Duration,
        was_known: bool,
    ) -> Lookup {
        if !self.engine.is_available() {
            count(&self.engine.counters().unanswered);
            return Lookup::Now(self.unanswered(was_known));
        }
        let Ok(runtime) = Handle::try_current() else {
            return Lookup::Now(self.unanswered(was_known));
        };
        let (result, sender) = self.lookups.join(key);
        if let Some(sender) = sender {
            // In a task, because this request may be dropped while others wait for the same look-up.
            let lookup = RemoteLookup { cache: self.clone(), key, sender };
            match self.table.get(&key).filter(|_| !was_known) {
                // Another look-up has ended since the table was checked.
                Some(entry) => lookup.finish(LookupResult::Found(entry)),
                None => drop(runtime.spawn(lookup.run(idle))),
            }
        }
        let cache = self.clone();
        Lookup::Later(Box::pin(async move {
            match wait(result).await {
                LookupResult::Found(entry) => Answer::Pin(entry.pin(), Some(entry.open())),
                LookupResult::NotFound if was_known => Answer::Idle,
                LookupResult::NotFound => Answer::Nothing,
                LookupResult::Unavailable => cache.unanswered(was_known),
            }
        }))
    }

    /// Renews the session's time to live in Redis, and reads where the session is now.
    fn touch(
        self: &Arc<Self>,
        key: SessionKey,
        idle: Duration,
        entry: Arc<CachedPin>,
        (pin, open): (StoredPin, OpenSession),
        write: PinWrite,
    ) -> Lookup {
        let arguments = self.engine.commands().arguments(key, idle, Some(write));
        let call = CallGuard::new(entry.clone(), write);
        let Ok(runtime) = Handle::try_current() else {
            return Lookup::Now(Answer::Pin(pin, Some(open)));
        };
        let (cache, touched) = (self.clone(), entry.clone());
        let touched = runtime.spawn(async move {
            let next = call.finish(cache.engine.pin(arguments).await);
            if let Some(write) = next {
                cache.send_write(key, touched, write, idle);
            }
        });
        Lookup::Later(Box::pin(async move {
            // The call has changed the local copy, or has failed and left it as it was.
            let _ = touched.await;
            Answer::Pin(entry.pin(), Some(open))
        }))
    }

    /// Changes the local copy, and writes the pin to Redis in the background.
    pub(super) fn write(
        self: &Arc<Self>,
        key: SessionKey,
        pin: StoredPin,
        condition: WriteCondition,
        idle: Duration,
    ) -> OpenSession {
        let (now, write) = (Instant::now(), PinWrite { pin, condition });
        let (entry, write) = match self.table.get(&key) {
            Some(entry) => {
                let write = entry.update(write, now, idle);
                (entry, write)
            }
            None => {
                let entry = Arc::new(CachedPin::written(write, now, idle));
                self.table.insert(key, entry.clone());
                (entry, Some(write))
            }
        };
        let open = entry.open();
        self.keep_alive(idle);
        if let Some(write) = write {
            self.send_write(key, entry, write, idle);
        }
        open
    }

    /// Sends a write to Redis in the background; the local copy has it already.
    pub(super) fn send_write(
        self: &Arc<Self>,
        key: SessionKey,
        entry: Arc<CachedPin>,
        write: PinWrite,
        idle: Duration,
    ) {
        let call = CallGuard::new(entry.clone(), write);
        let engine = self.engine.clone();
        self.spawn_write(async move {
            let (mut call, mut write) = (call, write);
            loop {
                let arguments = engine.commands().arguments(key, idle, Some(write));
                let result = engine.pin(arguments).await;
                let is_written = result.is_ok();
                // The session may have moved meanwhile.
                match call.finish(result) {
                    Some(next) => (call, write) = (CallGuard::new(entry.clone(), next), next),
                    None => return is_written,
                }
            }
        });
    }

    pub(super) fn remove(self: &Arc<Self>, key: SessionKey) {
        self.table.remove(&key);
        let engine = self.engine.clone();
        self.spawn_write(async move { engine.remove(key).await.is_ok() });
    }

    /// Runs a write in the background, if Redis is available and not too many writes are in flight.
    /// Counts those that are not executed.
    fn spawn_write(self: &Arc<Self>, write: impl Future<Output = bool> + Send + 'static) {
        let lost = || count(&self.engine.counters().lost_writes);
        if !self.engine.is_available() {
            return lost();
        }
        let Ok(permit) = self.writes.clone().try_acquire_owned() else {
            return lost();
        };
        let Ok(runtime) = Handle::try_current() else {
            return lost();
        };
        let engine = self.engine.clone();
        runtime.spawn(async move {
            if !write.await {
                count(&engine.counters().lost_writes);
            }
            drop(permit);
        });
    }

    pub(super) fn writes_in_flight(&self) -> usize {
        MAX_WRITES.saturating_sub(self.writes.available_permits())
    }

    /// The answer to a look-up that Redis has not answered.
    fn unanswered(&self, was_known: bool) -> Answer {
        match self.on_down {
            OnDown::Reject => Answer::Unavailable,
            OnDown::Open if was_known => Answer::Idle,
            OnDown::Open => Answer::Nothing,
        }
    }

    /// Stores a local copy of a pin that was read from Redis.
    fn insert_read(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Arc<CachedPin> {
        let now = Instant::now();
        if let Some(entry) = self.table.get(&key) {
            entry.replace_idle(pin, now, idle);
            return entry;
        }
        let entry = Arc::new(CachedPin::read(pin, now, idle));
        self.table.insert(key, entry.clone());
        entry
    }
}

/// A look-up in Redis that is in flight. Drop removes it from the look-ups that others can join.
struct RemoteLookup {
    cache: Arc<PinCache>,
    key: SessionKey,
    sender: Sender,
}

impl RemoteLookup {
    async fn run(self, idle: Duration) {
        let engine = &self.cache.engine;
        let arguments = engine.commands().arguments(self.key, idle, None);
        let result = match engine.pin(arguments).await {
            Ok(Some(pin)) => {
                count(&engine.counters().found);
                LookupResult::Found(self.cache.insert_read(self.key, pin, idle))
            }
            Ok(None) | Err(CallError::Refused) => {
                count(&engine.counters().unknown);
                LookupResult::NotFound
            }
            Err(CallError::Unavailable) => {
                count(&engine.counters().unanswered);
                LookupResult::Unavailable
            }
        };
        self.finish(result);
    }

    fn finish(self, result: LookupResult) {
        self.sender.send_replace(Some(result));
    }
}

impl Drop for RemoteLookup {
    fn drop(&mut self) {
        self.cache.lookups.remove(self.key);
    }
}

/// Ends a call of an entry when it is dropped, so that a cancelled call does not block later ones.
struct CallGuard {
    entry: Arc<CachedPin>,
    /// The pin that the call writes.
    sent: StoredPin,
    finished: bool,
}

impl CallGuard {
    /// The call for `write`, which its entry has begun.
    fn new(entry: Arc<CachedPin>, write: PinWrite) -> Self {
        Self { entry, sent: write.pin, finished: false }
    }

    /// Ends the call. Returns the write to send next, if there is one.
    fn finish(mut self, result: Result<Option<StoredPin>, CallError>) -> Option<PinWrite> {
        self.finished = true;
        match result {
            Ok(Some(stored)) => {
                return self.entry.call_succeeded(self.sent, stored, Instant::now());
            }
            Ok(None) | Err(CallError::Refused) => self.entry.call_refused(Instant::now()),
            Err(CallError::Unavailable) => self.entry.call_failed(),
        }
        None
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if !self.finished {
            self.entry.call_failed();
        }
    }
}
