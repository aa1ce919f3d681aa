//! `Watchers`: how many requests wait for a change of a backend.

use crate::util::sync::{
    AtomicUsize,
    Ordering::{Relaxed, SeqCst},
    fence,
};

/// How many requests wait for a change of a backend, so that a change of a large pool looks only at the queues in which
/// somebody waits: that look is most of its cost.
///
/// A request [begins](Self::begin) and then reads what it waits for. After a change comes [a fence](Self::after_change),
/// and then the question whether there are [any](Self::any). Either the request reads the change, or the change sees the
/// request.
#[derive(Debug)]
pub(crate) struct Watchers(AtomicUsize);

impl Watchers {
    pub(crate) fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Counts a request. What it reads after this is as new as the last change that has not seen it.
    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Relaxed);
        fence(SeqCst);
    }

    /// The request does not wait any more.
    pub(crate) fn end(&self) {
        self.0.fetch_sub(1, Relaxed);
    }

    /// The fence between a change and [`any`](Self::any), which is one for many backends.
    pub(crate) fn after_change() {
        fence(SeqCst);
    }

    /// Whether a request waits, that may not have read what was changed before the fence.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Relaxed) > 0
    }
}
