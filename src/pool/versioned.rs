//! An immutable value with a version, read without a lock and replaced as a whole.

use std::sync::Arc;

use crate::util::sync::{
    AtomicU64,
    Ordering::{Acquire, Release},
    Swap, SwapGuard,
};

/// The current value, and a version that grows with its changes.
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

    /// The version. A value that is loaded after this is at least as new.
    #[inline]
    pub(crate) fn version(&self) -> u64 {
        self.version.load(Acquire)
    }

    /// Replaces the value; callers serialize this. `changed`: readers that compare versions must not use
    /// the previous value any more.
    pub(crate) fn publish(&self, next: Arc<T>, changed: bool) {
        self.current.store(next);
        if changed {
            self.version.fetch_add(1, Release);
        }
    }
}
