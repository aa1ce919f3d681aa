//! The states of removed backends that still have requests in flight.

use std::sync::{Arc, Mutex, Weak};

use super::BackendState;
use crate::util::lock;

/// The most states that are kept; the oldest are dropped first.
const MAX: usize = 4096;

/// Keeps weak references to the states of removed backends, so that the counters continue when a backend
/// joins again while it has requests in flight.
#[derive(Debug, Default)]
pub(super) struct RemovedBackends(Mutex<Vec<Weak<BackendState>>>);

impl RemovedBackends {
    /// Adds the states of backends that were removed.
    pub(super) fn insert<'a>(&self, removed: impl IntoIterator<Item = &'a Arc<BackendState>>) {
        let mut states = lock(&self.0);
        states.retain(|state| state.strong_count() > 0);
        states.extend(removed.into_iter().map(Arc::downgrade));
        let surplus = states.len().saturating_sub(MAX);
        states.drain(..surplus);
    }

    /// The state for a backend that joins with the settings of `fresh`: its previous state, if requests are
    /// still in flight, else `fresh`. Its health is reset.
    pub(super) fn restore(&self, fresh: Arc<BackendState>) -> Arc<BackendState> {
        let mut states = lock(&self.0);
        states.retain(|state| state.strong_count() > 0);
        let old = states.iter().position(|state| {
            state.upgrade().is_some_and(|state| state.tag == fresh.tag && state.id == fresh.id)
        });
        match old.and_then(|position| states.swap_remove(position).upgrade()) {
            Some(old) => {
                old.rejoin(&fresh);
                old
            }
            None => fresh,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{id::BackendId, pool::Cause};

    fn state(id: &str) -> Arc<BackendState> {
        Arc::new(BackendState::new(BackendId::new(id).unwrap()))
    }

    #[test]
    fn state_is_restored_once_while_it_is_in_use() {
        let removed = RemovedBackends::default();
        let (held, gone) = (state("a"), state("b"));
        removed.insert([&held, &gone]);
        drop(gone);
        assert!(Arc::ptr_eq(&removed.restore(state("a")), &held), "the state is in use");
        assert!(!Arc::ptr_eq(&removed.restore(state("a")), &held), "it was restored already");
        assert_eq!(removed.restore(state("b")).requests(), 0);
        assert!(lock(&removed.0).is_empty(), "no entries are left");
    }

    #[test]
    fn restored_state_does_not_tell_changes_from_before_it_left() {
        let (removed, held) = (RemovedBackends::default(), state("a"));
        held.since.state_changed(Cause::Probe);
        removed.insert([&held]);
        let restored = removed.restore(state("a"));
        assert!(Arc::ptr_eq(&restored, &held));
        assert_eq!(restored.since.get().cause, None, "it has not changed since it joined");
    }

    #[test]
    fn oldest_states_are_dropped_at_capacity() {
        let removed = RemovedBackends::default();
        let held: Vec<_> = (0..MAX + 10).map(|i| state(&format!("b{i}"))).collect();
        held.iter().for_each(|state| removed.insert([state]));
        assert_eq!(lock(&removed.0).len(), MAX);
        assert!(
            Arc::ptr_eq(&removed.restore(state("b10")), &held[10]),
            "the newest states are kept"
        );
        assert!(
            !Arc::ptr_eq(&removed.restore(state("b9")), &held[9]),
            "the oldest states are dropped"
        );
    }

    #[test]
    fn states_without_requests_are_not_kept() {
        let (removed, held) = (RemovedBackends::default(), state("a"));
        removed.insert([&state("b"), &held]);
        removed.insert([]);
        assert_eq!(lock(&removed.0).len(), 1);
    }
}
