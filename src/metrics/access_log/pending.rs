//! The record of a request that has not ended.

use std::sync::Arc;

use http::{Method, Response, StatusCode};
use http_body::Body;
use tokio::time::Instant;

use super::record::{AccessRecord, End, OnAccess};
use crate::outcome::Outcome;

/// The record of a request, until it is dropped: then the request has ended, and the record is handed over.
pub(super) struct Pending(Box<Inner>);

struct Inner {
    record: AccessRecord,
    arrived: Instant,
    /// How much of the body is still to come, where its length is known.
    left: Option<u64>,
    on_access: Arc<dyn OnAccess>,
}

impl Pending {
    pub(super) fn new(record: AccessRecord, on_access: Arc<dyn OnAccess>) -> Self {
        Self(Box::new(Inner { record, arrived: Instant::now(), left: None, on_access }))
    }

    /// The answer is here, and its body follows.
    pub(super) fn answered<B: Body>(&mut self, response: &Response<B>) {
        let Inner { record, arrived, left, .. } = &mut *self.0;
        record.answer = Some(response.status());
        record.first_byte = Some(arrived.elapsed());
        record.outcome = Outcome::of(response.extensions()).cloned();
        // hyper does not read a body that the client does not get (RFC 9112, section 6.3).
        let has_no_body = record.method == Method::HEAD
            || response.status().is_informational()
            || matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let is_empty = has_no_body || response.body().is_end_stream();
        *left = if is_empty { Some(0) } else { response.body().size_hint().exact() };
    }

    /// So many bytes of the body were taken.
    pub(super) fn taken(&mut self, bytes: u64) {
        self.0.record.bytes += bytes;
        if let Some(left) = &mut self.0.left {
            *left = left.saturating_sub(bytes);
        }
    }

    /// The body has ended.
    pub(super) fn complete(&mut self) {
        self.0.left = Some(0);
    }

    /// The service has failed.
    pub(super) fn broken(&mut self) {
        self.0.record.end = End::Broken;
    }

    /// The client has left before the answer.
    pub(super) fn canceled(&mut self, outcome: Option<Outcome>) {
        self.0.record.outcome = outcome;
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.record.duration = self.arrived.elapsed();
        if self.left == Some(0) && self.record.end != End::Broken {
            self.record.end = End::Complete;
        }
        self.on_access.record(&self.record);
    }
}
