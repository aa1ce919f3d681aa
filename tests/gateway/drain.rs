//! Drains with a deadline, and the count of sessions.

use std::net::SocketAddr;

use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::{Bytes, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};

use crate::{
    backends::{Backend, echo, streaming},
    client::{self, Client, get},
    listener::Listener,
    process::{FOREVER, Gateway},
};

/// A gateway in front of backends `a` and `b`, by round robin.
async fn gateway(options: &str, backends: [&Backend; 2]) -> (Gateway, SocketAddr) {
    let [a, b] = backends.map(Backend::url);
    let mut gateway = Gateway::configured(&format!(
        "server_timing = true\nadmin = \"127.0.0.1:0\"\n[strategy]\ntype = \"round-robin\"\n{options}\n\
         [[backend]]\nid = \"a\"\nurl = \"{a}\"\n[[backend]]\nid = \"b\"\nurl = \"{b}\"\n"
    ))
    .await;
    let admin = gateway.admin_addr().await;
    (gateway, admin)
}

const SEALED: &str = "[[affinity]]\ntype = \"cookie\"\n\
                      keys = [\"base64:q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=\"]";

async fn patch(admin: SocketAddr, body: Value) -> Value {
    let answer = client::send(admin, Method::PATCH, "/backends/a", &[], &body.to_string()).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
    answer.json()
}

async fn backend_a(admin: SocketAddr) -> Value {
    get(admin, "/backends").await.json()[0].clone()
}

/// A client with a session on `a`.
async fn session_on_a(gateway: SocketAddr) -> Client {
    let mut client = Client::new(gateway);
    assert_eq!(client.get("/").await.backend(), "a");
    client
}

/// An endless response body of the session of `client`, whose beginning has been read.
async fn open_stream(addr: SocketAddr, client: &Client) -> Incoming {
    let cookie = format!("SERVER_ID={}", client.jar["SERVER_ID"]);
    let request = Request::get("/stream").header("host", addr.to_string()).header("cookie", cookie);
    let request = request.body(Empty::<Bytes>::new()).unwrap();
    let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
    let (mut sender, connection) = http1::handshake(io).await.unwrap();
    drop(tokio::spawn(connection));
    let mut body = sender.send_request(request).await.unwrap().into_body();
    let first = timeout(FOREVER, body.frame()).await.expect("the stream begins in time");
    assert_eq!(first.unwrap().unwrap().into_data().unwrap(), "begun");
    body
}

#[tokio::test]
async fn at_the_deadline_streams_are_closed_and_sessions_move() {
    let (a, b) = (streaming("a").await, streaming("b").await);
    let (gateway, admin) = gateway(SEALED, [&a, &b]).await;
    let mut client = session_on_a(gateway.addr).await;
    let mut stream = open_stream(gateway.addr, &client).await;
    // It counts as a stream once the gateway had to wait for more of it.
    loop {
        let now = backend_a(admin).await;
        if now["streams"] == 1 && now["in_flight"] == 1 {
            break;
        }
        tokio::task::yield_now().await;
    }

    let mut listener = Listener::new(admin).await;
    let now = patch(admin, json!({ "mode": "draining", "deadline": "1h" })).await;
    assert_eq!(
        (&now["mode"], &now["in_flight"], &now["streams"], &now["sessions"]),
        (&json!("draining"), &json!(1), &json!(1), &Value::Null),
        "the response does not wait for the end of the drain"
    );
    assert_eq!((&now["sessions_seen"], &now["unconfirmed"]), (&json!(1), &json!(0)));
    let begun = json!({ "backend": "a", "from": "active", "to": "draining" });
    assert_eq!(listener.next().await, ("mode".to_owned(), begun));
    let progress = json!({ "backend": "a", "in_flight": 1, "streams": 1, "sessions": null });
    assert_eq!(listener.next().await, ("draining".to_owned(), progress));
    assert_eq!(client.get("/").await.backend(), "a", "the drain lasts another hour");
    assert_eq!(backend_a(admin).await.get("drained"), None, "it has not ended");

    patch(admin, json!({ "mode": "draining", "deadline": "10ms" })).await;
    assert_eq!(
        listener.next_of("drained").await["end"],
        "cancelled",
        "a new drain cancels the first"
    );
    let report = listener.next_of("drained").await;
    for (key, expected) in [
        ("backend", json!("a")),
        ("end", json!("deadline")),
        ("sessions_before", Value::Null),
        ("sessions_left", Value::Null),
        ("streams_cut", json!(1)),
    ] {
        assert_eq!(report[key], expected, "{key} of {report}");
    }
    assert!(report["elapsed_ms"].as_u64() >= Some(10), "{report}");
    let end = timeout(FOREVER, stream.frame()).await.expect("the stream is cut in time");
    assert!(end.is_some_and(|frame| frame.is_err()), "the stream must not end cleanly");

    let answer = client.get("/").await;
    assert_eq!(answer.header("server-timing"), "sticky;desc=\"moved b\"");
    let moved = json!({ "from": "a", "to": "b", "reason": "draining" });
    assert_eq!(listener.next_of("moved").await, moved);
    let now = backend_a(admin).await;
    assert_eq!(now["mode"], "draining", "the mode stays that of the operator");
    assert_eq!(now["drained"], true, "{now}");
    assert_eq!(client.get("/").await.backend(), "b");
}

#[tokio::test]
async fn the_policy_after_the_deadline_is_configurable() {
    let (a, b) = (echo("a").await, echo("b").await);
    let (gateway, admin) = gateway(SEALED, [&a, &b]).await;
    let mut client = session_on_a(gateway.addr).await;
    let mut listener = Listener::new(admin).await;
    for (then, expected) in
        [("reject", "sticky;desc=\"rejected"), ("borrow", "sticky;desc=\"borrowed b\"")]
    {
        patch(admin, json!({ "mode": "draining", "deadline": "0s", "then": then })).await;
        assert_eq!(listener.next_of("drained").await["end"], "deadline");
        let answer = client.get("/").await;
        let timing = answer.header("server-timing");
        assert!(timing.starts_with(expected), "{then}: {timing}");
        assert_eq!(answer.header("set-cookie"), "", "{then}: the session is still pinned to a");
    }
    patch(admin, json!({ "mode": "active" })).await;
    let back = json!({ "backend": "a", "from": "draining", "to": "active" });
    assert_eq!(listener.next_of("mode").await, back);
    assert_eq!(client.get("/").await.header("server-timing"), "sticky;desc=\"pinned a\"");
}

#[tokio::test]
async fn a_drain_without_sessions_ends_after_the_idle_timeout() {
    let (a, b) = (echo("a").await, echo("b").await);
    let sealed = format!("{SEALED}\nidle_timeout = \"1s\"");
    let (_gateway, admin) = gateway(&sealed, [&a, &b]).await;
    let mut listener = Listener::new(admin).await;
    patch(admin, json!({ "mode": "draining", "deadline": "1h" })).await;
    let report = listener.next_of("drained").await;
    assert_eq!((&report["end"], &report["sessions_left"]), (&json!("completed"), &json!(0)));
    assert!(report["elapsed_ms"].as_u64() >= Some(500), "after an idle timeout: {report}");
}

#[tokio::test]
async fn after_a_restart_a_drain_keeps_its_deadline() {
    let (a, b) = (echo("a").await, echo("b").await);
    let (first, _) = gateway(SEALED, [&a, &b]).await;
    let client = session_on_a(first.addr).await;
    drop(first);
    let (second, admin) = gateway(SEALED, [&a, &b]).await;
    let mut listener = Listener::new(admin).await;
    patch(admin, json!({ "mode": "draining", "deadline": "100ms" })).await;
    let report = listener.next_of("drained").await;
    assert_eq!(report["end"], "deadline", "plain tokens identify no sessions: {report}");
    let mut moved = Client::new(second.addr);
    moved.jar = client.jar;
    assert_eq!(moved.get("/").await.header("server-timing"), "sticky;desc=\"moved b\"");
}

#[tokio::test]
async fn sessions_are_counted_when_tokens_identify_them() {
    let (a, b) = (echo("a").await, echo("b").await);
    let plain = "[[affinity]]\ntype = \"cookie\"\nformat = \"plain\"";
    for options in [SEALED, plain] {
        let (gateway, admin) = gateway(options, [&a, &b]).await;
        for _ in 0..2 {
            let mut client = Client::new(gateway.addr);
            client.get("/").await;
            client.get("/").await;
        }
        let now = backend_a(admin).await;
        let (counts, unknown) = ((&json!(2), &json!(1)), &Value::Null);
        assert_eq!((&now["requests"], &now["sessions_seen"]), counts, "{options}");
        assert_eq!(&now["sessions"], unknown, "no idle timeout has been observed: {options}");
    }
}

#[tokio::test]
async fn a_drain_can_hand_sessions_over_at_once() {
    let (a, b) = (echo("a").await, echo("b").await);
    let (gateway, admin) = gateway(SEALED, [&a, &b]).await;
    let mut client = session_on_a(gateway.addr).await;
    patch(admin, json!({ "mode": "draining" })).await;
    assert_eq!(client.get("/").await.backend(), "a", "no session is handed over by default");
    patch(admin, json!({ "mode": "draining", "hand_over": 1000 })).await;
    assert_eq!(client.get("/").await.header("server-timing"), "sticky;desc=\"moved b\"");
    assert_eq!(client.get("/").await.header("server-timing"), "sticky;desc=\"pinned b\"");
    for bad in [json!({ "hand_over": 5 }), json!({ "mode": "draining", "hand_over": 0 })] {
        let bad = bad.to_string();
        let answer = client::send(admin, Method::PATCH, "/backends/a", &[], &bad).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(answer.text().contains("`hand_over` is"), "{}", answer.text());
    }
}
