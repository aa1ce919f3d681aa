//! ALPN and resumption.

use std::sync::Arc;

use http_body::Frame;
use http_body_util::BodyExt;
use tokio::{io::AsyncWriteExt, sync::Barrier};
use tokio_rustls::TlsAcceptor;
use tower_sticky::proxy::{Http2, Upstream};

use super::support::{Authority, Server, config, says_how};
use crate::support::*;

/// What the backend says of a request.
async fn ask(upstream: &Upstream) -> String {
    text(send(upstream, get("/")).await.unwrap()).await
}

const HTTP1: &str = "HTTP/1.1 - shop /";
const HTTP2: &str = "HTTP/2.0 https shop /";

#[tokio::test]
async fn the_backend_chooses_the_protocol() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    for (alpn, mode, expected) in [
        (&["h2", "http/1.1"][..], Http2::Auto, HTTP2),
        (&["http/1.1"], Http2::Auto, HTTP1),
        (&[], Http2::Auto, HTTP1),
        (&["h2", "http/1.1"], Http2::On, HTTP2),
        (&["h2", "http/1.1"], Http2::Off, HTTP1),
        (&[], Http2::Off, HTTP1),
    ] {
        let server = Server::start(config(&identity, alpn, None), says_how).await;
        let upstream = server.upstream(authority.trusted()).http2(mode);
        for _ in 0..3 {
            assert_eq!(ask(&upstream).await, expected, "{alpn:?} {mode:?}");
        }
        assert_eq!(server.seen().len(), 1, "one connection: {alpn:?} {mode:?}");
    }
}

#[tokio::test]
async fn http2_is_required_when_it_is_on() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    for (alpn, why) in [(&["http/1.1"][..], "ALPN"), (&[], "does not speak HTTP/2")] {
        let server = Server::start(config(&identity, alpn, None), says_how).await;
        let upstream = server.upstream(authority.trusted()).http2(Http2::On);
        let error = send(&upstream, get("/")).await.unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}

#[tokio::test]
async fn clear_text_is_http1_when_the_backend_may_choose() {
    let backend = server(false, says_how).await;
    assert_eq!(ask(&backend.upstream().http2(Http2::Auto)).await, HTTP1);
}

#[tokio::test]
async fn concurrent_first_requests_share_the_connection_of_a_backend_that_chooses_http2() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    for (alpn, connections) in [(&["h2"][..], 1..=1), (&["http/1.1"], 2..=20)] {
        let server = Server::start(config(&identity, alpn, None), says_how).await;
        let upstream = server.upstream(authority.trusted()).http2(Http2::Auto);
        let mut requests = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let upstream = upstream.clone();
            requests.spawn(async move { ask(&upstream).await });
        }
        requests.join_all().await;
        assert!(connections.contains(&server.seen().len()), "{alpn:?}");
    }
}

/// The first connection shows that the backend chooses HTTP/1.1. Those that have waited for it connect all at once.
#[tokio::test]
async fn requests_do_not_wait_for_each_other_once_the_backend_has_chosen_http1() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    let acceptor = TlsAcceptor::from(config(&identity, &["http/1.1"], None));
    let both = Arc::new(Barrier::new(2));
    let backend = raw(move |number, socket| {
        let (acceptor, both) = (acceptor.clone(), both.clone());
        async move {
            if number > 0 {
                both.wait().await;
            }
            let mut stream = acceptor.accept(socket).await?;
            while read_head(&mut stream).await?.is_some() {
                stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await?;
                stream.flush().await?;
            }
            Ok(())
        }
    })
    .await;
    let url = backend.url.replace("http:", "https:");
    let upstream = Upstream::with_tls(&url, authority.trusted()).unwrap().http2(Http2::Auto);
    let mut requests = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let upstream = upstream.clone();
        requests.spawn(async move { send(&upstream, get("/")).await.unwrap().status() });
    }
    assert_eq!(requests.join_all().await, [204; 3]);
    assert_eq!(backend.accepted(), 3);
}

#[tokio::test]
async fn a_backend_may_change_its_protocol_when_it_restarts() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    let alpn = |http2| if http2 { &["h2", "http/1.1"][..] } else { &["http/1.1"] };
    let mut server = Server::start(config(&identity, alpn(false), None), says_how).await;
    let upstream = server.upstream(authority.trusted()).http2(Http2::Auto);
    assert_eq!(ask(&upstream).await, HTTP1);
    for http2 in [true, false, true] {
        let addr = server.stop().await;
        server = Server::start_at(addr, config(&identity, alpn(http2), None), says_how).await;
        for _ in 0..3 {
            assert_eq!(ask(&upstream).await, if http2 { HTTP2 } else { HTTP1 });
        }
        assert_eq!(server.seen().len(), 1);
    }
}

#[tokio::test]
async fn sessions_are_resumed_by_later_connections() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let config = super::support::config_of(&identity, &[], None, versions);
        let server = Server::start(config, says_how).await;
        // Each request has a connection of its own.
        let upstream = server.upstream(authority.trusted()).max_idle(0);
        for _ in 0..4 {
            ask(&upstream).await;
        }
        let resumed: Vec<_> = server.seen().iter().map(|seen| seen.resumed).collect();
        assert_eq!(resumed, [false, true, true, true]);
        ask(&server.upstream(authority.trusted())).await;
        assert!(!server.seen()[4].resumed, "another backend has sessions of its own");
    }
}

#[tokio::test]
async fn trailers_pass_over_tls() {
    let authority = Authority::unique();
    let identity = authority.server(&["127.0.0.1"]);
    let server = Server::start(config(&identity, &["h2"], None), |request| async move {
        let body = request.into_body().collect().await.unwrap();
        let trailers = body.trailers().cloned().unwrap();
        let (sender, answer) = channel();
        sender.send(Frame::data(body.to_bytes())).unwrap();
        sender.send(Frame::trailers(trailers)).unwrap();
        drop(sender);
        let collected = answer.collect().await.unwrap();
        http::Response::new(http_body_util::BodyExt::boxed(collected))
    })
    .await;
    let upstream = server.upstream(authority.trusted()).http2(Http2::Auto);
    let (sender, body) = channel();
    sender.send(Frame::data("data".into())).unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().unwrap());
    sender.send(Frame::trailers(trailers)).unwrap();
    drop(sender);
    let request = http::Request::post("/").header("host", "a").header("te", "trailers");
    let answer = send(&upstream, request.body(body).unwrap()).await.unwrap();
    let answer = answer.into_body().collect().await.unwrap();
    assert_eq!(answer.trailers().unwrap()["grpc-status"], "0");
    assert_eq!(answer.to_bytes(), "data");
}
