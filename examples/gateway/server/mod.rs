//! The gateway's server. Axum's accept loop has no limit on connections and no timeouts.
//!
//! One task accepts and distributes the connections to the workers, round robin. Each worker is a thread
//! with a runtime of its own, so that a connection, its requests and the connections to the backends stay on
//! one core. The sender-off costs some microseconds per connection and nothing per request. Sockets that
//! share a port (`SO_REUSEPORT`) would save it, but there the kernel distributes by hash: of eight busy
//! connections one of two workers may get six.

mod accept;
mod bodies;
mod connection;
mod exchange;
mod limits;
mod park;
mod read_size;
mod refusal;
mod socket;
mod socket_options;
mod streams;
mod watch;

use std::{
    convert::Infallible,
    future::pending,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use ipnet::IpNet;
use tokio::{
    net::TcpListener,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tower_service::Service;
use tower_sticky::BoxError;

use self::streams::Streams;
pub(crate) use self::{
    bodies::ClientBody,
    limits::{Http2Limits, ServerLimits},
    refusal::RequestLimits,
};

/// Room for a request line in front of the header fields. hyper answers a longer head with 431 itself;
/// with this room, a target that is too long gets 414 (RFC 9112, section 3).
const REQUEST_LINE: usize = 64 << 10;

/// The settings of a server.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) connections: u32,
    pub(crate) trusted: Vec<IpNet>,
    pub(crate) server_timing: bool,
    pub(crate) limits: ServerLimits,
}

/// A running server.
#[derive(Debug)]
pub(crate) struct Server {
    shared: Arc<Shared>,
    permits: Arc<Semaphore>,
    connections: u32,
}

/// What all connections share.
#[derive(Debug)]
struct Shared {
    trusted: Vec<IpNet>,
    server_timing: bool,
    limits: ServerLimits,
    stop: Stop,
    /// Whether all permits for connections are taken.
    exhausted: AtomicBool,
    http1: http1::Builder,
    http2: http2::Builder<Streams>,
}

/// Tells all connections to end.
#[derive(Debug, Default)]
struct Stop {
    set: AtomicBool,
    notify: Notify,
}

impl Stop {
    fn set(&self) {
        self.set.store(true, Ordering::SeqCst);
        self.notify.notify_waiters();
    }

    fn is_set(&self) -> bool {
        self.set.load(Ordering::Relaxed)
    }

    async fn stopped(&self) {
        let notified = self.notify.notified();
        if !self.set.load(Ordering::SeqCst) {
            notified.await;
        }
    }
}

/// An accepted connection. It is not registered with a runtime yet.
#[derive(Debug)]
struct Accepted {
    stream: std::net::TcpStream,
    addr: SocketAddr,
    permit: OwnedSemaphorePermit,
}

impl Server {
    /// Serves `listener` with `service`, on `workers` threads; with 0 on the current runtime.
    pub(crate) fn start<S, B>(
        listener: TcpListener,
        service: &S,
        workers: usize,
        options: Options,
    ) -> io::Result<Self>
    where
        S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
        S: Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let limits = options.limits;
        let (http1, http2) = (http1_builder(&limits), http2_builder(&limits));
        let shared = Arc::new(Shared {
            trusted: options.trusted,
            server_timing: options.server_timing,
            limits,
            stop: Stop::default(),
            exhausted: AtomicBool::new(false),
            http1,
            http2,
        });
        let mut senders = Vec::new();
        for number in 0..workers {
            let (sender, accepted_connections) = mpsc::unbounded_channel();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let (service, shared) = (service.clone(), shared.clone());
            thread::Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || runtime.block_on(work(accepted_connections, service, shared)))?;
            senders.push(sender);
        }
        if senders.is_empty() {
            let (sender, accepted_connections) = mpsc::unbounded_channel();
            drop(tokio::spawn(work(accepted_connections, service.clone(), shared.clone())));
            senders.push(sender);
        }
        let server = Self {
            permits: Arc::new(Semaphore::new(options.connections as usize)),
            connections: options.connections,
            shared,
        };
        let (shared, permits) = (server.shared.clone(), server.permits.clone());
        drop(tokio::spawn(async move {
            tokio::select! {
                () = accept::accept(listener, senders, permits, &shared.limits, &shared.exhausted) => {}
                () = shared.stop.stopped() => {}
            }
        }));
        Ok(server)
    }

    /// Stops accepting, and waits until all connections have finished, for at most `limit`. Whether they have.
    pub(crate) async fn stop(&self, limit: Duration) -> bool {
        self.shared.stop.set();
        // A permit is returned when its connection is closed, upgraded ones included.
        let all = self.permits.acquire_many(self.connections);
        timeout(limit, all).await.is_ok()
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        (self.connections as usize).saturating_sub(self.permits.available_permits())
    }
}

fn http1_builder(limits: &ServerLimits) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    // The time for a head is limited in `connection`.
    http1.header_read_timeout(None);
    let head = limits.request.header_bytes.saturating_add(REQUEST_LINE);
    http1.max_header_size(head);
    // It must leave room for a head. What is buffered of bodies is limited in `socket` and `bodies`.
    http1.max_buf_size(head.max(limits.buffer_bytes));
    if limits.request.headers > refusal::DEFAULT_HEADERS {
        http1.max_headers(limits.request.headers);
    }
    http1
}

fn http2_builder(limits: &ServerLimits) -> http2::Builder<Streams> {
    let mut http2 = http2::Builder::new(Streams { write_timeout: limits.write_timeout });
    let (request, send, limits) = (&limits.request, limits.buffer_bytes / 4, &limits.http2);
    http2
        .timer(TokioTimer::new())
        .max_header_list_size(u32::try_from(request.header_bytes).unwrap_or(u32::MAX))
        .max_concurrent_streams(limits.streams)
        .initial_stream_window_size(limits.window)
        .max_send_buf_size(send)
        .keep_alive_interval(limits.ping)
        .keep_alive_timeout(limits.ping_timeout);
    http2
}

/// Serves the connections of this runtime. It never returns, as that would end them.
async fn work<S, B>(
    mut accepted_connections: mpsc::UnboundedReceiver<Accepted>,
    service: S,
    shared: Arc<Shared>,
) where
    S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    while let Some(accepted) = accepted_connections.recv().await {
        drop(tokio::spawn(connection::serve(accepted, service.clone(), shared.clone())));
    }
    pending::<()>().await;
}
