//! `Expect: 100-continue` (RFC 9110, section 10.1.1), behind a hyper server.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};
use tower_sticky::{NotSent, proxy::Upstream};

use crate::{breaks::service, support::*};

/// An HTTP/2 backend is asked for nothing: the body is sent, and the server in front says 100.
#[tokio::test]
async fn the_body_for_an_http2_backend_is_asked_for_at_once() {
    let backend = server(true, |request: Request<Incoming>| async move {
        assert!(!request.headers().contains_key("expect"));
        Response::new(Full::<Bytes>::from(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    let (_backends, service) = service(backend.upstream().http2(true), 0);
    let mut client = TcpStream::connect(front(service).await).await.unwrap();
    let head = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 5\r\n\
                Expect: 100-continue\r\n\r\n";
    client.write_all(head.as_bytes()).await.unwrap();
    assert_eq!(read_head(&mut client).await.unwrap().unwrap(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"), "{answer:?}");
}

fn expecting(body: Channel) -> Request<Channel> {
    let request = Request::post("/").header("host", "a").header("expect", "100-continue");
    request.body(body).unwrap()
}

/// The request comes back with its body unpolled when the backend closes without a response.
#[tokio::test]
async fn a_request_whose_body_was_not_asked_for_is_returned() {
    let backend = raw(|_, mut socket| async move {
        read_head(&mut socket).await?;
        Ok(())
    })
    .await;
    let error = send(&backend.upstream(), expecting(stream(&["body"]))).await.unwrap_err();
    let not_sent = error.downcast::<NotSent<Request<Channel>>>().expect("it was not executed");
    let request = not_sent.into_parts().0.expect("the request is in it");
    assert!(!request.body().polled, "its body is untouched");
    assert_eq!(request.headers()["expect"], "100-continue");
}

/// A backend that has responded with anything has seen the request.
#[tokio::test]
async fn a_partial_response_is_an_error() {
    let backend = once("HTTP/1.1 4").await;
    let error = send(&backend.upstream(), expecting(stream(&["body"]))).await.unwrap_err();
    assert!(error.downcast::<NotSent<Request<Channel>>>().is_err());
}

/// A response without a 100 leaves the body unpolled, and closes the connection.
#[tokio::test]
async fn a_response_in_place_of_100_closes_the_connection() {
    let backend = canned("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let upstream = backend.upstream();
    for connections in 1..=3 {
        let (sender, body) = channel();
        sender.send(Frame::data(Bytes::from_static(b"body"))).unwrap();
        let response = send(&upstream, expecting(body)).await.unwrap();
        assert!(sender.is_closed(), "the body is dropped");
        assert_eq!(text(response).await, "ok");
        assert_eq!(backend.accepted(), connections);
    }
}

/// Nothing keeps it open: the backend might take the next bytes on it for the body.
#[tokio::test]
async fn the_backend_sees_the_end_of_a_connection_whose_body_it_did_not_ask_for() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let backend = raw(move |_, mut socket| {
        let ended = ended.clone();
        async move {
            read_head(&mut socket).await?;
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await?;
            let more = read_head(&mut socket).await.ok().flatten();
            let _ = ended.send(more);
            Ok(())
        }
    })
    .await;
    let upstream = backend.upstream().expect_wait(Duration::from_secs(600));
    let response = send(&upstream, expecting(stream(&["body"]))).await.unwrap();
    assert_eq!(text(response).await, "ok");
    let end = timeout(Duration::from_secs(20), ends.recv()).await;
    assert_eq!(end.expect("it is closed"), Some(None), "nothing more was sent");
}

#[tokio::test]
async fn a_backend_that_asks_for_the_body_gets_it_before_the_wait_is_over() {
    let backend = raw(|_, mut socket| async move {
        read_head(&mut socket).await?;
        socket.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        let body = read_head(&mut socket).await?.unwrap();
        assert_eq!(body, "4\r\nbody\r\n0\r\n\r\n");
        socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await
    })
    .await;
    let upstream = backend.upstream().expect_wait(Duration::from_secs(600));
    let sent = send(&upstream, expecting(stream(&["body"])));
    let response = timeout(Duration::from_secs(20), sent).await.expect("100 ends the wait");
    assert_eq!(text(response.unwrap()).await, "ok");
}

#[tokio::test]
async fn a_silent_backend_gets_the_body_after_the_wait() {
    let backend = server(false, |request: Request<Incoming>| async move {
        // hyper's server sends 100 when the body is polled, which is after the wait here.
        tokio::time::sleep(Duration::from_millis(300)).await;
        Response::new(Full::<Bytes>::from(request.into_body().collect().await.unwrap().to_bytes()))
    })
    .await;
    let upstream: Upstream = backend.upstream().expect_wait(Duration::from_millis(50));
    let response = send(&upstream, expecting(stream(&["one ", "two"]))).await.unwrap();
    assert_eq!(text(response).await, "one two");
    assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "");
    assert_eq!(backend.accepted(), 1, "the connection is kept");
}
