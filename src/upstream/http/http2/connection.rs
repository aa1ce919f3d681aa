//! One connection, which many requests share.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, Weak,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::Duration,
};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, timeout_at};

use crate::{
    error::{BoxError, TimedOut},
    upstream::http::{
        buffers::{Buffers, CONNECTION_WINDOW},
        explained::Explained,
        http1::Answer,
        io::{ReadState, Socket},
        request_body::RequestBody,
        stream::Opened,
    },
    util::lock,
};

/// How connections are used.
#[derive(Debug, Clone, Copy)]
pub(in crate::upstream::http) struct Options {
    pub(in crate::upstream::http) buffers: Buffers,
    /// How many streams a connection has at once, if the backend allows so many.
    pub(in crate::upstream::http) max_streams: usize,
    pub(in crate::upstream::http) pings: Option<Pings>,
}

/// Pings, which find out that a backend is gone (RFC 9113, section 6.7).
#[derive(Debug, Clone, Copy)]
pub(in crate::upstream::http) struct Pings {
    pub(in crate::upstream::http) interval: Duration,
    pub(in crate::upstream::http) timeout: Duration,
}

/// A stream's use of a shared connection.
pub(in crate::upstream::http) struct Http2 {
    permit: StreamPermit,
    /// Until the request is sent.
    sender: Option<Sender>,
    /// Whether other requests have used the connection, so that it may have ended unnoticed.
    pub(in crate::upstream::http) reused: bool,
}

impl Http2 {
    /// Sends the request of this stream. `None` if it was sent before.
    pub(in crate::upstream::http) fn send(
        &mut self,
        request: http::Request<RequestBody>,
    ) -> Option<Answer> {
        let mut sender = self.sender.take()?;
        Some(Box::pin(sender.try_send_request(request)))
    }

    /// Whether the connection, and not only one stream of it, has ended.
    pub(in crate::upstream::http) fn has_ended(&self) -> bool {
        self.permit.0.has_ended()
    }

    /// The stream, which ends when this is dropped.
    pub(in crate::upstream::http) fn into_permit(self) -> StreamPermit {
        self.permit
    }

    pub(super) fn is_of(&self, connection: &Arc<Connection>) -> bool {
        Arc::ptr_eq(&self.permit.0, connection)
    }
}

/// One of the streams that a connection may have at once.
pub(in crate::upstream::http) struct StreamPermit(Arc<Connection>);

impl Drop for StreamPermit {
    fn drop(&mut self) {
        let connection = &*self.0;
        // Before the last stream is released, so that the connection does not seem idle for longer.
        if connection.streams.load(Relaxed) == 1 {
            connection.idle_since.store(connection.age(), Relaxed);
        }
        connection.streams.fetch_sub(1, Relaxed);
    }
}

type Sender = http2::SendRequest<RequestBody>;

/// Sends requests to the driver of a connection; `None` once that has ended.
///
/// A request that is sent while another thread drops the driver may be left in hyper's queue, and is returned only
/// when the last sender is dropped (<https://github.com/hyperium/hyper/issues/4122>). So the connection has none from
/// then on, and a stream has one only until its request is sent.
type SenderSlot = Mutex<Option<Sender>>;

/// A connection. hyper closes it when nothing refers to it any more.
pub(super) struct Connection {
    sender: Arc<SenderSlot>,
    read_state: Arc<ReadState>,
    /// Of the backend's address.
    generation: u64,
    /// How many streams are in use. hyper does not tell.
    streams: AtomicUsize,
    /// How many there may be.
    max_streams: Arc<AtomicUsize>,
    began: Instant,
    /// When the last stream ended, in milliseconds since the begin.
    idle_since: AtomicU64,
}

impl Connection {
    /// Begins HTTP/2 on a stream, and waits for the backend's settings: a peer that sends none does not speak it.
    pub(super) async fn open(
        opened: Opened,
        options: Options,
        deadline: Instant,
    ) -> Result<Arc<Self>, BoxError> {
        let Opened { stream, generation, .. } = opened;
        let (mut socket, read_state) = Socket::new(stream, options.buffers.read());
        let processed = socket.when_first_read_is_processed();
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .initial_stream_window_size(options.buffers.window())
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buf_size(options.buffers.send());
        if let Some(Pings { interval, timeout }) = options.pings {
            http2
                .timer(TokioTimer::new())
                .keep_alive_interval(interval)
                .keep_alive_timeout(timeout)
                .keep_alive_while_idle(true);
        }
        let (sender, mut driver) =
            http2.handshake(TokioIo::new(socket)).await.map_err(Explained)?;
        match timeout_at(deadline, processed).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => {
                // The socket is closed. The driver says why.
                return Err(
                    match std::future::poll_fn(|cx| Pin::new(&mut driver).poll(cx)).await {
                        Err(error) => Explained(error).into(),
                        Ok(()) => "the backend closed a new HTTP/2 connection".into(),
                    },
                );
            }
            Err(_) => return Err(TimedOut::CONNECT.into()),
        }
        let (connection, driver) = Self::begin(sender, driver, read_state, generation, options);
        drop(tokio::spawn(driver));
        Ok(connection)
    }

    /// The connection, and what drives it.
    fn begin(
        sender: Sender,
        driver: HyperDriver,
        read_state: Arc<ReadState>,
        generation: u64,
        options: Options,
    ) -> (Arc<Self>, Driver) {
        let sender = Arc::new(Mutex::new(Some(sender)));
        let max_streams = Arc::new(AtomicUsize::new(0));
        let driver = Driver {
            driver,
            sender: Arc::downgrade(&sender),
            max_streams: max_streams.clone(),
            most: options.max_streams,
        };
        driver.publish();
        let connection = Self {
            sender,
            read_state,
            generation,
            streams: AtomicUsize::new(0),
            max_streams,
            began: Instant::now(),
            idle_since: AtomicU64::new(0),
        };
        (Arc::new(connection), driver)
    }

    /// Takes a stream. To be called by one task at a time, when there is room. `None` when the connection has ended.
    pub(super) fn take(self: &Arc<Self>, reused: bool) -> Option<Http2> {
        let sender = lock(&self.sender).clone()?;
        self.streams.fetch_add(1, Relaxed);
        Some(Http2 { permit: StreamPermit(self.clone()), sender: Some(sender), reused })
    }

    pub(super) fn has_room(&self) -> bool {
        self.streams.load(Relaxed) < self.max_streams.load(Relaxed)
    }

    pub(super) fn has_ended(&self) -> bool {
        self.read_state.end() || lock(&self.sender).is_none()
    }

    /// Whether it may be used for new requests.
    pub(super) fn is_current(&self, generation: u64) -> bool {
        self.generation == generation && !self.has_ended()
    }

    /// Whether it has had no stream for so long.
    pub(super) fn is_idle_for(&self, time: Duration) -> bool {
        let since = Duration::from_millis(self.idle_since.load(Relaxed));
        self.streams.load(Relaxed) == 0 && self.began.elapsed().saturating_sub(since) >= time
    }

    fn age(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

type HyperDriver = http2::Connection<TokioIo<Socket>, RequestBody, TokioExecutor>;

/// Drives hyper's side of the connection, and publishes how many streams the backend allows: only this future
/// can read it. The backend may change the number at any time (RFC 9113, section 6.5.2); it is known with the
/// next request then.
struct Driver {
    driver: HyperDriver,
    sender: Weak<SenderSlot>,
    max_streams: Arc<AtomicUsize>,
    most: usize,
}

impl Driver {
    fn publish(&self) {
        let allowed = self.driver.current_max_send_streams();
        self.max_streams.store(allowed.min(self.most), Relaxed);
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = Pin::new(&mut self.driver).poll(cx);
        self.publish();
        polled.map(drop)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(sender) = self.sender.upgrade() {
            let sender = lock(&sender).take();
            drop(sender);
        }
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests {
    use std::{pin::pin, sync::Barrier, task::Waker, thread};

    use http::Request;
    use tokio::{net::UnixStream, task::unconstrained};

    use super::*;
    use crate::upstream::http::stream::Stream;

    /// A connection that nobody answers.
    async fn connection() -> (Arc<Connection>, Driver, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        let (buffers, max_streams) = (Buffers::default(), 100);
        let (socket, read_state) = Socket::new(Stream::Unix(near), buffers.read());
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(socket));
        let (sender, driver) = handshake.await.unwrap();
        let options = Options { buffers, max_streams, pings: None };
        let (connection, driver) = Connection::begin(sender, driver, read_state, 0, options);
        (connection, driver, far)
    }

    #[tokio::test]
    async fn request_that_is_sent_while_its_connection_ends_is_returned() {
        for attempt in 0..10_000 {
            let (connection, driver, _far) = connection().await;
            let (mut stream, both) = (connection.take(true).unwrap(), Barrier::new(2));
            let request = Request::new(RequestBody::empty());
            let answer = thread::scope(|scope| {
                scope.spawn(|| {
                    both.wait();
                    drop(driver);
                });
                both.wait();
                stream.send(request).unwrap()
            });
            let answer = pin!(unconstrained(answer));
            let cx = &mut Context::from_waker(Waker::noop());
            let Poll::Ready(Err(mut error)) = answer.poll(cx) else {
                panic!("attempt {attempt}: the request is lost");
            };
            assert!(error.take_message().is_some());
            assert!(connection.has_ended() && connection.take(true).is_none());
        }
    }
}
