//! Idle HTTP/1.1 connections, of which the gateway keeps only the socket.

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Duration, Instant, timeout},
};

use crate::{
    backends::{Backend, echo},
    client::{read_head, read_to_end},
    process::Gateway,
};

const REQUEST: &[u8] = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";

/// A gateway that logs when a connection is parked.
async fn gateway(backend: &Backend, limits: &str) -> Gateway {
    let config =
        format!("[limits]\n{limits}\n[[backend]]\nid = \"a\"\nurl = \"{}\"", backend.url());
    Gateway::configured_with(&config, &[("RUST_LOG", "tower_sticky::serve::park=trace")]).await
}

/// A connection that is parked after a request.
async fn parked(gateway: &mut Gateway) -> TcpStream {
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    exchange(&mut stream).await;
    gateway.stderr_line("parked").await;
    stream
}

async fn exchange(stream: &mut TcpStream) {
    stream.write_all(REQUEST).await.unwrap();
    let head = read_head(stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[tokio::test]
async fn a_parked_connection_serves_further_requests() {
    let a = echo("a").await;
    let mut gateway = gateway(&a, "").await;
    let mut stream = parked(&mut gateway).await;
    for _ in 0..3 {
        exchange(&mut stream).await;
    }
    gateway.stderr_line("parked").await;
    exchange(&mut stream).await;
}

#[tokio::test]
async fn the_begin_of_a_pipelined_request_is_kept() {
    let a = echo("a").await;
    let mut gateway = gateway(&a, "header_timeout = \"20s\"").await;
    let (begin, rest) = REQUEST.split_at(10);
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    // The gateway reads the begin of a connection in pieces, but what follows at once.
    exchange(&mut stream).await;
    stream.write_all(&[REQUEST, begin].concat()).await.unwrap();
    read_head(&mut stream).await;
    gateway.stderr_line("the next request has begun").await;
    stream.write_all(rest).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[tokio::test]
async fn the_header_timeout_of_a_parked_connection_begins_with_the_first_byte() {
    let a = echo("a").await;
    let limit = Duration::from_millis(300);
    let mut gateway = gateway(&a, "header_timeout = \"300ms\"").await;
    let mut stream = parked(&mut gateway).await;
    let start = Instant::now();
    stream.write_all(&REQUEST[..10]).await.unwrap();
    assert_eq!(read_to_end(&mut stream).await, "", "half a head is not answered");
    assert!(start.elapsed() >= limit, "the head may take as long as the timeout");
}

#[tokio::test]
async fn a_parked_connection_is_closed_after_the_idle_timeout() {
    let a = echo("a").await;
    let mut gateway = gateway(&a, "idle_timeout = \"800ms\"").await;
    let start = Instant::now();
    let mut stream = parked(&mut gateway).await;
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(start.elapsed() >= Duration::from_millis(800), "it is not closed before the timeout");
}

#[tokio::test]
async fn parked_connections_do_not_delay_the_stop() {
    let a = echo("a").await;
    let mut gateway = gateway(&a, "").await;
    let mut stream = parked(&mut gateway).await;
    gateway.signal("TERM").await;
    assert_eq!(read_to_end(&mut stream).await, "");
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn parked_connections_count_as_open() {
    let a = echo("a").await;
    let mut gateway = gateway(&a, "connections = 1").await;
    let first = parked(&mut gateway).await;
    let mut second = TcpStream::connect(gateway.addr).await.unwrap();
    second.write_all(REQUEST).await.unwrap();
    let waited = timeout(Duration::from_millis(300), second.peek(&mut [0])).await;
    assert!(waited.is_err(), "the second connection is not served while the first one is open");
    drop(first);
    let head = read_head(&mut second).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}
