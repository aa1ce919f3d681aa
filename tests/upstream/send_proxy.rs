//! The PROXY protocol to backends, which parse it from their sockets.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header::COOKIE};
use http_body_util::Empty;
use proxy_header::{ParseConfig, ProxiedAddress, ProxyHeader};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{sleep, timeout},
};
use tower::ServiceExt;
use tower_sticky::{
    Backends, Health, HttpProbe, Peer, Redial, State, StickyLayer,
    affinity::Cookie,
    proxy::{Http2, ProxyProtocol, Upstream},
};

use crate::support::{Backend, get, raw, read_head, send, text};

/// Longer than anything takes; a test that waits for it has failed.
const FOREVER: Duration = Duration::from_secs(60);
const VERSIONS: [ProxyProtocol; 2] = [ProxyProtocol::V1, ProxyProtocol::V2];

/// What a backend has seen of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    /// The number of the connection, and its header.
    Header(usize, Option<ProxiedAddress>),
    Closed(usize),
}

/// Reads a header, byte by byte so that nothing after it is taken. Version 1 begins with `P`.
async fn read_header(socket: &mut TcpStream) -> io::Result<(bool, Option<ProxiedAddress>)> {
    let mut bytes = vec![socket.read_u8().await?];
    loop {
        bytes.push(socket.read_u8().await?);
        if let Ok((header, length)) = ProxyHeader::parse(&bytes, ParseConfig::default()) {
            assert_eq!(length, bytes.len());
            return Ok((bytes[0] == b'P', header.proxied_address().cloned()));
        }
    }
}

/// A backend that answers with the number of the connection, and closes it after `most` responses.
async fn backend(version: ProxyProtocol, most: usize) -> (Backend, mpsc::UnboundedReceiver<Seen>) {
    let (sender, seen) = mpsc::unbounded_channel();
    let backend = raw(move |number, mut socket| {
        let sender = sender.clone();
        async move {
            let (is_v1, header) = read_header(&mut socket).await?;
            assert_eq!(is_v1, version == ProxyProtocol::V1);
            let _ = sender.send(Seen::Header(number, header));
            for _ in 0..most {
                if read_head(&mut socket).await?.is_none() {
                    break;
                }
                let text = number.to_string();
                let length = text.len();
                let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
                socket.write_all(response.as_bytes()).await?;
            }
            let _ = sender.send(Seen::Closed(number));
            Ok(())
        }
    })
    .await;
    (backend, seen)
}

async fn next(seen: &mut mpsc::UnboundedReceiver<Seen>) -> Seen {
    timeout(FOREVER, seen.recv()).await.expect("an event in time").unwrap()
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn of(peer: Peer) -> Request<Empty<Bytes>> {
    let mut request = get("/");
    request.extensions_mut().insert(peer);
    request
}

/// The number of the connection over which a request of this client goes.
async fn ask(upstream: &Upstream, client: SocketAddr) -> usize {
    text(send(upstream, of(Peer::new(client))).await.unwrap()).await.parse().unwrap()
}

#[tokio::test]
async fn clients_share_no_connection_and_reuse_their_own() {
    for version in VERSIONS {
        let (backend, mut seen) = backend(version, usize::MAX).await;
        let upstream = backend.upstream().send_proxy(version).unwrap();
        // Two connections of one address are two clients, as the header has the port.
        let clients = ["192.0.2.1:51000", "192.0.2.1:51001", "[2001:db8::1]:51000"].map(addr);
        let mut numbers = Vec::new();
        for client in clients {
            numbers.push(ask(&upstream, client).await);
            let Seen::Header(number, Some(header)) = next(&mut seen).await else {
                panic!("a header with addresses is expected");
            };
            assert_eq!(Some(&number), numbers.last());
            assert_eq!(header.source, client);
            assert_eq!(header.destination.ip().to_canonical(), IpAddr::from([127, 0, 0, 1]));
            assert_ne!(header.destination.port(), 0, "the destination is this end");
        }
        for _ in 0..20 {
            for (client, number) in clients.into_iter().zip(&numbers) {
                assert_eq!(ask(&upstream, client).await, *number, "{client} keeps its connection");
            }
        }
        assert_eq!(backend.accepted(), 3);
    }
}

#[tokio::test]
async fn requests_of_one_client_at_once_have_connections_of_their_own() {
    let (backend, _seen) = backend(ProxyProtocol::V2, usize::MAX).await;
    let upstream = backend.upstream().send_proxy(ProxyProtocol::V2).unwrap();
    let client = addr("192.0.2.1:51000");
    let pair = async || {
        let first = send(&upstream, of(Peer::new(client))).await.unwrap();
        let second = send(&upstream, of(Peer::new(client))).await.unwrap();
        [text(first).await, text(second).await].into_iter().collect::<BTreeSet<_>>()
    };
    let numbers = pair().await;
    assert_eq!(numbers.len(), 2);
    assert_eq!(pair().await, numbers, "both are kept for this client");
    assert_ne!(ask(&upstream, addr("192.0.2.2:51000")).await, 0);
    assert_eq!(backend.accepted(), 3);
}

#[tokio::test]
async fn without_an_address_the_connection_is_local_and_is_not_reused() {
    for version in VERSIONS {
        let (backend, mut seen) = backend(version, usize::MAX).await;
        let upstream = backend.upstream().send_proxy(version).unwrap();
        // The peer of a Unix socket has the unspecified address.
        let requests = [get("/"), of(Peer::new(addr("0.0.0.0:0"))), get("/")];
        for (number, request) in requests.into_iter().enumerate() {
            let response = send(&upstream, request).await.unwrap();
            assert_eq!(text(response).await, number.to_string());
            assert_eq!(next(&mut seen).await, Seen::Header(number, None));
            assert_eq!(next(&mut seen).await, Seen::Closed(number), "after the response");
        }
        assert_eq!(ask(&upstream, addr("192.0.2.1:51000")).await, 3, "it is given to no client");
    }
}

#[tokio::test]
async fn a_request_that_is_sent_again_has_a_header_again() {
    let (backend, mut seen) = backend(ProxyProtocol::V1, 1).await;
    let upstream = backend.upstream().send_proxy(ProxyProtocol::V1).unwrap();
    let client = addr("192.0.2.1:51000");
    for number in 0..5 {
        assert_eq!(ask(&upstream, client).await, number, "the kept connection has ended");
        let Seen::Header(seen_number, Some(header)) = next(&mut seen).await else {
            panic!("a header with addresses is expected");
        };
        assert_eq!((seen_number, header.source), (number, client));
        assert_eq!(next(&mut seen).await, Seen::Closed(number));
    }
}

#[tokio::test]
async fn the_next_backend_of_a_failover_is_sent_a_header_too() {
    let (backend, mut seen) = backend(ProxyProtocol::V2, usize::MAX).await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = Upstream::new(&format!("http://{}", closed.local_addr().unwrap())).unwrap();
    drop(closed);
    let backends = Backends::from_iter([
        ("a", refusing.send_proxy(ProxyProtocol::V2).unwrap()),
        ("b", backend.upstream().send_proxy(ProxyProtocol::V2).unwrap()),
    ]);
    let service = StickyLayer::new(backends, Cookie::plain("sid")).into_service();
    let client = addr("192.0.2.1:51000");
    let mut request = of(Peer::new(client));
    request.headers_mut().insert(COOKIE, "sid=a".parse().unwrap());
    let response = service.oneshot(request).await.unwrap();
    assert_eq!(response.status(), 200);
    match next(&mut seen).await {
        Seen::Header(0, Some(header)) => assert_eq!(header.source, client),
        other => panic!("a header with addresses is expected, not {other:?}"),
    }
}

#[tokio::test]
async fn probes_and_redials_are_local_and_are_given_to_no_request() {
    for version in VERSIONS {
        let (backend, mut seen) = backend(version, usize::MAX).await;
        let upstream = backend.upstream().send_proxy(version).unwrap();
        upstream.redial().await.unwrap();
        assert_eq!(next(&mut seen).await, Seen::Header(0, None));
        assert_eq!(next(&mut seen).await, Seen::Closed(0), "as soon as it has connected");

        let backends = Backends::from_iter([("a", upstream.clone())]);
        let health = Health::new().probe(HttpProbe::get("/")).probe_interval(FOREVER);
        let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid")).health(health.seed(1));
        assert!(layer.start::<Request<Empty<Bytes>>>());
        assert_eq!(next(&mut seen).await, Seen::Header(1, None));
        assert_eq!(next(&mut seen).await, Seen::Closed(1));
        while backends.get("a").unwrap().state != State::Ready {
            sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(ask(&upstream, addr("192.0.2.1:51000")).await, 2);
    }
}

#[tokio::test]
async fn the_oldest_connection_makes_room_for_another_client() {
    let (backend, mut seen) = backend(ProxyProtocol::V2, usize::MAX).await;
    let upstream = backend.upstream().max_idle(2).send_proxy(ProxyProtocol::V2).unwrap();
    let [a, b, c] = ["192.0.2.1:1", "192.0.2.1:2", "192.0.2.1:3"].map(addr);
    for client in [a, b, a, c] {
        ask(&upstream, client).await;
    }
    for number in 0..3 {
        assert!(matches!(next(&mut seen).await, Seen::Header(n, _) if n == number));
    }
    assert_eq!(next(&mut seen).await, Seen::Closed(1), "that of b was idle for longest");
    assert_eq!(ask(&upstream, a).await, 0);
    assert_eq!(ask(&upstream, c).await, 2);
}

#[tokio::test]
async fn http2_is_refused() {
    let upstream = || Upstream::new("http://127.0.0.1:1").unwrap();
    for http2 in [Http2::On, Http2::Auto] {
        let error = upstream().http2(http2).send_proxy(ProxyProtocol::V2).unwrap_err();
        assert!(error.to_string().contains("HTTP/2"), "{error}");
    }
    // Set in the other order, no connection is used.
    let (backend, _seen) = backend(ProxyProtocol::V2, usize::MAX).await;
    let upstream = backend.upstream().send_proxy(ProxyProtocol::V2).unwrap().http2(Http2::On);
    let error = send(&upstream, of(Peer::new(addr("192.0.2.1:1")))).await.unwrap_err();
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    assert!(text.contains("cannot be spoken to with HTTP/2"), "{text}");
}

/// The header is not encrypted.
#[cfg(feature = "tls")]
#[tokio::test]
async fn the_header_precedes_tls() {
    let (sender, mut first) = mpsc::unbounded_channel();
    let backend = raw(move |_, mut socket| {
        let sender = sender.clone();
        async move {
            let (_, header) = read_header(&mut socket).await?;
            let _ = sender.send((header.map(|header| header.source), socket.read_u8().await?));
            Ok(())
        }
    })
    .await;
    let url = backend.url.replace("http:", "https:");
    let upstream = Upstream::new(&url).unwrap().send_proxy(ProxyProtocol::V2).unwrap();
    let client = addr("192.0.2.1:51000");
    assert!(send(&upstream, of(Peer::new(client))).await.is_err(), "it speaks no TLS");
    let handshake = 22;
    assert_eq!(first.recv().await.unwrap(), (Some(client), handshake));
}
