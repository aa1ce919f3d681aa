//! Starts the gateway from its settings, and stops it.

use std::{fs, io, net::SocketAddr, sync::Arc};

use axum::Router;
use http::Request;
use tokio::{net::TcpListener, runtime, sync::watch};
use tower_sticky::{
    PoolError, StickyLayer,
    admin::{Access, Stage, parse_request},
    proxy::Upstream,
    serve::{
        ConnectionLimit, Limits, Listener, LocalAddr, RequestBody, Server, ServerHandle, Workers,
    },
};

#[cfg(feature = "dns")]
use crate::discovery;
use crate::{
    access_log::{self, LogFiles},
    admin,
    cli::Flags,
    config::{self, Error, Settings, Stores},
    demo, files,
    fleet::Fleet,
    forward::ForwardOnly,
    front::Front,
    layer, note,
    reload::{Parts, Reloader},
    restart::{Predecessor, Program},
    running::{AdminInterface, Running, Signals},
    say, service_manager,
    sockets::{InTheWay, Sockets},
    stack::Stack,
    state::State,
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
    prepare_with(flags, Stores::default())
}

fn prepare_with(flags: Flags, stores: Stores) -> Result<Gateway, Error> {
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

    /// Says whose a cookie or a header is, and what would happen to it now.
    pub(crate) fn explain(self, text: &str) -> Result<String, Failure> {
        let request = parse_request(text)
            .map_err(|why| Error::new(format!("--explain cannot be read: {why}")))?;
        let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(runtime.block_on(self.layer.explain(&request)).to_string())
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
        let (program, signals) = (Program::running(), Signals::new()?);
        let (mut predecessor, mut sockets) = (Predecessor::find()?, Sockets::inherited()?);
        let (admin_socket, state) = self.open(predecessor.as_mut(), &mut sockets).await?;
        let Self { flags, stores, settings, fleet, layer } = {
            let dashboard = admin_socket.as_ref().and_then(|socket| socket.local_addr().tcp());
            self.continued(state, dashboard).await?
        };
        fleet.look_up();
        #[cfg(feature = "dns")]
        let sources = discovered(&fleet, &settings).await?;
        let log_files = Arc::<LogFiles>::default();
        let access_log = log_files.set(&settings, access_log::open(&settings)?);
        let service = Swap::new(Stack::new(layer.clone().into_service(), access_log));
        let front = front(sockets, &settings, &fleet, service.clone(), log_files.clone())?;
        if !settings.forward_only {
            // On this runtime, so that it does not slow a worker down.
            layer.start::<Request<RequestBody>>();
        }
        let addrs = front.accept(&settings, None).await?.addrs;
        announce(&settings, &addrs, predecessor).await?;
        let (stage, stages) = watch::channel(Stage::Serving);
        let access = Access::new();
        settings.admin.iter().for_each(|settings| admin::set_access(&access, settings));
        let (is_demo, demo_store) = (settings.demo, settings.demo_store.clone());
        let (listeners, admin_limits) = (settings.listeners.clone(), admin_limits(&settings));
        let parts = Parts {
            stores,
            fleet: fleet.clone(),
            service,
            layer: Swap::new(layer),
            access: access.clone(),
            front: front.clone(),
            log_files,
            #[cfg(feature = "dns")]
            sources,
        };
        let reloader = Arc::new(Reloader::new(flags.clone(), settings, parts));
        let router = |addr| admin::router(&fleet, reloader.clone(), stages, access, addr);
        let started = admin_socket.as_ref().map(|it| start_admin(it, router, admin_limits));
        let admin_server = started.transpose()?.map(|(addr, server)| {
            if is_demo && let Some(page) = addrs.iter().find_map(LocalAddr::tcp) {
                demo::print_hints(page, addr, demo_store.as_ref());
            }
            server
        });
        if flags.watch {
            drop(tokio::spawn(reloader.clone().watch()));
        }
        let running = Running { program, front, reloader, admin_socket };
        let interface = AdminInterface { server: admin_server, stage };
        let state = flags.state.as_deref();
        running.until_stopped(signals, &listeners, state, interface).await;
        Ok(())
    }

    /// Opens the sockets. A process that is replaced leaves its state before it stops accepting where it is in the
    /// way.
    async fn open(
        &self,
        predecessor: Option<&mut Predecessor>,
        sockets: &mut Sockets,
    ) -> Result<(Option<Listener>, Option<State>), Failure> {
        let settings = &self.settings;
        let in_the_way = match &predecessor {
            Some(_) => sockets.take_in_the_way(&settings.listeners).await?,
            None => InTheWay::default(),
        };
        sockets.open_others(&settings.listeners, &in_the_way).await?;
        let admin_socket = match &settings.admin {
            Some(admin) => Some(open_admin(admin, sockets).await?),
            None => None,
        };
        log_warnings(settings);
        let state = earlier_state(&self.flags, predecessor, &in_the_way).await?;
        sockets.open_waiting(&settings.listeners, in_the_way).await?;
        Ok((admin_socket, state))
    }
    /// The gateway with what an earlier process has left, and with the shops of the demo.
    async fn continued(
        self,
        state: Option<State>,
        dashboard: Option<SocketAddr>,
    ) -> Result<Self, Failure> {
        let mut gateway = self;
        if let Some(secrets) = state.as_ref().and_then(State::secrets) {
            gateway.stores.set_secrets(secrets).map_err(Error::from)?;
            gateway = prepare_with(gateway.flags, gateway.stores)?;
        }
        let Self { settings, fleet, stores, .. } = &gateway;
        if settings.demo {
            demo::open_shops(fleet, settings.demo_store.as_ref(), dashboard).await?;
        }
        if let Some(Err(error)) = state.map(|state| state.restore(settings, fleet, stores)) {
            tracing::error!(%error, "not everything goes on as it was");
        }
        Ok(gateway)
    }
}

/// Follows the sources of the settings. Their backends are known when this returns, if they could be looked up.
#[cfg(feature = "dns")]
async fn discovered(fleet: &Arc<Fleet>, settings: &Settings) -> Result<discovery::Sources, Error> {
    let sources = discovery::Sources::default();
    let change = sources.plan(fleet, settings, false)?;
    sources.begin(change).await.finish();
    Ok(sources)
}

/// Says that the gateway accepts.
async fn announce(
    settings: &Settings,
    addrs: &[LocalAddr],
    predecessor: Option<Predecessor>,
) -> io::Result<()> {
    for (listener, addr) in settings.listeners.iter().zip(addrs) {
        say(&format!("listening on {}", listener.url(addr)));
    }
    if let Some(predecessor) = predecessor {
        predecessor.dismiss().await?;
    }
    service_manager::tell_ready();
    Ok(())
}

/// Serves the admin interface on this socket. Its address, and the server.
fn start_admin(
    socket: &Listener,
    router: impl FnOnce(SocketAddr) -> Router,
    limits: Limits,
) -> io::Result<(SocketAddr, ServerHandle)> {
    let addr = socket.local_addr().tcp().ok_or_else(|| io::Error::other("no address"))?;
    let server = Server::new(router(addr)).listener(socket.try_clone()?).limits(limits).start()?;
    note(&format!("admin interface on http://{addr}"));
    Ok((addr, server))
}

/// The state that another process has left: the one that this one replaces, or an earlier one.
async fn earlier_state(
    flags: &Flags,
    predecessor: Option<&mut Predecessor>,
    in_the_way: &InTheWay,
) -> io::Result<Option<State>> {
    let bytes = match (predecessor, &flags.state) {
        (Some(predecessor), _) => predecessor.state(in_the_way.addrs()).await?,
        (None, Some(path)) => match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                tracing::error!(%error, path = %path.display(), "the state cannot be read");
                return Ok(None);
            }
        },
        (None, None) => return Ok(None),
    };
    match State::parse(&bytes) {
        Ok(state) => Ok(Some(state)),
        Err(error) => {
            tracing::error!(%error, "the gateway starts without its state");
            Ok(None)
        }
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

/// The server for clients, which does not accept yet.
fn front(
    sockets: Sockets,
    settings: &Settings,
    fleet: &Fleet,
    service: Swap<Stack>,
    log_files: Arc<LogFiles>,
) -> io::Result<Arc<Front>> {
    let limit = ConnectionLimit::new(settings.limits.connections);
    // Shared by all servers: connections to backends end with the thread that opened them.
    let workers = Workers::start(settings.workers)?;
    let shared = Shared { limit: limit.clone(), workers: workers.clone() };
    if settings.forward_only {
        let upstreams = fleet.upstreams();
        if upstreams.is_empty() {
            return Err(io::Error::other("--forward-only needs a backend"));
        }
        let forward = ForwardOnly::new(upstreams);
        let start = move |listeners, settings: &Settings| {
            server(forward.clone(), listeners, settings, &shared).start()
        };
        return Ok(Arc::new(Front::new(sockets, (limit, workers), start)));
    }
    let start = move |listeners, settings: &Settings| {
        let log_files = log_files.clone();
        server(service.clone(), listeners, settings, &shared)
            .on_refusal(move |request, status| log_files.refused(request, status))
            .start()
    };
    Ok(Arc::new(Front::new(sockets, (limit, workers), start)))
}

/// What a server hands on to the one that replaces it.
struct Shared {
    limit: ConnectionLimit,
    workers: Workers,
}

fn server<S>(
    service: S,
    listeners: Vec<Listener>,
    settings: &Settings,
    shared: &Shared,
) -> Server<S> {
    let server = listeners.into_iter().fold(Server::new(service), Server::listener);
    server
        .limits(settings.limits.server())
        .trusted_proxies(settings.trusted_proxies.iter().copied())
        .server_timing(settings.server_timing)
        .connection_limit(shared.limit.clone())
        .shared_workers(shared.workers.clone())
}

fn admin_limits(settings: &Settings) -> Limits {
    Limits::new().connections(admin::CONNECTIONS).header_timeout(settings.limits.header_timeout)
}

/// The socket of the admin interface. The demo takes another port when its default is in use.
async fn open_admin(admin: &config::Admin, sockets: &mut Sockets) -> Result<Listener, Error> {
    if let Some(inherited) = sockets.take_tcp(admin.addr) {
        return Ok(inherited);
    }
    let listener = bind_admin(admin).await?;
    Listener::from_tcp(listener).map_err(|error| Error::new(error.to_string()))
}

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
