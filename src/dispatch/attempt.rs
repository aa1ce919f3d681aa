//! One backend that is to be asked, and how long it may take to be ready.

use std::sync::Arc;

use tokio::time::Instant;

use super::{Recovery, StoreLookup};
use crate::{
    dispatch::handoff::Handoff,
    health::Settings,
    outcome::{Reason, StickyError},
    pool::{BackendState, Evidence, RecheckId},
};

/// What to do next.
pub(crate) enum NextStep<S> {
    /// The request cannot be read before this has answered.
    Lookup(StoreLookup),
    /// The application carries the session's state over to a backend, by its tag, and for that reason.
    Handoff {
        work: Handoff,
        to: u64,
        reason: Reason,
    },
    Try(Attempt<S>),
    /// A suspect may return, or somebody finds out whether it has.
    Recover(Box<Recovery>),
    LastResort,
    Fail(StickyError),
}

/// One backend that is to be asked.
pub(crate) struct Attempt<S> {
    pub(crate) state: Arc<BackendState>,
    /// `None`: the local node, which is the inner service.
    pub(crate) service: Option<S>,
    pub(crate) trial: Option<TrialPermit>,
    pub(crate) wait_limit: WaitLimit,
}

/// How long to wait for a backend that is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitLimit {
    /// Not at all: there may be others.
    None,
    /// It holds the session: as long as the policy says.
    Pinned,
    /// Nobody else is left: as long as the whole request may.
    Last,
}

/// The one request that tries a suspect; when it is dropped, with or without a result, another may.
pub(crate) struct TrialPermit {
    state: Arc<BackendState>,
    look: RecheckId,
}

impl TrialPermit {
    /// A trial that the suspect has due, though others are there.
    pub(super) fn wanted(
        state: &Arc<BackendState>,
        settings: &Settings,
        repeatable: bool,
        at_home: bool,
    ) -> Option<Self> {
        let (now, longest) = (Instant::now(), settings.redial.1);
        let wants = |evidence: &Evidence| evidence.wants_trial(longest, now, repeatable, at_home);
        Self::take_if(state, wants)
    }

    /// A trial because nobody better is left. `None` while another request tries the backend.
    pub(super) fn last(state: &Arc<BackendState>) -> Option<Self> {
        Self::take_if(state, |_| true)
    }

    fn take_if(state: &Arc<BackendState>, admits: impl FnOnce(&Evidence) -> bool) -> Option<Self> {
        let mut sources = state.sources();
        if !admits(&sources.evidence) {
            return None;
        }
        let look = sources.evidence.rechecks.begin(true)?;
        drop(sources);
        Some(Self { state: state.clone(), look })
    }

    pub(crate) fn look(&self) -> RecheckId {
        self.look
    }
}

impl Drop for TrialPermit {
    fn drop(&mut self) {
        self.state.end_recheck(self.look);
    }
}

impl<S> Attempt<S> {
    pub(super) fn new(state: Arc<BackendState>, service: Option<S>, wait_limit: WaitLimit) -> Self {
        Self { state, service, trial: None, wait_limit }
    }
}
