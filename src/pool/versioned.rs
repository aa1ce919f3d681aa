//! The picture of a pool that everybody sees, and its version.

use std::sync::Arc;

use crate::util::sync::{
    AtomicU64,
    Ordering::{Acquire, Release},
    Swap, SwapGuard,
};

/// What is published: read without a lock, and replaced as a whole.
pub(crate) struct Versioned<T> {
    current: Swap<T>,
    version: AtomicU64,
}

impl<T> Versioned<T> {
    pub(crate) fn new(first: T) -> Self {
        Self { current: Swap::new(Arc::new(first)), version: AtomicU64::new(0) }
    }

    #[inline]
    pub(crate) fn load(&self) -> SwapGuard<T> {
        self.current.load()
    }

    /// Grows with every change: what is loaded after this was read is no older.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Replaces it; one at a time. `changed` when what was there before is not to be used any more by
    /// those who look again.
    pub(crate) fn publish(&self, next: Arc<T>, changed: bool) {
        self.current.store(next);
        if changed {
            self.version.fetch_add(1, Release);
        }
    }
}
