//! `[[listener]]`: several listeners, Unix sockets, the PROXY protocol and TLS.

use std::path::PathBuf;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::UnixStream,
};

use crate::{
    backends::echo,
    listening::Listening,
    process::{ConfigFile, run},
};

/// The response to a request, to the end of the connection.
async fn get(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    before: &str,
    header: &str,
) -> String {
    let request =
        format!("{before}GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n{header}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    text
}

fn path(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("gateway-{}-{name}", std::process::id()))
}

#[tokio::test]
async fn one_gateway_has_several_listeners() {
    let backend = echo("a").await;
    let socket = path("several.sock");
    let config = format!(
        "trusted_proxies = [\"127.0.0.0/8\"]\n\
         [[listener]]\naddress = \"127.0.0.1:0\"\n\
         [[listener]]\naddress = \"unix:{}\"\nmode = \"0600\"\n\
         [[listener]]\naddress = \"localhost:0\"\nproxy_protocol = \"require\"\n\
         {}",
        socket.display(),
        backend.entry("a")
    );
    let gateway = Listening::start(&config, 3).await;
    assert!(gateway.urls[0].starts_with("http://127.0.0.1:"), "{:?}", gateway.urls);
    assert_eq!(gateway.urls[1], format!("unix:{}", socket.display()));
    let seen = get(gateway.connect(0).await, "", "").await;
    assert!(seen.contains(r#""x-forwarded-for":["127.0.0.1"]"#), "{seen}");
    let unix = || UnixStream::connect(&socket);
    let seen = get(unix().await.unwrap(), "", "").await;
    assert!(!seen.contains("x-forwarded-for"), "a peer on a Unix socket has no address: {seen}");
    let said = "x-forwarded-for: 192.0.2.9\r\nx-forwarded-proto: https\r\n";
    let seen = get(unix().await.unwrap(), "", said).await;
    assert!(seen.contains(r#""x-forwarded-for":["192.0.2.9"]"#), "it is trusted: {seen}");
    assert!(seen.contains("; Secure"), "a trusted proxy has said https: {seen}");
    let seen = get(gateway.connect(2).await, "PROXY TCP4 192.0.2.7 10.0.0.1 1 2\r\n", said).await;
    assert!(seen.contains(r#""x-forwarded-for":["192.0.2.7"]"#), "that one is not trusted: {seen}");
    assert!(seen.contains(r#""x-forwarded-proto":["http"]"#), "{seen}");
    gateway.stop().await;
    assert!(!socket.exists(), "the socket is removed");
}

#[tokio::test]
async fn sockets_that_cannot_be_opened_are_named() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let taken = listener.local_addr().unwrap().to_string();
    for (address, expected) in [
        (&*taken, &["in use", "another address"][..]),
        ("unix:/no/such/dir/a.sock", &["create the directory"]),
        ("unix:/dev/null", &["not a socket"]),
    ] {
        let file = ConfigFile::new(&format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"{address}\"\n\
             [[backend]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\""
        ));
        let path = file.path().to_str().unwrap();
        refused(&["--config", path], address, expected).await;
        let checked = run(&["--check", "--config", path], &[]).await;
        assert!(checked.status.success(), "a check opens no sockets");
    }
}

async fn refused(args: &[&str], address: &str, expected: &[&str]) {
    let output = run(args, &[]).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    for part in ["listener[1].address", address].iter().chain(expected) {
        assert!(stderr.contains(part), "{part} is missing in {stderr}");
    }
}

#[cfg(feature = "tls")]
mod tls {
    use std::sync::Arc;

    use tokio::net::TcpStream;
    use tokio_rustls::{TlsConnector, client::TlsStream};

    use super::*;
    use crate::{
        authority::{Authority, Identity},
        files::Files,
    };

    /// A certificate for `certificates`.
    fn pair_of(files: &Files, identity: &Identity) -> String {
        let (cert, key) = files.identity(identity);
        format!("{{ cert = \"{cert}\", key = \"{key}\" }}")
    }

    async fn handshake(
        gateway: &Listening,
        authority: &Authority,
        identity: &Identity,
    ) -> TlsStream<TcpStream> {
        let config = authority
            .client_config(rustls::DEFAULT_VERSIONS)
            .with_client_auth_cert(vec![identity.der()], identity.key_der())
            .unwrap();
        let socket = gateway.connect(0).await;
        let name = "a.test".try_into().unwrap();
        TlsConnector::from(Arc::new(config)).connect(name, socket).await.unwrap()
    }

    fn config(backend: &str, tls: &str, more: &str) -> String {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ {tls} }}\n{more}\n\
             {backend}"
        )
    }

    #[tokio::test]
    async fn a_listener_with_tls_makes_cookies_secure_and_tells_the_client_certificate() {
        let backend = echo("a").await;
        let files = Files::new();
        let authority = Authority::new("ca");
        let (old, new) = (authority.sign(&["a.test"]), authority.sign(&["a.test"]));
        let ca = files.write("ca.pem", &authority.pem());
        let pair = pair_of(&files, &old);
        let tls = format!(
            "certificates = [{pair}], client_ca = \"{ca}\", client_auth = \"require\", \
             reload_every = \"1h\""
        );
        let config = config(&backend.entry("a"), &tls, "client_cert_header = true");
        let gateway = Listening::start(&config, 1).await;
        assert!(gateway.urls[0].starts_with("https://127.0.0.1:"), "{:?}", gateway.urls);
        let alice = authority.sign(&["alice"]);
        let stream = handshake(&gateway, &authority, &alice).await;
        let forged = "x-forwarded-client-cert: Subject=\"CN=root\"\r\n";
        let seen = get(stream, "", forged).await;
        assert!(seen.contains(r#""x-forwarded-proto":["https"]"#), "{seen}");
        assert!(seen.contains("; Secure"), "{seen}");
        assert!(seen.contains(r#"["Subject=\"CN=alice,O=Shop\""]"#), "{seen}");
        assert!(!seen.contains("CN=root"), "{seen}");
        pair_of(&files, &new);
        gateway.signal("HUP").await;
        let renewed = async {
            loop {
                let stream = handshake(&gateway, &authority, &alice).await;
                if stream.get_ref().1.peer_certificates().unwrap()[0] == new.der() {
                    return;
                }
            }
        };
        let renewed = tokio::time::timeout(std::time::Duration::from_secs(10), renewed).await;
        assert!(renewed.is_ok(), "the certificate is read again at SIGHUP");
        gateway.stop().await;
    }

    #[tokio::test]
    async fn bad_tls_is_refused_by_a_check_and_a_start() {
        let files = Files::new();
        let authority = Authority::new("ca");
        let pair = pair_of(&files, &authority.sign(&["a.test"]));
        let other = files.write("other.key", &authority.sign(&["b.test"]).key);
        let cert = files.write("site.pem", &authority.sign(&["a.test"]).cert);
        let mismatch = format!("{{ cert = \"{cert}\", key = \"{other}\" }}");
        let ca = files.write("ca.pem", &authority.pem());
        let good = pair_of(&files, &authority.sign(&["a.test"]));
        for (tls, key, expected) in [
            (format!("certificates = [{good}, {mismatch}]"), "certificates[1]", "does not fit"),
            ("certificates = []".to_owned(), "certificates", "at least one"),
            (format!("certificates = [{pair}], client_auth = \"maybe\""), "client_auth", "require"),
            (
                format!("certificates = [{pair}], client_auth = \"require\""),
                "client_auth",
                "client_ca",
            ),
            (format!("certificates = [{pair}], client_ca = \"{ca}\""), "client_ca", "not asked"),
            (format!("certificates = [{pair}], min_version = \"1.1\""), "min_version", "1.2"),
            (format!("certificates = [{pair}], alpn = [\"h3\"]"), "alpn", "http/1.1"),
            (
                format!("certificates = [{pair}], handshake_timeout = \"0s\""),
                "handshake_timeout",
                "",
            ),
            (format!("certificates = [{pair}], speed = 1"), "speed", "expected"),
        ] {
            let file =
                ConfigFile::new(&config("[[backend]]\nid = \"a\"\nurl = \"http://a:1\"", &tls, ""));
            let path = file.path().to_str().unwrap();
            for args in [&["--check", "--config", path][..], &["--config", path]] {
                let output = run(args, &[]).await;
                let stderr = String::from_utf8_lossy(&output.stderr);
                assert_eq!(output.status.code(), Some(2), "{tls}: {stderr}");
                assert!(stderr.contains(&format!("listener[0].tls.{key}")), "{tls}: {stderr}");
                assert!(stderr.contains(expected), "{tls}: {stderr}");
            }
        }
    }
}
