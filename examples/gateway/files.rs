//! The limit of file descriptors.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are used for neither clients nor backends: listeners, the log, the runtimes.
const OWN: u64 = 64;

/// Raises the limit of file descriptors of this process as far as allowed. Returns a warning when that is
/// too low for so many client connections, each of which may need one to a backend.
pub(crate) fn raise_limit(connections: u32) -> Option<String> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }?;
    let needed = 2 * u64::from(connections) + OWN;
    (current < needed).then(|| {
        format!(
            "limits.connections = {connections} may need {needed} file descriptors, and this process may \
             have {current}; raise its limit (ulimit -n, or LimitNOFILE= of systemd), or lower \
             limits.connections to {}",
            current.saturating_sub(OWN) / 2
        )
    })
}
