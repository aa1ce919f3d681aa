//! `ClientError`: a request failed because of its own body.

use std::{error::Error, fmt, time::Duration};

use super::{config::BoxError, unreachable::chain};

/// A backend's error that says: the request's **own body** failed, so that nobody but the client is to
/// blame. It broke off, was malformed, was longer or shorter than announced, or stalled.
///
/// It may stand anywhere in the source chain of the backend's error. Nothing is held against the backend
/// then, the request goes nowhere else, and the layer's error is [`StickyError::Client`], with
/// [`Reason::ClientError`](crate::Reason::ClientError). [`proxy::Upstream`](crate::proxy::Upstream)
/// returns it by itself.
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
    /// The body failed because of `source`. The response is 400.
    pub fn new(source: impl Into<BoxError>) -> Self {
        Self { source: source.into(), is_stall: false }
    }

    /// The client sent nothing for as long as `limit`, though more of its body was asked for. The response
    /// is 408.
    pub fn stalled(limit: Duration) -> Self {
        Self { source: format!("the client sent nothing for {limit:?}").into(), is_stall: true }
    }

    /// Whether the client sent nothing for too long.
    pub fn is_stall(&self) -> bool {
        self.is_stall
    }

    /// The one in the source chain of `error`.
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
