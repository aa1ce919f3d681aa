//! Failures: the request is returned, repeated once, or an error.

use std::{error::Error, time::Duration};

use bytes::Bytes;
use http::{Method, Request};
use http_body::Frame;
use http_body_util::{BodyExt, Empty, Full};
use tokio::{
    io::AsyncWriteExt,
    net::TcpListener,
    sync::{Notify, mpsc},
};
use tower_sticky::{BoxError, Disconnected, NotSent, TimedOut, Unanswered, proxy::Upstream};

use crate::support::*;

const OK: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

fn timed_out(error: &(dyn Error + 'static)) -> bool {
    error.is::<TimedOut>() || error.source().is_some_and(timed_out)
}

fn is_request_error<B: 'static>(error: &BoxError) -> bool {
    error.is::<NotSent<Request<B>>>() || error.is::<Unanswered<Request<B>>>()
}

/// The URL of a port without a listener.
async fn unused_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[tokio::test]
async fn a_refused_request_is_returned_unchanged() {
    for http2 in [false, true] {
        let upstream = Upstream::new(&unused_port().await).unwrap().http2(http2);
        let request = Request::post("http://shop/cart?x=1")
            .version(http::Version::HTTP_2)
            .header("connection", "x-one")
            .header("x-one", "1")
            .header("forwarded", "for=me")
            .extension(7_u32)
            .body(stream(&["one ", "two"]))
            .unwrap();
        let error = send(&upstream, request).await.unwrap_err();
        let not_sent = error.downcast::<NotSent<Request<Channel>>>().unwrap();
        let (request, source) = not_sent.into_parts();
        assert!(!source.to_string().is_empty());
        let (parts, body) = request.unwrap().into_parts();
        assert_eq!(parts.method, Method::POST);
        assert_eq!(parts.uri, "http://shop/cart?x=1");
        assert_eq!(parts.version, http::Version::HTTP_2);
        assert_eq!(parts.headers.len(), 3);
        assert_eq!(parts.headers["x-one"], "1");
        assert_eq!(parts.extensions.get(), Some(&7_u32));
        assert!(!body.polled, "a body is not asked for a frame before there is a connection");
    }
}

#[tokio::test]
async fn a_connect_timeout_is_not_sent() {
    let (listener, _queued) = full_listener().await;
    let address = listener.local_addr().unwrap();
    let limit = Duration::from_millis(50);
    let upstream = Upstream::new(&format!("http://{address}")).unwrap().connect_timeout(limit);
    let error = send(&upstream, get("/")).await.unwrap_err();
    let not_sent = error.downcast::<NotSent<Request<Empty<Bytes>>>>().unwrap();
    assert!(timed_out(&*not_sent));
}

#[tokio::test]
async fn a_closed_idle_connection_fails_no_request() {
    let closed = std::sync::Arc::new(Notify::new());
    let notify = closed.clone();
    let backend = raw(move |_, mut socket| {
        let closed = notify.clone();
        async move {
            let head = read_head(&mut socket).await?.unwrap();
            if head.contains("content-length") {
                tokio::io::AsyncReadExt::read_exact(&mut socket, &mut [0; 4]).await?;
            }
            socket.write_all(OK).await?;
            drop(socket);
            closed.notify_one();
            Ok(())
        }
    })
    .await;
    let upstream = backend.upstream();
    for n in 0..6 {
        if n % 2 == 0 {
            send(&upstream, get("/")).await.unwrap();
        } else {
            let body = Full::<Bytes>::from("four");
            let request = Request::post("/").header("host", "a").body(body).unwrap();
            send(&upstream, request).await.unwrap();
        }
        closed.notified().await;
        settle().await;
    }
    assert_eq!(backend.accepted(), 6);
}

/// Serves one request on each connection; to the next one it listens, and then hangs up.
async fn closes_at_the_second() -> Backend {
    raw(|_, mut socket| async move {
        read_head(&mut socket).await?;
        socket.write_all(OK).await?;
        read_head(&mut socket).await?;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn an_idempotent_request_on_a_reused_connection_is_repeated_once() {
    let backend = closes_at_the_second().await;
    let upstream = backend.upstream();
    send(&upstream, get("/")).await.unwrap();
    send(&upstream, get("/")).await.expect("repeated on a new connection");
    assert_eq!(backend.accepted(), 2);

    let upstream = backend.upstream().replay_idempotent(false);
    send(&upstream, get("/")).await.unwrap();
    let error = send(&upstream, get("/")).await.unwrap_err();
    assert!(!is_request_error::<Empty<Bytes>>(&error), "never repeated when switched off");
    assert_eq!(backend.accepted(), 3);
}

#[tokio::test]
async fn other_requests_are_never_repeated() {
    let backend = closes_at_the_second().await;
    let upstream = backend.upstream();
    send(&upstream, get("/")).await.unwrap();
    let post = Request::post("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    let error = send(&upstream, post).await.unwrap_err();
    assert!(!is_request_error::<Empty<Bytes>>(&error), "it may have been executed");

    send(&upstream, get("/")).await.unwrap();
    let put = Request::put("/").header("host", "a").body(stream(&["a"])).unwrap();
    let error = send(&upstream, put).await.unwrap_err();
    assert!(!is_request_error::<Channel>(&error), "its body is gone");
    assert_eq!(backend.accepted(), 2);
}

#[tokio::test]
async fn a_new_connection_that_ends_before_a_response() {
    let backend = raw(|_, mut socket| async move { read_head(&mut socket).await.map(drop) }).await;
    let upstream = backend.upstream();
    let mut request = get("/x");
    request.headers_mut().insert("connection", "x-one".parse().unwrap());
    request.extensions_mut().insert(7_u32);
    let error = send(&upstream, request).await.unwrap_err();
    let unanswered = error.downcast::<Unanswered<Request<Empty<Bytes>>>>().unwrap();
    let (request, _) = unanswered.into_parts();
    let request = request.unwrap();
    assert_eq!(request.uri(), "/x");
    assert_eq!(request.headers()["connection"], "x-one", "the head is as it came");
    assert_eq!(request.extensions().get(), Some(&7_u32));
    assert_eq!(backend.accepted(), 1);

    let post = Request::post("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    let error = send(&upstream, post).await.unwrap_err();
    assert!(!is_request_error::<Empty<Bytes>>(&error));
    assert_eq!(backend.accepted(), 2);
}

#[tokio::test]
async fn repeated_and_refused_is_still_unanswered() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let upstream = Upstream::new(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
    let serve = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        drop(listener);
        read_head(&mut socket).await.unwrap();
        socket.write_all(OK).await.unwrap();
        read_head(&mut socket).await.unwrap();
    });
    send(&upstream, get("/")).await.unwrap();
    let error = send(&upstream, get("/")).await.unwrap_err();
    assert!(
        error.is::<Unanswered<Request<Empty<Bytes>>>>(),
        "it was sent once, whatever became of the second try"
    );
    serve.await.unwrap();
}

#[tokio::test]
async fn a_request_with_a_partial_response_is_not_repeated() {
    for answer in ["HTTP/1.1 20", "HTTP/1.1 103 Early Hints\r\n\r\n"] {
        let backend = raw(move |_, mut socket| async move {
            read_head(&mut socket).await?;
            socket.write_all(answer.as_bytes()).await
        })
        .await;
        let error = send(&backend.upstream(), get("/")).await.unwrap_err();
        assert!(!is_request_error::<Empty<Bytes>>(&error), "{answer:?}");
        assert!(!error.is::<Disconnected>(), "a byte has come");
        assert_eq!(backend.accepted(), 1);
    }
}

#[tokio::test]
async fn garbage_is_an_error() {
    for answer in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: upgrade\r\n\r\n",
    ] {
        let backend = canned(answer).await;
        let upstream = backend.upstream();
        let error = send(&upstream, get("/")).await.unwrap_err();
        assert!(!is_request_error::<Empty<Bytes>>(&error), "{answer:?}");
        assert!(!timed_out(&*error));
        send(&upstream, get("/")).await.unwrap_err();
        assert_eq!(backend.accepted(), 2, "no connection is used after {answer:?}");
    }
}

#[tokio::test]
async fn a_connection_with_excess_bytes_is_closed() {
    let backend = canned("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok, and more").await;
    let upstream = backend.upstream();
    for n in 1..=3 {
        assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "ok");
        assert_eq!(backend.accepted(), n);
    }
}

#[tokio::test]
async fn a_response_body_that_ends_early_is_an_error() {
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nnonsense\r\n",
    ] {
        let backend = raw(move |_, mut socket| async move {
            read_head(&mut socket).await?;
            socket.write_all(answer.as_bytes()).await
        })
        .await;
        let mut body = send(&backend.upstream(), get("/")).await.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "half");
        assert!(body.frame().await.unwrap().is_err(), "never a clean end: {answer:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_backend_times_out() {
    for http2 in [false, true] {
        let backend = if http2 {
            server(true, |_| std::future::pending::<http::Response<Empty<Bytes>>>()).await
        } else {
            raw(|_, socket| async move {
                std::future::pending::<()>().await;
                drop(socket);
                Ok(())
            })
            .await
        };
        // The paused clock runs while a socket is waited for; connecting must not lose that race.
        let upstream = backend
            .upstream()
            .http2(http2)
            .connect_timeout(Duration::from_secs(1 << 30))
            .response_timeout(Duration::from_secs(5));
        let error = send(&upstream, get("/")).await.unwrap_err();
        assert!(timed_out(&*error), "{error}");
        assert!(!is_request_error::<Empty<Bytes>>(&error), "it may be executed right now");
    }
}

#[tokio::test]
async fn a_slow_response_body_does_not_time_out() {
    let backend = server(false, |request: Request<hyper::body::Incoming>| async move {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        http::Response::new(Full::<Bytes>::from(body))
    })
    .await;
    let upstream = backend.upstream().response_timeout(Duration::from_millis(400));
    let (sender, body) = channel();
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    let answer = tokio::spawn(async move { send(&upstream, request).await });
    for _ in 0..8 {
        sender.send(Frame::data(Bytes::from_static(b"x"))).unwrap();
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    drop(sender);
    assert_eq!(text(answer.await.unwrap().unwrap()).await, "xxxxxxxx");
}

#[tokio::test]
async fn a_failing_request_body_ends_the_exchange() {
    struct Breaks;
    impl http_body::Body for Breaks {
        type Data = Bytes;
        type Error = std::io::Error;
        fn poll_frame(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<std::io::Result<Frame<Bytes>>>> {
            std::task::Poll::Ready(Some(Err(std::io::ErrorKind::ConnectionReset.into())))
        }
    }
    let (rest, mut seen) = mpsc::unbounded_channel();
    let backend = raw(move |_, mut socket| {
        let rest = rest.clone();
        async move {
            let mut all = Vec::new();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut socket, &mut all).await;
            let _ = rest.send(String::from_utf8(all).unwrap());
            Ok(())
        }
    })
    .await;
    let request = Request::post("/").header("host", "a").body(Breaks).unwrap();
    let error = send(&backend.upstream(), request).await.unwrap_err();
    assert!(!is_request_error::<Breaks>(&error));
    assert!(!seen.recv().await.unwrap().contains("0\r\n\r\n"), "never a clean end");
}

#[tokio::test]
async fn connect_requests_are_not_forwarded() {
    let request = Request::connect("a:443").body(Empty::<Bytes>::new()).unwrap();
    let backend = canned("HTTP/1.1 200 OK\r\n\r\n").await;
    send(&backend.upstream(), request).await.unwrap_err();
    assert_eq!(backend.accepted(), 0);
}
