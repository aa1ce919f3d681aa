//! Puts a `tonic::Status` into the source chain of an error, where Tonic finds it.

use std::{
    error::Error,
    sync::{Arc, LazyLock},
};

use tonic::{Code, ConnectError, Status};

use super::StickyError;
use crate::error::{BoxError, chain};

/// The sources of errors without another one.
pub(crate) static NO_SERVER: LazyLock<Status> =
    LazyLock::new(|| Status::unavailable("no server is available for this session"));
pub(crate) static STAYED_BUSY: LazyLock<Status> =
    LazyLock::new(|| Status::resource_exhausted("busy, try again later"));
pub(crate) static UNKNOWN_SESSION: LazyLock<Status> =
    LazyLock::new(|| Status::failed_precondition("the session is not known; start a new one"));
pub(crate) static CUT_OFF: LazyLock<Status> =
    LazyLock::new(|| Status::unavailable("the server is being taken out of service"));

/// The code of the first status in the chain of `error`.
pub(crate) fn code_in(error: &(dyn Error + 'static)) -> Option<u8> {
    chain(error).find_map(|error| error.downcast_ref().map(|status: &Status| status.code() as u8))
}

/// The error with a status in its chain, which Tonic sends in place of `UNKNOWN`.
pub(crate) fn in_chain(error: StickyError) -> StickyError {
    let (code, message) = (Code::from(i32::from(error.grpc_code())), error.to_string());
    let with_status = |source: BoxError| -> BoxError {
        if has_grpc_code(source.as_ref()) {
            return source;
        }
        let mut status = Status::new(code, message);
        status.set_source(Arc::from(source));
        status.into()
    };
    match error {
        StickyError::NotSent { backend, source } => {
            StickyError::NotSent { backend, source: with_status(source) }
        }
        StickyError::Backend { backend, source } => {
            StickyError::Backend { backend, source: with_status(source) }
        }
        StickyError::Shortage { backend, source } => {
            StickyError::Shortage { backend, source: with_status(source) }
        }
        StickyError::Client { backend, source } => {
            StickyError::Client { backend, source: with_status(source) }
        }
        StickyError::Inner { source } => StickyError::Inner { source: with_status(source) },
        // The `source` of these is a status.
        StickyError::NoBackend
        | StickyError::Unavailable { .. }
        | StickyError::StoreUnavailable
        | StickyError::UnknownSession { .. }
        | StickyError::Busy { .. } => error,
    }
}

/// Whether Tonic derives the right code from `error`. It does not for a broken connection, which it reports
/// as `UNKNOWN`, `INTERNAL` or `CANCELLED`, nor for its own timeout, which it reports as `CANCELLED`.
fn has_grpc_code(error: &(dyn Error + 'static)) -> bool {
    let found = chain(error).find_map(|error| {
        if error.is::<Status>() || error.is::<ConnectError>() {
            return Some(true);
        }
        // The reason of a stream reset maps to a code.
        let h2 = error.downcast_ref::<hyper::Error>()?.source()?.downcast_ref::<h2::Error>()?;
        let unknown = [h2::Reason::STREAM_CLOSED, h2::Reason::HTTP_1_1_REQUIRED];
        Some(h2.is_reset() && h2.reason().is_some_and(|reason| !unknown.contains(&reason)))
    });
    found.unwrap_or(false)
}
