//! The next step when a backend does not take the request, and the policy for its pin.

use std::sync::Arc;

use tokio::time::Instant;

use super::{
    Attempt, NextStep, TrialPermit, WaitLimit,
    candidates::{BusyFallback, RemainingCandidates},
    decision::InnerRole,
    state::Dispatch,
};
use crate::{
    error::{BoxError, SendCount, Shortage},
    id::BackendId,
    outcome::{Failover, Reason, StickyError, Verdict},
    pool::{Access, Availability, BackendState, Mode, Snapshot},
};

/// Whether a backend cannot be tried any more, or is tried when no better one is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WasTried {
    Yes,
    No,
}

impl<S: Clone> Dispatch<S> {
    /// Applies the policy for a session whose backend cannot serve.
    pub(super) fn unavailable(&mut self, state: &Arc<BackendState>, reason: Reason) -> NextStep<S> {
        self.fail_over(state, reason, self.core.options.unavailable, WasTried::Yes)
    }

    /// Applies the policy for a session whose backend is suspect. The backend is tried when no better one is
    /// left.
    pub(super) fn leave_suspect(&mut self, state: &Arc<BackendState>) -> NextStep<S> {
        self.fail_over(state, Reason::Down, self.core.options.unavailable, WasTried::No)
    }

    /// Applies the policy of a drain that has ended, to a session of its backend.
    pub(super) fn drained(&mut self, state: &Arc<BackendState>) -> NextStep<S> {
        self.fail_over(state, Reason::Draining, state.drained_policy(), WasTried::Yes)
    }

    fn fail_over(
        &mut self,
        state: &Arc<BackendState>,
        reason: Reason,
        failover: Failover,
        was_tried: WasTried,
    ) -> NextStep<S> {
        self.decision.set_reason(Some(reason));
        match self.failover_verdict(failover) {
            Some(verdict) => {
                self.decision.set_verdict(verdict);
                self.next((was_tried == WasTried::Yes).then_some(state.tag))
            }
            None if was_tried == WasTried::No => {
                self.slow_path().remaining = Some(RemainingCandidates::only(state.tag));
                self.next(None)
            }
            None => NextStep::Fail(StickyError::Unavailable { backend: state.id.clone() }),
        }
    }

    /// The pinned backend is tried after all.
    pub(super) fn return_to_pinned(&mut self, state: &BackendState) {
        self.set_pinned(state.tag);
        if self.decision.reason() != Some(Reason::Requested) {
            self.decision.set_reason(None);
        }
    }

    /// The operator has taken the backend out of service since it was chosen. It has not received the
    /// request.
    #[cold]
    pub(crate) fn withdrawn(&mut self, state: &Arc<BackendState>) -> NextStep<S> {
        if self.moves_voluntarily() {
            return self.cancel_move();
        }
        match (self.decision.verdict(), state.mode()) {
            (Verdict::Pinned, Mode::Drained) => self.drained(state),
            (Verdict::Pinned, _) => self.unavailable(state, Reason::Disabled),
            _ => self.next(Some(state.tag)),
        }
    }

    /// The verdict when another backend serves the session; `None` when none may. Without a stored pin the
    /// session cannot move.
    pub(super) fn failover_verdict(&self, failover: Failover) -> Option<Verdict> {
        match failover {
            _ if self.strict => None,
            Failover::Reject => None,
            Failover::Repin if !self.cannot_move() => Some(Verdict::Moved),
            Failover::Repin | Failover::Borrow => Some(Verdict::Borrowed),
        }
    }

    /// The next candidate after `tried`, or the last step.
    pub(super) fn next(&mut self, tried: Option<u64>) -> NextStep<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let mut remaining =
            self.slow_path().remaining.take().unwrap_or_else(|| RemainingCandidates::new(&core));
        if let Some(tag) = tried {
            remaining.mark_tried(tag);
        }
        let mut next = None;
        if remaining.only_tag.is_none()
            && let Some(fallback) = self.take_fallback(&snapshot)
            && !remaining.tried.contains(&fallback.tag)
        {
            remaining.mark_tried(fallback.tag);
            next = self.attempt(&snapshot, &fallback);
        }
        while next.is_none()
            && let Some(state) = remaining.take_next(&core, self.key)
        {
            // The candidates were collected at the first failure: check them again.
            let Some(state) = snapshot.index().get(state.tag) else { continue };
            if !state.takes_new_sessions() && !core.options.panic {
                continue;
            }
            next = self.attempt(&snapshot, state);
            if next.is_some() {
                remaining.tried.push(state.tag);
            }
        }
        let next = match next {
            Some(attempt) => {
                // It has recovered since.
                if self.expected_backend() == Some(attempt.state.tag) {
                    self.return_to_pinned(&attempt.state);
                }
                NextStep::Try(attempt)
            }
            None => match self.next_suspect(&snapshot, &mut remaining) {
                Some(next) => next,
                None => self.give_up(&snapshot, &mut remaining),
            },
        };
        self.slow_path().remaining = Some(remaining);
        self.with_handoff(next)
    }

    /// The last step, when all candidates have been tried: wait for a busy one, or fail.
    fn give_up(
        &mut self,
        snapshot: &Snapshot<S>,
        remaining: &mut RemainingCandidates,
    ) -> NextStep<S> {
        if let Some(busy) = remaining.busy_fallback.take() {
            return self.wait_for_busy(snapshot, &busy);
        }
        if self.inner == InnerRole::LastResort {
            return NextStep::LastResort;
        }
        let only = remaining.only_tag.and_then(|tag| snapshot.index().get(tag));
        match only {
            Some(state) => NextStep::Fail(StickyError::Unavailable { backend: state.id.clone() }),
            None => {
                let last_error = remaining.last_error.take();
                NextStep::Fail(self.exhausted(last_error))
            }
        }
    }

    /// The error when all candidates have been tried; `last_error` is that of the last one.
    fn exhausted(&mut self, last_error: Option<(BackendId, BoxError)>) -> StickyError {
        // This error is more important, as the backend may have executed the request.
        if let Some((backend, source)) = self.slow_path().unanswered.take() {
            return StickyError::Backend { backend, source };
        }
        match last_error {
            Some((backend, source)) => StickyError::NotSent { backend, source },
            None => StickyError::NoBackend,
        }
    }

    /// Waits for the busy backend until the deadline of the request.
    fn wait_for_busy(&mut self, snapshot: &Snapshot<S>, busy: &BusyFallback) -> NextStep<S> {
        let Some(attempt) = self.attempt(snapshot, &busy.state) else {
            return NextStep::Fail(StickyError::Busy { backend: busy.state.id.clone() });
        };
        self.decision.set(busy.verdict, busy.reason);
        NextStep::Try(Attempt { wait_limit: WaitLimit::Last, ..attempt })
    }

    /// An attempt at this backend; `None` if it cannot be tried now.
    pub(super) fn attempt(
        &self,
        snapshot: &Snapshot<S>,
        state: &Arc<BackendState>,
    ) -> Option<Attempt<S>> {
        let trial = match state.availability() {
            Availability::Suspect => match state.sources().evidence.access() {
                Access::Open => None,
                Access::Trial => Some(()),
                Access::Redial => return None,
            },
            Availability::Ready | Availability::Busy | Availability::Down => None,
        };
        let trial = match trial {
            Some(()) => Some(TrialPermit::if_free(state)?),
            None => None,
        };
        self.attempt_with(snapshot, state, trial)
    }

    pub(super) fn attempt_with(
        &self,
        snapshot: &Snapshot<S>,
        state: &Arc<BackendState>,
        trial: Option<TrialPermit>,
    ) -> Option<Attempt<S>> {
        let position = snapshot.index().position(state.tag)?;
        let service = snapshot.members.services[position].clone();
        if service.is_none() && !self.is_local(state) {
            return None;
        }
        Some(Attempt { state: state.clone(), service, trial, wait_limit: WaitLimit::None })
    }

    /// Cancels a voluntary move that has failed.
    fn cancel_move(&mut self) -> NextStep<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        self.retry_pinned(&snapshot)
    }

    /// The backend did not become ready in time.
    pub(crate) fn busy(&mut self, state: &Arc<BackendState>, wait_limit: WaitLimit) -> NextStep<S> {
        let fallback = BusyFallback {
            state: state.clone(),
            verdict: self.decision.verdict(),
            reason: self.decision.reason(),
        };
        match wait_limit {
            WaitLimit::None if self.moves_voluntarily() => self.cancel_move(),
            WaitLimit::None => self.set_busy_fallback(fallback, Some(state.tag)),
            WaitLimit::Pinned => {
                self.decision.set_reason(Some(Reason::Busy));
                let Some(verdict) = self.failover_verdict(self.core.options.busy.then) else {
                    return NextStep::Fail(StickyError::Busy { backend: state.id.clone() });
                };
                self.decision.set_verdict(verdict);
                self.set_busy_fallback(fallback, Some(state.tag))
            }
            WaitLimit::Last => {
                self.decision.set_reason(Some(Reason::Busy));
                if self.inner == InnerRole::LastResort {
                    return NextStep::LastResort;
                }
                NextStep::Fail(StickyError::Busy { backend: state.id.clone() })
            }
        }
    }

    fn remaining(&mut self) -> &mut RemainingCandidates {
        let slow_path = self.slow_path.get_or_insert_default();
        slow_path.remaining.get_or_insert_with(|| RemainingCandidates::new(&self.core))
    }

    /// Tries other candidates before waiting for this one.
    fn set_busy_fallback(&mut self, busy: BusyFallback, tried: Option<u64>) -> NextStep<S> {
        let remaining = self.remaining();
        remaining.primary_is_busy |= !busy.state.is_backup();
        remaining.busy_fallback.get_or_insert(busy);
        self.next(tried)
    }

    /// The backend could not take the request and has given it back.
    pub(crate) fn not_sent(
        &mut self,
        state: &Arc<BackendState>,
        reason: Reason,
        source: BoxError,
    ) -> NextStep<S> {
        tracing::debug!(backend = %state.id, %reason, error = %source, "the request was not sent");
        if self.decision.verdict() == Verdict::Local {
            // A request from a peer is never forwarded again.
            return NextStep::Fail(StickyError::NotSent { backend: state.id.clone(), source });
        }
        if self.decision.is_pinned() && reason == Reason::ConnectFailed {
            if let Some(next) = self.await_after_failure(state) {
                return next;
            }
            self.end_recovery_wait();
        }
        let in_time = Instant::now() < self.request_deadline();
        if self.moves_voluntarily() && in_time {
            return self.cancel_move();
        }
        if let Err(error) = self.leave_backend(state, reason, self.core.options.unavailable) {
            return NextStep::Fail(error);
        }
        let remaining = self.remaining();
        remaining.last_error = Some((state.id.clone(), source));
        if !in_time {
            remaining.clear();
        }
        self.next(Some(state.tag))
    }

    /// This machine has no resources left for a connection. Other backends would need one, too.
    #[cold]
    pub(crate) fn shortage(
        &mut self,
        state: &BackendState,
        shortage: Shortage,
        source: BoxError,
    ) -> StickyError {
        self.core.backends.pool().shortages.record(shortage, &source);
        StickyError::Shortage { backend: state.id.clone(), source }
    }

    /// Records why a backend does not serve the request, and applies the policy to a pin to it.
    fn leave_backend(
        &mut self,
        state: &Arc<BackendState>,
        reason: Reason,
        failover: Failover,
    ) -> Result<(), StickyError> {
        let was_pinned = self.decision.is_pinned();
        if was_pinned || self.decision.reason().is_none() {
            self.decision.set_reason(Some(reason));
        }
        if was_pinned {
            let unavailable = || StickyError::Unavailable { backend: state.id.clone() };
            self.decision.set_verdict(self.failover_verdict(failover).ok_or_else(unavailable)?);
        }
        Ok(())
    }

    /// The connection ended before a response, and the request has been given back. The backend may have
    /// executed it, and has tried a fresh connection itself. If repeating is enabled, another backend is
    /// tried, once, and the session moves there. If that fails, too, the local node can serve it.
    pub(crate) fn unanswered(
        &mut self,
        state: &Arc<BackendState>,
        source: BoxError,
        sends: Option<SendCount>,
        on_trial: bool,
    ) -> Result<NextStep<S>, StickyError> {
        let backend = state.id.clone();
        let was_pinned = self.decision.is_pinned();
        let slow_path = self.slow_path();
        let before = slow_path.sends;
        slow_path.sends = sends.unwrap_or(SendCount(before.0 + 1));
        // The trial of a suspect does not count as the one attempt at another backend.
        let tried_another = before > SendCount(0) && !was_pinned && !slow_path.tried_suspect;
        slow_path.tried_suspect = on_trial && !was_pinned;
        let is_exhausted = slow_path.sends >= SendCount::MAX || tried_another;
        // The request is not sent again if the local node serves it.
        let local = self.local_tag().filter(|_| is_exhausted && !self.moves_voluntarily());
        if (is_exhausted && local.is_none())
            || !self.core.options.retry_idempotent
            || self.decision.verdict() == Verdict::Local
        {
            return Err(StickyError::Backend { backend, source });
        }
        self.slow_path().unanswered = Some((backend, source));
        if self.moves_voluntarily() {
            return Ok(self.cancel_move());
        }
        if was_pinned
            && local.is_none()
            && let Some(next) = self.await_after_failure(state)
        {
            return Ok(next);
        }
        self.leave_backend(state, Reason::ConnectFailed, self.core.options.unavailable)?;
        if let Some(tag) = local {
            self.remaining().keep_only(tag);
        }
        Ok(self.next(Some(state.tag)))
    }

    /// The tag of the local node, if it may serve the request instead of another backend.
    fn local_tag(&self) -> Option<u64> {
        let local = self.core.local.as_ref().filter(|_| self.inner == InnerRole::LocalNode)?;
        let may_leave = !self.decision.is_pinned()
            || self.failover_verdict(self.core.options.unavailable).is_some();
        may_leave.then(|| local.tag())
    }
}
