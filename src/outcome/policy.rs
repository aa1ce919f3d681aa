//! Policies for sessions whose backend cannot serve them.

use std::time::Duration;

use http::StatusCode;

use crate::{error::ConfigError, outcome::Reason};

/// What to do with a session whose backend cannot serve it.
///
/// Sessions of a backend that has left the pool always move to another one, unless the layer is [strict](crate::StickyLayer::strict).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Failover {
    /// Move the session: another backend serves it from now on, also after the old one has returned.
    #[default]
    Repin,
    /// Borrow another backend for this one request; the pin stays.
    Borrow,
    /// Answer with an error (503), because other backends cannot serve the session.
    Reject,
}

/// What to do with a session whose backend is busy: wait for a while, then fail over.
///
/// # Example
///
/// ```
/// use std::time::Duration;
/// use tower_sticky::{Busy, Failover};
///
/// let busy = Busy::wait(Duration::from_millis(200)).then(Failover::Reject);
/// assert_eq!(Busy::default(), Busy::wait(Duration::from_millis(200)).then(Failover::Borrow));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Busy {
    pub(crate) wait: Duration,
    pub(crate) then: Failover,
}

impl Busy {
    /// Waits this long for the pinned backend, and then borrows another one.
    pub const fn wait(wait: Duration) -> Self {
        Self { wait, then: Failover::Borrow }
    }

    /// What to do after the wait; default [`Failover::Borrow`].
    #[must_use]
    pub const fn then(mut self, failover: Failover) -> Self {
        self.then = failover;
        self
    }
}

impl Default for Busy {
    fn default() -> Self {
        Self::wait(Duration::from_millis(200))
    }
}

/// Error responses for requests whose session cannot continue on its backend, instead of a new session or
/// another backend; see [`StickyLayer::strict`](crate::StickyLayer::strict).
///
/// # Example
///
/// A server of the Model Context Protocol answers 404 for a session that it does not have:
///
/// ```
/// use http::StatusCode;
/// use tower_sticky::Strict;
///
/// let strict = Strict::new()
///     .status(StatusCode::NOT_FOUND)?
///     .unavailable_status(StatusCode::NOT_FOUND)?
///     .expired(true);
/// # Ok::<(), tower_sticky::ConfigError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Strict {
    pub(crate) on: bool,
    pub(crate) status: StatusCode,
    pub(crate) expired: bool,
    pub(crate) unavailable: StatusCode,
}

impl Strict {
    /// Answers 410 for an unknown session and 503 for one whose backend cannot serve it; an expired session
    /// is replaced by a new one.
    pub const fn new() -> Self {
        let (status, unavailable) = (StatusCode::GONE, StatusCode::SERVICE_UNAVAILABLE);
        Self { on: true, status, expired: false, unavailable }
    }

    /// The status for a token that is unknown, malformed or forged, or whose backend has left the pool;
    /// default 410.
    ///
    /// # Errors
    ///
    /// When it is not from 400 to 499.
    pub fn status(mut self, status: StatusCode) -> Result<Self, ConfigError> {
        if !status.is_client_error() {
            return Err(ConfigError::new(format!(
                "strict: the status {} does not say that the request is refused; use one from 400 to \
                 499, such as 410 or 404",
                status.as_u16()
            )));
        }
        self.status = status;
        Ok(self)
    }

    /// Whether a token that has expired is rejected as well; default `false`: a new session begins.
    #[must_use]
    pub const fn expired(mut self, expired: bool) -> Self {
        self.expired = expired;
        self
    }

    /// The status, with `Retry-After`, for a session whose backend is known and cannot serve it; default
    /// 503.
    ///
    /// # Errors
    ///
    /// When it is not from 400 to 599.
    pub fn unavailable_status(mut self, status: StatusCode) -> Result<Self, ConfigError> {
        if !status.is_client_error() && !status.is_server_error() {
            return Err(ConfigError::new(format!(
                "strict: the status {} does not say that there is no answer; use one from 400 to 599, \
                 such as 503 or 404",
                status.as_u16()
            )));
        }
        self.unavailable = status;
        Ok(self)
    }

    /// Whether a token with this error is rejected.
    pub(crate) fn refuses(&self, reason: Reason) -> bool {
        match reason {
            Reason::Malformed | Reason::Forged | Reason::OtherPool | Reason::Unknown => true,
            Reason::ExpiredIdle | Reason::ExpiredAbsolute => self.expired,
            _ => false,
        }
    }
}

impl Default for Strict {
    fn default() -> Self {
        Self::new()
    }
}

/// Enabled with the defaults, or disabled.
impl From<bool> for Strict {
    fn from(on: bool) -> Self {
        Self { on, ..Self::new() }
    }
}
