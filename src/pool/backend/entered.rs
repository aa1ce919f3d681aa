//! `Entered`: counts a request as in flight.

use std::sync::Arc;

use super::state::BackendState;

/// Counts a request as in flight on a backend until it is dropped, whatever changes in the pool.
pub(crate) struct Entered(Arc<BackendState>);

impl Entered {
    #[inline]
    pub(crate) fn new(state: Arc<BackendState>) -> Self {
        state.enter();
        Self(state)
    }

    #[inline]
    pub(crate) fn state(&self) -> &Arc<BackendState> {
        &self.0
    }
}

impl Drop for Entered {
    #[inline]
    fn drop(&mut self) {
        self.0.leave();
    }
}
