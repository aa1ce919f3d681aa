//! `RecordAnswer`: fills in the status of the answer.

use std::time::Duration;

use http::Response;
use tower_http::trace::OnResponse;
use tracing::{Span, field::display};

/// Fills in `http.response.status_code`, and `error.type` of a failure, and logs the event `answered` at level info
/// with the status and the time to the head of the answer, for tower-http's
/// [`TraceLayer`](tower_http::trace::TraceLayer).
#[derive(Debug, Clone, Copy, Default)]
pub struct RecordAnswer(());

impl RecordAnswer {
    /// Fills in the fields that a [`RequestSpan`](super::RequestSpan) declares.
    pub fn new() -> Self {
        Self(())
    }
}

impl<B> OnResponse<B> for RecordAnswer {
    fn on_response(self, response: &Response<B>, latency: Duration, span: &Span) {
        let status = response.status();
        span.record("http.response.status_code", status.as_u16());
        if status.is_server_error() {
            span.record("error.type", display(status.as_u16()));
        }
        tracing::info!(
            target: "tower_sticky::trace",
            parent: span,
            status = status.as_u16(),
            ?latency,
            "answered"
        );
    }
}
