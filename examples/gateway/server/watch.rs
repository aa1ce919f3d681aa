//! What a connection is doing, seen from outside of hyper: whether a request is under way, and
//! whether the head of one has begun. The limits of its silence follow from that.
//!
//! hyper has a timeout of its own for HTTP/1.1 heads, but it also runs while a connection is idle
//! between two requests, where five seconds are too short, and it costs an allocation and a timer per
//! request. HTTP/2 has none.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicBool, AtomicU64,
            Ordering::{Relaxed, SeqCst},
        },
    },
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
};

/// The state of one connection, shared by its socket, its service and its driver.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    /// Cloned by everything that keeps the connection busy: requests, their bodies, their answers.
    busy: Arc<()>,
    /// Requests so far.
    requests: AtomicU64,
    /// Whether bytes have come that do not make a whole request head yet.
    partial: AtomicBool,
    written: Written,
}

/// What hyper has been given to send, and what of it the socket has taken.
#[derive(Debug, Default)]
struct Written {
    /// Whether hyper has bytes left to write: it flushes the socket when it has none.
    unwritten: AtomicBool,
    /// How often it had none left.
    flushes: AtomicU64,
    waits: AtomicBool,
    waiting: Mutex<Vec<Waker>>,
}

/// As long as one of these is there, its connection is busy.
pub(crate) type Busy = Arc<()>;

impl Watch {
    /// A request's head is complete.
    pub(crate) fn began(&self) -> Busy {
        // Only the connection's own task counts, so that an addition need not be atomic.
        self.requests.store(self.requests() + 1, Relaxed);
        self.partial.store(false, Relaxed);
        self.busy.clone()
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Relaxed)
    }

    pub(crate) fn is_busy(&self) -> bool {
        Arc::strong_count(&self.busy) > 1
    }

    pub(crate) fn has_partial_head(&self) -> bool {
        self.partial.load(Relaxed) && !self.is_busy()
    }

    /// A number that grows whenever everything that there was to send has been taken by the socket.
    pub(crate) fn flushes(&self) -> u64 {
        self.written.flushes.load(SeqCst)
    }

    /// Waits until everything is sent that hyper was given when there had been so many flushes.
    pub(crate) fn poll_sent(&self, since: u64, cx: &Context<'_>) -> Poll<()> {
        let written = &self.written;
        let is_sent = || self.flushes() > since && !written.unwritten.load(SeqCst);
        if is_sent() {
            return Poll::Ready(());
        }
        written.lock().push(cx.waker().clone());
        written.waits.store(true, SeqCst);
        // It may have been flushed just now.
        if is_sent() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn writes(&self) {
        self.written.unwritten.store(true, SeqCst);
    }

    fn flushed(&self) {
        let written = &self.written;
        written.unwritten.store(false, SeqCst);
        written.flushes.store(self.flushes() + 1, SeqCst);
        if written.waits.swap(false, SeqCst) {
            written.lock().drain(..).for_each(Waker::wake);
        }
    }

    fn heard(&self) {
        // What comes during a request is most likely its body.
        if !self.is_busy() {
            self.partial.store(true, Relaxed);
        }
    }
}

impl Written {
    fn lock(&self) -> MutexGuard<'_, Vec<Waker>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The client's socket. It holds the connection's place under the limit, so that an upgraded
/// connection, which leaves hyper, still counts.
#[derive(Debug)]
pub(crate) struct Socket {
    stream: TcpStream,
    /// What was read to tell the protocol, and is still to be read by hyper.
    sniffed: Sniffed,
    watch: Arc<Watch>,
    _place: OwnedSemaphorePermit,
}

/// The first bytes of a connection, as many as an HTTP/2 preface has.
#[derive(Debug, Default)]
pub(crate) struct Sniffed {
    pub(crate) bytes: [u8; 24],
    pub(crate) len: usize,
    read: usize,
}

impl Socket {
    pub(crate) fn new(
        stream: TcpStream,
        sniffed: Sniffed,
        watch: Arc<Watch>,
        place: OwnedSemaphorePermit,
    ) -> Self {
        Self { stream, sniffed, watch, _place: place }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let sniffed = &mut this.sniffed;
        if sniffed.read < sniffed.len {
            let rest = &sniffed.bytes[sniffed.read..sniffed.len];
            let count = rest.len().min(buf.remaining());
            buf.put_slice(&rest[..count]);
            sniffed.read += count;
            this.watch.heard();
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let result = Pin::new(&mut this.stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            this.watch.heard();
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
        self.watch.writes();
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.watch.writes();
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.watch.flushed();
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
