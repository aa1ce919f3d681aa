//! OpenSSL as a client of the gateway's TLS: versions, protocols, and sessions that are resumed.

use std::process::Stdio;

use tokio::{io::AsyncWriteExt, process::Command};
use tower_sticky_heavy_tests::{in_time, listening::Listening};

use crate::curl::{Files, backend};

/// What `openssl s_client` prints of a connection with one request.
async fn s_client(gateway: &Listening, files: &Files, args: &[&str]) -> String {
    let ca = files.path("ca.pem");
    let mut child = Command::new("openssl")
        .args(["s_client", "-connect", gateway.addr(0), "-servername", "localhost"])
        .args(["-CAfile", &ca, "-ign_eof"])
        .args(args)
        .kill_on_drop(true)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("OpenSSL is installed");
    let request = b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut stdin = child.stdin.take().unwrap();
    // It may have ended already.
    let _ = stdin.write_all(request).await;
    let output = in_time("openssl ends", child.wait_with_output()).await.unwrap();
    drop(stdin);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

async fn gateway(files: &Files, more: &str) -> Listening {
    let config = format!(
        "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ {}{more} }}\n\
         [[backend]]\nid = \"a\"\nurl = \"{}\"",
        files.certificates(),
        backend().await
    );
    Listening::start(&config, 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_negotiates_version_and_protocol() {
    let files = Files::new("openssl-versions");
    let gateway = gateway(&files, ", min_version = \"1.3\"").await;
    let said = s_client(&gateway, &files, &["-alpn", "http/1.1"]).await;
    for part in ["TLSv1.3", "ALPN protocol: http/1.1", "Verify return code: 0", "HTTP/1.1 200"] {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    let said = s_client(&gateway, &files, &["-tls1_2"]).await;
    assert!(!said.contains("HTTP/1.1 200"), "it is too old: {said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openssl_resumes_its_session_and_sends_no_early_data() {
    let files = Files::new("openssl-sessions");
    let gateway = gateway(&files, "").await;
    for version in ["-tls1_2", "-tls1_3"] {
        let session = files.path(&format!("session{version}"));
        let said = s_client(&gateway, &files, &[version, "-sess_out", &session]).await;
        assert!(said.contains("New, TLSv1.") && said.contains("HTTP/1.1 200"), "{said}");
        let said = s_client(&gateway, &files, &[version, "-sess_in", &session]).await;
        assert!(said.contains("Reused, TLSv1.") && said.contains("HTTP/1.1 200"), "{said}");
        assert!(!said.contains("Early data was accepted"), "{said}");
    }
}
