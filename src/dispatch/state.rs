//! `Dispatch`: the state of one request and the decisions about it.

use std::{num::NonZeroU64, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    attempt::{Attempt, NextStep, WaitLimit},
    candidates::RemainingCandidates,
    core::Core,
    decision::{Decision, InnerRole, Recognized, Relocation},
    handoff::HandoffGuard,
    held_pin::{Held, HeldPin},
    recovery::RecoveryWait,
    request_kind::RequestKind,
    shared_choice::SharedChoice,
    spans::Spans,
};
use crate::{
    affinity::{Origin, PlannedPin, RequestState},
    error::{BoxError, SendCount},
    id::BackendId,
    outcome::{ErrorContext, Reason, Verdict, recording::Timestamp},
    pool::{BackendState, Generation, NO_SESSION, UNIDENTIFIED},
    token::Pin,
    util::clock::later,
};

/// The state of one request and the decisions about it. It is moved with each request, so state that only
/// few requests need is in [`SlowPath`].
pub(crate) struct Dispatch<S> {
    pub(super) core: Arc<Core<S>>,
    pub(super) inner: InnerRole,
    /// The version of the pool's members when the backend was chosen.
    pub(super) version: u64,
    /// The pin of the request's session. Its backend may have left the pool.
    pub(super) pin: Option<Pin>,
    /// The member of a chain of affinities that the pin or the key came from.
    pub(super) source: Origin,
    /// Set when the client holds the session itself, in a [`StickySession`](crate::StickySession).
    pub(super) held: Option<Held>,
    /// Identifies the session on every gateway.
    pub(super) key: Option<u64>,
    pub(super) recognized: Recognized,
    /// No pin is written, whatever the outcome.
    pub(super) no_pin: bool,
    /// No other backend than the pinned one may serve the session.
    pub(super) strict: bool,
    pub(super) kind: RequestKind,
    pub(super) decision: Decision,
    /// The tag of the backend that must answer the request unless a stated policy decides otherwise, for
    /// the counter of violations. A backend with the tag 0 is not checked. As a field of `Decision` it would
    /// take more space.
    expected_backend: Option<NonZeroU64>,
    pub(super) slow_path: Option<Box<SlowPath>>,
    /// What the affinity has recorded about the request, for the response.
    pub(crate) affinity_state: RequestState,
}

/// The state of a request that needs more than one call of its backend.
#[derive(Default)]
pub(crate) struct SlowPath {
    pub(super) relocation: Relocation,
    /// While it is held, no other request of the session runs the hook.
    pub(crate) handoff_guard: Option<HandoffGuard>,
    /// The members of a chain whose tokens were rejected although there is a pin, one bit each.
    pub(super) rejected_tokens: u64,
    /// The tag of the backend that the next member of a chain selects, while the first one is unavailable.
    pub(super) fallback: Option<u64>,
    /// The planned pin that was sent to a backend or the hook, and the verdict that it is for.
    pub(super) planned: Option<(Verdict, PlannedPin)>,
    /// The backend that may have executed the request without an answer, and its error.
    pub(super) unanswered: Option<(BackendId, BoxError)>,
    /// How often the request was sent without a response.
    pub(super) sends: SendCount,
    /// The last attempt was the trial of a suspect other than the pinned backend.
    pub(super) tried_suspect: bool,
    /// Since when the request has been waiting for a backend to become ready.
    pub(super) waiting_since: Option<Instant>,
    /// When the request was sent, if that was not at its arrival.
    pub(super) sent: Option<Timestamp>,
    /// Its spans, if they are enabled.
    pub(super) spans: Option<Spans>,
    /// How long it has waited for that so far; `None` if it has not.
    pub(super) waited: Option<Duration>,
    /// How often a backend has been given the request and has not answered it.
    pub(super) failed_attempts: u32,
    /// The generation of the last such backend when it was given the request.
    pub(super) last_attempt: Option<Generation>,
    /// The deadline for all waits, counted from the first wait or failure.
    pub(super) deadline: Option<Instant>,
    /// Held while the request waits for the pinned backend to recover.
    pub(super) recovery_wait: Option<RecoveryWait>,
    /// Until when the request waits for another request's trial of the pinned backend.
    pub(super) trial_until: Option<Instant>,
    /// Held so that parallel first requests of the session share one choice.
    pub(super) shared_choice: Option<SharedChoice>,
    /// Set once the first choice has failed.
    pub(super) remaining: Option<RemainingCandidates>,
}

impl<S: Clone> Dispatch<S> {
    #[inline]
    pub(crate) fn new(core: Arc<Core<S>>, has_inner: bool, held: Option<Arc<HeldPin>>) -> Self {
        let inner = match (has_inner, &core.local) {
            (false, _) => InnerRole::None,
            (true, Some(_)) => InnerRole::LocalNode,
            (true, None) => InnerRole::LastResort,
        };
        Self {
            inner,
            version: 0,
            pin: None,
            source: Origin::default(),
            held: held.map(|held| (held, 0)),
            key: None,
            recognized: Recognized::NoSession,
            no_pin: false,
            strict: core.options.strict.on,
            kind: RequestKind::default(),
            decision: Decision::new(),
            expected_backend: None,
            slow_path: None,
            affinity_state: RequestState::default(),
            core,
        }
    }

    /// The present service of the backend, if the pool's members have changed since the backend was chosen.
    #[inline]
    pub(crate) fn renewed(&mut self, state: &BackendState) -> Option<S> {
        let version = self.core.backends.pool().version();
        if self.version == version { None } else { self.service_at(state, version) }
    }

    #[cold]
    fn service_at(&mut self, state: &BackendState, version: u64) -> Option<S> {
        self.version = version;
        let snapshot = self.core.backends.pool().load();
        // A backend that has left the pool still serves the requests that have chosen it.
        let position = snapshot.index().position(state.tag)?;
        snapshot.members.services[position].clone()
    }

    /// Tries the backend's new service after its old one has not taken the request.
    pub(crate) fn retry_with_new_service(
        &mut self,
        state: &Arc<BackendState>,
    ) -> Option<NextStep<S>> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let service = snapshot.members.services[snapshot.index().position(state.tag)?].clone()?;
        let wait_limit =
            if self.decision.is_pinned() { WaitLimit::Pinned } else { WaitLimit::None };
        Some(NextStep::Try(Attempt::new(state.clone(), Some(service), wait_limit)))
    }
}

impl<S> Dispatch<S> {
    pub(crate) fn core(&self) -> &Core<S> {
        &self.core
    }

    pub(crate) fn shared_core(&self) -> Arc<Core<S>> {
        self.core.clone()
    }

    /// The request is sent to the backend of its pin or key.
    #[inline]
    pub(super) fn set_pinned(&mut self, tag: u64) {
        self.expected_backend = NonZeroU64::new(tag);
        self.decision.set_verdict(Verdict::Pinned);
    }

    /// The backend with this tag must answer the request, whether or not it is available.
    pub(super) fn set_expected_backend(&mut self, tag: u64) {
        self.expected_backend = NonZeroU64::new(tag);
    }

    /// The tag of the backend that must answer the request unless a stated policy decides otherwise.
    #[inline]
    pub(super) fn expected_backend(&self) -> Option<u64> {
        self.expected_backend.map(NonZeroU64::get)
    }

    /// A stated policy sends the request to another backend than that of its key.
    pub(super) fn set_borrowed(&mut self, reason: Reason) {
        self.expected_backend = None;
        self.decision.set(Verdict::Borrowed, Some(reason));
    }

    /// Whether the backend with this tag answers in place of the one that must, for no stated reason.
    #[inline]
    pub(super) fn is_violated_by(&self, tag: u64) -> bool {
        self.expected_backend().is_some_and(|expected| expected != tag)
            && self.decision.reason().is_none()
    }

    /// The members of a chain whose tokens were rejected and must be replaced, one bit each.
    pub(super) fn rejected_tokens(&self) -> u64 {
        self.slow_path.as_ref().map_or(0, |slow_path| slow_path.rejected_tokens)
    }

    pub(super) fn relocation(&self) -> Relocation {
        self.slow_path.as_ref().map_or(Relocation::None, |slow_path| slow_path.relocation)
    }

    /// Whether the session is moving to another backend although it could stay.
    pub(super) fn moves_voluntarily(&self) -> bool {
        self.relocation() == Relocation::Voluntary
    }

    /// Whether the key of each request decides, so that no pin is stored.
    #[inline]
    pub(super) fn is_keyed(&self) -> bool {
        self.recognized == Recognized::Key
    }

    /// Whether the session stays with its backend whatever happens: what identifies it cannot be changed.
    #[inline]
    pub(super) fn cannot_move(&self) -> bool {
        matches!(self.recognized, Recognized::Key | Recognized::Route)
    }

    #[inline]
    pub(crate) fn is_grpc(&self) -> bool {
        self.kind.grpc
    }

    #[inline]
    pub(crate) fn is_https(&self) -> bool {
        self.kind.https
    }

    /// When the request was sent, if that was not at its arrival.
    #[inline]
    pub(crate) fn sent(&self) -> Option<Timestamp> {
        self.slow_path.as_ref().and_then(|slow_path| slow_path.sent)
    }

    pub(crate) fn slow_path(&mut self) -> &mut SlowPath {
        self.slow_path.get_or_insert_default()
    }

    /// Until when the request may wait for a backend, with this limit.
    pub(crate) fn deadline(&mut self, wait_limit: WaitLimit) -> Instant {
        let deadline = self.request_deadline();
        match wait_limit {
            WaitLimit::Pinned => deadline.min(later(self.core.options.busy.wait)),
            WaitLimit::None | WaitLimit::Last => deadline,
        }
    }

    /// The deadline of the request, `ready_timeout` after its first wait or failure.
    pub(super) fn request_deadline(&mut self) -> Instant {
        let timeout = self.core.options.ready_timeout;
        *self.slow_path().deadline.get_or_insert_with(|| later(timeout))
    }

    pub(crate) fn error_context(&self) -> ErrorContext {
        let options = &self.core.options;
        ErrorContext {
            grpc: self.kind.grpc,
            retry_after: options.retry_after,
            strict: Some(options.strict).filter(|_| self.strict),
            has_pinned_backend: self.pin.is_some() || self.expected_backend().is_some(),
        }
    }

    /// The key of the request in wait queues: that of its session, or a common one for requests without a
    /// session and for sessions without an id.
    pub(crate) fn waiter_key(&self) -> u64 {
        let has_session = self.pin.is_some() && !self.no_pin;
        self.key.unwrap_or(if has_session { UNIDENTIFIED } else { NO_SESSION })
    }

    pub(super) fn is_local(&self, state: &BackendState) -> bool {
        self.inner == InnerRole::LocalNode && self.core.local.as_ref() == Some(&state.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dispatch_fits_into_two_cache_lines() {
        // A larger value is moved by a call to memcpy.
        assert!(size_of::<Dispatch<()>>() <= 128, "{} bytes", size_of::<Dispatch<()>>());
    }
}
