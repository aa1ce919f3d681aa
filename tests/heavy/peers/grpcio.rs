//! A gRPC client in Python, through the gateway, to gRPC servers in Python.

use std::time::Duration;

use serde_json::Value;
use tower_sticky_heavy_tests::{certificates::Authority, client::Client, process::Gateway};

use crate::{
    python::{GrpcServer, grpc_client},
    support::{Dir, text, tls_listener},
};

/// The gateway's file, in front of two servers.
fn config(upstream: &str, scheme: &str, servers: &[GrpcServer; 2]) -> String {
    let backends = servers.iter().zip(["a", "b"]).map(|(server, id)| {
        format!("[[backend]]\nid = \"{id}\"\nurl = \"{scheme}://127.0.0.1:{}\"\n", server.port)
    });
    format!(
        "[strategy]\ntype = \"round-robin\"\n[upstream]\n{upstream}\n\
         [[affinity]]\ntype = \"header\"\nname = \"x-sticky\"\nformat = \"plain\"\n{}",
        backends.collect::<String>()
    )
}

/// Runs the client, and asserts that the deadlines of its slow calls have reached the servers, and their ends.
async fn assert_calls_pass(args: &[&str], servers: &mut [GrpcServer; 2]) {
    let output = grpc_client(args).await;
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert_eq!(output.stdout, b"ok\n");
    for server in servers {
        // Each has had two sessions, with a slow call each.
        for _ in 0..2 {
            let line = server.line().await;
            let remaining: f64 = line.strip_prefix("remaining ").unwrap().parse().unwrap();
            assert!((0.0..=0.5).contains(&remaining), "{line}");
            assert_eq!(server.line().await, "over", "the end of the call reaches the server");
        }
    }
}

async fn servers(identity: Option<&(String, String)>) -> [GrpcServer; 2] {
    [GrpcServer::start("a", identity).await, GrpcServer::start("b", identity).await]
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_every_kind_pass_in_clear_text() {
    let mut servers = servers(None).await;
    let gateway = Gateway::configured(&config("http2 = \"on\"", "http", &servers)).await;
    assert_calls_pass(&[&gateway.addr.to_string()], &mut servers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_every_kind_pass_to_backends_over_tls() {
    let (authority, dir) = (Authority::new("ours"), Dir::new());
    let identity = dir.identity("server", &authority.server());
    let ca = dir.authority(&authority);
    for http2 in ["on", "auto"] {
        let mut servers = servers(Some(&identity)).await;
        let upstream = format!("http2 = \"{http2}\"\nca = [\"{ca}\"]");
        let gateway = Gateway::configured(&config(&upstream, "https", &servers)).await;
        assert_calls_pass(&[&gateway.addr.to_string()], &mut servers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_of_every_kind_pass_from_clients_over_tls() {
    let (authority, dir) = (Authority::new("ours"), Dir::new());
    let identity = dir.identity("server", &authority.server());
    let ca = dir.authority(&authority);
    for (http2, scheme) in [("on", "http"), ("auto", "https")] {
        let mut servers = servers((scheme == "https").then_some(&identity)).await;
        let upstream = format!("http2 = \"{http2}\"\nca = [\"{ca}\"]");
        let config = config(&upstream, scheme, &servers);
        let listener = tls_listener(std::slice::from_ref(&identity), "");
        let gateway = Gateway::listening(&format!("{config}{listener}")).await;
        assert_calls_pass(&[&gateway.addr.to_string(), &ca], &mut servers).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_probes_ask_about_a_service() {
    let (authority, dir) = (Authority::new("ours"), Dir::new());
    let identity = dir.identity("server", &authority.server());
    let ca = dir.authority(&authority);
    for (identity, scheme) in [(None, "http"), (Some(&identity), "https")] {
        let servers = servers(identity).await;
        for (service, state, failure) in
            [("peers.Echo", "ready", None), ("peers.Other", "down", Some("\"peers.Other\""))]
        {
            let upstream = format!("http2 = \"on\"\nca = [\"{ca}\"]");
            let health = format!(
                "[health]\nprobe = {{ grpc = \"{service}\", interval = \"50ms\", timeout = \"10s\", fall = 1 }}\n"
            );
            let config = config(&upstream, scheme, &servers) + &health;
            let mut gateway =
                Gateway::configured(&format!("admin = \"127.0.0.1:0\"\n{config}")).await;
            let mut admin = Client::new(gateway.admin_addr().await);
            let mut seen = async || {
                let backends = text(&mut admin, "/backends").await;
                let backends: Value = serde_json::from_str(&backends).unwrap();
                let failure = backends[0]["probe_failure"].as_str().map(str::to_owned);
                (backends[0]["state"].as_str().unwrap().to_owned(), failure)
            };
            if state == "ready" {
                // Long enough for some probes.
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert_eq!(seen().await, ("ready".to_owned(), None));
                continue;
            }
            let (now, why) = loop {
                let (now, why) = seen().await;
                if now == state {
                    break (now, why.unwrap());
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            };
            assert!(why.contains(failure.unwrap()), "{now}: {why}");
        }
    }
}
