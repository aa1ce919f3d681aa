//! The span of one exchange with a backend, with the names of OpenTelemetry's conventions for HTTP clients.

use http::{Request, Response};
use tracing::{
    Level, Span,
    field::{Empty, display},
};

use super::{connector::Inner, target::Endpoint};
use crate::error::BoxError;

/// The span of an exchange, if spans of level debug are enabled.
#[inline]
pub(super) fn of<B>(inner: &Inner, request: &Request<B>) -> Option<Box<Span>> {
    tracing::level_enabled!(Level::DEBUG).then(|| new(inner, request))
}

#[cold]
fn new<B>(inner: &Inner, request: &Request<B>) -> Box<Span> {
    let span = tracing::debug_span!(
        target: "tower_sticky::proxy",
        "exchange",
        otel.kind = "client",
        http.request.method = request.method().as_str(),
        server.address = Empty,
        server.port = Empty,
        http.response.status_code = Empty,
        network.protocol.version = Empty,
        error.type = Empty,
    );
    let port = match &inner.target.endpoint {
        Endpoint::Addr(addr) => {
            span.record("server.address", display(addr.ip()));
            Some(addr.port())
        }
        Endpoint::Name(name, port) => {
            span.record("server.address", name.as_str());
            Some(*port)
        }
        #[cfg(unix)]
        Endpoint::Unix(path) => {
            span.record("server.address", display(path.display()));
            None
        }
    };
    if let Some(port) = port {
        span.record("server.port", port);
    }
    Box::new(span)
}

/// Fills in how the exchange ended.
pub(super) fn record<B>(span: &Span, result: &Result<Response<B>, BoxError>) {
    match result {
        Ok(response) => {
            span.record("http.response.status_code", response.status().as_u16());
            let version = format!("{:?}", response.version());
            let version = version.trim_start_matches("HTTP/").trim_end_matches(".0");
            span.record("network.protocol.version", version);
        }
        Err(error) => {
            span.record("error.type", display(error));
        }
    }
}
