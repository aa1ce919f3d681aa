//! The store at work: the local copies in front of the engine.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{
    cached_pin::{CacheLookup, CachedPin},
    engine::{Engine, Fault},
    keep_alive::KeepAlive,
    on_down::OnDown,
    script::{FRACTION, PinWrite, WriteCondition},
    single_flight::{LookupResult, SingleFlight, wait},
    stats::count,
};
use crate::store::{
    table::Table,
    traits::{Answer, Lookup, OpenSession, SessionKey, StoredPin},
};

/// The most writes under way: at a millisecond each, eight million a second.
pub(super) const WRITES: usize = 8192;

pub(super) struct PinCache {
    pub(super) engine: Arc<Engine>,
    pub(super) table: Table<CachedPin>,
    pub(super) flights: SingleFlight,
    /// A permit per write under way.
    pub(super) writes: Arc<Semaphore>,
    pub(super) on_down: OnDown,
    pub(super) recheck: Duration,
    pub(super) keep_alive: KeepAlive,
}

impl PinCache {
    pub(super) fn get(self: &Arc<Self>, key: SessionKey, idle: Duration) -> Lookup {
        self.keep_alive(idle);
        let Some(entry) = self.table.get(&key) else {
            return self.ask(key, idle, None);
        };
        let recheck = self.recheck.min(idle / FRACTION);
        match entry.look(Instant::now(), idle, recheck, self.engine.is_up()) {
            CacheLookup::Good(pin, open) => {
                count(&self.engine.counters.local);
                Lookup::Now(Answer::Pin(pin, Some(open)))
            }
            CacheLookup::Due(pin, open, offer) => self.touch(key, idle, entry, (pin, open), offer),
            CacheLookup::Idle => self.ask(key, idle, Some(entry)),
        }
    }

    /// Looks up a session of which nothing is known here, or nothing any more.
    fn ask(
        self: &Arc<Self>,
        key: SessionKey,
        idle: Duration,
        entry: Option<Arc<CachedPin>>,
    ) -> Lookup {
        let was_known = entry.is_some();
        if self.engine.is_down() {
            count(&self.engine.counters.unanswered);
            return Lookup::Now(self.unanswered(was_known));
        }
        let Ok(runtime) = Handle::try_current() else {
            return Lookup::Now(self.unanswered(was_known));
        };
        let (told, sender) = self.flights.join(key);
        if let Some(sender) = sender {
            // A task of its own, for a request may be dropped while others wait for the same.
            let flight = Flight { shared: self.clone(), key, sender };
            match self.table.get(&key).filter(|_| !was_known) {
                // One has ended between the look at the table and this.
                Some(entry) => flight.tell(LookupResult::Known(entry)),
                None => drop(runtime.spawn(flight.run(idle))),
            }
        }
        let shared = self.clone();
        Lookup::Later(Box::pin(async move {
            match wait(told).await {
                LookupResult::Known(entry) => Answer::Pin(entry.pin(), Some(entry.open())),
                LookupResult::Nothing if was_known => Answer::Idle,
                LookupResult::Nothing => Answer::Nothing,
                LookupResult::Down => shared.unanswered(was_known),
            }
        }))
    }

    /// Tells the engine that the session lives, and asks where it is now.
    fn touch(
        self: &Arc<Self>,
        key: SessionKey,
        idle: Duration,
        entry: Arc<CachedPin>,
        (pin, open): (StoredPin, OpenSession),
        offer: PinWrite,
    ) -> Lookup {
        let arguments = self.engine.call.arguments(key, idle, Some(offer));
        let mut call = CallGuard { entry: entry.clone(), over: false };
        let engine = self.engine.clone();
        let Ok(runtime) = Handle::try_current() else {
            return Lookup::Now(Answer::Pin(pin, Some(open)));
        };
        let touched = runtime.spawn(async move { call.end(engine.pin(arguments).await) });
        Lookup::Later(Box::pin(async move {
            // Whatever came of it, the copy is what counts.
            let _ = touched.await;
            Answer::Pin(entry.pin(), Some(open))
        }))
    }

    /// Remembers what this gateway says, and tells the engine behind the request's back.
    pub(super) fn write(
        self: &Arc<Self>,
        key: SessionKey,
        pin: StoredPin,
        rule: WriteCondition,
        idle: Duration,
    ) -> OpenSession {
        let (now, offer) = (Instant::now(), PinWrite { pin, rule });
        let (entry, offer) = match self.table.get(&key) {
            Some(entry) => {
                let offer = entry.change(offer, now, idle);
                (entry, offer)
            }
            None => {
                let entry = Arc::new(CachedPin::written(offer, now, idle));
                self.table.insert(key, entry.clone());
                (entry, Some(offer))
            }
        };
        let open = entry.open();
        self.keep_alive(idle);
        if let Some(offer) = offer {
            self.offer(key, entry, offer, idle);
        }
        open
    }

    /// Tells the engine what an entry says, behind every request's back.
    pub(super) fn offer(
        self: &Arc<Self>,
        key: SessionKey,
        entry: Arc<CachedPin>,
        offer: PinWrite,
        idle: Duration,
    ) {
        let arguments = self.engine.call.arguments(key, idle, Some(offer));
        let mut call = CallGuard { entry, over: false };
        let engine = self.engine.clone();
        self.behind(async move {
            let said = engine.pin(arguments).await;
            let lost = said.is_err();
            call.end(said);
            !lost
        });
    }

    pub(super) fn remove(self: &Arc<Self>, key: SessionKey) {
        self.table.remove(&key);
        let engine = self.engine.clone();
        self.behind(async move { engine.remove(key).await.is_ok() });
    }

    /// Does it after the request, if there is room and the engine is there. What is lost is counted.
    fn behind(self: &Arc<Self>, write: impl Future<Output = bool> + Send + 'static) {
        let lost = || count(&self.engine.counters.lost_writes);
        if self.engine.is_down() {
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
                count(&engine.counters.lost_writes);
            }
            drop(permit);
        });
    }

    /// Writes under way.
    pub(super) fn writing(&self) -> usize {
        WRITES.saturating_sub(self.writes.available_permits())
    }

    fn unanswered(&self, was_known: bool) -> Answer {
        match self.on_down {
            OnDown::Reject => Answer::Unavailable,
            OnDown::Open if was_known => Answer::Idle,
            OnDown::Open => Answer::Nothing,
        }
    }
}

/// A look-up under way.
struct Flight {
    shared: Arc<PinCache>,
    key: SessionKey,
    sender: watch::Sender<Option<LookupResult>>,
}

impl Flight {
    async fn run(self, idle: Duration) {
        let engine = &self.shared.engine;
        let found = match engine.pin(engine.call.arguments(self.key, idle, None)).await {
            Ok(Some(pin)) => {
                count(&engine.counters.found);
                LookupResult::Known(self.shared.adopt(self.key, pin, idle))
            }
            Ok(None) | Err(Fault::Refused) => {
                count(&engine.counters.unknown);
                LookupResult::Nothing
            }
            Err(Fault::Down) => {
                count(&engine.counters.unanswered);
                LookupResult::Down
            }
        };
        self.tell(found);
    }

    fn tell(self, found: LookupResult) {
        self.sender.send_replace(Some(found));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.shared.flights.end(self.key);
    }
}

impl PinCache {
    /// Makes a copy of what the engine said.
    fn adopt(&self, key: SessionKey, pin: StoredPin, idle: Duration) -> Arc<CachedPin> {
        let now = Instant::now();
        if let Some(entry) = self.table.get(&key) {
            entry.revive(pin, now, idle);
            return entry;
        }
        let entry = Arc::new(CachedPin::read(pin, now, idle));
        self.table.insert(key, entry.clone());
        entry
    }
}

/// A call that concerns an entry, until it has ended, in whatever way.
struct CallGuard {
    entry: Arc<CachedPin>,
    over: bool,
}

impl CallGuard {
    fn end(&mut self, said: Result<Option<StoredPin>, Fault>) {
        self.over = true;
        match said {
            Ok(Some(pin)) => self.entry.settle(pin, Instant::now()),
            // Not before its time again: the engine would say no again.
            Ok(None) | Err(Fault::Refused) => self.entry.unsettled(Some(Instant::now())),
            Err(Fault::Down) => self.entry.unsettled(None),
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        if !self.over {
            self.entry.unsettled(None);
        }
    }
}
