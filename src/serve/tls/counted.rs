//! The socket under TLS, which counts what it has taken.

use std::{
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::util::PollIo;

/// A socket that counts the bytes that were written to it.
#[derive(Debug)]
pub(in super::super) struct Counted<S> {
    socket: S,
    written: u64,
}

impl<S> Counted<S> {
    pub(super) fn new(socket: S) -> Self {
        Self { socket, written: 0 }
    }

    pub(in super::super) fn get_ref(&self) -> &S {
        &self.socket
    }

    pub(in super::super) fn get_mut(&mut self) -> &mut S {
        &mut self.socket
    }

    pub(in super::super) fn written(&self) -> u64 {
        self.written
    }

    fn count(&mut self, result: PollIo<usize>) -> PollIo<usize> {
        if let Poll::Ready(Ok(bytes)) = result {
            self.written = self.written.wrapping_add(bytes as u64);
        }
        result
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> PollIo<()> {
        Pin::new(&mut self.get_mut().socket).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> PollIo<usize> {
        let result = Pin::new(&mut self.socket).poll_write(cx, buf);
        self.count(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> PollIo<usize> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(cx, bufs);
        self.count(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollIo<()> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollIo<()> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
