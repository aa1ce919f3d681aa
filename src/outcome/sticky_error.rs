//! `StickyError`, the error of a request without a response from a backend, and its statuses.

use std::{error::Error, fmt, time::Duration};

use http::StatusCode;

use super::{Reason, Strict};
use crate::{
    error::{BoxError, ClientError, TimedOut, chain},
    id::BackendId,
};

/// Why [`StickyService`](crate::StickyService) could not get a response from a backend.
///
/// With [`Propagate`](crate::Propagate) it is the service's error; with the default,
/// [`Respond`](crate::Respond), it becomes a response. [`status`](Self::status) is the HTTP status
/// of that response.
#[derive(Debug)]
#[non_exhaustive]
pub enum StickyError {
    /// No backend may take the request: the pool is empty, or all are down, draining or disabled.
    NoBackend,
    /// The session is pinned to a backend that cannot serve, and the policy is
    /// [`Failover::Reject`](crate::Failover::Reject).
    Unavailable {
        /// The pinned backend.
        backend: BackendId,
    },
    /// The request has a token that cannot be used, and the layer is
    /// [strict](crate::StickyLayer::strict).
    UnknownSession {
        /// What is wrong with the token.
        reason: Reason,
    },
    /// The store of the session's pin does not answer, and is configured to [reject] sessions that it
    /// cannot look up.
    ///
    /// [reject]: crate::store::Answer::Unavailable
    StoreUnavailable,
    /// The backends that may take the request stayed busy for as long as a request may wait.
    Busy {
        /// The backend for which the request waited.
        backend: BackendId,
    },
    /// No candidate accepted the request, so it was not sent; this is the error of the last one.
    NotSent {
        /// The last backend tried.
        backend: BackendId,
        /// Its error.
        source: BoxError,
    },
    /// The request was sent to the backend, which failed.
    Backend {
        /// The backend.
        backend: BackendId,
        /// Its error.
        source: BoxError,
    },
    /// The body of the request failed while it was sent: see [`ClientError`](crate::ClientError).
    /// It does not count as a failure of the backend.
    Client {
        /// The backend.
        backend: BackendId,
        /// Its error.
        source: BoxError,
    },
    /// This machine had no file descriptor, local port or memory left for a connection to the backend:
    /// see [`Shortage`](crate::Shortage). It does not count as a failure of the backend, and the session stays.
    Shortage {
        /// The backend.
        backend: BackendId,
        /// Its error.
        source: BoxError,
    },
    /// The inner service (the local node or the last resort) failed.
    Inner {
        /// Its error.
        source: BoxError,
    },
}

impl StickyError {
    /// The status that [`Respond`](crate::Respond) answers with: 503 when no backend took the
    /// request or the session could not be looked up, 410 when a strict layer does not know the
    /// session ([`Strict`](crate::Strict) can change it), 504 when a backend did not answer in time, 502
    /// when it failed otherwise, 400 when the request's own body failed, 408 when it stalled and 413 when
    /// it was too large, 500 when the inner service failed.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::NoBackend
            | Self::Unavailable { .. }
            | Self::StoreUnavailable
            | Self::Busy { .. }
            | Self::Shortage { .. }
            | Self::NotSent { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::UnknownSession { .. } => StatusCode::GONE,
            Self::Backend { source, .. } if is_timeout(source.as_ref()) => {
                StatusCode::GATEWAY_TIMEOUT
            }
            Self::Backend { .. } => StatusCode::BAD_GATEWAY,
            Self::Client { source, .. } => match ClientError::in_chain(source.as_ref()) {
                Some(error) if error.is_stall() => StatusCode::REQUEST_TIMEOUT,
                Some(error) if error.is_too_large() => StatusCode::PAYLOAD_TOO_LARGE,
                _ => StatusCode::BAD_REQUEST,
            },
            Self::Inner { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The gRPC status code of a gRPC response: 14 (UNAVAILABLE) when no backend took the request,
    /// the backend failed, or this machine ran out of resources; 8 (RESOURCE_EXHAUSTED) when backends
    /// stayed busy; 9 (FAILED_PRECONDITION) when a strict layer does not know the session; 4
    /// (DEADLINE_EXCEEDED) when there was no response in time; 1 (CANCELLED) when the request's own body
    /// failed; 13 (INTERNAL) when the inner service failed. With feature `tonic`, the code of a
    /// `tonic::Status` with which a backend or the inner service failed is kept.
    pub fn grpc_code(&self) -> u8 {
        #[cfg(feature = "tonic")]
        if let Self::Backend { source, .. } | Self::Inner { source } = self
            && let Some(code) = super::grpc_status::code_in(source.as_ref())
        {
            return code;
        }
        match self {
            Self::Backend { source, .. } if is_timeout(source.as_ref()) => 4,
            Self::Client { .. } => 1,
            Self::Busy { .. } => 8,
            Self::UnknownSession { .. } => 9,
            Self::Inner { .. } => 13,
            Self::NoBackend
            | Self::Unavailable { .. }
            | Self::StoreUnavailable
            | Self::NotSent { .. }
            | Self::Shortage { .. }
            | Self::Backend { .. } => 14,
        }
    }

    /// Whether the request was not executed and a retry may succeed.
    pub(crate) fn may_pass(&self) -> bool {
        self.status() == StatusCode::SERVICE_UNAVAILABLE
    }

    /// The backend that the error is about, if there is one.
    pub fn backend(&self) -> Option<&BackendId> {
        match self {
            Self::Unavailable { backend }
            | Self::Busy { backend }
            | Self::NotSent { backend, .. }
            | Self::Backend { backend, .. }
            | Self::Client { backend, .. }
            | Self::Shortage { backend, .. } => Some(backend),
            Self::NoBackend
            | Self::StoreUnavailable
            | Self::UnknownSession { .. }
            | Self::Inner { .. } => None,
        }
    }
}

impl fmt::Display for StickyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoBackend => f.write_str("no backend may take this request"),
            Self::Unavailable { backend } => {
                write!(f, "the session's backend {backend} cannot serve it")
            }
            Self::StoreUnavailable => f.write_str("the store of the sessions does not answer"),
            Self::UnknownSession { reason } => write!(f, "the session is not known: {reason}"),
            Self::Busy { backend } => write!(f, "backend {backend} stayed busy"),
            Self::NotSent { backend, source } => {
                write!(f, "no backend took the request; the last one, {backend}: {source}")
            }
            Self::Backend { backend, source } => write!(f, "backend {backend} failed: {source}"),
            Self::Client { backend, source } => {
                write!(f, "a request to backend {backend} failed by itself: {source}")
            }
            Self::Shortage { backend, source } => {
                write!(f, "this machine ran short on a connection to backend {backend}: {source}")
            }
            Self::Inner { source } => write!(f, "the inner service failed: {source}"),
        }
    }
}

impl Error for StickyError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::NotSent { source, .. }
            | Self::Backend { source, .. }
            | Self::Client { source, .. }
            | Self::Shortage { source, .. }
            | Self::Inner { source } => Some(source.as_ref()),
            // Tonic searches the sources for a status.
            #[cfg(feature = "tonic")]
            Self::NoBackend | Self::Unavailable { .. } | Self::StoreUnavailable => {
                Some(&*super::grpc_status::NO_SERVER)
            }
            #[cfg(feature = "tonic")]
            Self::UnknownSession { .. } => Some(&*super::grpc_status::UNKNOWN_SESSION),
            #[cfg(feature = "tonic")]
            Self::Busy { .. } => Some(&*super::grpc_status::STAYED_BUSY),
            #[cfg(not(feature = "tonic"))]
            Self::NoBackend
            | Self::Unavailable { .. }
            | Self::StoreUnavailable
            | Self::UnknownSession { .. }
            | Self::Busy { .. } => None,
        }
    }
}

/// The error that ends the body of a response when the deadline of its backend's
/// [drain](crate::Backends::drain) expires.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrainOver {
    backend: BackendId,
}

impl DrainOver {
    pub(crate) fn new(backend: BackendId) -> Self {
        Self { backend }
    }

    /// The backend.
    pub fn backend(&self) -> &BackendId {
        &self.backend
    }
}

impl fmt::Display for DrainOver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the response was cut off: the drain of backend {} is over", self.backend)
    }
}

impl Error for DrainOver {
    #[cfg(feature = "tonic")]
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*super::grpc_status::CUT_OFF)
    }
}

fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    chain(error).any(|error| {
        #[cfg(feature = "tonic")]
        if error.is::<tonic::TimeoutExpired>() {
            return true;
        }
        error.is::<TimedOut>() || error.is::<tokio::time::error::Elapsed>()
    })
}

/// What an error response depends on besides the error.
#[derive(Debug, Clone, Copy)]
pub struct ErrorContext {
    pub(crate) grpc: bool,
    pub(crate) retry_after: Duration,
    /// The policy of a strict request.
    pub(crate) strict: Option<Strict>,
    /// Whether its session has a backend.
    pub(crate) has_pinned_backend: bool,
}

impl ErrorContext {
    /// The status of the response, and whether it has `Retry-After`.
    pub(crate) fn status(&self, error: &StickyError) -> (StatusCode, bool) {
        let strict = self.strict.unwrap_or_default();
        match error {
            StickyError::UnknownSession { .. } => (strict.status, false),
            StickyError::Unavailable { .. } => (strict.unavailable, true),
            StickyError::Busy { .. } if self.has_pinned_backend => (strict.unavailable, true),
            error => {
                let status = error.status();
                (status, status == StatusCode::SERVICE_UNAVAILABLE)
            }
        }
    }
}
