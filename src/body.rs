//! The body of a response: the backend's, and the request counts as in flight until it has ended.

use std::{
    convert::Infallible,
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::{BoxError, DrainOver, backend::InFlight};

pin_project! {
    /// The body of a response of [`StickyService`](crate::StickyService): of a backend (`R`), of the
    /// inner service (`I`), or a short message of the layer's own.
    ///
    /// While it is there, and has not ended, its request counts as in flight on its backend.
    pub struct StickyBody<R, I = NoBody> {
        #[pin]
        source: Source<R, I>,
        in_flight: Option<InFlight>,
    }
}

pin_project! {
    #[project = SourceProjection]
    enum Source<R, I> {
        Backend { #[pin] body: R },
        Inner { #[pin] body: I },
        Message { text: Option<Bytes> },
    }
}

impl<R, I> StickyBody<R, I> {
    pub(crate) fn backend(body: R, in_flight: Option<InFlight>) -> Self {
        Self { source: Source::Backend { body }, in_flight }
    }

    pub(crate) fn inner(body: I, in_flight: Option<InFlight>) -> Self {
        Self { source: Source::Inner { body }, in_flight }
    }

    pub(crate) fn message(text: Bytes) -> Self {
        let text = (!text.is_empty()).then_some(text);
        Self { source: Source::Message { text }, in_flight: None }
    }
}

impl<R, I> Body for StickyBody<R, I>
where
    R: Body<Data = Bytes>,
    R::Error: Into<BoxError>,
    I: Body<Data = Bytes>,
    I::Error: Into<BoxError>,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut this = self.project();
        if this.in_flight.as_ref().is_some_and(InFlight::is_cut) {
            return Poll::Ready(Some(Err(cut(this.source, this.in_flight))));
        }
        let frame = match this.source.as_mut().project() {
            SourceProjection::Backend { body } => {
                body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            SourceProjection::Inner { body } => {
                body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
            }
            SourceProjection::Message { text } => {
                Poll::Ready(text.take().map(|text| Ok(Frame::data(text))))
            }
        };
        match &frame {
            Poll::Ready(None | Some(Err(_))) => *this.in_flight = None,
            Poll::Pending => {
                let waits = this.in_flight.as_mut().is_none_or(|held| held.wait(cx.waker()));
                if !waits {
                    return Poll::Ready(Some(Err(cut(this.source, this.in_flight))));
                }
            }
            Poll::Ready(Some(Ok(_))) => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Backend { body } => body.is_end_stream(),
            Source::Inner { body } => body.is_end_stream(),
            Source::Message { text } => text.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Backend { body } => body.size_hint(),
            Source::Inner { body } => body.size_hint(),
            Source::Message { text } => {
                SizeHint::with_exact(text.as_ref().map_or(0, |text| text.len() as u64))
            }
        }
    }
}

/// Ends a response whose backend's drain is over: what it came from is dropped, which closes the
/// connection.
#[cold]
fn cut<R, I>(mut source: Pin<&mut Source<R, I>>, in_flight: &mut Option<InFlight>) -> BoxError {
    source.set(Source::Message { text: None });
    match in_flight.take() {
        Some(in_flight) => DrainOver::new(in_flight.state().id.clone()).into(),
        None => "the response was cut off".into(),
    }
}

impl<R, I> fmt::Debug for StickyBody<R, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let source = match &self.source {
            Source::Backend { .. } => "backend",
            Source::Inner { .. } => "inner",
            Source::Message { .. } => "message",
        };
        f.debug_struct("StickyBody")
            .field("source", &source)
            .field("in_flight", &self.in_flight)
            .finish()
    }
}

/// The body of [`NoInner`](crate::NoInner)'s responses, of which there are none.
#[derive(Debug)]
pub enum NoBody {}

impl Body for NoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match *self {}
    }
}
