//! The PROXY protocol from clients, in each mode.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tower_sticky::serve::{Limits, ProxyProtocol, ServerHandle};

use crate::support::{GET, any_port, connect, exchange, is_closed, server};

const V1: &str = "PROXY TCP4 192.0.2.7 10.0.0.1 4660 80\r\n";

fn v2(command: u8) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, 0x11, 0, 12, 192, 0, 2, 7, 10, 0, 0, 1, 0x12, 0x34, 0, 80]);
    header
}

/// A server whose only client, this machine, is trusted or not.
async fn start(mode: ProxyProtocol, trusted: &[&str]) -> ServerHandle {
    let listener = any_port().await.proxy_protocol(mode);
    let limits = Limits::new().header_timeout(Duration::from_millis(300));
    let trusted = trusted.iter().map(|network| network.parse().unwrap());
    server(listener).trusted_proxies(trusted).limits(limits).start().unwrap()
}

async fn answer(server: &ServerHandle, header: impl AsRef<[u8]>) -> String {
    let bytes = [header.as_ref(), GET.as_bytes()].concat();
    exchange(&mut connect(server).await, bytes).await
}

const LOCAL: &[&str] = &["127.0.0.0/8"];

#[tokio::test]
async fn the_address_in_the_header_is_that_of_the_peer() {
    for mode in [ProxyProtocol::Accept, ProxyProtocol::Require] {
        let server = start(mode, LOCAL).await;
        for header in [V1.as_bytes().to_vec(), v2(0x21)] {
            let answer = answer(&server, header).await;
            assert!(answer.contains("peer=192.0.2.7:4660 trusted=false"), "{mode:?}: {answer}");
        }
        assert_eq!(server.proxy_protocol_errors(), 0);
    }
}

#[tokio::test]
async fn the_address_in_the_header_decides_about_trust() {
    let server = start(ProxyProtocol::Accept, &["127.0.0.0/8", "192.0.2.0/24"]).await;
    assert!(answer(&server, V1).await.contains("peer=192.0.2.7:4660 trusted=true"));
}

#[tokio::test]
async fn local_and_unknown_mean_the_peer_of_the_socket() {
    let server = start(ProxyProtocol::Require, LOCAL).await;
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), v2(0x20)] {
        let answer = answer(&server, header).await;
        assert!(answer.contains("peer=127.0.0.1:") && answer.contains("trusted=true"), "{answer}");
    }
}

#[tokio::test]
async fn bad_headers_are_closed_and_counted() {
    let server = start(ProxyProtocol::Require, LOCAL).await;
    let mut too_long = v2(0x21);
    too_long[14] = 0x20;
    let bad = [
        GET.as_bytes().to_vec(),
        b"PROXY TCP4 nonsense\r\n".to_vec(),
        [b"PROXY UNKNOWN ", &[b'a'; 200][..]].concat(),
        too_long,
    ];
    for (count, header) in (1..).zip(&bad) {
        let mut client = connect(&server).await;
        client.write_all(header).await.unwrap();
        assert!(is_closed(&mut client).await, "{}", header.escape_ascii());
        assert_eq!(server.proxy_protocol_errors(), count);
    }
    let mut slow = connect(&server).await;
    slow.write_all(b"PROXY TC").await.unwrap();
    assert!(is_closed(&mut slow).await, "after the header timeout");
    assert_eq!(server.proxy_protocol_errors(), 5);
    let mut check = connect(&server).await;
    check.shutdown().await.unwrap();
    assert!(is_closed(&mut check).await);
    assert_eq!(server.proxy_protocol_errors(), 5, "a health check that sends nothing is no error");
    assert_eq!(server.open_connections(), 0);
}

#[tokio::test]
async fn untrusted_peers_may_not_send_it() {
    let server = start(ProxyProtocol::Accept, &[]).await;
    assert!(answer(&server, "").await.contains("peer=127.0.0.1:"));
    assert!(answer(&server, V1).await.starts_with("HTTP/1.1 400"), "it is not read as a header");
    let server = start(ProxyProtocol::Require, &[]).await;
    let mut client = connect(&server).await;
    let _ = client.write_all(V1.as_bytes()).await;
    assert!(is_closed(&mut client).await, "only trusted proxies may connect");
    assert_eq!(server.proxy_protocol_errors(), 1);
}

#[tokio::test]
async fn without_the_option_it_is_a_malformed_request() {
    let server = start(ProxyProtocol::Off, LOCAL).await;
    assert!(answer(&server, V1).await.starts_with("HTTP/1.1 400"));
}

#[cfg(unix)]
#[tokio::test]
async fn a_peer_on_a_unix_socket_sends_it() {
    let path = std::env::temp_dir().join(format!("tower-sticky-proxy-{}", std::process::id()));
    let listener = tower_sticky::serve::Listener::unix(&path, 0o600).unwrap();
    let listener = listener.proxy_protocol(ProxyProtocol::Require);
    let server = server(listener).start().unwrap();
    let mut client = tokio::net::UnixStream::connect(&path).await.unwrap();
    let answer = exchange(&mut client, format!("{V1}{GET}")).await;
    assert!(answer.contains("peer=192.0.2.7:4660 trusted=false"), "{answer}");
    server.shutdown(Duration::from_secs(1)).await;
}
