//! Reads the file again while the gateway serves, and changes what the file has changed.

use std::{fs, sync::Arc, time::Duration};

use http::Request;
use serde::Serialize;
use tokio::sync::{Mutex, watch};
use tower_sticky::{
    Explanation, NoInner, PoolError, StickyService, admin::Access, proxy::Upstream,
    serve::RequestBody,
};

use crate::{
    admin,
    cli::Flags,
    config::{Error, FILE_CONTENT, Settings, Stopping, Stores},
    files,
    fleet::Fleet,
    front::Front,
    layer,
    state::State,
    swap::Swap,
};

/// How often the file is looked at with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What cannot change while the gateway runs: keys, and the sections that begin with them.
const FIXED: [&str; 4] = ["pool", "admin", "discover[", "zone"];

/// What the server for clients is made with, beside its limits.
const SERVER: [&str; 4] = ["listen", "listener[", "trusted_proxies", "server_timing"];

/// Limits of the server for clients.
const SERVER_LIMITS: [&str; 17] = [
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
];

/// What each backend's service is made with.
const SHARED_BY_BACKENDS: [&str; 9] = [
    "upstream.",
    "limits.body_timeout",
    "limits.expect_wait",
    "limits.tcp_user_timeout",
    "limits.buffer_bytes",
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
    front: Arc<Front>,
    stopping: watch::Sender<Stopping>,
}

/// What a reload changes.
pub(crate) struct Parts {
    pub(crate) stores: Stores,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) service: Swap<StickyService<Upstream, NoInner>>,
    pub(crate) access: Access,
    pub(crate) front: Arc<Front>,
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
    pub(crate) fn new(flags: Flags, settings: Settings, parts: Parts) -> Self {
        let Parts { stores, fleet, service, access, front } = parts;
        let stopping = watch::Sender::new(settings.stopping);
        let in_force = Mutex::new(InForce { settings, version: 1 });
        Self { flags, stores, fleet, service, access, in_force, front, stopping }
    }

    /// How the gateway stops.
    pub(crate) fn stopping(&self) -> Stopping {
        *self.stopping.borrow()
    }

    /// Accepts again, after another process was to take over and has failed.
    pub(crate) async fn resume(&self) {
        let in_force = self.in_force.lock().await;
        if let Err(error) = self.front.accept(&in_force.settings).await {
            tracing::error!(%error, "cannot accept again");
        }
    }

    /// The configuration in force, without secrets.
    pub(crate) fn configuration(&self) -> Vec<(String, String)> {
        match self.in_force.try_lock() {
            Ok(in_force) => in_force.settings.shown(),
            Err(_) => vec![("reload".to_owned(), "going on; load this page again".to_owned())],
        }
    }

    /// Explains a request by the layer in force.
    pub(crate) async fn explain(&self, request: Request<()>) -> Explanation {
        self.service.get().explain(&request).await
    }

    /// The state for the process that replaces this one.
    pub(crate) async fn state(&self, with_secrets: bool) -> Vec<u8> {
        let in_force = self.in_force.lock().await;
        State::save(&in_force.settings, &self.fleet, &self.stores, with_secrets)
    }

    /// Reads the file and changes what it has changed. With an error nothing has changed.
    pub(crate) async fn reload(&self) -> Result<Reloaded, Error> {
        let mut in_force = self.in_force.lock().await;
        let result = self.change(&mut in_force).await;
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

    async fn change(&self, in_force: &mut InForce) -> Result<Reloaded, Error> {
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
        if changed.iter().any(|key| is_of_server(key)) {
            files::raise_limit(settings.limits.connections);
            self.front.accept(&settings).await?;
        }
        // From here on everything succeeds.
        self.fleet.apply(change).map_err(refused)?;
        if changed.iter().any(|key| key.starts_with("health.")) {
            layer.start_over::<Request<RequestBody>>();
        }
        self.service.set(layer.into_service());
        if let Some(settings) = &settings.admin {
            admin::set_access(&self.access, settings);
        }
        self.stopping.send_replace(settings.stopping);
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
    is_one_of(key, &FIXED)
}

/// Whether the server for clients is started anew.
fn is_of_server(key: &str) -> bool {
    let limit = key.strip_prefix("limits.");
    is_one_of(key, &SERVER) || limit.is_some_and(|limit| SERVER_LIMITS.contains(&limit))
}

fn is_one_of(key: &str, keys: &[&str]) -> bool {
    keys.iter().any(|it| key == *it || (it.ends_with('[') && key.starts_with(it)))
}

fn is_shared_by_backends(key: &str) -> bool {
    SHARED_BY_BACKENDS.iter().any(|shared| key.starts_with(shared) || key.ends_with(shared))
}
