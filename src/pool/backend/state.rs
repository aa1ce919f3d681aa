//! `BackendState`: everything the pool knows about one backend, shared by all its users.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{sync::Notify, time::Instant};

#[cfg(feature = "admin")]
use super::history::History;
#[cfg(any(feature = "discover", feature = "dns"))]
use super::owner::OwnerRef;
use super::{
    drain::DrainState,
    generation::{Generation, PresentGeneration},
    latency::Latency,
    requests::RequestCounter,
    since::Since,
    streams::OpenStreams,
    watchers::Watchers,
};
use crate::{
    id::BackendId,
    outcome::{Failover, recording::BackendRecorder},
    pool::{
        AnswerCounts, DrainSignal, Mode, SlowStart, State,
        availability::HealthSources,
        limit::{ConcurrencyLimit, HasLimit},
        sessions::{LastSeen, SessionCounter, SessionLoad, Window},
    },
    util::{SystemClock, clock::unix_millis},
};

/// The shared state of one backend. It outlives the backend's membership while requests are in flight.
///
/// What requests read is atomic, so that no request takes a lock for it.
pub(crate) struct BackendState {
    pub(crate) id: BackendId,
    pub(crate) tag: u64,
    pub(super) standing: Standing,
    pub(super) generation: PresentGeneration,
    /// How many requests wait for it to recover.
    pub(super) recovery_waiters: AtomicUsize,
    /// Notified when its health or its mode has changed, or a recheck has finished.
    pub(crate) changed: Arc<Notify>,
    pub(super) zone: ArcSwapOption<String>,
    pub(super) requests: RequestCounter,
    pub(crate) recorder: BackendRecorder,
    pub(super) permits: ConcurrencyLimit,
    pub(crate) latency: Latency,
    pub(crate) session_counter: SessionCounter,
    pub(crate) session_load: SessionLoad,
    /// The tick since which its sessions have been counted; 0 for the creation of the pool.
    counting_since: AtomicU32,
    /// The estimate of the last count of its sessions.
    pub(crate) last_session_count: AtomicU64,
    pub(crate) streams: OpenStreams,
    pub(crate) stream_ends: LastSeen,
    created: Instant,
    pub(in crate::pool) since: Since,
    #[cfg(feature = "admin")]
    pub(crate) history: History,
    pub(in crate::pool) drain: DrainState,
    /// The [`Failover`] of its sessions once it is drained.
    drained_policy: AtomicU8,
    pub(crate) answer_counts: AnswerCounts,
    pub(crate) slow_start: SlowStart,
    pub(super) sources: Mutex<HealthSources>,
    /// The feed that manages it, if any.
    #[cfg(any(feature = "discover", feature = "dns"))]
    pub(super) owner: Mutex<OwnerRef>,
}

/// What each change of the pool reads of every backend: on one cache line, as there may be thousands.
#[repr(align(64))]
pub(super) struct Standing {
    /// [`Availability`](crate::pool::Availability), as derived from `sources`.
    pub(super) availability: AtomicU8,
    pub(super) mode: AtomicU8,
    pub(super) backup: AtomicBool,
    /// Whether a good answer would change the evidence.
    pub(super) has_evidence: AtomicBool,
    /// Whether it is ejected for failing answers, or on trial after that.
    pub(super) is_ejected: AtomicBool,
    pub(super) weight: AtomicU32,
    /// The requests that watch for changes.
    pub(super) watchers: Watchers,
    /// The lowest epoch of the backend's sessions: the Unix time in milliseconds of its last change of
    /// address, or 0.
    epoch: AtomicU64,
}

impl Default for Standing {
    fn default() -> Self {
        Self {
            availability: AtomicU8::new(0),
            mode: AtomicU8::new(0),
            backup: AtomicBool::new(false),
            has_evidence: AtomicBool::new(false),
            is_ejected: AtomicBool::new(false),
            weight: AtomicU32::new(1),
            watchers: Watchers::new(),
            epoch: AtomicU64::new(0),
        }
    }
}

impl BackendState {
    pub(crate) fn new(id: BackendId) -> Self {
        let tag = id.tag();
        Self {
            id,
            tag,
            standing: Standing::default(),
            generation: PresentGeneration::default(),
            recovery_waiters: AtomicUsize::new(0),
            changed: Arc::default(),
            zone: ArcSwapOption::empty(),
            requests: RequestCounter::new(),
            recorder: BackendRecorder::default(),
            permits: ConcurrencyLimit::new(),
            latency: Latency::default(),
            session_counter: SessionCounter::default(),
            session_load: SessionLoad::default(),
            counting_since: AtomicU32::new(0),
            last_session_count: AtomicU64::new(0),
            streams: OpenStreams::new(),
            stream_ends: LastSeen::default(),
            created: Instant::now(),
            since: Since::default(),
            #[cfg(feature = "admin")]
            history: History::default(),
            drain: DrainState::default(),
            drained_policy: AtomicU8::new(0),
            answer_counts: AnswerCounts::default(),
            slow_start: SlowStart::default(),
            sources: Mutex::default(),
            #[cfg(any(feature = "discover", feature = "dns"))]
            owner: Mutex::default(),
        }
    }

    /// The lowest epoch of the backend's sessions.
    #[inline]
    pub(crate) fn epoch(&self) -> u64 {
        self.standing.epoch.load(Relaxed)
    }

    /// Starts a new epoch for all its sessions, as their state at the backend may be lost. The caller
    /// publishes.
    pub(crate) fn begin_epoch(&self) {
        // Later than every epoch that has begun within the current millisecond.
        let after_all = unix_millis(&SystemClock).saturating_add(1);
        let next = |epoch: u64| Some(after_all.max(epoch.saturating_add(1)));
        let _ = self.standing.epoch.fetch_update(Relaxed, Relaxed, next);
    }

    /// Its present generation; what older generations have led to may be ignored.
    #[inline]
    pub(crate) fn generation(&self) -> Generation {
        self.generation.load()
    }

    /// Starts a generation, after another service has been published.
    pub(crate) fn begin_service_generation(&self) {
        self.generation.service_replaced();
    }

    /// Records that its sessions are counted from `tick` on.
    pub(crate) fn count_sessions_since(&self, tick: u32) {
        self.counting_since.store(tick, Relaxed);
    }

    /// The tick from which on its sessions are counted.
    pub(crate) fn counting_since(&self) -> u32 {
        self.counting_since.load(Relaxed)
    }

    /// Whether its sessions have been counted for the whole window: a session that was not seen in
    /// that time has ended.
    pub(crate) fn has_counted_for(&self, window: Window) -> bool {
        window.now.saturating_sub(self.counting_since.load(Relaxed)) >= window.ticks
    }

    /// Seconds since its creation.
    pub(crate) fn age_secs(&self) -> u32 {
        self.created.elapsed().as_secs().min(u64::from(u32::MAX)) as u32
    }

    /// The time since a stream of the session was last open here, if known: zero while one is open.
    pub(crate) fn stream_seen(&self, session: u64) -> Option<Duration> {
        if session == 0 {
            return None;
        }
        if self.streams.has_session(session) {
            return Some(Duration::ZERO);
        }
        self.stream_ends.get(session).map(|last| last.elapsed())
    }

    /// The health that users see: a backend at its limit is busy.
    pub(crate) fn state(&self) -> State {
        match self.availability().state() {
            State::Ready if self.is_full() => State::Busy,
            state => state,
        }
    }

    /// Ends the drain: the backend gets no more requests, and `then` decides about its sessions.
    pub(crate) fn set_drained(&self, then: Failover) {
        self.drained_policy.store(then as u8, Relaxed);
        self.set_mode(Mode::Drained);
    }

    /// What happens to its sessions once it is drained.
    pub(crate) fn drained_policy(&self) -> Failover {
        match self.drained_policy.load(Relaxed) {
            0 => Failover::Repin,
            1 => Failover::Borrow,
            _ => Failover::Reject,
        }
    }

    /// Whether it is drained in a way that lets its sessions move.
    #[cold]
    pub(crate) fn hands_over(&self) -> bool {
        self.drain.hands_over()
    }

    /// Whether its drain lets one more session move now. A session that may move is counted.
    #[cold]
    pub(crate) fn admits_handoff(&self) -> bool {
        self.drain.admits_handoff()
    }

    /// A signal of its drains.
    pub(crate) fn drain_signal(&self) -> DrainSignal {
        self.drain.signal()
    }

    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        self.requests.in_flight()
    }

    /// All requests that it has been given.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.requests()
    }

    #[inline]
    pub(crate) fn enter(&self) {
        self.requests.enter();
    }

    #[inline]
    pub(crate) fn leave(&self) {
        self.requests.leave();
    }

    /// How many requests wait for a permit or for its service to become ready.
    pub(crate) fn waiting(&self) -> usize {
        self.permits.waiting()
    }

    /// Whether it has as many requests in flight as its limit allows.
    #[inline]
    pub(crate) fn is_full(&self) -> bool {
        self.permits.is_full()
    }

    /// Stores the mode in one total order with the count of requests in flight. A thread that disables
    /// the backend and then reads the count, and a request that is counted and then reads the mode:
    /// at least one of them sees the other's write.
    pub(crate) fn set_mode(&self, mode: Mode) {
        if self.mode() != mode {
            self.since.mode_changed();
        }
        self.standing.mode.store(mode as u8, SeqCst);
    }

    /// Whether it gets no requests, not even those of its own sessions.
    #[inline]
    pub(crate) fn is_out_of_service(&self) -> bool {
        self.standing.mode.load(SeqCst) >= Mode::Disabled as u8
    }
}

impl HasLimit for BackendState {
    fn permits(&self) -> &ConcurrencyLimit {
        &self.permits
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
