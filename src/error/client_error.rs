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
    is_stall: bool,
}

impl ClientError {
    /// An error for a body that failed because of `source`. The response has status 400.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self { source: source.into(), is_stall: false }
    }

    /// An error for a client that sent nothing for `limit` while its body was being read. The response has
    /// status 408.
    pub fn stalled(limit: Duration) -> Self {
        Self { source: format!("the client sent nothing for {limit:?}").into(), is_stall: true }
    }

    /// Whether the client has stalled.
    pub fn is_stall(&self) -> bool {
        self.is_stall
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
