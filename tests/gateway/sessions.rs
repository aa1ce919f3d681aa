//! Which backend serves a session, and what the client sees of it.

use http::{Method, Request, StatusCode};
use http_body_util::Full;

use crate::{
    backends::{echo, refusing},
    client::{self, Client, get},
    process::Gateway,
};

#[tokio::test]
async fn a_cookie_keeps_each_client_on_its_backend() {
    let (a, b) = (echo("a").await, echo("b").await);
    let gateway = Gateway::start(&[
        "--backend",
        &a.flag("a"),
        "--backend",
        &b.flag("b"),
        "--strategy",
        "round-robin",
    ])
    .await;
    let mut seen = Vec::new();
    for _ in 0..4 {
        let mut client = Client::new(gateway.addr);
        let first = client.get("/").await;
        assert!(client.jar.contains_key("SERVER_ID"), "the first response sets the cookie");
        for _ in 0..5 {
            let next = client.get("/again").await;
            assert_eq!(next.backend(), first.backend(), "the session stays on its backend");
            assert_eq!(next.header("set-cookie"), "", "an unchanged pin sets no cookie");
            assert_eq!(next.header("server-timing"), "", "Server-Timing is off by default");
            let headers = &next.json()["headers"];
            assert!(headers.get("cookie").is_none(), "the cookie is not forwarded: {headers}");
        }
        seen.push(first.backend());
    }
    assert_eq!(seen, ["a", "b", "a", "b"], "new sessions are assigned round robin");
}

#[tokio::test]
async fn every_response_has_its_outcome() {
    let (a, refusing) = (echo("a").await, refusing());
    let gateway = Gateway::configured(&format!(
        "server_timing = true
         [[affinity]]
         type = \"cookie\"
         format = \"plain\"
         [[backend]]
         id = \"a\"
         url = \"{}\"
         [[backend]]
         id = \"gone\"
         url = \"http://{}\"
         weight = 0",
        a.url(),
        refusing.addr
    ))
    .await;
    let outcome = |answer: &client::Answer| answer.header("server-timing").to_owned();
    let mut client = Client::new(gateway.addr);
    assert_eq!(outcome(&client.get("/").await), "sticky;desc=\"assigned a\"");
    assert_eq!(outcome(&client.get("/").await), "sticky;desc=\"pinned a\"");
    client.jar.insert("SERVER_ID".into(), "gone".into());
    let moved = client.get("/").await;
    assert_eq!(outcome(&moved), "sticky;desc=\"moved a\"");
    assert!(moved.header("set-cookie").starts_with("SERVER_ID=a;"), "{moved:?}");
}

#[tokio::test]
async fn responses_of_the_gateway_have_their_outcome_too() {
    let refusing = refusing();
    let gateway = Gateway::configured(&format!(
        "server_timing = true
         [[backend]]
         id = \"gone\"
         url = \"http://{}\"",
        refusing.addr
    ))
    .await;
    let answer = get(gateway.addr, "/").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let timing = answer.header("server-timing");
    assert!(timing.starts_with("sticky;desc=\"rejected"), "{timing}");
}

#[tokio::test]
async fn http2_is_spoken_on_the_same_port() {
    let (a, b) = (echo("a").await, echo("b").await);
    let gateway = Gateway::start(&["--backend", &a.flag("a"), "--backend", &b.flag("b")]).await;
    let mut sender = client::http2(gateway.addr).await;
    let request = |cookie: &str| {
        Request::builder()
            .uri(format!("http://{}/x", gateway.addr))
            .header("cookie", cookie)
            .body(Full::default())
            .unwrap()
    };
    let first = client::read(sender.send_request(request("x=1")).await.unwrap()).await;
    let cookie = first.header("set-cookie").split(';').next().unwrap().to_owned();
    for _ in 0..3 {
        let next = client::read(sender.send_request(request(&cookie)).await.unwrap()).await;
        assert_eq!(next.backend(), first.backend());
    }
}

#[tokio::test]
async fn the_log_has_backend_and_outcome_of_every_request() {
    let a = echo("a").await;
    let config = format!("[[backend]]\nid = \"a\"\nurl = \"{}\"", a.url());
    let mut gateway = Gateway::configured_with(&config, &[("RUST_LOG", "info")]).await;
    let mut client = Client::new(gateway.addr);
    client.get("/cart?secret=1").await;
    let line = gateway.stderr_line("answered").await;
    for part in
        ["path=\"/cart\"", "sticky.backend=\"a\"", "sticky.outcome=\"assigned\"", "status=200"]
    {
        assert!(line.contains(part), "{part} is missing in {line}");
    }
    assert!(!line.contains("secret"), "a query may contain secrets: {line}");
    client.jar.insert("SERVER_ID".into(), "nonsense".into());
    client.send(Method::POST, "/", &[], "x").await;
    let line = gateway.stderr_line("answered").await;
    assert!(line.contains("sticky.reason="), "{line}");
}

#[tokio::test]
async fn forward_only_forwards_round_robin() {
    let (a, b) = (echo("a").await, echo("b").await);
    let gateway =
        Gateway::start(&["--backend", &a.flag("a"), "--backend", &b.flag("b"), "--forward-only"])
            .await;
    let mut client = Client::new(gateway.addr);
    client.jar.insert("SERVER_ID".into(), "kept".into());
    let mut seen = Vec::new();
    for _ in 0..4 {
        let answer = client.get("/").await;
        assert_eq!(answer.header("set-cookie"), "");
        assert_eq!(answer.json()["headers"]["cookie"][0], "SERVER_ID=kept");
        seen.push(answer.backend());
    }
    assert_eq!(seen, ["a", "b", "a", "b"]);
}
