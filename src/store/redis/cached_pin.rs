//! What this gateway knows of a session by itself.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    compact_instant::CompactInstant,
    script::{PinWrite, WriteCondition, told},
};
use crate::{
    store::{
        table,
        traits::{OpenSession, StoredPin, WhenClosed},
    },
    util::lock,
};

/// The copy of a pin.
pub(super) struct CachedPin {
    /// Requests and streams under way.
    open: AtomicU32,
    place: Mutex<Place>,
}

/// There may be a million, so no byte of it is padding.
struct Place {
    /// What a [`StoredPin`] is made of.
    backend: u64,
    epoch: u64,
    issued: u32,
    /// Calls under way that concern it.
    calls: u32,
    /// When the session's last request came here.
    seen: CompactInstant,
    /// When the engine last said, or was last told in vain, where the session is.
    asked: CompactInstant,
    /// By which rule the pin is to be written, if it is not written yet.
    unwritten: Option<WriteCondition>,
}

impl Place {
    fn new(pin: StoredPin, now: CompactInstant) -> Self {
        let StoredPin { backend, epoch, issued } = pin;
        Self {
            backend,
            epoch,
            issued,
            calls: 0,
            seen: now,
            asked: CompactInstant::NEVER,
            unwritten: None,
        }
    }

    fn pin(&self) -> StoredPin {
        StoredPin { backend: self.backend, epoch: self.epoch, issued: self.issued }
    }

    fn set_pin(&mut self, pin: StoredPin) {
        StoredPin { backend: self.backend, epoch: self.epoch, issued: self.issued } = pin;
    }
}

/// What a look at an entry says.
pub(super) enum CacheLookup {
    /// It is good; the session is open.
    Good(StoredPin, OpenSession),
    /// It is good, but the engine should be asked: it is told this, and the session is open.
    Due(StoredPin, OpenSession, PinWrite),
    /// The session had no request here for too long.
    Idle,
}

impl CachedPin {
    /// A copy of what the engine said.
    pub(super) fn read(pin: StoredPin, now: Instant) -> Self {
        let now = CompactInstant::of(now);
        Self::new(Place { asked: now, ..Place::new(pin, now) })
    }

    /// A pin that is about to be written.
    pub(super) fn written(offer: PinWrite, now: Instant) -> Self {
        let PinWrite { pin, rule } = offer;
        let place = Place::new(pin, CompactInstant::of(now));
        Self::new(Place { unwritten: Some(rule), calls: 1, ..place })
    }

    fn new(place: Place) -> Self {
        Self { open: AtomicU32::new(0), place: Mutex::new(place) }
    }

    pub(super) fn open(self: &Arc<Self>) -> OpenSession {
        self.open.fetch_add(1, Relaxed);
        OpenSession::new(self.clone())
    }

    /// Where the session is.
    pub(super) fn pin(&self) -> StoredPin {
        self.lock().pin()
    }

    /// Looks at it because of a request; the engine is asked at most once per `recheck`.
    pub(super) fn look(
        self: &Arc<Self>,
        now: Instant,
        idle: Duration,
        recheck: Duration,
        reachable: bool,
    ) -> CacheLookup {
        let now = CompactInstant::of(now);
        let mut place = self.lock();
        if self.is_idle(&place, now, idle) {
            return CacheLookup::Idle;
        }
        place.seen = now;
        let pin = place.pin();
        // Under the lock, so that it does not expire between the look at it and this.
        let open = self.open();
        let due = place.asked == CompactInstant::NEVER || now.since(place.asked) >= recheck;
        if !reachable || place.calls > 0 || !due {
            return CacheLookup::Good(pin, open);
        }
        place.calls += 1;
        // What was lost there is restored from here.
        CacheLookup::Due(
            pin,
            open,
            PinWrite { pin, rule: place.unwritten.unwrap_or(WriteCondition::Put) },
        )
    }

    /// What the engine has to be told of a session with something under way, if it was not told for that
    /// long.
    pub(super) fn due_while_open(&self, now: Instant, recheck: Duration) -> Option<PinWrite> {
        if self.open.load(Relaxed) == 0 {
            return None;
        }
        let now = CompactInstant::of(now);
        let mut place = self.lock();
        let due = place.asked == CompactInstant::NEVER || now.since(place.asked) >= recheck;
        if place.calls > 0 || !due {
            return None;
        }
        place.calls += 1;
        Some(PinWrite { pin: place.pin(), rule: place.unwritten.unwrap_or(WriteCondition::Put) })
    }

    /// Changes it as this gateway has decided. Says what the engine has to be told, if anything.
    pub(super) fn change(&self, offer: PinWrite, now: Instant, idle: Duration) -> Option<PinWrite> {
        let now = CompactInstant::of(now);
        let mut place = self.lock();
        let PinWrite { pin, rule } = offer;
        // With an old id a new session may begin.
        let accepted = self.is_idle(&place, now, idle) || rule.accepts(place.pin(), pin);
        place.seen = now;
        if !accepted {
            // Another request was faster. The epoch is written with the next touch.
            let stays = told(place.pin(), pin);
            place.set_pin(stays);
            return None;
        }
        place.set_pin(pin);
        let rule = match (rule, place.unwritten) {
            // From where the engine knows the session to be.
            (WriteCondition::Claim(_), Some(unwritten)) => unwritten,
            (rule, _) => rule,
        };
        place.unwritten = Some(rule);
        place.calls += 1;
        Some(PinWrite { pin, rule })
    }

    /// Ends a call: the engine says that this is where the session is.
    pub(super) fn settle(&self, said: StoredPin, now: Instant) {
        let now = CompactInstant::of(now);
        let mut place = self.lock();
        place.calls = place.calls.saturating_sub(1);
        place.asked = now;
        if place.calls == 0 {
            let pin = told(said, place.pin());
            place.set_pin(pin);
            place.unwritten = None;
        }
    }

    /// The same for a copy that had been idle and is of no use any more.
    pub(super) fn revive(&self, said: StoredPin, now: Instant) {
        let now = CompactInstant::of(now);
        let mut place = self.lock();
        place.seen = now;
        place.asked = now;
        if place.calls == 0 {
            let pin = told(said, place.pin());
            place.set_pin(pin);
            place.unwritten = None;
        }
    }

    /// Ends a call without an answer: at `None` the next request tries again, else one whose time has
    /// come.
    pub(super) fn unsettled(&self, asked: Option<Instant>) {
        let mut place = self.lock();
        place.calls = place.calls.saturating_sub(1);
        place.asked = asked.map_or(CompactInstant::NEVER, CompactInstant::of);
    }

    fn is_idle(&self, place: &Place, now: CompactInstant, idle: Duration) -> bool {
        now.since(place.seen) >= idle && self.open.load(Relaxed) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        lock(&self.place)
    }
}

impl table::HasOpenRequests for CachedPin {
    fn is_open(&self) -> bool {
        self.open.load(Relaxed) > 0
    }
}

impl WhenClosed for CachedPin {
    fn closed(&self) {
        let mut place = self.lock();
        place.seen = CompactInstant::of(Instant::now());
        self.open.fetch_sub(1, Relaxed);
    }
}
