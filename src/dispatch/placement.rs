//! Chooses the backend of a request without a pin.

use std::sync::Arc;

use super::{NextStep, choose::choose, held_pin::HeldPin, state::Dispatch};
use crate::{
    affinity::Hashing,
    pool::{Availability, BackendState, Snapshot, Tier},
};

impl<S: Clone> Dispatch<S> {
    /// Chooses a backend for a request without a pin. A known key decides by rank, so that all first
    /// requests of a session agree, on every gateway.
    pub(super) fn assign(&mut self, snapshot: &Snapshot<S>) -> NextStep<S> {
        let Some(Tier { states: list, .. }) = snapshot.first_tier() else {
            return self.next(None);
        };
        if !snapshot.suspects.is_empty()
            && let Some(next) = self.trial_of_suspect(snapshot)
        {
            return next;
        }
        let continued = if self.pin.is_some() { self.take_fallback(snapshot) } else { None };
        let chosen = continued
            .or_else(|| self.key.and_then(|key| self.first_backend(snapshot, key)))
            .or_else(|| self.take_fallback(snapshot));
        let state = chosen.as_ref().unwrap_or_else(|| &list[choose(&self.core, self.key, list)]);
        match self.attempt(snapshot, state) {
            Some(attempt) => NextStep::Try(attempt),
            None => self.next(Some(state.tag)),
        }
    }

    /// The backend of a new session with this key, if it takes new sessions. All parallel first requests
    /// of the key agree on this gateway; on all gateways only without a bound on the load.
    fn first_backend(&mut self, snapshot: &Snapshot<S>, key: u64) -> Option<Arc<BackendState>> {
        if let Some((held, _)) = &self.held {
            let held = held.clone();
            return self.first_backend_held(snapshot, &held, key);
        }
        let bounded = self.core.affinity.hashing(self.source).is_some_and(Hashing::is_bounded);
        let position = if bounded {
            let states = snapshot.index().states();
            let choose = || self.owner(snapshot, key).map(|owner| states[owner.position].tag);
            let choice = self.core.shared_choices.join(key, choose)?;
            let position = snapshot.index().position(choice.tag());
            self.slow_path().shared_choice = Some(choice);
            position?
        } else {
            self.owner(snapshot, key)?.position
        };
        let state = &snapshot.index().states()[position];
        (state.may_take_new_sessions() && state.availability() == Availability::Ready)
            .then(|| state.clone())
    }

    /// The first backend of a session that its client holds: by the rank of its name, or else the
    /// strategy's choice, which parallel calls share.
    fn first_backend_held(
        &mut self,
        snapshot: &Snapshot<S>,
        held: &HeldPin,
        key: u64,
    ) -> Option<Arc<BackendState>> {
        let position = if self.pin.is_some() {
            // The session's backend has left the pool.
            return None;
        } else if held.has_name() {
            snapshot.ranking().first(key)?
        } else {
            let list = snapshot.first_tier()?.states;
            // Without a shared choice all earlier calls have ended. One of them may have set the pin since
            // this request read it.
            let choose =
                || held.backend().or_else(|| Some(list[choose(&self.core, None, list)].tag));
            let choice = self.core.shared_choices.join(key, choose)?;
            let position = snapshot.index().position(choice.tag());
            self.slow_path().shared_choice = Some(choice);
            position?
        };
        let state = &snapshot.index().states()[position];
        state.takes_new_sessions().then(|| state.clone())
    }
}
