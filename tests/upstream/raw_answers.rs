//! Responses as bytes, and what `Upstream` makes of them.

use http::{Method, Request};
use http_body_util::{BodyExt, Empty};

use crate::support::*;

/// The status, some of the fields, and the body.
type Parts = (u16, &'static [(&'static str, &'static str)], &'static str);

/// The bytes of a backend; what comes out of them: the status, some of the fields, and the body; or
/// `None` when that is an error, from the head on or within the body.
struct Case {
    method: Method,
    bytes: &'static str,
    becomes: Option<Parts>,
    section: &'static str,
}

const fn good(
    bytes: &'static str,
    fields: &'static [(&'static str, &'static str)],
    body: &'static str,
    section: &'static str,
) -> Case {
    Case { method: Method::GET, bytes, becomes: Some((200, fields, body)), section }
}

const fn bad(bytes: &'static str, section: &'static str) -> Case {
    Case { method: Method::GET, bytes, becomes: None, section }
}

/// The value "-" stands for a field that is not there.
const CASES: &[Case] = &[
    // Content-Length.
    good("200 OK\r\nContent-Length: 2\r\n\r\nok", &[("content-length", "2")], "ok", "9112 6.2"),
    good("200 OK\r\nContent-Length: 2, 2\r\n\r\nok", &[("content-length", "2")], "ok", "9110 8.6"),
    good(
        "200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        &[("content-length", "2")],
        "ok",
        "9110 8.6",
    ),
    bad("200 OK\r\nContent-Length: 2, 3\r\n\r\nok", "9110 8.6"),
    bad("200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", "9110 8.6"),
    bad("200 OK\r\nContent-Length: 2,\r\n\r\nok", "9110 8.6"),
    bad("200 OK\r\nContent-Length: +2\r\n\r\nok", "9110 8.6"),
    bad("200 OK\r\nContent-Length:\r\n\r\nok", "9110 8.6"),
    Case {
        method: Method::HEAD,
        bytes: "200 OK\r\nContent-Length: 2, 2\r\n\r\n",
        becomes: Some((200, &[("content-length", "2")], "")),
        section: "9110 8.6",
    },
    Case {
        method: Method::HEAD,
        bytes: "200 OK\r\nContent-Length: 2, 3\r\n\r\n",
        becomes: None,
        section: "9110 8.6",
    },
    Case {
        method: Method::GET,
        bytes: "304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        becomes: Some((304, &[("content-length", "2")], "")),
        section: "9110 15.4.5",
    },
    // Transfer-Encoding.
    good(
        "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        &[("transfer-encoding", "-")],
        "ok",
        "9112 7.1",
    ),
    good(
        "200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        &[("content-length", "-")],
        "ok",
        "9112 6.3",
    ),
    bad("200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", "9112 6.1"),
    bad("200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", "9112 6.1"),
    bad("200 OK\r\nTransfer-Encoding: gzip\r\n\r\nok", "9112 6.1"),
    bad("200 OK\r\nTransfer-Encoding:\r\n\r\nok", "9112 6.1"),
    bad("200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "9112 7.1"),
    bad("200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok", "9112 8"),
    bad("200 OK\r\nContent-Length: 3\r\n\r\nok", "9112 8"),
    // The head.
    good("200 \r\nContent-Length: 2\r\n\r\nok", &[], "ok", "9112 4"),
    bad("200 OK\r\nX : a\r\nContent-Length: 2\r\n\r\nok", "9112 5.1"),
    bad("200 OK\r\nX: a\r\n b\r\nContent-Length: 2\r\n\r\nok", "9112 5.2"),
    bad("200 OK\r\nX: a\0\r\nContent-Length: 2\r\n\r\nok", "9110 5.5"),
    bad("20 OK\r\nContent-Length: 2\r\n\r\nok", "9112 4"),
    bad("101 Switching Protocols\r\nUpgrade: a\r\nConnection: upgrade\r\n\r\n", "9110 7.8"),
    // Interim answers are no answers.
    good(
        "103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        &[("link", "-")],
        "ok",
        "9110 15.2",
    ),
    good(
        "100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
        &[],
        "ok",
        "9110 15.2.1",
    ),
    // What is of one hop.
    good(
        "200 OK\r\nConnection: X-Once\r\nX-Once: 1\r\nKeep-Alive: timeout=5\r\nUpgrade: h2c\r\nContent-Length: 2\r\n\r\nok",
        &[("x-once", "-"), ("connection", "-"), ("keep-alive", "-"), ("upgrade", "-")],
        "ok",
        "9110 7.6.1",
    ),
    Case {
        method: Method::GET,
        bytes: "426 Upgrade Required\r\nConnection: upgrade\r\nUpgrade: TLS/1.0\r\nContent-Length: 2\r\n\r\nok",
        becomes: Some((426, &[("upgrade", "TLS/1.0"), ("connection", "upgrade")], "ok")),
        section: "9110 15.5.22",
    },
];

#[tokio::test]
async fn a_response_is_passed_on_or_is_an_error() {
    let mut wrong = Vec::new();
    for Case { method, bytes, becomes, section } in CASES {
        let answer: &str = Box::leak(format!("HTTP/1.1 {bytes}").into_boxed_str());
        let backend = once(answer).await;
        let request = Request::builder().method(method).uri("/").header("host", "a");
        let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
        let got = match send(&backend.upstream(), request).await {
            Err(_) => None,
            Ok(response) => {
                let (parts, body) = response.into_parts();
                body.collect().await.ok().map(|body| (parts, body.to_bytes()))
            }
        };
        let is_right = match (&got, becomes) {
            (None, None) => true,
            (Some((parts, got)), Some((status, fields, body))) => {
                let has = |(name, value): &(&str, &str)| {
                    let values: Vec<_> = parts.headers.get_all(*name).iter().collect();
                    if *value == "-" { values.is_empty() } else { values == [value] }
                };
                parts.status == *status && got == body && fields.iter().all(has)
            }
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{method} {bytes:?} (RFC {section}): {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// RFC 9112, section 6.1: the framing of such a message is faulty.
#[tokio::test]
async fn a_transfer_coding_in_http_1_0_is_an_error() {
    let backend =
        once("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n").await;
    assert!(send(&backend.upstream(), get("/")).await.is_err());
}
