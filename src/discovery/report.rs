//! Statistics of a discovery, and why it has ended.

use tokio::sync::watch;

use super::on_removed::OnRemoved;
use crate::error::BoxError;

/// Why a discovery has ended. The backends that it has added stay as they are, unless it was withdrawn.
#[derive(Debug)]
#[non_exhaustive]
pub enum DiscoveryEnd {
    /// The stream has ended.
    Ended,
    /// The stream has ended after this error.
    Failed(BoxError),
    /// The last handle of the pool was dropped.
    PoolGone,
    /// [`DiscoveryHandle::withdraw`] was called, and the backends have left.
    Withdrawn,
}

/// What the handles of a discovery ask of it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Control {
    pub(super) on_removed: OnRemoved,
    pub(super) stage: Stage,
}

/// Whether a discovery still changes the pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Stage {
    #[default]
    Following,
    /// Its source is not followed, and others may take its backends over.
    Released,
    /// Those that nobody has taken over leave.
    Withdrawn,
}

/// Totals of a discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiscoveryStats {
    /// Successful updates: batches of changes, or look-ups that were answered.
    pub updates: u64,
    /// Failures: error items, or look-ups that have failed at least in part.
    pub failures: u64,
    /// Backends that were skipped because their id is invalid or taken, or because their service could not
    /// be made. Counted with each update.
    pub skipped: u64,
}

/// Observes and ends a discovery that runs in another task; from
/// [`Discovery::handle`](crate::discovery::Discovery::handle).
#[derive(Debug, Clone)]
pub struct DiscoveryHandle {
    pub(super) stats: watch::Receiver<DiscoveryStats>,
    pub(super) control: watch::Sender<Control>,
}

impl DiscoveryHandle {
    /// Totals since the discovery was started.
    pub fn stats(&self) -> DiscoveryStats {
        *self.stats.borrow()
    }

    /// Changes what is done with backends that are no longer found from now on.
    pub fn set_on_removed(&self, on_removed: OnRemoved) {
        self.control.send_modify(|control| control.on_removed = on_removed);
    }

    /// The discovery follows its source no longer. Its backends stay, and another discovery that finds them takes
    /// them over: their sessions, modes and counters go on there. To be followed by [`withdraw`](Self::withdraw),
    /// once the other one has found its backends.
    pub fn release(&self) {
        self.control.send_modify(|control| control.stage = control.stage.max(Stage::Released));
    }

    /// Ends the discovery. Its backends leave as if they were no longer found (see
    /// [`Discovery::on_removed`](super::Discovery::on_removed)), unless another discovery has taken them over or
    /// does so before they have left. Then its task ends with [`DiscoveryEnd::Withdrawn`].
    pub fn withdraw(&self) {
        self.control.send_modify(|control| control.stage = Stage::Withdrawn);
    }

    /// Waits until `condition` holds, for example until the backends were found for the first time.
    /// Returns `false` if the discovery ends before.
    ///
    /// # Example
    ///
    /// ```
    /// # use tower_sticky::discovery::DiscoveryHandle;
    /// # async fn wait_for_backends(handle: DiscoveryHandle) {
    /// handle.wait_until(|stats| stats.updates > 0).await;
    /// # }
    /// ```
    pub async fn wait_until(&self, mut condition: impl FnMut(&DiscoveryStats) -> bool) -> bool {
        self.stats.clone().wait_for(|stats| condition(stats)).await.is_ok()
    }
}
