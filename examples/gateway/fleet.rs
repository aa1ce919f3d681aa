//! The backends with their URLs, which the pool does not know.

#[cfg(feature = "dns")]
use std::net::SocketAddr;
use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::runtime::Handle;
use tower_sticky::{
    BackendOptions, BackendStatus, Backends, ConfigError, PoolError, Stats, proxy::Upstream,
};

use crate::{
    config::{
        self, Settings, Time,
        file::{self, Zone},
    },
    discovered::DiscoveredUrls,
};

#[derive(Debug)]
pub(crate) struct Fleet {
    backends: Backends<Upstream>,
    /// Locked during every change, so that the URLs and the pool agree.
    members: Mutex<BTreeMap<String, Member>>,
    discovered: DiscoveredUrls,
    connect_timeout: Duration,
    response_timeout: Duration,
    body_timeout: Duration,
    expect_wait: Duration,
    tcp_user_timeout: Duration,
    buffer_bytes: usize,
    upstream_settings: config::Upstream,
    retry: bool,
}

/// A backend with its URL.
#[derive(Debug)]
struct Member {
    entry: file::Backend,
    upstream: Upstream,
}

/// What the configuration says of a backend.
#[derive(Debug, Default)]
pub(crate) struct Entry {
    pub(crate) url: String,
    /// Whether its certificate is not verified.
    pub(crate) insecure: bool,
}

impl Fleet {
    pub(crate) fn new(settings: &Settings) -> Result<Self, PoolError> {
        let fleet = Self {
            backends: Backends::named(&settings.pool),
            members: Mutex::default(),
            discovered: DiscoveredUrls::default(),
            connect_timeout: settings.limits.connect_timeout,
            response_timeout: settings.limits.response_timeout,
            body_timeout: settings.limits.body_timeout,
            expect_wait: settings.limits.expect_wait,
            tcp_user_timeout: settings.limits.tcp_user_timeout,
            buffer_bytes: settings.limits.buffer_bytes as usize,
            upstream_settings: settings.upstream.clone(),
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
        let mut members = self.members();
        self.insert(&mut members, backend)
    }

    /// Adds a backend, or changes the URL, weight, limit, tier and zone of an existing one, whose mode
    /// stays. Returns whether it is new.
    pub(crate) fn put(&self, backend: &file::Backend) -> Result<bool, PoolError> {
        let mut members = self.members();
        let id = &backend.id;
        let Some(member) = members.get_mut(id) else {
            self.insert(&mut members, backend)?;
            return Ok(true);
        };
        if member.entry.url != backend.url {
            // What the file says of its connections stays.
            let entry = file::Backend { url: backend.url.clone(), ..member.entry.clone() };
            let upstream = self.upstream(&entry)?;
            drop(self.backends.replace(id, upstream.clone())?);
            *member = Member { entry, upstream };
            look_up(member.upstream.clone());
        }
        self.backends.set_weight(id, backend.weight)?;
        self.backends.set_limit(id, backend.max_connections)?;
        self.backends.set_backup(id, backend.backup)?;
        self.backends.set_zone(id, backend.zone.as_ref().map(|Zone(zone)| zone.as_str()))?;
        Ok(false)
    }

    pub(crate) fn remove(&self, id: &str) -> Result<(), PoolError> {
        let mut members = self.members();
        drop(self.backends.remove(id)?);
        members.remove(id);
        Ok(())
    }

    /// All backends with what the configuration says of them, and the totals of all requests.
    pub(crate) fn status(&self) -> (Vec<(BackendStatus, Entry)>, Stats) {
        let members = self.members();
        let pool = self.backends.snapshot();
        let backends = pool.backends.into_iter().map(|status| {
            let id = status.id.as_str();
            let entry = match members.get(id) {
                Some(Member { entry, .. }) => Entry {
                    url: entry.url.clone(),
                    insecure: self.upstream_settings.is_insecure(entry),
                },
                None => Entry { url: self.discovered.get(id).unwrap_or_default(), insecure: false },
            };
            (status, entry)
        });
        (backends.collect(), pool.stats)
    }

    /// The service of a backend that a discovery has found at this address.
    #[cfg(feature = "dns")]
    pub(crate) fn discovered(&self, id: &str, at: SocketAddr) -> Result<Upstream, ConfigError> {
        let backend = file::Backend::new(id, format!("http://{at}"));
        let upstream = self.upstream(&backend)?;
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

    fn insert(
        &self,
        members: &mut BTreeMap<String, Member>,
        backend: &file::Backend,
    ) -> Result<(), PoolError> {
        let (id, upstream) = (&backend.id, self.upstream(backend)?);
        let (weight, limit) = (backend.weight, backend.max_connections);
        let mut options = BackendOptions::new().weight(weight).limit(limit).backup(backend.backup);
        if let Some(Zone(zone)) = &backend.zone {
            options = options.zone(zone);
        }
        self.backends.insert_with(id, upstream.clone(), options)?;
        look_up(upstream.clone());
        members.insert(id.clone(), Member { entry: backend.clone(), upstream });
        Ok(())
    }

    fn upstream(&self, backend: &file::Backend) -> Result<Upstream, ConfigError> {
        let resolve_every = backend.resolve_every.map(|Time(interval)| interval);
        let upstream = self.upstream_settings.open(backend)?
            .resolve_every(resolve_every.unwrap_or(self.upstream_settings.resolve_every))
            .on_address_change(self.backends.address_listener(&backend.id))
            .connect_timeout(self.connect_timeout)
            .response_timeout(self.response_timeout)
            .body_timeout(self.body_timeout)
            .expect_wait(self.expect_wait)
            .tcp_user_timeout(self.tcp_user_timeout)
            .buffer_bytes(self.buffer_bytes)
            // Without retries no request is sent twice to the same backend either.
            .replay_idempotent(self.retry);
        let upstream = self.upstream_settings.apply(upstream)?;
        #[cfg(feature = "dns")]
        if !self.upstream_settings.nameservers.is_empty() {
            return upstream.name_servers(self.upstream_settings.nameservers.iter().copied());
        }
        Ok(upstream)
    }

    fn members(&self) -> MutexGuard<'_, BTreeMap<String, Member>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Looks up a backend's name early, so that the log shows a failure. Does nothing outside a runtime.
fn look_up(upstream: Upstream) {
    if let Ok(runtime) = Handle::try_current() {
        drop(runtime.spawn(async move {
            let _ = upstream.look_up().await;
        }));
    }
}
