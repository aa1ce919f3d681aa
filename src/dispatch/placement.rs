//! Where a session without a pin goes.

use std::sync::Arc;

use super::{NextStep, choose::choose, held_pin::HeldPin, state::Dispatch};
use crate::{
    affinity::Hashing,
    pool::{Availability, BackendState, Snapshot, Tier},
};

impl<S: Clone> Dispatch<S> {
    /// Chooses a backend for a request without a pin: the way of every new session. One whose key is
    /// known goes where its rank says, so that all its first requests agree, on every gateway.
    pub(super) fn place(&mut self, snapshot: &Snapshot<S>) -> NextStep<S> {
        let Some(Tier { states: list, .. }) = snapshot.tiers.first() else {
            return self.next(None);
        };
        if !snapshot.suspects.is_empty()
            && let Some(next) = self.trial_of_suspect(snapshot)
        {
            return next;
        }
        let goes_on = if self.pin.is_some() { self.second(snapshot) } else { None };
        let home = goes_on
            .or_else(|| self.key.and_then(|key| self.first_backend(snapshot, key)))
            .or_else(|| self.second(snapshot));
        let state = home.as_ref().unwrap_or_else(|| &list[choose(&self.core, self.key, list)]);
        match self.attempt(snapshot, state) {
            Some(attempt) => NextStep::Try(attempt),
            None => self.next(Some(state.tag)),
        }
    }

    /// The backend of a new session with this key, if it can take one: all first requests of the key
    /// agree, on every gateway as far as its load is not bounded, and here always.
    fn first_backend(&mut self, snapshot: &Snapshot<S>, key: u64) -> Option<Arc<BackendState>> {
        if let Some((held, _)) = &self.held {
            let held = held.clone();
            return self.first_of_session(snapshot, &held, key);
        }
        let bounded = self.core.affinity.hashing(self.source).is_some_and(Hashing::is_bounded);
        let position = if bounded {
            let states = snapshot.index().states();
            let choose = || self.owner(snapshot, key).map(|owner| states[owner.position].tag);
            let choice = self.core.first_choices.join(key, choose)?;
            let position = snapshot.index().position(choice.tag());
            self.slow_path().first_choice = Some(choice);
            position?
        } else {
            self.owner(snapshot, key)?.position
        };
        let state = &snapshot.index().states()[position];
        (state.may_take_new_sessions() && state.availability() == Availability::Ready)
            .then(|| state.clone())
    }

    /// The same for a session that its client holds: by the rank of its name, or by the strategy, whose
    /// choice the calls share that are under way together.
    fn first_of_session(
        &mut self,
        snapshot: &Snapshot<S>,
        held: &HeldPin,
        key: u64,
    ) -> Option<Arc<BackendState>> {
        let position = if self.pin.is_some() {
            // It begins anew because its backend is gone.
            return None;
        } else if held.has_name() {
            snapshot.ranking().first(key)?
        } else {
            let list = &snapshot.tiers.first()?.states;
            // When no choice is open, all calls before this one have ended, and one of them may have left
            // a pin since the session was read.
            let choose = || held.home().or_else(|| Some(list[choose(&self.core, None, list)].tag));
            let choice = self.core.first_choices.join(key, choose)?;
            let position = snapshot.index().position(choice.tag());
            self.slow_path().first_choice = Some(choice);
            position?
        };
        let state = &snapshot.index().states()[position];
        state.takes_new_sessions().then(|| state.clone())
    }
}
