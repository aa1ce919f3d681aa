//! Requests over TLS: large bodies, HTTP/2, idle connections, and the stop.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tower_sticky::serve::{Limits, Listener, RequestBody, Server};

use super::support::{Client, ClientOptions, start, tls};
use crate::{
    authority::Authority,
    support::{GET, addr, any_port, exchange, response, server},
};

const LONG: Duration = Duration::from_secs(10);

#[tokio::test]
async fn requests_over_http2_are_https() {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let server = start(tls(&identity).build().unwrap()).await;
    let options = ClientOptions { alpn: &["h2"], ..Default::default() };
    let stream = Client::with(&authority, &options).connect(&server, "a.test").await.unwrap();
    let handshake =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://a.test/").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let text = std::str::from_utf8(&body).unwrap();
    assert!(text.contains("https=true version=HTTP/2.0"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_serves_further_requests_and_ends_in_order() {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let listener = any_port().await.tls(tls(&identity).build().unwrap());
    // Parked after a quarter of the idle timeout, or twice that.
    let limits = Limits::new().idle_timeout(Duration::from_millis(1200));
    let server = server(listener).limits(limits).start().unwrap();
    let mut stream = Client::new(&authority).connect(&server, "a.test").await.unwrap();
    for _ in 0..3 {
        assert!(exchange(&mut stream, GET).await.starts_with("HTTP/1.1 200"));
        tokio::time::sleep(Duration::from_millis(750)).await;
    }
    // Two requests at once, of which the second one is decrypted with the first.
    stream.write_all(format!("{GET}{GET}").as_bytes()).await.unwrap();
    let mut text = response(&mut stream).await;
    while text.matches("HTTP/1.1 200").count() < 2 {
        text += &response(&mut stream).await;
    }
    let read = tokio::time::timeout(LONG, stream.read(&mut [0; 1])).await.unwrap();
    assert_eq!(read.unwrap(), 0, "the idle timeout ends it with close_notify");
}

#[tokio::test]
async fn the_stop_ends_idle_connections_with_close_notify() {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let server = start(tls(&identity).build().unwrap()).await;
    let mut stream = Client::new(&authority).connect(&server, "a.test").await.unwrap();
    exchange(&mut stream, GET).await;
    let stopped = tokio::spawn(async move { server.shutdown(LONG).await });
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);
    assert!(stopped.await.unwrap());
}

#[tokio::test]
async fn the_rest_of_a_refused_request_is_read_before_the_connection_closes() {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let listener = any_port().await.tls(tls(&identity).build().unwrap());
    let limits = Limits::new().body_bytes(Some(10));
    let server = server(listener).limits(limits).start().unwrap();
    let mut stream = Client::new(&authority).connect(&server, "a.test").await.unwrap();
    let head = "POST / HTTP/1.1\r\nhost: a.test\r\ncontent-length: 300000\r\n\r\n";
    assert!(exchange(&mut stream, head).await.starts_with("HTTP/1.1 413"));
    for _ in 0..30 {
        let sent = stream.write_all(&[b'x'; 10_000]).await;
        sent.expect("the server still reads");
        stream.flush().await.expect("the server still reads");
    }
}

#[tokio::test]
async fn an_upgraded_connection_goes_on_over_tls() {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let app = tower::service_fn(|mut request: Request<RequestBody>| async move {
        let upgrade = hyper::upgrade::on(&mut request);
        tokio::spawn(async move {
            let mut upgraded = TokioIo::new(upgrade.await.unwrap());
            let mut bytes = [0; 5];
            upgraded.read_exact(&mut bytes).await.unwrap();
            upgraded.write_all(&bytes).await.unwrap();
            upgraded.shutdown().await.unwrap();
        });
        let response = Response::builder().status(101);
        let response = response.header("connection", "upgrade").header("upgrade", "echo");
        Ok::<_, Infallible>(response.body(String::new()).unwrap())
    });
    let listener = any_port().await.tls(tls(&identity).build().unwrap());
    let server = Server::new(app).listener(listener).start().unwrap();
    let mut stream = Client::new(&authority).connect(&server, "a.test").await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: a.test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    assert!(exchange(&mut stream, request).await.starts_with("HTTP/1.1 101"));
    stream.write_all(b"hello").await.unwrap();
    let mut echoed = Vec::new();
    stream.read_to_end(&mut echoed).await.expect("it ends with close_notify");
    assert_eq!(echoed, b"hello");
    drop(stream);
    assert!(server.shutdown(LONG).await, "the upgraded connection is counted until it ends");
}

/// A client that takes nothing of a response of `bytes`, until the server cuts the connection.
async fn takes_nothing(bytes: usize) {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let app = tower::service_fn(move |_: Request<RequestBody>| async move {
        Ok::<_, Infallible>(Response::new("x".repeat(bytes)))
    });
    let listener = any_port().await.tls(tls(&identity).build().unwrap());
    let limits = Limits::new().write_timeout(Duration::from_millis(300));
    let server = Server::new(app).listener(listener).limits(limits).start().unwrap();
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let socket = socket.connect(addr(&server)).await.unwrap();
    let mut stream = Client::new(&authority).connect_over(socket, "a.test").await.unwrap();
    stream.write_all(GET.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
    let cut = async {
        while server.open_connections() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let cut = tokio::time::timeout(LONG, cut).await;
    assert!(cut.is_ok(), "{bytes} bytes: the write timeout ends it");
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    // In some of these cases hyper has written everything, and the rest waits encrypted.
    let mut clients = tokio::task::JoinSet::new();
    for kibibytes in (40..=120).step_by(8).chain([1 << 16]) {
        clients.spawn(takes_nothing(kibibytes << 10));
    }
    clients.join_all().await;
}

#[tokio::test]
async fn tls_runs_over_unix_sockets() {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let path = std::env::temp_dir().join(format!("tower-sticky-tls-{}", std::process::id()));
    let listener = Listener::unix(&path, 0o600).unwrap().tls(tls(&identity).build().unwrap());
    let server = server(listener).start().unwrap();
    let socket = tokio::net::UnixStream::connect(&path).await.unwrap();
    let mut stream = Client::new(&authority).connect_over(socket, "a.test").await.unwrap();
    assert!(exchange(&mut stream, GET).await.contains("trusted=true https=true"));
    server.shutdown(LONG).await;
}
