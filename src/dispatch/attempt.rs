//! The next step of a request, and the attempt to send it to one backend.

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
    /// Wait for a store, without whose answer the request cannot be read.
    Lookup(StoreLookup),
    /// Wait until the application has transferred the session's state to the backend with the tag `to`.
    Handoff {
        work: Handoff,
        to: u64,
        reason: Reason,
    },
    Try(Attempt<S>),
    /// Wait until a suspect has recovered, or a recheck of it has ended.
    Recover(Box<Recovery>),
    LastResort,
    Fail(StickyError),
}

/// One backend that the request should be sent to.
pub(crate) struct Attempt<S> {
    pub(crate) state: Arc<BackendState>,
    /// `None` for the local node, whose service is the inner service.
    pub(crate) service: Option<S>,
    pub(crate) trial: Option<TrialPermit>,
    pub(crate) wait_limit: WaitLimit,
}

/// How long to wait for a busy backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WaitLimit {
    /// Not at all, as there may be other candidates.
    None,
    /// As long as the policy for busy backends says: the session is pinned to it.
    Pinned,
    /// Until the deadline of the request: no other candidate is left.
    Last,
}

/// Permits one request to try a suspect. Dropping it, with or without a result, lets another request try.
pub(crate) struct TrialPermit {
    state: Arc<BackendState>,
    recheck: RecheckId,
}

impl TrialPermit {
    /// A permit for a trial that is due, although other backends are available.
    pub(super) fn if_due(
        state: &Arc<BackendState>,
        settings: &Settings,
        repeatable: bool,
        is_pinned: bool,
    ) -> Option<Self> {
        let (now, longest) = (Instant::now(), settings.redial.1);
        let wants = |evidence: &Evidence| evidence.wants_trial(longest, now, repeatable, is_pinned);
        Self::take_if(state, wants)
    }

    /// A permit for a trial because no better backend is left. `None` while another request tries the
    /// backend.
    pub(super) fn if_free(state: &Arc<BackendState>) -> Option<Self> {
        Self::take_if(state, |_| true)
    }

    fn take_if(state: &Arc<BackendState>, admits: impl FnOnce(&Evidence) -> bool) -> Option<Self> {
        let mut sources = state.sources();
        if !admits(&sources.evidence) {
            return None;
        }
        let recheck = sources.evidence.rechecks.begin(true)?;
        drop(sources);
        Some(Self { state: state.clone(), recheck })
    }

    pub(crate) fn recheck(&self) -> RecheckId {
        self.recheck
    }
}

impl Drop for TrialPermit {
    fn drop(&mut self) {
        self.state.end_recheck(self.recheck);
    }
}

impl<S> Attempt<S> {
    pub(super) fn new(state: Arc<BackendState>, service: Option<S>, wait_limit: WaitLimit) -> Self {
        Self { state, service, trial: None, wait_limit }
    }
}
