//! Follows the names of `[[discover]]`.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::Duration,
};

use tokio::time::timeout;
use tower_sticky::{
    BackendId, Backends, ConfigError,
    discovery::{Discovery, DiscoveryHandle, Dns, OnRemoved},
    proxy::Upstream,
};

use crate::{
    config::{Discover, Error, Settings, file::Backend},
    fleet::{Fleet, Opening},
};

/// The pause after a look-up is at least this, unless `upstream.resolve_every` is shorter.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// How long the start of the gateway, and a reload, wait for the first backends.
const FIRST_LOOK_UP: Duration = Duration::from_secs(5);

/// Checks that the names can be followed.
pub(crate) fn check(settings: &Settings) -> Result<(), Error> {
    for (position, discover) in settings.discover.iter().enumerate() {
        let key = format!("discover[{position}].dns");
        let make = |_: &BackendId, _| Upstream::new("http://127.0.0.1");
        let discovery = Backends::new().follow_dns(dns(discover, settings), make);
        drop(discovery.map_err(|error| Error::of(&key, error))?);
    }
    Ok(())
}

/// The sources that are followed.
#[derive(Debug, Default)]
pub(crate) struct Sources(Mutex<Vec<Source>>);

#[derive(Debug, Clone)]
struct Source {
    discover: Discover,
    handle: DiscoveryHandle,
}

/// A change of the sources that is checked and can be made.
#[derive(Debug)]
pub(crate) struct Change {
    new: Vec<(Discover, Discovery)>,
    kept: Vec<Source>,
    gone: Vec<Source>,
    shutdown_timeout: Duration,
}

impl Sources {
    /// Prepares the change to the sources of `settings`. With `all` each is followed anew, because the services of
    /// its backends are made in another way.
    pub(crate) fn plan(
        &self,
        fleet: &Arc<Fleet>,
        settings: &Settings,
        all: bool,
    ) -> Result<Change, Error> {
        let is_listed = |source: &Source| !all && settings.discover.contains(&source.discover);
        let (kept, gone): (Vec<_>, Vec<_>) = self.lock().iter().cloned().partition(is_listed);
        let opening = Arc::new(Opening::new(settings));
        let mut new = Vec::new();
        for (position, discover) in settings.discover.iter().enumerate() {
            if !kept.iter().any(|source| source.discover == *discover) {
                let discovery = follow(fleet, &opening, discover.clone(), dns(discover, settings));
                let key = format!("discover[{position}].dns");
                new.push((discover.clone(), discovery.map_err(|error| Error::of(&key, error))?));
            }
        }
        Ok(Change { new, kept, gone, shutdown_timeout: settings.stopping.shutdown_timeout })
    }

    /// Follows the new sources, which take over those backends of the former ones that they find too, and waits until
    /// each has been looked up once. The backends that are listed no longer stay until [`Begun::finish`].
    pub(crate) async fn begin(&self, change: Change) -> Begun {
        let Change { new, kept, gone, shutdown_timeout } = change;
        // Its sessions stay on a backend that is no longer listed as long as it serves them.
        let on_removed = OnRemoved::Drain(shutdown_timeout);
        gone.iter().for_each(|source| source.handle.release());
        let mut sources = kept;
        let mut handles = Vec::new();
        for (discover, discovery) in new {
            handles.push(discovery.handle());
            sources.push(Source { discover, handle: discovery.handle() });
            drop(tokio::spawn(discovery));
        }
        for source in sources.iter().chain(&gone) {
            source.handle.set_on_removed(on_removed);
        }
        *self.lock() = sources;
        let all = async {
            for handle in &handles {
                handle.wait_until(|stats| stats.updates + stats.failures > 0).await;
            }
        };
        if timeout(FIRST_LOOK_UP, all).await.is_err() {
            tracing::warn!(
                "the backends of [[discover]] are not known yet; the gateway goes on without"
            );
        }
        Begun { new: handles, gone }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Source>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change of the sources whose former ones still have their backends.
#[derive(Debug)]
#[must_use = "the backends of former sources stay until it is finished"]
pub(crate) struct Begun {
    new: Vec<DiscoveryHandle>,
    gone: Vec<Source>,
}

impl Begun {
    /// The backends of former sources leave. If a new source could not be looked up yet, they stay until it was, as
    /// it may have the same backends.
    pub(crate) fn finish(self) {
        if self.gone.is_empty() {
            return;
        }
        let Self { new, gone } = self;
        drop(tokio::spawn(async move {
            for handle in &new {
                handle.wait_until(|stats| stats.updates > 0).await;
            }
            gone.iter().for_each(|source| source.handle.withdraw());
        }));
    }
}

fn follow(
    fleet: &Arc<Fleet>,
    opening: &Arc<Opening>,
    discover: Discover,
    dns: Dns,
) -> Result<Discovery, ConfigError> {
    // The discovery ends with the pool, which the fleet holds.
    let (weak, opening): (Weak<Fleet>, _) = (Arc::downgrade(fleet), opening.clone());
    fleet.backends().follow_dns(dns, move |id, address| match weak.upgrade() {
        Some(fleet) => fleet.discovered(&opening, entry(&discover, id, address)),
        None => Err(ConfigError::new("the gateway has stopped")),
    })
}

/// The backend at this address. Over TLS its certificate must have the name that was looked up, or that of the
/// target of an SRV record; without a target it must have the address.
fn entry(discover: &Discover, id: &BackendId, address: SocketAddr) -> Backend {
    let scheme = if discover.tls { "https" } else { "http" };
    let mut backend = Backend::new(id.as_str(), format!("{scheme}://{address}"));
    let name = match discover.port {
        Some(_) => Some(discover.name.as_str()),
        None if discover.address_ids => None,
        None => id.as_str().rsplit_once(':').map(|(target, _)| target),
    };
    let name = name.filter(|_| discover.tls);
    backend.server_name = name.map(|name| name.trim_end_matches('.').to_owned());
    backend
}

fn dns(discover: &Discover, settings: &Settings) -> Dns {
    let upstream = &settings.upstream;
    let longest = upstream.resolve_every;
    let dns = match discover.port {
        Some(port) => Dns::host(&discover.name, port),
        None => Dns::srv(&discover.name).address_ids(discover.address_ids),
    };
    let dns = dns.refresh(longest.min(MIN_REFRESH), longest);
    match upstream.nameservers.is_empty() {
        true => dns,
        false => dns.name_servers(upstream.nameservers.iter().copied()),
    }
}
