//! The response to the client when a backend fails.

use http::{Method, StatusCode};
use tokio::{io::AsyncWriteExt, net::TcpStream};

use crate::{
    backends::{echo, garbage, held, refusing, silent},
    client::{self, Client, get},
    process::Gateway,
};

#[tokio::test]
async fn a_silent_backend_is_504() {
    let silent = silent().await;
    let config = format!("[limits]\nresponse_timeout = \"100ms\"\n{}", silent.entry("a"));
    let gateway = Gateway::configured(&config).await;
    let answer = get(gateway.addr, "/").await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    assert_eq!(answer.header("set-cookie"), "", "an error of the gateway sets no cookie");
}

#[tokio::test]
async fn an_invalid_response_is_502() {
    let garbage = garbage().await;
    let gateway = Gateway::configured(&garbage.entry("a")).await;
    let answer = get(gateway.addr, "/").await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
}

#[tokio::test]
async fn no_backend_is_503_with_retry_after() {
    let closed = refusing();
    let flag = format!("a=http://{}", closed.addr);
    let gateway = Gateway::start(&["--backend", &flag]).await;
    let answer = get(gateway.addr, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(answer.header("retry-after"), "1");
}

#[tokio::test]
async fn a_refused_request_reaches_another_backend_unchanged() {
    let (closed, b) = (refusing(), echo("b").await);
    let dead = format!("a=http://{}", closed.addr);
    let args = ["--backend", &dead, "--backend", &b.flag("b")];
    let gateway = Gateway::start(&args).await;
    for _ in 0..4 {
        let answer = client::send(gateway.addr, Method::POST, "/", &[], "everything").await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.json()["body"], "everything");
    }
}

#[tokio::test]
async fn repin_moves_the_session_and_reject_responds_with_503() {
    for (policy, expected) in
        [("repin", StatusCode::OK), ("reject", StatusCode::SERVICE_UNAVAILABLE)]
    {
        let (closed, b) = (refusing(), echo("b").await);
        let gateway = Gateway::configured(&format!(
            "[failover]\nunavailable = \"{policy}\"\n\
             [[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\n\
             [[backend]]\nid = \"a\"\nurl = \"http://{}\"\n\
             [[backend]]\nid = \"b\"\nurl = \"{}\"\n",
            closed.addr,
            b.url()
        ))
        .await;
        let mut client = Client::new(gateway.addr);
        client.jar.insert("SERVER_ID".into(), "a".into());
        let answer = client.get("/").await;
        assert_eq!(answer.status, expected, "{policy}");
        let pin = if policy == "repin" { "b" } else { "a" };
        assert_eq!(client.jar["SERVER_ID"], pin, "{policy}");
    }
}

#[tokio::test]
async fn a_session_is_borrowed_when_its_backend_is_at_its_limit() {
    let (a, b) = (held("a").await, echo("b").await);
    let gateway = Gateway::configured(&format!(
        "server_timing = true\n\
         [failover]\nbusy_wait = \"10ms\"\n\
         [[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\n\
         [[backend]]\nid = \"a\"\nurl = \"{}\"\nmax_connections = 1\n\
         [[backend]]\nid = \"b\"\nurl = \"{}\"\n",
        a.backend.url(),
        b.url()
    ))
    .await;
    let addr = gateway.addr;
    let pinned = [("cookie", "SERVER_ID=a")];
    let first =
        tokio::spawn(async move { client::send(addr, Method::GET, "/", &pinned, "").await });
    a.arrival().await;
    let second = client::send(addr, Method::GET, "/", &pinned, "").await;
    assert_eq!(second.header("server-timing"), "sticky;desc=\"borrowed b\"");
    assert_eq!(second.header("set-cookie"), "", "the pin does not change");
    a.release();
    assert_eq!(first.await.unwrap().backend(), "a");
}

/// A failure of the client is never a 502.
#[tokio::test]
async fn a_broken_request_body_is_400_or_408() {
    let silent = silent().await;
    let config = format!(
        "server_timing = true\n[limits]\nbody_timeout = \"200ms\"\nresponse_timeout = \"50ms\"\n{}",
        silent.entry("a")
    );
    let gateway = Gateway::configured(&config).await;
    for (rest, status) in [
        ("Transfer-Encoding: chunked\r\n\r\nzz\r\n", "400"),
        ("Content-Length: 100\r\n\r\nabc", "408"),
    ] {
        let mut stream = TcpStream::connect(gateway.addr).await.unwrap();
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}");
        stream.write_all(request.as_bytes()).await.unwrap();
        let head = client::read_head(&mut stream).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
        assert!(head.contains("sticky;desc=\"rejected a\""), "{head}");
        assert!(!head.contains("set-cookie"), "an error of the gateway sets no cookie: {head}");
    }
}
