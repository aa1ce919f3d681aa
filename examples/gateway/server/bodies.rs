//! The bodies of a request and of its answer, as the client's connection sees them.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use pin_project_lite::pin_project;
use tokio::{runtime::Handle, time::timeout};
use tower_sticky::BoxError;

use super::watch::{Busy, Watch};

/// How long the rest of a request that nobody wants is read after all. Were its connection closed before,
/// the client's next bytes would be answered with a reset, which may overtake the answer.
const LINGER: Duration = Duration::from_secs(5);

/// A request's body. What is left of it when it is dropped is read and thrown away for a while.
#[derive(Debug)]
pub(crate) struct ClientBody {
    /// `None` at its end.
    body: Option<Incoming>,
    /// Whether the client waits for a word before it sends the body, and has none yet.
    waits: bool,
    busy: Busy,
}

impl ClientBody {
    /// `expects`: the client asks first whether it may send the body.
    pub(super) fn new(body: Incoming, expects: bool, busy: Busy) -> Self {
        let body = (!body.is_end_stream()).then_some(body);
        Self { body, waits: expects, busy }
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.waits = false;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        let Ok(runtime) = Handle::try_current() else { return };
        if self.waits {
            return;
        }
        let busy = self.busy.clone();
        drop(runtime.spawn(async move {
            let rest = async { while let Some(Ok(_)) = body.frame().await {} };
            let _ = timeout(LINGER, rest).await;
            drop(busy);
        }));
    }
}

pin_project! {
    /// The body of an answer; `None` is empty. An error that ends it comes when all that was before it is
    /// sent: hyper throws away what it has not written yet when a body fails.
    pub(super) struct AnswerBody<B> {
        #[pin]
        body: Option<B>,
        // What tells how much is sent.
        watch: Option<Arc<Watch>>,
        // How many flushes there had been when hyper was given something for the last time.
        given: u64,
        error: Option<BoxError>,
        _busy: Option<Busy>,
    }
}

impl<B> AnswerBody<B> {
    pub(super) fn new(body: Option<B>, watch: Option<Arc<Watch>>, busy: Option<Busy>) -> Self {
        let given = watch.as_ref().map_or(0, |watch| watch.flushes());
        Self { body, watch, given, error: None, _busy: busy }
    }
}

impl<B> Body for AnswerBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        if this.error.is_none() {
            let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
            match ready!(body.poll_frame(cx)) {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    *this.given = this.watch.as_ref().map_or(0, |watch| watch.flushes());
                    return Poll::Ready(Some(Ok(frame)));
                }
                Some(Err(error)) => *this.error = Some(error.into()),
            }
        }
        if let Some(watch) = &this.watch {
            ready!(watch.poll_sent(*this.given, cx));
        }
        Poll::Ready(this.error.take().map(Err))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}
