//! Requests as bytes: what the client gets, and what the backend gets.

use tokio::{
    io::AsyncWriteExt,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use crate::{
    backends::Backend,
    client::{self, read_head},
    process::Gateway,
};

/// A backend that answers each request with 204, and passes its head to the receiver.
pub(crate) async fn recorder() -> (Backend, UnboundedReceiver<String>) {
    let (heads, received) = unbounded_channel();
    let backend = Backend::raw(move |mut stream| {
        let heads = heads.clone();
        async move {
            let _ = heads.send(read_head(&mut stream).await);
            let answer = "HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n";
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    })
    .await;
    (backend, received)
}

/// A request, the status of its answer, and the request line and `Host` that the backend gets.
struct Case {
    request: &'static str,
    status: u16,
    forwarded: Option<(&'static str, &'static str)>,
    section: &'static str,
}

const fn served(
    request: &'static str,
    line: &'static str,
    host: &'static str,
    section: &'static str,
) -> Case {
    Case { request, status: 204, forwarded: Some((line, host)), section }
}

const fn refused(request: &'static str, status: u16, section: &'static str) -> Case {
    Case { request, status, forwarded: None, section }
}

/// Each request ends with `Connection: close` and the empty line.
const CASES: &[Case] = &[
    // The request target.
    served("GET http://a#f HTTP/1.1\r\nHost: a", "GET / HTTP/1.1", "a", "9112 3.2.2"),
    served("GET http://a HTTP/1.1\r\nHost: a", "GET / HTTP/1.1", "a", "9112 3.2.2"),
    served("GET http://a?x HTTP/1.1\r\nHost: a", "GET /?x HTTP/1.1", "a", "9112 3.2.1"),
    served("GET http://a?x#f HTTP/1.1\r\nHost: a", "GET /?x HTTP/1.1", "a", "9112 3.2.1"),
    served("GET http://a/b?c HTTP/1.1\r\nHost: a", "GET /b?c HTTP/1.1", "a", "9112 3.2.2"),
    served("GET http://a/b HTTP/1.1\r\nHost: other", "GET /b HTTP/1.1", "a", "9112 3.2.2"),
    served("GET http://a:81/b HTTP/1.1\r\nHost: a", "GET /b HTTP/1.1", "a:81", "9112 3.2.2"),
    served(
        "GET /a//b/../c?d=%2f HTTP/1.1\r\nHost: a",
        "GET /a//b/../c?d=%2f HTTP/1.1",
        "a",
        "9112 3.2.1",
    ),
    served("GET //a/b HTTP/1.1\r\nHost: h", "GET //a/b HTTP/1.1", "h", "9112 3.2.1"),
    served("OPTIONS * HTTP/1.1\r\nHost: a", "OPTIONS * HTTP/1.1", "a", "9112 3.2.4"),
    served("OPTIONS /x HTTP/1.1\r\nHost: a", "OPTIONS /x HTTP/1.1", "a", "9112 3.2.1"),
    served("QUERY /x HTTP/1.1\r\nHost: a", "QUERY /x HTTP/1.1", "a", "9110 9.1"),
    refused("GET admin HTTP/1.1\r\nHost: a", 400, "9112 3.2"),
    refused("GET admin:80 HTTP/1.1\r\nHost: a", 400, "9112 3.2.3"),
    refused("GET a/b HTTP/1.1\r\nHost: a", 400, "9112 3.2"),
    refused("GET * HTTP/1.1\r\nHost: a", 400, "9112 3.2.4"),
    refused("POST * HTTP/1.1\r\nHost: a\r\nContent-Length: 0", 400, "9112 3.2.4"),
    refused("GET http:// HTTP/1.1\r\nHost: a", 400, "9110 4.2.1"),
    refused("GET http://u:p@a/ HTTP/1.1\r\nHost: a", 400, "9110 4.2.4"),
    refused("GET /a b HTTP/1.1\r\nHost: a", 400, "9112 3.2"),
    refused("GET /\x01 HTTP/1.1\r\nHost: a", 400, "9112 3.2"),
    refused("CONNECT a:1 HTTP/1.1\r\nHost: a:1", 501, "9110 9.3.6"),
    // Host.
    served("GET / HTTP/1.1\r\nHost: [::1]:80", "GET / HTTP/1.1", "[::1]:80", "3986 3.2.2"),
    served("GET / HTTP/1.1\r\nhOST:\t a:80 ", "GET / HTTP/1.1", "a:80", "9112 5"),
    served("GET / HTTP/1.0\r\nHost: a", "GET / HTTP/1.1", "a", "9112 3.2"),
    refused("GET / HTTP/1.1\r\nHost: a/b", 400, "9112 3.2"),
    refused("GET / HTTP/1.1\r\nHost: u:p@a", 400, "9112 3.2"),
    refused("GET / HTTP/1.1\r\nHost: a, b", 400, "9112 3.2"),
    refused("GET / HTTP/1.1\r\nHost: a b", 400, "9112 3.2"),
    refused("GET / HTTP/1.1\r\nHost: a:b", 400, "9112 3.2"),
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: a", 400, "9112 3.2"),
    refused("GET / HTTP/1.1\r\nHost: a\r\nHost: b", 400, "9112 3.2"),
    refused("GET / HTTP/1.0\r\nHost: a\r\nHost: b", 400, "9112 3.2"),
    refused("GET http://a/ HTTP/1.1\r\nHost: a/b", 400, "9112 3.2"),
    refused("GET / HTTP/1.1", 400, "9112 3.2"),
    // Framing.
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked", 501, "9112 6.1"),
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\nTransfer-Encoding: chunked",
        501,
        "9112 6.1",
    ),
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked;a=b, chunked",
        501,
        "9112 6.1",
    ),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked", 400, "9112 6.1"),
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        400,
        "9112 6.1",
    ),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, gzip", 400, "9112 6.3"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity", 400, "9112 6.3"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked", 400, "9112 6.3"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \x0bchunked", 400, "9112 6.3"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:", 400, "9112 6.3"),
    refused("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked", 400, "9112 6.1"),
    refused(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2",
        400,
        "9112 6.3",
    ),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2", 400, "9112 6.3"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1", 400, "9112 6.3"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: -1", 400, "9112 6.3"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x1", 400, "9112 6.3"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length:", 400, "9112 6.3"),
    refused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999", 400, "9112 6.3"),
    // Field lines.
    refused("GET / HTTP/1.1\r\nHost : a", 400, "9112 5.1"),
    refused("GET / HTTP/1.1\r\n Host: a", 400, "9112 2.2"),
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b", 400, "9112 5.2"),
    refused("GET / HTTP/1.1\r\nHost: a\r\nX@: a", 400, "9110 5.1"),
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b", 400, "9110 5.5"),
    refused("GET / HTTP/1.1\r\nHost: a\r\nX: a\rb", 400, "9112 2.2"),
    refused("G@T / HTTP/1.1\r\nHost: a\r\n: a", 400, "9110 5.1"),
    refused("GET / HTTP/2.0\r\nHost: a", 400, "9112 2.3"),
    // Expectations.
    refused("GET / HTTP/1.1\r\nHost: a\r\nExpect: 200-ok", 417, "9110 10.1.1"),
    refused("GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue, x", 417, "9110 10.1.1"),
    served(
        "GET / HTTP/1.1\r\nHost: a\r\nExpect: 100-Continue",
        "GET / HTTP/1.1",
        "a",
        "9110 10.1.1",
    ),
];

#[tokio::test]
async fn a_request_is_forwarded_or_refused() {
    let (backend, mut heads) = recorder().await;
    let gateway = Gateway::start(&["--backend", &backend.flag("a")]).await;
    let mut wrong = Vec::new();
    for Case { request, status, forwarded, section } in CASES {
        let bytes = format!("{request}\r\nConnection: close\r\n\r\n");
        let answer = client::raw(gateway.addr, &bytes).await;
        let head = heads.try_recv().ok();
        let seen = head.as_deref().map(|head| {
            let host = head.lines().find_map(|line| line.strip_prefix("host: "));
            (head.lines().next().unwrap_or_default(), host.unwrap_or_default())
        });
        let line = answer.split_once(" ").map_or("", |(_, line)| line);
        if !line.starts_with(&format!("{status} ")) || seen != *forwarded {
            let answer = answer.lines().next().unwrap_or_default();
            wrong.push(format!("{request:?} (RFC {section}): {answer:?}, backend: {seen:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn limits_have_their_own_answers() {
    let (backend, mut heads) = recorder().await;
    let config = format!(
        "[limits]\nheader_bytes = \"2KiB\"\nheaders = 150\ntarget_bytes = \"1KiB\"\nbody_bytes = \"10\"\n\
         [[backend]]\nid = \"a\"\nurl = \"{}\"",
        backend.url()
    );
    let gateway = Gateway::configured(&config).await;
    let x = |count: usize| "x".repeat(count);
    let fields = |count: usize| "A: 1\r\n".repeat(count);
    for (request, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n", x(1000)), 204),
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n", x(1100)), 414),
        (format!("GET /?{} HTTP/1.1\r\nHost: a\r\n", x(30_000)), 414),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n", x(1900)), 204),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n", x(2100)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n", x(200_000)), 431),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}", fields(120)), 204),
        (format!("GET / HTTP/1.1\r\nHost: a\r\n{}", fields(160)), 431),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n".to_owned(), 413),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n"
                .to_owned(),
            413,
        ),
    ] {
        let answer =
            client::raw(gateway.addr, &format!("{request}Connection: close\r\n\r\n")).await;
        let request = &request[..request.len().min(60)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request:?}: {answer:?}");
        assert_eq!(heads.try_recv().is_ok(), status == 204, "{request:?}");
    }
    // RFC 9110, section 15.5.14: the size shows only while the body arrives.
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n\
                   6\r\n012345\r\n6\r\n012345\r\n0\r\n\r\n";
    let answer = client::raw(gateway.addr, chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer:?}");
}

#[tokio::test]
async fn more_than_100_fields_may_be_allowed() {
    let (backend, _heads) = recorder().await;
    let config =
        |limits: &str| format!("{limits}\n[[backend]]\nid = \"a\"\nurl = \"{}\"", backend.url());
    let request = format!(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n",
        (0..198).map(|number| format!("X-{number}: a\r\n")).collect::<String>()
    );
    let by_default = Gateway::configured(&config("")).await;
    let answer = client::raw(by_default.addr, &request).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer:?}");
    let gateway = Gateway::configured(&config("[limits]\nheaders = 256")).await;
    let answer = client::raw(gateway.addr, &request).await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer:?}");
}
