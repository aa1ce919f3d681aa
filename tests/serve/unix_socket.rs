//! Unix sockets: their file, and their peers.

use std::{
    fs,
    os::unix::{fs::PermissionsExt, net::UnixListener},
    path::PathBuf,
    time::Duration,
};

use tokio::net::UnixStream;
use tower_sticky::serve::Listener;

use crate::support::{GET, exchange, server};

const LONG: Duration = Duration::from_secs(10);

/// A path for a socket of one test.
fn path(name: &str) -> PathBuf {
    let dir = std::env::temp_dir().join(format!("tower-sticky-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    dir.join(name)
}

#[tokio::test]
async fn a_peer_on_a_unix_socket_is_trusted_and_has_no_address() {
    let path = path("peer.sock");
    let listener = Listener::unix(&path, 0o660).unwrap();
    assert_eq!(listener.local_addr().to_string(), format!("unix:{}", path.display()));
    let server = server(listener).start().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let mut client = UnixStream::connect(&path).await.unwrap();
    let answer = exchange(&mut client, GET).await;
    assert!(answer.contains("peer=0.0.0.0:0 trusted=true https=false"), "{answer}");
    let request = "GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-proto: https\r\n\r\n";
    let answer = exchange(&mut client, request).await;
    assert!(answer.contains("https=true"), "what a trusted peer says of the scheme: {answer}");
    assert!(server.shutdown(LONG).await);
    assert!(!path.exists(), "the file is removed at the end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_connection_on_a_unix_socket_serves_further_requests() {
    let path = path("idle.sock");
    let server = server(Listener::unix(&path, 0o600).unwrap());
    let limits = tower_sticky::serve::Limits::new().idle_timeout(Duration::from_millis(800));
    let server = server.limits(limits).start().unwrap();
    let mut client = UnixStream::connect(&path).await.unwrap();
    exchange(&mut client, GET).await;
    // Parked after a quarter of the idle timeout, or twice that.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(exchange(&mut client, GET).await.starts_with("HTTP/1.1 200"));
    assert_eq!(server.open_connections(), 1);
}

#[tokio::test]
async fn a_stale_file_is_replaced_and_one_in_use_is_not() {
    let path = path("stale.sock");
    let old = UnixListener::bind(&path).unwrap();
    let error = Listener::unix(&path, 0o600).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::AddrInUse, "{error}");
    drop(old);
    assert!(path.exists(), "a process that has ended leaves its file");
    let server = server(Listener::unix(&path, 0o600).unwrap()).start().unwrap();
    exchange(&mut UnixStream::connect(&path).await.unwrap(), GET).await;
    // Another process takes the path.
    fs::remove_file(&path).unwrap();
    let _other = UnixListener::bind(&path).unwrap();
    assert!(server.shutdown(LONG).await);
    assert!(path.exists(), "the file of another process stays");
}

#[tokio::test]
async fn paths_that_cannot_be_listened_on_are_refused() {
    let plain = path("plain");
    fs::write(&plain, "kept").unwrap();
    let error = Listener::unix(&plain, 0o600).unwrap_err().to_string();
    assert!(error.contains("not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&plain).unwrap(), "kept");
    let error = Listener::unix(path(&"a".repeat(108)), 0o600).unwrap_err().to_string();
    assert!(error.contains("at most 107"), "{error}");
    assert!(Listener::unix("/nowhere/at/all.sock", 0o600).is_err());
}
