//! The settings and connections that all requests to a backend share.

use std::{future::Future, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderValue, Request};
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, sleep};

#[cfg(feature = "tls")]
use super::handshake::{Tls, is_other_protocol};
use super::{
    address::{Address, Lookups},
    buffers::Buffers,
    connection_counts::ConnectionCounts,
    headers::{self, Added},
    http1::Http1,
    http2::{self, Dialed, Options, Pings, Shared},
    idle_pool::{Pool, close_idle},
    protocol::{Chosen, Http2, Protocol},
    proxy_protocol::{ProxyProtocol, Reuse},
    stream::Opened,
    target::Target,
    timer::Timer,
};
use crate::{
    error::{BoxError, ConfigError, Redial, Redialer, Shortage, Unreachable},
    session::Peer,
    util::clock::later,
};

/// How many idle connections are closed when this machine has no resources left for a new one.
const CLOSED_FOR_ROOM: usize = 32;
/// How long to wait when there are no idle connections to close.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// A connection, of either protocol, during one exchange.
pub(super) enum Link {
    Http1(Box<Http1>),
    Http2(http2::Http2, Timer),
}

impl Link {
    #[inline]
    pub(super) fn protocol(&self) -> Protocol {
        match self {
            Self::Http1(_) => Protocol::Http1,
            Self::Http2(..) => Protocol::Http2,
        }
    }
}

/// A connection attempt.
pub(super) type Dial = Pin<Box<dyn Future<Output = Result<Link, BoxError>> + Send>>;

/// What a connection is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Request,
    /// A request that asks for an upgrade, which only HTTP/1.1 has.
    Upgrade,
    /// No request, only to find out whether the backend accepts connections.
    Redial,
}

/// A connection that is needed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Need {
    pub(super) purpose: Purpose,
    /// The client that the backend is told of by the PROXY protocol; `None` when it is told of none.
    pub(super) client: Option<SocketAddr>,
}

/// What all requests to a backend share.
pub(super) struct Inner {
    pub(super) target: Target,
    pub(super) lookups: Lookups,
    pub(super) address: Arc<Address>,
    pub(super) added: Added,
    pub(super) connect_timeout: Duration,
    pub(super) response_timeout: Duration,
    pub(super) body_timeout: Duration,
    pub(super) expect_wait: Duration,
    pub(super) tcp_user_timeout: Duration,
    pub(super) buffers: Buffers,
    pub(super) replay_idempotent: bool,
    pub(super) max_idle: usize,
    pub(super) idle_timeout: Duration,
    pub(super) max_streams: usize,
    pub(super) pings: Option<Pings>,
    pub(super) http2: Http2,
    pub(super) send_proxy: Option<ProxyProtocol>,
    #[cfg(feature = "tls")]
    pub(super) tls: Option<Tls>,
    pub(super) chosen: Chosen,
    pub(super) pool: Arc<Pool>,
    pub(super) shared: Shared,
    pub(super) counts: ConnectionCounts,
}

impl Inner {
    /// A kept connection for a request of this client.
    pub(super) fn idle(&self, client: Option<SocketAddr>) -> Option<Link> {
        let link = self.find_idle(client);
        if link.is_some() {
            self.counts.reused();
        }
        link
    }

    fn find_idle(&self, client: Option<SocketAddr>) -> Option<Link> {
        let generation = self.address.usable()?;
        if self.send_proxy.is_some() {
            return self.pool.take_for(client?, generation).map(Link::Http1);
        }
        match self.chosen.get()? {
            Protocol::Http1 => self.pool.take(generation).map(Link::Http1),
            Protocol::Http2 => self.shared.get(generation).map(|stream| self.over_http2(stream)),
        }
    }

    fn over_http2(&self, stream: http2::Http2) -> Link {
        Link::Http2(stream, Timer::new(self.response_timeout))
    }

    /// The client of a request, if the backend is told of it. A peer on a Unix socket has no address.
    #[inline]
    pub(super) fn client<B>(&self, request: &Request<B>) -> Option<SocketAddr> {
        self.send_proxy?;
        let addr = request.extensions().get::<Peer>()?.addr();
        (!addr.ip().is_unspecified()).then_some(addr)
    }

    /// Opens a connection. The error carries a redialer.
    pub(super) fn dial(self: Arc<Self>, need: Need) -> Dial {
        Box::pin(async move {
            let began = Instant::now();
            self.connect(need).await.map_err(|error| {
                let redialer = self.redialer();
                Unreachable::new(error, began, redialer).into()
            })
        })
    }

    /// Opens a connection. When this machine lacks resources, idle connections are closed and it is tried
    /// once more.
    pub(super) async fn connect(&self, need: Need) -> Result<Link, BoxError> {
        let deadline = later(self.connect_timeout);
        match self.connect_once(deadline, need).await {
            Err(error) => match Shortage::in_chain(error.as_ref()) {
                // It was tried for the whole time, and no connection of this process fills the backlog.
                None | Some(Shortage::Backlog) => Err(error),
                Some(_) => {
                    if close_idle(CLOSED_FOR_ROOM) == 0 {
                        let left = deadline.saturating_duration_since(Instant::now());
                        sleep(SHORTAGE_PAUSE.min(left / 2)).await;
                    }
                    self.connect_once(deadline, need).await
                }
            },
            result => result,
        }
    }

    async fn connect_once(&self, deadline: Instant, need: Need) -> Result<Link, BoxError> {
        match need.purpose {
            Purpose::Upgrade => self.connect_for_upgrade(deadline, need).await,
            Purpose::Request | Purpose::Redial => self.connect_for_request(deadline, need).await,
        }
    }

    #[cfg(not(feature = "tls"))]
    async fn connect_for_upgrade(&self, deadline: Instant, need: Need) -> Result<Link, BoxError> {
        self.connect_alone(deadline, need).await
    }

    /// Opens a connection of HTTP/1.1. If the backend speaks only HTTP/2, which has no upgrades, the request is one
    /// without: what a client asks for is no failure of the backend.
    #[cfg(feature = "tls")]
    async fn connect_for_upgrade(&self, deadline: Instant, need: Need) -> Result<Link, BoxError> {
        match self.connect_alone(deadline, need).await {
            Err(error) if self.http2 == Http2::Auto && is_other_protocol(&error) => {
                let need = Need { purpose: Purpose::Request, ..need };
                let link = self.connect_for_request(deadline, need).await?;
                if link.protocol() == Protocol::Http2 {
                    self.chosen.set_only_http2();
                }
                Ok(link)
            }
            result => result,
        }
    }

    async fn connect_for_request(&self, deadline: Instant, need: Need) -> Result<Link, BoxError> {
        if self.chosen.get() == Some(Protocol::Http1) {
            return self.connect_alone(deadline, need).await;
        }
        let generation = || match self.chosen.get() {
            Some(Protocol::Http1) => None,
            _ => Some(self.address.generation()),
        };
        let (opening, options) = (self.open(deadline, need), self.http2_options());
        match self.shared.dial(generation, opening, options, deadline).await? {
            Dialed::Http2(stream) => Ok(self.over_http2(stream)),
            Dialed::Http1(opened) => self.begin_http1(opened, need).await,
            Dialed::ChoseHttp1 => self.connect_alone(deadline, need).await,
        }
    }

    /// Opens a connection, whatever connections others open.
    async fn connect_alone(&self, deadline: Instant, need: Need) -> Result<Link, BoxError> {
        let opened = self.open(deadline, need).await?;
        match opened.protocol {
            Protocol::Http1 => self.begin_http1(opened, need).await,
            Protocol::Http2 => {
                let options = self.http2_options();
                let stream = self.shared.adopt(opened, options, deadline).await?;
                Ok(self.over_http2(stream))
            }
        }
    }

    async fn begin_http1(&self, opened: Opened, need: Need) -> Result<Link, BoxError> {
        let (shard, timeout, buffers) = (self.pool.shard(), self.response_timeout, self.buffers);
        let Opened { stream, generation, .. } = opened;
        let mut connection = Http1::new(stream, shard, generation, timeout, buffers).await?;
        if self.send_proxy.is_some() {
            connection.reuse = need.client.map_or(Reuse::Never, Reuse::Client);
        }
        Ok(Link::Http1(connection))
    }

    /// Connects, verifies the backend, and learns its protocol.
    async fn open(&self, deadline: Instant, need: Need) -> Result<Opened, BoxError> {
        let Need { purpose, client } = need;
        let limit = deadline.saturating_duration_since(Instant::now());
        let redials = purpose == Purpose::Redial;
        let (mut stream, generation) = self.address.connect(limit, redials).await?;
        if let Some(protocol) = self.send_proxy {
            self.check_send_proxy()?;
            protocol.send(&mut stream, client, deadline).await?;
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            let upgrades = purpose == Purpose::Upgrade;
            let (stream, protocol) = tls.handshake(stream, deadline, upgrades).await?;
            if self.http2 == Http2::Auto && !upgrades {
                self.chosen.set(protocol);
            }
            self.counts.opened();
            return Ok(Opened { stream, generation, protocol });
        }
        self.counts.opened();
        let protocol = match self.http2 {
            Http2::On => Protocol::Http2,
            Http2::Off | Http2::Auto => Protocol::Http1,
        };
        Ok(Opened { stream, generation, protocol })
    }

    fn http2_options(&self) -> Options {
        let (buffers, max_streams, pings) = (self.buffers, self.max_streams, self.pings);
        Options { buffers, max_streams, pings }
    }

    /// An HTTP/2 connection serves many clients, and the PROXY protocol tells the backend of one.
    pub(super) fn check_send_proxy(&self) -> Result<(), ConfigError> {
        match (self.send_proxy, self.http2) {
            (None, _) | (_, Http2::Off) => Ok(()),
            (Some(_), Http2::On | Http2::Auto) => Err(ConfigError::new(
                "a backend that is sent the PROXY protocol cannot be spoken to with HTTP/2, whose connections \
                 serve many clients; use Http2::Off, or leave send_proxy out",
            )),
        }
    }

    /// Opens a connection and keeps it for the next request of its runtime thread. One that has said by the PROXY
    /// protocol that it is for no client is closed.
    pub(super) async fn redial(&self) -> Result<(), BoxError> {
        let need = Need { purpose: Purpose::Redial, client: None };
        if let Link::Http1(connection) = self.connect(need).await? {
            self.pool.put(connection);
        }
        Ok(())
    }

    /// What probes the backend by connecting again.
    pub(super) fn redialer(self: &Arc<Self>) -> Redialer {
        Redialer::new(Redials(self.clone()))
    }

    /// The protocols that the request asks to upgrade to, if its headers, its client's connection and the
    /// backend's protocol allow an upgrade.
    pub(super) fn wants_upgrade<B>(&self, request: &Request<B>) -> Option<HeaderValue> {
        let asked = headers::wants_upgrade(request.version(), request.headers())?;
        if self.chosen.is_only_http2() {
            return None;
        }
        request.extensions().get::<OnUpgrade>().map(|_| asked)
    }
}

/// Opens a connection and keeps it for the next request of its runtime thread.
struct Redials(Arc<Inner>);

impl Redial for Redials {
    async fn redial(&self) -> Result<(), BoxError> {
        self.0.redial().await
    }
}
