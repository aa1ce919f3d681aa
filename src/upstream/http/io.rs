//! The socket to a backend, which records what was read and written.

use std::{
    io, mem,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf, Take},
    sync::oneshot,
};

use super::{
    interim::{Interim, InterimReader},
    stream::Stream,
};
use crate::util::{PollIo, ReadSize, lock, poll_write_pieces};

/// How many interim responses may wait; further ones are dropped.
const MAX_INTERIM: usize = 16;

/// What was read from and written to a socket; shared by the socket, which hyper owns, and its connection.
#[derive(Debug, Default)]
pub(super) struct ReadState {
    bytes: AtomicBool,
    end: AtomicBool,
    /// Whether hyper has bytes left to write: it flushes the socket when it has none.
    unwritten: AtomicBool,
    /// How often hyper had no bytes left.
    flushes: AtomicU64,
    /// What waits for that.
    waits: AtomicBool,
    waiting: Mutex<Option<Waker>>,
    /// Whether there are interim responses.
    has_interim: AtomicBool,
    interim: Mutex<Vec<Interim>>,
}

impl ReadState {
    /// Begins a new exchange.
    pub(super) fn reset(&self) {
        self.bytes.store(false, Ordering::Relaxed);
    }

    /// Whether a byte was read since the last reset.
    pub(super) fn bytes(&self) -> bool {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The interim responses that have arrived.
    #[inline]
    pub(super) fn take_interim(&self) -> Vec<Interim> {
        if !self.has_interim.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.has_interim.store(false, Ordering::Relaxed);
        mem::take(&mut *lock(&self.interim))
    }

    fn add_interim(&self, interim: Interim) {
        let mut waiting = lock(&self.interim);
        // A backend may send any number of them before the exchange takes any.
        if waiting.len() >= MAX_INTERIM {
            return;
        }
        waiting.push(interim);
        drop(waiting);
        self.has_interim.store(true, Ordering::Relaxed);
    }

    /// Whether all bytes that there are to send are sent.
    pub(super) fn all_written(&self) -> bool {
        !self.unwritten.load(Ordering::Relaxed)
    }

    /// How often the socket has taken everything that there was to send.
    pub(super) fn flushes(&self) -> u64 {
        self.flushes.load(Ordering::SeqCst)
    }

    /// Waits until everything is sent that hyper had when there had been `since` flushes.
    pub(super) fn poll_flushed(&self, since: u64, cx: &Context<'_>) -> Poll<()> {
        let is_flushed = || self.flushes() > since && self.all_written();
        if is_flushed() {
            return Poll::Ready(());
        }
        *lock(&self.waiting) = Some(cx.waker().clone());
        self.waits.store(true, Ordering::SeqCst);
        // It may have been flushed just now.
        if is_flushed() { Poll::Ready(()) } else { Poll::Pending }
    }

    fn flushed(&self) {
        // hyper flushes each time that it is polled, most often with nothing to send.
        if self.all_written() && !self.waits.load(Ordering::SeqCst) {
            return;
        }
        self.unwritten.store(false, Ordering::Relaxed);
        // Only the socket writes, so that the addition need not be atomic.
        self.flushes.store(self.flushes() + 1, Ordering::SeqCst);
        if self.waits.load(Ordering::SeqCst) && self.waits.swap(false, Ordering::SeqCst) {
            let waker = lock(&self.waiting).take();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Whether the connection has ended.
    pub(super) fn end(&self) -> bool {
        self.end.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
pub(super) struct Socket {
    /// Its limit is that of one read.
    stream: Take<Stream>,
    read_size: ReadSize,
    read_state: Arc<ReadState>,
    /// Whether writing has failed.
    write_closed: bool,
    interim: InterimReader,
    /// Told when what was read first is processed.
    first_read: Option<oneshot::Sender<()>>,
}

impl Socket {
    pub(super) fn new(stream: Stream, mut read_size: ReadSize) -> (Self, Arc<ReadState>) {
        let read_state = Arc::new(ReadState::default());
        (
            Self {
                stream: stream.take(read_size.next()),
                read_size,
                read_state: read_state.clone(),
                write_closed: false,
                interim: InterimReader::default(),
                first_read: None,
            },
            read_state,
        )
    }

    /// Done when what is read first was processed: hyper reads again only then. An error when the socket is
    /// closed before.
    pub(super) fn when_first_read_is_processed(&mut self) -> oneshot::Receiver<()> {
        let (sender, receiver) = oneshot::channel();
        self.first_read = Some(sender);
        receiver
    }
}

impl Socket {
    /// The result of a write, as hyper gets it. A backend may respond before it has read the whole request,
    /// and close. hyper would fail at the first write that fails, so the write stays pending instead: hyper
    /// reads what has arrived, and the end of that wakes it.
    fn written(&mut self, result: PollIo<usize>) -> PollIo<usize> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        match result {
            Poll::Ready(Err(error)) if matches!(error.kind(), BrokenPipe | ConnectionReset) => {
                self.write_closed = true;
                Poll::Pending
            }
            result => result,
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> PollIo<()> {
        let this = self.get_mut();
        let before = buf.filled().len();
        if let Some(processed) = this.first_read.take_if(|_| this.read_state.bytes()) {
            let _ = processed.send(());
        }
        this.stream.set_limit(this.read_size.next());
        let result = ready!(Pin::new(&mut this.stream).poll_read(cx, buf));
        if result.is_ok() && buf.filled().len() > before {
            this.read_size.read(buf.filled().len() - before);
            let (read_state, first) = (&this.read_state, !this.read_state.bytes());
            this.interim.read(&buf.filled()[before..], first, &mut |it| read_state.add_interim(it));
            this.read_state.bytes.store(true, Ordering::Relaxed);
        } else {
            this.read_state.end.store(true, Ordering::Relaxed);
        }
        Poll::Ready(result)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> PollIo<usize> {
        self.read_size.reset();
        self.read_state.unwritten.store(true, Ordering::Relaxed);
        if self.write_closed {
            return Poll::Pending;
        }
        let result = Pin::new(self.stream.get_mut()).poll_write(cx, buf);
        self.written(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> PollIo<usize> {
        self.read_size.reset();
        self.read_state.unwritten.store(true, Ordering::Relaxed);
        if self.write_closed {
            return Poll::Pending;
        }
        let result = poll_write_pieces(self.stream.get_mut(), cx, bufs);
        self.written(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.get_ref().is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollIo<()> {
        // TLS may still hold bytes.
        let result = ready!(Pin::new(self.stream.get_mut()).poll_flush(cx));
        self.read_state.flushed();
        Poll::Ready(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> PollIo<()> {
        Pin::new(self.stream.get_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use http::{HeaderMap, StatusCode};
    use tokio::{
        io::AsyncWriteExt,
        net::{TcpListener, TcpStream},
    };

    use super::*;
    use crate::util::Growth;

    /// The socket of a connection, and the end of the backend.
    async fn connected() -> (Socket, Arc<ReadState>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (backend, _) = listener.accept().await.unwrap();
        let read_size = ReadSize::new(64 << 10, Growth::RESPONSE);
        let (socket, state) = Socket::new(Stream::Tcp(stream), read_size);
        (socket, state, backend)
    }

    #[test]
    fn a_flush_of_nothing_counts_only_for_those_that_wait() {
        let (state, cx) = (ReadState::default(), Context::from_waker(Waker::noop()));
        state.flushed();
        assert_eq!(state.flushes(), 0, "nothing was sent");
        assert!(state.poll_flushed(0, &cx).is_pending());
        state.flushed();
        assert!(state.poll_flushed(0, &cx).is_ready(), "hyper had nothing to send");
        state.flushed();
        assert_eq!(state.flushes(), 1, "nothing waits any more");
    }

    #[test]
    fn interim_responses_that_wait_are_bounded() {
        let state = ReadState::default();
        for _ in 0..100 {
            state.add_interim((StatusCode::EARLY_HINTS, HeaderMap::new()));
        }
        assert_eq!(state.take_interim().len(), MAX_INTERIM);
        state.add_interim((StatusCode::EARLY_HINTS, HeaderMap::new()));
        assert_eq!(state.take_interim().len(), 1, "there is room again");
    }

    #[tokio::test]
    async fn interim_responses_are_read_at_the_begin_of_an_exchange_only() {
        const HINTS: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";
        let (mut socket, state, mut backend) = connected().await;
        let mut buffer = [0; HINTS.len()];
        for expected in [1, 0] {
            backend.write_all(HINTS).await.unwrap();
            socket.read_exact(&mut buffer).await.unwrap();
            assert_eq!(state.take_interim().len(), expected);
            // The final response.
            backend.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
            socket.read_exact(&mut buffer[..19]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn the_end_is_told_from_bytes() {
        let (mut socket, state, mut backend) = connected().await;
        backend.write_all(b"x").await.unwrap();
        assert_eq!(socket.read(&mut [0; 2]).await.unwrap(), 1);
        assert_eq!((state.bytes(), state.end()), (true, false));
        state.reset();
        drop(backend);
        assert_eq!(socket.read(&mut [0; 2]).await.unwrap(), 0);
        assert_eq!((state.bytes(), state.end()), (false, true));
    }

    #[tokio::test]
    async fn what_is_in_the_buffer_already_was_not_read() {
        let (mut socket, _, mut backend) = connected().await;
        let small = socket.read_size.next();
        backend.write_all(b"x").await.unwrap();
        let mut bytes = vec![0; 128 << 10];
        let mut buffer = ReadBuf::new(&mut bytes);
        buffer.set_filled(64 << 10);
        poll_fn(|cx| Pin::new(&mut socket).poll_read(cx, &mut buffer)).await.unwrap();
        assert_eq!(socket.read_size.next(), small, "only one byte was taken");
    }

    #[tokio::test]
    async fn writes_to_a_backend_that_has_closed_stay_pending_and_others_fail() {
        let (mut socket, _, _backend) = connected().await;
        let failed = |kind: io::ErrorKind| -> PollIo<usize> { Poll::Ready(Err(kind.into())) };
        assert!(socket.written(failed(io::ErrorKind::TimedOut)).is_ready());
        assert!(!socket.write_closed);
        assert!(socket.written(failed(io::ErrorKind::BrokenPipe)).is_pending());
        assert!(socket.write_closed);
        assert!(socket.written(failed(io::ErrorKind::ConnectionReset)).is_pending());
        assert!(socket.is_write_vectored(), "pieces are not copied together");
    }
}
