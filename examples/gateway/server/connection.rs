//! One connection: its protocol, its timeouts, and how it ends.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::Arc,
    task::{Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper_util::rt::TokioIo;
use tokio::{
    io::AsyncReadExt,
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::{Instant, Sleep, sleep, sleep_until, timeout_at},
};
use tower_service::Service;
use tower_sticky::{BoxError, Peer};

use super::{
    Accepted, Shared,
    bodies::ClientBody,
    exchange::Exchange,
    park::{self, park_after},
    socket::Socket,
    watch::Watch,
};

/// How a connection without TLS begins when it is HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long an HTTP/1.1 connection without a request is kept when the gateway stops: a request may be in
/// flight. HTTP/2 has GOAWAY for that.
pub(super) const STOP_DELAY: Duration = Duration::from_millis(200);

/// The head of the first frame, which must be SETTINGS (RFC 9113, section 3.4).
const FRAME_HEAD: usize = 9;

/// As many bytes as tell that a connection is HTTP/2.
const SNIFFED: usize = PREFACE.len() + FRAME_HEAD;

enum Protocol {
    Http1,
    Http2,
}

/// The client of a connection. Its permit is returned when the last clone is dropped, so that an upgraded
/// connection, which leaves hyper, still counts.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) addr: SocketAddr,
    pub(super) trusted: bool,
    pub(super) _permit: OwnedSemaphorePermit,
}

/// How serving a connection has ended.
pub(super) enum End {
    Closed(hyper::Result<()>),
    /// The connection is open, and was idle for some time. Only in HTTP/1.1.
    Idle,
}

/// Serves a connection to its end.
pub(super) async fn serve<S, B>(accepted: Accepted, service: S, shared: Arc<Shared>)
where
    S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    // One limit for the first head, detection of the protocol included.
    let deadline = Instant::now() + shared.limits.header_timeout;
    let Ok(mut stream) = TcpStream::from_std(accepted.stream) else {
        return;
    };
    let sniffing = timeout_at(deadline, sniff(&mut stream));
    let (protocol, sniffed) = tokio::select! {
        biased;
        sniffed = sniffing => match sniffed {
            Ok(Ok(sniffed)) => sniffed,
            // Closed, or timed out.
            _ => return,
        },
        () = stopped_for(&shared, STOP_DELAY) => return,
    };
    let ip = accepted.addr.ip().to_canonical();
    let trusted = shared.trusted.iter().any(|network| network.contains(&ip));
    let client = Client { addr: accepted.addr, trusted, _permit: accepted.permit };
    // Each is boxed, so that a connection takes the memory that its protocol needs, and no more.
    match protocol {
        Protocol::Http1 => {
            park::serve(stream, sniffed, client, service, shared, deadline).await;
        }
        Protocol::Http2 => {
            Box::pin(serve_http2(stream, sniffed, client, service, shared, deadline)).await;
        }
    }
}

async fn serve_http2<S, B>(
    stream: TcpStream,
    sniffed: Bytes,
    client: Client,
    service: S,
    shared: Arc<Shared>,
    deadline: Instant,
) where
    S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let watch = Arc::new(Watch::default());
    let addr = client.addr;
    let peer = Peer::new(addr).trusted(client.trusted);
    let service = exchange(service, peer, &watch, &shared);
    let client = Arc::new(client);
    let socket = Socket::new(stream, sniffed, watch.clone(), false, shared.clone(), client);
    let connection = pin!(shared.http2.serve_connection(TokioIo::new(socket), service));
    let timeouts = Timeouts::new(&watch, &shared, false, deadline);
    let end = drive(connection, |it| it.graceful_shutdown(), timeouts).await;
    if let End::Closed(Err(error)) = end {
        tracing::debug!(%error, client = %addr, "a connection failed");
    }
}

/// The service of a connection.
pub(super) fn exchange<S>(
    service: S,
    peer: Peer,
    watch: &Arc<Watch>,
    shared: &Shared,
) -> Exchange<S> {
    Exchange {
        service,
        peer,
        watch: watch.clone(),
        server_timing: shared.server_timing,
        limits: shared.limits.request,
        unsent_limit: shared.limits.buffer_bytes / 8,
    }
}

pub(super) async fn stopped_for(shared: &Shared, time: Duration) {
    shared.stop.stopped().await;
    sleep(time).await;
}

/// Detects the protocol. What was read is given to hyper later.
async fn sniff(stream: &mut TcpStream) -> io::Result<(Protocol, Bytes)> {
    let (mut bytes, mut len) = ([0; SNIFFED], 0);
    loop {
        let read = stream.read(&mut bytes[len..]).await?;
        len += read;
        let sniffed = &bytes[..len];
        let (preface, frame) = sniffed.split_at(PREFACE.len().min(len));
        if !PREFACE.starts_with(preface) || (read == 0 && frame.len() < FRAME_HEAD) {
            return Ok((Protocol::Http1, Bytes::copy_from_slice(sniffed)));
        }
        if frame.len() == FRAME_HEAD {
            // SETTINGS, and not an acknowledgement.
            let is_settings = frame[3] == 4 && frame[4] & 1 == 0;
            return match is_settings {
                true => Ok((Protocol::Http2, Bytes::copy_from_slice(sniffed))),
                false => Err(io::ErrorKind::InvalidData.into()),
            };
        }
    }
}

/// Polls a connection to its end, and ends it when a timeout has passed or the gateway stops.
///
/// One timer per connection, which is moved when it fires and not with each request.
pub(super) async fn drive<C>(
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
    mut timeouts: Timeouts<'_>,
) -> End
where
    C: Future<Output = hyper::Result<()>>,
{
    let (watch, stop) = (timeouts.watch, &timeouts.shared.stop);
    let mut timer = pin!(sleep_until(timeouts.first_deadline()));
    let mut stopped = pin!(stop.stopped());
    let mut listening = false;
    poll_fn(|cx| {
        // Polled once, to be woken. After that only a flag is read.
        if !listening {
            listening = true;
            let _ = stopped.as_mut().poll(cx);
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(End::Closed(ended));
            }
            if timeouts.must_finish(timer.as_mut()) {
                finish(connection.as_mut());
                continue;
            }
            let moved = timeouts.bring_forward(timer.as_mut());
            if watch.is_busy() && !moved && !timer.is_elapsed() {
                return Poll::Pending;
            }
            ready!(timer.as_mut().poll(cx));
            match timeouts.elapsed(timer.as_mut()) {
                Elapsed::Nothing => {}
                Elapsed::Parked => return Poll::Ready(End::Idle),
                Elapsed::Idle => finish(connection.as_mut()),
                Elapsed::Limit => return Poll::Ready(End::Closed(Ok(()))),
            }
        }
    })
    .await
}

/// The timeouts of a connection.
pub(super) struct Timeouts<'a> {
    watch: &'a Watch,
    shared: &'a Shared,
    /// Whether bytes without a request in flight are the begin of a head: in HTTP/1.1.
    sees_heads: bool,
    /// After how long without a request the connection is parked, or ended in HTTP/2.
    idle_after: Duration,
    /// When the head that is being read must be complete.
    head: Option<Instant>,
    requests: u64,
    /// How many requests there were when the timer was set to the end of an idle time.
    idle_at: Option<u64>,
    /// The same, when a request was in flight.
    busy_at: Option<u64>,
    /// Whether the timer is set to a late deadline, because a request takes long.
    long_timer: bool,
    /// How often the client had taken something when it blocked, and when that was.
    blocked: Option<(u64, Instant)>,
    /// Until when a request may still arrive, when the gateway stops.
    stop_at: Option<Instant>,
    finishing: bool,
}

/// What the end of the timer means.
enum Elapsed {
    Nothing,
    /// The connection is parked.
    Parked,
    /// No more requests are taken.
    Idle,
    /// The connection is cut.
    Limit,
}

impl<'a> Timeouts<'a> {
    pub(super) fn new(
        watch: &'a Watch,
        shared: &'a Shared,
        is_http1: bool,
        first_head: Instant,
    ) -> Self {
        let idle_timeout = shared.limits.idle_timeout;
        Self {
            watch,
            shared,
            sees_heads: is_http1,
            idle_after: if is_http1 { park_after(idle_timeout) } else { idle_timeout },
            head: Some(first_head),
            requests: 0,
            idle_at: None,
            busy_at: None,
            long_timer: false,
            blocked: None,
            stop_at: None,
            finishing: false,
        }
    }

    fn first_deadline(&self) -> Instant {
        let idle = Instant::now() + self.idle_after;
        self.head.map_or(idle, |head| head.min(idle))
    }

    /// Whether the gateway stops and the connection has to take no more requests from now on.
    fn must_finish(&mut self, timer: Pin<&mut Sleep>) -> bool {
        if self.finishing || !self.shared.stop.is_set() {
            return false;
        }
        if !self.sees_heads || self.watch.is_busy() {
            self.finishing = true;
            return true;
        }
        if self.stop_at.is_none() {
            let end = Instant::now() + STOP_DELAY;
            self.stop_at = Some(end);
            timer.reset(self.head.map_or(end, |head| head.min(end)));
        }
        false
    }

    /// Sets the timer to an earlier deadline if there is one. Whether it did.
    fn bring_forward(&mut self, mut timer: Pin<&mut Sleep>) -> bool {
        let mut moved = false;
        if self.watch.requests() != self.requests {
            self.requests = self.watch.requests();
            self.head = None;
        }
        if self.sees_heads && self.head.is_none() && self.watch.has_partial_head() {
            let deadline = Instant::now() + self.shared.limits.header_timeout;
            self.head = Some(deadline);
            timer.as_mut().reset(deadline);
            moved = true;
        }
        if self.long_timer && !self.watch.is_busy() {
            self.long_timer = false;
            timer.as_mut().reset(Instant::now() + self.idle_after);
            moved = true;
        }
        if !self.watch.is_blocked() {
            self.blocked = None;
        } else if self.blocked.is_none_or(|(written, _)| written != self.watch.writes()) {
            let now = Instant::now();
            self.blocked = Some((self.watch.writes(), now));
            let deadline = now + self.shared.limits.write_timeout;
            if deadline < timer.deadline() {
                timer.reset(deadline);
                moved = true;
            }
        }
        moved
    }

    /// Whether hyper has nothing that would be lost with it.
    fn may_park(&self) -> bool {
        !self.finishing && self.stop_at.is_none() && self.watch.is_quiet()
    }

    /// The timer has elapsed: what that means, and the next deadline.
    fn elapsed(&mut self, timer: Pin<&mut Sleep>) -> Elapsed {
        let (now, limits) = (Instant::now(), &self.shared.limits);
        let blocked = self.blocked.map(|(_, since)| since + limits.write_timeout);
        if blocked.is_some_and(|deadline| now >= deadline) {
            return Elapsed::Limit;
        }
        let idle = now + self.idle_after;
        let next = match self.head {
            _ if self.watch.is_busy() => {
                self.idle_at = None;
                self.long_timer = self.busy_at.replace(self.requests) == Some(self.requests);
                Some(if self.long_timer { now + limits.idle_timeout } else { idle })
            }
            Some(deadline) if now >= deadline => return Elapsed::Limit,
            _ if self.stop_at.is_some_and(|end| now >= end) && !self.watch.has_partial_head() => {
                None
            }
            Some(deadline) => Some(deadline),
            None if self.idle_at == Some(self.requests) && !self.sees_heads => None,
            None if self.idle_at == Some(self.requests) && self.may_park() => {
                return Elapsed::Parked;
            }
            None => {
                self.idle_at = Some(self.requests);
                Some(idle)
            }
        };
        let (next, elapsed) = next.map_or_else(
            || {
                // HTTP/2 sends GOAWAY, which may take some time.
                let deadline = now + limits.header_timeout;
                (self.head, self.stop_at, self.finishing) = (Some(deadline), None, true);
                (deadline, Elapsed::Idle)
            },
            |next| (next, Elapsed::Nothing),
        );
        timer.reset(blocked.map_or(next, |blocked| next.min(blocked)));
        elapsed
    }
}
