//! What follows when a backend does not take the request: who is asked next, and what becomes of the
//! pin.

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

impl<S: Clone> Dispatch<S> {
    /// The session's backend cannot serve: the policy decides.
    pub(super) fn unavailable(&mut self, state: &Arc<BackendState>, reason: Reason) -> NextStep<S> {
        self.fail_over(state, reason, self.core.options.unavailable)
    }

    /// The drain of the session's backend is over: what was said of it decides.
    pub(super) fn drained(&mut self, state: &Arc<BackendState>) -> NextStep<S> {
        self.fail_over(state, Reason::Draining, state.drained_policy())
    }

    fn fail_over(
        &mut self,
        state: &Arc<BackendState>,
        reason: Reason,
        failover: Failover,
    ) -> NextStep<S> {
        let evident = state.availability() == Availability::Suspect && reason == Reason::Down;
        self.decision.set_reason(Some(reason));
        match self.failover_verdict(failover) {
            Some(verdict) => {
                self.decision.set_verdict(verdict);
                // A suspect has not been asked: it is when nobody better is left.
                self.next((!evident).then_some(state.tag))
            }
            None if evident => {
                self.slow_path().remaining = Some(RemainingCandidates::only(state.tag));
                self.next(None)
            }
            None => NextStep::Fail(StickyError::Unavailable { backend: state.id.clone() }),
        }
    }

    /// The backend that the session is pinned to is asked.
    pub(super) fn pinned_after_all(&mut self, state: &BackendState) {
        self.pinned_to(state.tag);
        if self.decision.reason() != Some(Reason::Requested) {
            self.decision.set_reason(None);
        }
    }

    /// The operator has taken the backend out since it was chosen, and it has not got the request.
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

    /// What it is called when another backend serves the session; `None` when none may. Where
    /// nothing is remembered there is nothing to move.
    fn failover_verdict(&self, failover: Failover) -> Option<Verdict> {
        match failover {
            _ if self.strict => None,
            Failover::Reject => None,
            Failover::Repin if !self.is_keyed() => Some(Verdict::Moved),
            Failover::Repin | Failover::Borrow => Some(Verdict::Borrowed),
        }
    }

    /// The next candidate after `tried`, or the end.
    pub(super) fn next(&mut self, tried: Option<u64>) -> NextStep<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let mut remaining =
            self.slow_path().remaining.take().unwrap_or_else(|| RemainingCandidates::new(&core));
        if let Some(tag) = tried {
            remaining.mark_tried(tag);
        }
        let mut next = None;
        if remaining.only.is_none()
            && let Some(second) = self.second(&snapshot)
            && !remaining.tried.contains(&second.tag)
        {
            remaining.mark_tried(second.tag);
            next = self.attempt(&snapshot, &second);
        }
        while next.is_none()
            && let Some(state) = remaining.take(&core, self.key)
        {
            // They were gathered at the first failure; what has become of them since?
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
            Some(attempt) => NextStep::Try(attempt),
            None => match self.next_suspect(&snapshot, &mut remaining) {
                Some(next) => next,
                None => self.give_up(&snapshot, &mut remaining),
            },
        };
        self.slow_path().remaining = Some(remaining);
        self.with_handoff(next)
    }

    /// All have been asked: back to one that was busy, or the end.
    fn give_up(
        &mut self,
        snapshot: &Snapshot<S>,
        remaining: &mut RemainingCandidates,
    ) -> NextStep<S> {
        if let Some(parked) = remaining.parked.take() {
            return self.wait_for_busy(snapshot, &parked);
        }
        if self.inner == InnerRole::LastResort {
            return NextStep::LastResort;
        }
        let only = remaining.only.and_then(|tag| snapshot.index().get(tag));
        match only {
            Some(state) => NextStep::Fail(StickyError::Unavailable { backend: state.id.clone() }),
            None => {
                let last = remaining.last.take();
                NextStep::Fail(self.exhausted(last))
            }
        }
    }

    /// The error when all have been asked; `last` is what the last one said.
    fn exhausted(&mut self, last: Option<(BackendId, BoxError)>) -> StickyError {
        // One of them may have executed the request: then that is what has to be said.
        if let Some((backend, source)) = self.slow_path().unanswered.take() {
            return StickyError::Backend { backend, source };
        }
        match last {
            Some((backend, source)) => StickyError::NotSent { backend, source },
            None => StickyError::NoBackend,
        }
    }

    /// All have been asked: back to the one that was busy, now with all the time that is left.
    fn wait_for_busy(&mut self, snapshot: &Snapshot<S>, parked: &BusyFallback) -> NextStep<S> {
        let Some(attempt) = self.attempt(snapshot, &parked.state) else {
            return NextStep::Fail(StickyError::Busy { backend: parked.state.id.clone() });
        };
        self.decision.set_verdict(parked.verdict);
        self.decision.set_reason(parked.reason);
        NextStep::Try(Attempt { wait_limit: WaitLimit::Last, ..attempt })
    }

    /// The attempt at a backend that was chosen; `None` when it cannot be made now.
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
            Some(()) => Some(TrialPermit::last(state)?),
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

    /// A move without need did not work out.
    fn cancel_move(&mut self) -> NextStep<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        self.retry_pinned(&snapshot)
    }

    /// The backend did not become ready within the time that it had.
    pub(crate) fn busy(&mut self, state: &Arc<BackendState>, wait_limit: WaitLimit) -> NextStep<S> {
        let parked = BusyFallback {
            state: state.clone(),
            verdict: self.decision.verdict(),
            reason: self.decision.reason(),
        };
        match wait_limit {
            WaitLimit::None if self.moves_voluntarily() => self.cancel_move(),
            WaitLimit::None => self.park(parked, Some(state.tag)),
            WaitLimit::Pinned => {
                self.decision.set_reason(Some(Reason::Busy));
                let Some(verdict) = self.failover_verdict(self.core.options.busy.then) else {
                    return NextStep::Fail(StickyError::Busy { backend: state.id.clone() });
                };
                self.decision.set_verdict(verdict);
                self.park(parked, Some(state.tag))
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

    fn park(&mut self, parked: BusyFallback, tried: Option<u64>) -> NextStep<S> {
        let remaining = self.remaining();
        remaining.primary_is_busy |= !parked.state.is_backup();
        remaining.parked.get_or_insert(parked);
        self.next(tried)
    }

    /// The backend could not take the request, which is here again.
    pub(crate) fn not_sent(
        &mut self,
        state: &Arc<BackendState>,
        reason: Reason,
        source: BoxError,
    ) -> NextStep<S> {
        tracing::debug!(backend = %state.id, %reason, error = %source, "the request was not taken");
        if self.decision.verdict() == Verdict::Local {
            // What a peer has forwarded is never forwarded again.
            return NextStep::Fail(StickyError::NotSent { backend: state.id.clone(), source });
        }
        if self.decision.is_pinned() && reason == Reason::ConnectFailed {
            if let Some(next) = self.await_after_failure(state) {
                return next;
            }
            self.end_recovery_wait();
        }
        let in_time = Instant::now() < self.whole_deadline();
        if self.moves_voluntarily() && in_time {
            return self.cancel_move();
        }
        if let Err(error) = self.leave(state, reason, self.core.options.unavailable) {
            return NextStep::Fail(error);
        }
        let remaining = self.remaining();
        remaining.last = Some((state.id.clone(), source));
        if !in_time {
            remaining.give_up();
        }
        self.next(Some(state.tag))
    }

    /// This machine has nothing left for a connection. Whoever is asked next would need one, too.
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

    /// Notes why a backend does not serve the request, and what that makes of a pin to it.
    fn leave(
        &mut self,
        state: &Arc<BackendState>,
        reason: Reason,
        failover: Failover,
    ) -> Result<(), StickyError> {
        let from_pin = self.decision.is_pinned();
        if from_pin || self.decision.reason().is_none() {
            self.decision.set_reason(Some(reason));
        }
        if from_pin {
            let unavailable = || StickyError::Unavailable { backend: state.id.clone() };
            self.decision.set_verdict(self.failover_verdict(failover).ok_or_else(unavailable)?);
        }
        Ok(())
    }

    /// The connection ended before an answer, and the request, which may have been executed, is here
    /// again. The backend has tried a fresh connection by itself. It goes to another one, once, if that is
    /// wanted, and the session with it. When that breaks, too, a node that serves by itself still can.
    pub(crate) fn unanswered(
        &mut self,
        state: &Arc<BackendState>,
        source: BoxError,
        sendings: Option<SendCount>,
        on_trial: bool,
    ) -> Result<NextStep<S>, StickyError> {
        let backend = state.id.clone();
        let from_home = self.decision.is_pinned();
        let slow_path = self.slow_path();
        let before = slow_path.sendings;
        slow_path.sendings = sendings.unwrap_or(SendCount(before.0 + 1));
        // A suspect that was tried for its own sake is not the one other backend.
        let to_others = before > SendCount(0) && !from_home && !slow_path.tried_suspect;
        slow_path.tried_suspect = on_trial && !from_home;
        let over = slow_path.sendings >= SendCount::MAX || to_others;
        // To serve it here is no sending.
        let here = self.local_tag().filter(|_| over && !self.moves_voluntarily());
        let is_the_end = over && here.is_none();
        if is_the_end
            || !self.core.options.retry_idempotent
            || self.decision.verdict() == Verdict::Local
        {
            return Err(StickyError::Backend { backend, source });
        }
        self.slow_path().unanswered = Some((backend, source));
        if self.moves_voluntarily() {
            return Ok(self.cancel_move());
        }
        if from_home
            && here.is_none()
            && let Some(next) = self.await_after_failure(state)
        {
            return Ok(next);
        }
        self.leave(state, Reason::ConnectFailed, self.core.options.unavailable)?;
        if let Some(tag) = here {
            self.remaining().keep_only(tag);
        }
        Ok(self.next(Some(state.tag)))
    }

    /// The tag of the local node, if it may serve the request in place of another one.
    fn local_tag(&self) -> Option<u64> {
        let here = self.core.local.as_ref().filter(|_| self.inner == InnerRole::LocalNode)?;
        let may_leave = !self.decision.is_pinned()
            || self.failover_verdict(self.core.options.unavailable).is_some();
        may_leave.then(|| here.tag())
    }
}
