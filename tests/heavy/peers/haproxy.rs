//! HAProxy, behind the gateway and in front of it, with the PROXY protocol.

use std::{net::SocketAddr, process::Command};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};
use tower::ServiceExt;
use tower_sticky::{
    Backends, Health, HttpProbe, Peer, Redial, State, StickyLayer,
    affinity::Cookie,
    proxy::{ProxyProtocol, Upstream},
};
use tower_sticky_heavy_tests::{
    certificates::Authority, client::Client, in_time, process::Gateway, until,
};

use crate::{
    nginx::Nginx,
    support::{Dir, Server},
};

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

/// The gateway behind HAProxy, which sends it the PROXY protocol.
#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_takes_the_client_from_haproxy() {
    let authority = Authority::new("ours");
    let backend = Nginx::start(&authority, "", "$http_x_forwarded_for", "");
    for version in ["send-proxy", "send-proxy-v2"] {
        let gateway = Gateway::listening(&format!(
            "trusted_proxies = [\"127.0.0.1\"]\n\
             [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"require\"\n{}",
            backend.entry("a", "http")
        ))
        .await;
        let dir = Dir::new();
        let server = Server::start("haproxy", |port| {
            let config = dir.file(
                "haproxy.cfg",
                format!(
                    "defaults\n  mode tcp\n  timeout client 60s\n  timeout connect 5s\n  timeout server 60s\n\
                     listen l\n  bind 127.0.0.1:{port}\n  server gateway {} {version}\n",
                    gateway.addr
                ),
            );
            let mut command = Command::new("haproxy");
            command.args(["-db", "-q", "-f", &config]);
            command
        });
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.7:0".parse().unwrap()).unwrap();
        let mut stream = socket.connect(server.addr).await.unwrap();
        let request =
            b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 6.6.6.6\r\nconnection: close\r\n\r\n";
        stream.write_all(request).await.unwrap();
        let mut said = String::new();
        in_time("a response", stream.read_to_string(&mut said)).await.unwrap();
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        assert!(said.ends_with("\r\n\r\n127.0.0.7"), "{version}: {said}");
    }
}

/// `-s -4`: a file has no fields of a syslog daemon before each line.
#[tokio::test]
async fn halog_reads_the_access_log() {
    let dir = Dir::new();
    let (server, log) = (haproxy(&dir), dir.file("access.log", String::new()));
    let gateway = Gateway::configured(&format!(
        "[access_log]\nformat = \"haproxy\"\nfile = {log:?}\n[[backend]]\nid = \"a\"\n\
         url = \"http://{}\"\nsend_proxy = \"v1\"\n",
        server.addr
    ))
    .await;
    let mut client = Client::new(gateway.addr);
    for path in ["/cart", "/cart", "/checkout"] {
        let request = Request::get(path).body(Full::default()).unwrap();
        assert_eq!(in_time(path, client.send(request)).await.unwrap().status(), 200);
    }
    until("the lines are written", || std::fs::read_to_string(&log).unwrap().lines().count() == 3)
        .await;
    let halog = |output: &str| {
        let lines = std::fs::File::open(&log).unwrap();
        let mut halog = Command::new("halog");
        let printed = halog.args(["-q", "-s", "-4", output]).stdin(lines).output().unwrap();
        String::from_utf8(printed.stdout).unwrap()
    };
    let servers = halog("-srv");
    assert!(
        servers.lines().any(|it| it.starts_with("default/a 0 3 0 0 0 0 3 3 100.0 ")),
        "{servers}"
    );
    assert_eq!(halog("-st").trim(), "200 3", "of each status");
    assert_eq!(halog("-tc").trim(), "-- 3", "of each way to end");
    let targets = halog("-u");
    assert!(targets.lines().any(|it| it.starts_with("2 ") && it.ends_with(" /cart")), "{targets}");
}
