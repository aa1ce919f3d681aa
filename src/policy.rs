//! What to do when a pinned backend cannot serve its session.

use std::time::Duration;

/// What to do with a session whose backend cannot serve it.
///
/// A backend that has left the pool will not come back as far as is known: its sessions go on elsewhere
/// whatever this says, unless the layer is [strict](crate::StickyLayer::strict).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Failover {
    /// Move it: another backend serves it from now on, also after the old one has returned.
    #[default]
    Repin,
    /// Borrow another backend for this one request; the pin stays.
    Borrow,
    /// Answer with an error (503): the session is worth nothing elsewhere.
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
