//! Statistics of a discovery, and why it has ended.

use tokio::sync::watch;

use crate::error::BoxError;

/// Why a discovery has ended. The backends that it has added stay as they are.
#[derive(Debug)]
#[non_exhaustive]
pub enum DiscoveryEnd {
    /// The stream has ended.
    Ended,
    /// The stream has ended after this error.
    Failed(BoxError),
    /// The last handle of the pool was dropped.
    PoolGone,
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

/// Observes a discovery that runs in another task; from
/// [`Discovery::handle`](crate::discovery::Discovery::handle).
#[derive(Debug, Clone)]
pub struct DiscoveryHandle {
    pub(super) stats: watch::Receiver<DiscoveryStats>,
}

impl DiscoveryHandle {
    /// Totals since the discovery was started.
    pub fn stats(&self) -> DiscoveryStats {
        *self.stats.borrow()
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
