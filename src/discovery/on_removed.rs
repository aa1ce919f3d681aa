//! [`OnRemoved`]: the option for backends that are no longer found.

use std::time::Duration;

/// What a discovery does with a backend that it no longer finds. In either case requests in flight finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnRemoved {
    /// Removes it at once; its sessions are assigned to other backends with their next requests.
    #[default]
    Remove,
    /// [Drains](crate::Mode::Draining) it for this time, and then removes it: it serves its sessions and
    /// takes no new ones. If it is found again meanwhile, it becomes active again.
    Drain(Duration),
}
