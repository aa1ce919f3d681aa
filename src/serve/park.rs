//! HTTP/1.1 connections, which are parked while they are idle: hyper's buffers, 16 KiB per connection, are
//! freed, and only the socket is kept until it is readable again.

use std::{pin::Pin, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout};

use super::{
    app::App,
    client::Client,
    exchange::Exchange,
    shared::Shared,
    socket::Socket,
    stream::Stream,
    timeouts::{End, Timeouts, drive, park_after, stopped_for, until},
    watch::Watch,
};

/// Serves an HTTP/1.1 connection to its end. `unread` was read from `stream` already. The first head must
/// be complete at `deadline`.
pub(super) async fn serve<S: App>(
    mut stream: Stream,
    mut unread: Bytes,
    client: Client,
    service: S,
    shared: Arc<Shared>,
    mut deadline: Instant,
) {
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
            tracing::trace!(client = %client.addr(), "the next request has begun");
        } else if !is_used_again(&stream, &client, &shared).await {
            stream.close().await;
            return;
        }
        deadline = Instant::now() + shared.limits.header_timeout;
    }
}

/// Serves requests until the connection ends, or has been idle for some time. Then its socket is returned,
/// with what was read from it and not used.
async fn serve_until_idle<S: App>(
    stream: Stream,
    unread: Bytes,
    client: Arc<Client>,
    service: S,
    shared: Arc<Shared>,
    deadline: Instant,
) -> Option<(Stream, Bytes)> {
    let watch = Arc::new(Watch::default());
    let interim = watch.clone();
    let peer = client.peer();
    let peer = peer.on_interim(move |status, headers| interim.add_interim(status, headers));
    let service = Exchange::new(service, peer, &watch, &shared);
    let addr = client.addr();
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
/// the idle timeout has passed, or the server stops.
async fn is_used_again(stream: &Stream, client: &Client, shared: &Shared) -> bool {
    tracing::trace!(client = %client.addr(), "parked");
    let limit = shared.limits.idle_timeout;
    let limit = limit.saturating_sub(park_after(limit));
    let readable = timeout(limit, stream.is_readable());
    match until(readable, stopped_for(shared)).await {
        Some(Ok(readable)) => readable.unwrap_or(false),
        _ => false,
    }
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
