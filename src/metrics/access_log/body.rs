//! The body of a response that is recorded.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Buf;
use http_body::{Body, SizeHint};
use pin_project_lite::pin_project;

use super::pending::Pending;
use crate::util::PolledFrame;

pin_project! {
    /// The body of an [`AccessLogService`](super::AccessLogService)'s response. The record is handed over when it
    /// has ended, or is dropped.
    pub struct AccessLogBody<B> {
        #[pin]
        body: B,
        pending: Option<Pending>,
    }
}

impl<B: Body> AccessLogBody<B> {
    pub(super) fn new(body: B, pending: Option<Pending>) -> Self {
        Self { body, pending }
    }
}

impl<B: Body> Body for AccessLogBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<Self> {
        let mut this = self.project();
        let frame = ready!(this.body.as_mut().poll_frame(cx));
        if let Some(pending) = this.pending {
            match &frame {
                Some(Ok(frame)) => {
                    pending.taken(frame.data_ref().map_or(0, |data| data.remaining() as u64));
                    // A server need not ask again after the last frame.
                    if this.body.is_end_stream() {
                        pending.complete();
                    }
                }
                Some(Err(_)) => pending.broken(),
                None => pending.complete(),
            }
        }
        if !matches!(frame, Some(Ok(_))) {
            *this.pending = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> fmt::Debug for AccessLogBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLogBody").finish_non_exhaustive()
    }
}
