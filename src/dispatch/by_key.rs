//! Routing by a key, and the fallback in a chain while the key's owner is unavailable.

use std::sync::Arc;

use super::{NextStep, state::Dispatch};
use crate::{
    affinity::{Fallback, Origin, Owner, Reading},
    outcome::Reason,
    pool::{BackendState, Mode, Snapshot},
};

impl<S: Clone> Dispatch<S> {
    /// Sets the backend that serves while the owner of a chain's key is unavailable. For a session whose
    /// backend has left the pool it is the owner of the key, as the session has an id of its own.
    #[cold]
    pub(super) fn set_fallback(
        &mut self,
        snapshot: &Snapshot<S>,
        reading: &Reading,
        chain_fallback: Option<Fallback>,
    ) {
        let states = snapshot.index().states();
        let owner_of = |key, source| Some(&states[self.owner_by(snapshot, key, source)?.position]);
        let orphaned_key = reading.key.filter(|_| reading.pin.is_some());
        let owner = orphaned_key.and_then(|key| owner_of(key, reading.origin));
        let fallback = match (owner, chain_fallback) {
            (Some(owner), _) if owner.takes_new_sessions() => Some(owner.tag),
            (_, Some(Fallback::Pin(tag))) => Some(tag),
            (_, Some(Fallback::Key(key, source))) => owner_of(key, source).map(|state| state.tag),
            (_, None) => None,
        };
        if fallback.is_some() {
            self.slow_path().fallback = fallback;
        }
    }

    /// The backend that is next in a chain, if it can serve. Returned once.
    pub(super) fn take_fallback(&mut self, snapshot: &Snapshot<S>) -> Option<Arc<BackendState>> {
        let tag = self.slow_path.as_mut()?.fallback.take()?;
        let state = snapshot.index().get(tag)?;
        let serves = match state.mode() {
            Mode::Active => state.availability().is_healthy(),
            // It keeps its sessions, and takes no new sessions.
            Mode::Draining => self.is_keyed() && state.availability().is_healthy(),
            Mode::Disabled | Mode::Drained => false,
        };
        serves.then(|| state.clone())
    }

    /// The backend that is first in rank for `key`, or the next one below the bound on the load if there
    /// is a bound.
    #[inline]
    pub(super) fn owner(&self, snapshot: &Snapshot<S>, key: u64) -> Option<Owner> {
        self.owner_by(snapshot, key, self.source)
    }

    /// The owner of a key from `source`.
    #[inline]
    fn owner_by(&self, snapshot: &Snapshot<S>, key: u64, source: Origin) -> Option<Owner> {
        let ranking = snapshot.ranking();
        match self.core.affinity.hashing(source) {
            Some(hashing) => hashing.owner(key, ranking, snapshot.index().states()),
            None => {
                let position = ranking.first(key)?;
                Some(Owner { position, displaced: false })
            }
        }
    }

    /// Sends the request to the owner of its key, without a pin.
    pub(super) fn try_owner(&mut self, snapshot: &Snapshot<S>, owner: Owner) -> NextStep<S> {
        let next = self.honor_pin(snapshot, owner.position);
        if owner.displaced && self.decision.is_pinned() {
            // The bound on the load is a stated policy.
            self.set_borrowed(Reason::Busy);
        }
        next
    }
}
