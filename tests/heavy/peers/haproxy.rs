//! HAProxy as a backend that expects the PROXY protocol.

use std::{net::SocketAddr, process::Command};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use tower::ServiceExt;
use tower_sticky::{
    Backends, Health, HttpProbe, Peer, Redial, State, StickyLayer,
    affinity::Cookie,
    proxy::{ProxyProtocol, Upstream},
};
use tower_sticky_heavy_tests::{in_time, until};

use crate::support::{Dir, Server};

/// It answers with the client's address, as it takes it from the header, and refuses connections without one.
fn haproxy(dir: &Dir) -> Server {
    Server::start("haproxy", |port| {
        let config = dir.file(
            "haproxy.cfg",
            format!(
                "defaults\n  mode http\n  timeout client 60s\n  timeout connect 5s\n  timeout server 60s\n\
                 frontend f\n  bind 127.0.0.1:{port} accept-proxy\n  \
                 http-request return status 200 content-type text/plain lf-string \"%[src]:%[src_port]\"\n"
            ),
        );
        let mut command = Command::new("haproxy");
        command.args(["-db", "-q", "-f", &config]);
        command
    })
}

async fn source(upstream: &Upstream, peer: Option<SocketAddr>) -> String {
    let mut request = Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap();
    if let Some(peer) = peer {
        request.extensions_mut().insert(Peer::new(peer));
    }
    let response = in_time("a response", upstream.clone().oneshot(request)).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[tokio::test]
async fn haproxy_sees_the_clients_addresses() {
    let dir = Dir::new();
    let server = haproxy(&dir);
    for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
        let url = format!("http://{}", server.addr);
        let upstream = Upstream::new(&url).unwrap().send_proxy(version).unwrap();
        for _ in 0..3 {
            for client in ["192.0.2.1:51000", "192.0.2.2:51000", "[2001:db8::1]:51000"] {
                let seen = source(&upstream, Some(client.parse().unwrap())).await;
                assert_eq!(seen.replace(['[', ']'], ""), client.replace(['[', ']'], ""));
            }
            // For LOCAL and UNKNOWN that of the connection itself.
            assert!(source(&upstream, None).await.starts_with("127.0.0.1:"));
        }
        upstream.redial().await.unwrap();
    }
}

#[tokio::test]
async fn probes_pass_only_with_the_header() {
    let dir = Dir::new();
    let server = haproxy(&dir);
    let url = format!("http://{}", server.addr);
    let plain = Upstream::new(&url).unwrap();
    let backends = Backends::from_iter([
        ("with", plain.clone().send_proxy(ProxyProtocol::V2).unwrap()),
        ("without", plain),
    ]);
    let health = Health::new().probe(HttpProbe::get("/").expect_status(200));
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid")).health(health);
    assert!(layer.start::<Request<Empty<Bytes>>>());
    let state = |id: &str| backends.get(id).unwrap().state;
    until("the probes have decided", || state("without") == State::Down).await;
    let with = backends.get("with").unwrap();
    assert_eq!((with.state, with.probe_failure), (State::Ready, None));
}
