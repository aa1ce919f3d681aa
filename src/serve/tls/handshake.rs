//! The handshake of a connection.

use std::{io, pin::pin};

use http::HeaderValue;
use rustls::server::Acceptor;
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;

use super::{counted::Counted, server_tls::ServerTls, subject::header_value};
use crate::serve::{protocol::Protocol, shared::Shared, stream::Stream};

/// A connection whose handshake has succeeded.
#[derive(Debug)]
pub(in super::super) struct Handshaken {
    pub(in super::super) stream: Stream,
    pub(in super::super) protocol: Protocol,
    /// The subject of the client's certificate, as it is told to backends.
    pub(in super::super) client_cert: Option<HeaderValue>,
}

/// Does the handshake of a connection, which must have finished at `deadline`. `None` when the client has closed
/// the connection before it, as a health check does.
pub(in super::super) async fn accept(
    tls: &ServerTls,
    stream: Stream,
    shared: &Shared,
    deadline: Instant,
) -> io::Result<Option<Handshaken>> {
    let deadline = deadline.min(Instant::now() + tls.inner.settings.handshake_timeout);
    let handshake = timeout_at(deadline, handshake(tls, stream, shared)).await;
    handshake.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn handshake(
    tls: &ServerTls,
    stream: Stream,
    shared: &Shared,
) -> io::Result<Option<Handshaken>> {
    // A connection without a byte takes no buffers either.
    if !stream.is_readable().await? {
        return Ok(None);
    }
    let start = pin!(LazyConfigAcceptor::new(Acceptor::default(), Counted::new(stream))).await?;
    // Only now it costs something. Clients that send nothing do not keep others waiting.
    let _permit = shared.handshakes.acquire().await.map_err(io::Error::other)?;
    // What of a body is encrypted and not sent yet, as much as hyper may have.
    let unsent = shared.limits.buffer_bytes / 4;
    let limit = |connection: &mut rustls::ServerConnection| {
        connection.set_buffer_limit(Some(unsent));
    };
    let stream = start.into_stream_with(tls.config(), limit).await?;
    let (_, connection) = stream.get_ref();
    let protocol = match connection.alpn_protocol() {
        Some(b"h2") => Protocol::Http2,
        _ => Protocol::Http1,
    };
    let cert = connection.peer_certificates().and_then(|chain| chain.first());
    let client_cert = cert.and_then(header_value);
    Ok(Some(Handshaken { stream: Stream::Tls(Box::new(stream)), protocol, client_cert }))
}
