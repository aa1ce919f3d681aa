//! Backends on Unix sockets.

use std::{
    fs, io,
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

use http::{Method, StatusCode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

use crate::{
    client::{self, get},
    process::Gateway,
};

/// A backend on a socket, which answers with the request's head.
struct App {
    path: PathBuf,
    accepting: JoinHandle<()>,
}

impl App {
    fn start() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sticky-app-{}-{number}.sock", std::process::id());
        let path = std::env::temp_dir().join(name);
        let listener = UnixListener::bind(&path).unwrap();
        let accepting = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(mirror(socket));
            }
        });
        Self { path, accepting }
    }

    fn url(&self) -> String {
        format!("unix:{}", self.path.display())
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.accepting.abort();
        let _ = fs::remove_file(&self.path);
    }
}

async fn mirror(mut socket: UnixStream) -> io::Result<()> {
    let mut head = Vec::new();
    loop {
        head.push(socket.read_u8().await?);
        if head.ends_with(b"\r\n\r\n") {
            let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", head.len());
            socket.write_all(answer.as_bytes()).await?;
            socket.write_all(&std::mem::take(&mut head)).await?;
        }
    }
}

#[tokio::test]
async fn a_backend_may_be_a_unix_socket() {
    let app = App::start();
    let flag = format!("a={},weight=2", app.url());
    let mut gateway = Gateway::start(&["--admin", "127.0.0.1:0", "--backend", &flag]).await;
    let admin = gateway.admin_addr().await;
    let answer = get(gateway.addr, "/x").await;
    assert_eq!(answer.status, StatusCode::OK);
    let host = format!("host: {}\r\n", gateway.addr);
    assert!(answer.text().contains(&host), "{}", answer.text());
    assert_eq!(get(admin, "/backends").await.json()[0]["url"], app.url());

    let body = format!("{{\"url\":\"{}|/base\"}}", app.url());
    let replaced = client::send(admin, Method::PUT, "/backends/a", &[], &body).await;
    assert_eq!(replaced.status, StatusCode::OK);
    let text = get(gateway.addr, "/x").await.text();
    assert!(text.starts_with("GET /base/x HTTP/1.1\r\n"), "{text}");

    let wrong = client::send(admin, Method::PUT, "/backends/b", &[], "{\"url\":\"unix:a\"}").await;
    assert_eq!(wrong.status, StatusCode::BAD_REQUEST);
    assert!(wrong.text().contains("relative"), "{}", wrong.text());
}
