//! The gateway and a backend of Node.js, as a real server that answers early and closes.

use std::{net::SocketAddr, process::Stdio};

use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Bytes, client::conn::http1::handshake};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};
use tower_sticky_heavy_tests::{in_time, process::Gateway};

const SIZE: usize = 20 << 20;
const TIMES: usize = 100;
/// HAProxy delivers 89 of 100.
const ENOUGH: usize = 95;

/// Refuses every upload as soon as its head is there, and closes.
const SERVER: &str = "
    const server = require('http').createServer((request, response) => {
        response.writeHead(413, { 'Content-Type': 'text/plain', 'Connection': 'close' });
        response.end('too large');
    });
    server.listen(0, '127.0.0.1', () => console.log(server.address().port));
";

/// Node.js with that server, killed when the first part is dropped.
async fn node() -> (Child, u16) {
    let mut child = Command::new("node")
        .args(["-e", SERVER])
        .kill_on_drop(true)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("Node.js is installed");
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = in_time("Node.js listens", lines.next_line()).await.unwrap().unwrap();
    (child, line.parse().unwrap())
}

/// The response to a client that uploads and reads at the same time.
async fn upload(addr: SocketAddr) -> Option<(StatusCode, Bytes)> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
    let connection = tokio::spawn(connection);
    let request =
        Request::post("/").header("host", "a").body(Full::new(Bytes::from(vec![b'x'; SIZE])));
    let response = sender.send_request(request.unwrap()).await.ok()?;
    let status = response.status();
    let body = response.into_body().collect().await.ok()?.to_bytes();
    connection.abort();
    Some((status, body))
}

/// A backend that answers and closes before it has read the upload.
#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_to_an_upload_arrives() {
    let (_node, port) = node().await;
    let backend = format!("a=http://127.0.0.1:{port}");
    let gateway = Gateway::start(&["--backend", &backend]).await;
    let mut arrived = 0;
    for _ in 0..TIMES {
        let answer = in_time("the upload ends", upload(gateway.addr)).await;
        let whole = Some((StatusCode::PAYLOAD_TOO_LARGE, Bytes::from("too large")));
        arrived += usize::from(answer == whole);
    }
    println!("{arrived} of {TIMES} answers arrived whole");
    assert!(arrived >= ENOUGH, "{arrived} of {TIMES} answers arrived whole");
}
