//! Interim answers of backends (RFC 9110, section 15.2), such as 103 (RFC 8297).

use tokio::{
    io::AsyncWriteExt,
    net::TcpStream,
    time::{Duration, sleep},
};

use crate::{
    backends::Backend,
    client::{self, read_head},
    process::Gateway,
};

const HINTS: &str =
    "HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nConnection: x\r\nX: 1\r\n\r\n";
const PASSED: &str = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n";
const ANSWER: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A backend that responds to each request with these parts, with a pause after each.
async fn responding(parts: &'static [&'static str]) -> (Backend, Gateway) {
    let backend = Backend::raw(move |mut stream| async move {
        loop {
            read_head(&mut stream).await;
            for part in parts {
                let _ = stream.write_all(part.as_bytes()).await;
                sleep(Duration::from_millis(30)).await;
            }
        }
    })
    .await;
    let gateway = Gateway::start(&["--backend", &backend.flag("a")]).await;
    (backend, gateway)
}

#[tokio::test]
async fn early_hints_reach_an_http1_client() {
    let together: &str = Box::leak(format!("{HINTS}{HINTS}{ANSWER}").into_boxed_str());
    let (begin, end) = HINTS.split_at(30);
    for (parts, count) in [
        (&[HINTS, ANSWER][..], 1),
        (&[HINTS, HINTS, ANSWER], 2),
        (Box::leak(Box::new([together])), 2),
        (Box::leak(Box::new([begin, end, ANSWER])), 1),
    ] {
        let (_backend, gateway) = responding(parts).await;
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        for _ in 0..3 {
            client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            for _ in 0..count {
                assert_eq!(read_head(&mut client).await, PASSED, "{parts:?}");
            }
            let head = read_head(&mut client).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head:?}");
            let mut body = [0; 2];
            tokio::io::AsyncReadExt::read_exact(&mut client, &mut body).await.unwrap();
            assert_eq!(&body, b"ok");
        }
    }
}

/// It does not wait for the answer.
#[tokio::test]
async fn early_hints_come_early() {
    let (_backend, gateway) = responding(&[HINTS, ""]).await;
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert_eq!(read_head(&mut client).await, PASSED);
}

#[tokio::test]
async fn an_http_1_0_client_gets_none() {
    let (_backend, gateway) = responding(&[HINTS, ANSWER]).await;
    let answer = client::raw(gateway.addr, "GET / HTTP/1.0\r\nHost: a\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 "), "{answer:?}");
}

/// Pipelined requests are answered in order, whatever comes between.
#[tokio::test]
async fn pipelined_requests() {
    let (_backend, gateway) = responding(&[HINTS, ANSWER]).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = client::raw(gateway.addr, &format!("{request}{request}{last}")).await;
    let rest = answer.replace(PASSED, "");
    assert_eq!(rest.matches("HTTP/1.1 200 OK\r\n").count(), 3, "{answer:?}");
    assert_eq!(rest.matches("HTTP/1.1").count(), 3, "{answer:?}");
}
