//! The file is read again while the gateway serves.

use std::{net::SocketAddr, time::Duration};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

use crate::{
    backends::{Backend, echo},
    client::{Answer, Client, get, send},
    process::{ConfigFile, FOREVER, Gateway},
};

const KEYS: [&str; 2] = [
    "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=",
    "EjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8=",
];

struct Setup {
    gateway: Gateway,
    admin: SocketAddr,
    backends: [Backend; 3],
}

impl Setup {
    async fn new(config: &str) -> Self {
        Self::started_with(config, &[]).await
    }

    async fn started_with(config: &str, flags: &[&str]) -> Self {
        let backends = [echo("a").await, echo("b").await, echo("c").await];
        let text = file(config, &backends[..2]);
        let mut gateway = Gateway::configured_and(&text, flags).await;
        let admin = gateway.admin_addr().await;
        Self { gateway, admin, backends }
    }

    /// Writes a file with this configuration and so many backends, and reads it.
    async fn reload(&self, config: &str, backends: usize) -> Answer {
        self.reload_text(&file(config, &self.backends[..backends])).await
    }

    async fn reload_text(&self, text: &str) -> Answer {
        self.gateway.rewrite(text);
        send(self.admin, Method::POST, "/reload", &[], "").await
    }

    async fn change(&self, method: Method, id: &str, body: &Value) {
        let path = format!("/backends/{id}");
        let answer = send(self.admin, method, &path, &[], &body.to_string()).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }

    /// The ids, weights and modes of all backends.
    async fn list(&self) -> Vec<(String, u64, String)> {
        let list = get(self.admin, "/backends").await.json();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let one = |it: &Value| (text(&it["id"]), it["weight"].as_u64().unwrap(), text(&it["mode"]));
        list.as_array().unwrap().iter().map(one).collect()
    }
}

fn file(config: &str, backends: &[Backend]) -> String {
    let mut file = format!("admin = \"127.0.0.1:0\"\n{config}\n");
    for (backend, id) in backends.iter().zip(["a", "b", "c"]) {
        file.push_str(&backend.entry(id));
    }
    file
}

fn active(id: &str, weight: u64) -> (String, u64, String) {
    (id.to_owned(), weight, "active".to_owned())
}

#[tokio::test]
async fn what_the_file_has_changed_is_in_force() {
    let setup = Setup::new("").await;
    let unchanged = setup.reload("", 2).await;
    assert_eq!(unchanged.json(), json!({ "version": 1, "changed": [] }));
    let answer = setup.reload("[failover]\nhome_wait = \"1s\"", 3).await;
    assert_eq!(answer.status, StatusCode::OK);
    let changed = ["backend.c.id", "backend.c.url", "failover.home_wait"];
    assert_eq!(answer.json(), json!({ "version": 2, "changed": changed }));
    assert_eq!(setup.list().await, [active("a", 1), active("b", 1), active("c", 1)]);
    let text = file("", &setup.backends[..2]);
    let text = text.replace("id = \"b\"\n", "id = \"b\"\nweight = 3\nmode = \"disabled\"\n");
    let answer = setup.reload_text(&text).await;
    assert_eq!(answer.json()["version"], 3);
    let [a, b, c] = &setup.list().await[..] else { panic!("c is still drained") };
    assert_eq!(*a, active("a", 1));
    assert_eq!((&*b.2, b.1), ("disabled", 3));
    assert_eq!(c.2, "draining");
}

#[tokio::test]
async fn sighup_and_the_watched_file_do_the_same() {
    let mut setup = Setup::started_with("", &["--watch"]).await;
    setup.gateway.rewrite(&file("", &setup.backends));
    let deadline = Instant::now() + FOREVER;
    while setup.list().await.len() < 3 {
        assert!(Instant::now() < deadline, "the file is seen to have changed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    setup.gateway.rewrite("no_such_key = 1\n");
    let line = setup.gateway.stderr_line("was not changed").await;
    assert!(line.contains("no_such_key"), "{line}");
    setup.gateway.signal("HUP").await;
    let line = setup.gateway.stderr_line("was not changed").await;
    assert!(line.contains("no_such_key"), "{line}");
    assert_eq!(setup.list().await.len(), 3);
}

#[tokio::test]
async fn a_bad_file_changes_nothing() {
    let setup = Setup::new("").await;
    let before = setup.list().await;
    let duplicate = format!("{}{}", file("", &setup.backends), setup.backends[0].entry("a"));
    for (text, why) in [
        ("no_such_key = 1\n".to_owned(), "no_such_key"),
        (duplicate, "backend[3].id"),
        (file("[[affinity]]\ntype = \"cookie\"", &setup.backends), "affinity[0].keys"),
        (file("pool = \"other\"", &setup.backends), "pool cannot change"),
        (String::new(), "no backend"),
        (setup.backends[0].entry("a"), "admin cannot change"),
    ] {
        let answer = setup.reload_text(&text).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        let error = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(error.contains(why), "{error}");
        assert_eq!(setup.list().await, before, "{why}");
    }
    assert_eq!(setup.reload("", 2).await.json(), json!({ "version": 1, "changed": [] }));
}

#[tokio::test]
async fn what_was_changed_by_hand_stays_until_the_file_says_otherwise() {
    let setup = Setup::new("").await;
    let by_hand = echo("by hand").await;
    setup.change(Method::PATCH, "a", &json!({ "weight": 5 })).await;
    setup.change(Method::DELETE, "b", &json!(null)).await;
    setup.change(Method::PUT, "new", &json!({ "url": by_hand.url() })).await;
    let expected = [active("a", 5), active("new", 1)];
    assert_eq!(setup.list().await, expected);
    setup.reload("[failover]\nhome_wait = \"1s\"", 2).await;
    assert_eq!(setup.list().await, expected, "the file says nothing new of them");
    let text = file("", &setup.backends[..2]);
    let text = text.replace("id = \"a\"\n", "id = \"a\"\nweight = 2\n");
    let text = text.replace("id = \"b\"\n", "id = \"b\"\nmax_connections = 7\n");
    assert_eq!(setup.reload_text(&text).await.status, StatusCode::OK);
    assert_eq!(setup.list().await, [active("a", 2), active("new", 1), active("b", 1)]);
}

#[tokio::test]
async fn the_sessions_of_a_backend_that_is_gone_are_served_until_the_timeout() {
    let config = |timeout: &str| {
        format!(
            "server_timing = true\nshutdown_timeout = \"{timeout}\"\n[strategy]\ntype = \"round-robin\""
        )
    };
    let (long, short) = (config("1h"), config("100ms"));
    let setup = Setup::new(&long).await;
    let mut clients = [Client::new(setup.gateway.addr), Client::new(setup.gateway.addr)];
    for client in &mut clients {
        client.get("/").await;
    }
    let homes = [clients[0].get("/").await.backend(), clients[1].get("/").await.backend()];
    assert_ne!(homes[0], homes[1]);
    let on_b = &mut clients[usize::from(homes[1] == "b")];
    setup.reload(&long, 1).await;
    let answer = on_b.get("/").await;
    assert_eq!(answer.backend(), "b", "its sessions stay");
    assert!(answer.header("server-timing").contains("pinned"), "{:?}", answer.headers);
    assert_eq!(get(setup.gateway.addr, "/").await.backend(), "a", "it takes no new ones");
    // It returns, and is gone again with another timeout.
    setup.reload(&long, 2).await;
    setup.reload(&short, 1).await;
    let deadline = Instant::now() + FOREVER;
    while setup.list().await.len() > 1 {
        assert!(Instant::now() < deadline, "it is removed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(on_b.get("/").await.backend(), "a", "its sessions are unknown then");
    setup.reload(&short, 2).await;
    assert_eq!(setup.list().await, [active("a", 1), active("b", 1)]);
}

#[tokio::test]
async fn a_backend_that_returns_to_the_file_in_time_keeps_its_sessions() {
    let setup = Setup::new("").await;
    let mut client = Client::new(setup.gateway.addr);
    let home = client.get("/").await.backend();
    let other = usize::from(home == "a");
    let mut text = file("", &[]);
    text.push_str(&setup.backends[other].entry(["a", "b"][other]));
    assert_eq!(setup.reload_text(&text).await.status, StatusCode::OK);
    assert_eq!(client.get("/").await.backend(), home);
    setup.reload("", 2).await;
    assert_eq!(setup.list().await.iter().filter(|(_, _, mode)| mode == "active").count(), 2);
    assert_eq!(client.get("/").await.backend(), home);
}

#[tokio::test]
async fn sessions_stay_while_keys_and_timeouts_change() {
    let cookie = |keys: &str| format!("[[affinity]]\ntype = \"cookie\"\nkeys = [{keys}]");
    let [old, new] = KEYS.map(|key| format!("\"base64:{key}\""));
    let setup = Setup::new(&cookie(&old)).await;
    let mut client = Client::new(setup.gateway.addr);
    let home = client.get("/").await.backend();
    for keys in [format!("{old}, {new}"), format!("{new}, {old}")] {
        assert_eq!(setup.reload(&cookie(&keys), 2).await.status, StatusCode::OK);
        for _ in 0..3 {
            assert_eq!(client.get("/").await.backend(), home);
        }
    }
    // The token was written anew under the new key.
    setup.reload(&format!("{}\nidle_timeout = \"1h\"", cookie(&new)), 2).await;
    assert_eq!(client.get("/").await.backend(), home);
    assert_eq!(get(setup.admin, "/stats").await.json()["moves"], 0);
}

#[tokio::test]
async fn keys_in_a_file_are_read_again() {
    let keys = ConfigFile::new(KEYS[0]);
    let path = keys.path().to_str().unwrap();
    let config = format!("[[affinity]]\ntype = \"cookie\"\nkeys = [\"file:{path}\"]");
    let setup = Setup::new(&config).await;
    let mut client = Client::new(setup.gateway.addr);
    let home = client.get("/").await.backend();
    let before = client.jar.clone();
    std::fs::write(path, format!("{}\n{}\n", KEYS[1], KEYS[0])).unwrap();
    let answer = setup.reload(&config, 2).await;
    assert_eq!(answer.json()["changed"], json!(["affinity[0].keys (file content)"]));
    assert_eq!(client.get("/").await.backend(), home);
    assert_ne!(client.jar, before, "the token is sealed under the new key");
}

#[tokio::test]
async fn learned_sessions_are_not_forgotten() {
    let learned = |more: &str| {
        format!(
            "[strategy]\ntype = \"round-robin\"\n[[affinity]]\ntype = \"learned\"\nquery = \"sid\"\n{more}"
        )
    };
    let setup = Setup::new(&learned("")).await;
    let mut homes = Vec::new();
    for id in 0..6 {
        homes.push(get(setup.gateway.addr, &format!("/?sid={id}")).await.backend());
    }
    for more in ["capacity = 10", "capacity = 20", "idle_timeout = \"1h\"\ncapacity = 20"] {
        assert_eq!(setup.reload(&learned(more), 3).await.status, StatusCode::OK);
        for (id, home) in homes.iter().enumerate() {
            assert_eq!(get(setup.gateway.addr, &format!("/?sid={id}")).await.backend(), *home);
        }
    }
}

#[tokio::test]
async fn a_token_of_the_admin_interface_changes() {
    let setup = Setup::new("admin_token = \"one\"").await;
    let with = |token: &'static str| {
        let admin = setup.admin;
        async move {
            let bearer = format!("Bearer {token}");
            send(admin, Method::GET, "/stats", &[("authorization", &bearer)], "").await.status
        }
    };
    setup.gateway.rewrite(&file("admin_token = \"two\"", &setup.backends[..2]));
    let bearer = [("authorization", "Bearer one")];
    let answer = send(setup.admin, Method::POST, "/reload", &bearer, "").await;
    assert_eq!(answer.json()["changed"], json!(["admin_token"]));
    assert_eq!(with("one").await, StatusCode::UNAUTHORIZED);
    assert_eq!(with("two").await, StatusCode::OK);
}

#[tokio::test]
async fn limits_and_options_of_the_server_change_for_new_connections() {
    let setup = Setup::new("").await;
    let addr = setup.gateway.addr;
    let mut kept = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {}\r\n\r\n", "x".repeat(2_000));
    let mut answer = vec![0; 64 << 10];
    for (config, timing, status) in [
        ("", false, StatusCode::OK),
        ("server_timing = true", true, StatusCode::OK),
        ("[limits]\nheader_bytes = \"1KiB\"", false, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        ("", false, StatusCode::OK),
    ] {
        assert_eq!(setup.reload(config, 2).await.status, StatusCode::OK, "{config}");
        let new = get(addr, "/").await;
        assert_eq!(new.headers.contains_key("server-timing"), timing, "{config}");
        let long = [("x-long", &*"x".repeat(2_000))];
        assert_eq!(send(addr, Method::GET, "/", &long, "").await.status, status, "{config}");
        kept.write_all(request.as_bytes()).await.unwrap();
        let length = kept.read(&mut answer).await.unwrap();
        let answer = String::from_utf8_lossy(&answer[..length]);
        assert!(answer.starts_with("HTTP/1.1 200"), "open connections go on as before: {answer}");
    }
}

#[tokio::test]
async fn the_threads_of_former_servers_end() {
    let setup = Setup::new("").await;
    let before = setup.gateway.threads();
    for round in 0..20 {
        let config = format!("[limits]\nconnections = {}", 100 + round);
        assert_eq!(setup.reload(&config, 2).await.status, StatusCode::OK);
        assert_eq!(get(setup.gateway.addr, "/").await.status, StatusCode::OK);
    }
    let deadline = Instant::now() + FOREVER;
    while setup.gateway.threads() > before {
        assert!(Instant::now() < deadline, "{} threads", setup.gateway.threads());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn without_a_file_there_is_nothing_to_read() {
    let backend = echo("a").await;
    let args = ["--admin", "127.0.0.1:0", "--backend", &backend.flag("a")];
    let mut gateway = Gateway::start(&args).await;
    let admin = gateway.admin_addr().await;
    let answer = send(admin, Method::POST, "/reload", &[], "").await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.json()["error"].as_str().unwrap().contains("--config"));
    gateway.signal("HUP").await;
    gateway.stderr_line("--config").await;
    assert_eq!(get(gateway.addr, "/").await.status, StatusCode::OK);
}
