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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_idempotent_requests_without_a_body_are_repeatable() {
        let request = |method: Method, headers: &[(http::HeaderName, &'static str)]| {
            let mut request = Request::new(());
            *request.method_mut() = method;
            for (name, value) in headers {
                request.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            is_repeatable(&request)
        };
        assert!(request(Method::GET, &[]) && request(Method::PUT, &[(CONTENT_LENGTH, "0")]));
        assert!(!request(Method::POST, &[]) && !request(Method::POST, &[(CONTENT_LENGTH, "0")]));
        assert!(!request(Method::PUT, &[(CONTENT_LENGTH, "5")]));
        assert!(!request(Method::PUT, &[(TRANSFER_ENCODING, "chunked")]));
    }

    #[test]
    fn grpc_is_told_by_the_content_type() {
        let is_grpc = |value| {
            is_grpc(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(value))]))
        };
        assert!(is_grpc("application/grpc") && is_grpc("application/grpc+proto"));
        assert!(!is_grpc("application/json"));
    }
}
