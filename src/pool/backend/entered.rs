//! A request that is in flight at a backend, for the count of those.

use std::sync::Arc;

use super::state::BackendState;

/// A request that counts as in flight on a backend, until this is dropped. It outlives every change of
/// the pool.
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
