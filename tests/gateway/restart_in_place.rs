//! The program is started anew on the same sockets while it serves (SIGUSR2), and its state goes along.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    backends::{Backend, echo},
    client::{Answer, Client, get, read, send},
    process::{ConfigFile, FOREVER, Gateway},
};

/// A gateway whose successors are killed with this guard.
struct Line {
    gateway: Gateway,
    admin: SocketAddr,
    config: PathBuf,
    _backends: [Backend; 2],
}

impl Line {
    async fn start(config: &str) -> Self {
        let backends = [echo("a").await, echo("b").await];
        let mut text = format!("admin = \"127.0.0.1:0\"\n{config}\n");
        for (backend, id) in backends.iter().zip(["a", "b"]) {
            text.push_str(&backend.entry(id));
        }
        let mut gateway = Gateway::configured(&text).await;
        let admin = gateway.admin_addr().await;
        let config = gateway.file.as_ref().unwrap().path().to_owned();
        Self { gateway, admin, config, _backends: backends }
    }

    /// The processes that run with this configuration, in the order of their start.
    fn processes(&self) -> Vec<u32> {
        let is_ours = |id: &u32| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            let path = self.config.to_str().unwrap().as_bytes();
            line.split(|byte| *byte == 0).any(|arg| arg == path)
        };
        let ids = fs::read_dir("/proc")
            .unwrap()
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut ids: Vec<_> = ids.filter(is_ours).collect();
        ids.sort_unstable();
        ids
    }

    /// Starts the newest process anew, and waits until the next one accepts.
    async fn restart(&mut self) {
        let newest = *self.processes().last().unwrap();
        signal(newest, "USR2");
        let line = self.gateway.stdout_line().await;
        assert_eq!(line, format!("listening on http://{}", self.gateway.addr));
        self.gateway.stderr_line(&format!("admin interface on http://{}", self.admin)).await;
    }

    async fn patch(&self, id: &str, body: &Value) {
        let path = format!("/backends/{id}");
        let answer = send(self.admin, Method::PATCH, &path, &[], &body.to_string()).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }

    /// Weight, mode and limit of each backend, by their ids.
    async fn backends(&self) -> Vec<(Value, Value, Value, Value)> {
        let list = get(self.admin, "/backends").await.json();
        let one = |it: &Value| {
            (it["id"].clone(), it["weight"].clone(), it["mode"].clone(), it["limit"].clone())
        };
        list.as_array().unwrap().iter().map(one).collect()
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.processes().into_iter().for_each(|id| signal(id, "KILL"));
    }
}

fn signal(id: u32, name: &str) {
    let kill = std::process::Command::new("kill").args(["-s", name, &id.to_string()]).status();
    assert!(kill.unwrap().success() || name == "KILL", "the signal is sent");
}

/// Asks on a kept connection, which is opened anew only after the gateway has said that it closes.
async fn ask_on(
    kept: &mut Option<http1::SendRequest<Full<Bytes>>>,
    addr: SocketAddr,
    cookie: &str,
) -> Answer {
    let mut sender = match kept.take() {
        Some(sender) => sender,
        None => {
            let io = TokioIo::new(TcpStream::connect(addr).await.unwrap());
            let (sender, connection) = http1::handshake(io).await.unwrap();
            drop(tokio::spawn(connection));
            sender
        }
    };
    sender.ready().await.expect("it has not said that it closes");
    let request = Request::get("/").header("host", "a").header("cookie", cookie);
    let request = request.body(Full::default()).unwrap();
    let answer = timeout(FOREVER, sender.send_request(request)).await.unwrap();
    let answer = read(answer.expect("the connection is not reset")).await;
    *kept = (answer.header("connection") != "close").then_some(sender);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_under_load_lose_nothing() {
    let mut line = Line::start("").await;
    let addr = line.gateway.addr;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..16)
        .map(|number| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut client = Client::new(addr);
                let home = client.get("/").await.backend();
                let cookie = client.jar.iter().next().map(|(n, v)| format!("{n}={v}")).unwrap();
                let (mut kept, mut served) = (None, 0);
                while !*stopped.borrow() {
                    // Half of them keep their connection.
                    let answer = match number % 2 {
                        0 => client.get("/").await,
                        _ => ask_on(&mut kept, addr, &cookie).await,
                    };
                    assert_eq!((answer.status, answer.backend()), (StatusCode::OK, home.clone()));
                    served += 1;
                }
                served
            })
        })
        .collect();
    for _ in 0..5 {
        line.restart().await;
        sleep(Duration::from_millis(100)).await;
    }
    stop.send_replace(true);
    for client in clients {
        assert!(client.await.unwrap() > 10);
    }
    assert_eq!(get(line.admin, "/stats").await.json()["moves"], 0);
}

#[tokio::test]
async fn what_the_operator_has_changed_and_the_pins_go_along() {
    let learned =
        "[strategy]\ntype = \"round-robin\"\n[[affinity]]\ntype = \"learned\"\nquery = \"sid\"";
    let mut line = Line::start(learned).await;
    let ask = async |id: usize| get(line.gateway.addr, &format!("/?sid={id}")).await.backend();
    let mut homes = Vec::new();
    for id in 0..6 {
        homes.push(ask(id).await);
    }
    line.patch("a", &json!({ "weight": 7 })).await;
    line.patch("b", &json!({ "mode": "draining", "deadline": "5m" })).await;
    let before = line.backends().await;
    line.restart().await;
    line.restart().await;
    assert_eq!(line.backends().await, before);
    for (id, home) in homes.iter().enumerate() {
        let answer = get(line.gateway.addr, &format!("/?sid={id}")).await;
        assert_eq!(answer.backend(), *home, "learned before the restarts");
    }
    line.patch("b", &json!({ "mode": "active" })).await;
    send(line.admin, Method::DELETE, "/backends/a", &[], "").await;
    line.restart().await;
    let ids: Vec<_> = line.backends().await.into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, ["b"], "what was removed stays away");
}

#[tokio::test]
async fn an_idle_connection_is_answered_once_more_and_then_closed() {
    let mut line = Line::start("").await;
    let mut idle = TcpStream::connect(line.gateway.addr).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    idle.write_all(request).await.unwrap();
    let mut bytes = [0; 16 << 10];
    assert!(idle.read(&mut bytes).await.unwrap() > 0, "it is answered");
    line.restart().await;
    // Longer than a stop keeps idle connections.
    sleep(Duration::from_millis(500)).await;
    assert_eq!(line.processes().len(), 2, "the old process waits for the connection");
    line.patch("a", &json!({ "weight": 9 })).await;
    for _ in 0..10 {
        assert_eq!(
            line.backends().await[0].1,
            9,
            "the new process answers for the admin interface"
        );
    }
    idle.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    timeout(FOREVER, idle.read_to_end(&mut answer)).await.unwrap().unwrap();
    let answer = String::from_utf8_lossy(&answer).to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.contains("connection: close"), "{answer}");
}

#[tokio::test]
async fn a_process_that_cannot_start_leaves_the_old_one() {
    let mut line = Line::start("upgrade_timeout = \"10s\"").await;
    let mut client = Client::new(line.gateway.addr);
    let home = client.get("/").await.backend();
    line.gateway.rewrite("no_such_key = 1\n");
    line.gateway.signal("USR2").await;
    line.gateway.stderr_line("not restarted").await;
    assert_eq!(line.processes().len(), 1);
    assert_eq!(client.get("/").await.backend(), home);
    assert_eq!(get(line.gateway.addr, "/").await.status, StatusCode::OK);
}

#[tokio::test]
async fn a_file_keeps_the_state_from_a_stop_to_a_start() {
    let backends = [echo("a").await, echo("b").await];
    let keys = "keys = [\"base64:q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=\"]";
    let config = ConfigFile::new(&format!(
        "admin = \"127.0.0.1:0\"\n[strategy]\ntype = \"round-robin\"\n[[affinity]]\ntype = \"learned\"\n\
         query = \"sid\"\n{keys}\n{}{}",
        backends[0].entry("a"),
        backends[1].entry("b")
    ));
    let path = config.path().to_str().unwrap();
    let state = std::env::temp_dir().join(format!("gateway-state-{}", std::process::id()));
    let flags = ["--config", path, "--state", state.to_str().unwrap()];
    let mut homes = Vec::new();
    for round in 0..3 {
        let mut gateway = Gateway::start(&flags).await;
        let admin = gateway.admin_addr().await;
        for id in 0..6 {
            let home = get(gateway.addr, &format!("/?sid={id}")).await.backend();
            if round == 0 {
                homes.push(home);
            } else {
                assert_eq!(home, homes[id], "round {round}");
            }
        }
        if round == 0 {
            let body = json!({ "weight": 4 }).to_string();
            send(admin, Method::PATCH, "/backends/a", &[], &body).await;
        }
        assert_eq!(get(admin, "/backends").await.json()[0]["weight"], 4, "round {round}");
        gateway.signal("TERM").await;
        assert!(gateway.ended().await.success());
    }
    fs::write(&state, "{").unwrap();
    let mut gateway = Gateway::start(&flags).await;
    gateway.stderr_line("without its state").await;
    fs::remove_file(&state).unwrap();
}

#[tokio::test]
async fn with_drain_delay_a_balancer_has_time_to_see_the_stop() {
    let line = Line::start("drain_delay = \"700ms\"").await;
    line.gateway.signal("TERM").await;
    let began = Instant::now();
    while get(line.admin, "/healthz").await.status == StatusCode::OK {
        assert!(began.elapsed() < FOREVER, "it says that it stops");
    }
    if began.elapsed() < Duration::from_millis(500) {
        let answer = get(line.gateway.addr, "/").await;
        assert_eq!(answer.status, StatusCode::OK, "it still accepts");
    }
}
