//! `TimedOut`: a timeout of a backend.

use std::{error::Error, fmt};

/// A backend's error for a timeout. The response has status 504 instead of 502.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedOut {
    what: &'static str,
}

impl TimedOut {
    /// A connection was not established in time.
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
