//! Prometheus and its tools read what the gateway and `contrib/` say.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};
use tower_sticky_heavy_tests::{
    client::{Client, cookie},
    in_time,
    process::{ConfigFile, Gateway},
    until_ok,
};

fn contrib(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib").join(name)
}

/// The gateway with its demo shops, after some requests, and its admin address.
async fn used_gateway() -> (Gateway, SocketAddr) {
    let mut gateway = Gateway::start(&["--admin", "127.0.0.1:0"]).await;
    let admin = gateway.admin_addr().await;
    let mut client = Client::new(gateway.addr);
    let answer = client.send(Request::new(Full::default())).await.unwrap();
    let token = cookie(&answer, "SERVER_ID").expect("a session begins");
    for token in [&*token, &token, "nonsense"] {
        let request = Request::get("/").header("cookie", format!("SERVER_ID={token}"));
        client.send(request.body(Full::default()).unwrap()).await.unwrap();
    }
    (gateway, admin)
}

async fn get(addr: SocketAddr, target: &str) -> Bytes {
    let request = Request::get(target).body(Full::default()).unwrap();
    let answer = in_time(target, Client::new(addr).send(request)).await.unwrap();
    answer.into_body()
}

/// Runs `promtool check`, with a text on its standard input, and returns what it says. It must succeed.
async fn promtool(args: &[&str], input: &[u8]) -> String {
    let mut tool = Command::new("promtool")
        .arg("check")
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is installed, from the Debian package prometheus");
    let mut stdin = tool.stdin.take().unwrap();
    stdin.write_all(input).await.unwrap();
    drop(stdin);
    let output = in_time("promtool ends", tool.wait_with_output()).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert!(output.status.success(), "{args:?}: {said}");
    said
}

#[tokio::test]
async fn promtool_has_no_objection_to_the_metrics() {
    let (_gateway, admin) = used_gateway().await;
    let text = get(admin, "/metrics").await;
    let said = promtool(&["metrics"], &text).await;
    assert_eq!(said.trim(), "", "promtool objects to nothing");
}

#[tokio::test]
async fn promtool_has_no_objection_to_the_alert_rules() {
    let said = promtool(&["rules", contrib("alerts.yml").to_str().unwrap()], b"").await;
    assert!(said.contains("SUCCESS: 14 rules found"), "{said}");
}

/// A Prometheus that scrapes the gateway every second.
struct Prometheus {
    addr: SocketAddr,
    _process: Child,
    _config: ConfigFile,
    data: PathBuf,
}

impl Prometheus {
    async fn start(target: SocketAddr) -> Self {
        let config = ConfigFile::new(&format!(
            "global: {{ scrape_interval: 1s }}\n\
             rule_files: [ {:?} ]\n\
             scrape_configs: [ {{ job_name: gateway, static_configs: [ {{ targets: [ '{target}' ] }} ] }} ]\n",
            contrib("alerts.yml").canonicalize().unwrap()
        ));
        let data = config.path().with_extension("data");
        let mut process = Command::new("prometheus")
            .arg(format!("--config.file={}", config.path().display()))
            .arg(format!("--storage.tsdb.path={}", data.display()))
            .arg("--web.listen-address=127.0.0.1:0")
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("Prometheus is installed, from the Debian package prometheus");
        let mut lines = BufReader::new(process.stderr.take().unwrap()).lines();
        let addr: SocketAddr = in_time("Prometheus listens", async {
            loop {
                let line = lines.next_line().await.unwrap().expect("Prometheus runs");
                if let Some((_, addr)) = line.split_once("msg=\"Listening on\" address=") {
                    return addr.parse().unwrap();
                }
            }
        })
        .await;
        // What is not read blocks Prometheus.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        // It listens before it answers queries.
        until_ok("Prometheus is ready", async || {
            let request = Request::get("/-/ready").body(Full::default()).map_err(drop)?;
            let answer = Client::new(addr).send(request).await.map_err(drop)?;
            if answer.status().is_success() { Ok(()) } else { Err(()) }
        })
        .await;
        Self { addr, _process: process, _config: config, data }
    }

    /// The results of a query.
    async fn query(&self, query: &str) -> Vec<Value> {
        let mut target = String::from("/api/v1/query?query=");
        for byte in query.bytes() {
            let _ = write!(target, "%{byte:02X}");
        }
        let answer: Value = serde_json::from_slice(&get(self.addr, &target).await).unwrap();
        assert_eq!(answer["status"], "success", "{query}: {answer}");
        answer["data"]["result"].as_array().unwrap().clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// The expressions of a dashboard, as it sends them for all pools.
fn expressions(dashboard: &Value, found: &mut Vec<String>) {
    match dashboard {
        Value::Object(fields) => {
            if let Some(Value::String(expression)) = fields.get("expr") {
                found.push(expression.replace("$__rate_interval", "1m").replace("$pool", ".*"));
            }
            fields.values().for_each(|value| expressions(value, found));
        }
        Value::Array(values) => values.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[tokio::test]
async fn a_real_prometheus_scrapes_the_gateway_and_answers_queries() {
    let (_gateway, admin) = used_gateway().await;
    let prometheus = Prometheus::start(admin).await;
    let query = "sum by (outcome, reason) (sticky_requests_total)";
    let results = until_ok("it has scraped", async || {
        let results = prometheus.query(query).await;
        if results.is_empty() { Err(()) } else { Ok(results) }
    })
    .await;
    let count = |outcome: &str, reason: &str| {
        let result = results.iter().find(|result| {
            result["metric"]["outcome"] == outcome
                && result["metric"]["reason"].as_str().unwrap_or_default() == reason
        });
        result.map(|result| result["value"][1].as_str().unwrap().to_owned())
    };
    assert_eq!(count("pinned", "").as_deref(), Some("2"), "{results:?}");
    assert_eq!(count("assigned", "malformed").as_deref(), Some("1"), "{results:?}");

    let dashboard = std::fs::read(contrib("grafana.json")).unwrap();
    let mut all = Vec::new();
    expressions(&serde_json::from_slice(&dashboard).unwrap(), &mut all);
    assert!(all.len() > 20, "{all:?}");
    for expression in all {
        prometheus.query(&expression).await;
    }
}
