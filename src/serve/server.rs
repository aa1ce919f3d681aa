//! `Server`: its options, and how it starts.
//!
//! One task accepts and distributes the connections to the workers, round robin. Each worker is a thread
//! with a runtime of its own, so that a connection, its requests and the connections to the backends stay on
//! one core. The transfer costs some microseconds per connection and nothing per request; the only worker accepts
//! itself. Sockets that share a port (`SO_REUSEPORT`) would save it for many, but there the kernel distributes by
//! hash: of eight busy connections one of two workers may get six.

use std::{
    convert::Infallible,
    fmt, io,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64},
    },
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::Body;
use ipnet::IpNet;
use tokio::{runtime::Handle, sync::mpsc};
use tower_service::Service;

use super::{
    accept,
    acceptor::Acceptor,
    app::App,
    bodies::RequestBody,
    connection,
    connection_limit::ConnectionLimit,
    handle::ServerHandle,
    limits::Limits,
    listener::Listener,
    refusal::OnRefusal,
    shared::{AcceptGuard, Accepted, CloseGuard, Flag, Shared, http1_builder, http2_builder},
    timeouts::until,
    workers::Workers,
};
use crate::error::BoxError;

/// A server for an Axum router or any other Tower service; see the [module](super).
///
/// # Example
///
/// ```no_run
/// # async fn run(app: axum::Router) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_sticky::serve::{Limits, Listener, Server};
///
/// let server = Server::new(app)
///     .listener(Listener::bind("0.0.0.0:8080").await?)
///     .listener(Listener::bind("127.0.0.1:8081").await?)
///     .limits(Limits::new().connections(50_000).header_timeout(Duration::from_secs(10)))
///     .trusted_proxies(["10.0.0.0/8".parse()?])
///     .workers(2)
///     .start()?;
/// println!("{:?}", server.local_addrs());
/// # Ok(())
/// # }
/// ```
#[must_use = "it serves nothing until it is started"]
pub struct Server<S> {
    service: S,
    listeners: Vec<Listener>,
    limits: Limits,
    connection_limit: Option<ConnectionLimit>,
    trusted: Vec<IpNet>,
    workers: Place,
    server_timing: bool,
    on_refusal: OnRefusal,
    #[cfg(feature = "axum")]
    connect_info: bool,
}

/// Where connections are served.
#[derive(Debug)]
enum Place {
    /// On the current runtime.
    Runtime,
    /// On so many threads, which are started with the server.
    Threads(usize),
    Shared(Workers),
}

impl<S> Server<S> {
    /// Serves `service`. Each request is served by a clone of it.
    pub fn new(service: S) -> Self {
        Self {
            service,
            listeners: Vec::new(),
            limits: Limits::new(),
            connection_limit: None,
            trusted: Vec::new(),
            workers: Place::Runtime,
            server_timing: false,
            on_refusal: OnRefusal::default(),
            #[cfg(feature = "axum")]
            connect_info: false,
        }
    }

    /// Adds a listener; there must be at least one.
    pub fn listener(mut self, listener: Listener) -> Self {
        self.listeners.push(listener);
        self
    }

    /// What clients may do, and how long it may take; default [`Limits::new`].
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Shares a limit of connections with other servers, in place of
    /// [`Limits::connections`]. It can be changed while the server runs.
    pub fn connection_limit(mut self, limit: ConnectionLimit) -> Self {
        self.connection_limit = Some(limit);
        self
    }

    /// The proxies whose `Forwarded` and `X-Forwarded-*` are believed: addresses and CIDR blocks. Default: none.
    /// The [`Peer`](crate::Peer) of a request says whether its peer is one.
    pub fn trusted_proxies(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        self.trusted = networks.into_iter().collect();
        self
    }

    /// The number of threads that serve connections, each with a runtime of its own; default 0: the current
    /// runtime serves them.
    ///
    /// On threads of its own a connection, its requests and what they spawn stay on one core. One thread also accepts
    /// its connections; for several, the current runtime does. A service whose
    /// state is bound to another runtime, such as a pool of connections, must not be served in this way.
    pub fn workers(mut self, threads: usize) -> Self {
        self.workers = if threads == 0 { Place::Runtime } else { Place::Threads(threads) };
        self
    }

    /// Serves connections on threads that other servers use, too, in place of [`workers`](Self::workers).
    pub fn shared_workers(mut self, workers: Workers) -> Self {
        self.workers = Place::Shared(workers);
        self
    }

    /// Whether responses get `Server-Timing: sticky;desc="<outcome> <backend>"` (Server Timing, section 3), from
    /// the [`Outcome`](crate::Outcome) in their extensions; default `false`. A response without one counts as
    /// rejected.
    pub fn server_timing(mut self, enabled: bool) -> Self {
        self.server_timing = enabled;
        self
    }

    /// Calls `observe` with each request that the server itself refuses, before the service sees it, and with the
    /// status of the response: for a log, such as
    /// [`AccessLogLayer::record_refusal`](crate::metrics::access_log::AccessLogLayer::record_refusal). It must not
    /// block. What cannot be read as a request is not told.
    pub fn on_refusal(
        mut self,
        observe: impl Fn(&Request<RequestBody>, StatusCode) + Send + Sync + 'static,
    ) -> Self {
        self.on_refusal = OnRefusal::new(observe);
        self
    }

    /// Whether requests have [`ConnectInfo<SocketAddr>`](axum::extract::ConnectInfo) in their extensions, for
    /// Axum's extractor; default `false`, as it costs an allocation per request. The address is also in the
    /// [`Peer`](crate::Peer).
    #[cfg(feature = "axum")]
    #[cfg_attr(docsrs, doc(cfg(feature = "axum")))]
    pub fn connect_info(mut self, enabled: bool) -> Self {
        self.connect_info = enabled;
        self
    }

    /// Starts to serve. The server accepts until it is stopped, or the current runtime ends.
    ///
    /// # Errors
    ///
    /// When there is no listener, no current Tokio runtime, or a thread cannot be started.
    pub fn start<B>(self) -> io::Result<ServerHandle>
    where
        S: Service<Request<RequestBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
    {
        if self.listeners.is_empty() {
            return Err(invalid("the server has no listener; add one with `Server::listener`"));
        }
        let runtime = Handle::try_current()
            .map_err(|_| invalid("there is no Tokio runtime; start the server within one"))?;
        let limits = self.limits;
        let connection_limit =
            self.connection_limit.unwrap_or_else(|| ConnectionLimit::new(limits.connections));
        let shared = Arc::new(Shared {
            trusted: self.trusted,
            server_timing: self.server_timing,
            on_refusal: self.on_refusal,
            #[cfg(feature = "axum")]
            connect_info: self.connect_info,
            closed: Flag::default(),
            accepting_ended: Flag::default(),
            stop: Flag::default(),
            keeps_idle: AtomicBool::new(false),
            finished: Flag::default(),
            connection_limit,
            open: Arc::default(),
            awaits_connection: AtomicBool::new(false),
            proxy_protocol_errors: AtomicU64::new(0),
            #[cfg(feature = "tls")]
            handshakes: tokio::sync::Semaphore::new(limits.handshakes as usize),
            #[cfg(feature = "tls")]
            handshake_errors: AtomicU64::new(0),
            http1: http1_builder(&limits),
            http2: http2_builder(&limits),
            limits,
        });
        let workers = match self.workers {
            Place::Runtime => None,
            Place::Threads(threads) => Some(Workers::start(threads)?),
            Place::Shared(workers) => Some(workers),
        };
        let local_addrs = self.listeners.iter().map(|it| it.local_addr().clone()).collect();
        let runtimes = workers.as_ref().map_or(std::slice::from_ref(&runtime), Workers::runtimes);
        // A connection that the only worker accepts itself needs no wake-up of another thread.
        let accepts = if let [only] = runtimes { only } else { &runtime };
        let acceptors = acceptors(self.listeners, accepts, &shared)?;
        #[cfg(feature = "tls")]
        reload_certificates(&acceptors, &shared);
        let senders = start_work(runtimes, workers.as_ref(), &self.service, &shared);
        start_accepting(accepts, acceptors, senders, &shared);
        Ok(ServerHandle { shared, local_addrs })
    }
}

impl<S: fmt::Debug> fmt::Debug for Server<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("service", &self.service)
            .field("listeners", &self.listeners)
            .field("limits", &self.limits)
            .field("trusted", &self.trusted)
            .field("workers", &self.workers)
            .finish_non_exhaustive()
    }
}

fn invalid(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

/// Registers the listeners with the runtime that accepts from them.
fn acceptors(
    listeners: Vec<Listener>,
    accepts: &Handle,
    shared: &Shared,
) -> io::Result<Vec<Acceptor>> {
    let _entered = accepts.enter();
    listeners.into_iter().map(|listener| listener.into_acceptor(&shared.limits)).collect()
}

/// Starts what serves connections on each of these runtimes, and returns the ways to it.
fn start_work<S: App>(
    runtimes: &[Handle],
    workers: Option<&Workers>,
    service: &S,
    shared: &Arc<Shared>,
) -> Vec<mpsc::UnboundedSender<Accepted>> {
    let start = |runtime: &Handle| {
        let (sender, accepted) = mpsc::unbounded_channel();
        let (service, shared, workers) = (service.clone(), shared.clone(), workers.cloned());
        drop(runtime.spawn(async move {
            work(accepted, service, &shared).await;
            // The connections of a thread end with its runtime.
            shared.finished.wait().await;
            drop(workers);
        }));
        sender
    };
    runtimes.iter().map(start).collect()
}

/// Accepts connections until the server is closed, or the current runtime ends.
fn start_accepting(
    accepts: &Handle,
    acceptors: Vec<Acceptor>,
    senders: Vec<mpsc::UnboundedSender<Accepted>>,
    shared: &Arc<Shared>,
) {
    let closes = CloseGuard(shared.clone());
    drop(tokio::spawn(async move { closes.0.closed.wait().await }));
    let shared = shared.clone();
    drop(accepts.spawn(async move {
        let guard = AcceptGuard(shared.clone());
        until(accept::accept(acceptors, senders, &shared), shared.closed.wait()).await;
        drop(guard);
    }));
}

/// Keeps the certificates up to date until the server is closed.
#[cfg(feature = "tls")]
fn reload_certificates(acceptors: &[Acceptor], shared: &Arc<Shared>) {
    for tls in acceptors.iter().filter_map(|acceptor| acceptor.endpoint.tls.as_ref()) {
        let (tls, shared) = (tls.clone(), shared.clone());
        drop(tokio::spawn(async move {
            until(tls.keep_reloading(), shared.closed.wait()).await;
        }));
    }
}

/// Serves the connections of this runtime until no more are accepted.
async fn work<S: App>(
    mut accepted: mpsc::UnboundedReceiver<Accepted>,
    service: S,
    shared: &Arc<Shared>,
) {
    while let Some(accepted) = accepted.recv().await {
        drop(tokio::spawn(connection::serve(accepted, service.clone(), shared.clone())));
    }
}
