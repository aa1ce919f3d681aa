//! Errors by which a backend gives a request back.

use std::{error::Error, fmt, sync::Mutex};

use tokio::time::Instant;

use super::{
    config::BoxError,
    unreachable::{Redial, Redialer, Unreachable},
};

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
