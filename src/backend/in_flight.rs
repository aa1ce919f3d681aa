//! What a request holds while a backend works on it.

use std::{fmt, sync::Arc};

use super::{slots::Slot, state::BackendState};
use crate::affinity::Notes;

/// One request in flight on a backend, until it is dropped. It outlives every change of the pool.
pub(crate) struct InFlight {
    state: Arc<BackendState>,
    _slot: Option<Slot<BackendState>>,
    /// What the session's affinity holds open meanwhile.
    notes: Notes,
}

impl InFlight {
    pub(crate) fn new(state: Arc<BackendState>, slot: Option<Slot<BackendState>>) -> Self {
        state.enter();
        Self { state, _slot: slot, notes: Notes::default() }
    }

    /// Keeps the notes of the request until then.
    pub(crate) fn keep(&mut self, notes: Notes) {
        self.notes = notes;
    }

    pub(crate) fn state(&self) -> &Arc<BackendState> {
        &self.state
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.state.leave();
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("InFlight").field(&self.state.id).finish()
    }
}
