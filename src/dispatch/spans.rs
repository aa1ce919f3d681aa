//! The spans of a request's waits and attempts.

use tracing::Span;

/// The spans of a request that have not ended, and the one that they are in.
#[derive(Debug)]
pub(super) struct Spans {
    pub(super) request: Span,
    pub(super) wait: Option<Span>,
    pub(super) attempt: Option<Span>,
}

impl Spans {
    /// The wait has ended.
    pub(super) fn wait_ends(&mut self) {
        self.wait = None;
    }
}
