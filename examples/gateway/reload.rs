//! Reads the file again while the gateway serves, and changes what the file has changed.

use std::{fs, sync::Arc, time::Duration};

use http::Request;
use serde::Serialize;
use tokio::sync::{Mutex, watch};
use tower_sticky::{NoInner, PoolError, StickyService, proxy::Upstream, serve::RequestBody};

use crate::{
    admin::Access,
    cli::Flags,
    config::{Error, FILE_CONTENT, Settings, Stores},
    fleet::Fleet,
    layer,
    swap::Swap,
};

/// How often the file is looked at with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What cannot change while the gateway runs: keys, and the sections that begin with them.
const FIXED: [&str; 10] = [
    "pool",
    "admin",
    "listen",
    "listener[",
    "trusted_proxies",
    "server_timing",
    "discover[",
    "zone",
    "workers",
    "demo",
];

/// Limits of the server for clients, which has them from its start on.
const SERVER_LIMITS: [&str; 19] = [
    "connections",
    "idle_timeout",
    "header_timeout",
    "header_bytes",
    "headers",
    "target_bytes",
    "body_bytes",
    "h2_streams",
    "h2_window",
    "h2_ping",
    "h2_ping_timeout",
    "buffer_bytes",
    "write_timeout",
    "tcp_user_timeout",
    "linger",
    "linger_bytes",
    "handshakes",
    "expect_wait",
    "body_timeout",
];

/// What each backend's service is made with.
const SHARED_BY_BACKENDS: [&str; 5] = [
    "upstream.",
    "limits.connect_timeout",
    "limits.response_timeout",
    "failover.retry",
    FILE_CONTENT,
];

/// Changes the configuration of a gateway that serves.
pub(crate) struct Reloader {
    flags: Flags,
    stores: Stores,
    fleet: Arc<Fleet>,
    service: Swap<StickyService<Upstream, NoInner>>,
    access: Access,
    /// Locked during a reload: there is one at a time.
    in_force: Mutex<InForce>,
    shutdown_timeout: watch::Sender<Duration>,
}

/// The configuration that is in force.
struct InForce {
    settings: Settings,
    version: u64,
}

/// What a reload has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Reloaded {
    /// Grows with each change.
    version: u64,
    /// The keys of the file whose values have changed.
    changed: Vec<String>,
}

impl Reloader {
    pub(crate) fn new(
        flags: Flags,
        stores: Stores,
        fleet: Arc<Fleet>,
        settings: Settings,
        service: Swap<StickyService<Upstream, NoInner>>,
        access: Access,
    ) -> Self {
        let shutdown_timeout = watch::Sender::new(settings.shutdown_timeout);
        let in_force = Mutex::new(InForce { settings, version: 1 });
        Self { flags, stores, fleet, service, access, in_force, shutdown_timeout }
    }

    /// How long connections may take to finish when the gateway stops.
    pub(crate) fn shutdown_timeout(&self) -> Duration {
        *self.shutdown_timeout.borrow()
    }

    /// Reads the file and changes what it has changed. With an error nothing has changed.
    pub(crate) async fn reload(&self) -> Result<Reloaded, Error> {
        let mut in_force = self.in_force.lock().await;
        let result = self.change(&mut in_force);
        match &result {
            Ok(Reloaded { version, changed }) => {
                tracing::info!(version, ?changed, "the configuration was read again");
            }
            Err(error) => {
                tracing::error!(%error, "the configuration was not changed");
            }
        }
        result
    }

    fn change(&self, in_force: &mut InForce) -> Result<Reloaded, Error> {
        if self.flags.config.is_none() {
            return Err(Error::new(
                "there is no file to read again: the gateway was started without --config",
            ));
        }
        let settings = Settings::load(self.flags.clone(), &self.stores)?;
        let changed = in_force.settings.document.changes(&settings.document);
        let changed: Vec<_> = changed.into_iter().collect();
        if let Some(fixed) = changed.iter().find(|key| is_fixed(key)) {
            return Err(Error::new(format!(
                "{fixed} cannot change while the gateway runs; restart it, or undo this change"
            )));
        }
        if changed.is_empty() {
            return Ok(Reloaded { version: in_force.version, changed });
        }
        let refused = |error: PoolError| Error::new(error.to_string());
        let layer = layer::build(&settings, self.fleet.backends())?;
        let all = changed.iter().any(|key| is_shared_by_backends(key));
        let change = self.fleet.plan(&settings, all).map_err(refused)?;
        // From here on everything succeeds.
        self.fleet.apply(change).map_err(refused)?;
        if changed.iter().any(|key| key.starts_with("health.")) {
            layer.start_over::<Request<RequestBody>>();
        }
        self.service.set(layer.into_service());
        if let Some(admin) = &settings.admin {
            self.access.set(admin);
        }
        self.shutdown_timeout.send_replace(settings.shutdown_timeout);
        in_force.version += 1;
        in_force.settings = settings;
        Ok(Reloaded { version: in_force.version, changed })
    }

    /// Reloads whenever the file has another content. It is looked at once a second, as links to it may be changed,
    /// too.
    pub(crate) async fn watch(self: Arc<Self>) {
        let Some(path) = &self.flags.config else { return };
        // It may have changed since it was read at the start.
        let mut before = None;
        loop {
            tokio::time::sleep(WATCH_INTERVAL).await;
            // A file that cannot be read is being replaced.
            let Ok(now) = fs::read(path) else { continue };
            if before.as_ref() != Some(&now) {
                before = Some(now);
                let _ = self.reload().await;
            }
        }
    }
}

fn is_fixed(key: &str) -> bool {
    let is_server_limit =
        key.strip_prefix("limits.").is_some_and(|limit| SERVER_LIMITS.contains(&limit));
    is_server_limit
        || FIXED
            .iter()
            .any(|fixed| key == *fixed || (fixed.ends_with('[') && key.starts_with(fixed)))
}

fn is_shared_by_backends(key: &str) -> bool {
    SHARED_BY_BACKENDS.iter().any(|shared| key.starts_with(shared) || key.ends_with(shared))
}
