//! `Listener`: where clients connect, and the options of their connections.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::net::{TcpListener, ToSocketAddrs};

use super::{limits::Limits, stream::Accepting};
use crate::util::SocketOptions;

/// Where clients connect: an open socket, with the options of its connections.
#[derive(Debug)]
pub struct Listener {
    socket: ListeningSocket,
    addr: SocketAddr,
    endpoint: Endpoint,
}

/// The options of the connections of a listener.
#[derive(Debug, Default)]
pub(super) struct Endpoint {}

/// A socket that accepts connections.
#[derive(Debug)]
pub(super) enum ListeningSocket {
    Tcp(TcpListener),
}

impl Listener {
    /// Listens on a TCP address, such as `"0.0.0.0:8080"`. Port 0 takes a free port.
    ///
    /// # Errors
    ///
    /// As [`TcpListener::bind`]: the address is in use, or the port is below 1024 and the process may not use it.
    pub async fn bind(addr: impl ToSocketAddrs) -> io::Result<Self> {
        Self::from_tcp(TcpListener::bind(addr).await?)
    }

    /// Takes a TCP socket that listens already.
    ///
    /// # Errors
    ///
    /// When the address of the socket cannot be read.
    pub fn from_tcp(listener: TcpListener) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let socket = ListeningSocket::Tcp(listener);
        Ok(Self { socket, addr, endpoint: Endpoint::default() })
    }

    /// The address, with the port that was taken.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn into_parts(self) -> (ListeningSocket, Arc<Endpoint>) {
        (self.socket, Arc::new(self.endpoint))
    }
}

impl ListeningSocket {
    pub(super) fn poll_accept(&self, cx: &mut Context<'_>) -> Poll<io::Result<Incoming>> {
        match self {
            Self::Tcp(listener) => {
                listener.poll_accept(cx).map_ok(|(stream, addr)| Incoming::Tcp(stream, addr))
            }
        }
    }
}

/// A connection that was just accepted.
#[derive(Debug)]
pub(super) enum Incoming {
    Tcp(tokio::net::TcpStream, SocketAddr),
}

impl Incoming {
    /// Sets the options of the socket, and takes it from this runtime.
    pub(super) fn into_std(self, limits: &Limits) -> io::Result<Accepting> {
        match self {
            Self::Tcp(stream, addr) => {
                let unsent = u32::try_from(limits.buffer_bytes / 2).unwrap_or(u32::MAX);
                let options = SocketOptions { user_timeout: limits.tcp_user_timeout, unsent };
                if let Err(error) = options.apply(&stream) {
                    tracing::debug!(%error, "a socket option could not be set");
                }
                Ok(Accepting::Tcp(stream.into_std()?, addr))
            }
        }
    }
}
