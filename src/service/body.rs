//! The body of a response. Its request counts as in flight until the body has ended.

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
    util::PolledFrame,
};

pin_project! {
    /// The body of a response of [`StickyService`](crate::StickyService): of a backend (`R`), of the
    /// inner service (`I`), or a short message of the layer's own.
    ///
    /// Until the body has ended or is dropped, its request counts as in flight on its backend. An error is
    /// returned 50 ms late, so that a server can first send the data before it.
    pub struct StickyBody<R, I = NoBody> {
        #[pin]
        source: Source<R, I>,
        in_flight: Option<InFlight>,
        rare: Option<Box<RareState>>,
    }
}

/// State that only few bodies need.
#[derive(Default)]
struct RareState {
    judged: Option<Judged>,
    /// The error that ends the body, while the data before it is being sent.
    delayed: Option<DelayedError>,
}

pin_project! {
    #[project = SourceProjection]
    enum Source<R, I> {
        Backend { #[pin] body: R },
        Inner { #[pin] body: I },
        Message { text: Option<Bytes> },
    }
}

/// How long an error is delayed. HTTP/1.1 servers write buffered data when a body is pending; HTTP/2 servers
/// write it in another task, which may run on another thread.
const ERROR_DELAY: Duration = Duration::from_millis(50);

/// A delayed error: when a body fails, a server drops the data that it has not written yet.
struct DelayedError {
    error: BoxError,
    until: Pin<Box<Sleep>>,
}

impl DelayedError {
    #[cold]
    fn new(error: BoxError) -> Self {
        Self { error, until: Box::pin(sleep(ERROR_DELAY)) }
    }
}

impl<R, I> StickyBody<R, I> {
    pub(crate) fn backend(body: R, in_flight: Option<InFlight>, judged: Option<Judged>) -> Self {
        let rare = judged.map(|judged| Box::new(RareState { judged: Some(judged), delayed: None }));
        Self { source: Source::Backend { body }, in_flight, rare }
    }

    pub(crate) fn inner(body: I, in_flight: Option<InFlight>) -> Self {
        Self::new(Source::Inner { body }, in_flight)
    }

    pub(crate) fn message(text: Bytes) -> Self {
        let text = (!text.is_empty()).then_some(text);
        Self::new(Source::Message { text }, None)
    }

    fn new(source: Source<R, I>, in_flight: Option<InFlight>) -> Self {
        Self { source, in_flight, rare: None }
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

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<Self> {
        let mut this = self.project();
        if let Some(rare) = this.rare
            && rare.delayed.is_some()
        {
            return rare.poll_error(cx);
        }
        if this.in_flight.as_ref().is_some_and(InFlight::is_cut) {
            return Poll::Ready(Some(Err(cut_off(this.source, this.in_flight))));
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
                (*this.in_flight, *this.rare) = (None, None);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                *this.in_flight = None;
                let rare = this.rare.get_or_insert_default();
                rare.fail(error);
                rare.poll_error(cx)
            }
            Poll::Pending => {
                let in_flight = this.in_flight.as_mut();
                if in_flight.is_none_or(|in_flight| in_flight.register_reader(cx.waker())) {
                    return Poll::Pending;
                }
                Poll::Ready(Some(Err(cut_off(this.source, this.in_flight))))
            }
            frame => {
                if let Some(in_flight) = this.in_flight {
                    in_flight.frame_arrived();
                }
                frame
            }
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

impl RareState {
    /// Records that the body has failed: a failure of the backend, unless the client has caused it.
    #[cold]
    fn fail(&mut self, error: BoxError) {
        if let Some(judged) = self.judged.take()
            && ClientError::in_chain(error.as_ref()).is_none()
        {
            judged.broke_off();
        }
        self.delayed = Some(DelayedError::new(error));
    }

    /// Ready with the error after its delay.
    fn poll_error(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Some(delayed) = &mut self.delayed {
            ready!(delayed.until.as_mut().poll(cx));
        }
        Poll::Ready(self.delayed.take().map(|delayed| Err(delayed.error)))
    }
}

/// Ends a response whose backend's drain has ended. Dropping the backend's body closes the connection.
#[cold]
fn cut_off<R, I>(mut source: Pin<&mut Source<R, I>>, in_flight: &mut Option<InFlight>) -> BoxError {
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

/// The response body of [`NoInner`](crate::NoInner), which never responds.
#[derive(Debug)]
pub enum NoBody {}

impl Body for NoBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> PolledFrame<Self> {
        match *self {}
    }
}
