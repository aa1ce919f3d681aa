//! Listeners and the limit of connections change while the gateway serves.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    time::{Duration, Instant, sleep, timeout},
};

use crate::{
    backends::{Backend, echo},
    client::{Answer, get, send},
    process::{FOREVER, Gateway},
};

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";

/// A gateway whose file has these listeners.
struct Setup {
    gateway: Gateway,
    admin: SocketAddr,
    backend: Backend,
}

impl Setup {
    async fn new(config: &str) -> Self {
        let backend = echo("a").await;
        let mut gateway = Gateway::listening(&file(config, &backend)).await;
        let admin = gateway.admin_addr().await;
        Self { gateway, admin, backend }
    }

    async fn reload(&self, config: &str) -> Answer {
        self.gateway.rewrite(&file(config, &self.backend));
        send(self.admin, Method::POST, "/reload", &[], "").await
    }

    async fn changed(&self, config: &str) -> Value {
        let answer = self.reload(config).await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()["changed"].clone()
    }
}

fn file(config: &str, backend: &Backend) -> String {
    format!("admin = \"127.0.0.1:0\"\n{config}\n{}", backend.entry("a"))
}

/// A port that is free now.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

async fn ask(stream: &mut TcpStream) -> String {
    let exchange = async {
        stream.write_all(REQUEST).await.unwrap();
        let mut bytes = vec![0; 16 << 10];
        let length = stream.read(&mut bytes).await.unwrap();
        String::from_utf8_lossy(&bytes[..length]).into_owned()
    };
    timeout(FOREVER, exchange).await.expect("an answer in time")
}

#[tokio::test]
async fn overlapping_addresses_replace_each_other() {
    let port = free_port().await;
    let all = format!("listen = \"0.0.0.0:{port}\"");
    let one = format!("listen = \"127.0.0.1:{port}\"");
    let setup = Setup::new(&all).await;
    let loopback = SocketAddr::from(([127, 0, 0, 1], port));
    let mut kept = TcpStream::connect(loopback).await.unwrap();
    assert!(ask(&mut kept).await.starts_with("HTTP/1.1 200"));
    for (config, said) in [
        (&one, format!("listen (0.0.0.0:{port} was closed first)")),
        (&all, format!("listen (127.0.0.1:{port} was closed first)")),
        (&one, format!("listen (0.0.0.0:{port} was closed first)")),
    ] {
        assert_eq!(setup.changed(config).await, json!(["listen", said]));
        assert_eq!(get(loopback, "/").await.status, StatusCode::OK);
        let elsewhere = SocketAddr::from(([127, 0, 0, 2], port));
        let is_open = TcpStream::connect(elsewhere).await.is_ok();
        assert_eq!(is_open, config == &all, "{config}");
        assert!(ask(&mut kept).await.starts_with("HTTP/1.1 200"), "open connections go on");
    }
}

#[tokio::test]
async fn a_new_address_that_cannot_be_opened_leaves_the_old_ones() {
    let (port, holder) = (free_port().await, TcpListener::bind("127.0.0.1:0").await.unwrap());
    let taken = holder.local_addr().unwrap().port();
    let listener = |addr: &str, port: u16| format!("[[listener]]\naddress = \"{addr}:{port}\"\n");
    let setup = Setup::new(&listener("0.0.0.0", port)).await;
    // The first one overlaps and can be opened, the second one cannot be.
    let config = listener("127.0.0.1", port) + &listener("127.0.0.1", taken);
    let answer = setup.reload(&config).await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().contains("listener[1].address"), "{}", answer.text());
    assert_eq!(get(([127, 0, 0, 2], port).into(), "/").await.status, StatusCode::OK);
    drop(holder);
    assert_eq!(setup.reload(&config).await.status, StatusCode::OK);
    for port in [port, taken] {
        assert_eq!(get(([127, 0, 0, 1], port).into(), "/").await.status, StatusCode::OK);
    }
}

#[tokio::test]
async fn the_same_address_in_other_words_keeps_its_socket() {
    let port = free_port().await;
    let setup = Setup::new(&format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\n")).await;
    let listener = |address: &str| format!("[[listener]]\naddress = \"{address}:{port}\"\n");
    let changed = setup.changed(&listener("localhost")).await;
    assert_eq!(changed, json!(["listener[0].address"]), "nothing had to be closed");
    assert_eq!(get(setup.gateway.addr, "/").await.status, StatusCode::OK);
    assert_eq!(setup.changed(&listener("127.0.0.1")).await, json!(["listener[0].address"]));
    assert_eq!(get(setup.gateway.addr, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_unix_socket_gets_another_mode() {
    use std::os::unix::fs::PermissionsExt;
    let name = format!("gateway-{}-mode.sock", std::process::id());
    let path = std::env::temp_dir().join(name);
    let listener = |mode: &str| {
        format!(
            "[[listener]]\naddress = \"127.0.0.1:0\"\n[[listener]]\naddress = \"unix:{}\"\nmode = \"{mode}\"\n",
            path.display()
        )
    };
    let setup = Setup::new(&listener("0600")).await;
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(), 0o600);
    let mut kept = UnixStream::connect(&path).await.unwrap();
    assert_eq!(setup.changed(&listener("0660")).await, json!(["listener[1].mode"]));
    assert_eq!(mode(), 0o660);
    kept.write_all(REQUEST).await.unwrap();
    assert!(kept.read_u8().await.is_ok(), "its connections go on");
}

#[tokio::test]
async fn all_connections_have_one_limit() {
    let config = |connections: u32, more: &str| {
        format!("listen = \"127.0.0.1:0\"\n{more}\n[limits]\nconnections = {connections}")
    };
    let setup = Setup::new(&config(2, "")).await;
    let addr = setup.gateway.addr;
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        assert!(ask(&mut stream).await.starts_with("HTTP/1.1 200"));
        open.push(stream);
    }
    // Another server accepts now, and the connections of the former one count.
    assert_eq!(setup.changed(&config(2, "server_timing = true")).await, json!(["server_timing"]));
    let mut waiting = TcpStream::connect(addr).await.unwrap();
    waiting.write_all(REQUEST).await.unwrap();
    let mut byte = [0];
    let answered = timeout(Duration::from_millis(300), waiting.read(&mut byte)).await;
    assert!(answered.is_err(), "both connections are in use");
    // The limit changes at once, for both.
    assert_eq!(
        setup.changed(&config(3, "server_timing = true")).await,
        json!(["limits.connections"])
    );
    assert_eq!(timeout(FOREVER, waiting.read(&mut byte)).await.unwrap().unwrap(), 1);
    setup.changed(&config(1, "server_timing = true")).await;
    for stream in &mut open {
        assert!(ask(stream).await.starts_with("HTTP/1.1 200"), "open connections go on");
    }
    drop(open);
    let mut last = TcpStream::connect(addr).await.unwrap();
    last.write_all(REQUEST).await.unwrap();
    let answered = timeout(Duration::from_millis(300), last.read(&mut byte)).await;
    assert!(answered.is_err(), "one is open, and one is allowed");
    drop(waiting);
    assert_eq!(timeout(FOREVER, last.read(&mut byte)).await.unwrap().unwrap(), 1);
}

/// Reloads with a socket that is added and removed, under load: nobody is refused at the other one.
#[tokio::test(flavor = "multi_thread")]
async fn a_listener_comes_and_goes_while_another_serves() {
    let ports = [free_port().await, free_port().await];
    let listener = |port: u16| format!("[[listener]]\naddress = \"127.0.0.1:{port}\"\n");
    let setup = Setup::new(&listener(ports[0])).await;
    let addr = setup.gateway.addr;
    let client = tokio::spawn(async move {
        for _ in 0..200 {
            assert_eq!(get(addr, "/").await.status, StatusCode::OK);
        }
    });
    let second = SocketAddr::from(([127, 0, 0, 1], ports[1]));
    while !client.is_finished() {
        setup.changed(&(listener(ports[0]) + &listener(ports[1]))).await;
        assert_eq!(get(second, "/").await.status, StatusCode::OK);
        setup.changed(&listener(ports[0])).await;
        let deadline = Instant::now() + FOREVER;
        while TcpStream::connect(second).await.is_ok() {
            assert!(Instant::now() < deadline, "it is closed");
            sleep(Duration::from_millis(5)).await;
        }
    }
    client.await.unwrap();
}
