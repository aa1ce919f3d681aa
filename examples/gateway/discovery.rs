//! Follows the names of `[[discover]]`.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::time::timeout;
use tower_sticky::{
    BackendId, Backends, ConfigError,
    discovery::{Discovery, Dns, OnRemoved},
    proxy::Upstream,
};

use crate::{
    config::{Discover, Error, Settings, file::Backend},
    fleet::Fleet,
};

/// The pause after a look-up is at least this, unless `upstream.resolve_every` is shorter.
const MIN_REFRESH: Duration = Duration::from_secs(1);
/// How long the start of the gateway waits for the first backends.
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

/// Starts to follow the names, and waits until each has been looked up once.
pub(crate) async fn start(fleet: &Arc<Fleet>, settings: &Settings) -> Result<(), ConfigError> {
    let mut handles = Vec::new();
    for discover in &settings.discover {
        let discovery = follow(fleet, discover.clone(), dns(discover, settings))?;
        // Its sessions stay on a backend that is no longer listed as long as it serves them.
        let discovery = discovery.on_removed(OnRemoved::Drain(settings.stopping.shutdown_timeout));
        handles.push(discovery.handle());
        tokio::spawn(discovery);
    }
    let all = async {
        for handle in handles {
            handle.wait_until(|stats| stats.updates + stats.failures > 0).await;
        }
    };
    if timeout(FIRST_LOOK_UP, all).await.is_err() {
        tracing::warn!(
            "the backends of [[discover]] are not known yet; the gateway starts without"
        );
    }
    Ok(())
}

fn follow(fleet: &Arc<Fleet>, discover: Discover, dns: Dns) -> Result<Discovery, ConfigError> {
    // The discovery ends with the pool, which the fleet holds.
    let weak: Weak<Fleet> = Arc::downgrade(fleet);
    fleet.backends().follow_dns(dns, move |id, address| match weak.upgrade() {
        Some(fleet) => fleet.discovered(entry(&discover, id, address)),
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
