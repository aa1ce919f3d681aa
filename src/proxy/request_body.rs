//! The request's body on its way to the backend: one type for the pool's connections, whatever the
//! body's own type is, and the way back to that type while nobody has touched it.

use std::{
    any::Any,
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use crate::BoxError;

type Polled = Poll<Option<Result<Frame<Bytes>, BoxError>>>;

/// A body without its type.
trait Erased: Send {
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled;
    fn is_end(&self) -> bool;
    fn hint(&self) -> SizeHint;
    fn into_any(self: Box<Self>) -> Box<dyn Any>;
}

impl<B> Erased for B
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        Body::poll_frame(self, cx).map(|frame| frame.map(|result| result.map_err(Into::into)))
    }

    fn is_end(&self) -> bool {
        Body::is_end_stream(self)
    }

    fn hint(&self) -> SizeHint {
        Body::size_hint(self)
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

/// A body is boxed unpinned and pinned at its first poll. So it needs no `Unpin`, and an unpolled
/// one can be taken out again.
enum Stage {
    Empty,
    Untouched(Box<dyn Erased>),
    Started(Pin<Box<dyn Erased>>),
}

/// How far the sending of a request's body has come; shared with whoever waits for the answer.
#[derive(Debug, Default)]
pub(super) struct Sending {
    frames: AtomicUsize,
    done: AtomicBool,
}

impl Sending {
    /// Whether the connection has let go of the body: all of it is sent, or will never be.
    pub(super) fn is_done(&self) -> bool {
        self.done.load(Ordering::Acquire)
    }

    /// A number that grows as the body is taken.
    pub(super) fn progress(&self) -> usize {
        self.frames.load(Ordering::Relaxed) + usize::from(self.is_done())
    }
}

/// The body type of all connections.
pub(super) struct RequestBody {
    stage: Stage,
    sending: Option<Arc<Sending>>,
}

impl RequestBody {
    /// No body; costs nothing.
    pub(super) const fn empty() -> Self {
        Self { stage: Stage::Empty, sending: None }
    }

    pub(super) fn new<B>(body: B) -> (Self, Arc<Sending>)
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let sending = Arc::new(Sending::default());
        let stage = Stage::Untouched(Box::new(body));
        (Self { stage, sending: Some(sending.clone()) }, sending)
    }

    /// The body itself, if it was never polled.
    pub(super) fn into_untouched<B: 'static>(mut self) -> Option<B> {
        match mem::replace(&mut self.stage, Stage::Empty) {
            Stage::Untouched(body) => body.into_any().downcast().ok().map(|body| *body),
            Stage::Empty | Stage::Started(_) => None,
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        if let Stage::Untouched(_) = self.stage
            && let Stage::Untouched(body) = mem::replace(&mut self.stage, Stage::Empty)
        {
            self.stage = Stage::Started(Box::into_pin(body));
        }
        let Stage::Started(body) = &mut self.stage else {
            return Poll::Ready(None);
        };
        let polled = body.as_mut().poll(cx);
        if polled.is_ready()
            && let Some(sending) = &self.sending
        {
            sending.frames.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        match &self.stage {
            Stage::Empty => true,
            Stage::Untouched(body) => body.is_end(),
            Stage::Started(body) => body.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.stage {
            Stage::Empty => SizeHint::with_exact(0),
            Stage::Untouched(body) => body.hint(),
            Stage::Started(body) => body.hint(),
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(sending) = &self.sending {
            sending.done.store(true, Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, marker::PhantomPinned};

    use super::*;

    /// A body that may not move once it is polled.
    struct Pinned(u8, PhantomPinned);

    impl Body for Pinned {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
        }
    }

    #[tokio::test]
    async fn only_an_untouched_body_comes_back() {
        let (body, sending) = RequestBody::new(Pinned(7, PhantomPinned));
        assert!(!sending.is_done());
        assert_eq!(body.into_untouched::<Pinned>().unwrap().0, 7);
        assert!(sending.is_done(), "the connection has let go of it");

        let (mut body, sending) = RequestBody::new(Pinned(7, PhantomPinned));
        poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.unwrap().unwrap();
        assert_eq!(sending.progress(), 1);
        assert!(body.into_untouched::<Pinned>().is_none(), "a polled body is pinned");
    }
}
