//! The client's socket: it tells the `Watch` what happens on it, and reads what is left of a request before
//! it closes.

use std::{
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::{Shared, connection::Client, read_size::ReadSize, watch::Watch};

/// How long a client may be silent while the rest of its request is dropped.
const LINGER_SILENCE: Duration = Duration::from_secs(1);
/// How often is looked whether other clients wait for a connection.
const LINGER_CHECK: Duration = Duration::from_millis(100);

/// The most that is read at once while it is taken slowly: a quarter of the buffered bytes, but for one. hyper
/// doubles its buffer when a read has filled it, so that it stays at this size.
fn small_read(buffer_bytes: usize) -> u64 {
    let quarter = (buffer_bytes / 4).max(8 << 10);
    (1 << quarter.ilog2()) - 1
}

/// The socket of a connection, as hyper owns it.
#[derive(Debug)]
pub(super) struct Socket {
    /// Its limit is that of one read.
    stream: Take<TcpStream>,
    read_size: ReadSize,
    /// What was read before, and is still to be read by hyper.
    unread: Bytes,
    watch: Arc<Watch>,
    is_http1: bool,
    shared: Arc<Shared>,
    linger: Option<Box<Linger>>,
    _client: Arc<Client>,
}

/// The writing side is shut down, and what still comes is dropped. If the socket were closed now, the
/// client's next bytes would be answered with a reset, which may overtake the answer (RFC 9112, section
/// 9.6).
#[derive(Debug)]
struct Linger {
    end: Instant,
    silent_since: Instant,
    /// `None` beyond the limit.
    bytes_left: Option<u64>,
    sleep: Pin<Box<Sleep>>,
}

impl Socket {
    pub(super) fn new(
        stream: TcpStream,
        unread: Bytes,
        watch: Arc<Watch>,
        is_http1: bool,
        shared: Arc<Shared>,
        client: Arc<Client>,
    ) -> Self {
        let buffer_bytes = shared.limits.buffer_bytes;
        let mut read_size = ReadSize::new(small_read(buffer_bytes), buffer_bytes as u64);
        let stream = stream.take(read_size.next());
        Self { stream, read_size, unread, watch, is_http1, shared, linger: None, _client: client }
    }

    /// The stream, and what hyper has not read of the bytes that were read before.
    pub(super) fn into_parts(self) -> (TcpStream, Bytes) {
        (self.stream.into_inner(), self.unread)
    }

    /// Sends the interim answers that wait. hyper has sent everything before them, and nothing of what comes
    /// after them.
    fn poll_interim(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.watch.has_interim() {
            let polled = {
                let bytes = self.watch.interim();
                Pin::new(self.stream.get_mut()).poll_write(cx, &bytes)
            };
            self.watch.sent_interim(ready!(polled)?);
        }
        Poll::Ready(Ok(()))
    }

    /// Reads and drops until the client has closed, or a limit is reached. Beyond the limit in bytes the
    /// client is not read any more, but still has time to read the response.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Then this connection gives its permit back.
        let others_wait = self.shared.exhausted.load(Relaxed);
        let Some(linger) = &mut self.linger else { return Poll::Ready(()) };
        loop {
            let now = Instant::now();
            while let Some(left) = linger.bytes_left {
                let mut bytes = [0; 8 << 10];
                let mut buffer = ReadBuf::new(&mut bytes);
                match Pin::new(self.stream.get_mut()).poll_read(cx, &mut buffer) {
                    Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                        linger.silent_since = now;
                        linger.bytes_left = left.checked_sub(buffer.filled().len() as u64);
                    }
                    // Closed, or broken.
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            let end = linger.end.min(linger.silent_since + LINGER_SILENCE);
            if now >= end || others_wait {
                return Poll::Ready(());
            }
            linger.sleep.as_mut().reset(end.min(now + LINGER_CHECK));
            ready!(linger.sleep.as_mut().poll(cx));
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if !this.unread.is_empty() {
            let count = this.unread.len().min(buf.remaining());
            buf.put_slice(&this.unread.split_to(count));
            this.watch.received();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
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
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.watch.has_interim() {
            ready!(self.poll_interim(cx))?;
        }
        self.read_size.reset();
        let result = Pin::new(self.stream.get_mut()).poll_write(cx, buf);
        self.watch.wrote(result.is_pending());
        result
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.watch.has_interim() {
            ready!(self.poll_interim(cx))?;
        }
        self.read_size.reset();
        let result = Pin::new(self.stream.get_mut()).poll_write_vectored(cx, bufs);
        self.watch.wrote(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // hyper has nothing to send, so that this is between two answers.
        if self.watch.has_interim() {
            ready!(self.poll_interim(cx))?;
        }
        self.watch.flushed();
        Pin::new(self.stream.get_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        this.watch.closes();
        if this.linger.is_none() {
            ready!(Pin::new(this.stream.get_mut()).poll_shutdown(cx))?;
            // Of a body that was not wanted, or of a head that hyper has refused.
            let refused_head = this.is_http1 && this.watch.has_partial_head();
            if !this.watch.is_unread() && !refused_head {
                return Poll::Ready(Ok(()));
            }
            let now = Instant::now();
            let limits = &this.shared.limits;
            let end = now + limits.linger;
            this.linger = Some(Box::new(Linger {
                end,
                silent_since: now,
                bytes_left: Some(limits.linger_bytes),
                sleep: Box::pin(sleep_until(end)),
            }));
        }
        this.poll_linger(cx).map(Ok)
    }
}
