//! A pending lookup in a store.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    task::{Context, Poll},
};

use super::request_state::{AffinityKey, RequestState, StateEntry};
use crate::store::{Answer, SessionKey};

type Lookup = Pin<Box<dyn Future<Output = Answer> + Send>>;

/// A lookup that must be complete before the affinity can read the request.
pub(crate) struct PendingLookup {
    affinity: AffinityKey,
    key: SessionKey,
    /// Never locked. The mutex makes the response future `Sync` although the store's need not be.
    lookup: Mutex<Lookup>,
}

impl PendingLookup {
    pub(super) fn new(affinity: AffinityKey, key: SessionKey, lookup: Lookup) -> Self {
        Self { affinity, key, lookup: Mutex::new(lookup) }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        self.lookup.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }

    /// Records the answer, for when the affinity reads the request again.
    pub(crate) fn complete(&self, answer: Answer, state: &mut RequestState) {
        state.push(self.affinity, StateEntry::Lookup(self.key, answer));
    }
}

impl fmt::Debug for PendingLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PendingLookup").finish_non_exhaustive()
    }
}
