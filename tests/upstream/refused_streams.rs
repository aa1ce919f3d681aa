//! Streams of HTTP/2 that a backend refuses or abandons: REFUSED_STREAM, GOAWAY, no settings and no pings.

use std::{convert::Infallible, io, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty, Full};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};
use tower_sticky::{Disconnected, NotSent};

use crate::support::*;

/// The begin of a server's connection: reads the client's, and sends settings.
async fn begin(socket: &mut TcpStream) -> io::Result<()> {
    socket.read_exact(&mut [0; 24]).await?;
    socket.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await
}

/// The type and the stream of the next frame of this type.
async fn frame(socket: &mut TcpStream, wanted: u8) -> io::Result<u32> {
    loop {
        let mut head = [0; 9];
        socket.read_exact(&mut head).await?;
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        socket.read_exact(&mut vec![0; length]).await?;
        if head[3] == wanted {
            return Ok(u32::from_be_bytes([head[5], head[6], head[7], head[8]]));
        }
    }
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const ENHANCE_YOUR_CALM: u8 = 11;
const INTERNAL_ERROR: u8 = 2;
const REFUSED_STREAM: u8 = 7;

/// Responds to the first stream of the first connection with these bytes, made of the stream's number, and
/// serves all other connections.
async fn odd_at_first(answer: fn(u32) -> Vec<u8>) -> Backend {
    raw(move |number, mut socket| async move {
        if number == 0 {
            begin(&mut socket).await?;
            let stream = frame(&mut socket, HEADERS).await?;
            socket.write_all(&answer(stream)).await?;
            return frame(&mut socket, 255).await.map(drop);
        }
        let service =
            service_fn(|_| async { Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("ok"))) });
        let server = http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(socket), service).await;
        Ok(())
    })
    .await
}

/// Refuses a stream unprocessed.
async fn refuse(socket: &mut TcpStream, stream: u32) -> io::Result<()> {
    socket.write_all(&[0, 0, 4, 3, 0]).await?;
    socket.write_all(&stream.to_be_bytes()).await?;
    socket.write_all(&[0, 0, 0, REFUSED_STREAM]).await
}

fn post() -> Request<Empty<Bytes>> {
    Request::post("/").header("host", "a").body(Empty::new()).unwrap()
}

#[tokio::test]
async fn a_stream_that_was_refused_unprocessed_goes_once_more() {
    let reset = |stream: u32| {
        let mut frame = vec![0, 0, 4, 3, 0];
        frame.extend(stream.to_be_bytes());
        frame.extend([0, 0, 0, REFUSED_STREAM]);
        frame
    };
    // No stream was processed: the last one is 0.
    let goaway = |_| vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ENHANCE_YOUR_CALM];
    let graceful = |_| vec![0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for answer in [reset as fn(u32) -> Vec<u8>, goaway, graceful] {
        let backend = odd_at_first(answer).await;
        let upstream = backend.upstream().http2(true).replay_idempotent(false);
        let response = send(&upstream, post()).await.unwrap();
        assert_eq!(text(response).await, "ok");
        assert_eq!(backend.accepted(), 2);
    }
}

/// Refuses the first stream of the first connection after its first data, and sends the bodies of all others back.
async fn refuses_at_first() -> Backend {
    raw(move |number, mut socket| async move {
        if number == 0 {
            begin(&mut socket).await?;
            let stream = frame(&mut socket, HEADERS).await?;
            frame(&mut socket, DATA).await?;
            refuse(&mut socket, stream).await?;
            return frame(&mut socket, 255).await.map(drop);
        }
        let service = service_fn(|request: Request<Incoming>| async {
            let length = request.headers().get("content-length").cloned();
            let body = request.into_body().collect().await.unwrap();
            let trailers = body.trailers().cloned();
            let body = Full::new(body.to_bytes()).with_trailers(async { trailers.map(Ok) });
            let mut response = Response::new(body);
            if let Some(length) = length {
                response.headers_mut().insert("x-length", length);
            }
            Ok::<_, Infallible>(response)
        });
        let server = http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(socket), service).await;
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_refused_request_goes_once_more_with_its_body_and_trailers() {
    let backend = refuses_at_first().await;
    let upstream = backend.upstream().http2(true).replay_idempotent(false);
    let (sender, body) = channel();
    for chunk in ["one ", "two"] {
        sender.send(http_body::Frame::data(chunk.into())).unwrap();
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    sender.send(http_body::Frame::trailers(trailers.clone())).unwrap();
    drop(sender);
    let request =
        Request::post("/").header("host", "a").header("te", "trailers").body(body).unwrap();
    let response = send(&upstream, request).await.unwrap();
    assert!(!response.headers().contains_key("x-length"), "its length is as unknown as before");
    let body = response.into_body().collect().await.unwrap();
    assert_eq!(body.trailers(), Some(&trailers));
    assert_eq!(body.to_bytes(), "one two");
    assert_eq!(backend.accepted(), 2);

    let backend = refuses_at_first().await;
    let upstream = backend.upstream().http2(true);
    let request =
        Request::post("/").header("host", "a").body(Full::<Bytes>::from("known")).unwrap();
    let response = send(&upstream, request).await.unwrap();
    assert_eq!(response.headers()["x-length"], "5");
    assert_eq!(text(response).await, "known");
}

#[tokio::test]
async fn a_refused_request_with_an_open_or_large_body_is_an_error() {
    let backend = refuses_at_first().await;
    let (sender, body) = channel();
    sender.send(http_body::Frame::data("one".into())).unwrap();
    let request = Request::post("/").header("host", "a").body(body).unwrap();
    assert!(send(&backend.upstream().http2(true), request).await.is_err());
    drop(sender);

    let backend = refuses_at_first().await;
    let upstream = backend.upstream().http2(true).buffer_bytes(16 << 10);
    let large = Full::<Bytes>::from(vec![0; (16 << 10) + 1]);
    let request = Request::post("/").header("host", "a").body(large).unwrap();
    assert!(send(&upstream, request).await.is_err());
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn a_request_that_is_refused_again_and_again_is_returned_after_three_attempts() {
    let backend = raw(|_, mut socket| async move {
        begin(&mut socket).await?;
        let stream = frame(&mut socket, HEADERS).await?;
        refuse(&mut socket, stream).await?;
        frame(&mut socket, 255).await.map(drop)
    })
    .await;
    let error = send(&backend.upstream().http2(true), post()).await.unwrap_err();
    assert!(error.is::<NotSent<Request<Empty<Bytes>>>>(), "{error:?}");
    assert_eq!(backend.accepted(), 3);
}

#[tokio::test]
async fn a_stream_that_may_have_been_processed_does_not_go_again() {
    // The first stream is the last that was processed.
    let goaway = |stream: u32| {
        let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
        frame.extend(stream.to_be_bytes());
        frame.extend([0, 0, 0, ENHANCE_YOUR_CALM]);
        frame
    };
    let backend = raw(move |_, mut socket| async move {
        begin(&mut socket).await?;
        let stream = frame(&mut socket, HEADERS).await?;
        socket.write_all(&goaway(stream)).await
    })
    .await;
    let error = send(&backend.upstream().http2(true), post()).await.unwrap_err();
    assert!(error.is::<Disconnected>(), "{error:?}");
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn a_stream_that_was_reset_for_another_reason_does_not_go_again() {
    let reset = |stream: u32| {
        let mut frame = vec![0, 0, 4, 3, 0];
        frame.extend(stream.to_be_bytes());
        frame.extend([0, 0, 0, INTERNAL_ERROR]);
        frame
    };
    let backend = odd_at_first(reset).await;
    assert!(send(&backend.upstream().http2(true), post()).await.is_err());
    assert_eq!(backend.accepted(), 1);
}

#[tokio::test]
async fn a_peer_that_sends_no_settings_is_not_sent_a_request() {
    let http1 = once("HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n");
    for backend in [unanswering().await, http1.await] {
        let upstream = backend.upstream().http2(true).connect_timeout(Duration::from_millis(50));
        let error = send(&upstream, post()).await.unwrap_err();
        assert!(error.is::<NotSent<Request<Empty<Bytes>>>>(), "{error:?}");
    }
}

#[tokio::test]
async fn a_backend_that_answers_no_pings_is_gone() {
    let backend = raw(|_, mut socket| async move {
        begin(&mut socket).await?;
        frame(&mut socket, HEADERS).await?;
        std::future::pending().await
    })
    .await;
    let tick = Duration::from_millis(20);
    let upstream = backend.upstream().http2(true).http2_ping(tick, tick);
    let begun = Instant::now();
    let error = send(&upstream, post()).await.unwrap_err();
    assert!(error.is::<Disconnected>(), "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(10), "long before the response's timeout");
}
