//! The page `signalr`: Microsoft's client in Node.js, and a stand-in for a server of SignalR and Blazor.

use super::{
    page,
    scripts::{Script, three},
};

const SCRIPT: &str = "signalr.mjs";

/// Clients with each transport, of whose servers one is killed while they run.
async fn assert_circuits_stay_and_begin_anew(configuration: usize, jar: &str) {
    let ([mut one, two, rest], ports) = three(SCRIPT).await;
    let gateway = page::gateway("signalr.md", configuration, &ports).await;
    let url = format!("http://{}", gateway.addr);
    let mut clients = Script::start(SCRIPT, &["clients", &url, "24", jar]);
    assert_eq!(clients.line().await, "24 of 24 on 3 servers");
    one.script.kill().await;
    clients.tell("one").await;
    assert_eq!(clients.line().await, "24 of 24 afterwards");
    drop((two, rest));
}

#[tokio::test]
async fn circuits_by_cookie() {
    assert_circuits_stay_and_begin_anew(0, "jar").await;
}

#[tokio::test]
async fn circuits_by_address_without_a_cookie_jar() {
    assert_circuits_stay_and_begin_anew(1, "no-jar").await;
}

#[tokio::test]
async fn a_chain_serves_clients_with_a_cookie_jar_too() {
    assert_circuits_stay_and_begin_anew(1, "jar").await;
}
