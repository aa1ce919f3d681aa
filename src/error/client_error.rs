//! `ClientError`: a request that failed because of its own body.

use std::{error::Error, fmt, time::Duration};

use super::{config::BoxError, unreachable::chain};

/// A backend's error for a request whose **own body** failed, which is the client's fault: the body broke
/// off, stalled, was malformed, or did not have its announced length.
///
/// It may be anywhere in the source chain of the backend's error. It is not counted as a failure of the
/// backend, the request is not retried, and the layer's error is [`StickyError::Client`], with
/// [`Reason::ClientError`](crate::Reason::ClientError). [`proxy::Upstream`](crate::proxy::Upstream)
/// returns it.
///
/// [`StickyError::Client`]: crate::StickyError::Client
///
/// # Example
///
/// ```
/// use tower_sticky::{BoxError, ClientError};
///
/// fn body_failed(error: std::io::Error) -> BoxError {
///     ClientError::new(error).into()
/// }
/// ```
#[derive(Debug)]
pub struct ClientError {
    source: BoxError,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Broken,
    Stalled,
    TooLarge,
}

impl ClientError {
    /// An error for a body that failed because of `source`. The response has status 400, or that of the
    /// `ClientError` in the source chain of `source`, if there is one.
    pub fn new(source: impl Into<BoxError>) -> Self {
        let source = source.into();
        let kind = Self::in_chain(source.as_ref()).map_or(Kind::Broken, |inner| inner.kind);
        Self { source, kind }
    }

    /// An error for a client that sent nothing for `limit` while its body was being read. The response has
    /// status 408.
    pub fn stalled(limit: Duration) -> Self {
        let source = format!("the client sent nothing for {limit:?}").into();
        Self { source, kind: Kind::Stalled }
    }

    /// An error for a body that has come to be longer than `limit` bytes. The response has status 413.
    pub fn too_large(limit: u64) -> Self {
        let source = format!("it is longer than {limit} bytes").into();
        Self { source, kind: Kind::TooLarge }
    }

    /// Whether the client has stalled.
    pub fn is_stall(&self) -> bool {
        self.kind == Kind::Stalled
    }

    /// Whether the body is too large.
    pub fn is_too_large(&self) -> bool {
        self.kind == Kind::TooLarge
    }

    /// The `ClientError` in the source chain of `error`, if any.
    pub(crate) fn in_chain<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a Self> {
        chain(error).find_map(<dyn Error>::downcast_ref)
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request's body failed: {}", self.source)
    }
}

impl Error for ClientError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(self.source.as_ref())
    }
}
