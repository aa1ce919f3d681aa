//! The rules of a reload, each by itself: what it answers, what it changes, and what it leaves.

use std::{net::SocketAddr, path::Path};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    backends::{Backend, echo},
    client::{Answer, Client, get, send},
    process::{FOREVER, Gateway},
};

const ROUND_ROBIN: &str = "[strategy]\ntype = \"round-robin\"";

struct Setup {
    gateway: Gateway,
    admin: SocketAddr,
    backends: [Backend; 2],
}

impl Setup {
    async fn new(config: &str) -> Self {
        let backends = [echo("a").await, echo("b").await];
        let log = [("RUST_LOG", "gateway=info")];
        let mut gateway = Gateway::configured_with(&file(config, &backends), &log).await;
        let admin = gateway.admin_addr().await;
        Self { gateway, admin, backends }
    }

    fn write(&self, config: &str) {
        self.gateway.rewrite(&file(config, &self.backends));
    }

    async fn post(&self) -> Answer {
        send(self.admin, Method::POST, "/reload", &[], "").await
    }

    /// Reloads, which must succeed.
    async fn reload(&self, config: &str) -> Value {
        self.write(config);
        let answer = self.post().await;
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.json()
    }

    async fn backend(&self, id: &str) -> Value {
        let all = get(self.admin, "/backends").await.json();
        all.as_array().unwrap().iter().find(|it| it["id"] == id).unwrap().clone()
    }
}

fn file(config: &str, backends: &[Backend; 2]) -> String {
    let [a, b] = backends;
    format!("admin = \"127.0.0.1:0\"\n{config}\n{}{}", a.entry("a"), b.entry("b"))
}

#[tokio::test]
async fn a_signal_and_a_call_say_the_same() {
    let mut setup = Setup::new("").await;
    let changed = json!(["failover.home_wait", "server_timing"]);
    let config = "server_timing = true\n[failover]\nhome_wait = \"1s\"";
    assert_eq!(setup.reload(config).await, json!({ "version": 2, "changed": changed }));
    setup.gateway.stderr_line("was read again").await;
    setup.write("");
    setup.gateway.signal("HUP").await;
    let line = setup.gateway.stderr_line("was read again").await;
    let list = r#"version=3 changed=["failover.home_wait", "server_timing"]"#;
    assert!(line.contains(list), "{line}");
    // A bad file, each time.
    setup.write("no_such_key = 1");
    for _ in 0..3 {
        let answer = setup.post().await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        let message = answer.json()["error"].as_str().unwrap().to_owned();
        assert!(message.contains("no_such_key"), "{message}");
        setup.gateway.stderr_line(&message).await;
        setup.gateway.signal("HUP").await;
        setup.gateway.stderr_line(&message).await;
    }
}

#[tokio::test]
async fn there_is_one_reload_at_a_time() {
    let setup = Setup::new("").await;
    for version in 2..12 {
        setup.write(&format!("[failover]\nhome_wait = \"{version}s\""));
        let calls = [(); 8].map(|()| {
            let admin = setup.admin;
            tokio::spawn(async move { send(admin, Method::POST, "/reload", &[], "").await.json() })
        });
        let mut changes = 0;
        for call in calls {
            let answer = call.await.unwrap();
            assert_eq!(answer["version"], version);
            changes += answer["changed"].as_array().unwrap().len();
        }
        assert_eq!(changes, 1, "one of them has found the change");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_sees_half_of_two_configurations() {
    let config = |name: &str, enabled: bool| {
        format!(
            "[[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\nname = \"{name}\"\n\
             [session_headers]\nenabled = {enabled}\n"
        )
    };
    let (one, other) = (config("ONE", true), config("OTHER", false));
    let setup = Setup::new(&one).await;
    let addr = setup.gateway.addr;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let stopped = stopped.clone();
            tokio::spawn(async move {
                let mut seen = [0, 0];
                while !*stopped.borrow() {
                    let answer = get(addr, "/").await;
                    let is_one = answer.header("set-cookie").starts_with("ONE=");
                    let has_header = answer.text().contains("x-sticky-outcome");
                    assert_eq!(is_one, has_header, "{answer:?}");
                    seen[usize::from(is_one)] += 1;
                }
                seen
            })
        })
        .collect();
    for _ in 0..100 {
        setup.reload(&other).await;
        setup.reload(&one).await;
    }
    stop.send_replace(true);
    let mut seen = [0, 0];
    for client in clients {
        let [other, one] = client.await.unwrap();
        seen = [seen[0] + other, seen[1] + one];
    }
    assert!(seen[0] > 0 && seen[1] > 0, "both were in force: {seen:?}");
}

#[tokio::test]
async fn what_did_not_change_keeps_its_counts_and_drains() {
    let setup = Setup::new(ROUND_ROBIN).await;
    for _ in 0..10 {
        get(setup.gateway.addr, "/").await;
    }
    let body = json!({ "mode": "draining", "deadline": "1h" }).to_string();
    send(setup.admin, Method::PATCH, "/backends/b", &[], &body).await;
    let before = [setup.backend("a").await, setup.backend("b").await];
    assert_eq!((&before[0]["requests"], &before[1]["mode"]), (&json!(5), &json!("draining")));
    setup.reload("[failover]\nhome_wait = \"1s\"").await;
    setup.reload("[upstream]\nx_real_ip = true").await;
    for backend in &before {
        assert_eq!(setup.backend(backend["id"].as_str().unwrap()).await, *backend);
    }
}

#[tokio::test]
async fn a_backend_with_another_address_keeps_its_sessions() {
    let setup = Setup::new(ROUND_ROBIN).await;
    let mut client = Client::new(setup.gateway.addr);
    while client.get("/").await.backend() != "a" {
        client.jar.clear();
    }
    let moved = echo("moved").await;
    let text = file(ROUND_ROBIN, &setup.backends).replace(&setup.backends[0].url(), &moved.url());
    setup.gateway.rewrite(&text);
    assert_eq!(setup.post().await.json()["changed"], json!(["backend.a.url"]));
    for _ in 0..3 {
        assert_eq!(client.get("/").await.backend(), "moved");
    }
    assert_eq!(get(setup.admin, "/stats").await.json()["moves"], 0);
}

#[tokio::test]
async fn another_affinity_is_for_the_next_request_and_cookies_that_are_understood_stay() {
    let cookie = |name: &str| {
        format!("[[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\nname = \"{name}\"\n")
    };
    let timed = |rest: &str| format!("server_timing = true\n{ROUND_ROBIN}\n{rest}");
    let setup = Setup::new(&timed(&cookie("OLD"))).await;
    let mut client = Client::new(setup.gateway.addr);
    let home = client.get("/").await.backend();
    // A chain that still understands it.
    setup.reload(&timed(&(cookie("NEW") + &cookie("OLD")))).await;
    for _ in 0..3 {
        let answer = client.get("/").await;
        assert_eq!(answer.backend(), home);
        assert!(answer.header("server-timing").contains("pinned"), "{:?}", answer.headers);
    }
    let other = get(setup.gateway.addr, "/").await;
    assert!(other.header("set-cookie").starts_with("NEW="), "{:?}", other.headers);
    // One that does not.
    setup.reload(&timed(&cookie("THIRD"))).await;
    let answer = client.get("/").await;
    assert!(answer.header("server-timing").contains("assigned"), "{:?}", answer.headers);
    assert!(answer.header("set-cookie").starts_with("THIRD="), "{:?}", answer.headers);
}

#[tokio::test]
async fn without_its_key_a_session_begins_anew() {
    let keys = |key: &str| format!("[[affinity]]\ntype = \"cookie\"\nkeys = [\"base64:{key}\"]");
    let timed = |rest: &str| format!("server_timing = true\n{rest}");
    let old = keys("q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=");
    let new = keys("EjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJCrze8=");
    let setup = Setup::new(&timed(&old)).await;
    let mut client = Client::new(setup.gateway.addr);
    client.get("/").await;
    setup.reload(&timed(&new)).await;
    let answer = client.get("/").await;
    assert!(answer.header("server-timing").contains("assigned"), "{:?}", answer.headers);
    assert_eq!(get(setup.admin, "/stats").await.json()["token_errors"]["forged"], 1);
}

/// As Kubernetes changes a mounted ConfigMap: a directory is replaced by a link to another one.
#[tokio::test]
async fn a_watched_file_behind_a_link_is_seen_to_change() {
    let backends = [echo("a").await, echo("b").await];
    let dir = std::env::temp_dir().join(format!("gateway-link-{}", std::process::id()));
    let version = |name: &str, config: &str| {
        let version = dir.join(name);
        std::fs::create_dir_all(&version).unwrap();
        std::fs::write(version.join("gateway.toml"), file(config, &backends)).unwrap();
        let link = dir.join("new-data");
        std::os::unix::fs::symlink(Path::new(name), &link).unwrap();
        std::fs::rename(&link, dir.join("..data")).unwrap();
    };
    std::fs::create_dir_all(&dir).unwrap();
    version("1", "");
    let path = dir.join("gateway.toml");
    std::os::unix::fs::symlink("..data/gateway.toml", &path).unwrap();
    let mut gateway = Gateway::start(&["--config", path.to_str().unwrap(), "--watch"]).await;
    let admin = gateway.admin_addr().await;
    version("2", "server_timing = true");
    let deadline = Instant::now() + FOREVER;
    while get(gateway.addr, "/").await.header("server-timing").is_empty() {
        assert!(Instant::now() < deadline, "the change is seen");
        sleep(Duration::from_millis(50)).await;
    }
    let answer = send(admin, Method::POST, "/reload", &[], "").await;
    assert_eq!(answer.json(), json!({ "version": 2, "changed": [] }), "it is in force");
    std::fs::remove_dir_all(&dir).unwrap();
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_certificate_that_cannot_be_used_changes_nothing() {
    let setup = Setup::new("").await;
    let before = setup.backend("a").await;
    let tls = "tls = { certificates = [{ cert = \"/no/such.pem\", key = \"/no/such.key\" }] }";
    let text = file(&format!("[[listener]]\naddress = \"127.0.0.1:0\"\n{tls}"), &setup.backends);
    setup.gateway.rewrite(&text.replace("id = \"a\"\n", "id = \"a\"\nweight = 7\n"));
    let answer = setup.post().await;
    assert_eq!(answer.status, StatusCode::BAD_REQUEST);
    assert!(answer.text().contains("listener[0].tls.certificates"), "{}", answer.text());
    assert_eq!(setup.backend("a").await, before);
    assert_eq!(setup.reload("").await, json!({ "version": 1, "changed": [] }));
}
