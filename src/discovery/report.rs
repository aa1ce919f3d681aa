//! What a feed tells about itself.

use tokio::sync::watch;

use crate::error::BoxError;

/// Why a feed ended. The backends that it brought stay as they are.
#[derive(Debug)]
#[non_exhaustive]
pub enum DiscoveryEnd {
    /// The stream has ended.
    Ended,
    /// The stream has ended after this error.
    Failed(BoxError),
    /// The last handle of the pool is gone, and so is the pool.
    PoolGone,
}

/// What a feed has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct DiscoveryStats {
    /// How often it told what the backends are: batches of changes, or look-ups that were answered.
    pub updates: u64,
    /// How often it could not tell: error items, or look-ups that failed at least in part.
    pub failures: u64,
    /// How often a backend was left out because its id is not one or is taken, or because no service
    /// could be made for it.
    pub skipped: u64,
}

/// Watches a feed that runs elsewhere; from [`Discovery::handle`](crate::discovery::Feed::handle).
#[derive(Debug, Clone)]
pub struct DiscoveryHandle {
    pub(super) stats: watch::Receiver<DiscoveryStats>,
}

impl DiscoveryHandle {
    /// What the feed has done so far.
    pub fn stats(&self) -> DiscoveryStats {
        *self.stats.borrow()
    }

    /// Waits until `condition` holds, for example until the feed has told its backends for the first
    /// time; false when the feed ends before.
    ///
    /// ```
    /// # use tower_sticky::discovery::DiscoveryHandle;
    /// # async fn filled(handle: DiscoveryHandle) {
    /// handle.wait_until(|stats| stats.updates > 0).await;
    /// # }
    /// ```
    pub async fn wait_until(&self, mut condition: impl FnMut(&DiscoveryStats) -> bool) -> bool {
        self.stats.clone().wait_for(|stats| condition(stats)).await.is_ok()
    }
}
