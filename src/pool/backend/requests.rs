//! How many requests came to a backend, and how many are there.

use crate::util::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

/// Requests that came, and of them those that went: in flight is the difference.
#[derive(Debug)]
pub(crate) struct RequestCounter {
    entered: AtomicU64,
    left: AtomicU64,
}

impl RequestCounter {
    pub(crate) fn new() -> Self {
        Self { entered: AtomicU64::new(0), left: AtomicU64::new(0) }
    }

    /// In one order with what is said of the backend: see `BackendState::set_mode`.
    #[inline]
    pub(crate) fn enter(&self) {
        self.entered.fetch_add(1, SeqCst);
    }

    /// Once for each that entered.
    #[inline]
    pub(crate) fn leave(&self) {
        self.left.fetch_add(1, Release);
    }

    /// Whoever sees a request leave has seen it enter, hence the order: so it is never less than none,
    /// and never none for one who is in flight.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        let left = self.left.load(Acquire);
        self.entered.load(SeqCst).saturating_sub(left) as usize
    }

    /// All that ever came.
    pub(crate) fn requests(&self) -> u64 {
        self.entered.load(Relaxed)
    }
}
