//! `NotSent` and `Unanswered`: errors by which a backend returns a request.

use std::{error::Error, fmt, sync::Mutex};

use tokio::time::Instant;

use super::{
    config::BoxError,
    unreachable::{Redial, Redialer, Unreachable},
};

/// A backend's error for a request that was **not sent**, and is returned unchanged.
///
/// A backend returns it (boxed, as its error or anything that converts into a [`BoxError`]) when it
/// could not connect. The layer then sends the request to the next candidate without copying it.
/// [`with_redial`](Self::with_redial) adds how to find out whether the backend has recovered.
///
/// `Req` must be the type of the request that the layer gave to the backend. An error with another type,
/// because a middleware in between has changed the body, is treated as any other error.
/// [`Reclaim`](crate::Reclaim) converts the errors of any HTTP client.
pub struct NotSent<Req> {
    // The mutex makes the error `Sync` for requests that are not, as a boxed error must be.
    request: Mutex<Option<Req>>,
    source: BoxError,
}

/// A backend's error for a connection that ended before any byte of an answer. The request, **which may
/// have been executed**, is returned.
///
/// A backend returns it only for a request that can be repeated: one with an idempotent method (RFC 9110,
/// section 9.2.2) and without a body. Whether the layer sends it to another backend is set by
/// [`retry_idempotent`](crate::StickyLayer::retry_idempotent).
pub struct Unanswered<Req> {
    request: Mutex<Option<Req>>,
    source: BoxError,
}

macro_rules! request_error {
    ($name:ident, $what:literal) => {
        impl<Req> $name<Req> {
            /// Returns `request` because of `source`.
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
    /// Adds how to find out, without a request, whether the backend can be reached again.
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
