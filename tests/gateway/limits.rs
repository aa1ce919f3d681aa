//! Connections that are silent or too slow, and too many connections.

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Duration, Instant, sleep},
};

use crate::{
    backends::{Backend, echo, held},
    client::{self, read_head, read_to_end},
    process::Gateway,
};

const HEADER_TIMEOUT: Duration = Duration::from_millis(300);

async fn gateway(url: &str) -> Gateway {
    Gateway::configured(&format!(
        "[limits]\nheader_timeout = \"{}ms\"\n[[backend]]\nid = \"a\"\nurl = \"{url}\"",
        HEADER_TIMEOUT.as_millis(),
    ))
    .await
}

/// Connects, sends `bytes`, and waits until the gateway closes.
async fn is_closed_after(bytes: &[u8]) {
    let a = echo("a").await;
    let gateway = gateway(&a.url()).await;
    let start = Instant::now();
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    read_to_end(&mut stream).await;
    assert!(start.elapsed() >= HEADER_TIMEOUT, "the connection is not closed before the timeout");
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    is_closed_after(b"").await;
}

#[tokio::test]
async fn a_connection_with_half_a_request_head_is_closed() {
    is_closed_after(b"GET / HTTP/1.1\r\nHost: a\r\nX-Half: ").await;
}

#[tokio::test]
async fn a_connection_with_half_an_http2_preface_is_closed() {
    is_closed_after(b"PRI * HTTP/2.0\r\n").await;
}

#[tokio::test]
async fn an_http2_connection_without_a_request_is_closed() {
    // The preface and an empty SETTINGS frame (RFC 9113, section 6.5).
    is_closed_after(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00").await;
}

#[tokio::test]
async fn a_slow_request_head_is_closed() {
    let a = echo("a").await;
    let gateway = gateway(&a.url()).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    // Each byte arrives in time, the whole head does not.
    let slow_head = async {
        while stream.write_all(b"G").await.is_ok() {
            sleep(HEADER_TIMEOUT / 3).await;
        }
    };
    tokio::time::timeout(crate::process::FOREVER, slow_head)
        .await
        .expect("the connection is closed");
}

#[tokio::test]
async fn a_connection_may_be_idle_between_requests_but_not_within_a_head() {
    let a = echo("a").await;
    let gateway = gateway(&a.url()).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let request = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    stream.write_all(request).await.unwrap();
    read_head(&mut stream).await;
    sleep(HEADER_TIMEOUT * 3).await;
    stream.write_all(request).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "the connection stays open: {head}");
    stream.write_all(&request[..10]).await.unwrap();
    assert_eq!(
        read_to_end(&mut stream).await,
        "",
        "half a head is closed on a kept connection too"
    );
}

#[tokio::test]
async fn the_header_timeout_does_not_bound_the_response() {
    let a = held("a").await;
    let gateway = gateway(&a.backend.url()).await;
    let http1 = a.request(gateway.addr).await;
    let http2 = a.http2_request(gateway.addr).await;
    sleep(HEADER_TIMEOUT * 3).await;
    a.release();
    a.release();
    assert_eq!(http1.await.unwrap().status, StatusCode::OK);
    assert_eq!(http2.await.unwrap().status, StatusCode::OK);
}

#[tokio::test]
async fn the_number_of_connections_is_limited() {
    let a = echo("a").await;
    let gateway = Gateway::configured(&format!(
        "[limits]\nconnections = 1\n[[backend]]\nid = \"a\"\nurl = \"{}\"",
        a.url()
    ))
    .await;
    let request = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n";
    let mut first = TcpStream::connect(gateway.addr).await.unwrap();
    first.write_all(request).await.unwrap();
    read_head(&mut first).await;
    // The second connection waits in the kernel until the first one is closed.
    let mut second = TcpStream::connect(gateway.addr).await.unwrap();
    second.write_all(request).await.unwrap();
    let mut byte = [0];
    let waited = tokio::time::timeout(Duration::from_millis(300), second.peek(&mut byte)).await;
    assert!(waited.is_err(), "the second connection is not served while the first one is open");
    drop(first);
    let head = read_head(&mut second).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

/// A gateway whose clients have to take something every 300 ms, before a backend with a large answer.
async fn with_write_timeout() -> (Backend, Gateway) {
    let backend = Backend::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 64 << 20);
        let _ = stream.write_all(head.as_bytes()).await;
        while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
    })
    .await;
    let config = format!(
        "[limits]\nwrite_timeout = \"300ms\"\n[[backend]]\nid = \"a\"\nurl = \"{}\"",
        backend.url()
    );
    let gateway = Gateway::configured(&config).await;
    (backend, gateway)
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let (_backend, gateway) = with_write_timeout().await;
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    sleep(Duration::from_secs(1)).await;
    let answer = read_to_end(&mut client).await;
    assert!(answer.len() < 64 << 20, "it got {} bytes", answer.len());
}

#[tokio::test]
async fn a_client_that_is_slow_is_not_cut() {
    let (_backend, gateway) = with_write_timeout().await;
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_head(&mut client).await;
    let (mut left, mut buffer) = (64 << 20, vec![0; 8 << 20]);
    while left > 0 {
        sleep(Duration::from_millis(200)).await;
        let most = buffer.len().min(left);
        tokio::io::AsyncReadExt::read_exact(&mut client, &mut buffer[..most]).await.unwrap();
        left -= most;
    }
}

/// A stream whose window is full ends; its neighbours go on.
#[tokio::test]
async fn an_http2_stream_that_takes_nothing_is_reset() {
    let (_backend, gateway) = with_write_timeout().await;
    let mut sender = client::http2(gateway.addr).await;
    let request =
        || Request::get(format!("http://{}/", gateway.addr)).body(Full::default()).unwrap();
    let mut blocked = sender.send_request(request()).await.unwrap().into_body();
    let mut read = sender.send_request(request()).await.unwrap().into_body();
    // This one is read slowly, for longer than the limit.
    for _ in 0..20 {
        sleep(Duration::from_millis(50)).await;
        read.frame().await.expect("it goes on").expect("it goes on");
    }
    let end = async {
        loop {
            match blocked.frame().await {
                Some(Ok(_)) => {}
                Some(Err(error)) => return error,
                None => panic!("no clean end"),
            }
        }
    };
    let error = tokio::time::timeout(crate::process::FOREVER, end).await.expect("it ends");
    assert!(format!("{error:?}").contains("CANCEL"), "{error:?}");
    read.frame().await.expect("it goes on").expect("it goes on");
}

#[tokio::test]
async fn a_kept_connection_is_closed_after_the_idle_timeout() {
    const IDLE: Duration = Duration::from_millis(300);
    let a = echo("a").await;
    let config = format!(
        "[limits]\nidle_timeout = \"{}ms\"\n[[backend]]\nid = \"a\"\nurl = \"{}\"",
        IDLE.as_millis(),
        a.url()
    );
    let gateway = Gateway::configured(&config).await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    stream.write_all(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_head(&mut stream).await;
    let begun = Instant::now();
    assert_eq!(read_to_end(&mut stream).await, "");
    assert!(begun.elapsed() >= IDLE - Duration::from_millis(50), "{:?}", begun.elapsed());
}
