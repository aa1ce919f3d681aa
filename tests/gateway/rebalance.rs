//! `[rebalance]`.

use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::{
    backends::echo,
    client::{self, Client},
    listener::Listener,
    process::Gateway,
};

#[tokio::test]
async fn idle_sessions_move_to_a_new_backend() {
    let (a, b) = (echo("a").await, echo("b").await);
    let mut gateway = Gateway::configured(&format!(
        "admin = \"127.0.0.1:0\"\n\
         [rebalance]\ntolerance = 1.1\nidle_for = \"1s\"\nmax_per_second = 1000\n{}",
        a.entry("a")
    ))
    .await;
    let admin = gateway.admin_addr().await;
    let mut sessions = Vec::new();
    for _ in 0..8 {
        let mut client = Client::new(gateway.addr);
        client.get("/").await;
        sessions.push(client.jar);
    }
    let mut listener = Listener::new(admin).await;
    let body = json!({ "url": b.url() }).to_string();
    client::send(admin, Method::PUT, "/backends/b", &[], &body).await;
    // The token contains the time of the last request, so the same token can be sent again.
    let moved = async {
        for jar in sessions.iter().cycle() {
            let mut client = Client::new(gateway.addr);
            client.jar = jar.clone();
            if client.get("/").await.backend() == "b" {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::process::FOREVER, moved).await.expect("a session moves in time");
    let moved = json!({ "from": "a", "to": "b", "reason": "rebalanced" });
    assert_eq!(listener.next_of("moved").await, moved);
}
