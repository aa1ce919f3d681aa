//! Changes of a pool by a feed, which touches only the backends that it brought itself.

use std::{fmt, sync::Arc};

use super::{BackendState, Mode, Owner, Pool, shared::check_free, snapshot::Members};
use crate::{id::BackendId, pool::Event, util::lock};

/// What a backend is to a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ownership {
    /// There is no backend with this id.
    Free,
    /// The feed brought it.
    Own,
    /// A feed brought it that has ended.
    Orphaned,
    /// It was inserted by hand or by another feed.
    Foreign,
    /// It is the local node.
    Local,
}

/// One change that a feed wants.
#[derive(Debug)]
pub(crate) struct MemberChange<S> {
    pub(crate) id: BackendId,
    pub(crate) kind: ChangeKind<S>,
}

pub(crate) enum ChangeKind<S> {
    /// The backend joins, or gets another service, and another weight if one is given.
    Put { service: S, weight: Option<u32> },
    /// The backend gets another weight.
    #[cfg(feature = "dns")]
    Weight(u32),
    /// The backend gets another mode.
    Mode(Mode),
    /// The backend leaves.
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

/// A change that was not made, and why.
#[derive(Debug)]
pub(crate) struct RejectedChange {
    pub(crate) id: BackendId,
    pub(crate) reason: String,
}

impl<S: Clone> Pool<S> {
    /// Makes the changes of one feed, all of them visible at once. Those that would touch the backend
    /// of another are left out; of these, what would have brought a backend is returned.
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
                    // Two ids may share a hash.
                    if let Err(error) = check_free(&members, &fresh) {
                        rejected.push(RejectedChange { id: fresh.id, reason: error.to_string() });
                        continue;
                    }
                    let backend = fresh.id.clone();
                    let state = self.removed.restore(fresh);
                    self.begin_slow_start(&state);
                    replaced.push(state.clone());
                    members.push(state, Some(service));
                    self.events.publish(|| Event::Joined { backend });
                }
                (
                    ChangeKind::Put { service, weight },
                    Ownership::Own | Ownership::Orphaned,
                    Some(position),
                ) => {
                    members.services[position] = Some(service);
                    let state = &members.index.states()[position];
                    state.set_owner(owner.reference());
                    self.reset_health(state);
                    replaced.push(state.clone());
                    if let Some(weight) = weight {
                        self.change_weight(state, weight);
                    }
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
                // The local node serves itself, and what is not ours is left alone.
                _ => {}
            }
        }
        self.removed.insert(&left);
        self.publish(Arc::new(members));
        replaced.iter().for_each(|state| state.begin_service_generation());
        rejected
    }
}

#[cfg(feature = "dns")]
impl<S> Pool<S> {
    /// What the backend `id` is to `owner` now.
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
