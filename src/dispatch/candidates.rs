//! The candidates that are left once the first choice did not work.

use std::sync::Arc;

use crate::{
    BackendId, BoxError, Reason, Verdict,
    backend::{BackendState, Mode},
    layer::Core,
    strategy::{Candidates, rendezvous},
    token::Pin,
};

/// The candidates that are left.
pub(super) struct Remaining {
    pub(super) ready: Vec<Arc<BackendState>>,
    pub(super) busy: Vec<Arc<BackendState>>,
    /// The one to wait for when all others have been asked: the pinned one, or the first choice.
    pub(super) parked: Option<Parked>,
    /// What the last candidate said that did not take the request.
    pub(super) last: Option<(BackendId, BoxError)>,
}

pub(super) struct Parked {
    pub(super) state: Arc<BackendState>,
    pub(super) verdict: Verdict,
    pub(super) reason: Option<Reason>,
}

impl Remaining {
    pub(super) fn new<S>(core: &Core<S>) -> Self {
        let snapshot = core.backends.pool().load();
        let (mut ready, busy) = (snapshot.ready.to_vec(), snapshot.busy.to_vec());
        if core.options.panic && snapshot.nobody_is_up() {
            let states = snapshot.index().states().iter();
            ready = states
                .filter(|state| state.mode() == Mode::Active && state.weight() > 0)
                .cloned()
                .collect();
        }
        Self { ready, busy, parked: None, last: None }
    }

    /// It has been asked, and is not asked again.
    pub(super) fn strike(&mut self, tag: u64) {
        self.ready.retain(|state| state.tag != tag);
        self.busy.retain(|state| state.tag != tag);
    }

    /// No time is left: nobody else is asked.
    pub(super) fn give_up(&mut self) {
        self.ready.clear();
        self.busy.clear();
    }

    /// The next candidate. A session that is known goes where its rank says, which is the same on
    /// every gateway and for all its parallel requests; others go where the strategy says.
    pub(super) fn take<S>(
        &mut self,
        core: &Core<S>,
        pin: Option<Pin>,
    ) -> Option<Arc<BackendState>> {
        let list = if self.ready.is_empty() { &mut self.busy } else { &mut self.ready };
        if list.is_empty() {
            return None;
        }
        let chosen = match pin.and_then(|pin| pin.session()) {
            Some(session) => rendezvous(session, list)?,
            None => core.strategy.choose(&Candidates::new(list)).min(list.len() - 1),
        };
        Some(list.remove(chosen))
    }
}
