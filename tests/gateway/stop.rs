//! The graceful stop of a gateway.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    backends::{Held, echo, held, upgrading},
    client::{self, read_head, read_to_end},
    listener::Listener,
    process::Gateway,
};

/// Waits until the port is closed.
async fn until_closed(gateway: &Gateway) {
    while TcpStream::connect(gateway.addr).await.is_ok() {
        tokio::task::yield_now().await;
    }
}

/// A backend that holds its responses back, a gateway in front of it, and the admin address.
async fn held_gateway() -> (Held, Gateway, SocketAddr) {
    let a = held("a").await;
    let args = ["--backend", &a.backend.flag("a"), "--admin", "127.0.0.1:0"];
    let mut gateway = Gateway::start(&args).await;
    let admin = gateway.admin_addr().await;
    (a, gateway, admin)
}

#[tokio::test]
async fn requests_in_flight_are_finished() {
    for signal in ["TERM", "INT"] {
        let a = held("a").await;
        let mut gateway = Gateway::start(&["--backend", &a.backend.flag("a")]).await;
        let http1 = a.request(gateway.addr).await;
        let http2 = a.http2_request(gateway.addr).await;
        gateway.signal(signal).await;
        until_closed(&gateway).await;
        a.release();
        a.release();
        assert_eq!(http1.await.unwrap().status, StatusCode::OK, "{signal}");
        assert_eq!(http2.await.unwrap().status, StatusCode::OK, "{signal}");
        assert_eq!(gateway.ended().await.code(), Some(0), "{signal}");
    }
}

#[tokio::test]
async fn idle_connections_do_not_delay_the_stop() {
    let a = echo("a").await;
    let mut gateway = Gateway::start(&["--backend", &a.flag("a")]).await;
    let mut silent = TcpStream::connect(gateway.addr).await.unwrap();
    let mut idle = TcpStream::connect(gateway.addr).await.unwrap();
    idle.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_head(&mut idle).await;
    gateway.signal("TERM").await;
    assert_eq!(read_to_end(&mut silent).await, "");
    assert_eq!(read_to_end(&mut idle).await, "");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_request_head_in_progress_is_completed() {
    let a = echo("a").await;
    let mut gateway = Gateway::start(&["--backend", &a.flag("a"), "--workers", "1"]).await;
    let (half, rest) = ("HEAD / HTTP/1.1\r\n", "Host: a\r\n\r\n");
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    stream.write_all(half.as_bytes()).await.unwrap();
    // The same worker has served a later connection, so it has accepted the first one.
    client::get(gateway.addr, "/").await;
    gateway.signal("TERM").await;
    until_closed(&gateway).await;
    stream.write_all(rest.as_bytes()).await.unwrap();
    let answer = read_to_end(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("connection: close"), "{answer}");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_stop_is_bounded_by_the_shutdown_timeout() {
    let a = held("a").await;
    let mut gateway = Gateway::configured(&format!(
        "shutdown_timeout = \"100ms\"\n[[backend]]\nid = \"a\"\nurl = \"{}\"",
        a.backend.url()
    ))
    .await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    a.arrival().await;
    gateway.signal("TERM").await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_tunnel_is_waited_for_and_a_second_signal_ends_the_wait() {
    let shouting = upgrading().await;
    let mut gateway = Gateway::start(&["--backend", &shouting.flag("a")]).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    read_head(&mut stream).await;
    gateway.signal("TERM").await;
    until_closed(&gateway).await;
    stream.write_all(b"still there").await.unwrap();
    let mut buffer = [0; 11];
    stream.read_exact(&mut buffer).await.unwrap();
    assert_eq!(buffer, *b"STILL THERE");
    gateway.signal("TERM").await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn the_health_check_fails_while_it_stops() {
    let (a, mut gateway, admin) = held_gateway().await;
    assert_eq!(client::get(admin, "/healthz").await.status, StatusCode::OK);
    let request = a.request(gateway.addr).await;
    gateway.signal("TERM").await;
    until_closed(&gateway).await;
    let health = client::get(admin, "/healthz").await;
    assert_eq!(health.status, StatusCode::SERVICE_UNAVAILABLE);
    a.release();
    assert_eq!(request.await.unwrap().status, StatusCode::OK);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn event_listeners_get_every_event_and_do_not_delay_the_stop() {
    let (a, mut gateway, admin) = held_gateway().await;
    let mut listener = Listener::new(admin).await;
    // This listener never reads a byte.
    let mut deaf = TcpStream::connect(admin).await.unwrap();
    let request = format!("GET /events HTTP/1.1\r\nHost: {admin}\r\n\r\n");
    deaf.write_all(request.as_bytes()).await.unwrap();

    let request = a.request(gateway.addr).await;
    gateway.signal("TERM").await;
    until_closed(&gateway).await;
    // There are events while requests are in flight.
    client::send(admin, Method::PATCH, "/backends/a", &[], "{\"weight\":2}").await;
    let weight = json!({ "backend": "a", "from": 1, "to": 2 });
    assert_eq!(listener.next().await, ("weight".to_owned(), weight));
    a.release();
    assert_eq!(request.await.unwrap().status, StatusCode::OK);
    listener.end().await;
    assert_eq!(gateway.ended().await.code(), Some(0));
}
