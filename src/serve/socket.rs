//! The client's socket: it tells the `Watch` what happens on it, and reads what is left of a request before
//! it closes.

use std::{
    io::IoSlice,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take};

use super::{client::Client, linger::Linger, shared::Shared, stream::Stream, watch::Watch};
use crate::util::{Growth, PollIo, ReadSize, poll_write_pieces};

/// The socket of a connection, as hyper owns it.
#[derive(Debug)]
pub(super) struct Socket {
    /// Its limit is that of one read.
    stream: Take<Stream>,
    read_size: ReadSize,
    /// What was read before, and is still to be read by hyper.
    unread: Bytes,
    watch: Arc<Watch>,
    is_http1: bool,
    shared: Arc<Shared>,
    /// How much the socket had taken when something encrypted was left.
    encrypted_bytes: u64,
    linger: Option<Box<Linger>>,
    _client: Arc<Client>,
}

impl Socket {
    pub(super) fn new(
        stream: Stream,
        unread: Bytes,
        watch: Arc<Watch>,
        is_http1: bool,
        shared: Arc<Shared>,
        client: Arc<Client>,
    ) -> Self {
        let mut read_size = ReadSize::new(shared.limits.buffer_bytes, Growth::REQUEST);
        let stream = stream.take(read_size.next());
        Self {
            stream,
            read_size,
            unread,
            watch,
            is_http1,
            shared,
            linger: None,
            encrypted_bytes: 0,
            _client: client,
        }
    }

    /// The stream, and what hyper has not read of the bytes that were read before.
    pub(super) fn into_parts(self) -> (Stream, Bytes) {
        (self.stream.into_inner(), self.unread)
    }

    /// Reads become small again when an answer is written. In HTTP/1.1 the body of a request may go on after its answer
    /// has begun, so that `poll_read` does it between two bodies.
    fn answers(&mut self) {
        if !self.is_http1 {
            self.read_size.reset();
        }
    }

    /// Something encrypted is left that the socket does not take, or only a part of.
    fn encrypted_waits(&mut self) {
        let taken = self.stream.get_ref().encrypted_bytes();
        if taken != std::mem::replace(&mut self.encrypted_bytes, taken) {
            self.watch.wrote(false);
        }
        self.watch.wrote(true);
    }

    /// Sends the interim answers that wait. hyper has sent everything before them, and nothing of what comes
    /// after them.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> PollIo<()> {
        while self.watch.has_interim() {
            let polled = {
                let bytes = self.watch.interim();
                Pin::new(self.stream.get_mut()).poll_write(cx, &bytes)
            };
            self.watch.sent_interim(ready!(polled)?);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> PollIo<()> {
        let this = self.get_mut();
        if !this.unread.is_empty() {
            let count = this.unread.len().min(buf.remaining());
            buf.put_slice(&this.unread.split_to(count));
            this.watch.received();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        if this.is_http1 && !this.watch.reads_body() {
            this.read_size.reset();
        }
        this.stream.set_limit(this.read_size.next());
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.read_size.read(buf.filled().len() - before);
            this.watch.received();
        }
        result
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> PollIo<usize> {
        if self.watch.has_interim() {
            ready!(self.poll_interim(cx))?;
        }
        self.answers();
        let result = Pin::new(self.stream.get_mut()).poll_write(cx, buf);
        self.watch.wrote(result.is_pending());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> PollIo<usize> {
        if self.watch.has_interim() {
            ready!(self.poll_interim(cx))?;
        }
        self.answers();
        let result = poll_write_pieces(self.stream.get_mut(), cx, bufs);
        self.watch.wrote(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollIo<()> {
        // hyper has nothing to send, so that this is between two answers.
        if self.watch.has_interim() {
            ready!(self.poll_interim(cx))?;
        }
        let result = Pin::new(self.stream.get_mut()).poll_flush(cx);
        // Only with TLS something may be left, which is encrypted already.
        match result {
            Poll::Pending => self.encrypted_waits(),
            Poll::Ready(_) => self.watch.flushed(),
        }
        result
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollIo<()> {
        let this = &mut *self;
        this.watch.closes();
        if this.linger.is_none() {
            ready!(Pin::new(this.stream.get_mut()).poll_shutdown(cx))?;
            // Of a body that was not wanted, or of a head that hyper has refused.
            let refused_head = this.is_http1 && this.watch.has_partial_head();
            if !this.watch.is_unread() && !refused_head {
                return Poll::Ready(Ok(()));
            }
            this.linger = Some(Box::new(Linger::new(&this.shared.limits)));
        }
        let Some(linger) = &mut this.linger else { return Poll::Ready(Ok(())) };
        // Then this connection gives its permit back.
        let others_wait = this.shared.connection_limit.is_exhausted();
        linger.poll(this.stream.get_mut().socket(), others_wait, cx).map(Ok)
    }
}
