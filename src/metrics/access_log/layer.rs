//! The layer that observes requests for a log.

use std::{
    fmt,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http::{HeaderName, Request, Response, StatusCode, header};
use http_body::Body;
use ipnet::IpNet;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    body::AccessLogBody,
    future::AccessLogFuture,
    pending::Pending,
    record::{AccessRecord, End, OnAccess},
};
use crate::{
    affinity::client_ip::{ClientAddress, peer_addr},
    session::Peer,
};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Hands an [`AccessRecord`] of each request to an [`OnAccess`]; see the [module](super).
///
/// It costs one allocation for each request, and those of
/// [`outcome_extensions`](crate::StickyLayer::outcome_extensions).
#[derive(Clone)]
pub struct AccessLogLayer {
    shared: Arc<Shared>,
}

#[derive(Clone)]
struct Shared {
    on_access: Arc<dyn OnAccess>,
    client: ClientAddress,
}

impl AccessLogLayer {
    /// A layer that hands records to `on_access`.
    pub fn new(on_access: impl OnAccess) -> Self {
        let (on_access, client) = (Arc::new(on_access), ClientAddress::new());
        Self { shared: Arc::new(Shared { on_access, client }) }
    }

    /// The proxies in front, whose `X-Forwarded-For` and `Forwarded` tell the client's address: addresses and CIDR
    /// blocks. A [`Peer`](crate::Peer) that is [trusted](crate::Peer::trusted) is one as well.
    #[must_use]
    pub fn trusted_proxies(mut self, networks: impl IntoIterator<Item = IpNet>) -> Self {
        let shared = Arc::make_mut(&mut self.shared);
        shared.client = shared.client.clone().trust(networks);
        self
    }
}

impl AccessLogLayer {
    /// Hands over the record of a request that a server has refused with `status` before the service saw it: see
    /// `serve::Server::on_refusal`.
    pub fn record_refusal<B>(&self, request: &Request<B>, status: StatusCode) {
        let mut record = self.shared.begin(request);
        record.answer = Some(status);
        record.first_byte = Some(Duration::ZERO);
        record.end = End::Refused;
        self.shared.on_access.record(&record);
    }
}

impl<S> Layer<S> for AccessLogLayer {
    type Service = AccessLogService<S>;

    fn layer(&self, inner: S) -> AccessLogService<S> {
        AccessLogService { inner, shared: self.shared.clone() }
    }
}

/// A service whose requests are recorded; created by [`AccessLogLayer`].
#[derive(Clone)]
pub struct AccessLogService<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, B, RB> Service<Request<B>> for AccessLogService<S>
where
    S: Service<Request<B>, Response = Response<RB>>,
    RB: Body,
{
    type Response = Response<AccessLogBody<RB>>;
    type Error = S::Error;
    type Future = AccessLogFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let pending = Pending::new(self.shared.begin(&request), self.shared.on_access.clone());
        AccessLogFuture::new(self.inner.call(request), pending)
    }
}

impl Shared {
    /// The record of a request that has just arrived. Nothing is copied: the fields are counted references.
    fn begin<B>(&self, request: &Request<B>) -> AccessRecord {
        let headers = request.headers();
        let field = |name| headers.get(name).cloned();
        AccessRecord {
            time: SystemTime::now(),
            client: self.client(request),
            method: request.method().clone(),
            uri: request.uri().clone(),
            version: request.version(),
            host: field(header::HOST),
            referer: field(header::REFERER),
            user_agent: field(header::USER_AGENT),
            request_id: field(X_REQUEST_ID),
            answer: None,
            bytes: 0,
            first_byte: None,
            duration: Duration::ZERO,
            end: End::ClientLeft,
            outcome: None,
        }
    }

    fn client<B>(&self, request: &Request<B>) -> Option<SocketAddr> {
        let peer = peer_addr(request.extensions())?;
        let is_trusted = request.extensions().get::<Peer>().is_some_and(Peer::is_trusted);
        let client = self.client.find(peer.ip(), is_trusted, request.headers());
        let port = if client == peer.ip().to_canonical() { peer.port() } else { 0 };
        Some(SocketAddr::new(client, port)).filter(|addr| !addr.ip().is_unspecified())
    }
}

impl fmt::Debug for AccessLogLayer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogLayer").finish_non_exhaustive()
    }
}

impl<S: fmt::Debug> fmt::Debug for AccessLogService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogService").field("inner", &self.inner).finish_non_exhaustive()
    }
}
