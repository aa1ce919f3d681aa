//! What the metrics of one pool are read from, without the type of its services.

use std::{fmt, sync::Arc};

use crate::{
    outcome::{Stats, recording::PoolRecorder},
    pool::{BackendState, BackendStatus, Backends},
};

/// A pool at one time. Counters are read when they are visited.
pub(super) struct PoolView {
    pub(super) name: String,
    pub(super) recorder: PoolRecorder,
    pub(super) stats: Stats,
    pub(super) backends: Vec<(BackendStatus, Arc<BackendState>)>,
}

impl PoolView {
    pub(super) fn new<S>(backends: &Backends<S>) -> Self {
        let pool = backends.pool();
        let (snapshot, status) = (pool.load(), backends.snapshot());
        let index = snapshot.index();
        // The members may have changed between the two reads.
        let states = status.backends.into_iter().filter_map(|status| {
            let state = index.get(status.id.tag())?.clone();
            Some((status, state))
        });
        Self {
            name: backends.name().to_owned(),
            recorder: pool.recorder.clone(),
            stats: status.stats,
            backends: states.collect(),
        }
    }

    /// The id of the backend with this tag; empty for 0, and `None` for one that is not in the pool.
    pub(super) fn id(&self, tag: u64) -> Option<&str> {
        if tag == 0 {
            return Some("");
        }
        let mut states = self.backends.iter().map(|(_, state)| state);
        states.find(|state| state.tag == tag).map(|state| state.id.as_str())
    }
}

impl fmt::Debug for PoolView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PoolView").field("name", &self.name).finish_non_exhaustive()
    }
}
