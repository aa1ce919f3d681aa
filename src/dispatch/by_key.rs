//! Where a key says, and who decides in a chain while the owner of the key is out.

use std::sync::Arc;

use super::{NextStep, state::Dispatch};
use crate::{
    affinity::{Fallback, Origin, Owner, Reading},
    outcome::Reason,
    pool::{BackendState, Mode, Snapshot},
};

impl<S: Clone> Dispatch<S> {
    /// A key of a chain decides: notes who does while its owner is out. A session that goes on because its
    /// backend is gone is not known by that key, and its owner is noted.
    #[cold]
    pub(super) fn note_second(
        &mut self,
        snapshot: &Snapshot<S>,
        reading: &Reading,
        next: Option<Fallback>,
    ) {
        let states = snapshot.index().states();
        let owner_of = |key, source| Some(&states[self.owner_by(snapshot, key, source)?.position]);
        let goes_on = reading.key.filter(|_| reading.pin.is_some());
        let owner = goes_on.and_then(|key| owner_of(key, reading.origin));
        let second = match (owner, next) {
            (Some(owner), _) if owner.takes_new_sessions() => Some(owner.tag),
            (_, Some(Fallback::Pin(tag))) => Some(tag),
            (_, Some(Fallback::Key(key, source))) => owner_of(key, source).map(|state| state.tag),
            (_, None) => None,
        };
        if second.is_some() {
            self.slow_path().second = second;
        }
    }

    /// The backend that is next in a chain, once, if it can serve.
    pub(super) fn second(&mut self, snapshot: &Snapshot<S>) -> Option<Arc<BackendState>> {
        let tag = self.slow_path.as_mut()?.second.take()?;
        let state = snapshot.index().get(tag)?;
        let serves = match state.mode() {
            Mode::Active => state.availability().is_healthy(),
            // It keeps its sessions, and takes no new one.
            Mode::Draining => self.is_keyed() && state.availability().is_healthy(),
            Mode::Disabled | Mode::Drained => false,
        };
        serves.then(|| state.clone())
    }

    /// The backend that is first in rank for `key`, and not above its share if that is bounded.
    #[inline]
    pub(super) fn owner(&self, snapshot: &Snapshot<S>, key: u64) -> Option<Owner> {
        self.owner_by(snapshot, key, self.source)
    }

    /// The same for a key from `source`.
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

    /// Asks the backend of a key, where nothing is remembered.
    pub(super) fn try_owner(&mut self, snapshot: &Snapshot<S>, owner: Owner) -> NextStep<S> {
        let next = self.honor_pin(snapshot, owner.position);
        if owner.displaced && self.decision.is_pinned() {
            // The stated bound on the load says so.
            self.borrowed(Reason::Busy);
        }
        next
    }
}
