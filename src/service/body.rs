//! The body of a response: the backend's, and the request counts as in flight until it has ended.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};

use crate::{
    dispatch::InFlight,
    error::{BoxError, ClientError},
    health::Judged,
    outcome::DrainOver,
};

pin_project! {
    /// The body of a response of [`StickyService`](crate::StickyService): of a backend (`R`), of the
    /// inner service (`I`), or a short message of the layer's own.
    ///
    /// While it is there, and has not ended, its request counts as in flight on its backend. An error
    /// that ends it comes 50 ms late, so that a server has the time to send that.
    pub struct StickyBody<R, I = NoBody> {
        #[pin]
        source: Source<R, I>,
        in_flight: Option<InFlight>,
        rest: Option<Box<Rest>>,
    }
}

/// What few bodies have.
#[derive(Default)]
struct Rest {
    judged: Option<Judged>,
    /// The error that ends the body, while what was before it is on its way.
    held_back: Option<HeldBack>,
}

pin_project! {
    #[project = SourceProjection]
    enum Source<R, I> {
        Backend { #[pin] body: R },
        Inner { #[pin] body: I },
        Message { text: Option<Bytes> },
    }
}

/// How long an error waits. HTTP/1.1 servers write what they have as soon as they have to wait; HTTP/2 servers
/// let another task do it, maybe in another thread.
const SENDING_TIME: Duration = Duration::from_millis(50);

/// An error that waits: a server drops what it has not written yet when a body fails.
struct HeldBack {
    error: BoxError,
    until: Pin<Box<Sleep>>,
}

impl HeldBack {
    #[cold]
    fn new(error: BoxError) -> Self {
        Self { error, until: Box::pin(sleep(SENDING_TIME)) }
    }
}

impl<R, I> StickyBody<R, I> {
    pub(crate) fn backend(body: R, in_flight: Option<InFlight>, judged: Option<Judged>) -> Self {
        let rest = judged.map(|judged| Box::new(Rest { judged: Some(judged), held_back: None }));
        Self { source: Source::Backend { body }, in_flight, rest }
    }

    pub(crate) fn inner(body: I, in_flight: Option<InFlight>) -> Self {
        Self::new(Source::Inner { body }, in_flight)
    }

    pub(crate) fn message(text: Bytes) -> Self {
        let text = (!text.is_empty()).then_some(text);
        Self::new(Source::Message { text }, None)
    }

    fn new(source: Source<R, I>, in_flight: Option<InFlight>) -> Self {
        Self { source, in_flight, rest: None }
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
        if let Some(rest) = this.rest
            && rest.held_back.is_some()
        {
            return rest.poll_error(cx);
        }
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
        match frame {
            Poll::Ready(None) => {
                (*this.in_flight, *this.rest) = (None, None);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                *this.in_flight = None;
                let rest = this.rest.get_or_insert_default();
                rest.broke_off(error);
                rest.poll_error(cx)
            }
            Poll::Pending => {
                let waits = this.in_flight.as_mut().is_none_or(|held| held.wait(cx.waker()));
                if !waits {
                    return Poll::Ready(Some(Err(cut(this.source, this.in_flight))));
                }
                Poll::Pending
            }
            given => given,
        }
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

impl Rest {
    /// The answer broke off, which is a failure of the backend unless the client is to blame.
    #[cold]
    fn broke_off(&mut self, error: BoxError) {
        if let Some(judged) = self.judged.take()
            && ClientError::in_chain(error.as_ref()).is_none()
        {
            judged.broke_off();
        }
        self.held_back = Some(HeldBack::new(error));
    }

    /// The error, once it has waited.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(held) = &mut self.held_back {
            ready!(held.until.as_mut().poll(cx));
        }
        Poll::Ready(self.held_back.take().map(|held| Err(held.error)))
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
