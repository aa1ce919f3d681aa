//! The bounded table of sessions, which evicts old sessions to insert new ones.

use std::{
    hash::BuildHasherDefault,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use quick_cache::{Lifecycle, OptionsBuilder, UnitWeighter, sync::Cache};

use super::traits::SessionKey;
use crate::pool::TagHasher;

/// The keys are hashes already, so they are not hashed again.
pub(super) type Table<E> =
    Cache<SessionKey, Arc<E>, UnitWeighter, BuildHasherDefault<TagHasher>, KeepOpen>;

/// An entry that may have requests and streams in flight.
pub(super) trait HasOpenRequests {
    fn is_open(&self) -> bool;
}

/// Excludes sessions with a request or stream in flight from eviction.
#[derive(Debug, Clone, Default)]
pub(super) struct KeepOpen {
    evictions: Evictions,
}

/// How many sessions were evicted.
#[derive(Debug, Clone, Default)]
pub(super) struct Evictions(Arc<AtomicU64>);

impl Evictions {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

impl<E: HasOpenRequests> Lifecycle<SessionKey, Arc<E>> for KeepOpen {
    type RequestState = ();

    fn is_pinned(&self, _: &SessionKey, entry: &Arc<E>) -> bool {
        entry.is_open()
    }

    fn on_evict(&self, (): &mut (), _: SessionKey, _: Arc<E>) {
        self.evictions.0.fetch_add(1, Relaxed);
    }
}

/// A table for about `capacity` sessions, and the counter of its evictions. It grows as it is filled.
pub(super) fn new<E: HasOpenRequests>(capacity: usize) -> (Table<E>, Evictions) {
    let lifecycle = KeepOpen::default();
    (with_lifecycle(capacity, lifecycle.clone()), lifecycle.evictions)
}

fn with_lifecycle<E: HasOpenRequests>(capacity: usize, lifecycle: KeepOpen) -> Table<E> {
    // The table has shards, which are not filled evenly: with some more room none is full too early. With
    // a capacity below two the table would not keep any entry.
    let capacity = capacity.saturating_add(capacity / 64).max(2);
    let mut options = OptionsBuilder::new();
    options.estimated_items_capacity(capacity).weight_capacity(capacity as u64);
    // Half of the table is for new sessions. Evicted keys are not remembered, which would cost memory.
    options.hot_allocation(0.5).ghost_allocation(0.0);
    match options.build() {
        Ok(options) => {
            Cache::with_options(options, UnitWeighter, BuildHasherDefault::default(), lifecycle)
        }
        // Not reached, because both capacities are set.
        Err(_) => Cache::with(
            capacity,
            capacity as u64,
            UnitWeighter,
            BuildHasherDefault::default(),
            lifecycle,
        ),
    }
}
