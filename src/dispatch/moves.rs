//! Sessions that move though their backend could serve them: because the policy evens the load out.

use std::sync::Arc;

use super::{Attempt, Dispatch, Next, choose};
use crate::{
    Move, Reason, SessionId, Verdict,
    backend::{BackendState, Gate, Mode, Snapshot},
};

impl<S: Clone> Dispatch<S> {
    /// Takes a session back from a backup, if a primary backend is ready. `None` when it stays.
    #[cold]
    pub(super) fn come_back(&mut self, snapshot: &Snapshot<S>, position: usize) -> Option<Next<S>> {
        let tier = snapshot.tiers.first().filter(|tier| !tier.backup && tier.is_ready())?;
        if self.strict || !snapshot.index().states()[position].is_backup() {
            return None;
        }
        let to = &tier.states[choose(&self.core, self.key, &tier.states)];
        self.move_to(snapshot, to)
    }

    /// Moves a session that rests, if its backend has too many of them. `None` when it stays.
    #[cold]
    pub(super) fn relieve(&mut self, snapshot: &Snapshot<S>, position: usize) -> Option<Next<S>> {
        let core = self.core.clone();
        let rebalancer = core.rebalancer.as_ref()?;
        let from = &snapshot.index().states()[position];
        let session = self.pin?.session()?;
        // One that cannot serve is the business of failover.
        if self.strict || from.mode() != Mode::Active || from.gate() != Gate::Ready {
            return None;
        }
        let tier = snapshot.tiers.first().filter(|tier| tier.is_ready())?;
        let pool = core.backends.pool();
        let to = pool.relief(from, &tier.states, rebalancer.tolerance())?;
        let service = snapshot.members.services[snapshot.index().position(to.tag)?].is_none();
        if (service && !self.is_local(to)) || !rebalancer.admits() {
            return None;
        }
        let session = SessionId::new(session);
        let planned = Move { session, from: from.id.clone(), to: to.id.clone() };
        match rebalancer.hand_over(planned) {
            Some(work) => Some(Next::HandOver { work, to: to.tag }),
            None => self.move_to(snapshot, to),
        }
    }

    /// The application has carried the session's state over to `to`, or could not.
    pub(crate) fn handed_over(&mut self, moves: bool, to: u64) -> Next<S> {
        let core = self.core.clone();
        let snapshot = core.backends.pool().load();
        let to = snapshot.index().get(to).filter(|to| moves && to.gate() == Gate::Ready);
        match to.and_then(|to| self.move_to(&snapshot, to)) {
            Some(next) => next,
            None => self.go_home(&snapshot),
        }
    }

    fn move_to(&mut self, snapshot: &Snapshot<S>, to: &Arc<BackendState>) -> Option<Next<S>> {
        let attempt: Attempt<S> = self.attempt(snapshot, to)?;
        (self.verdict, self.reason) = (Verdict::Moved, Some(Reason::Rebalanced));
        Some(Next::Try(attempt))
    }

    /// Whether the session is on its way to another backend without need.
    pub(super) fn is_moving_freely(&self) -> bool {
        self.verdict == Verdict::Moved && self.reason == Some(Reason::Rebalanced)
    }

    /// The session stays where it is.
    pub(super) fn go_home(&mut self, snapshot: &Snapshot<S>) -> Next<S> {
        let home = self.pin.and_then(|pin| snapshot.index().position(pin.backend));
        (self.verdict, self.reason) = (Verdict::Assigned, None);
        match home {
            Some(home) => self.resolve(snapshot, home),
            None => {
                self.reason = Some(Reason::Unknown);
                self.place(snapshot)
            }
        }
    }
}
