//! The head of a request as the backend gets it.

use http::{Request, Version};
use http_body_util::Empty;
use tower_sticky::Peer;

use crate::support::*;

#[tokio::test]
async fn a_backend_gets_the_rewritten_head() {
    let (backend, mut heads) = recorder().await;
    let request = Request::get("http://shop:8080/cart?x=%20")
        .version(Version::HTTP_2)
        .header("connection", "x-secret, close")
        .header("x-secret", "1")
        .header("te", "trailers, deflate")
        .header("expect", "100-continue")
        .header("x_forwarded_for", "6.6.6.6")
        .header("x-forwarded-for", "6.6.6.6")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .extension(Peer::new("[2001:db8::7]:51000".parse().unwrap()))
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    send(&backend.upstream(), request).await.unwrap();
    let head = heads.recv().await.unwrap();
    let (line, fields) = head.trim_end().split_once("\r\n").unwrap();
    assert_eq!(line, "GET /cart?x=%20 HTTP/1.1");
    let mut fields: Vec<_> = fields.split("\r\n").collect();
    fields.sort_unstable();
    assert_eq!(
        fields,
        [
            "connection: te",
            "cookie: a=1; b=2",
            "forwarded: for=\"[2001:db8::7]\";proto=http;host=\"shop:8080\"",
            "host: shop:8080",
            "te: trailers",
            "via: 2.0 tower-sticky",
            "x-forwarded-for: 2001:db8::7",
            "x-forwarded-host: shop:8080",
            "x-forwarded-proto: http",
        ]
    );
}

#[tokio::test]
async fn fields_of_a_trusted_proxy_are_kept_or_appended_to() {
    let (backend, mut heads) = recorder().await;
    let request = Request::get("/")
        .header("host", "shop")
        .header("x-forwarded-for", "1.2.3.4")
        .header("x-forwarded-proto", "https")
        .header("x-forwarded-host", "shop.test")
        .header("x-forwarded-prefix", "/a")
        .header("forwarded", "for=1.2.3.4")
        .header("via", "1.1 edge")
        .extension(Peer::new("10.0.0.7:1".parse().unwrap()).trusted(true))
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let upstream = backend.upstream().via(Some("inner")).unwrap();
    send(&upstream, request).await.unwrap();
    let head = heads.recv().await.unwrap();
    assert!(head.contains("x-forwarded-for: 1.2.3.4, 10.0.0.7\r\n"), "{head}");
    assert!(
        head.contains("forwarded: for=1.2.3.4, for=10.0.0.7;proto=http;host=shop\r\n"),
        "{head}"
    );
    for kept in
        ["x-forwarded-proto: https", "x-forwarded-host: shop.test", "x-forwarded-prefix: /a"]
    {
        assert!(head.contains(&format!("{kept}\r\n")), "{head}");
    }
    let edge = head.find("via: 1.1 edge\r\n").expect("what is there stays");
    assert!(head.find("via: 1.1 inner\r\n").expect("ours comes after it") > edge);
}

#[tokio::test]
async fn without_a_peer_no_forwarded_field_is_passed_on() {
    let (backend, mut heads) = recorder().await;
    let mut request = get("/");
    request.headers_mut().insert("x-forwarded-proto", "https".parse().unwrap());
    request.headers_mut().insert("forwarded", "for=me".parse().unwrap());
    send(&backend.upstream().via(None).unwrap(), request).await.unwrap();
    assert_eq!(heads.recv().await.unwrap(), "GET / HTTP/1.1\r\nhost: shop\r\n\r\n");
}

/// From an untrusted peer.
#[tokio::test]
async fn no_forwarded_field_of_an_untrusted_peer_is_passed_on() {
    let (backend, mut heads) = recorder().await;
    let mut request = Request::get("/").header("host", "shop").header("x-request-id", "1");
    for last in "ssl port prefix server user scheme uri method tls-client-cert client-cert groups"
        .split(' ')
    {
        request = request.header(format!("x-forwarded-{last}"), "evil");
    }
    for name in ["x-real-ip", "x-client-ip", "true-client-ip", "x_real_ip", "x_forwarded_ssl"] {
        request = request.header(name, "evil");
    }
    let request = request.extension(Peer::new("10.0.0.7:1".parse().unwrap()));
    let request = request.body(Empty::<bytes::Bytes>::new()).unwrap();
    send(&backend.upstream(), request).await.unwrap();
    let head = heads.recv().await.unwrap();
    assert!(!head.contains("evil"), "{head}");
    assert!(head.contains("x-request-id: 1\r\n"), "{head}");
}

#[tokio::test]
async fn a_response_gets_via_by_option() {
    for (http2, version) in [(false, "1.1"), (true, "2.0")] {
        let backend =
            server(http2, |_| async { http::Response::new(Empty::<bytes::Bytes>::new()) });
        let upstream = backend.await.upstream().http2(http2);
        assert!(!send(&upstream, get("/")).await.unwrap().headers().contains_key("via"));
        let upstream = upstream.response_via(Some("edge")).unwrap();
        let answer = send(&upstream, get("/")).await.unwrap();
        assert_eq!(answer.headers()["via"], format!("{version} edge"));
    }
}
