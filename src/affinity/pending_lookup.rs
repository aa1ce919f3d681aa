//! A store's answer that takes its time.

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

/// What must be waited for before the affinity can read the request.
pub(crate) struct PendingLookup {
    author: AffinityKey,
    key: SessionKey,
    /// Never locked: it makes the future of the response `Sync`, whatever the store's is.
    lookup: Mutex<Lookup>,
}

impl PendingLookup {
    pub(super) fn new(author: AffinityKey, key: SessionKey, lookup: Lookup) -> Self {
        Self { author, key, lookup: Mutex::new(lookup) }
    }

    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Answer> {
        self.lookup.get_mut().unwrap_or_else(PoisonError::into_inner).as_mut().poll(cx)
    }

    /// Notes the answer for when the affinity reads the request again.
    pub(crate) fn answered(&self, answer: Answer, notes: &mut RequestState) {
        notes.push(self.author, StateEntry::Answered(self.key, answer));
    }
}

impl fmt::Debug for PendingLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Later").finish_non_exhaustive()
    }
}
