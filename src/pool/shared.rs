//! What all handles of a pool share, and how it changes.

use std::{
    error::Error,
    fmt,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Acquire},
    },
};

use arc_swap::ArcSwapOption;
use tokio::{sync::Notify, time::Instant};

use super::{
    Availability, BackendState, Readiness,
    availability::HealthSources,
    backend::DrainEnd,
    removed::RemovedBackends,
    session_balance::Balance,
    snapshot::{Members, Snapshot},
    versioned::Versioned,
};
use crate::{
    error::{ConfigError, ShortageLog},
    id::BackendId,
    outcome::Counters,
    pool::{Cause, Event, Publisher},
    util::{RateLimiter, lock, sync::SwapGuard},
};

/// What all handles of a pool share.
pub(crate) struct Pool<S> {
    pub(super) name: String,
    snapshot: Versioned<Snapshot<S>>,
    /// Held by whoever changes the members or republishes them.
    pub(super) changing: Mutex<()>,
    pub(super) rebuild: Mutex<Option<Rebuild<S>>>,
    pub(crate) counters: Counters,
    pub(crate) events: Publisher,
    /// The zone whose backends are preferred for new sessions.
    pub(super) own_zone: ArcSwapOption<String>,
    /// When the pool was made, and how many seconds ago that was when somebody looked.
    pub(super) started: Instant,
    pub(super) tick: AtomicU32,
    /// For how many seconds an idle session counts as there; 0 when no affinity remembers any.
    pub(super) horizon: AtomicU32,
    /// Whether pins outlive this process, so that some may be there that it has not seen.
    pub(super) pins_outlive: AtomicBool,
    /// How many backends are drained with a plan.
    pub(super) drains: AtomicUsize,
    pub(super) balance: Balance,
    pub(super) departed: RemovedBackends,
    /// Closed with the pool: what feeds it ends.
    #[cfg(any(feature = "discover", feature = "dns"))]
    pub(crate) open: tokio::sync::watch::Sender<()>,
    pub(crate) driven: AtomicBool,
    /// Whether backends that are new, or back, begin slowly.
    pub(crate) slow_start: AtomicBool,
    /// Held by whoever ejects a backend.
    pub(crate) ejecting: Mutex<()>,
    /// Wakes the health driver: something was ejected, the members have changed, or the last handle is
    /// gone.
    pub(crate) wake: Arc<Notify>,
    /// How often the pool redials in the background, and how often while somebody waits for that.
    pub(crate) redials: RateLimiter,
    pub(crate) awaited_redials: RateLimiter,
    pub(crate) shortages: ShortageLog,
}

pub(super) type Rebuild<S> = Arc<dyn Fn(&BackendId) -> Option<S> + Send + Sync>;

/// A change of a pool that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PoolError {
    /// The id is not one, or is taken.
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
    pub(super) fn insert(&self, state: BackendState, service: Option<S>) -> Result<(), PoolError> {
        let _changing = lock(&self.changing);
        let mut members = Members::clone(&self.load().members);
        check_free(&members, &state)?;
        let backend = state.id.clone();
        let fresh = self.tick();
        state.watch_since(fresh);
        let state = self.departed.recall(state);
        self.begin_slowly(&state);
        members.push(state.clone(), service);
        self.publish(Arc::new(members));
        state.renew();
        self.events.publish(|| Event::Joined { backend });
        Ok(())
    }

    pub(super) fn replace(&self, id: &str, service: S) -> Result<S, PoolError> {
        let _changing = lock(&self.changing);
        let snapshot = self.load();
        let position = position(&snapshot, id)?;
        let state = &snapshot.index().states()[position];
        let mut members = Members::clone(&snapshot.members);
        let Some(old) = members.services[position].replace(service) else {
            return Err(PoolError::Config(ConfigError::new(format!(
                "the backend {id:?} is the local node; its service is the layer's inner service"
            ))));
        };
        self.forget_health(state);
        self.publish(Arc::new(members));
        state.renew();
        Ok(old)
    }

    /// The backend is reached at another address now.
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

    /// Replaces the service of a backend whose readiness failed, if there is a way to.
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
            events: Publisher::default(),
            own_zone: ArcSwapOption::empty(),
            started: Instant::now(),
            tick: AtomicU32::new(1),
            horizon: AtomicU32::new(0),
            pins_outlive: AtomicBool::new(false),
            drains: AtomicUsize::new(0),
            balance: Balance::default(),
            departed: RemovedBackends::default(),
            #[cfg(any(feature = "discover", feature = "dns"))]
            open: tokio::sync::watch::Sender::new(()),
            driven: AtomicBool::new(false),
            slow_start: AtomicBool::new(false),
            ejecting: Mutex::new(()),
            wake: Arc::new(Notify::new()),
            redials: RateLimiter::new(100),
            awaited_redials: RateLimiter::new(1000),
            shortages: ShortageLog::default(),
        }
    }

    #[inline]
    pub(crate) fn load(&self) -> SwapGuard<Snapshot<S>> {
        self.snapshot.load()
    }

    /// Grows with every change of the members: the snapshot that is loaded after this was read is no
    /// older.
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
        self.snapshot.publish(next.clone(), changed);
        if changed {
            self.wake.notify_one();
        }
        // Those who wait for a backend look again, also at one that has just left.
        let (before, now) = (previous.index().states(), next.index().states());
        before.iter().chain(now).for_each(|state| state.news.notify_waiters());
    }

    /// A backend is new, or back: it takes its share of new sessions by and by, if that is wanted.
    pub(super) fn begin_slowly(&self, state: &BackendState) {
        if self.slow_start.load(Acquire) {
            state.ramp.start(Instant::now());
            self.wake.notify_one();
        }
    }

    /// As [`begin_slowly`](Self::begin_slowly), if the change brought the backend back.
    fn came_back(&self, state: &BackendState, changed: Option<(Availability, Availability)>) {
        if let Some((from, to)) = changed
            && !from.is_well()
            && to.is_well()
        {
            self.begin_slowly(state);
        }
    }

    /// The backend has another service, of which nothing is known. The caller publishes.
    pub(super) fn forget_health(&self, state: &BackendState) {
        let changed = state.update(HealthSources::forget);
        self.came_back(state, changed);
        self.events.publish(|| Event::Replaced { backend: state.id.clone() });
        if let Some((from, to)) = changed.map(|(from, to)| (from.state(), to.state()))
            && from != to
        {
            let (backend, cause) = (state.id.clone(), Cause::Replaced);
            self.events.publish(|| Event::State { backend, from, to, cause });
        }
    }

    /// The operator, or a feed, wants another weight. The caller publishes.
    pub(super) fn enter_weight(&self, state: &BackendState, weight: u32) {
        let (backend, from) = (state.id.clone(), state.weight());
        state.set_weight(weight);
        if from != weight {
            self.events.publish(|| Event::Weight { backend, from, to: weight });
        }
    }

    /// The backend is no member any more.
    pub(super) fn has_left(&self, state: &BackendState) {
        self.end_drain(state, DrainEnd::Left);
        self.events.publish(|| Event::Left { backend: state.id.clone() });
    }

    /// Sessions are counted from now on.
    pub(crate) fn watch_balance(&self) {
        self.balance.watch();
    }

    /// Counts the sessions of all backends, if that is wanted and due.
    pub(super) fn weigh(&self) {
        let snapshot = self.load();
        self.balance.weigh(snapshot.index().states(), self.window(None), self.tick());
    }

    /// Who should take a session of `from`, if that has too many of them.
    pub(crate) fn relief<'a>(
        &self,
        from: &BackendState,
        others: &'a [Arc<BackendState>],
        tolerance: f64,
    ) -> Option<&'a Arc<BackendState>> {
        self.balance.relief(from, others, tolerance)
    }

    /// Tells the pool what a health source found out about a backend.
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
            let backend = state.id.clone();
            self.events.publish(|| Event::State { backend, from, to, cause });
        }
        self.came_back(state, Some((before, after)));
        let _changing = lock(&self.changing);
        let members = self.load().members.clone();
        self.publish(members);
    }

    /// Takes the result of a readiness poll in, without the word of any other source.
    pub(crate) fn set_readiness(&self, state: &BackendState, readiness: Readiness) {
        self.update(state, Cause::Readiness, |sources| sources.readiness = readiness);
    }
}

impl<S> Drop for Pool<S> {
    fn drop(&mut self) {
        self.wake.notify_one();
    }
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
