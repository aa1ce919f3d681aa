//! `Shortage`: a resource of this machine that a connection could not get.

use std::{error::Error, fmt, io};

use super::unreachable::chain;

/// A resource of this machine or process that is exhausted.
///
/// A connection that fails because of it says nothing about the backend. It is not counted as a failure of
/// the backend, no session moves, and the response has status 503, `Retry-After` and
/// [`Reason::Shortage`](crate::Reason::Shortage). It is recognised by an [`io::Error`] anywhere in the
/// source chain of a backend's error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Shortage {
    /// The file descriptors of this process (`EMFILE`).
    ProcessFiles,
    /// The file descriptors of this machine (`ENFILE`).
    SystemFiles,
    /// Memory, or buffers for sockets (`ENOMEM`, `ENOBUFS`).
    Memory,
    /// Local ports (`EADDRINUSE`; `EADDRNOTAVAIL` where the same address has accepted connections before).
    Ports,
    /// The backlog of a Unix socket, whose listener accepts too slowly (`EAGAIN`).
    Backlog,
}

impl Shortage {
    /// The shortage that `error` is caused by, if any.
    pub fn of(error: &io::Error) -> Option<Self> {
        match error.kind() {
            io::ErrorKind::AddrInUse => return Some(Self::Ports),
            io::ErrorKind::OutOfMemory => return Some(Self::Memory),
            _ => {}
        }
        #[cfg(unix)]
        {
            use rustix::io::Errno;
            match Errno::from_io_error(error)? {
                Errno::MFILE => Some(Self::ProcessFiles),
                Errno::NFILE => Some(Self::SystemFiles),
                Errno::NOBUFS | Errno::NOMEM => Some(Self::Memory),
                _ => None,
            }
        }
        #[cfg(not(unix))]
        None
    }

    /// The shortage in the source chain of `error`, if any.
    pub(crate) fn in_chain(error: &(dyn Error + 'static)) -> Option<Self> {
        chain(error).find_map(|error| {
            #[cfg(feature = "proxy")]
            if let Some(short) = error.downcast_ref::<ShortageError>() {
                return Some(short.shortage);
            }
            Self::of(error.downcast_ref()?)
        })
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProcessFiles => {
                "this process has no file descriptor left; raise its limit (ulimit -n)"
            }
            Self::SystemFiles => "this machine has no file descriptor left; raise fs.file-max",
            Self::Memory => "this machine has no memory left for another socket",
            Self::Ports => {
                "this machine has no local port left for another connection to this address; widen \
                 net.ipv4.ip_local_port_range"
            }
            Self::Backlog => {
                "the backlog of the backend's Unix socket is full; raise net.core.somaxconn and the backlog \
                 of its listener"
            }
        })
    }
}

/// An error caused by a shortage that cannot be recognised by `source` alone.
#[cfg(feature = "proxy")]
#[derive(Debug)]
pub(crate) struct ShortageError {
    pub(crate) shortage: Shortage,
    pub(crate) source: io::Error,
}

#[cfg(feature = "proxy")]
impl fmt::Display for ShortageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.shortage, self.source)
    }
}

#[cfg(feature = "proxy")]
impl Error for ShortageError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{BoxError, NotSent};

    #[cfg(unix)]
    #[test]
    fn errors_of_exhausted_resources_are_shortages() {
        use rustix::io::Errno;
        for (errno, expected) in [
            (Errno::MFILE, Some(Shortage::ProcessFiles)),
            (Errno::NFILE, Some(Shortage::SystemFiles)),
            (Errno::NOBUFS, Some(Shortage::Memory)),
            (Errno::NOMEM, Some(Shortage::Memory)),
            (Errno::ADDRINUSE, Some(Shortage::Ports)),
            // Also the error for a wrong address of a backend.
            (Errno::ADDRNOTAVAIL, None),
            (Errno::CONNREFUSED, None),
            (Errno::TIMEDOUT, None),
        ] {
            let error: BoxError = NotSent::new((), io::Error::from(errno)).into();
            assert_eq!(Shortage::in_chain(error.as_ref()), expected, "{errno:?}");
        }
        #[cfg(feature = "proxy")]
        {
            let source = io::Error::from(Errno::ADDRNOTAVAIL);
            let error = ShortageError { shortage: Shortage::Ports, source };
            assert_eq!(Shortage::in_chain(&error), Some(Shortage::Ports));
        }
    }
}
