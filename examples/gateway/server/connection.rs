//! One connection: its protocol, its timeouts, and how it ends.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
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
    time::{Instant, Sleep, sleep, sleep_until, timeout_at},
};
use tower_service::Service;
use tower_sticky::{BoxError, Peer};

use super::{
    Accepted, Shared,
    bodies::ClientBody,
    exchange::Exchange,
    socket::{SNIFFED, Sniffed, Socket},
    watch::Watch,
};

/// How a connection without TLS begins when it is HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long an HTTP/1.1 connection without a request is kept when the gateway stops: a request may be in
/// flight. HTTP/2 has GOAWAY for that.
const STOP_DELAY: Duration = Duration::from_millis(200);

/// The head of the first frame, which must be SETTINGS (RFC 9113, section 3.4).
const FRAME_HEAD: usize = SNIFFED - PREFACE.len();

enum Protocol {
    Http1,
    Http2,
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
    let watch = Arc::new(Watch::default());
    let ip = accepted.addr.ip().to_canonical();
    let trusted = shared.trusted.iter().any(|network| network.contains(&ip));
    let is_http1 = matches!(protocol, Protocol::Http1);
    let mut peer = Peer::new(accepted.addr).trusted(trusted);
    if is_http1 {
        let watch = watch.clone();
        peer = peer.on_interim(move |status, headers| watch.add_interim(status, headers));
    }
    let service = Exchange {
        service,
        peer,
        watch: watch.clone(),
        server_timing: shared.server_timing,
        limits: shared.limits.request,
    };
    let socket =
        Socket::new(stream, sniffed, watch.clone(), is_http1, shared.clone(), accepted.permit);
    let io = TokioIo::new(socket);
    let timeouts = Timeouts::new(&watch, &shared, is_http1, deadline);
    let ended = match protocol {
        Protocol::Http1 => {
            let connection = pin!(shared.http1.serve_connection(io, service).with_upgrades());
            drive(connection, |it| it.graceful_shutdown(), timeouts).await
        }
        Protocol::Http2 => {
            let connection = pin!(shared.http2.serve_connection(io, service));
            drive(connection, |it| it.graceful_shutdown(), timeouts).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, client = %accepted.addr, "a connection failed");
    }
}

async fn stopped_for(shared: &Shared, time: Duration) {
    shared.stop.stopped().await;
    sleep(time).await;
}

/// Detects the protocol. What was read is given to hyper later.
async fn sniff(stream: &mut TcpStream) -> io::Result<(Protocol, Sniffed)> {
    let mut sniffed = Sniffed::default();
    loop {
        let read = stream.read(&mut sniffed.bytes[sniffed.len..]).await?;
        sniffed.len += read;
        let (preface, frame) =
            sniffed.bytes[..sniffed.len].split_at(PREFACE.len().min(sniffed.len));
        if !PREFACE.starts_with(preface) || (read == 0 && frame.len() < FRAME_HEAD) {
            return Ok((Protocol::Http1, sniffed));
        }
        if frame.len() == FRAME_HEAD {
            // SETTINGS, and not an acknowledgement.
            let is_settings = frame[3] == 4 && frame[4] & 1 == 0;
            return match is_settings {
                true => Ok((Protocol::Http2, sniffed)),
                false => Err(io::ErrorKind::InvalidData.into()),
            };
        }
    }
}

/// Polls a connection to its end, and ends it when a timeout has passed or the gateway stops.
///
/// One timer per connection, which is moved when it fires and not with each request.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
    mut timeouts: Timeouts<'_>,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let (watch, stop) = (timeouts.watch, &timeouts.shared.stop);
    let mut timer = pin!(sleep_until(timeouts.first_head));
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
                return Poll::Ready(ended);
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
                Elapsed::Idle => finish(connection.as_mut()),
                Elapsed::Limit => return Poll::Ready(Ok(())),
            }
        }
    })
    .await
}

/// The timeouts of a connection.
struct Timeouts<'a> {
    watch: &'a Watch,
    shared: &'a Shared,
    /// Whether bytes without a request in flight are the begin of a head: in HTTP/1.1.
    sees_heads: bool,
    first_head: Instant,
    /// When the head that is being read must be complete.
    head: Option<Instant>,
    requests: u64,
    /// How many requests there were when the timer was set to the end of an idle time.
    idle_at: Option<u64>,
    /// How often the client had taken something when it blocked, and when that was.
    blocked: Option<(u64, Instant)>,
    /// Until when a request may still arrive, when the gateway stops.
    stop_at: Option<Instant>,
    finishing: bool,
}

/// What the end of the timer means.
enum Elapsed {
    Nothing,
    /// No more requests are taken.
    Idle,
    /// The connection is cut.
    Limit,
}

impl<'a> Timeouts<'a> {
    fn new(watch: &'a Watch, shared: &'a Shared, is_http1: bool, first_head: Instant) -> Self {
        Self {
            watch,
            shared,
            sees_heads: is_http1,
            first_head,
            head: Some(first_head),
            requests: 0,
            idle_at: None,
            blocked: None,
            stop_at: None,
            finishing: false,
        }
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

    /// The timer has elapsed: what that means, and the next deadline.
    fn elapsed(&mut self, timer: Pin<&mut Sleep>) -> Elapsed {
        let (now, limits) = (Instant::now(), &self.shared.limits);
        let blocked = self.blocked.map(|(_, since)| since + limits.write_timeout);
        if blocked.is_some_and(|deadline| now >= deadline) {
            return Elapsed::Limit;
        }
        let idle = now + limits.idle_timeout;
        let next = match self.head {
            _ if self.watch.is_busy() => {
                self.idle_at = None;
                Some(idle)
            }
            Some(deadline) if now >= deadline => return Elapsed::Limit,
            _ if self.stop_at.is_some_and(|end| now >= end) && !self.watch.has_partial_head() => {
                None
            }
            Some(deadline) => Some(deadline),
            None if self.idle_at == Some(self.requests) => None,
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
