//! `Pool`: the state that all handles of a pool share, and the changes of its members.

use std::{
    error::Error,
    fmt,
    hash::RandomState,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicU32, AtomicU64, AtomicUsize,
            Ordering::{Acquire, Relaxed},
        },
    },
};

use arc_swap::ArcSwapOption;
use tokio::{sync::Notify, time::Instant};

use super::{
    Availability, BackendState, Readiness,
    availability::HealthSources,
    backend::{DrainEnd, Watchers},
    move_log::{MoveLog, MoveRecord},
    removed::RemovedBackends,
    session_balance::Balance,
    shortage_log::ShortageLog,
    snapshot::{Members, Snapshot},
    versioned::Versioned,
};
use crate::{
    error::ConfigError,
    id::{BackendId, SessionHash},
    outcome::{Counters, recording::PoolRecorder},
    pool::{Cause, Event, Publisher},
    util::{RateLimiter, lock, sync::SwapGuard},
};

/// The state that all handles of a pool share.
pub(crate) struct Pool<S> {
    pub(super) name: String,
    snapshot: Versioned<Snapshot<S>>,
    /// Locked while the members are changed or published.
    pub(super) changing: Mutex<()>,
    pub(super) rebuild: Mutex<Option<Rebuild<S>>>,
    pub(crate) counters: Counters,
    pub(crate) recorder: PoolRecorder,
    /// Hashes sessions for logs.
    session_hasher: RandomState,
    pub(crate) events: Publisher,
    pub(super) moves: MoveLog,
    /// The tick at which the next interval of the histories is over.
    #[cfg(feature = "admin")]
    pub(super) history_due: AtomicU32,
    /// The zone whose backends are preferred for new sessions.
    pub(super) own_zone: ArcSwapOption<String>,
    /// When the pool was created, and how many seconds ago that was at the last update.
    pub(super) started: Instant,
    pub(super) tick: AtomicU32,
    /// What is added to the seconds since the creation, as the ticks of an earlier process are continued.
    pub(super) tick_base: AtomicU32,
    /// For how many seconds an idle session counts; 0 when no affinity remembers sessions.
    pub(super) session_timeout: AtomicU32,
    /// Whether pins exist outside this process, so that there may be sessions that it has not seen.
    pub(super) has_external_pins: AtomicBool,
    /// How many drains are active.
    pub(super) drains: AtomicUsize,
    /// Whether a backend has a limit of its requests in flight, or had one.
    has_limits: AtomicBool,
    pub(super) balance: Balance,
    pub(super) removed: RemovedBackends,
    /// Closed when the pool is dropped, which ends its feeds.
    #[cfg(any(feature = "discover", feature = "dns"))]
    pub(crate) open: tokio::sync::watch::Sender<()>,
    pub(crate) has_driver: AtomicBool,
    /// The number of the driver task that is to run: earlier ones end.
    pub(crate) driver: AtomicU64,
    /// Whether slow start is enabled.
    pub(crate) slow_start: AtomicBool,
    /// Locked while a backend is ejected.
    pub(crate) ejecting: Mutex<()>,
    /// Wakes the driver task: a backend was ejected, the members have changed, or the last handle was
    /// dropped.
    pub(crate) wake: Arc<Notify>,
    /// Limits the redials of the pool, and separately those that requests wait for.
    pub(crate) redials: RateLimiter,
    pub(crate) urgent_redials: RateLimiter,
    pub(crate) shortages: ShortageLog,
}

pub(super) type Rebuild<S> = Arc<dyn Fn(&BackendId) -> Option<S> + Send + Sync>;

/// An error of a change of a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// The id is invalid or taken.
    Config(ConfigError),
    /// No backend has this id.
    Unknown(String),
}

impl fmt::Display for PoolError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config(error) => fmt::Display::fmt(error, f),
            Self::Unknown(id) => write!(f, "no backend has the id {id:?}"),
        }
    }
}

impl Error for PoolError {}

impl From<ConfigError> for PoolError {
    fn from(error: ConfigError) -> Self {
        Self::Config(error)
    }
}

impl<S: Clone> Pool<S> {
    pub(super) fn replace(&self, id: &str, service: S) -> Result<S, PoolError> {
        let _changing = lock(&self.changing);
        let snapshot = self.load();
        let position = position(&snapshot, id)?;
        let state = &snapshot.index().states()[position];
        let mut members = Members::clone(&snapshot.members);
        let Some(old) = members.services[position].replace(service) else {
            return Err(is_local(&state.id).into());
        };
        self.publish_replacement(state, members);
        Ok(old)
    }

    /// Begins a new epoch for the sessions of a backend whose address has changed.
    pub(super) fn address_changed(
        &self,
        id: &str,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(), PoolError> {
        let _changing = lock(&self.changing);
        let snapshot = self.load();
        let state = &snapshot.index().states()[position(&snapshot, id)?];
        state.begin_epoch();
        self.publish(snapshot.members.clone());
        self.events.publish(|| Event::AddressChanged { backend: state.id.clone(), from, to });
        Ok(())
    }

    /// Replaces the service of a backend whose readiness has failed, if the rebuild hook creates one.
    pub(crate) fn rebuild(&self, id: &BackendId) {
        let rebuild = lock(&self.rebuild).clone();
        let Some(service) = rebuild.and_then(|rebuild| rebuild(id)) else {
            return;
        };
        if self.replace(id.as_str(), service).is_ok() {
            tracing::info!(backend = %id, "the backend's service was rebuilt");
        }
    }
}

impl<S> Pool<S> {
    pub(super) fn new(name: String) -> Self {
        Self {
            name,
            snapshot: Versioned::new(Snapshot::new(Arc::default(), None, None)),
            changing: Mutex::new(()),
            rebuild: Mutex::new(None),
            counters: Counters::default(),
            recorder: PoolRecorder::default(),
            session_hasher: RandomState::new(),
            events: Publisher::default(),
            moves: MoveLog::default(),
            #[cfg(feature = "admin")]
            history_due: AtomicU32::new(0),
            own_zone: ArcSwapOption::empty(),
            started: Instant::now(),
            tick_base: AtomicU32::new(0),
            tick: AtomicU32::new(1),
            session_timeout: AtomicU32::new(0),
            has_external_pins: AtomicBool::new(false),
            drains: AtomicUsize::new(0),
            has_limits: AtomicBool::new(false),
            balance: Balance::default(),
            removed: RemovedBackends::default(),
            #[cfg(any(feature = "discover", feature = "dns"))]
            open: tokio::sync::watch::Sender::new(()),
            has_driver: AtomicBool::new(false),
            driver: AtomicU64::new(0),
            slow_start: AtomicBool::new(false),
            ejecting: Mutex::new(()),
            wake: Arc::new(Notify::new()),
            redials: RateLimiter::new(100),
            urgent_redials: RateLimiter::new(1000),
            shortages: ShortageLog::default(),
        }
    }

    /// The hash of a session for logs.
    pub(crate) fn session_hash(&self, session: u64) -> SessionHash {
        SessionHash::new(&self.session_hasher, session)
    }

    /// Remembers that a session has moved.
    pub(crate) fn record_move(&self, record: MoveRecord) {
        self.moves.push(record);
    }

    #[inline]
    pub(crate) fn load(&self) -> SwapGuard<Snapshot<S>> {
        self.snapshot.load()
    }

    /// Grows with every change of the members. A snapshot that is loaded after this is at least as new.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.snapshot.version()
    }

    pub(super) fn publish(&self, members: Arc<Members<S>>) {
        let zone = self.own_zone.load();
        let zone = zone.as_deref().map(String::as_str);
        let previous = self.load();
        let changed = !Arc::ptr_eq(&members, &previous.members);
        let next = Arc::new(Snapshot::new(members, zone, Some(&previous)));
        let (before, now) = (previous.index().states(), next.index().states());
        // Most are the same at the same position.
        for state in differ(now, before) {
            state.recorder.join(&self.recorder);
            self.expect_limit(state.limit());
        }
        self.snapshot.publish(next.clone(), changed);
        // Wake requests that wait for a backend, including one that was just removed. Whoever is not counted as
        // waiting yet sees this snapshot.
        Watchers::after_change();
        now.iter().for_each(|state| state.notify_watchers());
        differ(before, now).for_each(|state| state.notify_watchers());
        if changed {
            self.wake.notify_one();
        }
    }

    /// Begins the slow start of a backend that has joined or recovered, if that is enabled.
    pub(super) fn begin_slow_start(&self, state: &BackendState) {
        if self.slow_start.load(Acquire) {
            state.slow_start.start(Instant::now());
            self.wake.notify_one();
        }
    }

    /// Begins the slow start if the backend has recovered.
    fn slow_start_if_recovered(
        &self,
        state: &BackendState,
        changed: Option<(Availability, Availability)>,
    ) {
        if let Some((from, to)) = changed
            && !from.is_healthy()
            && to.is_healthy()
        {
            self.begin_slow_start(state);
        }
    }

    /// Resets the health of a backend that has another service. The caller publishes.
    pub(super) fn reset_health(&self, state: &BackendState) {
        let changed = state.update(HealthSources::reset);
        self.slow_start_if_recovered(state, changed);
        self.events.publish(|| Event::Replaced { backend: state.id.clone() });
        if let Some((from, to)) = changed.map(|(from, to)| (from.state(), to.state()))
            && from != to
        {
            state.since.state_changed(Cause::Replaced);
            let (backend, cause) = (state.id.clone(), Cause::Replaced);
            self.events.publish(|| Event::State { backend, from, to, cause });
        }
    }

    /// Whether a backend may be full. As long as none has had a limit, nobody needs to look at each of them.
    #[inline]
    pub(crate) fn has_limits(&self) -> bool {
        self.has_limits.load(Relaxed)
    }

    fn expect_limit(&self, limit: usize) {
        if limit > 0 {
            self.has_limits.store(true, Relaxed);
        }
    }

    /// Sets the most requests in flight. It may wake waiters, which runs foreign code, so the pool must not be locked.
    pub(super) fn change_limit(&self, state: &BackendState, limit: usize) {
        self.expect_limit(limit);
        state.set_limit(limit);
    }

    /// Sets the weight. The caller publishes.
    pub(super) fn change_weight(&self, state: &BackendState, weight: u32) {
        let (backend, from) = (state.id.clone(), state.weight());
        state.set_weight(weight);
        if from != weight {
            self.events.publish(|| Event::Weight { backend, from, to: weight });
        }
    }

    /// Ends the drain of a backend that was removed, and publishes the event.
    pub(super) fn finish_removal(&self, state: &BackendState) {
        self.end_drain(state, DrainEnd::Left);
        self.events.publish(|| Event::Left { backend: state.id.clone() });
    }

    /// How sessions are distributed, for rebalancing.
    pub(crate) fn balance(&self) -> &Balance {
        &self.balance
    }

    /// Counts the sessions of all backends, if that is enabled and due.
    pub(super) fn update_balance(&self) {
        let snapshot = self.load();
        self.balance.update(snapshot.index().states(), self.window(None), self.tick());
    }

    /// Changes the health sources of a backend, and publishes if its availability has changed.
    pub(crate) fn update(
        &self,
        state: &BackendState,
        cause: Cause,
        change: impl FnOnce(&mut HealthSources),
    ) {
        let Some((before, after)) = state.update(change) else {
            return;
        };
        tracing::info!(backend = %state.id, from = ?before, to = ?after, %cause, "health changed");
        let (from, to) = (before.state(), after.state());
        if from != to {
            state.since.state_changed(cause);
            let backend = state.id.clone();
            self.events.publish(|| Event::State { backend, from, to, cause });
        }
        self.slow_start_if_recovered(state, Some((before, after)));
        let _changing = lock(&self.changing);
        let members = self.load().members.clone();
        self.publish(members);
    }

    /// Records the result of a readiness poll.
    pub(crate) fn set_readiness(&self, state: &BackendState, readiness: Readiness) {
        self.update(state, Cause::Readiness, |sources| sources.readiness = readiness);
    }
}

impl<S> Drop for Pool<S> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
}

/// Those of `states` that are not at the same position of `others`.
fn differ<'a>(
    states: &'a [Arc<BackendState>],
    others: &'a [Arc<BackendState>],
) -> impl Iterator<Item = &'a Arc<BackendState>> {
    let is_same = |position: usize, state: &Arc<BackendState>| {
        others.get(position).is_some_and(|other| Arc::ptr_eq(state, other))
    };
    let numbered = states.iter().enumerate();
    numbered.filter(move |(position, state)| !is_same(*position, state)).map(|(_, state)| state)
}

pub(super) fn position<S>(snapshot: &Snapshot<S>, id: &str) -> Result<usize, PoolError> {
    let position = snapshot.index().position_of(id.as_bytes());
    position.ok_or_else(|| PoolError::Unknown(id.to_owned()))
}

pub(super) fn check_free<S>(members: &Members<S>, state: &BackendState) -> Result<(), ConfigError> {
    match members.index.get(state.tag) {
        None => Ok(()),
        Some(other) if other.id == state.id => Err(ConfigError::new(format!(
            "the backend id {:?} is taken; every backend needs an id of its own",
            state.id
        ))),
        Some(other) => Err(ConfigError::new(format!(
            "the backend ids {:?} and {:?} have the same 64-bit hash; change one of them",
            state.id, other.id
        ))),
    }
}

/// The error about a local node that is to have another service.
pub(super) fn is_local(id: &BackendId) -> ConfigError {
    let id = id.as_str();
    ConfigError::new(format!(
        "the backend {id:?} is the local node; its service is the layer's inner service"
    ))
}
