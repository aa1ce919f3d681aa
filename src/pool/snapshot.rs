//! `Snapshot`: the immutable view of a pool that a request works with.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use twox_hash::XxHash3_64;

use super::{
    availability::Availability,
    backend::{BackendState, Mode},
    priority::{Tier, Tiers},
};
use crate::{
    hash::{self, Ranking},
    id::backend,
    util::{SystemClock, clock::unix_millis},
};

/// The members of the pool, and those of them that may take a new session.
pub(crate) struct Snapshot<S> {
    pub(crate) members: Arc<Members<S>>,
    tiers: Tiers,
    /// The suspect backends whose settings let them take new sessions.
    pub(crate) suspects: Box<[Arc<BackendState>]>,
    /// The Unix time in milliseconds at which the backend of a key may last have changed.
    pub(crate) epoch: u64,
    /// A hash of everything that decides the backend of a key; when it changes, so does `epoch`.
    owner_signature: u64,
    /// The ranking that keys are hashed with: created when it is first needed, and shared by later
    /// snapshots while it stays the same.
    ranking: OnceLock<Arc<Ranking>>,
}

pub(crate) struct Members<S> {
    /// `None` for the local node, which is served by the layer's inner service.
    pub(crate) services: Vec<Option<S>>,
    pub(crate) index: Index,
}

/// The members without their services, for affinities and strategies.
#[derive(Debug, Default, Clone)]
pub(crate) struct Index {
    states: Vec<Arc<BackendState>>,
    by_tag: Positions,
    /// Positions by a hash of the id that is cheaper than the tag, for the ids in plain tokens. Of two ids
    /// with the same hash, one is found by its tag.
    by_id: Positions,
    /// Changes with the members, and is unique in this process.
    generation: u64,
}

/// The next generation of an index; 0 is that of an index which has never had a member.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

type Positions = HashMap<u64, u32, BuildHasherDefault<TagHasher>>;

impl<S> Snapshot<S> {
    /// A snapshot of the current state of `members`, which replaces `previous`.
    pub(crate) fn new(
        members: Arc<Members<S>>,
        own_zone: Option<&str>,
        previous: Option<&Self>,
    ) -> Self {
        let tiers = Tiers::of(&members.index.states, own_zone);
        let states = members.index.states.iter();
        let is_suspect = |state: &&Arc<BackendState>| {
            state.may_take_new_sessions() && state.availability() == Availability::Suspect
        };
        let suspects = states.filter(is_suspect).cloned().collect();
        let ranking = OnceLock::new();
        if let Some(old) = previous.and_then(|previous| previous.ranking.get())
            && old.signature() == hash::signature(members.index.ranked())
        {
            let _ = ranking.set(old.clone());
        }
        let owner_signature = owner_signature(&members.index);
        let epoch = match previous {
            Some(previous) if previous.owner_signature == owner_signature => previous.epoch,
            previous => {
                unix_millis(&SystemClock).max(previous.map_or(0, |p| p.epoch.saturating_add(1)))
            }
        };
        Self { members, tiers, suspects, epoch, owner_signature, ranking }
    }

    pub(crate) fn index(&self) -> &Index {
        &self.members.index
    }

    /// The ranking of the members that are active and have a weight, whatever their health.
    #[inline]
    pub(crate) fn ranking(&self) -> &Arc<Ranking> {
        self.ranking.get_or_init(|| Arc::new(Ranking::new(self.index().ranked())))
    }

    /// Whether no backend may take a new session, not even a suspect one.
    pub(crate) fn all_unavailable(&self) -> bool {
        self.first_tier().is_none() && self.suspects.is_empty()
    }

    /// The backends that are first in priority for a new session.
    #[inline]
    pub(crate) fn first_tier(&self) -> Option<Tier<'_>> {
        self.tiers.get(0, &self.members.index.states)
    }

    /// The backends that may take a new session, by priority.
    pub(crate) fn tiers(&self) -> impl Iterator<Item = Tier<'_>> {
        (0..).map_while(|position| self.tiers.get(position, &self.members.index.states))
    }
}

/// A hash of everything that decides the backend of a key.
fn owner_signature(index: &Index) -> u64 {
    let ranked = index.ranked().zip(&index.states).map(|((tag, weight), state)| {
        let serves = state.mode() != Mode::Disabled && state.availability().is_healthy();
        (tag ^ state.epoch(), weight << 1 | u32::from(serves))
    });
    hash::signature(ranked)
}

impl<S> Default for Members<S> {
    fn default() -> Self {
        Self { services: Vec::new(), index: Index::default() }
    }
}

impl<S: Clone> Clone for Members<S> {
    fn clone(&self) -> Self {
        Self { services: self.services.clone(), index: self.index.clone() }
    }
}

impl<S> Members<S> {
    pub(crate) fn push(&mut self, state: Arc<BackendState>, service: Option<S>) {
        let position = self.services.len() as u32;
        self.index.by_tag.insert(state.tag, position);
        self.index.by_id.insert(id_hash(state.id.as_str().as_bytes()), position);
        self.index.states.push(state);
        self.index.generation = next_generation();
        self.services.push(service);
    }

    pub(crate) fn remove(&mut self, position: usize) -> (Arc<BackendState>, Option<S>) {
        let service = self.services.remove(position);
        let state = self.index.states.remove(position);
        self.index.generation = next_generation();
        let Index { by_tag, by_id, .. } = &mut self.index;
        by_tag.remove(&state.tag);
        by_id.remove(&id_hash(state.id.as_str().as_bytes()));
        let all = by_tag.values_mut().chain(by_id.values_mut());
        all.filter(|other| **other as usize > position).for_each(|other| *other -= 1);
        (state, service)
    }
}

/// The place of a member that leaves, among the new positions.
const GONE: u32 = u32::MAX;

impl<S> Members<S> {
    /// Removes the members with these tags, and returns their services. The states of the others are not read.
    pub(crate) fn remove_all(&mut self, tags: &HashSet<u64>) -> Vec<Option<S>> {
        let mut positions = vec![0_u32; self.services.len()];
        for position in tags.iter().filter_map(|&tag| self.index.position(tag)) {
            positions[position] = GONE;
        }
        let staying = positions.iter_mut().filter(|position| **position != GONE);
        (0..).zip(staying).for_each(|(next, position)| *position = next);
        let Index { states, by_tag, by_id, .. } = &mut self.index;
        for map in [by_tag, by_id] {
            map.retain(|_, position| {
                *position = positions.get(*position as usize).copied().unwrap_or(GONE);
                *position != GONE
            });
        }
        let mut leaves = positions.iter().map(|position| *position == GONE);
        states.retain(|_| !leaves.next().unwrap_or_default());
        self.index.generation = next_generation();
        let services = std::mem::take(&mut self.services).into_iter().zip(&positions);
        let (gone, stay): (Vec<_>, Vec<_>) = services.partition(|(_, position)| **position == GONE);
        self.services = stay.into_iter().map(|(service, _)| service).collect();
        gone.into_iter().map(|(service, _)| service).collect()
    }
}

fn next_generation() -> u64 {
    GENERATIONS.fetch_add(1, Relaxed)
}

impl Index {
    /// A number that changes with the members.
    pub(crate) fn generation(&self) -> u64 {
        self.generation
    }

    pub(crate) fn states(&self) -> &[Arc<BackendState>] {
        &self.states
    }

    /// To replace states by others of the same id.
    pub(crate) fn states_mut(&mut self) -> &mut [Arc<BackendState>] {
        &mut self.states
    }

    /// Tag and weight of all members in order. Members with weight 0 are not ranked, nor are backups
    /// while there is a primary backend, whatever its health.
    fn ranked(&self) -> impl Iterator<Item = (u64, u32)> {
        let may_take = |state: &BackendState| state.mode() == Mode::Active && state.weight() > 0;
        let primaries = self.states.iter().any(|state| may_take(state) && !state.is_backup());
        self.states.iter().map(move |state| {
            let ranks = may_take(state) && !(primaries && state.is_backup());
            (state.tag, if ranks { state.weight() } else { 0 })
        })
    }

    #[inline]
    pub(crate) fn position(&self, tag: u64) -> Option<usize> {
        self.by_tag.get(&tag).map(|&position| position as usize)
    }

    #[inline]
    pub(crate) fn get(&self, tag: u64) -> Option<&Arc<BackendState>> {
        self.states.get(self.position(tag)?)
    }

    /// The position of the member whose id is exactly `id`.
    #[inline]
    pub(crate) fn position_of(&self, id: &[u8]) -> Option<usize> {
        match self.by_id.get(&id_hash(id)) {
            Some(&position) if self.has_id(position as usize, id) => Some(position as usize),
            _ => self.position_by_tag(id),
        }
    }

    #[cold]
    fn position_by_tag(&self, id: &[u8]) -> Option<usize> {
        self.position(backend::tag(id)).filter(|&position| self.has_id(position, id))
    }

    #[inline]
    fn has_id(&self, position: usize, id: &[u8]) -> bool {
        self.states.get(position).is_some_and(|state| state.id.as_str().as_bytes() == id)
    }
}

/// A hash of an id, used only within this file.
#[inline]
fn id_hash(id: &[u8]) -> u64 {
    XxHash3_64::oneshot(id)
}

/// The identity function, as tags are hashes already.
#[derive(Default, Clone)]
pub(crate) struct TagHasher(u64);

impl Hasher for TagHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, tag: u64) {
        self.0 = tag;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy::testing::states;

    #[test]
    fn members_are_found_by_id_and_by_tag_after_a_removal() {
        let mut members = Members::default();
        for state in states(&[1; 10]) {
            members.push(state, Some(()));
        }
        members.remove(3);
        assert_eq!(members.index.position_of(b"b3"), None);
        for (position, state) in members.index.states().iter().enumerate() {
            let id = state.id.as_str().as_bytes();
            assert_eq!(members.index.position_of(id), Some(position), "{state:?}");
            let short = members.index.by_id.get(&id_hash(id));
            assert_eq!(short, Some(&(position as u32)), "{state:?} is found by the hash of its id");
            assert_eq!(members.index.position(state.tag), Some(position), "{state:?}");
        }
    }

    #[test]
    fn members_are_found_after_the_removal_of_several() {
        let mut members = Members::default();
        for (number, state) in states(&[1; 10]).into_iter().enumerate() {
            members.push(state, Some(number));
        }
        let generation = members.index.generation();
        let leaving = [0, 4, 5, 9].map(|position: usize| members.index.states()[position].tag);
        let removed = members.remove_all(&leaving.into_iter().chain([17]).collect());
        assert_eq!(removed, [0, 4, 5, 9].map(Some));
        assert_eq!(members.services, [1, 2, 3, 6, 7, 8].map(Some));
        assert_ne!(members.index.generation(), generation);
        for (position, state) in members.index.states().iter().enumerate() {
            let id = state.id.as_str().as_bytes();
            assert_eq!(
                Some(id),
                members.services[position].map(|n| format!("b{n}").into_bytes()).as_deref()
            );
            assert_eq!(members.index.by_id.get(&id_hash(id)), Some(&(position as u32)));
            assert_eq!(members.index.position(state.tag), Some(position));
        }
        assert_eq!((members.index.by_tag.len(), members.index.by_id.len()), (6, 6));
    }

    #[test]
    fn ids_with_the_same_hash_are_found_by_tag() {
        let mut members = Members::default();
        for state in states(&[1; 3]) {
            members.push(state, Some(()));
        }
        // As if "b1" and "b2" had the same hash.
        members.index.by_id.insert(id_hash(b"b1"), 2);
        assert_eq!(members.index.position_of(b"b1"), Some(1), "found by its tag");
        members.remove(2);
        assert_eq!(members.index.position_of(b"b1"), Some(1));
    }

    #[test]
    fn backups_are_ranked_while_no_primary_backend_takes_sessions() {
        let mut members = Members::default();
        for state in states(&[2, 3]) {
            members.push(state, Some(()));
        }
        let weights = || members.index.ranked().map(|(_, weight)| weight).collect::<Vec<_>>();
        let states = members.index.states();
        states[1].set_backup(true);
        assert_eq!(weights(), [2, 0]);
        states[0].set_weight(0);
        assert_eq!(weights(), [0, 3], "with a weight of 0 it takes no new sessions");
        states[0].set_weight(2);
        states[0].set_mode(Mode::Draining);
        assert_eq!(weights(), [0, 3]);
    }

    #[test]
    fn the_epoch_changes_when_another_backend_takes_the_place_of_one() {
        let snapshot = |state: &Arc<BackendState>, previous: Option<&Snapshot<()>>| {
            let mut members = Members::default();
            members.push(state.clone(), Some(()));
            Snapshot::new(Arc::new(members), None, previous)
        };
        let states = states(&[1, 1]);
        let first = snapshot(&states[0], None);
        assert_eq!(snapshot(&states[0], Some(&first)).epoch, first.epoch);
        assert!(snapshot(&states[1], Some(&first)).epoch > first.epoch);
    }

    #[test]
    fn the_epoch_changes_with_all_that_decides_the_backend_of_a_key() {
        for state in states(&[1; 32]) {
            let mut members = Members::default();
            members.push(state.clone(), Some(()));
            let members = Arc::new(members);
            let mut last = Snapshot::new(members.clone(), None, None);
            let mut changes = |cause: &str| {
                let next = Snapshot::new(members.clone(), None, Some(&last));
                assert!(next.epoch > last.epoch, "{cause} of {state:?}");
                last = next;
            };
            state.set_weight(2);
            changes("the weight");
            // Epochs that follow each other differ in few bits.
            for _ in 0..4 {
                state.begin_epoch();
                changes("the epoch");
            }
            state.set_mode(Mode::Draining);
            changes("that it is drained");
            state.set_mode(Mode::Disabled);
            changes("that it is disabled");
        }
    }
}
