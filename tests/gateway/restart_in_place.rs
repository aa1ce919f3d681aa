//! The program is started anew on the same sockets while it serves (SIGUSR2), and its state goes along.

use std::{fs, net::SocketAddr, os::unix::fs::PermissionsExt, time::Duration};

use http::{Method, StatusCode};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{Instant, sleep, timeout},
};

use crate::{
    backends::{Backend, echo},
    client::{Client, get, send},
    example::binary,
    line::Line,
    process::{ConfigFile, FOREVER, Gateway},
};

/// A gateway with two backends, whose successors are killed with it.
struct Setup {
    line: Line,
    _backends: [Backend; 2],
}

impl Setup {
    async fn start(config: &str) -> Self {
        let backends = [echo("a").await, echo("b").await];
        let mut text = format!("listen = \"127.0.0.1:0\"\nadmin = \"127.0.0.1:0\"\n{config}\n");
        for (backend, id) in backends.iter().zip(["a", "b"]) {
            text.push_str(&backend.entry(id));
        }
        Self { line: Line::start(&text, 1).await, _backends: backends }
    }
}

impl std::ops::Deref for Setup {
    type Target = Line;

    fn deref(&self) -> &Line {
        &self.line
    }
}

impl std::ops::DerefMut for Setup {
    fn deref_mut(&mut self) -> &mut Line {
        &mut self.line
    }
}

#[tokio::test]
async fn what_the_operator_has_changed_and_the_pins_go_along() {
    let learned =
        "[strategy]\ntype = \"round-robin\"\n[[affinity]]\ntype = \"learned\"\nquery = \"sid\"";
    let mut line = Setup::start(learned).await;
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
    let mut line = Setup::start("").await;
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
    let mut line = Setup::start("upgrade_timeout = \"10s\"").await;
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
    let mut setup = Setup::start("drain_delay = \"1h\"").await;
    setup.gateway.signal("TERM").await;
    let deadline = Instant::now() + FOREVER;
    while get(setup.admin, "/healthz").await.status == StatusCode::OK {
        assert!(Instant::now() < deadline, "it says that it stops");
    }
    let answer = get(setup.gateway.addr, "/").await;
    assert_eq!(answer.status, StatusCode::OK, "it still accepts");
    setup.gateway.signal("TERM").await;
    assert!(setup.gateway.ended().await.success(), "a second signal ends the wait");
}

#[tokio::test]
async fn after_drain_delay_the_listeners_close() {
    let mut setup = Setup::start("drain_delay = \"1s\"").await;
    setup.gateway.signal("TERM").await;
    let deadline = Instant::now() + FOREVER;
    while TcpStream::connect(setup.gateway.addr).await.is_ok() {
        assert!(Instant::now() < deadline, "it accepts no more");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(setup.gateway.ended().await.success());
}

/// A port that is free now.
async fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

#[tokio::test]
async fn overlapping_addresses_replace_each_other_at_a_restart() {
    let (backend, port) = (echo("a").await, free_port().await);
    let file = |address: &str| {
        format!("listen = \"{address}:{port}\"\nadmin = \"127.0.0.1:0\"\n{}", backend.entry("a"))
    };
    let mut line = Line::start(&file("127.0.0.1"), 1).await;
    let [loopback, elsewhere] = [1, 2].map(|last| SocketAddr::from(([127, 0, 0, last], port)));
    line.patch("a", &json!({ "weight": 7 })).await;
    for address in ["0.0.0.0", "127.0.0.1", "0.0.0.0"] {
        line.gateway.rewrite(&file(address));
        line.listens_at(&[&format!("http://{address}:{port}")]);
        line.restart().await;
        assert_eq!(get(loopback, "/").await.status, StatusCode::OK);
        let is_open = TcpStream::connect(elsewhere).await.is_ok();
        assert_eq!(is_open, address == "0.0.0.0", "{address}");
        assert_eq!(line.backends().await[0].1, 7, "the state goes along");
    }
}

#[tokio::test]
async fn a_restart_whose_overlapping_address_is_taken_leaves_the_old_one() {
    let (backend, port) = (echo("a").await, free_port().await);
    let file = |address: &str| format!("listen = \"{address}:{port}\"\n{}", backend.entry("a"));
    let [loopback, elsewhere] = [1, 2].map(|last| SocketAddr::from(([127, 0, 0, last], port)));
    let mut gateway = Gateway::listening(&file("127.0.0.1")).await;
    let _holder = TcpListener::bind(elsewhere).await.unwrap();
    gateway.rewrite(&file("0.0.0.0"));
    gateway.signal("USR2").await;
    gateway.stderr_line("not restarted").await;
    assert_eq!(get(loopback, "/").await.status, StatusCode::OK, "it has opened its socket again");
}

/// A program that is replaced by one that fails.
#[tokio::test]
async fn a_new_program_that_fails_leaves_the_old_one() {
    let backend = echo("a").await;
    let dir = std::env::temp_dir().join(format!("gateway-program-{}", std::process::id()));
    fs::create_dir_all(&dir).unwrap();
    let program = dir.join("gateway");
    fs::copy(binary("gateway"), &program).unwrap();
    let mut gateway = Gateway::of(&program, &["--backend", &backend.flag("a")]).await;
    let broken = dir.join("broken");
    fs::write(&broken, "#!/bin/sh\nexit 3\n").unwrap();
    fs::set_permissions(&broken, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&broken, &program).unwrap();
    for _ in 0..2 {
        gateway.signal("USR2").await;
        let line = gateway.stderr_line("not restarted").await;
        assert!(line.contains("the new process"), "{line}");
        assert_eq!(get(gateway.addr, "/").await.status, StatusCode::OK);
    }
    // Now one that works.
    let working = dir.join("working");
    fs::copy(binary("gateway"), &working).unwrap();
    fs::rename(&working, &program).unwrap();
    gateway.signal("USR2").await;
    gateway.stdout_line().await;
    assert!(gateway.ended().await.success(), "the old one has nothing left to do");
    assert_eq!(get(gateway.addr, "/").await.status, StatusCode::OK);
    gateway.kill_running(&program);
    fs::remove_dir_all(&dir).unwrap();
}
