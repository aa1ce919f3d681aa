//! curl as a client of the gateway's listeners: TLS with both protocols and client certificates, Unix sockets, and
//! the PROXY protocol.

use std::{fs, path::PathBuf};

use axum::Router;
use http::HeaderMap;
use tokio::{net::TcpListener, process::Command};
use tower_sticky_heavy_tests::{certificates::Authority, in_time, listening::Listening};

/// A backend that shows the header fields of its requests.
pub(crate) async fn backend() -> String {
    let show = |headers: HeaderMap| async move {
        let lines =
            headers.iter().map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()));
        lines.collect::<String>()
    };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(show)).await });
    url
}

/// PEM files of a test, in a directory that is removed with it.
pub(crate) struct Files(PathBuf);

impl Files {
    pub(crate) fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("{test}-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let files = Self(dir);
        let authority = Authority::new("ca");
        files.write("ca.pem", &authority.pem());
        for (name, identity) in [("server", authority.server()), ("client", authority.client())] {
            files.write(&format!("{name}.pem"), &identity.certificate);
            files.write(&format!("{name}.key"), &identity.key);
        }
        files
    }

    pub(crate) fn write(&self, name: &str, content: &str) {
        fs::write(self.0.join(name), content).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// The key `certificates` of the gateway's file.
    pub(crate) fn certificates(&self) -> String {
        let (cert, key) = (self.path("server.pem"), self.path("server.key"));
        format!("certificates = [{{ cert = \"{cert}\", key = \"{key}\" }}]")
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What curl prints, the head of the response included; `Err` is its exit code.
async fn curl(args: &[&str]) -> Result<String, i32> {
    let output = Command::new("curl").args(["-sS", "-i", "--max-time", "20"]).args(args).output();
    let output = in_time("curl ends", output).await.expect("curl is installed");
    match output.status.code() {
        Some(0) => Ok(String::from_utf8(output.stdout).unwrap()),
        code => Err(code.unwrap()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_speaks_both_protocols_over_tls_and_shows_a_certificate() {
    let files = Files::new("curl-tls");
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\nclient_cert_header = true\n\
         tls = {{ {}, client_ca = \"{}\", client_auth = \"require\" }}\n\
         [[backend]]\nid = \"a\"\nurl = \"{}\"",
        files.certificates(),
        files.path("ca.pem"),
        backend().await
    );
    let gateway = Listening::start(&config, 1).await;
    let url = format!("https://{}/", gateway.addr(0));
    let (ca, cert, key) =
        (files.path("ca.pem"), files.path("client.pem"), files.path("client.key"));
    let known = ["--cacert", &ca, "--cert", &cert, "--key", &key];
    for (option, status) in
        [("--http2", "HTTP/2 200"), ("--http1.1", "HTTP/1.1 200"), ("--tls-max=1.2", "HTTP/2 200")]
    {
        let option = match option.split_once('=') {
            Some((name, value)) => vec![name, value],
            None => vec![option],
        };
        // Both requests use one connection.
        let answers = curl(&[&known[..], &option, &[&url, &url]].concat()).await.unwrap();
        assert_eq!(answers.matches(status).count(), 2, "{option:?}: {answers}");
        assert!(answers.contains("x-forwarded-proto: https"), "{answers}");
        assert!(answers.contains("; Secure"), "{answers}");
        let told = "x-forwarded-client-cert: Subject=\"CN=a-client\"";
        assert!(answers.contains(told), "{answers}");
    }
    let refused = curl(&["--cacert", &ca, &url]).await.unwrap_err();
    // Of TLS, or what is left of it when the refusal comes after the handshake.
    assert!([35, 52, 55, 56].contains(&refused), "without a certificate: curl ends with {refused}");
    let refused = curl(&[&url]).await.unwrap_err();
    assert_eq!(refused, 60, "the authority is not known to curl");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_connects_to_unix_sockets_and_sends_the_proxy_protocol() {
    let files = Files::new("curl-unix");
    let socket = files.path("gateway.sock");
    let config = format!(
        "trusted_proxies = [\"127.0.0.0/8\"]\n\
         [[listener]]\naddress = \"unix:{socket}\"\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\nproxy_protocol = \"require\"\n\
         [[backend]]\nid = \"a\"\nurl = \"{}\"",
        backend().await
    );
    let gateway = Listening::start(&config, 2).await;
    let seen = curl(&["--unix-socket", &socket, "http://shop.test/"]).await.unwrap();
    assert!(seen.contains("host: shop.test") && !seen.contains("x-forwarded-for"), "{seen}");
    let url = format!("http://{}/", gateway.addr(1));
    let seen = curl(&["--haproxy-protocol", &url]).await.unwrap();
    assert!(seen.contains("x-forwarded-for: 127.0.0.1"), "{seen}");
    let refused = curl(&[&url]).await.unwrap_err();
    assert!([52, 56].contains(&refused), "without it the connection is closed: {refused}");
}
