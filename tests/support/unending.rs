//! A response body that never ends.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame};

/// A body that has one frame, or none, and never ends.
#[derive(Debug, Default)]
pub(crate) struct Unending {
    first: Option<&'static str>,
}

impl Unending {
    /// A body that begins with this frame.
    pub(crate) fn after(first: &'static str) -> Self {
        Self { first: Some(first) }
    }
}

impl Body for Unending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first.into())))),
            None => Poll::Pending,
        }
    }
}
