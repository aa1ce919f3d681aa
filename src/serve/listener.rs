//! `Listener`: where clients connect, and the options of their connections.

#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
use std::{fmt, io, net::SocketAddr, path::PathBuf, sync::Arc};

use tokio::net::{TcpListener, ToSocketAddrs};

#[cfg(feature = "tls")]
use super::tls::ServerTls;
#[cfg(unix)]
use super::unix_socket::{self, SocketFile};
use super::{
    acceptor::{Acceptor, ListeningSocket},
    endpoint::Endpoint,
    limits::Limits,
    proxy_protocol::ProxyProtocol,
};

/// Where clients connect: an open socket, with the options of its connections.
///
/// # Example
///
/// ```no_run
/// # async fn run() -> std::io::Result<()> {
/// use tower_sticky::serve::{Listener, ProxyProtocol};
///
/// let tcp = Listener::bind("0.0.0.0:8080").await?.proxy_protocol(ProxyProtocol::Accept);
/// # #[cfg(unix)]
/// let unix = Listener::unix("/run/app.sock", 0o660)?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Listener {
    socket: ListeningSocket,
    addr: LocalAddr,
    endpoint: Endpoint,
}

/// The address of a [`Listener`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LocalAddr {
    /// A TCP address, shown as `127.0.0.1:8080`.
    Tcp(SocketAddr),
    /// The path of a Unix socket, shown as `unix:/run/app.sock`.
    Unix(PathBuf),
}

impl LocalAddr {
    /// The TCP address, if it is one.
    pub fn tcp(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(addr) => Some(*addr),
            Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for LocalAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
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
        let addr = LocalAddr::Tcp(listener.local_addr()?);
        let socket = ListeningSocket::Tcp(listener);
        Ok(Self { socket, addr, endpoint: Endpoint::default() })
    }

    /// Listens on a Unix socket, whose file gets the permissions `mode`, such as `0o660`.
    ///
    /// The mode, and those of the directories, decide who may connect: every peer is a trusted proxy, whose
    /// `Forwarded` and `X-Forwarded-*` are believed. It has no address; see [`Peer::unix`](crate::Peer::unix).
    ///
    /// A socket that a process has left behind is replaced. The file is removed when the server stops, unless
    /// another process has replaced it.
    ///
    /// # Errors
    ///
    /// When a process listens on it ([`AddrInUse`](io::ErrorKind::AddrInUse)), a file there is not a socket, the
    /// path has more than 107 bytes, its directory does not exist or is not writable, or there is no current Tokio
    /// runtime.
    #[cfg(unix)]
    pub fn unix(path: impl AsRef<std::path::Path>, mode: u32) -> io::Result<Self> {
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(io::Error::other("there is no Tokio runtime; listen within one"));
        }
        let (listener, file) = unix_socket::open(path.as_ref(), mode)?;
        let addr = LocalAddr::Unix(file.path().to_owned());
        let socket = ListeningSocket::Unix { listener, file: Arc::new(file) };
        Ok(Self { socket, addr, endpoint: Endpoint::default() })
    }

    /// Takes a Unix socket that listens already, for example one that another process has handed over. Its file is
    /// removed when the server stops, as with [`unix`](Self::unix).
    ///
    /// # Errors
    ///
    /// When the socket has no file.
    #[cfg(unix)]
    pub fn from_unix(listener: tokio::net::UnixListener) -> io::Result<Self> {
        let addr = listener.local_addr()?;
        let path = addr.as_pathname().ok_or_else(|| io::Error::other("the socket has no path"))?;
        let file = Arc::new(SocketFile::of(path)?);
        let addr = LocalAddr::Unix(path.to_owned());
        let socket = ListeningSocket::Unix { listener, file };
        Ok(Self { socket, addr, endpoint: Endpoint::default() })
    }

    /// Another listener on the same socket, without options. Both accept connections; the socket is closed with the
    /// last of them.
    ///
    /// # Errors
    ///
    /// When this process has no file descriptors left.
    #[cfg(unix)]
    pub fn try_clone(&self) -> io::Result<Self> {
        let fd = self.as_fd().try_clone_to_owned()?;
        let socket = match &self.socket {
            ListeningSocket::Tcp(_) => ListeningSocket::Tcp(TcpListener::from_std(fd.into())?),
            ListeningSocket::Unix { file, .. } => ListeningSocket::Unix {
                listener: tokio::net::UnixListener::from_std(fd.into())?,
                file: file.clone(),
            },
        };
        Ok(Self { socket, addr: self.addr.clone(), endpoint: Endpoint::default() })
    }

    /// The file of a Unix socket is not removed when the server stops, because another process listens on it now.
    #[cfg(unix)]
    pub fn keep_file(&self) {
        if let ListeningSocket::Unix { file, .. } = &self.socket {
            file.keep();
        }
    }

    /// Which peers send the PROXY protocol; default none.
    #[must_use]
    pub fn proxy_protocol(mut self, proxy_protocol: ProxyProtocol) -> Self {
        self.endpoint.proxy_protocol = proxy_protocol;
        self
    }

    /// Connections use TLS; default: they are plain.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn tls(mut self, tls: ServerTls) -> Self {
        self.endpoint.tls = Some(tls);
        self
    }

    /// Whether requests get `X-Forwarded-Client-Cert: Subject="…"`, with the subject of the client's certificate
    /// (RFC 4514) in Envoy's format; default `false`. What a client says in this field is removed.
    #[cfg(feature = "tls")]
    #[cfg_attr(docsrs, doc(cfg(feature = "tls")))]
    #[must_use]
    pub fn client_cert_header(mut self, enabled: bool) -> Self {
        self.endpoint.client_cert_header = enabled;
        self
    }

    /// The address, with the port that was taken.
    pub fn local_addr(&self) -> &LocalAddr {
        &self.addr
    }

    /// Accepts from the socket in the current runtime.
    pub(super) fn into_acceptor(self, limits: &Limits) -> io::Result<Acceptor> {
        Acceptor::new(self.socket, self.endpoint, limits)
    }
}

#[cfg(unix)]
impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.socket {
            ListeningSocket::Tcp(listener) => listener.as_fd(),
            ListeningSocket::Unix { listener, .. } => listener.as_fd(),
        }
    }
}
