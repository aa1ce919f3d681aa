//! What can go wrong, as types: configuration, the errors of a dispatch, and the errors by which a
//! backend says that a request of ours was not executed.

mod client_error;
mod shortage;
mod unreachable;

#[cfg(feature = "proxy")]
pub(crate) use self::shortage::Short;
pub use self::{
    client_error::ClientError,
    shortage::Shortage,
    unreachable::{Disconnected, Redial},
};
pub(crate) use self::{
    shortage::ShortageLog,
    unreachable::{Redialer, Refusal, Sendings, Unreachable, chain, is_disconnected, redialer},
};

use std::{borrow::Cow, error::Error, fmt, sync::Mutex};

use tokio::time::Instant;

use crate::id::BackendId;

/// The error type that any backend's error is turned into.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// A configuration that cannot work: what was wrong, what was expected, what to do.
///
/// Everything that can be checked before the first request is checked when it is built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    message: Cow<'static, str>,
}

impl ConfigError {
    /// An error with `message`, which should say what was wrong, what was expected and what to do.
    pub fn new(message: impl Into<Cow<'static, str>>) -> Self {
        Self { message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl Error for ConfigError {}

/// Why [`StickyService`](crate::StickyService) could not get an answer from a backend.
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
    /// The request carries a token that is worth nothing, and the layer is
    /// [strict](crate::StickyLayer::strict).
    UnknownSession {
        /// What is wrong with the token.
        reason: crate::outcome::Reason,
    },
    /// The store that knows the session's backend does not answer, and it is set to [reject]
    /// sessions that it cannot look up.
    ///
    /// [reject]: crate::store::Answer::Unavailable
    StoreUnavailable,
    /// The backends that may take the request stayed busy for as long as a request may wait.
    Busy {
        /// The backend that was waited for.
        backend: BackendId,
    },
    /// Every candidate refused the request before it was sent; this is what the last one said.
    NotSent {
        /// The last backend tried.
        backend: BackendId,
        /// Its error.
        source: BoxError,
    },
    /// The backend took the request and failed.
    Backend {
        /// The backend.
        backend: BackendId,
        /// Its error.
        source: BoxError,
    },
    /// The body of the request failed while a backend took it: see [`ClientError`](crate::ClientError).
    /// Nothing is held against the backend.
    Client {
        /// The backend.
        backend: BackendId,
        /// Its error.
        source: BoxError,
    },
    /// This machine had no file descriptor, local port or memory left for a connection to the backend:
    /// see [`Shortage`](crate::Shortage). Nothing is held against the backend, and the session stays.
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
    /// session ([`Strict`](crate::Strict) may say another), 504 when one took it and did not answer in
    /// time, 502 when it failed otherwise, 400 when the request's own body failed and 408 when it stalled,
    /// 500 when the inner service failed.
    pub fn status(&self) -> http::StatusCode {
        match self {
            Self::NoBackend
            | Self::Unavailable { .. }
            | Self::StoreUnavailable
            | Self::Busy { .. }
            | Self::Shortage { .. }
            | Self::NotSent { .. } => http::StatusCode::SERVICE_UNAVAILABLE,
            Self::UnknownSession { .. } => http::StatusCode::GONE,
            Self::Backend { source, .. } if is_timeout(source.as_ref()) => {
                http::StatusCode::GATEWAY_TIMEOUT
            }
            Self::Backend { .. } => http::StatusCode::BAD_GATEWAY,
            Self::Client { source, .. } => match ClientError::in_chain(source.as_ref()) {
                Some(error) if error.is_stall() => http::StatusCode::REQUEST_TIMEOUT,
                _ => http::StatusCode::BAD_REQUEST,
            },
            Self::Inner { .. } => http::StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The gRPC status code of a gRPC response: 14 (UNAVAILABLE) when no backend took the request, one took it and failed, or this machine ran short; 8 (RESOURCE_EXHAUSTED) when they stayed busy; 9 (FAILED_PRECONDITION) when a
    /// strict layer does not know the session; 4 (DEADLINE_EXCEEDED) when there was no answer in time; 1
    /// (CANCELLED) when the request's own body failed; 13 (INTERNAL) when the inner service failed. With feature `tonic`, a `tonic::Status` that a backend
    /// or the inner service failed with says its own.
    pub fn grpc_code(&self) -> u8 {
        #[cfg(feature = "tonic")]
        if let Self::Backend { source, .. } | Self::Inner { source } = self
            && let Some(code) = crate::outcome::grpc_status::code_in(source.as_ref())
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

    /// Whether the request was not executed, and may be later: trying again can help.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::NoBackend
            | Self::Unavailable { .. }
            | Self::StoreUnavailable
            | Self::Busy { .. }
            | Self::Shortage { .. }
            | Self::NotSent { .. } => true,
            Self::UnknownSession { .. }
            | Self::Backend { .. }
            | Self::Client { .. }
            | Self::Inner { .. } => false,
        }
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
            // Where Tonic looks for a status.
            #[cfg(feature = "tonic")]
            Self::NoBackend | Self::Unavailable { .. } | Self::StoreUnavailable => {
                Some(&*crate::outcome::grpc_status::NO_SERVER)
            }
            #[cfg(feature = "tonic")]
            Self::UnknownSession { .. } => Some(&*crate::outcome::grpc_status::UNKNOWN_SESSION),
            #[cfg(feature = "tonic")]
            Self::Busy { .. } => Some(&*crate::outcome::grpc_status::STAYED_BUSY),
            #[cfg(not(feature = "tonic"))]
            Self::NoBackend
            | Self::Unavailable { .. }
            | Self::StoreUnavailable
            | Self::UnknownSession { .. }
            | Self::Busy { .. } => None,
        }
    }
}

/// A backend's error that says: the request was **not sent**, and here it is again, untouched.
///
/// A backend returns it (boxed, as its error or anything that converts into a [`BoxError`]) when it
/// could not connect. The layer then passes the request on to the next candidate without copying
/// anything. [`with_redial`](Self::with_redial) adds how the backend can be looked at again. It must be the very type of request that the layer gave to the backend: one whose body a
/// middleware in between has changed is not recognised, and counts as any other error. [`Reclaim`](crate::Reclaim) makes such errors out of any HTTP client.
pub struct NotSent<Req> {
    // The mutex only makes the error `Sync`, which a boxed error must be, when the request is not.
    request: Mutex<Option<Req>>,
    source: BoxError,
}

/// A backend's error that says: the connection ended before any byte of an answer came. The
/// request, **which may have been executed**, is given back.
///
/// Only a backend that can tell, and whose request can be repeated as it is, returns it: the method
/// is idempotent (RFC 9110, section 9.2.2) and there is no body. Whether the layer repeats it on
/// another backend is [its option](crate::StickyLayer::retry_idempotent).
pub struct Unanswered<Req> {
    request: Mutex<Option<Req>>,
    source: BoxError,
}

macro_rules! request_error {
    ($name:ident, $what:literal) => {
        impl<Req> $name<Req> {
            /// Gives `request` back, because of `source`.
            pub fn new(request: Req, source: impl Into<BoxError>) -> Self {
                Self { request: Mutex::new(Some(request)), source: source.into() }
            }

            /// The request and the cause.
            pub fn into_parts(self) -> (Option<Req>, BoxError) {
                let request = self.request.into_inner().unwrap_or_else(|e| e.into_inner());
                (request, self.source)
            }
        }

        impl<Req> fmt::Debug for $name<Req> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($name)).field("source", &self.source).finish()
            }
        }

        impl<Req> fmt::Display for $name<Req> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($what, ": {}"), self.source)
            }
        }

        impl<Req> Error for $name<Req> {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self.source.as_ref())
            }
        }
    };
}

request_error!(NotSent, "the request was not sent");

impl<Req> NotSent<Req> {
    /// Says how to find out, without a request, whether the backend can be reached again.
    #[must_use]
    pub fn with_redial(self, redial: impl Redial) -> Self {
        self.with_redialer(Redialer::new(redial))
    }

    pub(crate) fn with_redialer(self, redialer: Redialer) -> Self {
        let Self { request, source } = self;
        let source = Unreachable::new(source, Instant::now(), redialer).into();
        Self { request, source }
    }
}

request_error!(Unanswered, "the connection ended before an answer");

/// A backend's error that says: no answer in time. It becomes 504 instead of 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut {
    what: &'static str,
}

impl TimedOut {
    /// A connection did not come about in time.
    pub(crate) const CONNECT: Self = Self::new("connect");

    /// A timeout of `what`, for example `"response head"`.
    pub const fn new(what: &'static str) -> Self {
        Self { what }
    }
}

impl fmt::Display for TimedOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} timed out", self.what)
    }
}

impl Error for TimedOut {}

/// The error that ends a response's body whose backend was still sending when the deadline of its
/// [drain](crate::Backends::drain) came.
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
        Some(&*crate::outcome::grpc_status::CUT_OFF)
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
