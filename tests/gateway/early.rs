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
    backends::{Backend, refusing, silent},
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
        assert!(head.contains("connection: close\r\n"), "{head:?}");
    }
}

/// RFC 9113, section 8.1: the answer, and then RST_STREAM(NO_ERROR).
#[tokio::test]
async fn an_answer_of_our_own_reaches_an_upload_over_http2() {
    let nobody = refusing();
    let flag = format!("a=http://{}", nobody.addr);
    let gateway = Gateway::start(&["--backend", &flag]).await;
    let mut sender = client::http2(gateway.addr).await;
    for _ in 0..TIMES {
        let request = Request::post(format!("http://{}/", gateway.addr));
        let request = request.body(Full::new(vec![b'x'; 1 << 20].into())).unwrap();
        let response = timeout(FOREVER, sender.send_request(request)).await.expect("it ends");
        assert_eq!(response.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}

/// Uploads 1 MB several times, as a whole or as a stream, and counts the statuses.
const CLIENT: &str = "
    const [url, times, streams] = process.argv.slice(1);
    const half = new Uint8Array(1 << 19);
    const stream = () => new ReadableStream({
        start(controller) {
            controller.enqueue(half);
            setTimeout(() => { try { controller.enqueue(half); controller.close(); } catch {} }, 5);
        },
    });
    (async () => {
        const counts = {};
        for (let n = 0; n < times; n++) {
            const body = streams == 1 ? stream() : new Uint8Array(1 << 20);
            const what = await fetch(url, { method: 'POST', body, duplex: 'half' })
                .then(async (answer) => { await answer.text(); return answer.status; })
                .catch((error) => String(error.cause ?? error));
            counts[what] = (counts[what] ?? 0) + 1;
        }
        console.log(JSON.stringify(counts));
        process.exit();
    })();
";

/// What `fetch` of Node.js gets; nothing where Node.js is not installed.
async fn node_uploads(addr: SocketAddr, times: usize, streams: bool) -> Option<String> {
    let url = format!("http://{addr}/");
    let (times, streams) = (times.to_string(), u8::from(streams).to_string());
    let mut node = tokio::process::Command::new("node");
    let node = node.args(["-e", CLIENT, &url, &times, &streams]).kill_on_drop(true).output();
    let output = timeout(FOREVER, node).await.expect("it ends").ok()?;
    Some(String::from_utf8(output.stdout).unwrap().trim().to_owned())
}

#[tokio::test]
async fn an_answer_of_our_own_reaches_node() {
    let (nobody, silent) = (refusing(), silent().await);
    let refusing = format!("http://{}", nobody.addr);
    for (limits, url, status) in
        [("", refusing, 503), ("[limits]\nbody_bytes = \"64KiB\"", silent.url(), 413)]
    {
        let config = format!("{limits}\n[[backend]]\nid = \"a\"\nurl = \"{url}\"");
        let gateway = Gateway::configured(&config).await;
        for streams in [false, true] {
            let Some(counts) = node_uploads(gateway.addr, 40, streams).await else { return };
            assert_eq!(counts, format!("{{\"{status}\":40}}"), "streams: {streams}");
        }
    }
}

/// The client says nothing for too long in the middle of its body, and only then goes on sending.
#[tokio::test]
async fn a_408_reaches_an_upload_that_goes_on() {
    let backend = silent().await;
    let config = format!(
        "[limits]\nbody_timeout = \"100ms\"\n[[backend]]\nid = \"a\"\nurl = \"{}\"",
        backend.url()
    );
    let gateway = Gateway::configured(&config).await;
    for _ in 0..10 {
        let mut client = TcpStream::connect(gateway.addr).await.unwrap();
        let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 2 << 20);
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&vec![b'x'; 1 << 16]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(200)).await;
        for _ in 0..15 {
            client.write_all(&vec![b'x'; 1 << 16]).await.expect("the gateway takes it");
        }
        let head = read_head(&mut client).await;
        assert!(head.starts_with("HTTP/1.1 408 "), "{head:?}");
        assert!(head.contains("connection: close\r\n"), "{head:?}");
    }
}

/// While a connection lingers others may need its permit.
#[tokio::test]
async fn a_lingering_connection_gives_way_to_others() {
    let backend = silent().await;
    let config = format!(
        "[limits]\nconnections = 1\nlinger = \"1h\"\nbody_bytes = \"1KiB\"\n\
         [[backend]]\nid = \"a\"\nurl = \"{}\"",
        backend.url()
    );
    let gateway = Gateway::configured(&config).await;
    let large = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000000\r\n\r\n";
    let mut first = TcpStream::connect(gateway.addr).await.unwrap();
    first.write_all(large).await.unwrap();
    assert!(read_head(&mut first).await.starts_with("HTTP/1.1 413 "));
    // Never silent for long enough.
    let sends = tokio::spawn(async move {
        while first.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let mut second = TcpStream::connect(gateway.addr).await.unwrap();
    second.write_all(large).await.unwrap();
    assert!(read_head(&mut second).await.starts_with("HTTP/1.1 413 "));
    sends.abort();
}
