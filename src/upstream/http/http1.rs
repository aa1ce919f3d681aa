//! An HTTP/1.1 connection to a backend, driven by the request that uses it.
//!
//! It has no task of its own: the request's future, and then the response's body, poll it. That saves two
//! wake-ups per request, dropping either closes the socket, and an idle connection costs only memory.

use std::{
    fmt,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1},
};
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use super::{
    buffers::Buffers,
    io::{ReadState, Socket},
    proxy_protocol::Reuse,
    request_body::RequestBody,
    stream::Stream,
    timer::Timer,
};
use crate::error::BoxError;

/// The future of a response. Boxed, because hyper's future has no name.
pub(super) type Answer = Pin<
    Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + Send>,
>;

pub(super) struct Http1 {
    sender: http1::SendRequest<RequestBody>,
    /// `None` once a task drives it, or it has ended. hyper fails the requests in its queue when the
    /// connection is dropped, so it is dropped as soon as it has ended.
    driver: Option<http1::Connection<TokioIo<Socket>, RequestBody>>,
    pub(super) read_state: Arc<ReadState>,
    pub(super) timer: Timer,
    /// Whether it has served a request before.
    pub(super) reused: bool,
    pub(super) reuse: Reuse,
    /// When it was opened, taken from the pool, or put back there.
    pub(super) since: Instant,
    /// Its shard of the pool, to which it always returns, as its socket is registered with that thread's
    /// runtime.
    pub(super) shard: usize,
    /// Of the backend's address: see [`Address`](crate::proxy::address::Address).
    pub(super) generation: u64,
    buffers: Buffers,
}

impl Http1 {
    pub(super) async fn new(
        stream: Stream,
        shard: usize,
        generation: u64,
        response_timeout: Duration,
        buffers: Buffers,
    ) -> Result<Box<Self>, BoxError> {
        let (socket, read_state) = Socket::new(stream, buffers.read());
        let mut http1 = http1::Builder::new();
        http1.max_header_size(buffers.total()).max_buf_size(buffers.largest_read());
        let (sender, driver) = http1.handshake(TokioIo::new(socket)).await?;
        Ok(Box::new(Self {
            sender,
            driver: Some(driver),
            read_state,
            timer: Timer::new(response_timeout),
            reused: false,
            reuse: Reuse::Any,
            since: Instant::now(),
            shard,
            generation,
            buffers,
        }))
    }

    pub(super) fn send(&mut self, mut request: Request<RequestBody>) -> Answer {
        self.read_state.reset();
        request.body_mut().limit_unsent(&self.read_state, self.buffers.given());
        // Outside of the task's budget: the response is polled without a waker, so it must not rely on a
        // later wake-up.
        Box::pin(tokio::task::unconstrained(self.sender.try_send_request(request)))
    }

    /// Whether the request, and not a task, drives it.
    pub(super) fn is_driven_by_request(&self) -> bool {
        self.driver.is_some()
    }

    /// Drives the connection. Ready when it has ended, and its error has reached the request through its
    /// response or body, or when a task drives it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(driver) = &mut self.driver else {
            return Poll::Ready(());
        };
        if Pin::new(driver).poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.driver = None;
        Poll::Ready(())
    }

    /// Drives the connection without a later wake-up: the only task that it could wake is running.
    pub(super) fn poll_without_waker(&mut self) {
        let _ = self.poll(&mut Context::from_waker(Waker::noop()));
    }

    /// Whether the exchange has ended and the connection is open, as far as is known.
    pub(super) fn is_idle(&self) -> bool {
        self.driver.is_some() && self.sender.is_ready() && self.read_state.all_written()
    }

    /// Whether it is open and idle; notices that the backend has closed it.
    pub(super) fn is_usable(&mut self) -> bool {
        let driver = poll_fn(|cx| Poll::Ready(self.poll(cx).is_pending()));
        let open =
            pin!(tokio::task::unconstrained(driver)).poll(&mut Context::from_waker(Waker::noop()));
        open == Poll::Ready(true) && self.is_idle()
    }

    /// Spawns a task that drives the connection, for an exchange that may become an upgrade.
    pub(super) fn detach(&mut self) {
        if let Some(driver) = self.driver.take() {
            drop(tokio::spawn(driver.with_upgrades()));
        }
    }
}

impl fmt::Debug for Http1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Http1").field("reused", &self.reused).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    async fn connection() -> (Box<Http1>, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (backend, _) = listener.accept().await.unwrap();
        let (stream, timeout) = (Stream::Tcp(stream), Duration::from_secs(10));
        (Http1::new(stream, 0, 0, timeout, Buffers::default()).await.unwrap(), backend)
    }

    #[tokio::test]
    async fn a_connection_that_the_backend_has_closed_is_not_usable() {
        let (mut connection, backend) = connection().await;
        assert!(connection.is_usable());
        drop(backend);
        poll_fn(|cx| connection.poll(cx)).await;
        assert!(!connection.is_usable());
        assert!(!connection.is_idle());
    }

    #[tokio::test]
    async fn a_connection_is_not_usable_during_an_exchange() {
        let (mut connection, mut backend) = connection().await;
        assert!(connection.is_usable());
        let request = Request::get("/").header("host", "a").body(RequestBody::empty()).unwrap();
        let mut answer = connection.send(request);
        assert!(!connection.is_usable());
        assert!(backend.read(&mut [0; 64]).await.unwrap() > 0, "the request is sent");
        assert!(!connection.is_usable());
        backend.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        let response = poll_fn(|cx| {
            let _ = connection.poll(cx);
            answer.as_mut().poll(cx)
        });
        let Ok(response) = response.await else { panic!("no answer") };
        assert_eq!(response.status(), 204);
        assert!(connection.is_usable());
    }

    #[tokio::test]
    async fn a_task_drives_a_detached_connection() {
        let (mut connection, _backend) = connection().await;
        assert!(connection.is_driven_by_request());
        connection.detach();
        assert!(!connection.is_driven_by_request());
        assert!(!connection.is_usable(), "it never returns to the pool");
    }
}
