//! What becomes of the layer's own errors: responses, or errors.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER},
};

use crate::{StickyBody, StickyError};

/// What becomes of a [`StickyError`]: [`Respond`] or [`Propagate`].
pub trait OnError: sealed::Settle {}

impl<E: sealed::Settle> OnError for E {}

/// Errors become responses, so that the service never fails (`Error = Infallible`), as Axum wants
/// it. The default.
///
/// The status is [`StickyError::status`]; 503 carries `Retry-After`. A gRPC request (HTTP/2, with a
/// `content-type` that begins with `application/grpc`) is answered in gRPC's way: status 200 with
/// `grpc-status` in the head.
#[derive(Debug, Clone, Copy, Default)]
pub struct Respond;

/// Errors stay errors: the service's error is [`StickyError`].
#[derive(Debug, Clone, Copy, Default)]
pub struct Propagate;

/// What is known of the request when there is no answer to it.
#[derive(Debug, Clone, Copy)]
pub struct Asked {
    pub(crate) grpc: bool,
    pub(crate) retry_after: Duration,
}

pub(crate) mod sealed {
    use super::{Asked, Response, StickyBody, StickyError};

    pub trait Settle: Clone + Send + Sync + 'static {
        type Error;

        #[doc(hidden)]
        fn settle<R, I>(
            error: StickyError,
            asked: Asked,
        ) -> Result<Response<StickyBody<R, I>>, Self::Error>;
    }
}

impl sealed::Settle for Propagate {
    type Error = StickyError;

    fn settle<R, I>(
        error: StickyError,
        _: Asked,
    ) -> Result<Response<StickyBody<R, I>>, StickyError> {
        Err(error)
    }
}

impl sealed::Settle for Respond {
    type Error = Infallible;

    fn settle<R, I>(
        error: StickyError,
        asked: Asked,
    ) -> Result<Response<StickyBody<R, I>>, Infallible> {
        let status = error.status();
        // What exactly failed is for the log: the client could be anyone.
        let text = match (&error, status) {
            (StickyError::UnknownSession { .. }, _) => "the session is not known; start a new one",
            (StickyError::Busy { .. }, _) => "busy, try again later",
            (_, StatusCode::SERVICE_UNAVAILABLE) => "no server is available for this session",
            (_, StatusCode::GATEWAY_TIMEOUT) => "the server did not answer in time",
            (_, StatusCode::BAD_GATEWAY) => "the server gave no valid answer",
            _ => "internal error",
        };
        if asked.grpc {
            return Ok(grpc(status, text));
        }
        let mut response = Response::new(StickyBody::message(Bytes::from(format!("{text}\n"))));
        *response.status_mut() = status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        if status == StatusCode::GONE {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        if status == StatusCode::SERVICE_UNAVAILABLE {
            // Whole seconds (RFC 9110, section 10.2.3), at least one.
            headers.insert(RETRY_AFTER, asked.retry_after.as_secs().max(1).into());
        }
        Ok(response)
    }
}

/// A gRPC "trailers-only" response.
fn grpc<R, I>(status: StatusCode, text: &'static str) -> Response<StickyBody<R, I>> {
    let code = match status {
        StatusCode::GATEWAY_TIMEOUT => "4",      // DEADLINE_EXCEEDED
        StatusCode::SERVICE_UNAVAILABLE => "14", // UNAVAILABLE
        StatusCode::BAD_GATEWAY => "14",
        StatusCode::GONE => "9", // FAILED_PRECONDITION
        _ => "13",               // INTERNAL
    };
    let mut response = Response::new(StickyBody::message(Bytes::new()));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static(code));
    headers.insert("grpc-message", HeaderValue::from_static(text));
    response
}
