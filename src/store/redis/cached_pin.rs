//! The local copy of a pin.

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
    idle_time::IdleTime,
    script::{PinWrite, WriteCondition, raise_epoch},
};
use crate::{
    store::{
        table,
        traits::{OpenSession, StoredPin, WhenClosed},
    },
    util::lock,
};

/// The local copy of a pin, and what is known of its session.
pub(super) struct CachedPin {
    /// Requests and streams in flight.
    open: AtomicU32,
    /// The idle time that the last request of the session came with: several affinities may share a
    /// store. Next to `open` it takes bytes that would be padding.
    idle: IdleTime,
    state: Mutex<State>,
}

/// There may be a million, so no byte of it is padding.
struct State {
    // The fields of a `StoredPin`, which has padding.
    backend: u64,
    epoch: u64,
    issued: u32,
    /// Calls in flight that concern the session.
    calls: u32,
    /// The time of the session's last request on this gateway.
    last_used: CompactInstant,
    /// The time of the last Redis reply or refused write.
    last_checked: CompactInstant,
    /// The condition of the write that Redis has not confirmed yet, if there is one.
    unconfirmed: Option<WriteCondition>,
}

impl State {
    fn new(pin: StoredPin, now: CompactInstant) -> Self {
        let StoredPin { backend, epoch, issued } = pin;
        Self {
            backend,
            epoch,
            issued,
            calls: 0,
            last_used: now,
            last_checked: CompactInstant::NEVER,
            unconfirmed: None,
        }
    }

    fn pin(&self) -> StoredPin {
        StoredPin { backend: self.backend, epoch: self.epoch, issued: self.issued }
    }

    fn set_pin(&mut self, pin: StoredPin) {
        StoredPin { backend: self.backend, epoch: self.epoch, issued: self.issued } = pin;
    }

    /// Whether Redis should be asked: no call is in flight, and the last one ended at least `interval`
    /// ago.
    fn is_due(&self, now: CompactInstant, interval: Duration) -> bool {
        let never = self.last_checked == CompactInstant::NEVER;
        self.calls == 0 && (never || now.since(self.last_checked) >= interval)
    }

    /// Begins the call that touches the session, and writes the pin again if Redis has lost it.
    fn begin_touch(&mut self) -> PinWrite {
        self.calls += 1;
        let condition = self.unconfirmed.unwrap_or(WriteCondition::Put);
        PinWrite { pin: self.pin(), condition }
    }

    /// Takes over the pin that Redis has, unless a later call is in flight.
    fn confirm(&mut self, stored: StoredPin) {
        if self.calls == 0 {
            let pin = raise_epoch(stored, self.pin());
            self.set_pin(pin);
            self.unconfirmed = None;
        }
    }
}

/// The result of a look-up in the local cache. With a pin, the session is open.
pub(super) enum CacheLookup {
    /// The copy can be used.
    Fresh(StoredPin, OpenSession),
    /// The copy can be used, but Redis should be asked first, with this write.
    Stale(StoredPin, OpenSession, PinWrite),
    /// The session has sent no request to this gateway within its idle time.
    Idle,
}

impl CachedPin {
    /// A copy of a pin that was read from Redis.
    pub(super) fn read(pin: StoredPin, now: Instant, idle: Duration) -> Self {
        let now = CompactInstant::of(now);
        Self::new(State { last_checked: now, ..State::new(pin, now) }, idle)
    }

    /// A pin that is about to be written: one call is in flight.
    pub(super) fn written(write: PinWrite, now: Instant, idle: Duration) -> Self {
        let PinWrite { pin, condition } = write;
        let state = State::new(pin, CompactInstant::of(now));
        Self::new(State { unconfirmed: Some(condition), calls: 1, ..state }, idle)
    }

    fn new(state: State, idle: Duration) -> Self {
        Self { open: AtomicU32::new(0), idle: IdleTime::new(idle), state: Mutex::new(state) }
    }

    /// How long the session may be idle.
    pub(super) fn idle(&self) -> Duration {
        self.idle.get()
    }

    pub(super) fn open(self: &Arc<Self>) -> OpenSession {
        self.open.fetch_add(1, Relaxed);
        OpenSession::new(self.clone())
    }

    pub(super) fn pin(&self) -> StoredPin {
        self.lock().pin()
    }

    /// Looks the session up for a request. Redis is asked at most once per `recheck`, and not while it
    /// is not `reachable`.
    pub(super) fn look_up(
        self: &Arc<Self>,
        now: Instant,
        idle: Duration,
        recheck: Duration,
        reachable: bool,
    ) -> CacheLookup {
        let now = CompactInstant::of(now);
        let mut state = self.lock();
        if self.is_idle(&state, now, idle) {
            return CacheLookup::Idle;
        }
        state.last_used = now;
        self.idle.set(idle);
        let pin = state.pin();
        // Under the lock, so that the session cannot expire after the check above.
        let open = self.open();
        if reachable && state.is_due(now, recheck) {
            CacheLookup::Stale(pin, open, state.begin_touch())
        } else {
            CacheLookup::Fresh(pin, open)
        }
    }

    /// Begins a touch of a session that is open, if the last call ended at least `interval` ago.
    pub(super) fn touch_if_open(&self, now: Instant, interval: Duration) -> Option<PinWrite> {
        if self.open.load(Relaxed) == 0 {
            return None;
        }
        let mut state = self.lock();
        let due = state.is_due(CompactInstant::of(now), interval);
        due.then(|| state.begin_touch())
    }

    /// Changes the pin as this gateway has decided. Returns the write to send to Redis, if any. While a call
    /// of the session is in flight nothing is sent: what to write depends on the answer, which
    /// [`call_succeeded`](Self::call_succeeded) takes.
    pub(super) fn update(&self, write: PinWrite, now: Instant, idle: Duration) -> Option<PinWrite> {
        let now = CompactInstant::of(now);
        let mut state = self.lock();
        let PinWrite { pin, condition } = write;
        // An application may use an id again for a new session.
        let accepted = self.is_idle(&state, now, idle) || condition.accepts(state.pin(), pin);
        state.last_used = now;
        self.idle.set(idle);
        if !accepted {
            // A concurrent request was first. The raised epoch is written with the next touch.
            let kept = raise_epoch(state.pin(), pin);
            state.set_pin(kept);
            return None;
        }
        state.set_pin(pin);
        let condition = match (condition, state.unconfirmed) {
            // Redis still has the pin that the unconfirmed write was to replace.
            (WriteCondition::Claim(_), Some(unconfirmed)) => unconfirmed,
            (condition, _) => condition,
        };
        state.unconfirmed = Some(condition);
        if state.calls > 0 {
            return None;
        }
        state.calls = 1;
        Some(PinWrite { pin, condition })
    }

    /// Ends a call with this pin that Redis has answered with the pin that it has. Returns the write to send
    /// next, if the session has moved since the call began.
    #[must_use]
    pub(super) fn call_succeeded(
        &self,
        sent: StoredPin,
        stored: StoredPin,
        now: Instant,
    ) -> Option<PinWrite> {
        let mut state = self.lock();
        state.calls = state.calls.saturating_sub(1);
        if let Some(unconfirmed) = state.unconfirmed
            && sent.backend != state.backend
        {
            // The session has moved since the call began. The answer is older. It tells from where the session
            // moves in Redis.
            let is_claim = unconfirmed != WriteCondition::Put;
            if is_claim && stored.backend == sent.backend {
                state.unconfirmed = Some(WriteCondition::Claim(Some(stored.backend)));
            }
            state.last_checked = CompactInstant::NEVER;
            return (state.calls == 0).then(|| state.begin_touch());
        }
        state.last_checked = CompactInstant::of(now);
        state.confirm(stored);
        None
    }

    /// Replaces a copy that was idle by a pin that was read from Redis.
    pub(super) fn replace_idle(&self, stored: StoredPin, now: Instant, idle: Duration) {
        let now = CompactInstant::of(now);
        let mut state = self.lock();
        state.last_used = now;
        state.last_checked = now;
        self.idle.set(idle);
        state.confirm(stored);
    }

    /// Ends a call that Redis has refused: it would refuse the next one too, so that waits for its time.
    pub(super) fn call_refused(&self, now: Instant) {
        self.end_call(CompactInstant::of(now));
    }

    /// Ends a call without an answer: the next request tries again.
    pub(super) fn call_failed(&self) {
        self.end_call(CompactInstant::NEVER);
    }

    fn end_call(&self, last_checked: CompactInstant) {
        let mut state = self.lock();
        state.calls = state.calls.saturating_sub(1);
        state.last_checked = last_checked;
    }

    fn is_idle(&self, state: &State, now: CompactInstant, idle: Duration) -> bool {
        now.since(state.last_used) >= idle && self.open.load(Relaxed) == 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl table::HasOpenRequests for CachedPin {
    fn is_open(&self) -> bool {
        self.open.load(Relaxed) > 0
    }
}

impl WhenClosed for CachedPin {
    fn closed(&self) {
        let mut state = self.lock();
        state.last_used = CompactInstant::of(Instant::now());
        self.open.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(now: Instant, idle: Duration) -> Arc<CachedPin> {
        let pin = StoredPin { backend: 1, epoch: 1, issued: 0 };
        let write = PinWrite { pin, condition: WriteCondition::Put };
        let entry = Arc::new(CachedPin::written(write, now, idle));
        assert!(entry.call_succeeded(pin, pin, now).is_none());
        entry
    }

    #[test]
    fn an_entry_has_the_idle_time_of_its_last_request() {
        let (now, short, long) =
            (Instant::now(), Duration::from_secs(16), Duration::from_secs(160));
        let entry = written(now, short);
        assert_eq!(entry.idle(), short);
        drop(entry.look_up(now, long, Duration::from_secs(10), true));
        assert_eq!(entry.idle(), long, "a request with another idle timeout");
        entry.replace_idle(entry.pin(), now, short);
        assert_eq!(entry.idle(), short);
        assert_eq!(written(now, long).idle(), long, "entries do not share it");
    }

    #[test]
    fn only_open_sessions_are_touched_once_per_interval() {
        let (now, interval) = (Instant::now(), Duration::from_secs(1));
        let entry = written(now, 16 * interval);
        assert!(entry.touch_if_open(now + interval, interval).is_none(), "nothing is in flight");
        let open = entry.open();
        assert!(entry.touch_if_open(now + interval / 2, interval).is_none(), "too early");
        assert!(entry.touch_if_open(now + interval, interval).is_some());
        let again = entry.touch_if_open(now + interval, interval);
        assert!(again.is_none(), "a call is in flight");
        assert!(entry.call_succeeded(entry.pin(), entry.pin(), now + interval).is_none());
        drop(open);
        assert!(
            entry.touch_if_open(now + 2 * interval, interval).is_none(),
            "the stream has ended"
        );
    }

    /// The time, and the idle time and the recheck of a session.
    fn times() -> (Instant, Duration, Duration) {
        (Instant::now(), Duration::from_secs(160), Duration::from_secs(10))
    }

    fn moves(from: u64, to: u64) -> PinWrite {
        let pin = StoredPin { backend: to, epoch: to, issued: 0 };
        PinWrite { pin, condition: WriteCondition::Claim(Some(from)) }
    }

    #[test]
    fn an_answer_from_before_a_move_does_not_undo_it() {
        let (now, idle, recheck) = times();
        let entry = written(now, idle);
        let later = now + recheck;
        let CacheLookup::Stale(old, _open, _) = entry.look_up(later, idle, recheck, true) else {
            panic!("it is time to ask Redis");
        };
        let moved = moves(1, 2);
        assert!(entry.update(moved, later, idle).is_none(), "it is written after the answer");
        let write = entry.call_succeeded(old, old, later).expect("the move is to be written");
        assert_eq!(entry.pin(), moved.pin, "the session stays where it has moved to");
        assert_eq!((write.pin, write.condition), (moved.pin, moved.condition));
        // The circuit breaker may open before that call.
        entry.call_failed();
        let again = entry.touch_if_open(later, recheck).expect("the next call writes it");
        assert_eq!((again.pin, again.condition), (moved.pin, moved.condition));
        assert!(entry.call_succeeded(again.pin, moved.pin, later).is_none());
        assert_eq!(entry.pin(), moved.pin);
    }

    #[test]
    fn a_move_during_the_write_of_another_is_written_after_it() {
        let (now, idle, _) = times();
        let entry = written(now, idle);
        let first = entry.update(moves(1, 2), now, idle).unwrap();
        assert!(entry.update(moves(2, 3), now, idle).is_none(), "the first is in flight");
        let second = entry.call_succeeded(first.pin, first.pin, now).unwrap();
        assert_eq!((second.pin, second.condition), (moves(2, 3).pin, moves(2, 3).condition));
        assert!(entry.call_succeeded(second.pin, second.pin, now).is_none());
        assert_eq!(entry.pin(), second.pin);
    }

    #[test]
    fn a_move_after_a_write_that_failed_begins_where_that_one_began() {
        let (now, idle, recheck) = times();
        let entry = written(now, idle);
        let _open = entry.open();
        entry.update(moves(1, 2), now, idle).unwrap();
        entry.update(moves(2, 3), now, idle);
        entry.call_failed();
        let again = entry.touch_if_open(now, recheck).expect("the next call writes it");
        assert_eq!((again.pin, again.condition), (moves(2, 3).pin, moves(1, 2).condition));
    }

    #[test]
    fn another_gateway_that_has_moved_the_session_first_wins_over_a_move_during_a_call() {
        let (now, idle, _) = times();
        let entry = written(now, idle);
        let first = entry.update(moves(1, 2), now, idle).unwrap();
        entry.update(moves(2, 3), now, idle);
        let other = StoredPin { backend: 4, epoch: 4, issued: 0 };
        let second = entry.call_succeeded(first.pin, other, now).unwrap();
        assert_eq!(second.condition, moves(1, 2).condition, "which Redis refuses");
        assert!(entry.call_succeeded(second.pin, other, now).is_none());
        assert_eq!(entry.pin(), other);
    }

    #[test]
    fn the_idle_time_takes_no_additional_memory() {
        assert_eq!(size_of::<CachedPin>(), 72);
    }
}
