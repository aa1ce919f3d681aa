//! `Upstream`: the backend, its options and its service.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use tower_service::Service;

use super::{
    Resolve, UpstreamBody, UpstreamFuture,
    address::{Address, Lookups},
    buffers::Buffers,
    connector::Inner,
    forwarded::{ForwardedOptions, Via},
    headers::Added,
    http2::Shared,
    idle_pool::Pool,
    resolve::{Resolver, System},
    target::{Protocol, Target},
};
use crate::{
    error::{BoxError, ConfigError, Redial},
    util::{SocketOptions, clock::later},
};

/// The name that stands for this proxy in `Via`.
const PSEUDONYM: &str = "tower-sticky";

/// An HTTP backend, as a Tower service: forwards requests as a reverse proxy should.
///
/// It is a handle; clones share its connections. It is always ready: whether the backend can be reached is
/// known only when a request is sent.
///
/// # Errors of a request
///
/// - [`NotSent`](crate::NotSent)`<Request<B>>`: no connection (refused, unreachable, or not within
///   [`connect_timeout`](Self::connect_timeout)). It carries the request as it came, its body unpolled. An
///   HTTP/1.1 request whose body was held back by `Expect: 100-continue` is one, too, when its connection ended
///   without a response.
/// - [`Unanswered`](crate::Unanswered)`<Request<B>>`: the connection ended before any byte of an
///   answer, and the request can be repeated as it is; see
///   [`replay_idempotent`](Self::replay_idempotent).
/// - [`TimedOut`](crate::TimedOut): no answer within [`response_timeout`](Self::response_timeout).
/// - [`Disconnected`](crate::Disconnected): the connection ended before any byte of an answer, and the
///   request cannot be repeated.
/// - [`ClientError`](crate::ClientError): the request's own body failed, or stalled for longer than
///   [`body_timeout`](Self::body_timeout).
/// - Anything else: the backend broke off, or its response was no valid HTTP.
///
/// # What is changed on the way
///
/// Both ways, hop-by-hop fields are removed: `Connection` and the fields that it names, `Keep-Alive`,
/// `Proxy-Connection`, `Proxy-Authenticate`, `Proxy-Authorization`, `TE` (but for `trailers`),
/// `Transfer-Encoding`, `Upgrade` (RFC 9110, section 7.6.1); the `Upgrade` of a 426 is kept. A message has one
/// framing field, made from its body. A response with a transfer coding other than `chunked`, or with different
/// lengths, is an error. Trailers pass, over HTTP/1.1 those that `Trailer` announces, but for fields that may not
/// stand in trailers (RFC 9110, section 6.5.1).
///
/// Requests are sent in origin form with the client's `Host`, or the authority of an HTTP/2 or absolute
/// target, which takes its place. `Via` is appended. `Expect: 100-continue` goes to an HTTP/1.1 backend, which
/// decides whether the body is sent; see [`expect_wait`](Self::expect_wait). Interim responses, such as 103, go
/// to [`Peer::on_interim`](crate::Peer::on_interim).
///
/// The [`Peer`](crate::Peer) in the request's extensions decides about the fields that say who sent the
/// request:
///
/// | field | trusted peer | other peer |
/// |---|---|---|
/// | `X-Forwarded-For`, `Forwarded` (RFC 7239) | appended to | replaced |
/// | `X-Forwarded-Proto`, `X-Forwarded-Host` | kept, else added | replaced |
/// | `X-Forwarded-Port`, `X-Real-IP` | kept, else added by option | removed, or replaced by option |
/// | other `X-Forwarded-*`, `X-Client-IP`, `True-Client-IP` | kept | removed, unless [passed by name](Self::pass_forwarded) |
///
/// Without a peer all of them are removed. Variants of these names with underscores are always removed.
///
/// An HTTP/1.1 upgrade (WebSocket) gets a connection of its own. The 101 is passed on if it names a
/// protocol that was asked for, and carries an [`UpgradeGuard`](crate::UpgradeGuard) that ends with the tunnel.
/// Upgrades to `h2c` and on HTTP/2 backends are not supported.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::proxy::Upstream;
///
/// let backend = Upstream::new("http://10.0.0.1:8080")?
///     .connect_timeout(Duration::from_millis(500))
///     .max_idle(64);
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Clone)]
pub struct Upstream {
    pub(super) inner: Arc<Inner>,
}

impl Upstream {
    /// The backend at `url`: `http://host:port`, or `http://host` for port 80.
    ///
    /// # Names
    ///
    /// A name is looked up when the first connection is opened, and again every
    /// [`resolve_every`](Self::resolve_every) as long as it is used. One of its addresses is used at a time:
    /// the first that accepts a connection, for as long as the name has it. When the name no longer has it, its
    /// connections are not used for new requests, and the first of the other addresses that accepts is
    /// used; requests in flight finish. While the lookup fails, the last addresses are used.
    ///
    /// When the address in use refuses a connection, the backend is taken to refuse it. The next address is used
    /// when a [redial](crate::Redial) is refused, too; without redials, as outside of a layer, when the address
    /// has refused connections for a second. [`on_address_change`](Self::on_address_change) is called for each
    /// change.
    ///
    /// When each address of a name is a server with sessions of its own, use
    /// [`Backends::follow_dns`](crate::Backends), which makes each a backend.
    ///
    /// # Errors
    ///
    /// When `url` is not of that form: another scheme (`https` is not built yet), user information,
    /// a path other than `/`, a query or a fragment.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        let target = Target::parse(url)?;
        let every = Duration::from_secs(5);
        let lookups = Lookups { resolver: Resolver::new(System), every, on_change: None };
        let user_timeout = Duration::from_secs(75);
        let buffers = Buffers::default();
        let options = SocketOptions { user_timeout, unsent: buffers.unsent() };
        let address = Address::new(target.endpoint.clone(), lookups.clone(), options);
        Ok(Self::build(Inner {
            address: Arc::new(address),
            target,
            lookups,
            added: Added {
                via: Some(Via::formatted(PSEUDONYM)),
                response_via: None,
                forwarded: ForwardedOptions::default(),
            },
            connect_timeout: Duration::from_secs(1),
            response_timeout: Duration::from_secs(60),
            body_timeout: Duration::from_secs(30),
            expect_wait: Duration::from_secs(1),
            tcp_user_timeout: user_timeout,
            buffers,
            replay_idempotent: true,
            max_idle: 512,
            idle_timeout: Duration::from_secs(30),
            pool: Arc::new(Pool::new(0, Duration::ZERO)),
            http2: Shared::new(),
        }))
    }

    /// A new handle, so that a setter does not change earlier clones.
    fn build(mut inner: Inner) -> Self {
        inner.pool = Arc::new(Pool::new(inner.max_idle, inner.idle_timeout));
        inner.http2 = Shared::new();
        let endpoint = inner.target.endpoint.clone();
        let (user_timeout, unsent) = (inner.tcp_user_timeout, inner.buffers.unsent());
        let options = SocketOptions { user_timeout, unsent };
        inner.address = Arc::new(Address::new(endpoint, inner.lookups.clone(), options));
        Self { inner: Arc::new(inner) }
    }

    pub(super) fn with(self, change: impl FnOnce(&mut Inner)) -> Self {
        let old = &*self.inner;
        let mut inner = Inner {
            target: old.target.clone(),
            added: old.added.clone(),
            lookups: old.lookups.clone(),
            address: old.address.clone(),
            pool: old.pool.clone(),
            http2: Shared::new(),
            ..*old
        };
        change(&mut inner);
        Self::build(inner)
    }

    /// How long connecting may take, name lookup and all addresses included; default 1 s.
    #[must_use]
    pub fn connect_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.connect_timeout = limit)
    }

    /// How long the head of the response may take from the end of the request; default 60 s. There is no such
    /// limit while the request's body is being sent, nor for the response's body.
    #[must_use]
    pub fn response_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.response_timeout = limit)
    }

    /// How long the client may send nothing of its request's body although the connection to the backend
    /// asks for more; default 30 s. It does not apply while the backend reads nothing, nor once the head of
    /// the response has arrived, nor for gRPC (a `content-type` that begins with `application/grpc`) and
    /// upgrades. The error is a [`ClientError`](crate::ClientError).
    #[must_use]
    pub fn body_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.body_timeout = limit)
    }

    /// How long a backend may take to respond to `Expect: 100-continue` before it is sent the body nevertheless;
    /// default 1 s (RFC 9110, section 10.1.1). Until then the body is not polled, so that the request can go
    /// to another backend when the connection ends.
    #[must_use]
    pub fn expect_wait(self, limit: Duration) -> Self {
        self.with(|inner| inner.expect_wait = limit)
    }

    /// How long data may stay unacknowledged before the connection is closed (`TCP_USER_TIMEOUT`, RFC 5482; on
    /// Linux); default 75 s. Connections that are idle for 60 s are probed.
    #[must_use]
    pub fn tcp_user_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.tcp_user_timeout = limit)
    }

    /// Whether to speak HTTP/2 without TLS, known in advance ("h2c prior knowledge", RFC 9113,
    /// section 3.3), instead of HTTP/1.1; default `false`. All requests of a runtime thread share
    /// one connection.
    #[must_use]
    pub fn http2(self, http2: bool) -> Self {
        let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
        self.with(|inner| inner.target.protocol = protocol)
    }

    /// How many idle HTTP/1.1 connections are kept **per runtime thread**; default 512. With 0 each
    /// request has a connection of its own.
    #[must_use]
    pub fn max_idle(self, connections: usize) -> Self {
        self.with(|inner| inner.max_idle = connections)
    }

    /// How long a connection may be idle before it is closed; default 30 s. It should be shorter
    /// than the backend's own keep-alive timeout.
    #[must_use]
    pub fn idle_timeout(self, limit: Duration) -> Self {
        self.with(|inner| inner.idle_timeout = limit)
    }

    /// How often the URL's name is looked up again while it is used; default 5 s, at least 10 ms. It does
    /// not apply to a URL with an address.
    #[must_use]
    pub fn resolve_every(self, interval: Duration) -> Self {
        self.with(|inner| inner.lookups.every = interval.max(Duration::from_millis(10)))
    }

    /// The resolver for the URL's name; default: the system's.
    #[must_use]
    pub fn resolver(self, resolver: impl Resolve) -> Self {
        self.with(|inner| inner.lookups.resolver = Resolver::new(resolver))
    }

    /// Looks the URL's name up at these name servers, over UDP, and over TCP when an answer is too long.
    ///
    /// # Errors
    ///
    /// When there is none.
    #[cfg(feature = "dns")]
    pub fn name_servers(
        self,
        servers: impl IntoIterator<Item = SocketAddr>,
    ) -> Result<Self, ConfigError> {
        let resolver = crate::util::name_servers::uncached(servers.into_iter().collect())?;
        Ok(self.resolver(resolver))
    }

    /// Calls `on_change` with the old and the new address when another address is used. For a pool, see
    /// [`Backends::address_listener`](crate::Backends::address_listener).
    #[must_use]
    pub fn on_address_change(
        self,
        on_change: impl Fn(SocketAddr, SocketAddr) + Send + Sync + 'static,
    ) -> Self {
        self.with(|inner| inner.lookups.on_change = Some(Arc::new(on_change)))
    }

    /// Looks the URL's name up now, so that the first request does not wait for the lookup and a failure is
    /// logged early.
    ///
    /// # Errors
    ///
    /// When no address is known.
    pub async fn look_up(&self) -> Result<(), BoxError> {
        match self.inner.address.usable() {
            Some(_) => Ok(()),
            None => self.inner.address.look_up(later(self.inner.connect_timeout)).await,
        }
    }

    /// Whether an idempotent request without a body (RFC 9110, section 9.2.2) may be repeated when
    /// its connection ended before any byte of a response; default `true`.
    ///
    /// After a kept connection it is repeated once on a new connection to the same backend: most likely
    /// the backend closed the old one while it was idle. If that fails, too, or the connection was new, the
    /// error is [`Unanswered`](crate::Unanswered), which carries the
    /// request. No request is sent more than three times in all, whichever backends it goes to.
    #[must_use]
    pub fn replay_idempotent(self, replay: bool) -> Self {
        self.with(|inner| inner.replay_idempotent = replay)
    }

    /// The name that stands for this proxy in the requests' `Via` field (RFC 9110, section 7.6.3);
    /// default `tower-sticky`. With `None` no `Via` is sent, although the RFC requires it; some servers do not
    /// compress responses to requests that have one.
    ///
    /// # Errors
    ///
    /// When the name is not a token.
    pub fn via(self, pseudonym: Option<&str>) -> Result<Self, ConfigError> {
        let via = pseudonym.map(Via::new).transpose()?;
        Ok(self.with(|inner| inner.added.via = via))
    }

    /// The name in the responses' `Via` field; default `None`: no `Via` is added.
    ///
    /// # Errors
    ///
    /// When the name is not a token.
    pub fn response_via(self, pseudonym: Option<&str>) -> Result<Self, ConfigError> {
        let via = pseudonym.map(Via::new).transpose()?;
        Ok(self.with(|inner| inner.added.response_via = via))
    }

    /// Whether requests get `X-Forwarded-Port`: the port of the client's host, or the scheme's; default
    /// `false`. That of a trusted peer is kept.
    #[must_use]
    pub fn x_forwarded_port(self, add: bool) -> Self {
        self.with(|inner| inner.added.forwarded.port = add)
    }

    /// Whether requests get `X-Real-IP`, the peer's address; default `false`. That of a trusted peer is
    /// kept.
    #[must_use]
    pub fn x_real_ip(self, add: bool) -> Self {
        self.with(|inner| inner.added.forwarded.real_ip = add)
    }

    /// Which of the fields that only trusted peers may set are passed on from all peers, for example
    /// `x-forwarded-prefix`; default none.
    ///
    /// # Errors
    ///
    /// When one is not such a field, or one that this proxy writes.
    pub fn pass_forwarded<'a>(
        self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ConfigError> {
        let mut forwarded = self.inner.added.forwarded.clone();
        forwarded.pass(names)?;
        Ok(self.with(|inner| inner.added.forwarded = forwarded))
    }
}

/// Opens a connection and keeps it for the next request of its runtime thread.
impl Redial for Upstream {
    async fn redial(&self) -> Result<(), BoxError> {
        self.inner.redial().await
    }
}

impl<B> Service<Request<B>> for Upstream
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<UpstreamBody>;
    type Error = BoxError;
    type Future = UpstreamFuture<B>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> UpstreamFuture<B> {
        UpstreamFuture::new(self.inner.clone(), request)
    }
}

impl fmt::Debug for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.inner;
        f.debug_struct("Upstream")
            .field("host", &inner.target.host)
            .field("address", &inner.address)
            .field("protocol", &inner.target.protocol)
            .field("connect_timeout", &inner.connect_timeout)
            .field("response_timeout", &inner.response_timeout)
            .field("body_timeout", &inner.body_timeout)
            .field("replay_idempotent", &inner.replay_idempotent)
            .field("pool", &inner.pool)
            .field("http2", &inner.http2)
            .finish()
    }
}
