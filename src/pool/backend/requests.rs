//! Counts the requests of a backend: all of them, and those in flight.

use crate::util::sync::{
    AtomicU64,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};

/// Requests that have entered and those that have left; the difference is in flight.
#[derive(Debug)]
pub(crate) struct RequestCounter {
    entered: AtomicU64,
    left: AtomicU64,
}

impl RequestCounter {
    pub(crate) fn new() -> Self {
        Self { entered: AtomicU64::new(0), left: AtomicU64::new(0) }
    }

    /// Counts a request. In one total order with changes of the mode: see `BackendState::set_mode`.
    #[inline]
    pub(crate) fn enter(&self) {
        self.entered.fetch_add(1, SeqCst);
    }

    /// Ends a request that has entered.
    #[inline]
    pub(crate) fn leave(&self) {
        self.left.fetch_add(1, Release);
    }

    /// The number of requests in flight. `left` is read first: a thread that sees a request leave has seen
    /// it enter, so the difference is never negative, and never 0 for a request in flight.
    #[inline]
    pub(crate) fn in_flight(&self) -> usize {
        let left = self.left.load(Acquire);
        self.entered.load(SeqCst).saturating_sub(left) as usize
    }

    /// All requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.entered.load(Relaxed)
    }
}
