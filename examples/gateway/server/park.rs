//! HTTP/1.1 connections, which are parked while they are idle: hyper's buffers, 16 KiB per connection, are
//! freed, and only the socket is kept until it is readable again.

use std::{convert::Infallible, io, pin::Pin, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};
use tower_service::Service;
use tower_sticky::{BoxError, Peer};

use super::{
    Shared,
    bodies::ClientBody,
    connection::{Client, End, STOP_DELAY, Timeouts, drive, exchange, stopped_for},
    socket::Socket,
    watch::Watch,
};

/// After how long without a request a connection is parked; it may take up to twice as long.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// The same for this idle timeout, which is longer.
pub(super) fn park_after(idle_timeout: Duration) -> Duration {
    PARK_AFTER.min(idle_timeout / 4)
}

/// Serves an HTTP/1.1 connection to its end. `unread` was read from `stream` already. The first head must
/// be complete at `deadline`.
pub(super) async fn serve<S, B>(
    mut stream: TcpStream,
    mut unread: Bytes,
    client: Client,
    service: S,
    shared: Arc<Shared>,
    mut deadline: Instant,
) where
    S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let client = Arc::new(client);
    loop {
        // Boxed, so that a parked connection does not keep the room for it.
        let serving = serve_until_idle(
            stream,
            unread,
            client.clone(),
            service.clone(),
            shared.clone(),
            deadline,
        );
        let Some(idle) = Box::pin(serving).await else { return };
        (stream, unread) = idle;
        if !unread.is_empty() {
            tracing::trace!(client = %client.addr, "the next request has begun");
        } else if !is_used_again(&stream, &client, &shared).await {
            return;
        }
        deadline = Instant::now() + shared.limits.header_timeout;
    }
}

/// Serves requests until the connection ends, or has been idle for [`PARK_AFTER`]. Then its socket is returned,
/// with what was read from it and not used.
async fn serve_until_idle<S, B>(
    stream: TcpStream,
    unread: Bytes,
    client: Arc<Client>,
    service: S,
    shared: Arc<Shared>,
    deadline: Instant,
) -> Option<(TcpStream, Bytes)>
where
    S: Service<Request<ClientBody>, Response = Response<B>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let watch = Arc::new(Watch::default());
    let interim = watch.clone();
    let peer = Peer::new(client.addr)
        .trusted(client.trusted)
        .on_interim(move |status, headers| interim.add_interim(status, headers));
    let service = exchange(service, peer, &watch, &shared);
    let addr = client.addr;
    let socket = Socket::new(stream, unread, watch.clone(), true, shared.clone(), client);
    let connection = shared.http1.serve_connection(TokioIo::new(socket), service);
    let mut connection = connection.with_upgrades();
    let timeouts = Timeouts::new(&watch, &shared, true, deadline);
    match drive(Pin::new(&mut connection), |it| it.graceful_shutdown(), timeouts).await {
        End::Closed(result) => {
            if let Err(error) = result {
                tracing::debug!(%error, client = %addr, "a connection failed");
            }
            None
        }
        End::Idle => {
            let parts = connection.into_parts()?;
            let (stream, unread) = parts.io.into_inner().into_parts();
            Some((stream, joined(parts.read_buf, unread)))
        }
    }
}

/// Waits until the client of a parked connection has sent something. `false` when it has closed the connection,
/// the idle timeout has passed, or the gateway stops.
async fn is_used_again(stream: &TcpStream, client: &Client, shared: &Shared) -> bool {
    tracing::trace!(client = %client.addr, "parked");
    let limit = shared.limits.idle_timeout;
    tokio::select! {
        biased;
        readable = is_readable(stream) => readable.unwrap_or(false),
        () = sleep(limit.saturating_sub(park_after(limit))) => false,
        () = stopped_for(shared, STOP_DELAY) => false,
    }
}

/// Waits until there is a byte to read, which is left there, or the end.
async fn is_readable(stream: &TcpStream) -> io::Result<bool> {
    Ok(stream.peek(&mut [0]).await? > 0)
}

/// Both, without a copy where one is empty.
fn joined(first: Bytes, second: Bytes) -> Bytes {
    if !first.has_remaining() {
        return second;
    }
    if !second.has_remaining() {
        return first;
    }
    let mut both = BytesMut::from(first);
    both.extend_from_slice(&second);
    both.freeze()
}
