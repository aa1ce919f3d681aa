//! `[health]`: probes, outlier detection and slow start.

use std::{net::SocketAddr, sync::atomic::Ordering};

use http::{Method, StatusCode};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt, sync::mpsc, time::timeout};

use crate::{
    backends::{Backend, echo, moody, refusing},
    client::{self, Client, get, read_head},
    listener::Listener,
    process::{ConfigFile, FOREVER, Gateway, run},
};

/// A gateway with this `[health]` in front of backends, by round robin, and its admin interface.
async fn gateway(health: &str, backends: &[(&str, String)]) -> (Gateway, SocketAddr) {
    let mut file = format!(
        "admin = \"127.0.0.1:0\"\n[strategy]\ntype = \"round-robin\"\n[health]\n{health}\n"
    );
    for (id, url) in backends {
        file += &format!("[[backend]]\nid = \"{id}\"\nurl = \"{url}\"\n");
    }
    let mut gateway = Gateway::configured(&file).await;
    let admin = gateway.admin_addr().await;
    (gateway, admin)
}

async fn backend_a(admin: SocketAddr) -> Value {
    get(admin, "/backends").await.json()[0].clone()
}

#[tokio::test]
async fn a_backend_that_fails_its_probes_gets_no_requests_until_it_recovers() {
    let (a, b) = (moody("a").await, moody("b").await);
    // Long enough for a slow machine.
    let probe = "probe = { path = \"/healthz\", interval = \"20ms\", timeout = \"50s\", rise = 1, fall = 1 }";
    let urls = [("a", a.backend.url()), ("b", b.backend.url())];
    let (gateway, admin) = gateway(probe, &urls).await;
    let mut listener = Listener::new(admin).await;
    let mut client = Client::new(gateway.addr);
    assert_eq!(client.get("/").await.backend(), "a");
    a.to_probes.store(500, Ordering::SeqCst);
    let down = json!({ "backend": "a", "from": "ready", "to": "down", "cause": "probe" });
    assert_eq!(listener.next_of("state").await, down);
    let now = backend_a(admin).await;
    assert_eq!(now["state"], "down");
    assert!(now["probe_failure"].as_str().unwrap().contains("500"), "{now}");
    assert_eq!(
        client.get("/").await.backend(),
        "b",
        "a request does not reach the backend that is down"
    );
    a.to_probes.store(204, Ordering::SeqCst);
    let up = json!({ "backend": "a", "from": "down", "to": "ready", "cause": "probe" });
    assert_eq!(listener.next_of("state").await, up);
    assert_eq!(backend_a(admin).await["probe_failure"], Value::Null);
    assert_eq!(backend_a(admin).await["requests"], 1, "probes are not requests");
}

#[tokio::test]
async fn the_probe_request_is_as_configured() {
    let (sent, mut probes) = mpsc::unbounded_channel();
    // Its response has a status that the probe expects, and that is none of a success.
    let a = Backend::raw(move |mut stream| {
        let sent = sent.clone();
        async move {
            // Probes and redials use one connection until the gateway ends.
            while stream.peek(&mut [0]).await.is_ok_and(|read| read > 0) {
                let _ = sent.send(read_head(&mut stream).await);
                let response = b"HTTP/1.1 418 I'm a teapot\r\ncontent-length: 0\r\n\r\n";
                if stream.write_all(response).await.is_err() {
                    return;
                }
            }
        }
    })
    .await;
    let probe = "probe = { path = \"/healthz?deep=1\", interval = \"20ms\", timeout = \"50s\", rise = 1, \
                 fall = 1, method = \"OPTIONS\", host = \"app.internal:81\", \
                 headers = { x-probe = \"1\", authorization = \"Basic YTpi\" }, status = [\"200-299\", 418] }\n\
                 probes_in_flight = 1";
    let (_gateway, admin) = gateway(probe, &[("a", a.url())]).await;
    let mut heads = Vec::new();
    for _ in 0..3 {
        heads.push(timeout(FOREVER, probes.recv()).await.unwrap().unwrap());
    }
    for head in heads {
        let head = head.to_lowercase();
        assert!(head.starts_with("options /healthz?deep=1 http/1.1\r\n"), "{head}");
        for line in ["host: app.internal:81", "x-probe: 1", "authorization: basic ytpi"] {
            assert!(head.contains(&format!("\r\n{line}\r\n")), "{line:?} is missing in {head}");
        }
    }
    let now = backend_a(admin).await;
    assert_eq!((&now["state"], &now["probe_failure"]), (&json!("ready"), &Value::Null));
}

#[tokio::test]
async fn a_grpc_probe_without_an_http2_backend_causes_a_warning() {
    let grpc = "grpc = \"shop.Cart\"";
    for (probe, upstream, backend, warns) in [
        (grpc, "", "", true),
        ("path = \"/\"", "", "", false),
        (grpc, "http2 = \"on\"", "", false),
        (grpc, "", "http2 = \"on\"", false),
        (grpc, "http2 = \"on\"", "http2 = \"off\"", true),
        // In clear text nothing is chosen.
        (grpc, "http2 = \"auto\"", "", true),
    ] {
        let file = ConfigFile::new(&format!(
            "[health]\nprobe = {{ {probe} }}\n[upstream]\n{upstream}\n\
             [[backend]]\nid = \"a\"\nurl = \"http://a.test\"\n{backend}\n"
        ));
        let output = run(&["--check", "--config", file.path().to_str().unwrap()], &[]).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{stderr}");
        assert_eq!(stderr.contains("warning: health.probe.grpc needs HTTP/2"), warns, "{stderr}");
    }
}

#[tokio::test]
async fn failing_responses_eject_if_configured() {
    for (health, ejects) in
        [("", false), ("outlier = { consecutive_5xx = 3, ejection = \"1h\" }", true)]
    {
        let (a, b) = (moody("a").await, moody("b").await);
        let urls = [("a", a.backend.url()), ("b", b.backend.url())];
        let (gateway, admin) = gateway(health, &urls).await;
        let mut listener = Listener::new(admin).await;
        let mut client = Client::new(gateway.addr);
        assert_eq!(client.get("/").await.backend(), "a", "{health}");
        a.to_others.store(503, Ordering::SeqCst);
        for _ in 0..3 {
            let answer = client.get("/").await;
            assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{health}");
            assert_eq!(
                answer.backend(),
                "a",
                "{health}: the response of the application is forwarded"
            );
        }
        if ejects {
            let suspect = json!({
                "backend": "a", "from": "ready", "to": "suspect", "cause": "failures",
            });
            assert_eq!(listener.next_of("state").await, suspect);
            assert_eq!(client.get("/").await.backend(), "b", "the session has moved");
        } else {
            assert_eq!(backend_a(admin).await["state"], "ready");
            assert_eq!(client.get("/").await.backend(), "a", "the session stays on its backend");
        }
    }
}

#[tokio::test]
async fn max_ejected_bounds_the_ejections() {
    for (share, state) in [("max_ejected = 0.0,", "ready"), ("", "suspect")] {
        let (a, b) = (moody("a").await, echo("b").await);
        let health = format!("outlier = {{ {share} consecutive_5xx = 1, ejection = \"1h\" }}");
        let urls = [("a", a.backend.url()), ("b", b.url())];
        let (gateway, admin) = gateway(&health, &urls).await;
        a.to_others.store(503, Ordering::SeqCst);
        assert_eq!(get(gateway.addr, "/").await.status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(backend_a(admin).await["state"], state, "{share}");
    }
}

/// A backend that refused connections becomes ready again without any request.
#[tokio::test]
async fn a_backend_that_returns_becomes_ready_without_a_request() {
    let (closed, b) = (refusing(), echo("b").await);
    let urls = [("a", format!("http://{}", closed.addr)), ("b", b.url())];
    let health = "redial = \"20ms\"\nredial_max = \"50ms\"";
    let (gateway, admin) = gateway(health, &urls).await;
    for _ in 0..2 {
        assert_eq!(get(gateway.addr, "/").await.backend(), "b");
    }
    let mut listener = Listener::new(admin).await;
    assert_eq!(backend_a(admin).await["state"], "suspect");
    let a = closed.come_back(axum::Router::new());
    let ready = json!({
        "backend": "a", "from": "suspect", "to": "ready", "cause": "connected",
    });
    assert_eq!(listener.next_of("state").await, ready);
    drop(a);
}

#[tokio::test]
async fn slow_start_ramps_up_a_new_backend() {
    for (health, expected) in [("", 11..=11), ("slow_start = \"1h\"", 1..=4)] {
        let (a, b): (Backend, Backend) = (echo("a").await, echo("b").await);
        let (gateway, admin) = gateway(health, &[("a", a.url())]).await;
        let body = json!({ "url": b.url() }).to_string();
        client::send(admin, Method::PUT, "/backends/b", &[], &body).await;
        let mut new = 0;
        for _ in 0..22 {
            new += usize::from(get(gateway.addr, "/").await.backend() == "b");
        }
        assert!(expected.contains(&new), "{health:?}: it has taken {new} of 22 sessions");
    }
}
