//! An exchange: a request that was sent on a connection, until the head of its response arrives or times out.

use std::{
    mem,
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{
    Extensions, HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header, request::Parts,
};
use http_body::Body;
use hyper::{body::Incoming, client::conn::TrySendError};
use tokio::time::Instant;

use super::{
    connector::{Inner, Link},
    expect::Expectation,
    explained::Explained,
    headers::{self, Length},
    http1::Answer,
    recorded_body::RecordedBody,
    request_body::{Phase, RequestBody, Sending},
};
use crate::{
    error::{BoxError, ClientError, Disconnected, TimedOut, chain},
    session::Peer,
    util::clock::after,
};

pub(super) struct Exchange<B> {
    pub(super) link: Link,
    pub(super) answer: Answer,
    pub(super) saved: SavedRequest<B>,
    /// Whether the task's waker is registered with the connection.
    pub(super) polled: bool,
}

/// What is needed to restore the request. A connection consumes the head, so it is cloned: that copies the
/// map, not the values.
pub(super) struct SavedRequest<B> {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) version: Version,
    pub(super) headers: HeaderMap,
    pub(super) extensions: Extensions,
    /// The body, when it is empty.
    pub(super) body: Option<B>,
    /// The progress of the body, when it is not empty.
    pub(super) sending: Option<Arc<Sending>>,
    /// The body, while the backend has not asked for it.
    pub(super) expectation: Option<Arc<Expectation>>,
    /// The protocols that the request asks to upgrade to.
    pub(super) upgrade: Option<HeaderValue>,
}

impl<B> SavedRequest<B> {
    pub(super) fn new(parts: &mut Parts, upgrade: Option<HeaderValue>) -> Self {
        Self {
            method: parts.method.clone(),
            uri: parts.uri.clone(),
            version: parts.version,
            headers: parts.headers.clone(),
            extensions: mem::take(&mut parts.extensions),
            body: None,
            sending: None,
            expectation: None,
            upgrade,
        }
    }

    /// The request with the body as the connection takes it. With `wait`, the body is sent when the backend asks
    /// for it, or after that time.
    pub(super) fn request_to_send(
        &mut self,
        parts: Parts,
        body: B,
        length: Length,
        wait: Option<Duration>,
    ) -> Request<RequestBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        if length == Length::Empty {
            self.body = Some(body);
            return Request::from_parts(parts, RequestBody::empty());
        }
        let Some(wait) = wait else {
            let (body, sending) = RequestBody::new(body);
            self.sending = Some(sending);
            return Request::from_parts(parts, body);
        };
        let (body, sending, expectation) = RequestBody::expected(body, wait);
        let mut request = Request::from_parts(parts, body);
        expectation.listen(&mut request);
        self.sending = Some(sending);
        self.expectation = Some(expectation);
        request
    }

    /// The request with a body that was sent before.
    pub(super) fn request_to_repeat(
        &mut self,
        parts: Parts,
        body: RecordedBody,
    ) -> Request<RequestBody> {
        let (body, sending) = RequestBody::new(body);
        self.sending = Some(sending);
        Request::from_parts(parts, body)
    }

    /// The request, with any body.
    pub(super) fn request<T>(self, body: T) -> Request<T> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method;
        *request.uri_mut() = self.uri;
        *request.version_mut() = self.version;
        *request.headers_mut() = self.headers;
        *request.extensions_mut() = self.extensions;
        request
    }

    /// The failure of the request's own body, if it failed.
    pub(super) fn client_error(&self) -> Option<ClientError> {
        self.sending.as_ref().and_then(|sending| sending.client_error())
    }

    /// How long the client may send nothing of its body. There is no limit for gRPC streams and upgrades.
    fn client_timeout(&self, inner: &Inner) -> Duration {
        let kind = self.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
        if self.upgrade.is_some() || kind.starts_with(b"application/grpc") {
            return Duration::MAX;
        }
        inner.body_timeout
    }
}

pub(super) type Answered = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>;

impl<B> Exchange<B> {
    /// The response, or which side timed out. Interim responses are passed on.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        inner: &Inner,
    ) -> Poll<Result<Answered, Late>> {
        let polled = self.poll_answer(cx, inner);
        if let Link::Http1(connection) = &self.link {
            for (status, mut headers) in connection.read_state.take_interim() {
                // 100 is hop-by-hop: it asks this proxy for the body.
                if status != StatusCode::CONTINUE
                    && let Some(peer) = self.saved.extensions.get::<Peer>()
                {
                    headers::interim(&mut headers);
                    peer.tell_interim(status, &headers);
                }
            }
        }
        polled
    }

    fn poll_answer(&mut self, cx: &mut Context<'_>, inner: &Inner) -> Poll<Result<Answered, Late>> {
        let answer = self.answer.as_mut();
        match &mut self.link {
            Link::Http1(connection) if connection.is_driven_by_request() => {
                // The response comes out of the connection, which is polled here, so it needs no waker of
                // its own. Most often a wake-up means that the response has arrived: then the connection
                // needs none either, or it would wake this task for the body's first frame, which this
                // task takes anyway.
                let mut answer = answer;
                let mut noop = Context::from_waker(Waker::noop());
                if self.polled {
                    connection.poll_without_waker();
                    if let Poll::Ready(answered) = answer.as_mut().poll(&mut noop) {
                        return Poll::Ready(Ok(answered));
                    }
                }
                self.polled = true;
                let over = connection.poll(cx).is_ready();
                let answered = if over { answer.poll(cx) } else { answer.poll(&mut noop) };
                if let Poll::Ready(answered) = answered {
                    return Poll::Ready(Ok(answered));
                }
            }
            _ => {
                if let Poll::Ready(answered) = answer.poll(cx) {
                    return Poll::Ready(Ok(answered));
                }
            }
        }
        let timer = match &mut self.link {
            Link::Http1(connection) => &mut connection.timer,
            Link::Http2(_, timer) => timer,
        };
        let Some(sending) = &self.saved.sending else {
            ready!(timer.poll(cx));
            return Poll::Ready(Err(Late::Backend));
        };
        let client_timeout = self.saved.client_timeout(inner);
        loop {
            match due(sending.phase(), client_timeout, inner.response_timeout) {
                Ok(due) => timer.set_at(due),
                Err(late) => return Poll::Ready(Err(late)),
            }
            ready!(timer.poll(cx));
        }
    }
}

/// Which side timed out.
pub(super) enum Late {
    Backend,
    /// The client, after this time.
    Client(Duration),
}

impl From<Late> for BoxError {
    fn from(late: Late) -> Self {
        match late {
            Late::Backend => TimedOut::new("response head").into(),
            Late::Client(limit) => ClientError::stalled(limit).into(),
        }
    }
}

/// When to check the timeouts again. A change of the phase wakes no task, so the check comes before any
/// timeout of the next phase can have passed.
fn due(
    phase: Phase,
    client_timeout: Duration,
    response_timeout: Duration,
) -> Result<Instant, Late> {
    let now = Instant::now();
    let (due, late) = match phase {
        Phase::Connection => return Ok(after(now, client_timeout.min(response_timeout))),
        Phase::Client(since) => (after(since, client_timeout), Late::Client(client_timeout)),
        Phase::Done(since) => (after(since, response_timeout), Late::Backend),
    };
    match late {
        late if due <= now => Err(late),
        Late::Client(_) => Ok(due.min(after(now, response_timeout))),
        Late::Backend => Ok(due),
    }
}

/// The error of an exchange; `is_broken` when its connection has ended without a byte of a response.
pub(super) fn lost(inner: &Arc<Inner>, error: hyper::Error, is_broken: bool) -> BoxError {
    if !is_broken {
        return error.into();
    }
    Disconnected::new(Explained(error)).with_redialer(inner.redialer()).into()
}

/// Whether the backend has declared that it did not and will not process the stream (RFC 9113, section
/// 8.7).
pub(super) fn is_unprocessed(error: &hyper::Error) -> bool {
    let error = chain(error).find_map(|cause| cause.downcast_ref::<h2::Error>());
    error.is_some_and(|error| {
        // h2 fails a stream with GOAWAY only if its number is above the last one that GOAWAY names, whatever
        // the reason; other streams go on.
        error.is_remote()
            && (error.is_go_away()
                || (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)))
    })
}
