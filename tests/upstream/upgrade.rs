//! Upgraded connections, through a real server in front.

use std::sync::Arc;

use http::{Request, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};
use tower_sticky::{UpgradeGuard, proxy::Upstream};

use crate::support::*;

/// A proxy of `upstream`; it sends the hold of each answer that has one.
pub(crate) async fn proxy(upstream: Upstream) -> (Backend, mpsc::UnboundedReceiver<UpgradeGuard>) {
    let (holds, received) = mpsc::unbounded_channel();
    let proxy = server(false, move |request: Request<hyper::body::Incoming>| {
        let (upstream, holds) = (upstream.clone(), holds.clone());
        async move {
            match send(&upstream, request).await {
                Ok(response) => {
                    if let Some(hold) = response.extensions().get::<UpgradeGuard>() {
                        let _ = holds.send(hold.clone());
                    }
                    response.map(http_body_util::Either::Left)
                }
                Err(error) => {
                    let body = http_body_util::Full::<bytes::Bytes>::from(error.to_string());
                    let mut response = http::Response::new(http_body_util::Either::Right(body));
                    *response.status_mut() = StatusCode::BAD_GATEWAY;
                    response
                }
            }
        }
    })
    .await;
    (proxy, received)
}

pub(crate) const ASK: &str =
    "GET /room HTTP/1.1\r\nhost: shop\r\nconnection: Upgrade\r\nupgrade: echo\r\n\r\n";
pub(crate) const YES: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";

pub(crate) async fn client(proxy: &Backend, ask: &str) -> (TcpStream, String) {
    let address = proxy.url.strip_prefix("http://").unwrap();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(ask.as_bytes()).await.unwrap();
    let head = read_head(&mut client).await.unwrap().unwrap();
    (client, head)
}

/// Sends a few bytes on an upgraded connection, which come back in capitals.
pub(crate) async fn ping(client: &mut TcpStream) {
    let mut buffer = [0; 5];
    client.write_all(b"ping!").await.unwrap();
    client.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"PING!");
}

/// Switches and echoes in capitals; the first bytes come together with the head.
async fn echo() -> Backend {
    raw(|_, mut socket| async move {
        let head = read_head(&mut socket).await?.unwrap();
        assert!(
            head.contains("connection: upgrade\r\n") && head.contains("upgrade: echo\r\n"),
            "{head}"
        );
        socket.write_all(format!("{YES}HELLO").as_bytes()).await?;
        echo_in_capitals(&mut socket).await
    })
    .await
}

#[tokio::test]
async fn an_upgrade_is_in_flight_until_its_tunnel_ends() {
    let backend = echo().await;
    let (proxy, mut holds) = proxy(backend.upstream()).await;
    for round in 1..=2 {
        let (mut client, head) = client(&proxy, ASK).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("upgrade: echo\r\n"), "{head}");
        let guard = Arc::new(());
        let hold = holds.recv().await.unwrap();
        hold.keep(guard.clone());

        let mut buffer = [0; 5];
        client.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"HELLO");
        ping(&mut client).await;
        assert_eq!(Arc::strong_count(&guard), 2, "held while it is open");

        drop(client);
        while !hold.is_released() {
            tokio::task::yield_now().await;
        }
        assert_eq!(Arc::strong_count(&guard), 1);
        assert_eq!(backend.accepted(), round, "a connection of its own");
    }
}

#[tokio::test]
async fn a_backend_that_closes_ends_the_tunnel() {
    let backend = raw(|_, mut socket| async move {
        read_head(&mut socket).await?;
        socket.write_all(format!("{YES}bye").as_bytes()).await
    })
    .await;
    let (proxy, mut holds) = proxy(backend.upstream()).await;
    let (mut client, _) = client(&proxy, ASK).await;
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "bye");
    drop(client);
    let hold = holds.recv().await.unwrap();
    while !hold.is_released() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_refused_upgrade_is_an_ordinary_response() {
    let backend = canned("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    let (proxy, mut holds) = proxy(backend.upstream()).await;
    let (mut client, head) = client(&proxy, ASK).await;
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    let mut body = [0; 2];
    client.read_exact(&mut body).await.unwrap();
    assert_eq!(&body, b"no");
    assert!(holds.try_recv().is_err());
}

#[tokio::test]
async fn a_switch_to_another_protocol_is_an_error() {
    let backend = canned("HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: other\r\n\r\n").await;
    let (proxy, _) = proxy(backend.upstream()).await;
    let (_, head) = client(&proxy, ASK).await;
    assert!(head.starts_with("HTTP/1.1 502 "), "{head}");
}

#[tokio::test]
async fn h2c_is_never_upgraded_to() {
    let (backend, mut heads) = recorder().await;
    let (proxy, _) = proxy(backend.upstream()).await;
    let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: Upgrade, HTTP2-Settings\r\n\
               upgrade: h2c\r\nhttp2-settings: AAA\r\n\r\n";
    let (_, head) = client(&proxy, ask).await;
    assert!(head.starts_with("HTTP/1.1 204 "), "{head}");
    let seen = heads.recv().await.unwrap();
    assert!(!seen.contains("pgrade") && !seen.contains("http2-settings"), "{seen}");
}
