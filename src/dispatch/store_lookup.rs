//! Waits for a store whose answer is needed to read the request.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    affinity::{PendingLookup, RequestState},
    store::Answer,
};

/// A lookup in progress, until the deadline of the request.
pub(crate) struct StoreLookup {
    lookup: PendingLookup,
    sleep: Pin<Box<Sleep>>,
}

impl StoreLookup {
    pub(super) fn new(lookup: PendingLookup, deadline: Instant) -> Self {
        Self { lookup, sleep: Box::pin(sleep_until(deadline)) }
    }

    /// Ready once the answer is in the affinity's `state`. A store that does not answer in time counts as
    /// one without an entry: the session is placed by its rank instead of failing the request.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, state: &mut RequestState) -> Poll<()> {
        let answer = match self.lookup.poll(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending if self.sleep.as_mut().poll(cx).is_ready() => {
                // The store logs a warning itself, once and not for every request.
                tracing::debug!("the store of the sessions did not answer in time");
                Answer::Nothing
            }
            Poll::Pending => return Poll::Pending,
        };
        self.lookup.complete(answer, state);
        Poll::Ready(())
    }
}

impl fmt::Debug for StoreLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreLookup").finish_non_exhaustive()
    }
}
