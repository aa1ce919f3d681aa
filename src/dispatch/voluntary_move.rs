//! Moves of sessions whose backend could serve them, and the hook before any session moves.

use std::sync::Arc;

use super::{Attempt, NextStep, choose::choose, decision::Relocation, state::Dispatch};
use crate::{
    dispatch::Move,
    id::SessionId,
    outcome::{Reason, Verdict},
    pool::{Availability, BackendState, Mode, Snapshot},
};

impl<S: Clone> Dispatch<S> {
    /// Moves a session from a backup to a primary backend, if one is ready. `None` when it stays.
    #[cold]
    pub(super) fn leave_backup(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
    ) -> Option<NextStep<S>> {
        let tier = snapshot.first_tier().filter(|tier| !tier.backup && tier.is_ready())?;
        let from = &snapshot.index().states()[position];
        if self.strict || !from.is_backup() {
            return None;
        }
        let to = &tier.states[choose(&self.core, self.key, tier.states)];
        self.move_voluntarily(snapshot, from, to, Reason::Rebalanced, || true)
    }

    /// Moves an idle session, if its backend has too many sessions. `None` when it stays.
    #[cold]
    pub(super) fn rebalance_session(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
    ) -> Option<NextStep<S>> {
        let core = self.core.clone();
        let rebalancer = core.rebalancer.as_ref()?;
        let from = &snapshot.index().states()[position];
        // A session whose backend cannot serve moves by failover.
        if self.strict || from.mode() != Mode::Active || from.availability() != Availability::Ready
        {
            return None;
        }
        let tier = snapshot.first_tier().filter(|tier| tier.is_ready())?;
        let pool = core.backends.pool();
        let to = pool.balance().target(from, tier.states, rebalancer.tolerance())?;
        self.move_voluntarily(snapshot, from, to, Reason::Rebalanced, || rebalancer.admits())
    }

    /// Moves a session from a backend that is being drained with a handoff. `None` when it stays.
    #[cold]
    pub(super) fn hand_over_session(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
    ) -> Option<NextStep<S>> {
        let from = &snapshot.index().states()[position];
        // Before the choice, which looks at all backends, and is a turn of the strategy.
        if self.strict || !from.availability().is_healthy() || !from.hands_over() {
            return None;
        }
        let tier = snapshot.first_tier().filter(|tier| tier.is_ready())?;
        let to = &tier.states[choose(&self.core, self.key, tier.states)];
        self.move_voluntarily(snapshot, from, to, Reason::Draining, || from.admits_handoff())
    }

    /// Moves a session that could stay, after the hook, if `admits` permits one more move.
    fn move_voluntarily(
        &mut self,
        snapshot: &Snapshot<S>,
        from: &BackendState,
        to: &Arc<BackendState>,
        reason: Reason,
        admits: impl FnOnce() -> bool,
    ) -> Option<NextStep<S>> {
        if !self.can_ask(snapshot, to) {
            return None;
        }
        let core = self.core.clone();
        let session = self.pin.and_then(|pin| pin.session());
        if let (Some(hook), Some(session)) = (&core.before_move, session) {
            // While another request of the session runs the hook, this one goes to the pinned backend.
            let guard = hook.try_guard(session)?;
            if !admits() {
                return None;
            }
            let planned = self.plan_move(session, from, to, reason);
            let work = hook.begin_guarded(guard, planned);
            return Some(NextStep::Handoff { work, to: to.tag, reason });
        }
        admits().then(|| self.move_to(snapshot, to, reason)).flatten()
    }

    /// The next step after the hook of a move to the backend with the tag `to`.
    pub(crate) fn handoff_done(&mut self, succeeded: bool, to: u64, reason: Reason) -> NextStep<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let to = snapshot.index().get(to).cloned();
        // The hook has its own timeout: the deadline starts again.
        self.slow_path().deadline = None;
        if self.relocation() == Relocation::HookCalled {
            // The session must move even if the hook has failed.
            let attempt = to.as_ref().and_then(|to| self.attempt(&snapshot, to));
            return attempt.map_or_else(|| self.next(to.map(|to| to.tag)), NextStep::Try);
        }
        let to = to.filter(|to| succeeded && to.availability() == Availability::Ready);
        match to.and_then(|to| self.move_to(&snapshot, &to, reason)) {
            Some(next) => next,
            None => self.retry_pinned(&snapshot),
        }
    }

    /// Runs the hook, once per request, before a session that must move is sent to its new backend.
    pub(super) fn with_handoff(&mut self, next: NextStep<S>) -> NextStep<S> {
        let NextStep::Try(attempt) = &next else { return next };
        if self.decision.verdict() != Verdict::Moved
            || self.relocation() == Relocation::HookCalled
            || self.core.before_move.is_none()
        {
            return next;
        }
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let pin = self.pin;
        let from = pin.and_then(|pin| snapshot.index().get(pin.backend));
        let session = pin.and_then(|pin| pin.session());
        let (Some(hook), Some(from), Some(session)) = (&core.before_move, from, session) else {
            return next;
        };
        self.slow_path().relocation = Relocation::HookCalled;
        let reason = self.decision.reason().unwrap_or(Reason::Down);
        let planned = self.plan_move(session, from, &attempt.state, reason);
        NextStep::Handoff { work: hook.begin(planned), to: attempt.state.tag, reason }
    }

    fn plan_move(
        &mut self,
        session: u64,
        from: &BackendState,
        to: &BackendState,
        reason: Reason,
    ) -> Move {
        // The same plan as when the request is sent after the hook.
        let verdict = self.decision.verdict();
        self.decision.set_verdict(Verdict::Moved);
        let epoch = self.planned_pin().epoch;
        self.decision.set_verdict(verdict);
        let session = SessionId::new(session);
        Move { session, from: from.id.clone(), to: to.id.clone(), reason, epoch }
    }

    fn can_ask(&self, snapshot: &Snapshot<S>, to: &BackendState) -> bool {
        let position = snapshot.index().position(to.tag);
        position.is_some_and(|position| {
            snapshot.members.services[position].is_some() || self.is_local(to)
        })
    }

    fn move_to(
        &mut self,
        snapshot: &Snapshot<S>,
        to: &Arc<BackendState>,
        reason: Reason,
    ) -> Option<NextStep<S>> {
        let attempt: Attempt<S> = self.attempt(snapshot, to)?;
        self.decision.set(Verdict::Moved, Some(reason));
        self.slow_path().relocation = Relocation::Voluntary;
        Some(NextStep::Try(attempt))
    }

    /// Cancels a move: the session stays on its backend.
    pub(super) fn retry_pinned(&mut self, snapshot: &Snapshot<S>) -> NextStep<S> {
        let pinned = self.pin.and_then(|pin| snapshot.index().position(pin.backend));
        self.decision.set(Verdict::Assigned, None);
        self.slow_path().relocation = Relocation::None;
        match pinned {
            Some(position) => self.honor_pin(snapshot, position),
            None => {
                self.decision.set_reason(Some(Reason::Unknown));
                self.assign(snapshot)
            }
        }
    }
}
