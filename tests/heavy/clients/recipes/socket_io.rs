//! The page `socket_io`: Socket.IO's own server and client in Node.js.

use tower_sticky_heavy_tests::process::Gateway;

use super::{
    page,
    scripts::{Script, three},
};

const SCRIPT: &str = "socket_io.mjs";
/// The configurations of the page, and whether their clients keep cookies.
const CONFIGURATIONS: [(usize, &str); 2] = [(0, "jar"), (1, "no-jar")];

#[tokio::test]
async fn connections_stay_on_their_server() {
    let (_servers, ports) = three(SCRIPT).await;
    for (configuration, jar) in CONFIGURATIONS {
        let gateway = page::gateway("socket_io.md", configuration, &ports).await;
        let url = format!("http://{}", gateway.addr);
        for transports in ["polling", "polling,websocket", "websocket"] {
            let args = ["visits", &url, transports, "40", jar];
            let said = Script::start(SCRIPT, &args).line().await;
            assert_eq!(said, "40 of 40 on 3 servers", "{transports}, {jar}");
        }
    }
}

/// Clients of each configuration with each of these transports.
async fn moving(ports: &[u16; 3], transports: &[&str]) -> (Vec<Gateway>, Vec<Script>) {
    let (mut gateways, mut clients) = (Vec::new(), Vec::new());
    for (configuration, jar) in CONFIGURATIONS {
        let gateway = page::gateway("socket_io.md", configuration, ports).await;
        let url = format!("http://{}", gateway.addr);
        let start = |transports| Script::start(SCRIPT, &["moves", &url, transports, "12", jar]);
        clients.extend(transports.iter().copied().map(start));
        gateways.push(gateway);
    }
    for clients in &mut clients {
        assert_eq!(clients.line().await, "12 on 3 servers");
    }
    (gateways, clients)
}

/// The clients of the first server connect to others, and all others notice nothing. How many it has depends on how
/// fast clients connect.
async fn assert_they_move(clients: &mut [Script]) {
    for clients in &mut *clients {
        clients.tell("one").await;
    }
    for clients in clients {
        let said = clients.line().await;
        let numbers = said.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok());
        let [moved, of_first, undisturbed, others] = numbers.collect::<Vec<u32>>()[..] else {
            panic!("{}: {said}", clients.name);
        };
        let all_did = moved == of_first && undisturbed == others && of_first + others == 12;
        assert!(all_did && of_first > 0, "{}: {said}", clients.name);
    }
}

#[tokio::test]
async fn clients_of_a_killed_server_connect_to_others() {
    let ([mut one, two, rest], ports) = three(SCRIPT).await;
    let transports = ["polling", "polling,websocket", "websocket"];
    let (_gateways, mut clients) = moving(&ports, &transports).await;
    one.script.kill().await;
    assert_they_move(&mut clients).await;
    drop((two, rest));
}

#[tokio::test]
async fn clients_of_a_drained_server_connect_to_others() {
    let (_servers, ports) = three(SCRIPT).await;
    let (mut gateways, mut clients) = moving(&ports, &["polling,websocket"]).await;
    for gateway in &mut gateways {
        page::drain(gateway, "one", "1s").await;
    }
    assert_they_move(&mut clients).await;
}

#[tokio::test]
async fn connections_that_break_are_recovered() {
    let (_servers, ports) = three(SCRIPT).await;
    let gateway = page::gateway("socket_io.md", 0, &ports).await;
    let url = format!("http://{}", gateway.addr);
    let mut clients = Script::start(SCRIPT, &["recovers", &url, "24"]);
    assert_eq!(clients.line().await, "24 of 24 recovered");
}
