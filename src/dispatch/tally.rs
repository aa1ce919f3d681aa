//! Counts the outcome of each request once, and adds it to the response and the span.

use http::{Extensions, Response};

use super::{held_pin::HeldPin, state::Dispatch};
use crate::{
    id::BackendId,
    outcome::{Outcome, Reason, StickyError, Verdict},
};

impl<S> Dispatch<S> {
    /// The last resort has answered.
    pub(crate) fn answered_by_last_resort<B>(&mut self, response: &mut Response<B>) {
        self.decision.set_verdict(Verdict::LastResort);
        self.finish(None, response.extensions_mut());
    }

    /// The request ends with an error of the layer.
    pub(crate) fn rejected(&mut self, error: &StickyError) {
        tracing::debug!(error = %error, "the request was rejected");
        self.decision.set_verdict(Verdict::Rejected);
        match error {
            StickyError::Client { .. } => self.decision.set_reason(Some(Reason::ClientError)),
            StickyError::Shortage { .. } => self.decision.set_reason(Some(Reason::Shortage)),
            _ => {}
        }
        self.count(error.backend());
    }

    /// Counts the final outcome, and adds it to the extensions of the response if that is enabled.
    #[inline]
    pub(super) fn finish(&mut self, backend: Option<&BackendId>, extensions: &mut Extensions) {
        self.count(backend);
        if self.core.options.info.outcome_extension {
            extensions.insert(self.outcome(backend));
        }
    }

    /// The current outcome.
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
        held.set_outcome(self.outcome(backend));
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

/// A canceled request is counted with its current outcome.
impl<S> Drop for Dispatch<S> {
    #[inline]
    fn drop(&mut self) {
        if !self.decision.is_counted() {
            self.count(None);
        }
    }
}
