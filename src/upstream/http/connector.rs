//! The settings and connections that all requests to a backend share.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use http::{HeaderValue, Request};
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, sleep};

use super::{
    address::{Address, Lookups},
    buffers::Buffers,
    headers::{self, Added},
    http1::Http1,
    http2::{Http2, Shared},
    idle_pool::{Pool, close_idle},
    target::{Protocol, Target},
    timer::Timer,
};
use crate::{
    error::{BoxError, Redial, Redialer, Shortage, Unreachable},
    util::clock::later,
};

/// How many idle connections are closed when this machine has no resources left for a new one.
const CLOSED_FOR_ROOM: usize = 32;
/// How long to wait when there are no idle connections to close.
const SHORTAGE_PAUSE: Duration = Duration::from_millis(50);

/// A connection, of either protocol, during one exchange.
pub(super) enum Link {
    Http1(Box<Http1>),
    Http2(Http2, Timer),
}

/// A connection attempt.
pub(super) type Dial = Pin<Box<dyn Future<Output = Result<Link, BoxError>> + Send>>;

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
    pub(super) pool: Arc<Pool>,
    pub(super) http2: Shared,
}

impl Inner {
    /// A kept connection.
    pub(super) fn idle(&self) -> Option<Link> {
        let generation = self.address.usable()?;
        match self.target.protocol {
            Protocol::Http1 => self.pool.take(generation).map(Link::Http1),
            Protocol::Http2 => {
                let connection = self.http2.get(generation)?;
                Some(Link::Http2(connection, Timer::new(self.response_timeout)))
            }
        }
    }

    /// Opens a connection. The error carries a redialer.
    pub(super) fn dial(self: Arc<Self>) -> Dial {
        Box::pin(async move {
            let began = Instant::now();
            self.connect(false).await.map_err(|error| {
                let redialer = self.redialer();
                Unreachable::new(error, began, redialer).into()
            })
        })
    }

    /// Opens a connection. When this machine lacks resources, idle connections are closed and it is tried
    /// once more.
    pub(super) async fn connect(&self, redials: bool) -> Result<Link, BoxError> {
        let deadline = later(self.connect_timeout);
        match self.connect_once(self.connect_timeout, redials).await {
            Err(error) if Shortage::in_chain(error.as_ref()).is_some() => {
                let left = || deadline.saturating_duration_since(Instant::now());
                if close_idle(CLOSED_FOR_ROOM) == 0 {
                    sleep(SHORTAGE_PAUSE.min(left() / 2)).await;
                }
                self.connect_once(left(), redials).await
            }
            result => result,
        }
    }

    async fn connect_once(&self, limit: Duration, redials: bool) -> Result<Link, BoxError> {
        match self.target.protocol {
            Protocol::Http1 => {
                let shard = self.pool.shard();
                let (stream, generation) = self.address.connect(limit, redials).await?;
                let (timeout, buffers) = (self.response_timeout, self.buffers);
                let connection = Http1::new(stream, shard, generation, timeout, buffers).await?;
                Ok(Link::Http1(connection))
            }
            Protocol::Http2 => {
                let connection =
                    self.http2.dial(&self.address, limit, redials, self.buffers).await?;
                Ok(Link::Http2(connection, Timer::new(self.response_timeout)))
            }
        }
    }

    /// Opens a connection and keeps it for the next request of its runtime thread.
    pub(super) async fn redial(&self) -> Result<(), BoxError> {
        if let Link::Http1(connection) = self.connect(true).await? {
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
        if self.target.protocol != Protocol::Http1 {
            return None;
        }
        let asked = headers::wants_upgrade(request.version(), request.headers())?;
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
