//! Waiting for a store that takes its time, before the request can be read.

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

/// A look-up under way, for no longer than the request may wait.
pub(crate) struct StoreLookup {
    later: PendingLookup,
    sleep: Pin<Box<Sleep>>,
}

impl StoreLookup {
    pub(super) fn new(later: PendingLookup, deadline: Instant) -> Self {
        Self { later, sleep: Box::pin(sleep_until(deadline)) }
    }

    /// Ready when the answer is among the notes. A store that does not answer in time knows nothing:
    /// better a session placed by its rank than a request lost.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, notes: &mut RequestState) -> Poll<()> {
        let answer = match self.later.poll(cx) {
            Poll::Ready(answer) => answer,
            Poll::Pending if self.sleep.as_mut().poll(cx).is_ready() => {
                // The store itself is the one to warn, once and not with every request.
                tracing::debug!("the store of the sessions did not answer in time");
                Answer::Nothing
            }
            Poll::Pending => return Poll::Pending,
        };
        self.later.complete(answer, notes);
        Poll::Ready(())
    }
}

impl fmt::Debug for StoreLookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LookUp").finish_non_exhaustive()
    }
}
