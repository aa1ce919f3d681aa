//! Changes of a pool by a discovery feed, which affect only the backends of that feed.

use std::{fmt, sync::Arc};

use super::{BackendState, Mode, Owner, Pool, shared::check_free, snapshot::Members};
use crate::{id::BackendId, pool::Event, util::lock};

/// The owner of a backend id, as seen by a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// There is no backend with this id.
    Free,
    /// The feed inserted it.
    Own,
    /// It was inserted by a feed that has ended, or has released it.
    Orphaned,
    /// It was inserted by the program or by another feed.
    Foreign,
    /// It is the local node.
    Local,
}

/// A change that a feed requests.
#[derive(Debug)]
pub(crate) struct MemberChange<S> {
    pub(crate) id: BackendId,
    pub(crate) kind: ChangeKind<S>,
}

pub(crate) enum ChangeKind<S> {
    /// Inserts the backend or replaces its service, and sets its weight if one is given.
    Put { service: S, weight: Option<u32> },
    /// Sets the weight.
    #[cfg(feature = "dns")]
    Weight(u32),
    /// Sets the mode.
    Mode(Mode),
    /// Removes the backend.
    Remove,
}

impl<S> fmt::Debug for ChangeKind<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Put { .. } => "Put",
            #[cfg(feature = "dns")]
            Self::Weight(_) => "Weight",
            Self::Mode(_) => "Mode",
            Self::Remove => "Remove",
        })
    }
}

/// A change that was rejected, with the reason.
#[derive(Debug)]
pub(crate) struct RejectedChange {
    pub(crate) id: BackendId,
    pub(crate) reason: String,
}

impl<S: Clone> Pool<S> {
    /// A backend that the discovery owns, or that has lost its owner, was given another service.
    fn take_over(&self, state: &BackendState, owner: &Owner, weight: Option<u32>) {
        let former = state.owner();
        state.set_owner(owner.reference());
        if !owner.owns(&former) && former.is_leaving(&state.id) {
            self.change_mode(state, Mode::Active);
        }
        self.reset_health(state);
        if let Some(weight) = weight {
            self.change_weight(state, weight);
        }
    }

    /// Applies the changes of one feed, and publishes them together. Changes of backends that the feed does
    /// not own are ignored. Returns the insertions among them.
    pub(crate) fn apply(
        &self,
        owner: &Owner,
        changes: Vec<MemberChange<S>>,
    ) -> Vec<RejectedChange> {
        let _changing = lock(&self.changing);
        let mut members = Members::clone(&self.load().members);
        let mut rejected = Vec::new();
        let (mut left, mut replaced) = (Vec::new(), Vec::new());
        for MemberChange { id, kind } in changes {
            let ownership = ownership_of(&members, owner, &id);
            let position = members.index.position_of(id.as_str().as_bytes());
            match (kind, ownership, position) {
                (ChangeKind::Put { service, weight }, Ownership::Free, _) => {
                    let fresh = BackendState::new(id);
                    fresh.set_weight(weight.unwrap_or(1));
                    fresh.set_owner(owner.reference());
                    match self.join(&mut members, fresh, service) {
                        Ok(state) => replaced.push(state),
                        Err(change) => rejected.push(change),
                    }
                }
                (
                    ChangeKind::Put { service, weight },
                    Ownership::Own | Ownership::Orphaned,
                    Some(position),
                ) => {
                    members.services[position] = Some(service);
                    let state = &members.index.states()[position];
                    self.take_over(state, owner, weight);
                    replaced.push(state.clone());
                }
                (ChangeKind::Put { .. }, Ownership::Foreign, _) => {
                    let reason = "the id is taken by a backend that this feed did not bring; remove \
                               that one, or give one of them another id";
                    rejected.push(RejectedChange { id, reason: reason.to_owned() });
                }
                #[cfg(feature = "dns")]
                (ChangeKind::Weight(weight), Ownership::Own, Some(position)) => {
                    self.change_weight(&members.index.states()[position], weight);
                }
                (ChangeKind::Mode(mode), Ownership::Own, Some(position)) => {
                    self.change_mode(&members.index.states()[position], mode);
                }
                (ChangeKind::Remove, Ownership::Own, Some(position)) => {
                    let state = members.remove(position).0;
                    self.finish_removal(&state);
                    left.push(state);
                }
                // The local node, and changes of backends with another owner.
                _ => {}
            }
        }
        self.removed.insert(&left);
        self.publish(Arc::new(members));
        replaced.iter().for_each(|state| state.begin_service_generation());
        rejected
    }

    /// Adds a backend to `members`.
    fn join(
        &self,
        members: &mut Members<S>,
        fresh: BackendState,
        service: S,
    ) -> Result<Arc<BackendState>, RejectedChange> {
        // Two ids may have the same hash.
        if let Err(error) = check_free(members, &fresh) {
            return Err(RejectedChange { id: fresh.id, reason: error.to_string() });
        }
        let backend = fresh.id.clone();
        let state = self.removed.restore(Arc::new(fresh));
        self.begin_slow_start(&state);
        members.push(state.clone(), Some(service));
        self.events.publish(|| Event::Joined { backend });
        Ok(state)
    }
}

impl<S> Pool<S> {
    /// The ids of the backends that a feed owns.
    pub(crate) fn owned_by(&self, owner: &Owner) -> Vec<BackendId> {
        let snapshot = self.load();
        let owned = snapshot.index().states().iter().filter(|state| owner.owns(&state.owner()));
        owned.map(|state| state.id.clone()).collect()
    }
}

#[cfg(feature = "dns")]
impl<S> Pool<S> {
    /// The current owner of the backend `id`, as seen by `owner`.
    pub(crate) fn ownership(&self, owner: &Owner, id: &BackendId) -> Ownership {
        ownership_of(&self.load().members, owner, id)
    }
}

fn ownership_of<S>(members: &Members<S>, owner: &Owner, id: &BackendId) -> Ownership {
    let Some(position) = members.index.position_of(id.as_str().as_bytes()) else {
        return Ownership::Free;
    };
    if members.services.get(position).is_some_and(Option::is_none) {
        return Ownership::Local;
    }
    match members.index.states().get(position).map(|state| state.owner()) {
        Some(reference) if owner.owns(&reference) => Ownership::Own,
        Some(reference) if reference.is_stale() => Ownership::Orphaned,
        _ => Ownership::Foreign,
    }
}
