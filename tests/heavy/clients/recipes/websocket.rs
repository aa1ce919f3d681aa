//! The page `websocket`: a server and clients with ws in Node.js, and clients with websockets in Python.

use super::{
    page,
    scripts::{Script, three},
};

const SERVER: &str = "websocket.mjs";
const COUNT: &str = "200";
const DEADLINE: (&str, &str) = ("3s", "3000");

/// Sockets of which a third is on a server that is drained.
async fn assert_sockets_move_at_the_deadline(script: &str) {
    let (_servers, ports) = three(SERVER).await;
    let mut gateway = page::gateway("websocket.md", 0, &ports).await;
    let url = format!("ws://{}/", gateway.addr);
    let mut clients = Script::start(script, &["clients", &url, COUNT]);
    assert_eq!(clients.line().await, format!("{COUNT} on 3 servers"));
    // The clients measure from a time before the drain.
    clients.tell(&format!("one {}", DEADLINE.1)).await;
    assert_eq!(clients.line().await, "waiting");
    page::drain(&mut gateway, "one", DEADLINE.0).await;
    assert_eq!(clients.line().await, format!("{COUNT} of {COUNT}, 0 early"));
}

#[tokio::test]
async fn sockets_of_node_move_at_the_deadline_of_a_drain() {
    assert_sockets_move_at_the_deadline(SERVER).await;
}

#[tokio::test]
async fn sockets_of_python_move_at_the_deadline_of_a_drain() {
    assert_sockets_move_at_the_deadline("websocket.py").await;
}
