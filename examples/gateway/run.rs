//! Starts the gateway from its settings, and stops it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use http::Request;
use tokio::{
    net::TcpListener,
    runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tower_sticky::{
    NoInner, PoolError, StickyLayer, StickyService,
    proxy::Upstream,
    serve::{Limits, Listener, LocalAddr, RequestBody, Server, ServerHandle},
};

#[cfg(feature = "dns")]
use crate::discovery;
use crate::{
    admin::{self, Access, Stage},
    cli::Flags,
    config::{self, Error, ListenerSettings, Settings, Stores},
    demo, files,
    fleet::Fleet,
    forward::ForwardOnly,
    layer, note,
    reload::Reloader,
    say,
    swap::Swap,
};

/// A gateway that can start: its configuration is checked.
pub(crate) struct Gateway {
    flags: Flags,
    stores: Stores,
    settings: Settings,
    fleet: Arc<Fleet>,
    layer: StickyLayer<Upstream>,
}

/// Why the gateway has not served.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration is to be changed, or what it names.
    Configuration(Error),
    Io(io::Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Configuration(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// Builds the gateway out of its flags, and the file that they name.
pub(crate) fn prepare(flags: Flags) -> Result<Gateway, Error> {
    let stores = Stores::default();
    let settings = Settings::load(flags.clone(), &stores)?;
    let fleet = Fleet::new(&settings).map_err(|error: PoolError| Error::new(error.to_string()))?;
    let layer = layer::build(&settings, fleet.backends())?;
    #[cfg(feature = "dns")]
    discovery::check(&settings)?;
    Ok(Gateway { flags, stores, settings, fleet: Arc::new(fleet), layer })
}

impl Gateway {
    /// Configurations that work and are probably mistakes.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.settings.warnings
    }

    /// Serves until a signal comes.
    pub(crate) fn run(self) -> Result<(), Failure> {
        // This thread accepts, checks the backends' health and serves the admin interface. The workers serve
        // clients.
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        let result = runtime.block_on(self.serve());
        // The timeout of open connections has passed.
        runtime.shutdown_background();
        result
    }

    async fn serve(self) -> Result<(), Failure> {
        let Self { flags, stores, settings, fleet, layer } = self;
        let mut signals = Signals::new()?;
        let mut listeners = Vec::new();
        for listener in &settings.listeners {
            listeners.push(listener.open().await?);
        }
        let admin_listener = match &settings.admin {
            Some(admin) => Some(bind_admin(admin).await?),
            None => None,
        };
        if settings.demo {
            demo::open_shops(&fleet, settings.demo_store.as_ref()).await?;
        }
        log_warnings(&settings);
        fleet.look_up();
        #[cfg(feature = "dns")]
        discovery::start(&fleet, &settings).await.map_err(io::Error::other)?;
        let service = Swap::new(layer.clone().into_service());
        let server = start(listeners, &settings, &fleet, &layer, service.clone())?;
        for (listener, addr) in settings.listeners.iter().zip(server.local_addrs()) {
            say(&format!("listening on {}", listener.url(addr)));
        }
        let (stage, stages) = watch::channel(Stage::Serving);
        let access = Access::new(settings.admin.as_ref());
        let (listeners, is_demo) = (settings.listeners.clone(), settings.demo);
        let (admin_limits, demo_store) = (admin_limits(&settings), settings.demo_store.clone());
        let is_watching = flags.watch;
        let reloader =
            Reloader::new(flags, stores, fleet.clone(), settings, service, access.clone());
        let reloader = Arc::new(reloader);
        let mut admin_server = None;
        if let Some(listener) = admin_listener {
            let addr = listener.local_addr()?;
            let listener = Listener::from_tcp(listener)?;
            let admin = admin::Admin::new(fleet.clone(), stages, reloader.clone());
            let router = admin::router(admin, admin::Guard { addr, access });
            let router = Server::new(router).listener(listener).limits(admin_limits);
            admin_server = Some(router.start()?);
            note(&format!("admin interface on http://{addr}"));
            if is_demo && let Some(page) = server.local_addrs().iter().find_map(LocalAddr::tcp) {
                demo::print_hints(page, addr, demo_store.as_ref());
            }
        }
        if is_watching {
            drop(tokio::spawn(reloader.clone().watch()));
        }
        until_stopped(&mut signals, &listeners, &reloader).await;
        stage.send_replace(Stage::Stopping);
        finish(&server, reloader.shutdown_timeout(), &mut signals).await;
        // The admin interface is served until everything else has stopped.
        stage.send_replace(Stage::Over);
        if let Some(admin) = admin_server {
            admin.shutdown(Duration::from_secs(1)).await;
        }
        Ok(())
    }
}

/// Logs what the settings may lead to.
fn log_warnings(settings: &Settings) {
    if let Some(problem) = files::raise_limit(settings.limits.connections) {
        tracing::warn!("{problem}");
    }
    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    if settings.passing_key {
        tracing::warn!(
            "the cookie is sealed under a key made just now: sessions are not remembered beyond \
             this process, and no second gateway knows them; use a file with `keys` for that"
        );
    }
}

/// Starts the server for clients.
fn start(
    listeners: Vec<Listener>,
    settings: &Settings,
    fleet: &Fleet,
    layer: &StickyLayer<Upstream>,
    service: Swap<StickyService<Upstream, NoInner>>,
) -> io::Result<ServerHandle> {
    if settings.forward_only {
        let upstreams = fleet.upstreams();
        if upstreams.is_empty() {
            return Err(io::Error::other("--forward-only needs a backend"));
        }
        return server(ForwardOnly::new(upstreams), listeners, settings).start();
    }
    // On this runtime, so that it does not slow a worker down.
    layer.start::<Request<RequestBody>>();
    server(service, listeners, settings).start()
}

fn server<S>(service: S, listeners: Vec<Listener>, settings: &Settings) -> Server<S> {
    let server = listeners.into_iter().fold(Server::new(service), Server::listener);
    server
        .limits(settings.limits.server())
        .trusted_proxies(settings.trusted_proxies.iter().copied())
        .server_timing(settings.server_timing)
        .workers(settings.workers)
}

fn admin_limits(settings: &Settings) -> Limits {
    Limits::new().connections(admin::CONNECTIONS).header_timeout(settings.limits.header_timeout)
}

/// Waits for requests in flight. A second signal ends the wait.
async fn finish(server: &ServerHandle, limit: Duration, signals: &mut Signals) {
    tracing::info!(open = server.open_connections(), "stopping");
    tokio::select! {
        finished = server.shutdown(limit) => {
            if !finished {
                tracing::warn!(open = server.open_connections(), "not all connections have ended in time");
            }
        }
        () = signals.next() => tracing::warn!(open = server.open_connections(), "stopping at once"),
    }
}

/// The demo takes another port when its default is in use.
async fn bind_admin(admin: &config::Admin) -> Result<TcpListener, Error> {
    let refused = |addr: SocketAddr, error: &io::Error| {
        config::cannot_listen(admin.key, &addr.to_string(), error)
    };
    match TcpListener::bind(admin.addr).await {
        Err(error) if admin.any_port && error.kind() == io::ErrorKind::AddrInUse => {
            note(&format!("{} is taken; the admin interface takes a free port", admin.addr));
            let addr = SocketAddr::new(admin.addr.ip(), 0);
            TcpListener::bind(addr).await.map_err(|error| refused(addr, &error))
        }
        bound => bound.map_err(|error| refused(admin.addr, &error)),
    }
}

/// Waits for the signal to stop. At SIGHUP the file and the certificates are read again.
async fn until_stopped(signals: &mut Signals, listeners: &[ListenerSettings], reloader: &Reloader) {
    while signals.any().await == Asked::Reload {
        // It is logged.
        let _ = reloader.reload().await;
        for tls in listeners.iter().filter_map(ListenerSettings::tls) {
            if let Err(error) = config::reload(tls) {
                tracing::error!(%error, "new certificates cannot be used; the old ones stay");
            }
        }
    }
}

/// SIGTERM and SIGINT, and SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Debug, PartialEq, Eq)]
enum Asked {
    Stop,
    Reload,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn any(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop,
            _ = self.interrupt.recv() => Asked::Stop,
            _ = self.hangup.recv() => Asked::Reload,
        }
    }

    /// The next signal to stop.
    async fn next(&mut self) {
        while self.any().await != Asked::Stop {}
    }
}
