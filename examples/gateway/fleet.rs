//! The backends with their URLs, which the pool does not know.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;
use tower_sticky::{
    BackendOptions, Backends, ConfigError, PoolError, PoolUpdate, admin::About, proxy::Upstream,
};

use crate::{
    config::{
        self, Settings, Time,
        file::{self, Zone},
    },
    discovered::DiscoveredUrls,
    fleet_change::{Departure, listed},
    state::SavedMode,
};

#[derive(Debug)]
pub(crate) struct Fleet {
    backends: Backends<Upstream>,
    /// Locked during every change, so that the URLs and the pool agree.
    members: Mutex<BTreeMap<String, Member>>,
    discovered: DiscoveredUrls,
    /// What all backends have in common.
    opening: Mutex<Arc<Opening>>,
    /// The backends of the file that is in force.
    listed: Mutex<BTreeMap<String, file::Backend>>,
    /// The drains that the operator has begun.
    drains: Mutex<BTreeMap<String, SavedMode>>,
}

/// A backend with its URL.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) entry: file::Backend,
    pub(crate) upstream: Upstream,
    /// Set when it is gone from the file, until it is removed.
    pub(crate) leaving: Option<Departure>,
}

/// How backends are reached, as far as they have it in common.
#[derive(Debug)]
pub(crate) struct Opening {
    connect_timeout: Duration,
    response_timeout: Duration,
    body_timeout: Duration,
    expect_wait: Duration,
    tcp_user_timeout: Duration,
    buffer_bytes: usize,
    upstream_settings: config::Upstream,
    retry: bool,
}

impl Opening {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self {
            connect_timeout: settings.limits.connect_timeout,
            response_timeout: settings.limits.response_timeout,
            body_timeout: settings.limits.body_timeout,
            expect_wait: settings.limits.expect_wait,
            tcp_user_timeout: settings.limits.tcp_user_timeout,
            buffer_bytes: settings.limits.buffer_bytes as usize,
            upstream_settings: settings.upstream.clone(),
            retry: settings.policy.retry,
        }
    }
}

impl Fleet {
    pub(crate) fn new(settings: &Settings) -> Result<Self, PoolError> {
        let fleet = Self {
            backends: Backends::named(&settings.pool),
            members: Mutex::default(),
            discovered: DiscoveredUrls::default(),
            opening: Mutex::new(Arc::new(Opening::new(settings))),
            listed: Mutex::new(listed(&settings.backends)),
            drains: Mutex::default(),
        };
        fleet.backends.set_own_zone(settings.zone.as_ref().map(|Zone(zone)| zone.as_str()));
        let opened = settings
            .backends
            .iter()
            .map(|backend| fleet.upstream(backend).map(|upstream| (backend, upstream)));
        let opened = opened.collect::<Result<Vec<_>, _>>()?;
        fleet.backends.update(|change| {
            for (backend, upstream) in &opened {
                insert(change, backend, upstream.clone());
            }
        })?;
        for (backend, upstream) in opened {
            fleet.members().insert(backend.id.clone(), Member::new(backend.clone(), upstream));
        }
        Ok(fleet)
    }

    pub(crate) fn backends(&self) -> &Backends<Upstream> {
        &self.backends
    }

    /// Adds a backend; an error when its id is taken.
    pub(crate) fn add(&self, backend: &file::Backend) -> Result<(), PoolError> {
        let mut members = self.members();
        self.join(&mut members, backend)
    }

    /// Adds a backend, or changes the URL, weight, limit, tier and zone of an existing one, whose mode
    /// stays. Returns whether it is new.
    pub(crate) fn put(&self, backend: &file::Backend) -> Result<bool, PoolError> {
        let mut members = self.members();
        let id = &backend.id;
        let Some(member) = members.get_mut(id) else {
            self.join(&mut members, backend)?;
            return Ok(true);
        };
        let mut reached = None;
        if member.entry.url != backend.url {
            // What the file says of its connections stays.
            let entry = file::Backend { url: backend.url.clone(), ..member.entry.clone() };
            reached = Some((self.upstream(&entry)?, entry));
        }
        self.backends.update(|change| {
            if let Some((upstream, _)) = &reached {
                change.replace(id, upstream.clone());
            }
            change
                .set_weight(id, backend.weight)
                .set_limit(id, backend.max_connections)
                .set_backup(id, backend.backup)
                .set_zone(id, backend.zone.as_ref().map(|Zone(zone)| zone.as_str()));
        })?;
        if let Some((upstream, entry)) = reached {
            look_up(upstream.clone());
            (member.entry, member.upstream) = (entry, upstream);
        }
        Ok(false)
    }

    pub(crate) fn remove(&self, id: &str) -> Result<(), PoolError> {
        let mut members = self.members();
        drop(self.backends.remove(id)?);
        members.remove(id);
        Ok(())
    }

    /// What the configuration says of a backend.
    pub(crate) fn about(&self, id: &str) -> About {
        let opening = self.opening();
        let is_insecure = |backend: &file::Backend| opening.upstream_settings.is_insecure(backend);
        if let Some(member) = self.members().get(id) {
            return About::at(&member.entry.url).insecure(is_insecure(&member.entry));
        }
        let backend = file::Backend::new(id, self.discovered.get(id).unwrap_or_default());
        let insecure = is_insecure(&backend);
        About::at(backend.url).insecure(insecure)
    }

    /// The service of a backend that a discovery has found.
    #[cfg(feature = "dns")]
    pub(crate) fn discovered(
        &self,
        opening: &Opening,
        mut backend: file::Backend,
    ) -> Result<Upstream, ConfigError> {
        if opening.upstream_settings.has_server_name() {
            backend.server_name = None;
        }
        let upstream = self.open(opening, &backend)?;
        let is_in_pool = |id: &str| self.backends.get(id).is_some();
        self.discovered.insert(backend.id, backend.url, is_in_pool);
        Ok(upstream)
    }

    /// Looks up the names of all backends.
    pub(crate) fn look_up(&self) {
        self.upstreams().into_iter().for_each(look_up);
    }

    /// The services of all backends.
    pub(crate) fn upstreams(&self) -> Vec<Upstream> {
        self.members().values().map(|member| member.upstream.clone()).collect()
    }

    fn join(
        &self,
        members: &mut BTreeMap<String, Member>,
        backend: &file::Backend,
    ) -> Result<(), PoolError> {
        let upstream = self.upstream(backend)?;
        self.backends.update(|change| insert(change, backend, upstream.clone()))?;
        look_up(upstream.clone());
        members.insert(backend.id.clone(), Member::new(backend.clone(), upstream));
        Ok(())
    }

    /// The service of a backend, as all are reached now.
    pub(crate) fn upstream(&self, backend: &file::Backend) -> Result<Upstream, ConfigError> {
        self.open(&self.opening(), backend)
    }

    /// The service of a backend.
    pub(crate) fn open(
        &self,
        opening: &Opening,
        backend: &file::Backend,
    ) -> Result<Upstream, ConfigError> {
        let settings = &opening.upstream_settings;
        let resolve_every = backend.resolve_every.map(|Time(interval)| interval);
        let upstream = settings
            .open(backend)?
            .resolve_every(resolve_every.unwrap_or(settings.resolve_every))
            .on_address_change(self.backends.address_listener(&backend.id))
            .connect_timeout(opening.connect_timeout)
            .response_timeout(opening.response_timeout)
            .body_timeout(opening.body_timeout)
            .expect_wait(opening.expect_wait)
            .tcp_user_timeout(opening.tcp_user_timeout)
            .buffer_bytes(opening.buffer_bytes)
            // Without retries no request is sent twice to the same backend either.
            .replay_idempotent(opening.retry);
        let upstream = settings.apply(upstream)?;
        #[cfg(feature = "dns")]
        if !settings.nameservers.is_empty() {
            return upstream.name_servers(settings.nameservers.iter().copied());
        }
        Ok(upstream)
    }

    fn opening(&self) -> Arc<Opening> {
        lock(&self.opening).clone()
    }

    pub(crate) fn set_opening(&self, opening: Arc<Opening>) {
        *lock(&self.opening) = opening;
    }

    /// The drains that the operator has begun, with their deadlines.
    pub(crate) fn drains(&self) -> MutexGuard<'_, BTreeMap<String, SavedMode>> {
        lock(&self.drains)
    }

    /// The backends of the file that is in force. To be locked after the members.
    pub(crate) fn listed(&self) -> MutexGuard<'_, BTreeMap<String, file::Backend>> {
        lock(&self.listed)
    }

    pub(crate) fn members(&self) -> MutexGuard<'_, BTreeMap<String, Member>> {
        lock(&self.members)
    }
}

impl Member {
    pub(crate) fn new(entry: file::Backend, upstream: Upstream) -> Self {
        Self { entry, upstream, leaving: None }
    }
}

/// Adds a backend whose service has been made.
pub(crate) fn insert(
    change: &mut PoolUpdate<Upstream>,
    backend: &file::Backend,
    upstream: Upstream,
) {
    let (weight, limit) = (backend.weight, backend.max_connections);
    let mut options = BackendOptions::new().weight(weight).limit(limit).backup(backend.backup);
    if let Some(Zone(zone)) = &backend.zone {
        options = options.zone(zone);
    }
    change.insert_with(&backend.id, upstream, options);
    if let Some(mode) = backend.mode {
        change.set_mode(&backend.id, mode.into());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Looks up a backend's name early, so that the log shows a failure. Does nothing outside a runtime.
pub(crate) fn look_up(upstream: Upstream) {
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn(async move {
            let _ = upstream.look_up().await;
        }));
    }
}
