//! The sessions of a backend for the choice of a new session's backend: the last count, and those placed since.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// The sessions cannot be told apart.
const UNKNOWN: u64 = u64::MAX;

/// The number of a backend's sessions, as far as a strategy needs it.
#[derive(Debug, Default)]
pub(crate) struct SessionLoad {
    counted: AtomicU64,
    placed: AtomicU32,
}

impl SessionLoad {
    /// Sets the number of sessions, which contains those that were placed before; `None` when they cannot be told
    /// apart.
    pub(crate) fn set(&self, count: Option<u64>) {
        self.placed.store(0, Relaxed);
        self.counted.store(count.unwrap_or(UNKNOWN), Relaxed);
    }

    /// A session was placed on the backend.
    pub(crate) fn place(&self) {
        self.placed.fetch_add(1, Relaxed);
    }

    /// The number of sessions; `None` when they cannot be told apart.
    pub(crate) fn get(&self) -> Option<u64> {
        let counted = self.counted.load(Relaxed);
        (counted != UNKNOWN).then(|| counted + u64::from(self.placed.load(Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placed_sessions_count_until_they_are_counted() {
        let load = SessionLoad::default();
        assert_eq!(load.get(), Some(0));
        load.place();
        load.place();
        assert_eq!(load.get(), Some(2));
        load.set(Some(7));
        load.place();
        assert_eq!(load.get(), Some(8));
        load.set(None);
        load.place();
        assert_eq!(load.get(), None);
    }
}
