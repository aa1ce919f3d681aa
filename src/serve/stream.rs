//! The connection to a client, whatever it runs over.

use std::{io, net::SocketAddr, pin::Pin, task::Context};

#[cfg(unix)]
use rustix::net::{RecvFlags, recv};
#[cfg(feature = "tls")]
use tokio::{io::AsyncWriteExt, time::timeout};
#[cfg(unix)]
use tokio::{io::Interest, net::UnixStream};
use tokio::{
    io::{AsyncRead, ReadBuf},
    net::TcpStream,
};
#[cfg(feature = "tls")]
use tokio_rustls::server::TlsStream;

#[cfg(feature = "tls")]
use super::tls::Counted;
use crate::util::{PollIo, with_socket, write_to_socket};

/// How long the end of an idle TLS connection may take to be sent.
#[cfg(feature = "tls")]
const CLOSE_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(1);

/// An accepted connection, on its way to the runtime that serves it.
#[derive(Debug)]
pub(super) enum Accepting {
    /// It is registered with that runtime. The peer of a Unix socket has no address.
    Here(Stream, Option<SocketAddr>),
    Tcp(std::net::TcpStream, SocketAddr),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl Accepting {
    /// Registers it with the current runtime.
    pub(super) fn register(self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Here(stream, addr) => Ok((stream, addr)),
            Self::Tcp(stream, addr) => Ok((Stream::Tcp(TcpStream::from_std(stream)?), Some(addr))),
            #[cfg(unix)]
            Self::Unix(stream) => Ok((Stream::Unix(UnixStream::from_std(stream)?), None)),
        }
    }
}

/// The connection to a client.
#[derive(Debug)]
pub(super) enum Stream {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// TLS over one of the others.
    #[cfg(feature = "tls")]
    Tls(Box<TlsStream<Counted<Self>>>),
}

impl Stream {
    /// Waits until there is something to read, which is left there. `false` at the end.
    pub(super) async fn is_readable(&self) -> io::Result<bool> {
        let socket = match self {
            // Something was decrypted already, or the client has closed.
            #[cfg(feature = "tls")]
            Self::Tls(stream) if !stream.get_ref().1.wants_read() => return Ok(true),
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0.get_ref(),
            plain => plain,
        };
        match socket {
            Self::Tcp(stream) => Ok(stream.peek(&mut [0]).await? > 0),
            #[cfg(unix)]
            Self::Unix(stream) => {
                let peek = || Ok(recv(stream, &mut [0], RecvFlags::PEEK)?.1);
                Ok(stream.async_io(Interest::READABLE, peek).await? > 0)
            }
            // There is no TLS over TLS.
            #[cfg(feature = "tls")]
            Self::Tls(_) => Ok(true),
        }
    }

    /// Closes an idle connection. With TLS the client is told that this is the end (RFC 8446, section 6.1).
    pub(super) async fn close(self) {
        #[cfg(feature = "tls")]
        if let Self::Tls(mut stream) = self {
            // It is a few bytes, which a full buffer may refuse.
            let _ = timeout(CLOSE_TIMEOUT, stream.shutdown()).await;
        }
    }

    /// How many bytes the socket under TLS has taken; without TLS 0.
    pub(super) fn encrypted_bytes(&self) -> u64 {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_ref().0.written(),
            _ => 0,
        }
    }

    /// The socket under TLS, or this one.
    pub(super) fn socket(&mut self) -> &mut Self {
        match self {
            #[cfg(feature = "tls")]
            Self::Tls(stream) => stream.get_mut().0.get_mut(),
            plain => plain,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> PollIo<()> {
        with_socket!(self.get_mut(), socket => Pin::new(socket).poll_read(cx, buf))
    }
}

write_to_socket!(Stream);
