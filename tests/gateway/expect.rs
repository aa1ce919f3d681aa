//! `Expect: 100-continue` (RFC 9110, section 10.1.1).

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Duration, Instant, timeout},
};

use crate::{
    backends::{Backend, echo},
    client::{read_head, read_to_end},
    process::{FOREVER, Gateway},
};

const HEAD: &str =
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
const CONTINUE: &str = "HTTP/1.1 100 Continue\r\n\r\n";
const WAIT: Duration = Duration::from_millis(300);

/// A backend that answers the head with `first`, and the body, if it comes, with 204. The receiver gets the
/// head and what came after it.
async fn backend(first: &'static str) -> (Backend, UnboundedReceiver<String>) {
    let (sender, received) = unbounded_channel();
    let backend = Backend::raw(move |mut stream| {
        let sender = sender.clone();
        async move {
            let _ = sender.send(read_head(&mut stream).await);
            let _ = stream.write_all(first.as_bytes()).await;
            let mut body = [0; 5];
            if stream.read_exact(&mut body).await.is_err() {
                let _ = sender.send("the end".into());
                return;
            }
            let _ = sender.send(String::from_utf8(body.into()).unwrap());
            let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await;
            let _ = stream.read_u8().await;
        }
    })
    .await;
    (backend, received)
}

async fn gateway(backends: &[&Backend]) -> Gateway {
    let mut config = format!("[limits]\nexpect_wait = \"{}ms\"\n", WAIT.as_millis());
    for (number, backend) in backends.iter().enumerate() {
        config += &backend.entry(&format!("b{number}"));
    }
    Gateway::configured(&config).await
}

async fn ask(gateway: &Gateway) -> TcpStream {
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    client.write_all(HEAD.as_bytes()).await.unwrap();
    client
}

async fn next(received: &mut UnboundedReceiver<String>) -> String {
    timeout(FOREVER, received.recv()).await.expect("the backend gets it").unwrap()
}

#[tokio::test]
async fn a_refusal_reaches_the_client_in_place_of_100() {
    let refusal = "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 2\r\n\r\nno";
    let (backend, mut received) = backend(refusal).await;
    let gateway = gateway(&[&backend]).await;
    for _ in 0..3 {
        let mut client = ask(&gateway).await;
        let answer = read_to_end(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 417 "), "and no 100: {answer:?}");
        assert!(answer.contains("connection: close\r\n"), "{answer:?}");
        assert!(answer.ends_with("\r\n\r\nno"), "{answer:?}");
        assert!(next(&mut received).await.contains("expect: 100-continue\r\n"));
        assert_eq!(next(&mut received).await, "the end", "the connection is not used again");
    }
}

#[tokio::test]
async fn the_backend_asks_for_the_body() {
    let (backend, mut received) = backend(CONTINUE).await;
    let gateway = gateway(&[&backend]).await;
    let mut client = ask(&gateway).await;
    let begun = Instant::now();
    assert_eq!(read_head(&mut client).await, CONTINUE);
    assert!(begun.elapsed() < WAIT, "it does not wait any longer");
    client.write_all(b"hello").await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 204 "), "exactly one 100");
    next(&mut received).await;
    assert_eq!(next(&mut received).await, "hello");
    // The connection goes on.
    client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(next(&mut received).await.starts_with("GET / "));
}

#[tokio::test]
async fn a_backend_that_says_nothing_gets_the_body_after_a_while() {
    let (backend, mut received) = backend("").await;
    let gateway = gateway(&[&backend]).await;
    let begun = Instant::now();
    let mut client = ask(&gateway).await;
    assert_eq!(read_head(&mut client).await, CONTINUE);
    assert!(begun.elapsed() >= WAIT);
    client.write_all(b"hello").await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.1 204 "));
    next(&mut received).await;
    assert_eq!(next(&mut received).await, "hello");
}

/// A body that comes without being asked for is not kept from a backend that waits.
#[tokio::test]
async fn a_client_may_send_its_body_unasked() {
    let (backend, mut received) = backend(CONTINUE).await;
    let gateway = gateway(&[&backend]).await;
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    client.write_all(format!("{HEAD}hello").as_bytes()).await.unwrap();
    let mut head = read_head(&mut client).await;
    if head == CONTINUE {
        head = read_head(&mut client).await;
    }
    assert!(head.starts_with("HTTP/1.1 204 "), "{head:?}");
    next(&mut received).await;
    assert_eq!(next(&mut received).await, "hello");
}

/// While the body is untouched the request is as good as unsent.
#[tokio::test]
async fn a_request_whose_body_was_not_asked_for_fails_over() {
    let broken = Backend::raw(|mut stream| async move {
        read_head(&mut stream).await;
    })
    .await;
    let well = echo("well").await;
    let gateway = gateway(&[&broken, &well]).await;
    for _ in 0..4 {
        let mut client = ask(&gateway).await;
        assert_eq!(read_head(&mut client).await, CONTINUE);
        client.write_all(b"hello").await.unwrap();
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 200 "), "{head:?}");
    }
}

/// HTTP/1.0 has no interim answers.
#[tokio::test]
async fn http_1_0_expects_nothing() {
    let (backend, mut received) = backend("").await;
    let gateway = gateway(&[&backend]).await;
    let mut client = TcpStream::connect(gateway.addr).await.unwrap();
    let request = HEAD.replace("HTTP/1.1", "HTTP/1.0");
    client.write_all(format!("{request}hello").as_bytes()).await.unwrap();
    assert!(read_head(&mut client).await.starts_with("HTTP/1.0 204 "));
    assert!(!next(&mut received).await.contains("expect"));
}
