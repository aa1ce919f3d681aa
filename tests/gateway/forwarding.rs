//! Forwarding of requests and responses.

use http::Method;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    backends::{echo, upgrading},
    client::{self, read_head},
    process::Gateway,
};

const CLAIMS: [(&str, &str); 4] = [
    ("x-forwarded-for", "6.6.6.6"),
    ("x-forwarded-proto", "https"),
    ("forwarded", "for=6.6.6.6;proto=https"),
    ("host", "shop.example"),
];

async fn forwarded(trusted: &str) -> (Value, String) {
    let a = echo("a").await;
    let gateway =
        Gateway::configured(&format!("trusted_proxies = [{trusted}]\n{}", a.entry("a"))).await;
    let answer = client::send(gateway.addr, Method::GET, "/p?q=1", &CLAIMS, "").await;
    let cookie = answer.header("set-cookie").to_owned();
    (answer.json(), cookie)
}

#[tokio::test]
async fn forwarded_headers_of_untrusted_peers_are_replaced() {
    let (echo, cookie) = forwarded("\"10.0.0.0/8\", \"192.0.2.1\"").await;
    let headers = &echo["headers"];
    assert_eq!(headers["x-forwarded-for"], serde_json::json!(["127.0.0.1"]));
    assert_eq!(headers["x-forwarded-proto"], serde_json::json!(["http"]));
    assert_eq!(headers["x-forwarded-host"], serde_json::json!(["shop.example"]));
    assert_eq!(
        headers["forwarded"],
        serde_json::json!(["for=127.0.0.1;proto=http;host=shop.example"])
    );
    assert_eq!(
        headers["host"],
        serde_json::json!(["shop.example"]),
        "the Host of the client is forwarded"
    );
    assert_eq!(echo["uri"], "/p?q=1", "the target is in origin form");
    assert!(!cookie.contains("Secure"), "{cookie}");
}

#[tokio::test]
async fn forwarded_headers_of_trusted_peers_are_appended_to() {
    let (echo, cookie) = forwarded("\"127.0.0.0/8\"").await;
    let headers = &echo["headers"];
    assert_eq!(headers["x-forwarded-for"][0], "6.6.6.6, 127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], serde_json::json!(["https"]));
    let element = headers["forwarded"][0].as_str().unwrap();
    assert!(element.starts_with("for=6.6.6.6;proto=https, for=127.0.0.1"), "{element}");
    assert!(cookie.contains("Secure"), "the client used https: {cookie}");
}

#[tokio::test]
async fn the_context_of_a_trace_passes_through_unchanged() {
    let a = echo("a").await;
    let context = [
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("baggage", "user=7;p=1"),
    ];
    // With spans of its own, and without.
    for config in ["[access_log]\nfile = \"/dev/null\"\n", ""] {
        let gateway = Gateway::configured(&format!("{config}{}", a.entry("a"))).await;
        let answer = client::send(gateway.addr, Method::GET, "/", &context, "").await;
        for (name, value) in context {
            assert_eq!(answer.json()["headers"][name], serde_json::json!([value]), "{name}");
        }
    }
}

#[tokio::test]
async fn optional_fields_are_added_by_the_file() {
    let a = echo("a").await;
    let backend = a.entry("a");
    let claims = [("host", "shop:81"), ("x-forwarded-prefix", "/p"), ("x-forwarded-port", "666")];
    let get = async |upstream: &str| {
        let gateway = Gateway::configured(&format!("[upstream]\n{upstream}\n{backend}")).await;
        client::send(gateway.addr, Method::GET, "/", &claims, "").await
    };
    let by_default = get("").await;
    let headers = &by_default.json()["headers"];
    assert_eq!(headers["via"], serde_json::json!(["1.1 tower-sticky"]));
    for name in ["x-forwarded-prefix", "x-forwarded-port", "x-real-ip"] {
        assert!(headers.get(name).is_none(), "{name}");
    }
    assert_eq!(by_default.header("via"), "");
    let answer =
        get("via = false\nresponse_via = true\nx_forwarded_port = true\nx_real_ip = true\n\
         pass_forwarded = [\"X-Forwarded-Prefix\"]")
        .await;
    let headers = &answer.json()["headers"];
    assert!(headers.get("via").is_none());
    assert_eq!(headers["x-forwarded-port"], serde_json::json!(["81"]));
    assert_eq!(headers["x-real-ip"], serde_json::json!(["127.0.0.1"]));
    assert_eq!(headers["x-forwarded-prefix"], serde_json::json!(["/p"]));
    assert_eq!(answer.header("via"), "1.1 tower-sticky");
}

#[tokio::test]
async fn at_most_one_framing_reaches_the_backend() {
    let a = echo("a").await;
    let gateway = Gateway::start(&["--backend", &a.flag("a")]).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 3\r\n\
                   Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let answer = client::raw(gateway.addr, request).await;
    if !answer.starts_with("HTTP/1.1 400") {
        let body = answer.split("\r\n\r\n").nth(1).unwrap();
        let echo: Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
        assert_eq!(echo["body"], "hello", "the transfer coding frames the body");
        assert!(echo["headers"].get("content-length").is_none(), "{echo}");
        assert_eq!(echo["headers"]["transfer-encoding"][0], "chunked");
    }
}

#[tokio::test]
async fn an_upgraded_connection_is_a_tunnel() {
    let shouting = upgrading().await;
    let mut gateway =
        Gateway::start(&["--backend", &shouting.flag("a"), "--admin", "127.0.0.1:0"]).await;
    let admin = gateway.admin_addr().await;
    let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
    let request = "GET /talk HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: shout\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert!(head.contains("set-cookie: SERVER_ID="), "a 101 sets the cookie too: {head}");
    let mut buffer = [0; 5];
    for word in ["hello", "again"] {
        stream.write_all(word.as_bytes()).await.unwrap();
        stream.read_exact(&mut buffer).await.unwrap();
        assert_eq!(buffer, *word.to_uppercase().as_bytes());
    }
    let in_flight = || async {
        let backends = client::get(admin, "/backends").await.json();
        backends[0]["in_flight"].as_u64().unwrap()
    };
    assert_eq!(in_flight().await, 1, "the request is in flight until the tunnel ends");
    drop(stream);
    while in_flight().await > 0 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn large_bodies_are_forwarded_both_ways() {
    let a = echo("a").await;
    let gateway = Gateway::start(&["--backend", &a.flag("a"), "--workers", "1"]).await;
    let body = "0123456789".repeat(150_000);
    let answer = client::send(gateway.addr, Method::PUT, "/", &[], &body).await;
    assert!(answer.json()["body"] == body, "the body is unchanged");
}

#[tokio::test]
async fn invalid_requests_are_not_forwarded() {
    let a = echo("a").await;
    let config = format!("server_timing = true\n{}", a.entry("a"));
    let gateway = Gateway::configured(&config).await;
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: b", 400),
        ("GET / HTTP/1.1", 400),
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2", 400),
        ("GET /\x01 HTTP/1.1\r\nHost: a", 400),
        ("CONNECT a:1 HTTP/1.1\r\nHost: a:1", 501),
        ("GET / HTTP/1.0", 200),
        ("GET / HTTP/1.1\r\nHost: a", 200),
    ] {
        let bytes = format!("{request}\r\nConnection: close\r\n\r\n");
        let answer = client::raw(gateway.addr, &bytes).await;
        let line = answer.lines().next().unwrap_or_default();
        assert!(line.contains(&format!(" {status} ")), "{request:?}: {answer}");
    }
    let huge = format!("GET / HTTP/1.1\r\nHost: a\r\nX-Huge: {}\r\n\r\n", "x".repeat(100_000));
    let answer = client::raw(gateway.addr, &huge).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
}
