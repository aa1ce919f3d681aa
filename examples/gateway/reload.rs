//! Reads the file again while the gateway serves, and changes what the file has changed.

use std::{fs, sync::Arc, time::Duration};

use http::Request;
use serde::Serialize;
use tokio::sync::{Mutex, watch};
use tower_sticky::{
    Explanation, PoolError, StickyLayer, admin::Access, metrics::Report, proxy::Upstream,
    serve::RequestBody,
};

#[cfg(feature = "dns")]
use crate::discovery::Sources;
use crate::{
    access_log::{self, LogFiles},
    admin,
    cli::Flags,
    config::{Error, FILE_CONTENT, Settings, Stopping, Stores},
    files,
    fleet::Fleet,
    front::Front,
    history::History,
    layer,
    sockets::Overlap,
    stack::Stack,
    state::State,
    swap::Swap,
};

/// How often the file is looked at with `--watch`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// What cannot change while the gateway runs: keys, and the sections that begin with them.
const FIXED: [&str; 2] = ["pool", "admin"];

/// What the server for clients is made with, beside its limits.
const SERVER: [&str; 4] = ["listen", "listener[", "trusted_proxies", "server_timing"];

/// Limits of the server for clients. That of its connections changes while it runs.
const SERVER_LIMITS: [&str; 16] = [
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

/// What the file of the access log is opened with.
const ACCESS_LOG: &str = "access_log.";

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
    parts: Parts,
    /// Locked during a reload: there is one at a time.
    in_force: Mutex<InForce>,
    stopping: watch::Sender<Stopping>,
    history: History,
}

/// What a reload changes.
pub(crate) struct Parts {
    pub(crate) stores: Stores,
    pub(crate) fleet: Arc<Fleet>,
    pub(crate) service: Swap<Stack>,
    /// That of the service.
    pub(crate) layer: Swap<StickyLayer<Upstream>>,
    pub(crate) access: Access,
    pub(crate) log_files: Arc<LogFiles>,
    pub(crate) front: Arc<Front>,
    #[cfg(feature = "dns")]
    pub(crate) sources: Sources,
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
        let stopping = watch::Sender::new(settings.stopping);
        let history = History::new();
        let in_force = Mutex::new(InForce { settings, version: 1 });
        Self { flags, parts, in_force, stopping, history }
    }

    /// How the gateway stops.
    pub(crate) fn stopping(&self) -> Stopping {
        *self.stopping.borrow()
    }

    /// The files that are written while requests are served.
    pub(crate) fn log_files(&self) -> &LogFiles {
        &self.parts.log_files
    }

    /// Adds the metrics of reloads and of the access log.
    pub(crate) fn report(&self, report: Report) -> Report {
        let [reloads, last] = self.history.metrics();
        let report = report.connections(self.parts.fleet.backends());
        self.parts
            .stores
            .report(report)
            .own(reloads)
            .own(last)
            .own(self.parts.log_files.metric())
            .own(self.parts.front.tasks())
    }

    /// Accepts again, after another process was to take over and has failed.
    pub(crate) async fn resume(&self) {
        let in_force = self.in_force.lock().await;
        if let Err(error) = self.parts.front.accept(&in_force.settings, None).await {
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
        self.parts.layer.get().explain(&request).await
    }

    /// The state for the process that replaces this one.
    pub(crate) async fn state(&self, with_secrets: bool) -> Vec<u8> {
        let in_force = self.in_force.lock().await;
        State::save(&in_force.settings, &self.parts.fleet, &self.parts.stores, with_secrets)
    }

    /// Reads the file and changes what it has changed. With an error nothing has changed.
    pub(crate) async fn reload(&self) -> Result<Reloaded, Error> {
        let mut in_force = self.in_force.lock().await;
        let result = self.change(&mut in_force).await;
        self.history.record(result.is_ok());
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
        let settings = Settings::load(self.flags.clone(), &self.parts.stores)?;
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
        let notes = self.replace(&in_force.settings, &settings, &changed).await?;
        self.stopping.send_replace(settings.stopping);
        in_force.version += 1;
        in_force.settings = settings;
        let changed = changed.into_iter().chain(notes).collect();
        Ok(Reloaded { version: in_force.version, changed })
    }

    /// Puts other settings in force. Returns what is to be said of it beside the keys that have changed. With an error
    /// nothing has changed.
    async fn replace(
        &self,
        former: &Settings,
        settings: &Settings,
        changed: &[String],
    ) -> Result<Vec<String>, Error> {
        let Parts { fleet, front, .. } = &self.parts;
        let refused = |error: PoolError| Error::new(error.to_string());
        let layer = layer::build(settings, fleet.backends())?;
        let all = changed.iter().any(|key| is_shared_by_backends(key));
        let change = fleet.plan(settings, all).map_err(refused)?;
        #[cfg(feature = "dns")]
        let sources = self.parts.sources.plan(fleet, settings, all)?;
        let log_file = match changed.iter().any(|key| key.starts_with(ACCESS_LOG)) {
            true => access_log::open(settings)?,
            false => self.parts.log_files.file(),
        };
        let mut closed = Vec::new();
        let is_of_server = changed.iter().any(|key| is_of_server(key));
        if is_of_server {
            closed = front.accept(settings, Some(former)).await?.closed;
        }
        let gone = match fleet.apply(change) {
            Ok(gone) => gone,
            Err(error) => {
                // A discovery has just found a backend with an id of the file.
                if is_of_server {
                    front.accept(former, Some(settings)).await?;
                }
                return Err(refused(error));
            }
        };
        // From here on everything succeeds.
        if changed.iter().any(|key| key == "limits.connections") {
            set_connections(front, settings.limits.connections);
        }
        if changed.iter().any(|key| key.starts_with("health.")) {
            layer.start_over::<Request<RequestBody>>();
        }
        let access_log = self.parts.log_files.set(settings, log_file);
        self.parts.layer.set(layer.clone());
        self.parts.service.set(Stack::new(layer.into_service(), access_log));
        if let Some(settings) = &settings.admin {
            admin::set_access(&self.parts.access, settings);
        }
        // Former backends take new sessions until those that replace them are known.
        #[cfg(feature = "dns")]
        self.parts.sources.begin(sources).await.finish();
        fleet.let_go(gone, settings.stopping.shutdown_timeout);
        Ok(closed.iter().map(Overlap::describe).collect())
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

fn set_connections(front: &Front, connections: u32) {
    if let Some(problem) = files::raise_limit(connections) {
        tracing::warn!("{problem}");
    }
    front.set_limit(connections);
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
