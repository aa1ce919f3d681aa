//! Failures of a request's own body are no failures of the backend.

use std::{convert::Infallible, net::SocketAddr, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::{Instant, sleep, timeout},
};
use tower_sticky::{
    Backends, ClientError, Health, Reason, State, StickyLayer, Verdict, affinity::Cookie,
    proxy::Upstream,
};

use crate::support::*;

/// Longer than anything takes; a test that waits for it has failed.
const FOREVER: Duration = Duration::from_secs(60);
const HEAD: &str = "POST / HTTP/1.1\r\nHost: shop\r\n";

/// A server with the layer before one backend, of which one failure of any kind would be seen.
struct Front {
    addr: SocketAddr,
    backends: Backends<Upstream>,
    /// One message for each connection to the backend that has ended.
    ended: mpsc::UnboundedReceiver<()>,
    accepted: Backend,
}

/// The backend reads everything, and answers never.
async fn start(http2: bool, change: impl Fn(Upstream) -> Upstream) -> Front {
    let (tell, ended) = mpsc::unbounded_channel();
    let backend = raw(move |_, mut socket| {
        let tell = tell.clone();
        async move {
            if http2 {
                let never = service_fn(|request: Request<Incoming>| async move {
                    let _ = request.into_body().collect().await;
                    std::future::pending::<Result<http::Response<Empty<Bytes>>, Infallible>>().await
                });
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(socket), never).await;
            } else {
                let _ = socket.read_to_end(&mut Vec::new()).await;
            }
            let _ = tell.send(());
            Ok(())
        }
    })
    .await;
    let upstream = change(backend.upstream().http2(http2));
    let backends = Backends::from_iter([("a", upstream)]);
    let service = StickyLayer::new(backends.clone(), Cookie::plain("sid"))
        .health(Health::new().consecutive_failures(1))
        .into_service();
    let addr = front(service).await;
    Front { addr, backends, ended, accepted: backend }
}

impl Front {
    /// Says `bytes` on a new connection.
    async fn say(&self, bytes: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.addr).await.unwrap();
        client.write_all(bytes.as_bytes()).await.unwrap();
        client
    }

    /// Sends a request with `body` over HTTP/2; what becomes of it.
    async fn send(
        &self,
        request: Request<Channel>,
    ) -> tokio::task::JoinHandle<hyper::Result<http::Response<Incoming>>> {
        let io = TokioIo::new(TcpStream::connect(self.addr).await.unwrap());
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        let (mut sender, connection) = handshake.await.unwrap();
        tokio::spawn(connection);
        tokio::spawn(async move { sender.send_request(request).await })
    }

    async fn is_reached(&self) {
        let reached = async {
            while self.accepted.accepted() == 0 || self.backends.get("a").unwrap().in_flight == 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(FOREVER, reached).await.expect("the request reaches the backend");
    }

    /// The request ends, with everything that it has held, and leaves no trace on the backend.
    async fn is_no_failure_of_the_backend(&mut self, rejected: Option<u64>, closes: bool) {
        if closes {
            timeout(FOREVER, self.ended.recv()).await.expect("its connection is closed");
        }
        let over = async {
            while self.backends.get("a").unwrap().in_flight > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(FOREVER, over).await.expect("its turn is given back");
        assert_eq!(self.backends.get("a").unwrap().state, State::Ready);
        if let Some(rejected) = rejected {
            let stats = self.backends.snapshot().stats;
            assert_eq!(stats.outcome(Verdict::Rejected), rejected);
            assert_eq!(stats.reason(Reason::ClientError), rejected);
        }
    }
}

async fn read_to_end(client: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let closed = timeout(FOREVER, client.read_to_end(&mut bytes)).await;
    let _ = closed.expect("the server closes the connection");
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_malformed_body_is_400() {
    for http2 in [false, true] {
        let mut front = start(http2, |upstream| upstream).await;
        // RFC 9112, section 7.1: a chunk size is hexadecimal.
        let bytes = format!("{HEAD}Transfer-Encoding: chunked\r\n\r\nzz\r\n");
        let answer = read_to_end(&mut front.say(&bytes).await).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
        front.is_no_failure_of_the_backend(Some(1), !http2).await;
    }
}

#[tokio::test]
async fn a_body_that_breaks_off_is_a_client_error() {
    for http2 in [false, true] {
        for reset in [false, true] {
            let mut front = start(http2, |upstream| upstream).await;
            let mut client = front.say(&format!("{HEAD}Content-Length: 100\r\n\r\nabc")).await;
            front.is_reached().await;
            if reset {
                client.set_zero_linger().unwrap();
                drop(client);
                front.is_no_failure_of_the_backend(None, !http2).await;
            } else {
                client.shutdown().await.unwrap();
                let answer = read_to_end(&mut client).await;
                assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400 "), "{answer:?}");
                front.is_no_failure_of_the_backend(Some(1), !http2).await;
            }
        }
    }
}

#[tokio::test]
async fn a_stream_of_another_length_than_announced_is_reset() {
    for http2 in [false, true] {
        let mut front = start(http2, |upstream| upstream).await;
        let request = Request::post("http://shop/").header("content-length", "10");
        let sent = front.send(request.body(stream(&["12345"])).unwrap()).await;
        // RFC 9113, section 8.1.1: malformed, a stream error. The answer may be faster.
        match timeout(FOREVER, sent).await.expect("it ends").unwrap() {
            Ok(response) => assert_eq!(response.status(), StatusCode::BAD_REQUEST),
            Err(error) => assert!(error.to_string().contains("http2"), "{error}"),
        }
        front.is_no_failure_of_the_backend(None, false).await;
    }
}

#[tokio::test]
async fn a_stream_that_its_client_resets_is_no_failure() {
    for http2 in [false, true] {
        let mut front = start(http2, |upstream| upstream).await;
        let (frames, body) = channel();
        frames.send(Frame::data(Bytes::from_static(b"abc"))).unwrap();
        let sent = front.send(Request::post("http://shop/").body(body).unwrap()).await;
        front.is_reached().await;
        sent.abort();
        front.is_no_failure_of_the_backend(None, !http2).await;
        drop(frames);
    }
}

/// A body of `length` announced bytes.
struct Announced(Channel, u64);

impl http_body::Body for Announced {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<std::io::Result<Frame<Bytes>>>> {
        std::pin::Pin::new(&mut self.0).poll_frame(cx)
    }

    fn size_hint(&self) -> http_body::SizeHint {
        http_body::SizeHint::with_exact(self.1)
    }
}

#[tokio::test]
async fn a_body_is_held_to_its_announced_length() {
    for http2 in [false, true] {
        for (length, what) in [(6, "shorter"), (4, "longer")] {
            let front = start(http2, |upstream| upstream).await;
            let upstream = front.accepted.upstream().http2(http2);
            let body = Announced(stream(&["12345"]), length);
            let request = Request::post("/").header("host", "a").body(body).unwrap();
            let sent = timeout(FOREVER, send(&upstream, request)).await.expect("it ends");
            let error = sent.unwrap_err().downcast::<ClientError>().unwrap();
            assert!(error.to_string().contains(what) && !error.is_stall(), "{error}");
        }
    }
}

#[tokio::test]
async fn a_client_that_stalls_is_408() {
    const LIMIT: Duration = Duration::from_millis(200);
    for http2 in [false, true] {
        // However soon the backend would have to answer: it has not got all of the request.
        for response_timeout in [LIMIT / 8, FOREVER] {
            let change = |upstream: Upstream| {
                upstream.body_timeout(LIMIT).response_timeout(response_timeout)
            };
            let mut front = start(http2, change).await;
            let begun = Instant::now();
            let mut client = front.say(&format!("{HEAD}Content-Length: 100\r\n\r\nabc")).await;
            let answer = read_to_end(&mut client).await;
            assert!(answer.starts_with("HTTP/1.1 408 "), "{answer:?}");
            assert!(begun.elapsed() >= LIMIT, "it had its time");
            front.is_no_failure_of_the_backend(Some(1), !http2).await;
        }
    }
}

#[tokio::test]
async fn the_response_timeout_begins_at_the_end_of_the_request() {
    const LIMIT: Duration = Duration::from_millis(200);
    for http2 in [false, true] {
        let front = start(http2, |upstream| upstream).await;
        let upstream = front.accepted.upstream().http2(http2).response_timeout(LIMIT);
        let (frames, body) = channel();
        let request = Request::post("/").header("host", "a").body(body).unwrap();
        let answer = tokio::spawn(async move { send(&upstream, request).await });
        sleep(LIMIT * 3).await;
        assert!(!answer.is_finished(), "an open request has no such limit");
        frames.send(Frame::data(Bytes::from_static(b"x"))).unwrap();
        sleep(LIMIT * 2).await;
        assert!(!answer.is_finished(), "an open request has no such limit");
        let ended = Instant::now();
        drop(frames);
        let error = timeout(FOREVER, answer).await.expect("it has one now").unwrap().unwrap_err();
        assert!(error.is::<tower_sticky::TimedOut>(), "{error}");
        assert!(ended.elapsed() >= LIMIT, "it had its time");
    }
}

#[tokio::test]
async fn a_grpc_stream_may_be_silent() {
    const LIMIT: Duration = Duration::from_millis(50);
    for http2 in [false, true] {
        let backend = server(http2, |request: Request<Incoming>| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            http::Response::new(http_body_util::Full::new(body))
        })
        .await;
        let upstream = backend.upstream().http2(http2).body_timeout(LIMIT);
        let (frames, body) = channel();
        let request = Request::post("/").header("host", "a");
        let request = request.header("content-type", "application/grpc+proto").body(body).unwrap();
        let answer = tokio::spawn(async move { send(&upstream, request).await });
        sleep(LIMIT * 5).await;
        frames.send(Frame::data(Bytes::from_static(b"late"))).unwrap();
        drop(frames);
        assert_eq!(text(answer.await.unwrap().unwrap()).await, "late");
    }
}

#[tokio::test]
async fn a_backend_that_reads_nothing_is_not_a_stalled_client() {
    const LIMIT: Duration = Duration::from_millis(100);
    let go = std::sync::Arc::new(tokio::sync::Notify::new());
    let notified = go.clone();
    let backend = raw(move |_, mut socket| {
        let go = notified.clone();
        async move {
            read_head(&mut socket).await?;
            go.notified().await;
            let mut left = 16 << 20;
            let mut buffer = vec![0; 1 << 16];
            while left > 0 {
                left -= socket.read(&mut buffer).await?;
            }
            socket.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await
        }
    })
    .await;
    let upstream = backend.upstream().body_timeout(LIMIT);
    let (frames, body) = channel();
    for _ in 0..16 {
        frames.send(Frame::data(Bytes::from(vec![0; 1 << 20]))).unwrap();
    }
    let request = Request::post("/").header("host", "a").body(Announced(body, 16 << 20)).unwrap();
    let answer = tokio::spawn(async move { send(&upstream, request).await });
    sleep(LIMIT * 5).await;
    go.notify_one();
    assert_eq!(answer.await.unwrap().unwrap().status(), StatusCode::NO_CONTENT);
    drop(frames);
}
