//! What all connections of a server share.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use hyper::server::conn::{http1, http2};
use hyper_util::rt::TokioTimer;
use ipnet::IpNet;
use tokio::sync::Notify;

use super::{
    connection_limit::{ConnectionLimit, ConnectionPermit, OpenConnections},
    endpoint::Endpoint,
    limits::Limits,
    refusal::{DEFAULT_HEADERS, OnRefusal},
    stream::Accepting,
    streams::Streams,
};
use crate::util::Growth;

/// Room for a request line in front of the header fields. hyper answers a longer head with 431 itself;
/// with this room, a target that is too long gets 414 (RFC 9112, section 3).
const REQUEST_LINE: usize = 64 << 10;

/// How long an HTTP/1.1 connection without a request is kept when the server stops: a request may be in
/// flight. HTTP/2 has GOAWAY for that.
const STOP_DELAY: Duration = Duration::from_millis(200);

/// What all connections of a server share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) trusted: Vec<IpNet>,
    pub(super) server_timing: bool,
    pub(super) on_refusal: OnRefusal,
    #[cfg(feature = "axum")]
    pub(super) connect_info: bool,
    pub(super) limits: Limits,
    /// Set when no more connections are accepted.
    pub(super) closed: Flag,
    /// Set when accepting has ended after that.
    pub(super) accepting_ended: Flag,
    pub(super) stop: Flag,
    /// Whether connections without a request stay until they are idle for too long when the server stops.
    pub(super) keeps_idle: AtomicBool,
    /// Set when all connections have closed after a stop, or the time for that has passed.
    pub(super) finished: Flag,
    pub(super) connection_limit: ConnectionLimit,
    pub(super) open: Arc<OpenConnections>,
    /// Whether a permit is held for the next connection.
    pub(super) awaits_connection: AtomicBool,
    pub(super) proxy_protocol_errors: AtomicU64,
    #[cfg(feature = "tls")]
    pub(super) handshakes: tokio::sync::Semaphore,
    #[cfg(feature = "tls")]
    pub(super) handshake_errors: AtomicU64,
    pub(super) http1: http1::Builder,
    pub(super) http2: http2::Builder<Streams>,
}

impl Shared {
    /// How long an HTTP/1.1 connection without a request is kept when the server stops.
    pub(super) fn stop_delay(&self) -> Duration {
        match self.keeps_idle.load(Relaxed) {
            true => self.limits.idle_timeout,
            false => STOP_DELAY,
        }
    }

    /// Whether a peer is a trusted proxy. One without an address has come over a Unix socket.
    pub(super) fn trusts(&self, peer: Option<SocketAddr>) -> bool {
        peer.is_none_or(|peer| {
            let ip = peer.ip().to_canonical();
            self.trusted.iter().any(|network| network.contains(&ip))
        })
    }
}

/// An accepted connection. It is not registered with a runtime yet.
#[derive(Debug)]
pub(super) struct Accepted {
    pub(super) stream: Accepting,
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) permit: ConnectionPermit,
}

/// Sets [`Shared::accepting_ended`] when it is dropped, also with the runtime.
pub(super) struct AcceptGuard(pub(super) Arc<Shared>);

impl Drop for AcceptGuard {
    fn drop(&mut self) {
        self.0.awaits_connection.store(false, Relaxed);
        self.0.accepting_ended.set();
    }
}

/// Sets [`Shared::closed`] when it is dropped, also with the runtime.
pub(super) struct CloseGuard(pub(super) Arc<Shared>);

impl Drop for CloseGuard {
    fn drop(&mut self) {
        self.0.closed.set();
    }
}

/// A flag that is set once, and can be waited for.
#[derive(Debug, Default)]
pub(super) struct Flag {
    set: AtomicBool,
    notify: Notify,
}

impl Flag {
    pub(super) fn set(&self) {
        self.set.store(true, SeqCst);
        self.notify.notify_waiters();
    }

    pub(super) fn is_set(&self) -> bool {
        self.set.load(Relaxed)
    }

    pub(super) async fn wait(&self) {
        let notified = self.notify.notified();
        if !self.set.load(SeqCst) {
            notified.await;
        }
    }
}

pub(super) fn http1_builder(limits: &Limits) -> http1::Builder {
    let mut http1 = http1::Builder::new();
    // The time for a head is limited in `timeouts`.
    http1.header_read_timeout(None);
    let head = limits.request.header_bytes.saturating_add(REQUEST_LINE);
    http1.max_header_size(head);
    // It must leave room for a head. What is buffered of bodies is limited in `socket` and `bodies`.
    http1.max_buf_size(head.max(Growth::REQUEST.largest(limits.buffer_bytes)));
    if limits.request.headers > DEFAULT_HEADERS {
        http1.max_headers(limits.request.headers);
    }
    http1
}

pub(super) fn http2_builder(limits: &Limits) -> http2::Builder<Streams> {
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
