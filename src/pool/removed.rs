//! The backends that left a pool and still have requests in flight.

use std::sync::{Arc, Mutex, Weak};

use super::BackendState;
use crate::util::lock;

/// At most so many are remembered; the one that left first is forgotten first.
const MAX: usize = 4096;

/// Remembers the states of removed backends for as long as something holds them, so that the counts
/// of a backend that comes back go on where they were.
#[derive(Debug, Default)]
pub(super) struct RemovedBackends(Mutex<Vec<Weak<BackendState>>>);

impl RemovedBackends {
    /// Takes in who has just left.
    pub(super) fn insert<'a>(&self, states: impl IntoIterator<Item = &'a Arc<BackendState>>) {
        let mut left = lock(&self.0);
        left.retain(|state| state.strong_count() > 0);
        left.extend(states.into_iter().map(Arc::downgrade));
        let surplus = left.len().saturating_sub(MAX);
        left.drain(..surplus);
    }

    /// The state that a backend with the settings of `fresh` joins with: the one that it had, if its
    /// requests are still in flight, else `fresh`. What was known of its health is forgotten.
    pub(super) fn restore(&self, fresh: BackendState) -> Arc<BackendState> {
        let mut left = lock(&self.0);
        left.retain(|state| state.strong_count() > 0);
        let old = left.iter().position(|state| {
            state.upgrade().is_some_and(|state| state.tag == fresh.tag && state.id == fresh.id)
        });
        match old.and_then(|position| left.swap_remove(position).upgrade()) {
            Some(old) => {
                old.rejoin(&fresh);
                old
            }
            None => Arc::new(fresh),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::BackendId;

    fn state(id: &str) -> BackendState {
        BackendState::new(BackendId::new(id).unwrap())
    }

    #[test]
    fn who_is_held_is_remembered_and_who_is_not_is_forgotten() {
        let removed = RemovedBackends::default();
        let (held, gone) = (Arc::new(state("a")), Arc::new(state("b")));
        removed.insert([&held, &gone]);
        drop(gone);
        assert!(Arc::ptr_eq(&removed.restore(state("a")), &held), "its requests are in flight");
        assert!(!Arc::ptr_eq(&removed.restore(state("a")), &held), "it has come back already");
        assert_eq!(removed.restore(state("b")).requests(), 0);
        assert!(lock(&removed.0).is_empty(), "nothing is kept of who is forgotten");
    }

    #[test]
    fn there_is_a_bound() {
        let removed = RemovedBackends::default();
        let held: Vec<_> = (0..MAX + 10).map(|i| Arc::new(state(&format!("b{i}")))).collect();
        held.iter().for_each(|state| removed.insert([state]));
        assert_eq!(lock(&removed.0).len(), MAX);
        assert!(Arc::ptr_eq(&removed.restore(state("b10")), &held[10]), "it left late enough");
        assert!(!Arc::ptr_eq(&removed.restore(state("b9")), &held[9]), "the first ones gave way");
    }
}
