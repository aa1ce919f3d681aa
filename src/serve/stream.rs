//! The connection to a client, whatever it runs over.

use std::{
    io::{self, IoSlice, Write},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

#[cfg(unix)]
use rustix::net::{RecvFlags, recv};
#[cfg(unix)]
use tokio::{io::Interest, net::UnixStream};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A connection that is not registered with a runtime.
#[derive(Debug)]
pub(super) enum Accepting {
    Tcp(std::net::TcpStream, SocketAddr),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl Accepting {
    /// Sends a short answer, and closes the connection.
    pub(super) fn answer(self, bytes: &[u8]) {
        // It fits into the buffer of any socket.
        let _ = match self {
            Self::Tcp(mut stream, _) => stream.write_all(bytes),
            #[cfg(unix)]
            Self::Unix(mut stream) => stream.write_all(bytes),
        };
    }

    /// Registers it with the current runtime. The peer of a Unix socket has no address.
    pub(super) fn register(self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
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
}

impl Stream {
    /// Waits until there is something to read, which is left there. `false` at the end.
    pub(super) async fn is_readable(&self) -> io::Result<bool> {
        match self {
            Self::Tcp(stream) => Ok(stream.peek(&mut [0]).await? > 0),
            #[cfg(unix)]
            Self::Unix(stream) => {
                let peek = || Ok(recv(stream, &mut [0], RecvFlags::PEEK)?.1);
                Ok(stream.async_io(Interest::READABLE, peek).await? > 0)
            }
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(stream) => stream.is_write_vectored(),
            #[cfg(unix)]
            Self::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(unix)]
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
