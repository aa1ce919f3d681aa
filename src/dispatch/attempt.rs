//! One backend that is to be asked, and how long it may take to be ready.

use std::sync::Arc;

use super::LookUp;
use crate::{Reason, StickyError, backend::BackendState, hand_over::HandOver};

/// What to do next.
pub(crate) enum Next<S> {
    /// The request cannot be read before this has answered.
    LookUp(LookUp),
    /// The application carries the session's state over to a backend, by its tag, and for that reason.
    HandOver {
        work: HandOver,
        to: u64,
        reason: Reason,
    },
    Try(Attempt<S>),
    LastResort,
    Fail(StickyError),
}

/// One backend that is to be asked.
pub(crate) struct Attempt<S> {
    pub(crate) state: Arc<BackendState>,
    /// `None`: the local node, which is the inner service.
    pub(crate) service: Option<S>,
    pub(crate) trial: Option<Trial>,
    pub(crate) patience: Patience,
}

/// How long to wait for a backend that is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Not at all: there may be others.
    None,
    /// It holds the session: as long as the policy says.
    Pinned,
    /// Nobody else is left: as long as the whole request may.
    Last,
}

/// The one trial of a backend that is half open; given back when it ends without a result.
pub(crate) struct Trial(Arc<BackendState>);

impl Trial {
    pub(super) fn take(state: &Arc<BackendState>) -> Option<Self> {
        state.sources().passive.take_trial().then(|| Self(state.clone()))
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.0.sources().passive.return_trial();
    }
}

impl<S> Attempt<S> {
    pub(super) fn new(state: Arc<BackendState>, service: Option<S>, patience: Patience) -> Self {
        Self { state, service, trial: None, patience }
    }
}
