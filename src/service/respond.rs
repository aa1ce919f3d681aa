//! Converts the layer's errors to responses, or returns them.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};

use crate::{
    outcome::{ErrorContext, StickyError},
    service::StickyBody,
};

/// How the service handles a [`StickyError`]: [`Respond`] or [`Propagate`].
pub trait OnError: sealed::HandleError {}

impl<E: sealed::HandleError> OnError for E {}

/// Converts errors to responses, so that the service never fails (`Error = Infallible`), as Axum
/// requires. The default.
///
/// The status is [`StickyError::status`], unless [`Strict`](crate::Strict) sets another one. A 503 has a
/// `Retry-After` field, and so has every response to a session whose backend cannot serve it. The response
/// to a gRPC request (HTTP/2, with a `content-type` that begins with `application/grpc`) has the status 200,
/// `grpc-status` ([`StickyError::grpc_code`]) in its head, and `grpc-retry-pushback-ms` instead of
/// `Retry-After`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Respond;

/// Returns errors: the service's error is [`StickyError`].
///
/// With the feature `tonic` the error of a gRPC request has a `tonic::Status` in its source chain, with the
/// backend's error as its source, so that Tonic's clients see the code and not `UNKNOWN`.
#[derive(Debug, Clone, Copy, Default)]
pub struct Propagate;

/// The response to an error, or the error itself.
type Handled<R, I, E> = Result<Response<StickyBody<R, I>>, E>;

pub(crate) mod sealed {
    use super::{ErrorContext, Handled, StickyError};

    pub trait HandleError: Clone + Send + Sync + 'static {
        type Error;

        #[doc(hidden)]
        fn handle<R, I>(error: StickyError, cx: ErrorContext) -> Handled<R, I, Self::Error>;
    }
}

impl sealed::HandleError for Propagate {
    type Error = StickyError;

    fn handle<R, I>(error: StickyError, cx: ErrorContext) -> Handled<R, I, StickyError> {
        #[cfg(feature = "tonic")]
        if cx.grpc {
            return Err(crate::outcome::grpc_status::in_chain(error));
        }
        let _ = cx;
        Err(error)
    }
}

impl sealed::HandleError for Respond {
    type Error = Infallible;

    fn handle<R, I>(error: StickyError, cx: ErrorContext) -> Handled<R, I, Infallible> {
        let (status, retryable) = cx.status(&error);
        // The client is not trusted: details of the failure are only logged.
        let text = match (&error, status) {
            (StickyError::UnknownSession { .. }, _) => "the session is not known; start a new one",
            (StickyError::Busy { .. } | StickyError::Shortage { .. }, _) => "busy, try again later",
            (StickyError::Unavailable { .. }, _) | (_, StatusCode::SERVICE_UNAVAILABLE) => {
                "no server is available for this session"
            }
            (_, StatusCode::GATEWAY_TIMEOUT) => "the server did not answer in time",
            (_, StatusCode::REQUEST_TIMEOUT) => "the request did not come in time",
            (_, StatusCode::PAYLOAD_TOO_LARGE) => "the request's body is too large",
            (_, StatusCode::BAD_REQUEST) => "the request's body is broken",
            (_, StatusCode::BAD_GATEWAY) => "the server gave no valid answer",
            _ => "internal error",
        };
        if cx.grpc {
            let pushback = error.may_pass().then_some(cx.retry_after);
            return Ok(grpc(error.grpc_code(), text, pushback));
        }
        let mut response = Response::new(StickyBody::message(Bytes::from(format!("{text}\n"))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if matches!(error, StickyError::UnknownSession { .. }) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if retryable {
            // Whole seconds (RFC 9110, section 10.2.3), at least one.
            headers.insert(RETRY_AFTER, cx.retry_after.as_secs().max(1).into());
        }
        Ok(response)
    }
}

/// A gRPC "trailers-only" response.
fn grpc<R, I>(
    code: u8,
    text: &'static str,
    pushback: Option<Duration>,
) -> Response<StickyBody<R, I>> {
    let mut response = Response::new(StickyBody::message(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", u16::from(code).into());
    headers.insert("grpc-message", HeaderValue::from_static(text));
    if let Some(pushback) = pushback {
        // Whole milliseconds (gRFC A6, "Pushback"), which clients take for a signed 32-bit number.
        let millis = pushback.as_millis().clamp(1, i32::MAX as u128) as u64;
        headers.insert("grpc-retry-pushback-ms", millis.into());
    }
    response
}
