//! The backends with their URLs: the pool knows services, and not where they are.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tower_sticky::{
    BackendOptions, BackendStatus, Backends, ConfigError, PoolError, Stats, proxy::Upstream,
};

use crate::config::{
    Settings,
    file::{self, Zone},
};

#[derive(Debug)]
pub(crate) struct Fleet {
    backends: Backends<Upstream>,
    /// Held during every change, so that it and the pool agree.
    urls: Mutex<BTreeMap<String, String>>,
    connect_timeout: Duration,
    response_timeout: Duration,
    body_timeout: Duration,
    retry: bool,
}

impl Fleet {
    pub(crate) fn new(settings: &Settings) -> Result<Self, PoolError> {
        let fleet = Self {
            backends: Backends::named(&settings.pool),
            urls: Mutex::default(),
            connect_timeout: settings.limits.connect_timeout,
            response_timeout: settings.limits.response_timeout,
            body_timeout: settings.limits.body_timeout,
            retry: settings.retry,
        };
        fleet.backends.set_own_zone(settings.zone.as_ref().map(|Zone(zone)| zone.as_str()));
        for backend in &settings.backends {
            fleet.add(backend)?;
        }
        Ok(fleet)
    }

    pub(crate) fn backends(&self) -> &Backends<Upstream> {
        &self.backends
    }

    /// Adds a backend; an error when its id is taken.
    pub(crate) fn add(&self, backend: &file::Backend) -> Result<(), PoolError> {
        let mut urls = self.urls();
        self.insert(&mut urls, backend)
    }

    /// Adds a backend, or gives the one that is there another URL, weight, limit and place.
    /// Its mode stays. Tells whether it is new.
    pub(crate) fn put(&self, backend: &file::Backend) -> Result<bool, PoolError> {
        let mut urls = self.urls();
        let id = &backend.id;
        let Some(url) = urls.get(id) else {
            self.insert(&mut urls, backend)?;
            return Ok(true);
        };
        if *url != backend.url {
            let upstream = self.upstream(&backend.url)?;
            drop(self.backends.replace(id, upstream)?);
            urls.insert(id.clone(), backend.url.clone());
        }
        self.backends.set_weight(id, backend.weight)?;
        self.backends.set_limit(id, backend.max_connections)?;
        self.backends.set_backup(id, backend.backup)?;
        self.backends.set_zone(id, backend.zone.as_ref().map(|Zone(zone)| zone.as_str()))?;
        Ok(false)
    }

    pub(crate) fn remove(&self, id: &str) -> Result<(), PoolError> {
        let mut urls = self.urls();
        drop(self.backends.remove(id)?);
        urls.remove(id);
        Ok(())
    }

    /// All backends, each with its URL, and what became of all requests.
    pub(crate) fn status(&self) -> (Vec<(BackendStatus, String)>, Stats) {
        let urls = self.urls();
        let pool = self.backends.snapshot();
        let backends = pool.backends.into_iter().map(|status| {
            let url = urls.get(status.id.as_str()).cloned().unwrap_or_default();
            (status, url)
        });
        (backends.collect(), pool.stats)
    }

    /// The services alone.
    pub(crate) fn upstreams(&self) -> Result<Vec<Upstream>, ConfigError> {
        let urls = self.urls();
        urls.values().map(|url| self.upstream(url)).collect()
    }

    fn insert(
        &self,
        urls: &mut BTreeMap<String, String>,
        backend: &file::Backend,
    ) -> Result<(), PoolError> {
        let (id, upstream) = (&backend.id, self.upstream(&backend.url)?);
        let (weight, limit) = (backend.weight, backend.max_connections);
        let mut options = BackendOptions::new().weight(weight).limit(limit).backup(backend.backup);
        if let Some(Zone(zone)) = &backend.zone {
            options = options.zone(zone);
        }
        self.backends.insert_with(id, upstream, options)?;
        urls.insert(id.clone(), backend.url.clone());
        Ok(())
    }

    fn upstream(&self, url: &str) -> Result<Upstream, ConfigError> {
        Ok(Upstream::new(url)?
            .connect_timeout(self.connect_timeout)
            .response_timeout(self.response_timeout)
            .body_timeout(self.body_timeout)
            // Who wants no request to be sent twice wants it on the same backend neither.
            .replay_idempotent(self.retry))
    }

    fn urls(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.urls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
