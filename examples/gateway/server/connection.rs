//! One connection: which protocol it speaks, how long it may be silent, and how it ends.

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
    time::{Instant, sleep, sleep_until, timeout_at},
};
use tower_service::Service;
use tower_sticky::{BoxError, Peer};

use super::{
    Accepted, Shared,
    bodies::ClientBody,
    exchange::Exchange,
    watch::{Sniffed, Socket, Watch},
};

/// How a connection without TLS begins when it is HTTP/2 (RFC 9113, section 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection is kept between two requests, at least; at most twice as long.
const IDLE: Duration = Duration::from_secs(60);

/// How long an HTTP/1.1 connection without a request is kept when the gateway stops: a request may be
/// on its way already. HTTP/2 has GOAWAY for that.
const LINGER: Duration = Duration::from_millis(200);

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
    // One limit for the first head, whatever it takes to get there.
    let deadline = Instant::now() + shared.header_timeout;
    let Ok(mut stream) = TcpStream::from_std(accepted.stream) else {
        return;
    };
    let sniffing = timeout_at(deadline, sniff(&mut stream));
    let (protocol, sniffed) = tokio::select! {
        biased;
        sniffed = sniffing => match sniffed {
            Ok(Ok(sniffed)) => sniffed,
            // Gone, or silent for too long.
            _ => return,
        },
        () = stopped_for(&shared, LINGER) => return,
    };
    let watch = Arc::new(Watch::default());
    let ip = accepted.addr.ip().to_canonical();
    let trusted = shared.trusted.iter().any(|network| network.contains(&ip));
    let service = Exchange {
        service,
        peer: Peer::new(accepted.addr).trusted(trusted),
        watch: watch.clone(),
        server_timing: shared.server_timing,
    };
    let socket = Socket::new(stream, sniffed, watch.clone(), accepted.place);
    let io = TokioIo::new(socket);
    let ended = match protocol {
        Protocol::Http1 => {
            let connection = shared.http1.serve_connection(io, service).with_upgrades();
            let connection = pin!(connection);
            drive(connection, |it| it.graceful_shutdown(), true, deadline, &watch, &shared).await
        }
        Protocol::Http2 => {
            let connection = pin!(shared.http2.serve_connection(io, service));
            drive(connection, |it| it.graceful_shutdown(), false, deadline, &watch, &shared).await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, client = %accepted.addr, "a connection broke");
    }
}

async fn stopped_for(shared: &Shared, time: Duration) {
    shared.stop.stopped().await;
    sleep(time).await;
}

/// Reads as much as it takes to tell the protocol, and not more than hyper can be given back.
async fn sniff(stream: &mut TcpStream) -> io::Result<(Protocol, Sniffed)> {
    let mut sniffed = Sniffed::default();
    loop {
        let read = stream.read(&mut sniffed.bytes[sniffed.len..]).await?;
        sniffed.len += read;
        let so_far = &sniffed.bytes[..sniffed.len];
        if read == 0 || !PREFACE.starts_with(so_far) {
            return Ok((Protocol::Http1, sniffed));
        }
        if so_far.len() == PREFACE.len() {
            return Ok((Protocol::Http2, sniffed));
        }
    }
}

/// Polls a connection to its end, and ends it when it is silent for too long or the gateway stops.
///
/// One timer per connection, which is moved when it fires and not with each request.
async fn drive<C>(
    mut connection: Pin<&mut C>,
    finish: impl Fn(Pin<&mut C>),
    heads_are_seen: bool,
    first_head: Instant,
    watch: &Watch,
    shared: &Shared,
) -> hyper::Result<()>
where
    C: Future<Output = hyper::Result<()>>,
{
    let mut timer = pin!(sleep_until(first_head));
    let mut stopped = pin!(shared.stop.stopped());
    let mut listening = false;
    let mut finishing = false;
    // When the gateway stops: until when a request may still come.
    let mut linger = None;
    // When the head that is being read must be complete.
    let mut head = Some(first_head);
    let mut requests = 0;
    // How many requests there were when the timer was set to the end of an idle time.
    let mut idle_at = None;
    poll_fn(|cx| {
        // Polled once, to be woken; after that a flag is looked at, which costs nothing.
        if !listening {
            listening = true;
            let _ = stopped.as_mut().poll(cx);
        }
        loop {
            if let Poll::Ready(ended) = connection.as_mut().poll(cx) {
                return Poll::Ready(ended);
            }
            if !finishing && shared.stop.is_set() {
                if !heads_are_seen || watch.is_busy() {
                    finishing = true;
                    finish(connection.as_mut());
                    continue;
                }
                if linger.is_none() {
                    let end = Instant::now() + LINGER;
                    linger = Some(end);
                    timer.as_mut().reset(head.map_or(end, |head| head.min(end)));
                }
            }
            if watch.requests() != requests {
                requests = watch.requests();
                head = None;
            }
            if heads_are_seen && head.is_none() && watch.has_partial_head() {
                let deadline = Instant::now() + shared.header_timeout;
                head = Some(deadline);
                timer.as_mut().reset(deadline);
            }
            if watch.is_busy() && !timer.is_elapsed() {
                return Poll::Pending;
            }
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            let ends = match head {
                _ if watch.is_busy() => {
                    idle_at = None;
                    timer.as_mut().reset(now + IDLE);
                    false
                }
                Some(deadline) if now >= deadline => return Poll::Ready(Ok(())),
                _ if linger.is_some_and(|end| now >= end) && !watch.has_partial_head() => true,
                Some(deadline) => {
                    timer.as_mut().reset(deadline);
                    false
                }
                None if idle_at == Some(requests) => true,
                None => {
                    idle_at = Some(requests);
                    timer.as_mut().reset(now + IDLE);
                    false
                }
            };
            if ends {
                // HTTP/2 says goodbye and may take a moment for it.
                let deadline = now + shared.header_timeout;
                head = Some(deadline);
                linger = None;
                timer.as_mut().reset(deadline);
                finishing = true;
                finish(connection.as_mut());
            }
        }
    })
    .await
}
