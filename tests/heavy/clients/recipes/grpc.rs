//! The page `grpc`: gRPC's own server and client in Python.

use super::{
    page,
    scripts::{Script, Server},
};

/// Users with calls of every kind, of whose servers one is killed with a call in flight.
async fn assert_users_stay_and_move(configuration: usize, mode: &str) {
    let start = async |name| Server::grpc(name).await;
    let (one, two, three) = tokio::join!(start("one"), start("two"), start("three"));
    let mut servers = [one, two, three];
    let ports = servers.each_ref().map(|server| server.port);
    let gateway = page::gateway("grpc.md", configuration, &ports).await;
    let mut client = Script::start("grpc_recipe.py", &[mode, &gateway.addr.to_string()]);
    assert_eq!(client.line().await, "12 users on 3 servers");
    let name = client.line().await;
    let number = ["one", "two", "three"].iter().position(|known| *known == name).unwrap();
    // When this is printed the call is on its way. Those before had less than a second left.
    let is_held = |line: &str| line.starts_with("remaining ") && !line.starts_with("remaining 0");
    while !is_held(&servers[number].script.line().await) {}
    servers[number].script.kill().await;
    client.tell(&name).await;
    assert_eq!(client.line().await, "12 of 12");
}

#[tokio::test]
async fn users_by_a_key_in_metadata() {
    assert_users_stay_and_move(0, "key").await;
}

#[tokio::test]
async fn users_by_a_token_in_metadata() {
    assert_users_stay_and_move(1, "token").await;
}
