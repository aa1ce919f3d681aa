//! A backend that accepts connections and closes them at once.

use std::{
    net::{SocketAddr, TcpListener},
    thread,
};

use tokio::{
    task::JoinSet,
    time::{Duration, Instant},
};

use crate::{
    backends::echo,
    client::{Client, get},
    process::Gateway,
};

const LENGTH: Duration = Duration::from_secs(2);

/// Closes each connection as soon as it is accepted, on its own thread: often before anything was written.
fn dropping() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    // The thread accepts connections until the process of the test ends.
    thread::spawn(move || listener.incoming().for_each(drop));
    addr
}

/// Sends requests of sessions of `a`, one after the other.
async fn ask(gateway: SocketAddr) {
    let begun = Instant::now();
    while begun.elapsed() < LENGTH {
        let mut client = Client::new(gateway);
        client.jar.insert("SERVER_ID".into(), "a".into());
        assert_eq!(client.get("/").await.backend(), "b", "sessions of a are served by b");
    }
}

#[tokio::test]
async fn a_backend_that_drops_connections_is_suspect_until_it_responds() {
    let (a, b) = (dropping(), echo("b").await);
    let mut gateway = Gateway::on_one_worker(&format!(
        "admin = \"127.0.0.1:0\"\n[[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\n\
         [[backend]]\nid = \"a\"\nurl = \"http://{a}\"\n[[backend]]\nid = \"b\"\nurl = \"{}\"\n",
        b.url()
    ))
    .await;
    let admin = gateway.admin_addr().await;
    let mut clients = JoinSet::new();
    for _ in 0..8 {
        clients.spawn(ask(gateway.addr));
    }
    let (begun, mut suspect) = (Instant::now(), false);
    while begun.elapsed() < LENGTH {
        let state = get(admin, "/backends").await.json()[0]["state"].clone();
        assert!(!suspect || state == "suspect", "it accepts, but has not responded: {state}");
        suspect |= state == "suspect";
    }
    assert!(suspect, "the backend becomes suspect");
    clients.join_all().await;
}
