//! What is known about one backend, shared by everything that asks or tells.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{
            AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{sync::Notify, time::Instant};

#[cfg(any(feature = "discover", feature = "dns"))]
use super::owner::OwnerRef;
use super::{Phase, drain::DrainState, requests::RequestCounter, streams::OpenStreams};
use crate::{
    id::BackendId,
    outcome::Failover,
    pool::{
        AnswerCounts, BackendOptions, DrainSignal, LookId, Mode, SlowStart, State,
        availability::{Availability, HealthSources},
        limit::{ConcurrencyLimit, HasLimit},
        sessions::{SessionCounter, Sights, Window},
    },
    util::{SystemClock, clock::unix_millis, lock},
};

pub(crate) struct BackendState {
    pub(crate) id: BackendId,
    pub(crate) tag: u64,
    gate: AtomicU8,
    /// The epoch in which its sessions are at least: it has had another address since that Unix time in
    /// milliseconds. 0 for none.
    epoch: AtomicU64,
    /// How often it was given another service.
    services: AtomicU32,
    /// Whether a good answer would change the evidence.
    noted: AtomicBool,
    /// Whether it is ejected for its answers, or on trial after that.
    ejected: AtomicBool,
    /// How many requests wait for its return.
    awaited: AtomicUsize,
    /// Tells those who wait that something has changed: its health, its mode, or a look is over.
    pub(crate) news: Arc<Notify>,
    mode: AtomicU8,
    weight: AtomicU32,
    backup: AtomicBool,
    zone: ArcSwapOption<String>,
    traffic: RequestCounter,
    slots: ConcurrencyLimit,
    pub(crate) latency: super::latency::Latency,
    pub(crate) census: SessionCounter,
    /// The tick since when its sessions have been watched; 0 for since the pool was made.
    watched: AtomicU32,
    /// About how many sessions it has, as they were counted last.
    pub(crate) sessions: AtomicU64,
    pub(crate) streams: OpenStreams,
    pub(crate) sights: Sights,
    made: Instant,
    pub(in crate::pool) drain: DrainState,
    /// What becomes of its sessions once it is drained.
    drained: AtomicU8,
    pub(crate) window: AnswerCounts,
    pub(crate) ramp: SlowStart,
    sources: Mutex<HealthSources>,
    /// The feed that brought it, if one did.
    #[cfg(any(feature = "discover", feature = "dns"))]
    owner: Mutex<OwnerRef>,
}

impl BackendState {
    pub(crate) fn new(id: BackendId) -> Self {
        let tag = id.tag();
        Self {
            id,
            tag,
            gate: AtomicU8::new(0),
            epoch: AtomicU64::new(0),
            services: AtomicU32::new(0),
            noted: AtomicBool::new(false),
            ejected: AtomicBool::new(false),
            awaited: AtomicUsize::new(0),
            news: Arc::default(),
            mode: AtomicU8::new(0),
            weight: AtomicU32::new(1),
            backup: AtomicBool::new(false),
            zone: ArcSwapOption::empty(),
            traffic: RequestCounter::new(),
            slots: ConcurrencyLimit::new(),
            latency: super::latency::Latency::default(),
            census: SessionCounter::default(),
            watched: AtomicU32::new(0),
            sessions: AtomicU64::new(0),
            streams: OpenStreams::new(),
            sights: Sights::default(),
            made: Instant::now(),
            drain: DrainState::default(),
            drained: AtomicU8::new(0),
            window: AnswerCounts::default(),
            ramp: SlowStart::default(),
            sources: Mutex::default(),
            #[cfg(any(feature = "discover", feature = "dns"))]
            owner: Mutex::default(),
        }
    }

    #[inline]
    pub(crate) fn gate(&self) -> Availability {
        match self.gate.load(Relaxed) {
            0 => Availability::Ready,
            1 => Availability::Busy,
            2 => Availability::Suspect,
            _ => Availability::Down,
        }
    }

    /// The epoch in which its sessions are at least.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Relaxed)
    }

    /// Whatever its sessions had there is not there any more: they begin a new epoch. The caller publishes.
    pub(crate) fn begin_epoch(&self) {
        // After those that have begun within this millisecond.
        let after_all = unix_millis(&SystemClock).saturating_add(1);
        let next = |epoch: u64| Some(after_all.max(epoch.saturating_add(1)));
        let _ = self.epoch.fetch_update(Relaxed, Relaxed, next);
    }

    /// How often it was given another service: what a request learns from one that it has not any more
    /// says nothing about it.
    #[inline]
    pub(crate) fn services(&self) -> u32 {
        self.services.load(Relaxed)
    }

    /// It was given another service, which is published.
    pub(crate) fn renew(&self) {
        self.services.fetch_add(1, Relaxed);
    }

    /// Whether a good answer from it would change the evidence.
    #[inline]
    pub(crate) fn is_noted(&self) -> bool {
        self.noted.load(Relaxed)
    }

    /// Whether it is ejected for its answers, or on trial after that.
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// Whether the operator wants it to take new sessions.
    pub(crate) fn may_take_new(&self) -> bool {
        self.mode() == Mode::Active && self.weight() > 0
    }

    /// Whether it may be given a new session now.
    pub(crate) fn takes_new(&self) -> bool {
        self.may_take_new() && self.gate().is_well()
    }

    /// Its sessions are watched from this tick on.
    pub(crate) fn watch_since(&self, tick: u32) {
        self.watched.store(tick, Relaxed);
    }

    /// Whether its sessions have been watched for as long as one may be idle: whoever has not been seen
    /// meanwhile is not there.
    pub(crate) fn is_watched_for(&self, window: Window) -> bool {
        window.now.saturating_sub(self.watched.load(Relaxed)) >= window.ticks
    }

    /// How many seconds ago it was made.
    pub(crate) fn seconds(&self) -> u32 {
        self.made.elapsed().as_secs().min(u64::from(u32::MAX)) as u32
    }

    /// How long ago a stream of the session was seen here, if that is known: zero while one is open.
    pub(crate) fn stream_seen(&self, session: u64) -> Option<Duration> {
        if session == 0 {
            return None;
        }
        if self.streams.has(session) {
            return Some(Duration::ZERO);
        }
        self.sights.last(session).map(|last| last.elapsed())
    }

    /// Counts who waits for its return.
    pub(crate) fn await_return(&self, more: bool) {
        match more {
            true => self.awaited.fetch_add(1, Relaxed),
            false => self.awaited.fetch_sub(1, Relaxed),
        };
    }

    pub(crate) fn is_awaited(&self) -> bool {
        self.awaited.load(Relaxed) > 0
    }

    /// Ends a look at it, and tells those who wait for that.
    pub(crate) fn end_look(&self, look: LookId) {
        self.sources().evidence.looks.end(look);
        self.news.notify_waiters();
    }

    /// The health shown to people: one at its limit is busy.
    pub(crate) fn state(&self) -> State {
        match self.gate().state() {
            State::Ready if self.is_full() => State::Busy,
            state => state,
        }
    }

    #[inline]
    pub(crate) fn mode(&self) -> Mode {
        match self.mode.load(Relaxed) {
            0 => Mode::Active,
            1 => Mode::Draining,
            2 => Mode::Disabled,
            _ => Mode::Drained,
        }
    }

    /// In one order with the count of requests in flight: of one who takes the backend out and then
    /// looks at the count, and one who counts and then looks here, one sees the other.
    pub(crate) fn set_mode(&self, mode: Mode) {
        self.mode.store(mode as u8, SeqCst);
    }

    /// Whether it gets no request any more, whosever it is.
    #[inline]
    pub(crate) fn is_taken_out(&self) -> bool {
        self.mode.load(SeqCst) >= Mode::Disabled as u8
    }

    /// Its drain is over, and what becomes of its sessions now.
    pub(crate) fn set_drained(&self, then: Failover) {
        self.drained.store(then as u8, Relaxed);
        self.set_mode(Mode::Drained);
    }

    /// Whether its drain lets one more session go now; it counts as gone.
    #[cold]
    pub(crate) fn lets_go(&self) -> bool {
        self.drain.lets_go()
    }

    /// What hears of its drain.
    pub(crate) fn drain_signal(&self) -> DrainSignal {
        self.drain.signal()
    }

    /// What becomes of its sessions once it is drained.
    pub(crate) fn drained(&self) -> Failover {
        match self.drained.load(Relaxed) {
            0 => Failover::Repin,
            1 => Failover::Borrow,
            _ => Failover::Reject,
        }
    }

    #[inline]
    pub(crate) fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    pub(crate) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
    }

    /// Says everything that may be said when it joins.
    pub(crate) fn set(&self, options: &BackendOptions) {
        self.set_weight(options.weight);
        self.set_limit(options.limit);
        self.set_backup(options.backup);
        self.set_zone(options.zone.clone());
    }

    pub(crate) fn is_backup(&self) -> bool {
        self.backup.load(Relaxed)
    }

    pub(crate) fn set_backup(&self, backup: bool) {
        self.backup.store(backup, Relaxed);
    }

    pub(crate) fn zone(&self) -> Option<String> {
        self.zone.load().as_deref().cloned()
    }

    pub(crate) fn is_in(&self, zone: Option<&str>) -> bool {
        self.zone.load().as_deref().map(String::as_str) == zone
    }

    pub(crate) fn set_zone(&self, zone: Option<String>) {
        self.zone.store(zone.map(Arc::new));
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.traffic.in_flight()
    }

    pub(crate) fn requests(&self) -> u64 {
        self.traffic.requests()
    }

    pub(crate) fn waiting(&self) -> usize {
        self.slots.waiting()
    }

    #[inline]
    pub(crate) fn limit(&self) -> usize {
        self.slots.limit()
    }

    /// Whether it has as many requests in flight as its limit allows.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.slots.is_full()
    }

    /// Sets the most requests that may be in flight; 0 for no limit. Those that came while there was
    /// none do not count.
    pub(crate) fn set_limit(&self, max: usize) {
        self.slots.set_limit(max);
    }

    #[inline]
    pub(crate) fn enter(&self) {
        self.traffic.enter();
    }

    #[inline]
    pub(crate) fn leave(&self) {
        self.traffic.leave();
    }

    /// Changes what the health sources say, and tells whether that changed the gate.
    pub(crate) fn update(
        &self,
        change: impl FnOnce(&mut HealthSources),
    ) -> Option<(Availability, Availability)> {
        let mut sources = self.sources();
        change(&mut sources);
        let gate = sources.gate();
        self.noted.store(!sources.evidence.is_quiet(), Relaxed);
        self.ejected.store(sources.evidence.ejection.is_out(), Relaxed);
        let before = self.gate();
        self.gate.store(gate as u8, Relaxed);
        (before != gate).then_some((before, gate))
    }

    /// It joins once more, with the settings of `fresh`: its counts go on, its health is forgotten.
    pub(crate) fn join_again(&self, fresh: &Self) {
        self.set_mode(fresh.mode());
        self.set_weight(fresh.weight());
        self.set_limit(fresh.limit());
        self.set_backup(fresh.is_backup());
        self.set_zone(fresh.zone());
        self.drain.enter(Phase::Serving);
        #[cfg(any(feature = "discover", feature = "dns"))]
        self.set_owner(fresh.owner());
        self.update(HealthSources::forget);
    }

    #[cfg(any(feature = "discover", feature = "dns"))]
    pub(crate) fn owner(&self) -> OwnerRef {
        lock(&self.owner).clone()
    }

    #[cfg(any(feature = "discover", feature = "dns"))]
    pub(crate) fn set_owner(&self, owner: OwnerRef) {
        *lock(&self.owner) = owner;
    }

    pub(crate) fn sources(&self) -> MutexGuard<'_, HealthSources> {
        lock(&self.sources)
    }
}

impl HasLimit for BackendState {
    fn slots(&self) -> &ConcurrencyLimit {
        &self.slots
    }
}

impl fmt::Debug for BackendState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backend")
            .field("id", &self.id)
            .field("state", &self.state())
            .field("mode", &self.mode())
            .field("weight", &self.weight())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}
