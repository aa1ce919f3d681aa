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
