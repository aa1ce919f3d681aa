//! One connection: its protocol, and how it is served.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use hyper_util::rt::TokioIo;
use tokio::time::{Instant, timeout_at};

use super::{
    app::App,
    client::Client,
    endpoint::Endpoint,
    exchange::Exchange,
    park,
    protocol::{Protocol, sniff},
    proxy_protocol::{self, BadHeader, Expected},
    shared::{Accepted, Shared},
    socket::Socket,
    stream::Stream,
    timeouts::{End, Timeouts, drive, stopped_for, until},
    watch::Watch,
};
#[cfg(feature = "tls")]
use crate::session::client_cert::ClientCert;

/// Serves a connection to its end.
pub(super) async fn serve<S: App>(accepted: Accepted, service: S, shared: Arc<Shared>) {
    // One limit for the first head, detection of the protocol included.
    let deadline = Instant::now() + shared.limits.header_timeout;
    let Ok((mut stream, addr)) = accepted.stream.register() else { return };
    let mut client = Client::new(addr, &shared, accepted.permit);
    let mut negotiated = None;
    if !accepted.endpoint.is_plain() {
        let opening = Box::pin(open(stream, client, &accepted.endpoint, &shared, deadline));
        let opened = until(opening, stopped_for(&shared)).await;
        let Some(Some(opened)) = opened else { return };
        (stream, client, negotiated) = opened;
    }
    let (protocol, sniffed) = match negotiated {
        Some(protocol) => (protocol, Bytes::new()),
        None => {
            let sniffing = timeout_at(deadline, sniff(&mut stream));
            let sniffed = until(sniffing, stopped_for(&shared)).await;
            // Else it is closed, timed out, or the server stops.
            let Some(Ok(Ok(sniffed))) = sniffed else { return };
            sniffed
        }
    };
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

/// A connection on which HTTP begins, and its protocol if it is known.
type Opened = (Stream, Client, Option<Protocol>);

/// Reads what comes before HTTP. `None` when the connection is to be closed.
async fn open(
    mut stream: Stream,
    mut client: Client,
    endpoint: &Endpoint,
    shared: &Shared,
    deadline: Instant,
) -> Option<Opened> {
    let read = match endpoint.proxy_protocol.expects(client.is_trusted()) {
        Expected::Nothing => Ok(None),
        Expected::Refuse => Err(BadHeader::NotAllowed),
        Expected::Header => timeout_at(deadline, proxy_protocol::read(&mut stream))
            .await
            .unwrap_or(Err(BadHeader::TimedOut)),
    };
    match read {
        Ok(None) => {}
        Ok(Some(source)) => client.set_addr(source, shared),
        Err(BadHeader::Closed) => return None,
        Err(error) => {
            shared.proxy_protocol_errors.fetch_add(1, Relaxed);
            tracing::debug!(client = %client.addr(), %error, "no valid PROXY protocol header");
            return None;
        }
    }
    #[cfg(feature = "tls")]
    if let Some(tls) = &endpoint.tls {
        return encrypt(tls, stream, client, endpoint, shared, deadline).await;
    }
    #[cfg(feature = "tls")]
    if endpoint.client_cert_header {
        client.set_client_cert(ClientCert::new(None));
    }
    Some((stream, client, None))
}

#[cfg(feature = "tls")]
async fn encrypt(
    tls: &super::tls::ServerTls,
    stream: Stream,
    mut client: Client,
    endpoint: &Endpoint,
    shared: &Shared,
    deadline: Instant,
) -> Option<Opened> {
    match super::tls::accept(tls, stream, shared, deadline).await {
        Ok(None) => None,
        Ok(Some(handshaken)) => {
            client.set_https();
            if endpoint.client_cert_header {
                client.set_client_cert(ClientCert::new(handshaken.client_cert));
            }
            Some((handshaken.stream, client, Some(handshaken.protocol)))
        }
        Err(error) => {
            shared.handshake_errors.fetch_add(1, Relaxed);
            tracing::debug!(client = %client.addr(), %error, "a TLS handshake failed");
            None
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
    let addr = client.addr();
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
