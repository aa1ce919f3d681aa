//! A response before the end of the request, from a backend that closes right after it.

use std::net::SocketAddr;

use http::{Request, StatusCode};
use http_body_util::Full;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Duration, timeout},
};

use crate::{
    backends::{Backend, refusing},
    client::{self, read_head},
    process::{FOREVER, Gateway},
};

const SIZE: usize = 20 << 20;
const TIMES: usize = 100;
/// Node.js behind HAProxy: 89.
const ENOUGH: usize = 95;

/// Refuses every upload without reading it, and closes.
async fn strict() -> Backend {
    Backend::raw(|mut stream| async move {
        read_head(&mut stream).await;
        let answer = "HTTP/1.1 413 Content Too Large\r\nConnection: close\r\n\
                      Content-Length: 9\r\n\r\ntoo large";
        let _ = stream.write_all(answer.as_bytes()).await;
    })
    .await
}

/// Whether an upload over HTTP/1.1 gets the complete response.
async fn upload(addr: SocketAddr) -> String {
    let client = TcpStream::connect(addr).await.unwrap();
    let (mut reads, mut writes) = client.into_split();
    let writer = tokio::spawn(async move {
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n");
        let _ = writes.write_all(head.as_bytes()).await;
        let chunk = vec![b'x'; 1 << 16];
        for _ in 0..SIZE / chunk.len() {
            if writes.write_all(&chunk).await.is_err() {
                break;
            }
        }
        writes
    });
    let mut got = Vec::new();
    let mut buffer = [0; 1024];
    while !got.ends_with(b"\n") && !got.ends_with(b"too large") {
        match timeout(FOREVER, reads.read(&mut buffer)).await.expect("it ends") {
            Ok(read @ 1..) => got.extend_from_slice(&buffer[..read]),
            _ => break,
        }
    }
    writer.abort();
    String::from_utf8(got).unwrap()
}

#[tokio::test]
async fn an_early_response_reaches_an_uploading_client_over_http1() {
    let backend = strict().await;
    let gateway = Gateway::start(&["--backend", &backend.flag("a")]).await;
    let mut whole = 0;
    for _ in 0..TIMES {
        let got = upload(gateway.addr).await;
        whole += usize::from(got.starts_with("HTTP/1.1 413 ") && got.ends_with("too large"));
    }
    println!("HTTP/1.1: {whole} of {TIMES}");
    assert!(whole >= ENOUGH, "{whole} of {TIMES}");
}

#[tokio::test]
async fn an_early_response_reaches_an_uploading_client_over_http2() {
    let backend = strict().await;
    let gateway = Gateway::start(&["--backend", &backend.flag("a")]).await;
    let upload = bytes::Bytes::from(vec![b'x'; SIZE]);
    let mut whole = 0;
    for _ in 0..TIMES {
        let mut sender = client::http2(gateway.addr).await;
        let request = Request::post(format!("http://{}/", gateway.addr));
        let request = request.body(Full::new(upload.clone())).unwrap();
        if let Ok(response) = timeout(FOREVER, sender.send_request(request)).await.unwrap() {
            assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
            let body = timeout(FOREVER, http_body_util::BodyExt::collect(response.into_body()));
            whole += usize::from(body.await.unwrap().is_ok_and(|b| b.to_bytes() == "too large"));
        }
    }
    println!("HTTP/2: {whole} of {TIMES}");
    assert!(whole >= ENOUGH, "{whole} of {TIMES}");
}

#[tokio::test]
async fn an_early_response_of_the_gateway_reaches_an_uploading_client() {
    let closed = refusing();
    let flag = format!("a=http://{}", closed.addr);
    let gateway = Gateway::start(&["--backend", &flag]).await;
    for _ in 0..TIMES {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 1 << 20);
        client.write_all(head.as_bytes()).await.unwrap();
        // A client may send everything before it reads.
        for _ in 0..16 {
            tokio::time::sleep(Duration::from_millis(1)).await;
            client.write_all(&vec![b'x'; 1 << 16]).await.expect("the gateway takes it");
        }
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 503 "), "{head:?}");
    }
}
