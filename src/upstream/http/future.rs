//! `UpstreamFuture`: connects, sends a request, waits for the head of its response, and decides whether the
//! request is sent again when that fails.

use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tracing::Span;

use super::{
    connector::{Dial, Inner, Link, Need, Purpose},
    exchange::{Exchange, SavedRequest},
    expect::expects_continue,
    headers::{self, Hop, Length},
    protocol::Protocol,
    recorded_body::RecordedBody,
    response_body::UpstreamBody,
    span, tunnel,
};
use crate::{
    error::{BoxError, SendCount},
    pool::UpgradeGuard,
    session::Peer,
};

/// The future of an [`Upstream`](crate::proxy::Upstream)'s response head. Dropping it cancels the request
/// and closes its connection (HTTP/2: resets the stream).
#[must_use = "futures do nothing unless polled"]
pub struct UpstreamFuture<B> {
    pub(super) inner: Arc<Inner>,
    state: State<B>,
    pub(super) attempts: u8,
    /// Set once the request may have been executed: how often it was sent.
    pub(super) unanswered: Option<SendCount>,
    /// The span of the exchange, if it is enabled.
    span: Option<Box<Span>>,
}

/// What is large is boxed: a future is moved several times, by each service around it, until it is polled.
enum State<B> {
    Dialing {
        dial: Dial,
        request: Box<Unsent<B>>,
    },
    Exchange(Box<Exchange<B>>),
    /// The request cannot be sent.
    Refused(BoxError),
    Done,
}

/// A request that waits for a connection.
pub(super) enum Unsent<B> {
    Whole(Request<B>),
    /// Its stream was refused after the whole body was sent.
    Refused(Request<RecordedBody>),
}

/// The body of a request that is sent.
enum Outgoing<B> {
    Own(B),
    Recorded(RecordedBody),
}

impl<B> UpstreamFuture<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(inner: Arc<Inner>, request: Request<B>) -> Self {
        let span = span::of(&inner, &request);
        let mut future = Self { inner, state: State::Done, attempts: 0, unanswered: None, span };
        if let Err(error) = future.start(request) {
            future.state = State::Refused(error);
        }
        future
    }

    /// Sends `request` on an idle connection, or starts to open one.
    fn start(&mut self, request: Request<B>) -> Result<(), BoxError> {
        if request.method() == Method::CONNECT {
            return Err("CONNECT is not forwarded to a backend".into());
        }
        let need = self.need(&request);
        // An upgrade gets a new connection, as it does not return to the pool.
        let is_upgrade = need.purpose == Purpose::Upgrade;
        let idle = if is_upgrade { None } else { self.inner.idle(need.client) };
        match idle {
            Some(link) => self.send(link, Unsent::Whole(request)),
            None => {
                let dial = self.inner.clone().dial(need);
                let request = Box::new(Unsent::Whole(request));
                self.state = State::Dialing { dial, request };
                Ok(())
            }
        }
    }

    fn need<T>(&self, request: &Request<T>) -> Need {
        let purpose = match self.inner.wants_upgrade(request) {
            Some(_) => Purpose::Upgrade,
            None => Purpose::Request,
        };
        Need { purpose, client: self.inner.client(request) }
    }

    pub(super) fn dial(&mut self, request: Unsent<B>) {
        let need = match &request {
            Unsent::Whole(request) => self.need(request),
            Unsent::Refused(request) => self.need(request),
        };
        let dial = self.inner.clone().dial(need);
        self.state = State::Dialing { dial, request: Box::new(request) };
    }

    /// Sends the request. It is taken apart only now that there is a connection.
    fn send(&mut self, mut link: Link, request: Unsent<B>) -> Result<(), BoxError> {
        self.attempts += 1;
        let protocol = link.protocol();
        let upgrade = match (protocol, &request) {
            (Protocol::Http1, Unsent::Whole(request)) => self.inner.wants_upgrade(request),
            _ => None,
        };
        let (mut parts, body) = match request {
            Unsent::Whole(request) => {
                let (parts, body) = request.into_parts();
                (parts, Outgoing::Own(body))
            }
            Unsent::Refused(request) => {
                let (parts, body) = request.into_parts();
                (parts, Outgoing::Recorded(body))
            }
        };
        let mut saved = SavedRequest::new(&mut parts, upgrade);
        let length = match &body {
            Outgoing::Own(body) => Length::of(body),
            Outgoing::Recorded(body) => Length::of(body),
        };
        let expects = length != Length::Empty
            && protocol == Protocol::Http1
            && expects_continue(parts.version, &parts.headers);
        let peer = saved.extensions.get::<Peer>();
        headers::request(
            &mut parts,
            Hop { added: &self.inner.added, target: &self.inner.target, protocol },
            peer,
            saved.upgrade.as_ref(),
            length,
            expects,
        )?;
        let wait = expects.then_some(self.inner.expect_wait);
        let mut request = match body {
            Outgoing::Own(body) => saved.request_to_send(parts, body, length, wait),
            Outgoing::Recorded(body) => saved.request_to_repeat(parts, body),
        };
        let answer = match &mut link {
            Link::Http1(connection) => {
                connection.timer.set(connection.since, self.inner.response_timeout);
                let answer = connection.send(request);
                // Only now: what is sent while another thread drops the driver may be lost, see `SenderSlot`.
                if saved.upgrade.is_some() {
                    connection.detach();
                }
                answer
            }
            Link::Http2(stream, _) => {
                request.body_mut().record(self.inner.buffers.total());
                stream.send(request).ok_or("a stream of HTTP/2 was used twice")?
            }
        };
        self.state = State::Exchange(Box::new(Exchange { link, answer, saved, polled: false }));
        Ok(())
    }

    /// The head of the response has arrived.
    #[expect(clippy::boxed_local, reason = "it is large, and taken apart where it is")]
    fn answered(
        &mut self,
        mut exchange: Box<Exchange<B>>,
        response: Response<Incoming>,
    ) -> Result<Response<UpstreamBody>, BoxError> {
        let link = exchange.link;
        let saved = &mut exchange.saved;
        let (mut parts, incoming) = response.into_parts();
        let via = self.inner.added.response_via.as_ref();
        headers::response(&mut parts, via, saved.upgrade.as_ref())?;
        let backend = parts.extensions.remove::<OnUpgrade>();
        if parts.status == StatusCode::SWITCHING_PROTOCOLS {
            let client = saved.extensions.remove::<OnUpgrade>();
            let (Some(client), Some(backend)) = (client, backend) else {
                return Err("an upgrade needs both connections".into());
            };
            let (hold, end) = UpgradeGuard::pair();
            tunnel::join(client, backend, end);
            parts.extensions.insert(hold);
        }
        let sending = saved.sending.take().filter(|sending| !sending.is_done());
        // The connection cannot serve another request: the next bytes on it might be taken for the body.
        let is_withdrawn = saved.expectation.as_ref().is_some_and(|it| it.withdraw().is_some());
        let body = match link {
            Link::Http1(connection) if is_withdrawn && connection.is_driven_by_request() => {
                UpstreamBody::driving(incoming, connection, self.inner.pool.clone())
            }
            Link::Http1(connection) if !connection.is_driven_by_request() => {
                UpstreamBody::driven(incoming, sending)
            }
            Link::Http1(connection) if sending.is_none() && connection.read_state.all_written() => {
                UpstreamBody::driving(incoming, connection, self.inner.pool.clone())
            }
            Link::Http1(connection) => {
                // The response came before the end of the request's body. If only the reader of the
                // response drove the connection, a client that sends everything before it reads would
                // wait for ever.
                UpstreamBody::detached(incoming, connection, sending, &self.inner.pool)
            }
            Link::Http2(stream, _) => {
                UpstreamBody::of_stream(incoming, sending, stream.into_permit())
            }
        };
        Ok(Response::from_parts(parts, body))
    }
}

impl<B> Future for UpstreamFuture<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Output = Result<Response<UpstreamBody>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let Some(span) = this.span.take() else { return this.advance(cx) };
        let polled = span.in_scope(|| this.advance(cx));
        match &polled {
            Poll::Ready(result) => span::record(&span, result),
            Poll::Pending => this.span = Some(span),
        }
        polled
    }
}

impl<B> UpstreamFuture<B>
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    /// Goes on as far as it can.
    #[inline]
    fn advance(&mut self, cx: &mut Context<'_>) -> Poll<Result<Response<UpstreamBody>, BoxError>> {
        let this = self;
        loop {
            match &mut this.state {
                State::Dialing { dial, .. } => {
                    let dialed = ready!(dial.as_mut().poll(cx));
                    let state = mem::replace(&mut this.state, State::Done);
                    if let State::Dialing { request, .. } = state {
                        match dialed {
                            Ok(link) => this.send(link, *request)?,
                            Err(error) => {
                                return Poll::Ready(Err(match *request {
                                    Unsent::Whole(request) => this.not_connected(request, error),
                                    // Its body is gone, and it cannot be returned.
                                    Unsent::Refused(_) => error,
                                }));
                            }
                        }
                    }
                }
                State::Exchange(exchange) => {
                    let answered = ready!(exchange.poll(cx, &this.inner));
                    let state = mem::replace(&mut this.state, State::Done);
                    if let State::Exchange(exchange) = state {
                        match answered {
                            Ok(Ok(response)) => {
                                return Poll::Ready(this.answered(exchange, response));
                            }
                            Ok(Err(error)) => this.failed(*exchange, error)?,
                            Err(late) => return Poll::Ready(Err(late.into())),
                        }
                    }
                }
                State::Refused(_) => {
                    if let State::Refused(error) = mem::replace(&mut this.state, State::Done) {
                        return Poll::Ready(Err(error));
                    }
                }
                // Polled after it was ready.
                State::Done => return Poll::Pending,
            }
        }
    }
}

// Nothing in it is pinned: what has to be is boxed.
impl<B> Unpin for UpstreamFuture<B> {}

impl<B> fmt::Debug for UpstreamFuture<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            State::Dialing { .. } => "connecting",
            State::Exchange(_) => "waiting for the answer",
            State::Refused(_) | State::Done => "done",
        };
        f.debug_struct("UpstreamFuture").field("state", &state).finish_non_exhaustive()
    }
}
