//! `send_proxy`: what backends are told of the client's connection.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::timeout,
};

use crate::{
    backends::Backend,
    client::read_head,
    process::{FOREVER, Gateway},
};

/// A backend that sends on the line or header that precedes HTTP on each connection.
async fn backend() -> (Backend, mpsc::UnboundedReceiver<String>) {
    let (sender, headers) = mpsc::unbounded_channel();
    let backend = Backend::raw(move |mut stream| {
        let sender = sender.clone();
        async move {
            let mut header = Vec::new();
            while let Ok(byte) = stream.read_u8().await {
                header.push(byte);
                let is_v1 = header.starts_with(b"PROXY ") && header.ends_with(b"\r\n");
                // Version 2 has a length, of 12 for IPv4.
                if is_v1 || header.starts_with(b"\r\n\r\n\0\r\nQUIT\n") && header.len() == 28 {
                    break;
                }
            }
            let _ = sender.send(String::from_utf8_lossy(&header).into_owned());
            while stream.peek(&mut [0]).await.is_ok_and(|read| read > 0) {
                read_head(&mut stream).await;
                let response = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
                if stream.write_all(response).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    (backend, headers)
}

/// A client that keeps its connection.
struct Client(TcpStream);

impl Client {
    async fn new(gateway: SocketAddr) -> Self {
        Self(TcpStream::connect(gateway).await.unwrap())
    }

    fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    async fn ask(&mut self) {
        self.0.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let head = read_head(&mut self.0).await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        self.0.read_exact(&mut [0; 2]).await.unwrap();
    }
}

async fn next(headers: &mut mpsc::UnboundedReceiver<String>) -> String {
    timeout(FOREVER, headers.recv()).await.expect("a connection in time").unwrap()
}

#[tokio::test]
async fn each_client_has_its_own_connection_to_the_backend() {
    let (backend, mut headers) = backend().await;
    let gateway =
        Gateway::on_one_worker(&format!("[upstream]\nsend_proxy = \"v1\"\n{}", backend.entry("a")))
            .await;
    let mut clients = [Client::new(gateway.addr).await, Client::new(gateway.addr).await];
    for client in &mut clients {
        client.ask().await;
        let line = next(&mut headers).await;
        let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} ", client.addr().port());
        assert!(line.starts_with(&expected), "{line}");
    }
    for _ in 0..5 {
        for client in &mut clients {
            client.ask().await;
        }
    }
    assert!(headers.try_recv().is_err(), "each keeps its connection");
}

#[tokio::test]
async fn a_backend_can_have_another_version_or_none() {
    for (own, expected) in [("send_proxy = \"v2\"", "\r\n\r\n\0\r\nQUIT\n"), ("", "PROXY TCP4 ")] {
        let (backend, mut headers) = backend().await;
        let file = format!("[upstream]\nsend_proxy = \"v1\"\n{}{own}\n", backend.entry("a"));
        let gateway = Gateway::on_one_worker(&file).await;
        Client::new(gateway.addr).await.ask().await;
        let header = next(&mut headers).await;
        assert!(header.starts_with(expected), "{own}: {header:?}");
    }
}
