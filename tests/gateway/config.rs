//! Valid configurations, and what the command line and the file do.

use http::Method;
use tokio::net::TcpListener;

use crate::{
    backends::echo,
    client::{self, Client, get},
    process::{ConfigFile, Gateway, run},
};

/// A key for tests, as `openssl rand -base64 32` would print it.
pub(crate) const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

/// A value for every key outside the other affinity types.
const EVERYTHING: &str = r#"
pool = "shop"
listen = "127.0.0.1:0"
admin = "127.0.0.1:0"
admin_token = "secret"
admin_hosts = ["gateway.internal", "10.0.0.1", "fd00::1"]
shutdown_timeout = "30s"
trusted_proxies = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]
server_timing = true
zone = "eu-1"

[limits]
connections = 10000
header_timeout = "5s"
connect_timeout = "1s"
ready_timeout = "1s"
max_waiters = 1024
response_timeout = "1m"
body_timeout = "30s"

[upstream]
resolve_every = "5s"

[[affinity]]
type = "cookie"
name = "__Secure-HOME"
format = "sealed"
keys = ["env:STICKY_KEY", "base64:q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA="]
lifetime = "permanent"
idle_timeout = "30m"
absolute_timeout = "8h"
clock_skew = "1h"
streams_keep_alive = true
path = "/shop"
domain = "example.org"
same_site = "none"
secure = "always"
http_only = true
partitioned = true
forward = false
conflict = "replace"

[strict]
status = 404
expired = true
unavailable_status = 404

[strategy]
type = "p2c"

[failover]
unavailable = "repin"
busy = "borrow"
busy_wait = "200ms"
home_wait = "1s"
max_attempts = 16
retry = "idempotent"
panic = false
backup = "return"

[health]
readiness_interval = "1s"
redial = "100ms"
redial_max = "1s"
probe = { path = "/healthz?from=gateway", interval = "1s", timeout = "500ms", rise = 2, fall = 100 }
outlier = { connect_failures = 1, consecutive_5xx = 5, ejection = "10s", max_ejected = 0.5 }
slow_start = "10s"

[rebalance]
tolerance = 1.5
idle_for = "5m"
max_per_second = 10

[[backend]]
id = "a"
url = "http://BACKEND"
weight = 1
max_connections = 0
backup = true
zone = "eu-1"
"#;

#[tokio::test]
async fn every_key_of_the_file_is_accepted() {
    let a = echo("a").await;
    let config = EVERYTHING.replace("BACKEND", &a.addr.to_string());
    let gateway = Gateway::configured_with(&config, &[("STICKY_KEY", KEY)]).await;
    let answer = get(gateway.addr, "/shop").await;
    assert_eq!(answer.header("server-timing"), "sticky;desc=\"assigned a\"");
    let cookie = answer.header("set-cookie");
    for part in [
        "__Secure-HOME=",
        "Path=/shop",
        "Domain=example.org",
        "Max-Age=28800",
        "SameSite=None",
        "Secure",
        "HttpOnly",
        "Partitioned",
    ] {
        assert!(cookie.contains(part), "{part} is missing in {cookie}");
    }
}

#[tokio::test]
async fn two_gateways_with_one_key_agree() {
    let (a, b) = (echo("a").await, echo("b").await);
    let config = format!(
        "[[affinity]]\ntype = \"cookie\"\nkeys = [\"base64:{KEY}\"]\n\
         [[backend]]\nid = \"a\"\nurl = \"{}\"\n[[backend]]\nid = \"b\"\nurl = \"{}\"",
        a.url(),
        b.url()
    );
    let one = Gateway::configured(&config).await;
    let other = Gateway::configured(&config).await;
    for _ in 0..4 {
        let mut client = Client::new(one.addr);
        let own = client.get("/").await.backend();
        let mut elsewhere = Client::new(other.addr);
        elsewhere.jar = client.jar;
        let answer = elsewhere.get("/").await;
        assert_eq!(answer.backend(), own);
        assert_eq!(answer.header("set-cookie"), "");
    }
}

#[tokio::test]
async fn a_flag_overrides_the_file() {
    let (a, b) = (echo("a").await, echo("b").await);
    let file = ConfigFile::new(&format!(
        "listen = \"127.0.0.1:1\"\n[[affinity]]\ntype = \"cookie\"\nname = \"FILE\"\n\
         format = \"plain\"\n[strategy]\ntype = \"nonsense\"\n\
         [[backend]]\nid = \"a\"\nurl = \"{}\"",
        a.url()
    ));
    let gateway = Gateway::start(&[
        "--config",
        file.path().to_str().unwrap(),
        "--cookie",
        "FLAG",
        "--strategy",
        "random",
        "--backend",
        &format!("{},weight=2,max_connections=7", b.flag("b")),
        "--workers=3",
    ])
    .await;
    let mut client = Client::new(gateway.addr);
    assert_eq!(client.get("/").await.backend(), "b");
    assert_eq!(client.jar["FLAG"], "b");
}

#[tokio::test]
async fn a_generated_key_causes_a_warning() {
    let mut gateway = Gateway::start(&["--backend", "a=http://127.0.0.1:1"]).await;
    let line = gateway.stderr_line("key made just now").await;
    assert!(line.contains("WARN"), "{line}");
}

#[tokio::test]
async fn good_configurations_pass_the_check() {
    let file = ConfigFile::new(&EVERYTHING.replace("BACKEND", "10.0.0.1:80"));
    let path = file.path().to_str().unwrap();
    let empty = ConfigFile::new("admin = \"127.0.0.1:9090\"");
    let empty = empty.path().to_str().unwrap();
    for args in [
        &["--config", path][..],
        &["--config", empty],
        &[],
        &["--backend", "a=http://[::1]:80,weight=0"],
        &["--backend", "a=http://[::1]:80,backup,zone=eu-1"],
    ] {
        let args = [args, &["--check"]].concat();
        let output = run(&args, &[("STICKY_KEY", KEY)]).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {stderr}");
        assert_eq!(stderr, "", "{args:?}");
    }
}

/// Whether a check of a file with these sections succeeds, and warns with `words`.
async fn assert_warns(sections: &str, words: &str, warns: bool) {
    let backend = "[[backend]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
    let file = ConfigFile::new(&format!("{sections}{backend}"));
    let args = ["--check", "--config", file.path().to_str().unwrap()];
    let output = run(&args, &[("STICKY_KEY", KEY)]).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert_eq!(stderr.contains("warning"), warns, "{sections}: {stderr}");
    assert_eq!(stderr.contains(words), warns, "{sections}: {stderr}");
}

#[tokio::test]
async fn an_unreachable_affinity_causes_a_warning() {
    let address = "[[affinity]]\ntype = \"client-ip\"\n";
    let user = "[[affinity]]\ntype = \"key\"\nheader = \"x-user-id\"\n";
    assert_warns(&format!("{address}{user}"), "client-ip", true).await;
    assert_warns(&format!("{user}{address}"), "client-ip", false).await;
}

#[tokio::test]
async fn plain_tokens_with_least_sessions_cause_a_warning() {
    let strategy = "[strategy]\ntype = \"least-sessions\"\n";
    for (cookie, warns) in [("format = \"plain\"", true), ("keys = [\"env:STICKY_KEY\"]", false)] {
        let sections = format!("[[affinity]]\ntype = \"cookie\"\n{cookie}\n{strategy}");
        assert_warns(&sections, "cannot be told apart", warns).await;
    }
}

#[tokio::test]
async fn an_idle_timeout_within_the_clock_skew_causes_a_warning() {
    for (times, warns) in [
        ("idle_timeout = \"10m\"\nclock_skew = \"10m\"", true),
        ("idle_timeout = \"10m\"\nclock_skew = \"5m\"", false),
        // The default of clock_skew makes no statement about the clocks.
        ("idle_timeout = \"10m\"", false),
        ("idle_timeout = \"10m\"\nclock_skew = \"1h\"", false),
    ] {
        let cookie = "[[affinity]]\ntype = \"cookie\"\nkeys = [\"env:STICKY_KEY\"]";
        assert_warns(&format!("{cookie}\n{times}\n"), "idle_timeout = 600s", warns).await;
    }
}

#[tokio::test]
async fn help_documents_every_flag() {
    let output = run(&["--help"], &[]).await;
    assert_eq!(output.status.code(), Some(0));
    let help = String::from_utf8(output.stdout).unwrap();
    for flag in [
        "--config",
        "--listen",
        "--admin",
        "--backend",
        "--cookie",
        "--strategy",
        "--demo-store",
        "--workers",
        "--check",
        "--help",
        "RUST_LOG",
        "SIGTERM",
    ] {
        assert!(help.contains(flag), "{flag}");
    }
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = taken.local_addr().unwrap().to_string();
    let output = run(&["--listen", &addr], &[]).await;
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2));
    for part in [&addr, "--listen"] {
        assert!(stderr.contains(part), "{part} is missing in {stderr}");
    }
}

#[tokio::test]
async fn requests_are_retried_only_if_configured() {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use crate::backends::Backend;

    for (retry, expected) in [("idempotent", 2), ("never", 1)] {
        let seen = Arc::new(AtomicUsize::new(0));
        let count = seen.clone();
        // Reads a request and closes without a response.
        let closing = move |mut stream| {
            let count = count.clone();
            async move {
                client::read_head(&mut stream).await;
                count.fetch_add(1, Ordering::SeqCst);
            }
        };
        let (a, b) = (Backend::raw(closing.clone()).await, Backend::raw(closing).await);
        let gateway = Gateway::configured(&format!(
            "[failover]\nretry = \"{retry}\"\n[[backend]]\nid = \"a\"\nurl = \"{}\"\n\
             [[backend]]\nid = \"b\"\nurl = \"{}\"",
            a.url(),
            b.url()
        ))
        .await;
        let answer = client::send(gateway.addr, Method::GET, "/", &[], "").await;
        assert_eq!(answer.status.as_u16(), 502, "{retry}");
        assert_eq!(seen.load(Ordering::SeqCst), expected, "{retry}");
    }
}
