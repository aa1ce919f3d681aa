//! `RequestSpan`: makes the span of a request.

use http::{HeaderMap, HeaderValue, Request, Version, header};
use tower_http::trace::MakeSpan;
use tracing::{Span, field::Empty};

use crate::{session::Peer, util::KnownMethod};

/// Makes the span `request` of each request, at level info, for tower-http's
/// [`TraceLayer`](tower_http::trace::TraceLayer).
///
/// Its fields are, after OpenTelemetry's conventions for HTTP servers, `otel.kind`, `http.request.method`,
/// `url.path`, `url.scheme`, `server.address`, `client.address` (the peer's, if the request has a
/// [`Peer`](crate::Peer)), `network.protocol.version`, `http.response.status_code` and `error.type`; and
/// `request_id` (from `x-request-id`), `sticky.backend`, `sticky.outcome`, `sticky.reason` and `sticky.epoch`. The
/// query is not among them, as it may contain secrets.
///
/// A method that is not one of RFC 9110 or RFC 5789 is `_OTHER`, as OpenTelemetry asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestSpan(());

impl RequestSpan {
    /// Makes spans with the target `tower_sticky::trace`.
    pub fn new() -> Self {
        Self(())
    }
}

impl<B> MakeSpan<B> for RequestSpan {
    fn make_span(&mut self, request: &Request<B>) -> Span {
        let (headers, peer) = (request.headers(), request.extensions().get::<Peer>());
        let is_https = peer.is_some_and(|peer| peer.is_https(headers));
        // The values are computed only when the span is enabled.
        tracing::info_span!(
            target: "tower_sticky::trace",
            "request",
            otel.kind = "server",
            http.request.method = KnownMethod::of(request.method()).as_str(),
            url.path = request.uri().path(),
            url.scheme = if is_https { "https" } else { "http" },
            server.address = host(request),
            client.address = peer.map(|peer| tracing::field::display(peer.addr().ip())),
            network.protocol.version = version(request.version()),
            request_id = text(headers, "x-request-id"),
            http.response.status_code = Empty,
            error.type = Empty,
            sticky.backend = Empty,
            sticky.outcome = Empty,
            sticky.reason = Empty,
            sticky.epoch = Empty,
        )
    }
}

/// The host that the client named, without its port.
fn host<B>(request: &Request<B>) -> Option<&str> {
    if let Some(host) = request.uri().host() {
        return Some(host);
    }
    let host = text(request.headers(), header::HOST.as_str())?;
    let port = host.rsplit_once(':').filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()));
    Some(port.map_or(host, |(name, _)| name))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(HeaderValue::to_str)?.ok()
}

fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "0.9",
        Version::HTTP_10 => "1.0",
        Version::HTTP_11 => "1.1",
        Version::HTTP_2 => "2",
        _ => "3",
    }
}
