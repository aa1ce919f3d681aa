//! Requests, bodies, upgrades and redials over TLS.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tower_sticky::{State, Verdict, proxy::Http2};

use super::support::{Authority, Server, config, reply, says_how};
use crate::{redial, support::*, upgrade};

const LARGE: usize = 6 << 20;

#[tokio::test]
async fn large_bodies_pass_both_ways() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    for mode in [Http2::Off, Http2::On] {
        let config = config(&identity, &["h2", "http/1.1"], None);
        let server = Server::start(config, |request| async move {
            let body = request.into_body().collect().await.unwrap().to_bytes();
            http::Response::new(Full::new(body).boxed())
        })
        .await;
        let upstream = server.upstream(authority.trusted()).http2(mode);
        let sent: Bytes = (0..LARGE).map(|n| (n % 251) as u8).collect::<Vec<_>>().into();
        let request = Request::post("/").header("host", "a").body(Full::new(sent.clone()));
        let response = send(&upstream, request.unwrap()).await.unwrap();
        let received = response.into_body().collect().await.unwrap().to_bytes();
        assert!(received == sent, "{mode:?}: the body is the same");
        assert_eq!(text(send(&upstream, get("/")).await.unwrap()).await, "");
        assert_eq!(server.seen().len(), 1, "{mode:?}: the connection is used again");
    }
}

#[tokio::test]
async fn an_upgrade_runs_over_tls() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    for mode in [Http2::Off, Http2::Auto] {
        let acceptor = TlsAcceptor::from(config(&identity, &["h2", "http/1.1"], None));
        let backend = raw(move |_, socket| {
            let acceptor = acceptor.clone();
            async move {
                let mut stream = acceptor.accept(socket).await?;
                assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await?);
                }
                stream.write_all(upgrade::YES.as_bytes()).await?;
                stream.flush().await?;
                let mut buffer = [0; 64];
                loop {
                    let n = stream.read(&mut buffer).await?;
                    if n == 0 {
                        return stream.shutdown().await;
                    }
                    stream.write_all(&buffer[..n].to_ascii_uppercase()).await?;
                    stream.flush().await?;
                }
            }
        })
        .await;
        let url = backend.url.replace("http:", "https:");
        let upstream = tower_sticky::proxy::Upstream::with_tls(&url, authority.trusted()).unwrap();
        let (proxy, _holds) = upgrade::proxy(upstream.http2(mode)).await;
        let (mut client, head) = upgrade::client(&proxy, upgrade::ASK).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{mode:?}: {head}");
        upgrade::ping(&mut client).await;
        client.shutdown().await.unwrap();
        assert_eq!(client.read(&mut [0]).await.unwrap(), 0, "the end passes, too");
    }
}

#[tokio::test]
async fn a_backend_of_http2_alone_gets_the_request_without_its_upgrade() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    let server = Server::start(config(&identity, &["h2"], None), says_how).await;
    let upstream = server.upstream(authority.trusted()).http2(Http2::Auto);
    let (proxy, _holds) = upgrade::proxy(upstream.clone()).await;
    for _ in 0..3 {
        let (mut client, head) = upgrade::client(&proxy, upgrade::ASK).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        let mut body = [0; 8];
        client.read_exact(&mut body).await.unwrap();
        assert_eq!(&body, b"HTTP/2.0");
    }
    assert_eq!(server.seen().len(), 1, "one connection");
    assert_eq!(server.accepted(), 2, "HTTP/1.1 is offered once");
}

#[tokio::test]
async fn an_upgrade_to_a_backend_that_is_not_trusted_is_one_connection() {
    let (authority, other) = (Authority::unique(), Authority::unique());
    let identity = authority.server(&["127.0.0.1"]);
    for mode in [Http2::Off, Http2::Auto] {
        let server = Server::start(config(&identity, &["h2", "http/1.1"], None), says_how).await;
        let upstream = server.upstream(other.trusted()).http2(mode);
        let (proxy, _holds) = upgrade::proxy(upstream).await;
        let (_client, head) = upgrade::client(&proxy, upgrade::ASK).await;
        assert!(head.starts_with("HTTP/1.1 502 "), "{mode:?}: {head}");
        assert_eq!(server.accepted(), 1, "{mode:?}");
    }
}

#[tokio::test]
async fn requests_stay_on_http2_after_one_that_asks_for_an_upgrade() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    // Only a backend that may choose is asked for an upgrade, on a connection of its own.
    for (mode, connections) in [(Http2::Auto, 2), (Http2::On, 1)] {
        let server = Server::start(config(&identity, &["h2", "http/1.1"], None), says_how).await;
        let upstream = server.upstream(authority.trusted()).http2(mode);
        let (proxy, _holds) = upgrade::proxy(upstream.clone()).await;
        let answer = text(send(&upstream, get("/")).await.unwrap()).await;
        assert!(answer.starts_with("HTTP/2.0 "), "{mode:?}: {answer}");
        let (_client, head) = upgrade::client(&proxy, upgrade::ASK).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{mode:?}: {head}");
        let answer = text(send(&upstream, get("/")).await.unwrap()).await;
        assert!(answer.starts_with("HTTP/2.0 "), "{mode:?}: {answer}");
        assert_eq!(server.accepted(), connections, "{mode:?}");
    }
}

#[tokio::test]
async fn a_redialed_connection_is_kept_for_the_next_request() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    for mode in [Http2::Off, Http2::On, Http2::Auto] {
        let tls = config(&identity, &["h2", "http/1.1"], None);
        let ok = |_| async { reply("ok") };
        let server = Server::start(tls.clone(), ok).await;
        let other = redial::well().await;
        let a = server.upstream(authority.trusted()).http2(mode);
        let (backends, service) = redial::pool([("a", a), ("b", other.upstream())]);
        assert_eq!(redial::ask(&service, "a").await.1, Verdict::Pinned);
        let addr = server.stop().await;
        let answer = redial::ask(&service, "a").await;
        assert_eq!(answer, (200, Verdict::Moved, Some("b".into())));
        let server = Server::start_at(addr, tls, ok).await;
        redial::becomes(&backends, "a", State::Ready).await;
        assert_eq!(redial::ask(&service, "a").await, (200, Verdict::Pinned, Some("a".into())));
        assert_eq!(server.seen().len(), 1, "{mode:?}: the redialed connection is used");
    }
}

#[tokio::test]
async fn a_backend_with_a_wrong_certificate_is_suspect_until_it_has_a_good_one() {
    let authority = Authority::unique();
    let ok = |_| async { reply("ok") };
    let server = Server::start(config(&authority.valid(-9, -3), &[], None), ok).await;
    let other = redial::well().await;
    let a = server.upstream(authority.trusted());
    let (backends, service) = redial::pool([("a", a), ("b", other.upstream())]);
    let answer = redial::ask(&service, "a").await;
    assert_eq!(answer, (200, Verdict::Moved, Some("b".into())));
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(backends.get("a").unwrap().state, State::Suspect, "redials do not help");
    let addr = server.stop().await;
    let _server = Server::start_at(addr, config(&authority.valid(-3, 9), &[], None), ok).await;
    redial::becomes(&backends, "a", State::Ready).await;
    assert_eq!(redial::ask(&service, "a").await.1, Verdict::Pinned);
}

#[tokio::test]
async fn a_connection_that_ended_while_idle_is_not_used() {
    let authority = Authority::unique();
    let tls = config(&authority.server(&["127.0.0.1"]), &[], None);
    let mut server = Server::start(tls.clone(), says_how).await;
    let upstream = server.upstream(authority.trusted());
    for _ in 0..3 {
        assert_eq!(send(&upstream, get("/")).await.unwrap().status(), 200);
        let addr = server.stop().await;
        server = Server::start_at(addr, tls.clone(), says_how).await;
    }
}
