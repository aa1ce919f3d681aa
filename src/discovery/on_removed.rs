//! What becomes of a backend that is not named any more.

use std::time::Duration;

/// What a feed does with a backend that it no longer names. Either way the requests in flight finish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum OnRemoved {
    /// It is removed at once; its sessions are placed anew when they come back.
    #[default]
    Remove,
    /// It is [draining](crate::Mode::Draining) for so long, and removed then: meanwhile it serves its
    /// sessions and takes no new ones. When the feed names it again, it is active again.
    Drain(Duration),
}
