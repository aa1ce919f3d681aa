//! The transport of a connection to a backend.

#[cfg(feature = "tls")]
use std::io;
use std::{net::SocketAddr, pin::Pin, task::Context};

#[cfg(unix)]
use tokio::net::UnixStream;
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};

use super::protocol::Protocol;
#[cfg(feature = "tls")]
use crate::tls::reason_in;
use crate::util::{PollIo, write_to_socket};

/// What a connection runs over.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// Boxed: the buffers and keys of TLS are a kilobyte.
    #[cfg(feature = "tls")]
    Tls(Box<tokio_rustls::client::TlsStream<Stream>>),
}

impl Stream {
    /// The address of this end, of TCP connections without TLS.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(stream) => stream.local_addr().ok(),
            #[cfg(unix)]
            Self::Unix(_) => None,
            #[cfg(feature = "tls")]
            Self::Tls(_) => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> PollIo<()> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            // A backend may refuse this proxy's certificate after the handshake (RFC 8446, section 4.4.2.4).
            #[cfg(feature = "tls")]
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf).map_err(in_plain_words),
        }
    }
}

#[cfg(feature = "tls")]
fn in_plain_words(error: io::Error) -> io::Error {
    match reason_in(&error) {
        Some(reason) => io::Error::new(error.kind(), format!("TLS failed: {reason}")),
        None => error,
    }
}

write_to_socket!(Stream);

/// A stream to a backend, before HTTP is spoken on it.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) stream: Stream,
    /// Of the backend's address.
    pub(super) generation: u64,
    pub(super) protocol: Protocol,
}
