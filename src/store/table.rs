//! A table of sessions that never refuses a new one.

use std::{hash::BuildHasherDefault, sync::Arc};

use quick_cache::{Lifecycle, OptionsBuilder, UnitWeighter, sync::Cache};

use super::traits::SessionKey;
use crate::pool::TagHasher;

/// The keys are hashes already.
pub(super) type Table<E> =
    Cache<SessionKey, Arc<E>, UnitWeighter, BuildHasherDefault<TagHasher>, KeepOpen>;

/// An entry that may have requests and streams under way.
pub(super) trait HasOpenRequests {
    fn is_open(&self) -> bool;
}

/// Sessions with a stream under way are not evicted.
#[derive(Clone)]
pub(super) struct KeepOpen;

impl<E: HasOpenRequests> Lifecycle<SessionKey, Arc<E>> for KeepOpen {
    type RequestState = ();

    fn is_pinned(&self, _: &SessionKey, entry: &Arc<E>) -> bool {
        entry.is_open()
    }
}

/// A table for about this many sessions. It grows as it is filled.
pub(super) fn new<E: HasOpenRequests>(capacity: usize) -> Table<E> {
    // The table is split, and its parts are never filled evenly: a little more room, so that none is
    // full before its time. Fewer than two the table would not take in at all.
    let capacity = capacity.saturating_add(capacity / 64).max(2);
    let mut options = OptionsBuilder::new();
    options.estimated_items_capacity(capacity).weight_capacity(capacity as u64);
    // Half of the table belongs to new sessions, whatever the others do; no memory of those that were
    // dropped, which would only cost room.
    options.hot_allocation(0.5).ghost_allocation(0.0);
    match options.build() {
        Ok(options) => {
            Cache::with_options(options, UnitWeighter, BuildHasherDefault::default(), KeepOpen)
        }
        // Not reached: both capacities are set.
        Err(_) => Cache::with(
            capacity,
            capacity as u64,
            UnitWeighter,
            BuildHasherDefault::default(),
            KeepOpen,
        ),
    }
}
