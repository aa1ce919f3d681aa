//! `[application]` and `[session_headers]`: what backends say and are told of their sessions.

use tower_sticky::{Backends, StickyLayer, affinity::ClientIp, proxy::Upstream};

use super::{Error, file::SessionHeaders};

/// Checks the name of the response header.
pub(super) fn check_header(name: &str) -> Result<(), Error> {
    let layer = StickyLayer::try_new(Backends::<Upstream>::new(), ClientIp::new())?;
    let checked = layer.application_header(name).map(drop);
    checked.map_err(|error| Error::new(format!("application.header = {name:?}: {error}")))
}

/// Checks that replicas are only set when the headers that carry them are on.
pub(super) fn check_session_headers(section: SessionHeaders) -> Result<(), Error> {
    match section {
        SessionHeaders { enabled: false, replicas: replicas @ 1.. } => Err(Error::new(format!(
            "session_headers.replicas = {replicas}: the headers that carry them are off; set \
             session_headers.enabled = true"
        ))),
        _ => Ok(()),
    }
}
