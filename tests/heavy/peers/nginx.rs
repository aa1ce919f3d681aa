//! nginx as a backend, over TLS with and without HTTP/2, and behind the PROXY protocol.

use std::process::Command;

use http::{Request, StatusCode};
use http_body_util::Full;
use tower_sticky_heavy_tests::{
    certificates::Authority,
    client::{Client, cookie},
    in_time,
    process::Gateway,
};

use crate::support::{Dir, Server, get, text};

/// What nginx answers of a request: the protocol of the connection, that of TLS, and the host.
const SAYS: &str = "$server_protocol $ssl_protocol $http_host";
/// The size of the file that it serves.
const LARGE: usize = 3 << 20;

pub struct Nginx {
    server: Server,
    dir: Dir,
}

impl Nginx {
    /// `listen` follows the address, `more` stands in the section `server`, with PORT for its port. It answers
    /// with `says`.
    pub fn start(authority: &Authority, listen: &str, says: &str, more: &str) -> Self {
        let dir = Dir::new();
        let (certificate, key) = dir.identity("server", &authority.server());
        dir.authority(authority);
        dir.file("large", vec![b'x'; LARGE]);
        let path = dir.path();
        let server = Server::start("nginx", |port| {
            let tls = if listen.contains("ssl") {
                format!("ssl_certificate {certificate}; ssl_certificate_key {key};")
            } else {
                String::new()
            };
            let more = more.replace("PORT", &port.to_string());
            let config = dir.file(
                "nginx.conf",
                format!(
                    "daemon off; pid {path}/pid; error_log stderr crit; worker_processes 1;\n\
                     events {{ }}\n\
                     http {{\n\
                       access_log off; client_max_body_size 0; client_body_temp_path {path};\n\
                       proxy_temp_path {path}; fastcgi_temp_path {path}; uwsgi_temp_path {path};\n\
                       scgi_temp_path {path};\n\
                       server {{\n\
                         listen 127.0.0.1:{port} {listen}; root {path}; {tls}\n\
                         location / {{ return 200 \"{says}\"; }}\n\
                         location = /large {{ }}\n\
                         {more}\n\
                       }}\n\
                     }}\n"
                ),
            );
            let mut command = Command::new("nginx");
            command.args(["-p", path, "-c", &config, "-e", "stderr"]);
            // A worker of another user could not read the directory.
            if rustix::process::getuid().is_root() {
                command.args(["-g", "user root;"]);
            }
            command
        });
        Self { server, dir }
    }

    pub fn entry(&self, id: &str, scheme: &str) -> String {
        format!("[[backend]]\nid = \"{id}\"\nurl = \"{scheme}://{}\"\n", self.server.addr)
    }
}

/// A gateway that trusts this authority, with these keys of `[upstream]`.
async fn gateway(dir: &Dir, authority: &Authority, upstream: &str, rest: &str) -> Gateway {
    let ca = dir.authority(authority);
    Gateway::configured(&format!("[upstream]\nca = [\"{ca}\"]\n{upstream}\n{rest}")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_protocol_is_as_configured_and_as_nginx_chooses() {
    let authority = Authority::new("ours");
    let (h2, h1) = ("ssl http2", "ssl");
    for (listen, http2, expected) in [
        (h2, "auto", "HTTP/2.0 TLSv1.3"),
        (h2, "on", "HTTP/2.0 TLSv1.3"),
        (h2, "off", "HTTP/1.1 TLSv1.3"),
        (h1, "auto", "HTTP/1.1 TLSv1.3"),
    ] {
        let protocols = "ssl_protocols TLSv1.2 TLSv1.3;";
        let nginx = Nginx::start(&authority, listen, SAYS, protocols);
        let upstream = format!("http2 = \"{http2}\"");
        let gateway = gateway(&nginx.dir, &authority, &upstream, &nginx.entry("a", "https")).await;
        let mut client = Client::new(gateway.addr);
        let said = text(&mut client, "/").await;
        assert_eq!(said, format!("{expected} {}", gateway.addr), "{listen}, {http2}");
        // A body in either direction, and many requests.
        let upload = Request::post("/").body(Full::from(vec![b'x'; LARGE])).unwrap();
        let response = in_time("a response", client.send(upload)).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        let large = get(&mut client, "/large", None).await;
        assert!(large.body().len() == LARGE && large.body().iter().all(|byte| *byte == b'x'));
        for _ in 0..50 {
            assert_eq!(text(&mut client, "/").await, said);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_1_2_and_client_certificates_are_accepted() {
    let authority = Authority::new("ours");
    let more = "ssl_protocols TLSv1.2; ssl_verify_client on; ssl_client_certificate ca.pem;";
    let nginx = Nginx::start(&authority, "ssl http2", "$ssl_protocol $ssl_client_s_dn", more);
    let (cert, key) = nginx.dir.identity("client", &authority.client());
    let upstream = format!("http2 = \"auto\"\nclient_cert = \"{cert}\"\nclient_key = \"{key}\"");
    let backend = nginx.entry("a", "https");
    let with = gateway(&nginx.dir, &authority, &upstream, &backend).await;
    assert_eq!(text(&mut Client::new(with.addr), "/").await, "TLSv1.2 CN=a-client");
    let without = gateway(&nginx.dir, &authority, "", &backend).await;
    let response = get(&mut Client::new(without.addr), "/", None).await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST, "nginx refuses it: {response:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_of_another_authority_is_refused() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let nginx = Nginx::start(&theirs, "ssl http2", SAYS, "");
    let gateway = gateway(&nginx.dir, &ours, "http2 = \"auto\"", &nginx.entry("a", "https")).await;
    let response = get(&mut Client::new(gateway.addr), "/", None).await;
    assert!(response.status().is_server_error(), "{response:?}");
}

/// nginx ends an HTTP/2 connection with GOAWAY after so many requests, and an HTTP/1.1 one with `Connection: close`.
#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_when_nginx_ends_connections() {
    let authority = Authority::new("ours");
    for http2 in ["auto", "off"] {
        let nginx = Nginx::start(&authority, "ssl http2", SAYS, "keepalive_requests 3;");
        let upstream = format!("http2 = \"{http2}\"");
        let gateway = gateway(&nginx.dir, &authority, &upstream, &nginx.entry("a", "https")).await;
        let clients = (0..8).map(|_| {
            let mut client = Client::new(gateway.addr);
            tokio::spawn(async move {
                for _ in 0..40 {
                    text(&mut client, "/").await;
                }
            })
        });
        for client in clients.collect::<Vec<_>>() {
            client.await.unwrap();
        }
    }
}

/// At SIGHUP nginx starts new workers, and its old ones end their connections.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_stay_and_no_request_fails_while_nginx_reloads() {
    let authority = Authority::new("ours");
    for http2 in ["auto", "off"] {
        let [a, b] = ["a", "b"].map(|name| Nginx::start(&authority, "ssl http2", name, ""));
        let upstream = format!("http2 = \"{http2}\"");
        let backends = a.entry("a", "https") + &b.entry("b", "https");
        let gateway = gateway(&a.dir, &authority, &upstream, &backends).await;
        let clients = (0..8).map(|_| {
            let mut client = Client::new(gateway.addr);
            tokio::spawn(async move {
                let first = get(&mut client, "/", None).await;
                let token = cookie(&first, "SERVER_ID").unwrap();
                for _ in 0..150 {
                    let response = get(&mut client, "/", Some(&token)).await;
                    assert_eq!(response.status(), StatusCode::OK);
                    assert_eq!(response.body(), first.body(), "the session stays");
                    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                }
            })
        });
        let clients: Vec<_> = clients.collect();
        for _ in 0..3 {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            a.server.signal("HUP");
            b.server.signal("HUP");
        }
        for client in clients {
            client.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_reads_the_proxy_protocol() {
    let authority = Authority::new("ours");
    for (listen, scheme) in [("proxy_protocol", "http"), ("ssl proxy_protocol", "https")] {
        for version in ["v1", "v2"] {
            let nginx = Nginx::start(
                &authority,
                listen,
                "$proxy_protocol_addr $proxy_protocol_port $connection_requests",
                "",
            );
            let upstream = format!("send_proxy = \"{version}\"");
            let backend = nginx.entry("a", scheme);
            let gateway = gateway(&nginx.dir, &authority, &upstream, &backend).await;
            let mut clients = [Client::new(gateway.addr), Client::new(gateway.addr)];
            let mut ports = Vec::new();
            for requests in 1..=3 {
                for client in &mut clients {
                    let said = text(client, "/").await;
                    let mut words = said.split(' ');
                    assert_eq!(words.next(), Some("127.0.0.1"), "{scheme}, {version}");
                    ports.push(words.next().unwrap().to_owned());
                    assert_eq!(words.next(), Some(requests.to_string().as_str()), "{said}");
                }
            }
            assert_ne!(ports[0], ports[1], "each client is told of");
            assert_eq!((&ports[0], &ports[1]), (&ports[2], &ports[3]), "and keeps its connection");
        }
    }
}
