//! Counting the outcome of a request, once, and telling it to whoever asked.

use http::{Extensions, Response};

use super::{held_pin::HeldPin, state::Dispatch};
use crate::{
    id::BackendId,
    outcome::{Outcome, Reason, StickyError, Verdict},
};

impl<S> Dispatch<S> {
    /// The last resort answered.
    pub(crate) fn answered_by_last_resort<B>(&mut self, response: &mut Response<B>) {
        self.decision.set_verdict(Verdict::LastResort);
        self.finish(None, response.extensions_mut());
    }

    /// The request ends with an error of our own.
    pub(crate) fn rejected(&mut self, error: &StickyError) {
        tracing::debug!(error = %error, "no answer from a backend");
        self.decision.set_verdict(Verdict::Rejected);
        match error {
            StickyError::Client { .. } => self.decision.set_reason(Some(Reason::ClientError)),
            StickyError::Shortage { .. } => self.decision.set_reason(Some(Reason::Shortage)),
            _ => {}
        }
        self.count(error.backend());
    }

    /// The outcome is final, and is added to the extensions of the response if that was asked for.
    #[inline]
    pub(super) fn finish(&mut self, backend: Option<&BackendId>, extensions: &mut Extensions) {
        self.count(backend);
        if self.core.options.extensions {
            extensions.insert(self.outcome(backend));
        }
    }

    /// The outcome as it stands.
    pub(crate) fn outcome(&self, backend: Option<&BackendId>) -> Outcome {
        Outcome {
            verdict: self.decision.verdict(),
            backend: backend.cloned(),
            reason: self.decision.reason(),
        }
    }

    #[inline]
    fn count(&mut self, backend: Option<&BackendId>) {
        self.decision.mark_counted();
        let counters = &self.core.backends.pool().counters;
        counters.count(self.decision.verdict(), self.decision.reason());
        if let Some((held, _)) = &self.held {
            self.record_outcome(held, backend);
        }
        if tracing::enabled!(target: "tower_sticky", tracing::Level::ERROR) {
            self.trace(backend);
        }
    }

    #[inline(never)]
    fn record_outcome(&self, held: &HeldPin, backend: Option<&BackendId>) {
        held.ended_with(self.outcome(backend));
    }

    #[cold]
    fn trace(&self, backend: Option<&BackendId>) {
        let backend = backend.map_or("", BackendId::as_str);
        let outcome = self.decision.verdict().as_str();
        let reason = self.decision.reason().map(Reason::as_str);
        let span = tracing::Span::current();
        span.record("sticky.backend", backend);
        span.record("sticky.outcome", outcome);
        if let Some(reason) = reason {
            span.record("sticky.reason", reason);
        }
        tracing::debug!(target: "tower_sticky", backend, outcome, reason, "dispatched");
    }
}

/// A request that is canceled counts with the outcome that it had so far.
impl<S> Drop for Dispatch<S> {
    #[inline]
    fn drop(&mut self) {
        if !self.decision.is_counted() {
            self.count(None);
        }
    }
}
