//! One connection: its protocol, and how it is served.

use std::{pin::pin, sync::Arc};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::{
    app::App,
    client::Client,
    exchange::Exchange,
    park,
    protocol::{Protocol, sniff},
    shared::{Accepted, Shared},
    socket::Socket,
    stream::Stream,
    timeouts::{End, STOP_DELAY, Timeouts, drive, stopped_for, until},
    watch::Watch,
};

/// Serves a connection to its end.
pub(super) async fn serve<S: App>(accepted: Accepted, service: S, shared: Arc<Shared>) {
    // One limit for the first head, detection of the protocol included.
    let deadline = Instant::now() + shared.limits.header_timeout;
    let Ok((mut stream, addr)) = accepted.stream.register() else { return };
    let sniffing = timeout_at(deadline, sniff(&mut stream));
    let sniffed = until(sniffing, stopped_for(&shared, STOP_DELAY)).await;
    // Else it is closed, timed out, or the server stops.
    let Some(Ok(Ok((protocol, sniffed)))) = sniffed else { return };
    let ip = addr.ip().to_canonical();
    let trusted = shared.trusted.iter().any(|network| network.contains(&ip));
    let client = Client::new(addr, trusted, accepted.permit);
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

async fn serve_http2<S: App>(
    stream: Stream,
    sniffed: Bytes,
    client: Client,
    service: S,
    shared: Arc<Shared>,
    deadline: Instant,
) {
    let watch = Arc::new(Watch::default());
    let addr = client.addr;
    let service = Exchange::new(service, client.peer(), &watch, &shared);
    let client = Arc::new(client);
    let socket = Socket::new(stream, sniffed, watch.clone(), false, shared.clone(), client);
    let connection = pin!(shared.http2.serve_connection(TokioIo::new(socket), service));
    let timeouts = Timeouts::new(&watch, &shared, false, deadline);
    let end = drive(connection, |it| it.graceful_shutdown(), timeouts).await;
    if let End::Closed(Err(error)) = end {
        tracing::debug!(%error, client = %addr, "a connection failed");
    }
}
