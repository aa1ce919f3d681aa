//! Sessions that move though their backend could serve them, and what is done before any session moves.

use std::sync::Arc;

use super::{Attempt, NextStep, choose::choose, decision::Relocation, state::Dispatch};
use crate::{
    dispatch::Move,
    id::SessionId,
    outcome::{Reason, Verdict},
    pool::{Availability, BackendState, Mode, Snapshot},
};

impl<S: Clone> Dispatch<S> {
    /// Takes a session back from a backup, if a primary backend is ready. `None` when it stays.
    #[cold]
    pub(super) fn leave_backup(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
    ) -> Option<NextStep<S>> {
        let tier = snapshot.tiers.first().filter(|tier| !tier.backup && tier.is_ready())?;
        let from = &snapshot.index().states()[position];
        if self.strict || !from.is_backup() {
            return None;
        }
        let to = &tier.states[choose(&self.core, self.key, &tier.states)];
        self.move_voluntarily(snapshot, from, to, Reason::Rebalanced, || true)
    }

    /// Moves a session that rests, if its backend has too many of them. `None` when it stays.
    #[cold]
    pub(super) fn rebalance_session(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
    ) -> Option<NextStep<S>> {
        let core = self.core.clone();
        let rebalancer = core.rebalancer.as_ref()?;
        let from = &snapshot.index().states()[position];
        // One that cannot serve is the business of failover.
        if self.strict || from.mode() != Mode::Active || from.availability() != Availability::Ready
        {
            return None;
        }
        let tier = snapshot.tiers.first().filter(|tier| tier.is_ready())?;
        let pool = core.backends.pool();
        let to = pool.rebalance_target(from, &tier.states, rebalancer.tolerance())?;
        self.move_voluntarily(snapshot, from, to, Reason::Rebalanced, || rebalancer.admits())
    }

    /// Moves a session away from a backend whose drain hands its sessions over. `None` when it stays.
    #[cold]
    pub(super) fn hand_over_session(
        &mut self,
        snapshot: &Snapshot<S>,
        position: usize,
    ) -> Option<NextStep<S>> {
        let from = &snapshot.index().states()[position];
        if self.strict || !from.availability().is_healthy() {
            return None;
        }
        let tier = snapshot.tiers.first().filter(|tier| tier.is_ready())?;
        let to = &tier.states[choose(&self.core, self.key, &tier.states)];
        self.move_voluntarily(snapshot, from, to, Reason::Draining, || from.admits_handoff())
    }

    /// Moves a session that could stay, once its state is carried over, if `admits` lets one more go.
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
            // Should it be under way for another request, this one is served where the session is.
            let alone = hook.alone(session)?;
            if !admits() {
                return None;
            }
            let planned = self.planned(session, from, to, reason);
            let work = hook.begin_alone(alone, planned);
            return Some(NextStep::Handoff { work, to: to.tag, reason });
        }
        admits().then(|| self.move_to(snapshot, to, reason)).flatten()
    }

    /// The application has carried the session's state over to `to`, or could not.
    pub(crate) fn handoff_done(&mut self, worked: bool, to: u64, reason: Reason) -> NextStep<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let to = snapshot.index().get(to).cloned();
        // The application has had its own time for that.
        self.slow_path().deadline = None;
        if self.relocation() == Relocation::HookCalled {
            // It has to move, whether that worked or not.
            let attempt = to.as_ref().and_then(|to| self.attempt(&snapshot, to));
            return attempt.map_or_else(|| self.next(to.map(|to| to.tag)), NextStep::Try);
        }
        let to = to.filter(|to| worked && to.availability() == Availability::Ready);
        match to.and_then(|to| self.move_to(&snapshot, &to, reason)) {
            Some(next) => next,
            None => self.retry_pinned(&snapshot),
        }
    }

    /// What comes before a session that has to move is given to its new backend: once, the
    /// application may carry its state over.
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
        let planned = self.planned(session, from, &attempt.state, reason);
        NextStep::Handoff { work: hook.begin(planned), to: attempt.state.tag, reason }
    }

    fn planned(
        &mut self,
        session: u64,
        from: &BackendState,
        to: &BackendState,
        reason: Reason,
    ) -> Move {
        let verdict = std::mem::replace(&mut self.decision.verdict(), Verdict::Moved);
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

    /// The session stays where it is.
    pub(super) fn retry_pinned(&mut self, snapshot: &Snapshot<S>) -> NextStep<S> {
        let home = self.pin.and_then(|pin| snapshot.index().position(pin.backend));
        self.decision.set(Verdict::Assigned, None);
        self.slow_path().relocation = Relocation::None;
        match home {
            Some(home) => self.honor_pin(snapshot, home),
            None => {
                self.decision.set_reason(Some(Reason::Unknown));
                self.place(snapshot)
            }
        }
    }
}
