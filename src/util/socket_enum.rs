//! An enum of the sockets that a connection may run over, `Tcp`, `Unix` and `Tls`: a read or a write costs a branch and
//! no virtual call.

/// The result of `$call` for the socket that `$stream` is.
macro_rules! with_socket {
    ($stream:expr, $socket:ident => $call:expr) => {
        match $stream {
            Self::Tcp($socket) => $call,
            #[cfg(unix)]
            Self::Unix($socket) => $call,
            #[cfg(feature = "tls")]
            Self::Tls($socket) => $call,
        }
    };
}

/// Writes to the socket that a `$stream` is.
macro_rules! write_to_socket {
    ($stream:ident) => {
        impl ::tokio::io::AsyncWrite for $stream {
            fn poll_write(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                buf: &[u8],
            ) -> $crate::util::PollIo<usize> {
                $crate::util::with_socket!(self.get_mut(), socket => {
                    ::std::pin::Pin::new(socket).poll_write(cx, buf)
                })
            }

            fn poll_write_vectored(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
                bufs: &[::std::io::IoSlice<'_>],
            ) -> $crate::util::PollIo<usize> {
                $crate::util::with_socket!(self.get_mut(), socket => {
                    ::std::pin::Pin::new(socket).poll_write_vectored(cx, bufs)
                })
            }

            fn is_write_vectored(&self) -> bool {
                // All of them are, and hyper asks once.
                true
            }

            fn poll_flush(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> $crate::util::PollIo<()> {
                $crate::util::with_socket!(self.get_mut(), socket => {
                    ::std::pin::Pin::new(socket).poll_flush(cx)
                })
            }

            fn poll_shutdown(
                self: ::std::pin::Pin<&mut Self>,
                cx: &mut ::std::task::Context<'_>,
            ) -> $crate::util::PollIo<()> {
                $crate::util::with_socket!(self.get_mut(), socket => {
                    ::std::pin::Pin::new(socket).poll_shutdown(cx)
                })
            }
        }
    };
}

pub(crate) use with_socket;
pub(crate) use write_to_socket;
