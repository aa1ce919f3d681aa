//! A truncated response is delivered up to its end, and the client sees that it is truncated.

use http::Request;
use http_body_util::{BodyExt, Full};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::{Duration, timeout},
};

use crate::{
    backends::{Backend, echo},
    client::{self, read_head},
    process::{FOREVER, Gateway},
};

const TIMES: usize = 20;

/// A truncated response, and the part of its body that was sent.
struct Answer {
    bytes: &'static str,
    body: &'static str,
    reset: bool,
}

/// HAProxy delivers all of these.
const ANSWERS: [Answer; 4] = [
    Answer {
        bytes: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789",
        body: "0123456789",
        reset: false,
    },
    Answer {
        bytes: "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789",
        body: "0123456789",
        reset: true,
    },
    Answer {
        bytes: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n",
        body: "0123456789",
        reset: false,
    },
    Answer {
        bytes: "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\
                Transfer-Encoding: chunked\r\n\r\n9\r\ndata: x\n\n\r\n",
        body: "data: x\n\n",
        reset: true,
    },
];

async fn breaking(answer: &'static Answer) -> Backend {
    Backend::raw(move |mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(answer.bytes.as_bytes()).await.unwrap();
        if answer.reset {
            stream.set_zero_linger().unwrap();
        }
    })
    .await
}

async fn gateway(backend: &Backend) -> Gateway {
    Gateway::start(&["--backend", &backend.flag("a")]).await
}

#[tokio::test]
async fn a_truncated_response_is_delivered_up_to_its_end_over_http1() {
    for answer in &ANSWERS {
        let backend = breaking(answer).await;
        let gateway = gateway(&backend).await;
        for _ in 0..TIMES {
            let got = client::raw(gateway.addr, "GET / HTTP/1.1\r\nHost: a\r\n\r\n").await;
            assert!(got.starts_with("HTTP/1.1 200 OK\r\n"), "{got:?} of {:?}", answer.bytes);
            assert!(got.contains(answer.body), "{got:?} of {:?}", answer.bytes);
            assert!(!got.ends_with("0\r\n\r\n"), "the end must not look complete: {got:?}");
        }
    }
}

#[tokio::test]
async fn a_truncated_response_is_delivered_up_to_its_end_over_http2() {
    for answer in &ANSWERS {
        let backend = breaking(answer).await;
        let gateway = gateway(&backend).await;
        for _ in 0..TIMES {
            let mut sender = client::http2(gateway.addr).await;
            let request = Request::get(format!("http://{}/", gateway.addr));
            let response = sender.send_request(request.body(Full::default()).unwrap());
            let mut body = timeout(FOREVER, response).await.unwrap().expect("the head").into_body();
            let mut got = Vec::new();
            let end = loop {
                match timeout(FOREVER, body.frame()).await.expect("it goes on") {
                    Some(Ok(frame)) => got.extend_from_slice(&frame.into_data().unwrap()),
                    end => break end,
                }
            };
            assert_eq!(String::from_utf8(got).unwrap(), answer.body, "of {:?}", answer.bytes);
            assert!(matches!(end, Some(Err(_))), "the end must not look complete");
        }
    }
}

/// With some of these sizes the end is still in the gateway when the backend closes, because the client does
/// not read yet.
#[tokio::test]
async fn a_slow_reader_gets_the_whole_response() {
    const STEP: usize = 128 << 10;
    let backend = Backend::raw(|mut stream| async move {
        let head = read_head(&mut stream).await;
        let size: usize = head.split([' ', '/']).nth(2).unwrap().parse().unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", size + 1);
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b'x'; size]).await.unwrap();
    })
    .await;
    let gateway = gateway(&backend).await;
    let mut readers = tokio::task::JoinSet::new();
    for size in (1..=48).map(|steps| steps * STEP) {
        let addr = gateway.addr;
        readers.spawn(async move {
            let socket = TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(STEP as u32 / 4).unwrap();
            let mut client = socket.connect(addr).await.unwrap();
            let request = format!("GET /{size} HTTP/1.1\r\nHost: a\r\n\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            read_head(&mut client).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            let mut got = Vec::new();
            let _ = timeout(FOREVER, client.read_to_end(&mut got)).await.expect("it ends");
            assert_eq!(got.len(), size, "the whole body is delivered");
        });
    }
    while let Some(read) = readers.join_next().await {
        read.unwrap();
    }
}

#[tokio::test]
async fn bytes_before_a_broken_tunnel_are_delivered() {
    const SWITCH: &str =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
    let backend = Backend::raw(|mut stream| async move {
        read_head(&mut stream).await;
        stream.write_all(SWITCH.as_bytes()).await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(b"final bytes").await.unwrap();
        stream.set_zero_linger().unwrap();
    })
    .await;
    let gateway = gateway(&backend).await;
    for _ in 0..TIMES {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        let ask = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n";
        client.write_all(ask).await.unwrap();
        read_head(&mut client).await;
        // Enough that the gateway sees the reset while it writes.
        let (mut reads, mut writes) = client.into_split();
        let writer = tokio::spawn(async move {
            for _ in 0..64 {
                if writes.write_all(&[b'x'; 1 << 12]).await.is_err() {
                    break;
                }
            }
            writes
        });
        let mut got = Vec::new();
        let _ = timeout(FOREVER, reads.read_to_end(&mut got)).await.expect("it ends");
        assert_eq!(String::from_utf8(got).unwrap(), "final bytes");
        drop(writer.await);
    }
}

/// Later requests are not affected by a truncated response.
#[tokio::test]
async fn a_truncated_response_does_not_affect_other_requests() {
    let (broken, well) = (breaking(&ANSWERS[0]).await, echo("b").await);
    let gateway =
        Gateway::start(&["--backend", &broken.flag("a"), "--backend", &well.flag("b")]).await;
    let mut served = 0;
    for _ in 0..4 {
        let got =
            client::raw(gateway.addr, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                .await;
        served += usize::from(got.contains("\"name\":\"b\""));
    }
    assert!(served > 0, "backend b serves requests too");
}
