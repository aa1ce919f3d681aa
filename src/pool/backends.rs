//! `Backends`: the handle of a pool.

use std::{fmt, net::SocketAddr, sync::Arc};

use super::{
    BackendOptions, BackendState, BackendStatus, Mode, MoveRecord, Pool, PoolError, PoolStatus,
    shared::{check_free, position},
    snapshot::Members,
};
use crate::{error::ConfigError, id::BackendId, pool::Events, util::lock};

/// The set of backends behind a layer: a cheaply cloneable handle, through which the set can be changed
/// while requests are served.
///
/// A change affects later requests. Requests in flight finish on the backend that was chosen for them,
/// even when it is removed. No session moves when a backend joins.
///
/// # Example
///
/// ```
/// use tower_sticky::{Backends, Mode};
///
/// // Any Tower service that is `Clone`; here two functions.
/// let serve = |name: &'static str| {
///     tower::service_fn(move |_: http::Request<String>| async move {
///         Ok::<_, std::convert::Infallible>(http::Response::new(name.to_owned()))
///     })
/// };
/// let backends = Backends::from_iter([("a", serve("a")), ("b", serve("b"))]);
///
/// backends.set_weight("a", 3)?;
/// backends.set_mode("b", Mode::Draining)?;
/// for backend in backends.snapshot().backends {
///     println!("{} is {} and {}", backend.id, backend.state, backend.mode);
/// }
/// # Ok::<(), tower_sticky::PoolError>(())
/// ```
pub struct Backends<S> {
    pool: Arc<Pool<S>>,
}

impl<S> Backends<S> {
    /// An empty pool, named `default`.
    pub fn new() -> Self {
        Self::named("default")
    }

    /// An empty pool with a name of its own. The name is bound into every sealed token, so that a token
    /// of one pool is not valid for another, even with the same keys. Several pools in one router are shown in
    /// [`pools`](crate::guide::pools).
    pub fn named(name: impl Into<String>) -> Self {
        Self { pool: Arc::new(Pool::new(name.into())) }
    }

    /// The pool's name.
    pub fn name(&self) -> &str {
        &self.pool.name
    }

    /// How many backends there are.
    pub fn len(&self) -> usize {
        self.pool.load().index().states().len()
    }

    /// Whether there is no backend.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The status of all backends, and the statistics of all requests so far.
    pub fn snapshot(&self) -> PoolStatus {
        let snapshot = self.pool.load();
        let members = &snapshot.members;
        let backends = members
            .index
            .states()
            .iter()
            .zip(&members.services)
            .map(|(state, service)| self.status(state, service.is_none()))
            .collect();
        PoolStatus { backends, stats: self.pool.counters.stats() }
    }

    /// The status of all backends, in the order in which they joined.
    pub fn iter(&self) -> impl Iterator<Item = BackendStatus> + use<S> {
        self.snapshot().backends.into_iter()
    }

    /// The status of one backend.
    pub fn get(&self, id: &str) -> Option<BackendStatus> {
        let snapshot = self.pool.load();
        let position = snapshot.index().position_of(id.as_bytes())?;
        let members = &snapshot.members;
        Some(self.status(&members.index.states()[position], members.services[position].is_none()))
    }

    /// The last 1,000 moves of sessions, newest first.
    pub fn moves(&self) -> Vec<MoveRecord> {
        self.pool.moves.newest_first()
    }

    /// Sets the share of new sessions that a backend gets, relative to the others. With 0 it keeps
    /// its sessions and takes no new ones. Default 1.
    ///
    /// # Errors
    ///
    /// When no backend has this id.
    pub fn set_weight(&self, id: &str, weight: u32) -> Result<(), PoolError> {
        self.change_state(id, |state| self.pool.change_weight(state, weight))
    }

    /// Sets the mode of a backend, and cancels a [`drain`](Self::drain) of it. To wait until its sessions
    /// have ended, use `drain` instead.
    ///
    /// A backend that is disabled or drained and has no request in flight gets no more, and can be
    /// stopped. Requests that have chosen it but were not sent yet go elsewhere.
    ///
    /// # Errors
    ///
    /// When no backend has this id.
    pub fn set_mode(&self, id: &str, mode: Mode) -> Result<(), PoolError> {
        self.change_state(id, |state| self.pool.change_mode(state, mode))
    }

    /// Sets the most requests that a backend may have in flight, each counted until the end of its
    /// response's body; 0 for no limit, which is the default. The limit has priority over affinity, as
    /// many clients can send the same token.
    ///
    /// Requests beyond the limit wait, as configured by the layer's
    /// [`on_busy`](crate::StickyLayer::on_busy). The queue is fair: sessions take turns, and the requests
    /// of one session are served in order. A session with one waiting request is served after at most
    /// one request of each other session. Sessions that cannot be told apart share one turn: those with
    /// plain tokens, and all new ones without a key.
    ///
    /// A new limit also counts the requests in flight under the old one. When it is higher, waiting
    /// requests are served immediately as far as it allows; when it is lower, no request is admitted
    /// until fewer are in flight. Requests that came while there was no limit are never counted.
    ///
    /// # Errors
    ///
    /// When no backend has this id.
    pub fn set_limit(&self, id: &str, max_in_flight: usize) -> Result<(), PoolError> {
        // The limit is not part of the snapshot, so nothing is published.
        let snapshot = self.pool.load();
        let state = &snapshot.index().states()[position(&snapshot, id)?];
        self.pool.change_limit(state, max_in_flight);
        Ok(())
    }

    /// Sets whether a backend takes sessions only when no other backend is up.
    ///
    /// # Errors
    ///
    /// When no backend has this id.
    pub fn set_backup(&self, id: &str, backup: bool) -> Result<(), PoolError> {
        self.change_state(id, |state| state.set_backup(backup))
    }

    /// Sets the zone of a backend; `None` for no zone.
    ///
    /// # Errors
    ///
    /// When no backend has this id.
    pub fn set_zone(&self, id: &str, zone: Option<&str>) -> Result<(), PoolError> {
        self.change_state(id, |state| state.set_zone(zone.map(str::to_owned)))
    }

    /// Sets the zone in which this program runs. New sessions prefer its backends, and go to other zones
    /// when none of them is ready. `None`, the default, prefers no zone.
    ///
    /// Sessions stay at their backends in any zone. Where the hash of a key chooses the backend, zones are
    /// ignored, as all gateways must choose the same.
    pub fn set_own_zone(&self, zone: Option<&str>) {
        let _changing = lock(&self.pool.changing);
        self.pool.own_zone.store(zone.map(|zone| Arc::new(zone.to_owned())));
        self.pool.publish(self.pool.load().members.clone());
    }

    /// Sets a hook that creates a new service for a backend whose service has failed permanently: in
    /// Tower, an error of `poll_ready` is final for that instance. The readiness poll calls the hook once
    /// per interval while the service fails; `None` means that there is no new service yet.
    pub fn rebuild_with<F>(&self, rebuild: F)
    where
        F: Fn(&BackendId) -> Option<S> + Send + Sync + 'static,
    {
        *lock(&self.pool.rebuild) = Some(Arc::new(rebuild));
    }

    /// The events of the pool from now on: changes of health, modes and members, drains and moves.
    pub fn events(&self) -> Events {
        self.pool.events.subscribe()
    }

    /// Changes the state of one backend, and publishes.
    fn change_state(&self, id: &str, change: impl FnOnce(&BackendState)) -> Result<(), PoolError> {
        let _changing = lock(&self.pool.changing);
        let snapshot = self.pool.load();
        change(&snapshot.index().states()[position(&snapshot, id)?]);
        self.pool.publish(snapshot.members.clone());
        Ok(())
    }

    fn status(&self, state: &BackendState, local: bool) -> BackendStatus {
        let window = self.pool.window(None);
        let sessions = self.pool.session_count(state, window);
        BackendStatus { sessions, ..BackendStatus::new(state, window, local) }
    }

    pub(crate) fn pool(&self) -> &Arc<Pool<S>> {
        &self.pool
    }
}

impl<S: Clone> Backends<S> {
    /// Creates a pool named `default` of backends with their ids.
    ///
    /// # Errors
    ///
    /// When an id is invalid (see [`BackendId`]) or occurs twice.
    pub fn try_from_iter<I, T>(backends: I) -> Result<Self, ConfigError>
    where
        I: IntoIterator<Item = (T, S)>,
        T: AsRef<str>,
    {
        let pool = Self::new();
        let mut members = Members::default();
        for (id, service) in backends {
            let state = BackendState::new(BackendId::new(id)?);
            check_free(&members, &state)?;
            members.push(Arc::new(state), Some(service));
        }
        pool.pool.publish(Arc::new(members));
        Ok(pool)
    }

    /// Adds a backend. It takes new sessions from now on, and no existing session moves to it. If a
    /// backend with this id was removed and still has requests in flight, its counters continue.
    ///
    /// # Errors
    ///
    /// When the id is invalid, or is taken: then use [`replace`](Self::replace).
    pub fn insert(&self, id: impl AsRef<str>, service: S) -> Result<(), PoolError> {
        self.insert_with(id, service, BackendOptions::new())
    }

    /// Adds a backend with a weight, a limit, as a backup, or in a zone.
    ///
    /// # Errors
    ///
    /// As [`insert`](Self::insert).
    pub fn insert_with(
        &self,
        id: impl AsRef<str>,
        service: S,
        options: BackendOptions,
    ) -> Result<(), PoolError> {
        self.update(|change| {
            change.insert_with(id, service, options);
        })
    }

    /// Gives the backend `id` another service, for example at a new address, and returns the old one. Its
    /// sessions stay, its counters continue, and its health is reset.
    ///
    /// # Errors
    ///
    /// When no backend has this id, or when it is the local node.
    pub fn replace(&self, id: &str, service: S) -> Result<S, PoolError> {
        self.pool.replace(id, service)
    }

    /// Tells the pool that the service of a backend reaches it at another address, for example because
    /// its name resolves to another one. The state of its sessions may not exist at the new address, so
    /// each begins a new [epoch](crate::SessionInfo::epoch) with its next request. Publishes
    /// [`Event::AddressChanged`](crate::Event::AddressChanged).
    ///
    /// # Errors
    ///
    /// When no backend has this id.
    pub fn address_changed(
        &self,
        id: &str,
        from: SocketAddr,
        to: SocketAddr,
    ) -> Result<(), PoolError> {
        self.pool.address_changed(id, from, to)
    }

    /// A callback that calls [`address_changed`](Self::address_changed) for the backend `id`, for a service
    /// that resolves names itself. It does not keep the pool alive, and does nothing when the backend was
    /// removed.
    ///
    /// ```
    /// # #[cfg(feature = "proxy")]
    /// # fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_sticky::{Backends, proxy::Upstream};
    ///
    /// let backends = Backends::new();
    /// let upstream = Upstream::new("http://cart.internal:8080")?
    ///     .on_address_change(backends.address_listener("cart"));
    /// backends.insert("cart", upstream)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn address_listener(
        &self,
        id: &str,
    ) -> impl Fn(SocketAddr, SocketAddr) + Send + Sync + use<S>
    where
        S: Send + Sync,
    {
        let (pool, id) = (Arc::downgrade(&self.pool), id.to_owned());
        move |from, to| {
            if let Some(pool) = pool.upgrade()
                && pool.address_changed(&id, from, to).is_err()
            {
                tracing::debug!(%id, %from, %to, "a removed backend changed its address");
            }
        }
    }

    /// Removes a backend and returns its service; `None` for the local node. Requests in flight finish on
    /// it, and its sessions get another backend with their next requests.
    ///
    /// # Errors
    ///
    /// When no backend has this id.
    pub fn remove(&self, id: &str) -> Result<Option<S>, PoolError> {
        let _changing = lock(&self.pool.changing);
        let snapshot = self.pool.load();
        let position = position(&snapshot, id)?;
        let mut members = Members::clone(&snapshot.members);
        let (state, service) = members.remove(position);
        self.pool.removed.insert([&state]);
        self.pool.publish(Arc::new(members));
        self.pool.finish_removal(&state);
        Ok(service)
    }

    /// Makes the local node a member. A service with its id is replaced by the layer's inner service.
    pub(crate) fn insert_local(&self, id: &BackendId) {
        let pool = &self.pool;
        let _changing = lock(&pool.changing);
        let snapshot = pool.load();
        let mut members = Members::clone(&snapshot.members);
        let replaced = match snapshot.index().position(id.tag()) {
            Some(position) => {
                let former = members.services[position].take();
                former.map(|_| &snapshot.index().states()[position])
            }
            None => {
                members.push(Arc::new(BackendState::new(id.clone())), None);
                None
            }
        };
        match replaced {
            Some(state) => pool.publish_replacement(state, members),
            None => pool.publish(Arc::new(members)),
        }
    }
}

/// Creates a pool of backends with their ids, for ids that are known at compile time.
///
/// # Panics
///
/// When an id is invalid or occurs twice; [`Backends::try_from_iter`] returns an error instead.
impl<T: AsRef<str>, S: Clone> FromIterator<(T, S)> for Backends<S> {
    fn from_iter<I: IntoIterator<Item = (T, S)>>(backends: I) -> Self {
        match Self::try_from_iter(backends) {
            Ok(pool) => pool,
            #[expect(clippy::panic, reason = "documented; try_from_iter returns the error")]
            Err(error) => panic!("{error}"),
        }
    }
}

impl<S> Clone for Backends<S> {
    fn clone(&self) -> Self {
        Self { pool: self.pool.clone() }
    }
}

impl<S> Default for Backends<S> {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> fmt::Debug for Backends<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Backends")
            .field("name", &self.pool.name)
            .field("backends", &self.pool.load().index().states())
            .finish()
    }
}
