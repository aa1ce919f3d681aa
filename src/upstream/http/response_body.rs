//! `UpstreamBody`: the body of a response, which drives its connection and returns it to the pool.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    sync::{Arc, Weak},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http_body::{Body, SizeHint};
use hyper::body::Incoming;

use super::{http1::Http1, http2::StreamPermit, idle_pool::Pool, request_body::Sending, trailers};
use crate::{error::BoxError, util::PolledFrame};

/// The body of an [`Upstream`](crate::proxy::Upstream)'s response.
///
/// At its end the connection returns to the pool. Dropped before that, it closes the connection (HTTP/2: resets
/// the stream). When the backend breaks off, it ends with an error.
#[must_use = "dropping the body closes its connection"]
pub struct UpstreamBody {
    incoming: Incoming,
    /// The connection, while this body drives it.
    connection: Option<(Box<Http1>, Arc<Pool>)>,
    /// The progress of the request's body, when the response came before its end.
    sending: Option<Arc<Sending>>,
    /// The stream of an HTTP/2 connection, until its end.
    permit: Option<StreamPermit>,
}

impl UpstreamBody {
    /// A body whose connection is driven by a task.
    pub(super) fn driven(incoming: Incoming, sending: Option<Arc<Sending>>) -> Self {
        Self { incoming, connection: None, sending, permit: None }
    }

    /// A body of a response that came before the end of the request. A task drives `connection`, which returns to
    /// `pool` when both have ended.
    pub(super) fn detached(
        incoming: Incoming,
        connection: Box<Http1>,
        sending: Option<Arc<Sending>>,
        pool: &Arc<Pool>,
    ) -> Self {
        // An upload may take long, and the pool may be gone then.
        drop(tokio::spawn(drive_to_end(connection, sending.clone(), Arc::downgrade(pool))));
        Self::driven(incoming, sending)
    }

    /// The body of a stream of HTTP/2.
    pub(super) fn of_stream(
        incoming: Incoming,
        sending: Option<Arc<Sending>>,
        permit: StreamPermit,
    ) -> Self {
        if let Some(sending) = &sending {
            sending.stop_recording();
        }
        let permit = (!incoming.is_end_stream()).then_some(permit);
        Self { incoming, connection: None, sending, permit }
    }

    /// A body that drives `connection`, which returns to `pool`.
    pub(super) fn driving(incoming: Incoming, connection: Box<Http1>, pool: Arc<Pool>) -> Self {
        let mut body =
            Self { incoming, connection: Some((connection, pool)), sending: None, permit: None };
        if body.incoming.is_end_stream() {
            body.give_back();
        }
        body
    }

    fn give_back(&mut self) {
        if let Some((connection, pool)) = self.connection.take() {
            pool.put(connection);
        }
        self.permit = None;
    }

    fn poll_incoming(&mut self, cx: &mut Context<'_>) -> PolledFrame<Incoming> {
        let Some((connection, _)) = &mut self.connection else {
            return Pin::new(&mut self.incoming).poll_frame(cx);
        };
        // Frames come only when the connection is polled, which is done here, so waiting for a frame needs no
        // waker; with one, each frame would wake the task that is taking it. For the same reason the
        // connection gets the waker only when there is nothing to do.
        let incoming = Pin::new(&mut self.incoming);
        if let ready @ Poll::Ready(_) = without_waker(incoming) {
            return ready;
        }
        connection.poll_without_waker();
        let incoming = Pin::new(&mut self.incoming);
        if let ready @ Poll::Ready(_) = without_waker(incoming) {
            return ready;
        }
        if connection.poll(cx).is_ready() {
            self.connection = None;
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }
}

/// Drives a connection until the request is sent and the response is read, and puts it into `pool`.
async fn drive_to_end(mut connection: Box<Http1>, sending: Option<Arc<Sending>>, pool: Weak<Pool>) {
    let is_idle = poll_fn(|cx| {
        if connection.poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        // hyper is ready for another request when it is polled after the end of the one before.
        let is_sent = sending.as_ref().is_none_or(|sending| sending.is_done());
        if is_sent && !connection.is_idle() && connection.poll(cx).is_ready() {
            return Poll::Ready(false);
        }
        if connection.is_idle() { Poll::Ready(true) } else { Poll::Pending }
    });
    if is_idle.await
        && let Some(pool) = pool.upgrade()
    {
        pool.put(connection);
    }
}

fn without_waker(incoming: Pin<&mut Incoming>) -> PolledFrame<Incoming> {
    incoming.poll_frame(&mut Context::from_waker(Waker::noop()))
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PolledFrame<Self> {
        match self.poll_incoming(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(frame))) => {
                // A reader that knows this to be the last frame does not ask for another.
                if frame.is_trailers() || self.incoming.is_end_stream() {
                    self.give_back();
                }
                Poll::Ready(trailers::allowed(frame).map(Ok))
            }
            Poll::Ready(None) => {
                self.give_back();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                self.connection = None;
                let by_client = self.sending.take().and_then(|sending| sending.client_error());
                Poll::Ready(Some(Err(by_client.map_or_else(|| error.into(), Into::into))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

impl fmt::Debug for UpstreamBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UpstreamBody")
            .field("size_hint", &self.size_hint())
            .field("open", &self.connection.is_some())
            .finish()
    }
}
