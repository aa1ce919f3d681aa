//! What this gateway knows of a session by itself.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::script::{Offer, Rule, told};
use crate::store::{OpenSession, StoredPin, WhenClosed, table};

/// The copy of a pin.
pub(super) struct Entry {
    /// Requests and streams under way.
    open: AtomicU32,
    place: Mutex<Place>,
}

struct Place {
    pin: StoredPin,
    /// When the session's last request came here.
    seen: Instant,
    /// When the engine last said, or was last told in vain, where the session is.
    asked: Option<Instant>,
    /// By which rule the pin is to be written, if it is not written yet.
    unwritten: Option<Rule>,
    /// Calls under way that concern it.
    calls: u32,
}

/// What a look at an entry says.
pub(super) enum Copy {
    /// It is good; the session is open.
    Good(StoredPin, OpenSession),
    /// It is good, but the engine should be asked: it is told this, and the session is open.
    Due(StoredPin, OpenSession, Offer),
    /// The session had no request here for too long.
    Idle,
}

impl Entry {
    /// A copy of what the engine said.
    pub(super) fn read(pin: StoredPin, now: Instant) -> Self {
        Self::new(Place { pin, seen: now, asked: Some(now), unwritten: None, calls: 0 })
    }

    /// A pin that is about to be written.
    pub(super) fn written(offer: Offer, now: Instant) -> Self {
        let Offer { pin, rule } = offer;
        Self::new(Place { pin, seen: now, asked: None, unwritten: Some(rule), calls: 1 })
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
        self.lock().pin
    }

    /// Looks at it because of a request; the engine is asked at most once per `recheck`.
    pub(super) fn look(
        self: &Arc<Self>,
        now: Instant,
        idle: Duration,
        recheck: Duration,
        reachable: bool,
    ) -> Copy {
        let mut place = self.lock();
        if self.is_idle(&place, now, idle) {
            return Copy::Idle;
        }
        place.seen = now;
        let pin = place.pin;
        // Under the lock, so that it does not expire between the look at it and this.
        let open = self.open();
        let late = |asked| now.saturating_duration_since(asked) >= recheck;
        if !reachable || place.calls > 0 || !place.asked.is_none_or(late) {
            return Copy::Good(pin, open);
        }
        place.calls += 1;
        // What was lost there is restored from here.
        Copy::Due(pin, open, Offer { pin, rule: place.unwritten.unwrap_or(Rule::Put) })
    }

    /// Changes it as this gateway has decided. Says what the engine has to be told, if anything.
    pub(super) fn change(&self, offer: Offer, now: Instant, idle: Duration) -> Option<Offer> {
        let mut place = self.lock();
        let Offer { pin, rule } = offer;
        // With an old id a new session may begin.
        let accepted = self.is_idle(&place, now, idle) || rule.accepts(place.pin, pin);
        place.seen = now;
        if !accepted {
            // Another request was faster. The epoch is written with the next touch.
            place.pin = told(place.pin, pin);
            return None;
        }
        place.pin = pin;
        let rule = match (rule, place.unwritten) {
            // From where the engine knows the session to be.
            (Rule::Claim(_), Some(unwritten)) => unwritten,
            (rule, _) => rule,
        };
        place.unwritten = Some(rule);
        place.calls += 1;
        Some(Offer { pin, rule })
    }

    /// Ends a call: the engine says that this is where the session is.
    pub(super) fn settle(&self, said: StoredPin, now: Instant) {
        let mut place = self.lock();
        place.calls = place.calls.saturating_sub(1);
        place.asked = Some(now);
        if place.calls == 0 {
            place.pin = told(said, place.pin);
            place.unwritten = None;
        }
    }

    /// The same for a copy that had been idle and is of no use any more.
    pub(super) fn revive(&self, said: StoredPin, now: Instant) {
        let mut place = self.lock();
        place.seen = now;
        place.asked = Some(now);
        if place.calls == 0 {
            place.pin = told(said, place.pin);
            place.unwritten = None;
        }
    }

    /// Ends a call without an answer: at `None` the next request tries again, else one whose time has
    /// come.
    pub(super) fn unsettled(&self, asked: Option<Instant>) {
        let mut place = self.lock();
        place.calls = place.calls.saturating_sub(1);
        place.asked = asked;
    }

    fn is_idle(&self, place: &Place, now: Instant, idle: Duration) -> bool {
        now.saturating_duration_since(place.seen) >= idle && self.open.load(Relaxed) == 0
    }

    fn lock(&self) -> MutexGuard<'_, Place> {
        // Nothing can panic under the lock.
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl table::Open for Entry {
    fn is_open(&self) -> bool {
        self.open.load(Relaxed) > 0
    }
}

impl WhenClosed for Entry {
    fn closed(&self) {
        let mut place = self.lock();
        place.seen = Instant::now();
        self.open.fetch_sub(1, Relaxed);
    }
}
