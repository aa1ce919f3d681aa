//! `Upstream`: the backend, its options and its service.

#[cfg(unix)]
use std::path::Path;
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
    connection_counts::{ConnectionCounts, ConnectionStats},
    connector::Inner,
    forwarded::{ForwardedOptions, Via},
    headers::Added,
    http2::Shared,
    idle_pool::Pool,
    protocol::{Chosen, Http2},
    resolve::{Resolver, System},
    target::Target,
};
#[cfg(feature = "tls")]
use super::{client_tls::ClientTls, handshake::Tls};
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
/// - [`NotSent`](crate::NotSent)`<Request<B>>`: no connection (refused, unreachable, not within
///   [`connect_timeout`](Self::connect_timeout), or with a TLS handshake that failed). It carries the request as it came, its body unpolled. An
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
    /// The backend at `url`:
    ///
    /// - `http://host:port`; without a port it is 80,
    /// - `https://host:port`, with feature `tls`; without a port it is 443. The backend is verified with the
    ///   system's root certificates, and other options are set by [`with_tls`](Self::with_tls),
    /// - `unix:/run/app.sock`, a Unix socket; see [`unix`](Self::unix). Of `unix:/run/app.sock|/base` the path
    ///   `/base` is put in front of each request's path.
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
    /// When `url` is not of that form: another scheme, user information, a path other than `/`, a query or a
    /// fragment, a relative path of a socket, or one of more than 107 bytes. For `https`, without the feature
    /// `tls`, or when the system has no root certificates.
    pub fn new(url: &str) -> Result<Self, ConfigError> {
        let target = Target::parse(url)?;
        if !target.is_https {
            return Ok(Self::to(target));
        }
        #[cfg(feature = "tls")]
        return Self::to(target).tls(ClientTls::new());
        #[cfg(not(feature = "tls"))]
        Err(ConfigError::new(format!(
            "the backend URL {url:?} uses https, which needs the feature `tls` of tower-sticky; enable it"
        )))
    }

    /// The backend at the `https` URL `url`, with these options of TLS.
    ///
    /// # Errors
    ///
    /// When the URL is not one of `https`, its host cannot be a server name and none is set, or there are no
    /// root certificates.
    #[cfg(feature = "tls")]
    pub fn with_tls(url: &str, tls: ClientTls) -> Result<Self, ConfigError> {
        Self::to(Target::parse(url)?).tls(tls)
    }

    /// Sets the options of TLS.
    ///
    /// # Errors
    ///
    /// When the backend's URL is not one of `https`, its host cannot be a server name and none is set, or there
    /// are no root certificates.
    #[cfg(feature = "tls")]
    pub fn tls(self, tls: ClientTls) -> Result<Self, ConfigError> {
        let target = &self.inner.target;
        if !target.is_https {
            return Err(ConfigError::new(format!(
                "{} has options of TLS, and its URL is not one of https; use https://",
                target.endpoint
            )));
        }
        let tls = Tls::new(tls, &target.endpoint)?;
        Ok(self.with(|inner| inner.tls = Some(tls)))
    }

    /// The backend that listens on the Unix socket at `path`. Requests keep their `Host`; one without it gets
    /// `localhost`.
    ///
    /// While the socket's backlog is full, connecting is tried again within
    /// [`connect_timeout`](Self::connect_timeout). After that it is a [`Shortage`](crate::Shortage).
    ///
    /// # Errors
    ///
    /// When the path is relative, or has more than 107 bytes.
    #[cfg(unix)]
    pub fn unix(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let target = Target::unix(path).map_err(|why| {
            ConfigError::new(format!(
                "the Unix socket {} of a backend {why}; expected a path such as /run/app.sock",
                path.display()
            ))
        })?;
        Ok(Self::to(target))
    }

    fn to(target: Target) -> Self {
        let every = Duration::from_secs(5);
        let lookups = Lookups { resolver: Resolver::new(System), every, on_change: None };
        let user_timeout = Duration::from_secs(75);
        let buffers = Buffers::default();
        let options = SocketOptions { user_timeout, unsent: buffers.unsent() };
        let address = Address::new(target.endpoint.clone(), lookups.clone(), options);
        Self::build(Inner {
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
            max_streams: 128,
            pings: None,
            http2: Http2::Off,
            send_proxy: None,
            #[cfg(feature = "tls")]
            tls: None,
            chosen: Chosen::new(Http2::Off, false),
            pool: Arc::new(Pool::new(0, Duration::ZERO)),
            shared: Shared::new(Duration::ZERO),
            counts: ConnectionCounts::new(),
        })
    }

    fn build(mut inner: Inner) -> Self {
        inner.start_anew();
        Self { inner: Arc::new(inner) }
    }

    /// Changes an option. Earlier clones are not changed.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            change(inner);
            inner.start_anew();
            return self;
        }
        let old = &*self.inner;
        let mut inner = Inner {
            target: old.target.clone(),
            added: old.added.clone(),
            lookups: old.lookups.clone(),
            address: old.address.clone(),
            pool: old.pool.clone(),
            shared: Shared::new(Duration::ZERO),
            counts: ConnectionCounts::new(),
            chosen: Chosen::new(old.http2, old.target.is_https),
            #[cfg(feature = "tls")]
            tls: old.tls.clone(),
            ..*old
        };
        change(&mut inner);
        Self::build(inner)
    }

    /// How many connections were opened, and how often one was used again.
    pub fn connection_stats(&self) -> ConnectionStats {
        self.inner.counts.totals()
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
}

impl Inner {
    /// Without connections, as those that there are may be of other options.
    fn start_anew(&mut self) {
        self.pool = Arc::new(Pool::new(self.max_idle, self.idle_timeout));
        self.shared = Shared::new(self.idle_timeout);
        self.chosen = Chosen::new(self.http2, self.target.is_https);
        self.counts = ConnectionCounts::new();
        #[cfg(feature = "tls")]
        if let Some(tls) = &mut self.tls {
            *tls = tls.for_protocols(self.http2);
        }
        let endpoint = self.target.endpoint.clone();
        let (user_timeout, unsent) = (self.tcp_user_timeout, self.buffers.unsent());
        let options = SocketOptions { user_timeout, unsent };
        self.address = Arc::new(Address::new(endpoint, self.lookups.clone(), options));
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
        let mut debug = f.debug_struct("Upstream");
        debug.field("host", &inner.target.host);
        #[cfg(feature = "tls")]
        debug.field("tls", &inner.tls);
        debug
            .field("address", &inner.address)
            .field("http2", &inner.http2)
            .field("send_proxy", &inner.send_proxy)
            .field("connect_timeout", &inner.connect_timeout)
            .field("response_timeout", &inner.response_timeout)
            .field("body_timeout", &inner.body_timeout)
            .field("replay_idempotent", &inner.replay_idempotent)
            .field("pool", &inner.pool)
            .field("shared", &inner.shared)
            .finish()
    }
}
