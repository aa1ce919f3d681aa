//! What kind of a request it is, as its head tells.

use http::{
    HeaderMap, HeaderValue, Method, Request,
    header::{
        ACCESS_CONTROL_REQUEST_METHOD, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN, TRANSFER_ENCODING,
    },
};

use crate::affinity::Head;

/// Whether it is a CORS preflight (Fetch, section 3.3.2), which browsers send without cookies: it begins no
/// session.
pub(super) fn is_preflight(head: &Head<'_>) -> bool {
    *head.method() == Method::OPTIONS
        && head.headers().contains_key(ORIGIN)
        && head.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether a request seems to be idempotent and without a body. Whether it is, its backend's service
/// sees, before it is repeated.
pub(super) fn is_repeatable<B>(request: &Request<B>) -> bool {
    let headers = request.headers();
    request.method().is_idempotent()
        && !headers.contains_key(TRANSFER_ENCODING)
        && headers.get(CONTENT_LENGTH).is_none_or(|length| length == "0")
}

/// Whether its body is gRPC.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(CONTENT_TYPE)
        .map(HeaderValue::as_bytes)
        .is_some_and(|value| value.starts_with(b"application/grpc"))
}
