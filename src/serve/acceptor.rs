//! A listening socket, as the server accepts from it.

use std::{
    io::{self, Write},
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll, ready},
};

use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

#[cfg(unix)]
use super::unix_socket::SocketFile;
use super::{
    endpoint::Endpoint,
    limits::Limits,
    stream::{Accepting, Stream},
};
use crate::util::SocketOptions;

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
    #[cfg(unix)]
    Unix {
        listener: UnixListener,
        file: Arc<SocketFile>,
    },
}

impl ListeningSocket {
    /// Takes it from the runtime in which it was opened, and registers it with the current one.
    fn register(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(listener) => Self::Tcp(TcpListener::from_std(listener.into_std()?)?),
            #[cfg(unix)]
            Self::Unix { listener, file } => {
                let listener = UnixListener::from_std(listener.into_std()?)?;
                Self::Unix { listener, file }
            }
        })
    }
}

/// A listening socket, with what its connections have in common.
#[derive(Debug)]
pub(super) struct Acceptor {
    socket: ListeningSocket,
    options: SocketOptions,
    pub(super) endpoint: Arc<Endpoint>,
}

impl Acceptor {
    /// Accepts from `socket` in the current runtime.
    pub(super) fn new(
        socket: ListeningSocket,
        endpoint: Endpoint,
        limits: &Limits,
    ) -> io::Result<Self> {
        let socket = socket.register()?;
        let unsent = u32::try_from(limits.buffer_bytes / 2).unwrap_or(u32::MAX);
        let options = SocketOptions { user_timeout: limits.tcp_user_timeout, unsent };
        if let ListeningSocket::Tcp(listener) = &socket {
            log_error(options.apply(&SockRef::from(listener)));
        }
        Ok(Self { socket, options, endpoint: Arc::new(endpoint) })
    }

    /// Accepts a connection, whose options are set.
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        Poll::Ready(Ok(match &self.socket {
            ListeningSocket::Tcp(listener) => {
                let (stream, addr) = ready!(listener.poll_accept(cx))?;
                log_error(self.options.apply_to_accepted(&SockRef::from(&stream)));
                Incoming::Tcp(stream, addr)
            }
            #[cfg(unix)]
            ListeningSocket::Unix { listener, .. } => {
                Incoming::Unix(ready!(listener.poll_accept(cx))?.0)
            }
        }))
    }
}

fn log_error(set: io::Result<()>) {
    if let Err(error) = set {
        tracing::debug!(%error, "a socket option could not be set");
    }
}

/// A connection that was just accepted.
#[derive(Debug)]
pub(super) enum Incoming {
    Tcp(TcpStream, SocketAddr),
    #[cfg(unix)]
    Unix(UnixStream),
}

impl Incoming {
    /// The connection, when the runtime that has accepted it serves it.
    pub(super) fn stay(self) -> Accepting {
        match self {
            Self::Tcp(stream, addr) => Accepting::Here(Stream::Tcp(stream), Some(addr)),
            #[cfg(unix)]
            Self::Unix(stream) => Accepting::Here(Stream::Unix(stream), None),
        }
    }

    /// Takes it from the runtime that has accepted it.
    pub(super) fn leave(self) -> io::Result<Accepting> {
        Ok(match self {
            Self::Tcp(stream, addr) => Accepting::Tcp(stream.into_std()?, addr),
            #[cfg(unix)]
            Self::Unix(stream) => Accepting::Unix(stream.into_std()?),
        })
    }

    /// Sends a short answer, and closes the connection.
    pub(super) fn answer(self, bytes: &[u8]) {
        // It fits into the buffer of any socket. Tokio would not know yet that the socket takes it.
        let _ = match self {
            Self::Tcp(stream, _) => stream.into_std().and_then(|mut it| it.write_all(bytes)),
            #[cfg(unix)]
            Self::Unix(stream) => stream.into_std().and_then(|mut it| it.write_all(bytes)),
        };
    }
}
