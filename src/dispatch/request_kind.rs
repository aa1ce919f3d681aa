//! What the head of a request says about its kind.

use http::{
    HeaderMap, HeaderValue, Method, Request,
    header::{
        ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN, TRANSFER_ENCODING,
    },
};

use crate::affinity::Head;

/// What is asked of the head of a request more than once.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct RequestKind {
    /// The client used HTTPS, according to the connection or a trusted proxy.
    pub(super) https: bool,
    /// The body is gRPC.
    pub(super) grpc: bool,
    /// The request can be repeated. Only set while the pool has suspects.
    pub(super) repeatable: bool,
}

/// Whether it is a CORS preflight (Fetch, section 3.3.2). Browsers send it without cookies, so it begins
/// no session.
pub(super) fn is_preflight(head: &Head<'_>) -> bool {
    *head.method() == Method::OPTIONS
        && head.headers().contains_key(ORIGIN)
        && head.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether a request is idempotent and has no body, as far as its head tells. The backend's service checks
/// again before it repeats a request.
pub(super) fn is_repeatable<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method().is_idempotent()
        && !headers.contains_key(TRANSFER_ENCODING)
        && headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0")
}

/// Whether the content type is gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .is_some_and(|value| value.starts_with(b"application/grpc"))
}
