//! How the spans of a request begin and end. They are at level debug: without a subscriber for that, a request costs
//! one comparison more.

use http::StatusCode;
use tracing::{Level, Span, field::Empty, span::Entered};

use super::{spans::Spans, state::Dispatch};
use crate::pool::BackendState;

/// Whether the spans are enabled, as far as the levels tell.
#[inline]
fn is_enabled() -> bool {
    tracing::level_enabled!(Level::DEBUG)
}

impl<S> Dispatch<S> {
    /// The span of the request, where the current one may be another.
    pub(super) fn request_span(&self) -> Option<&Span> {
        Some(&self.spans()?.request)
    }

    fn spans(&self) -> Option<&Spans> {
        self.slow_path.as_ref()?.spans.as_ref()
    }

    fn begin_spans(&mut self) -> &mut Spans {
        self.slow_path().spans.get_or_insert_with(|| Spans {
            request: Span::current(),
            wait: None,
            attempt: None,
        })
    }

    /// The request begins to wait.
    pub(super) fn wait_span_begins(&mut self) {
        if is_enabled() {
            let spans = self.begin_spans();
            let request = &spans.request;
            let new = || tracing::debug_span!(target: "tower_sticky", parent: request, "wait");
            spans.wait.get_or_insert_with(new);
        }
    }

    /// The request is about to be sent to this backend.
    #[inline]
    pub(super) fn attempt_begins(&mut self, state: &BackendState) {
        if is_enabled() {
            self.new_attempt(state);
        }
    }

    #[cold]
    fn new_attempt(&mut self, state: &BackendState) {
        let number = self.slow_path().failed_attempts + 1;
        let spans = self.begin_spans();
        spans.attempt = Some(tracing::debug_span!(
            target: "tower_sticky",
            parent: &spans.request,
            "attempt",
            sticky.backend = state.id.as_str(),
            sticky.attempt = number,
            http.response.status_code = Empty,
            error.type = Empty,
        ));
    }

    /// Enters the span of the attempt, if there is one. A guard, as a closure would move the request once more.
    #[inline]
    pub(crate) fn enter_attempt(&self) -> Option<Entered<'_>> {
        Some(self.spans()?.attempt.as_ref()?.enter())
    }

    /// The attempt has been answered.
    #[inline]
    pub(crate) fn attempt_answered(&mut self, status: StatusCode) {
        if let Some(slow_path) = &mut self.slow_path
            && let Some(spans) = &mut slow_path.spans
            && let Some(attempt) = spans.attempt.take()
        {
            attempt.record("http.response.status_code", status.as_u16());
        }
    }

    /// The attempt has failed.
    #[cold]
    pub(super) fn attempt_failed(&mut self, why: &'static str) {
        if let Some(slow_path) = &mut self.slow_path
            && let Some(spans) = &mut slow_path.spans
            && let Some(attempt) = spans.attempt.take()
        {
            attempt.record("error.type", why);
        }
    }
}
