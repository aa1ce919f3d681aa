//! Trailers (RFC 9110, section 6.5; RFC 9112, section 7.1.2), both ways.

use bytes::Bytes;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::timeout,
};

use crate::{
    backends::Backend,
    client::{self, read_head},
    process::{FOREVER, Gateway},
};

/// An answer with trailers, of which `x-sum` may pass and the others may not.
const ANNOUNCED: &str = "Trailer: x-sum\r\n";
const ANSWER: &str = "Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\
                      x-sum: 7\r\nset-cookie: evil=1\r\ncontent-length: 9\r\nx-forwarded-for: 6.6.6.6\r\n\r\n";

async fn answering(announced: bool) -> (Backend, Gateway) {
    let announced = if announced { ANNOUNCED } else { "" };
    let backend = Backend::raw(move |mut stream| async move {
        read_head(&mut stream).await;
        let answer = format!("HTTP/1.1 200 OK\r\nConnection: close\r\n{announced}{ANSWER}");
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await;
    let gateway = Gateway::start(&["--backend", &backend.flag("a")]).await;
    (backend, gateway)
}

#[tokio::test]
async fn an_http1_client_gets_announced_trailers_that_it_asked_for() {
    let request = |te| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close, te\r\n{te}\r\n");
    for (announced, te, passes) in
        [(true, "TE: trailers\r\n", true), (true, "", false), (false, "TE: trailers\r\n", false)]
    {
        let (_backend, gateway) = answering(announced).await;
        let answer = client::raw(gateway.addr, &request(te)).await;
        let end = if passes { "0\r\nx-sum: 7\r\n\r\n" } else { "0\r\n\r\n" };
        assert!(answer.ends_with(&format!("2\r\nok\r\n{end}")), "{announced} {te:?}: {answer:?}");
        assert!(!answer.contains("evil") && !answer.contains("6.6.6.6"), "{answer:?}");
    }
}

#[tokio::test]
async fn an_http2_client_gets_all_trailers() {
    for announced in [true, false] {
        let (_backend, gateway) = answering(announced).await;
        let mut sender = client::http2(gateway.addr).await;
        let request = Request::get(format!("http://{}/", gateway.addr));
        let response =
            sender.send_request(request.body(Default::default()).unwrap()).await.unwrap();
        let body = timeout(FOREVER, response.into_body().collect()).await.unwrap().unwrap();
        let trailers = body.trailers().expect("there are trailers").clone();
        assert_eq!(trailers["x-sum"], "7");
        assert_eq!(trailers.len(), 1, "{trailers:?}");
        assert_eq!(body.to_bytes(), "ok");
    }
}

/// A backend that passes what comes after each head to the receiver.
async fn reading() -> (Backend, UnboundedReceiver<String>) {
    let (sender, received) = unbounded_channel();
    let backend = Backend::raw(move |mut stream| {
        let sender = sender.clone();
        async move {
            read_head(&mut stream).await;
            let mut body = Vec::new();
            while !body.ends_with(b"\r\n\r\n") {
                match stream.read_u8().await {
                    Ok(byte) => body.push(byte),
                    Err(_) => break,
                }
            }
            let _ = sender.send(String::from_utf8(body).unwrap());
            let answer = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    (backend, received)
}

#[tokio::test]
async fn a_backend_gets_announced_trailers() {
    let (backend, mut received) = reading().await;
    let gateway = Gateway::start(&["--backend", &backend.flag("a")]).await;
    for (announced, end) in [(ANNOUNCED, "0\r\nx-sum: 7\r\n\r\n"), ("", "0\r\n\r\n")] {
        let request =
            format!("POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{announced}{ANSWER}");
        let answer = client::raw(gateway.addr, &request).await;
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer:?}");
        assert_eq!(received.recv().await.unwrap(), format!("2\r\nok\r\n{end}"));
    }
    // The same from an HTTP/2 client.
    let io = TokioIo::new(TcpStream::connect(gateway.addr).await.unwrap());
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    trailers.insert("authorization", "evil".parse().unwrap());
    let frames = [Frame::data(Bytes::from_static(b"ok")), Frame::trailers(trailers)];
    let frames = frames.map(Ok::<_, std::convert::Infallible>);
    let request = Request::post(format!("http://{}/", gateway.addr)).header("trailer", "x-sum");
    let body = StreamBody::new(tokio_stream::iter(frames));
    let response = sender.send_request(request.body(body).unwrap());
    assert_eq!(timeout(FOREVER, response).await.unwrap().unwrap().status(), 204);
    assert_eq!(received.recv().await.unwrap(), "2\r\nok\r\n0\r\nx-sum: 7\r\n\r\n");
}
