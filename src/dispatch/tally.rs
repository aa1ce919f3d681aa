//! Counts the outcome of each request once, and adds it to the response and the span.

use http::{Extensions, Response, StatusCode};

use tokio::time::Instant;
use tracing::level_filters::LevelFilter;

use super::{held_pin::HeldPin, spans::Spans, state::Dispatch};
use crate::{
    id::BackendId,
    outcome::{Outcome, Reason, StatusClass, StickyError, Verdict, recording::Arrival},
    pool::BackendState,
};

impl<S> Dispatch<S> {
    /// The last resort has answered.
    pub(crate) fn answered_by_last_resort<B>(
        &mut self,
        arrived: Arrival,
        response: &mut Response<B>,
    ) {
        self.decision.set_verdict(Verdict::LastResort);
        self.ended(None, Some(response.status()), arrived);
        self.finish(None, response.extensions_mut());
    }

    /// The request ends with an error of the layer.
    pub(crate) fn rejected(&mut self, arrived: Arrival, error: &StickyError) {
        tracing::debug!(error = %error, "the request was rejected");
        self.decision.set_verdict(Verdict::Rejected);
        match error {
            StickyError::Client { .. } => self.decision.set_reason(Some(Reason::ClientError)),
            StickyError::Shortage { .. } => self.decision.set_reason(Some(Reason::Shortage)),
            _ => {}
        }
        let (status, _) = self.error_context().status(error);
        let snapshot = self.core.backends.pool().load();
        let state = error.backend().and_then(|backend| snapshot.index().get(backend.tag()));
        self.ended(state.map(|state| &**state), Some(status), arrived);
        self.count(error.backend());
    }

    /// The caller has dropped the request before it was answered: it is counted with its current outcome.
    /// `state` is the backend that was working on it.
    #[cold]
    pub(crate) fn canceled(&mut self, arrived: Arrival, state: Option<&BackendState>) {
        self.ended(None, None, arrived);
        self.count(None);
        #[cfg(feature = "metrics")]
        crate::outcome::canceled::tell(|| self.outcome(state.map(|state| &state.id)));
        #[cfg(not(feature = "metrics"))]
        let _ = state;
    }

    /// Whether the outcome has been counted.
    #[inline]
    pub(crate) fn is_counted(&self) -> bool {
        self.decision.is_counted()
    }

    /// Records a request that ends without the answer of a backend; `state` is the backend that its failure
    /// is about. There is no status when the client has left.
    fn ended(
        &mut self,
        state: Option<&BackendState>,
        status: Option<StatusCode>,
        arrived: Arrival,
    ) {
        self.wait_ended();
        let class = status.map_or(StatusClass::None, StatusClass::of);
        let (verdict, reason) = (self.decision.verdict(), self.decision.reason());
        let recorder = &self.core.backends.pool().recorder;
        match state {
            Some(state) => state.recorder.request(verdict, reason, class),
            None => recorder.unanswered(verdict, reason, class),
        }
        recorder.ended(arrived, status);
    }

    /// Records the answer of a backend.
    #[inline]
    pub(super) fn record_answer(&self, state: &BackendState, status: StatusCode) {
        let (verdict, reason) = (self.decision.verdict(), self.decision.reason());
        state.recorder.request(verdict, reason, StatusClass::of(status));
    }

    /// The request begins to wait for a backend to become ready.
    pub(crate) fn wait_begins(&mut self) {
        self.slow_path().waiting_since.get_or_insert_with(Instant::now);
        self.wait_span_begins();
    }

    /// The request has a backend, or ends without one. Records how long it has waited, if it has.
    #[inline]
    pub(super) fn wait_ended(&mut self) {
        if let Some(slow_path) = &mut self.slow_path
            && let Some(since) = slow_path.waiting_since.take()
        {
            let waited = since.elapsed();
            slow_path.waited = Some(slow_path.waited.unwrap_or_default() + waited);
            slow_path.spans.iter_mut().for_each(Spans::wait_ends);
            self.core.backends.pool().recorder.waited(waited);
        }
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
            backend: backend.cloned(),
            session: self.key.map(|key| self.core.backends.pool().session_hash(key)),
            ..self.anonymous_outcome(backend)
        }
    }

    /// The current outcome without backend and session, which cost more than all the rest.
    fn anonymous_outcome(&self, backend: Option<&BackendId>) -> Outcome {
        Outcome {
            verdict: self.decision.verdict(),
            backend: None,
            reason: self.decision.reason(),
            session: None,
            epoch: self.epoch(),
            token: self.decision.token(),
            attempts: self.slow_path.as_ref().map_or(0, |slow_path| slow_path.failed_attempts)
                + u32::from(self.is_sent_to(backend)),
            waited: self.slow_path.as_ref().and_then(|slow_path| slow_path.waited),
        }
    }

    /// Whether the request is at this backend or has been answered by it, rather than rejected for it.
    fn is_sent_to(&self, backend: Option<&BackendId>) -> bool {
        backend.is_some() && self.decision.verdict() != Verdict::Rejected
    }

    /// The epoch of the session with the present verdict, if it has one.
    fn epoch(&self) -> Option<u64> {
        let planned = self.slow_path.as_ref().and_then(|slow_path| slow_path.planned);
        match (planned, self.pin) {
            (Some((verdict, plan)), _) if verdict == self.decision.verdict() => {
                plan.session.map(|_| plan.epoch)
            }
            (_, pin) => pin.filter(|pin| pin.session().is_some()).map(|pin| pin.epoch),
        }
    }

    #[inline]
    fn count(&mut self, backend: Option<&BackendId>) {
        self.decision.mark_counted();
        let counters = &self.core.backends.pool().counters;
        counters.count(self.decision.verdict(), self.decision.reason());
        if let Some((held, version)) = &self.held {
            let follows = self.only_follows_pin(backend);
            // Most calls have the outcome of the call before.
            if !(follows && held.has_followed(*version)) {
                self.record_outcome(held, backend, follows.then_some(*version));
            }
        }
        // The span may be enabled where the target of this crate is not.
        if LevelFilter::current() != LevelFilter::OFF {
            self.trace(backend);
        }
    }

    /// Whether the request was answered by the backend of its pin, at once, and nothing else is to be told: then its
    /// outcome is the same for all requests with this version of the pin.
    #[inline]
    fn only_follows_pin(&self, backend: Option<&BackendId>) -> bool {
        backend.is_some()
            && self.decision.is_pinned()
            && self.decision.reason().is_none()
            && self.decision.token().is_none()
            && self.slow_path.is_none()
            && self.pin.is_some()
            && self.key.is_some()
    }

    #[inline(never)]
    fn record_outcome(&self, held: &HeldPin, backend: Option<&BackendId>, followed: Option<u64>) {
        held.set_outcome(self.anonymous_outcome(backend), backend, self.key.is_some(), followed);
    }

    #[cold]
    fn trace(&self, backend: Option<&BackendId>) {
        let backend = backend.map_or("", BackendId::as_str);
        let outcome = self.decision.verdict().as_str();
        let reason = self.decision.reason().map(Reason::as_str);
        let span = self.request_span().cloned().unwrap_or_else(tracing::Span::current);
        span.record("sticky.backend", backend);
        span.record("sticky.outcome", outcome);
        if let Some(reason) = reason {
            span.record("sticky.reason", reason);
        }
        if let Some(epoch) = self.epoch() {
            span.record("sticky.epoch", epoch);
        }
        tracing::debug!(target: "tower_sticky", parent: &span, backend, outcome, reason, "dispatched");
    }
}
