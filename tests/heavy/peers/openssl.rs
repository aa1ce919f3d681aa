//! `openssl s_client` against a listener with TLS.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt, process::Command};
use tower_sticky_heavy_tests::{certificates::Authority, in_time, process::Gateway};

use crate::support::{Dir, tls_listener};

struct Setup {
    gateway: Gateway,
    dir: Dir,
    ca: String,
}

/// A gateway with certificates for `a.test`, names below `b.test`, and this machine.
async fn setup(tls: &str) -> Setup {
    let (authority, dir) = (Authority::new("ours"), Dir::new());
    let certificates = [
        dir.identity("a", &authority.named(&["a.test"])),
        dir.identity("b", &authority.named(&["*.b.test"])),
        dir.identity("local", &authority.server()),
    ];
    let ca = dir.authority(&authority);
    let backend = "[[backend]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
    let config = format!("{}{backend}", tls_listener(&certificates, tls));
    Setup { gateway: Gateway::listening(&config).await, dir, ca }
}

impl Setup {
    /// What it prints of a connection that sends a request, and whether it has succeeded.
    async fn connect(&self, args: &[&str]) -> (String, bool) {
        let addr = self.gateway.addr.to_string();
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &addr, "-CAfile", &self.ca, "-verify_return_error"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        // The response is also when tickets have arrived.
        let request = b"GET / HTTP/1.1\r\nhost: a.test\r\nconnection: close\r\n\r\n";
        let _ = stdin.write_all(request).await;
        let output = in_time("openssl ends", child.wait_with_output()).await.unwrap();
        drop(stdin);
        let said = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&said).into_owned(), output.status.success())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_is_chosen_by_name_and_verifies() {
    let setup = setup("").await;
    for (name, subject) in [
        ("a.test", "CN = a.test"),
        ("www.b.test", "CN = *.b.test"),
        ("localhost", "CN = localhost"),
        ("unknown.test", "CN = a.test"),
    ] {
        let (said, succeeded) = setup.connect(&["-servername", name, "-alpn", "http/1.1"]).await;
        assert!(succeeded, "{said}");
        assert!(said.contains(&format!("subject={subject}\n")), "{name}: {said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(said.contains("HTTP/1.1 503"), "the request is served: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn protocols_and_versions_are_negotiated() {
    let setup = setup("").await;
    let (said, _) = setup.connect(&["-alpn", "http/1.1,h2"]).await;
    assert!(said.contains("ALPN protocol: h2"), "the server's order decides: {said}");
    let (said, _) = setup.connect(&["-alpn", "http/1.1"]).await;
    assert!(said.contains("ALPN protocol: http/1.1") && said.contains("TLSv1.3"), "{said}");
    let (said, _) = setup.connect(&["-tls1_2"]).await;
    assert!(said.contains("TLSv1.2") && said.contains("HTTP/1.1 503"), "without ALPN: {said}");
    let (said, succeeded) = setup.connect(&["-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0"]).await;
    assert!(!succeeded && said.contains("alert"), "{said}");
    let (said, succeeded) = setup.connect(&["-alpn", "spdy/3"]).await;
    assert!(!succeeded && said.contains("no application protocol"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_without_early_data() {
    for version in ["-tls1_3", "-tls1_2"] {
        let setup = setup("").await;
        let session = setup.dir.file("session", "");
        let (said, _) = setup.connect(&[version, "-sess_out", &session]).await;
        assert!(said.contains("New, TLSv1"), "{said}");
        let (said, _) = setup.connect(&[version, "-sess_in", &session]).await;
        assert!(said.contains("Reused, TLSv1"), "{version}: {said}");
        assert!(!said.contains("Early data was accepted"), "{said}");
        let session = std::fs::read(&session).unwrap();
        assert!(!session.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tickets_nothing_is_resumed() {
    let setup = setup(", tickets = false").await;
    let session = setup.dir.file("session", "");
    let (said, _) = setup.connect(&["-tls1_2", "-sess_out", &session]).await;
    assert!(said.contains("New, TLSv1.2") && !said.contains("TLS session ticket:"), "{said}");
}
