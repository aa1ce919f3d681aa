//! The bodies of a request and of its response, as the client's connection sees them.

use std::{
    mem,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use http_body::{Body, SizeHint};
use hyper::body::Incoming;
use pin_project_lite::pin_project;

use super::{
    streams,
    watch::{Busy, Watch},
};
use crate::{
    error::{BoxError, ClientError},
    util::PolledFrame,
};

/// The body of a request. When it is dropped before its end, the rest is not read, and an HTTP/1.1 connection is
/// closed after the response.
///
/// A body beyond [`Limits::body_bytes`](super::Limits::body_bytes) ends with an error, and the response becomes
/// a 413.
#[derive(Debug)]
pub struct RequestBody {
    /// `None` at its end.
    body: Option<Incoming>,
    /// How many bytes may still come.
    left: u64,
    limit: u64,
    watch: Arc<Watch>,
    /// Its number among the bodies of the connection.
    number: u64,
    too_large: TooLarge,
    _busy: Busy,
}

/// Whether a body has come to be larger than its limit; `None` where its length is known before.
pub(super) type TooLarge = Option<Arc<AtomicBool>>;

impl RequestBody {
    /// A body of at most `limit` bytes.
    pub(super) fn new(body: Incoming, limit: u64, watch: Arc<Watch>, busy: Busy) -> Self {
        let is_checked = limit == u64::MAX || body.size_hint().exact().is_some();
        let too_large = (!is_checked).then(Arc::default);
        let body = (!body.is_end_stream()).then_some(body);
        let number = if body.is_some() { watch.body_begins() } else { 0 };
        Self { body, left: limit, limit, watch, number, too_large, _busy: busy }
    }

    pub(super) fn too_large(&self) -> TooLarge {
        self.too_large.clone()
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<Self> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        match ready!(Pin::new(body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                match (this.left.checked_sub(length), &this.too_large) {
                    (Some(left), _) => this.left = left,
                    (None, Some(too_large)) => {
                        too_large.store(true, Relaxed);
                        return Poll::Ready(Some(Err(ClientError::too_large(this.limit).into())));
                    }
                    // Its length was known, and within the limit.
                    (None, None) => {}
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Some(Err(error)) => {
                this.body = None;
                this.watch.body_ended(this.number);
                Poll::Ready(Some(Err(error.into())))
            }
            None => {
                this.body = None;
                this.watch.body_ended(this.number);
                Poll::Ready(None)
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        let Some(body) = &self.body else { return };
        self.watch.body_ended(self.number);
        if !body.is_end_stream() {
            self.watch.leave_unread();
        }
    }
}

pin_project! {
    /// The body of a response; `None` is empty. An error is returned only when everything before it is sent:
    /// hyper drops what it has not written yet when a body fails.
    pub(super) struct ResponseBody<B> {
        #[pin]
        body: Option<B>,
        // Knows how much is sent.
        watch: Option<Arc<Watch>>,
        // How many flushes there had been when hyper was given something for the last time.
        given: u64,
        // How much hyper was given since the last flush, and how much it may have.
        unsent: usize,
        limit: usize,
        error: Option<BoxError>,
        _busy: Option<Busy>,
    }
}

impl<B> ResponseBody<B> {
    /// hyper is given no more while `limit` bytes are not sent.
    pub(super) fn new(
        body: Option<B>,
        watch: Option<Arc<Watch>>,
        busy: Option<Busy>,
        limit: usize,
    ) -> Self {
        let given = watch.as_ref().map_or(0, |watch| watch.flushes());
        Self { body, watch, given, unsent: 0, limit, error: None, _busy: busy }
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<Self> {
        let this = self.project();
        if *this.unsent >= *this.limit
            && let Some(watch) = &this.watch
        {
            ready!(watch.poll_sent(*this.given, cx));
            *this.unsent = 0;
        }
        if this.error.is_none() {
            let Some(body) = this.body.as_pin_mut() else { return Poll::Ready(None) };
            let polled = body.poll_frame(cx);
            streams::asked(matches!(polled, Poll::Ready(Some(Ok(_)))));
            match ready!(polled) {
                None => return Poll::Ready(None),
                Some(Ok(frame)) => {
                    let flushes = this.watch.as_ref().map_or(0, |watch| watch.flushes());
                    if mem::replace(this.given, flushes) != flushes {
                        *this.unsent = 0;
                    }
                    *this.unsent += frame.data_ref().map_or(0, Buf::remaining);
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
