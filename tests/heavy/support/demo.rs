//! The gateway example with its demo shops, as a process.

use std::{net::SocketAddr, process::Stdio};

use crate::{client::Client, example::binary, in_time};
use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader, Lines},
    process::{Child, ChildStderr, ChildStdout, Command},
};

pub struct Shop {
    pub page: String,
    admin: SocketAddr,
    process: Child,
    _output: (Lines<BufReader<ChildStdout>>, Lines<BufReader<ChildStderr>>),
}

impl Shop {
    /// Starts the embedded demo on free ports.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same, with more arguments.
    pub async fn start_with(args: &[&str]) -> Self {
        let mut process = Command::new(binary("gateway"))
            .args(["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
            .args(args)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut stdout = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut stderr = BufReader::new(process.stderr.take().unwrap()).lines();
        let page = line_after(&mut stdout, "listening on ").await;
        let admin = line_after(&mut stderr, "admin interface on http://").await;
        let admin = admin.parse().unwrap();
        Self { page, admin, process, _output: (stdout, stderr) }
    }

    pub async fn set_mode(&self, shop: &str, mode: &str) {
        let body = serde_json::json!({ "mode": mode }).to_string();
        self.call(Method::PATCH, &format!("/backends/{shop}"), body).await;
    }

    pub async fn stats(&self) -> Value {
        let answer = self.call(Method::GET, "/stats", String::new()).await;
        serde_json::from_slice(&answer).unwrap()
    }

    async fn call(&self, method: Method, path: &str, body: String) -> Bytes {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .body(Full::from(body))
            .unwrap();
        let mut client = Client::new(self.admin);
        let answer = in_time("the admin interface answers", client.send(request)).await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
        answer.into_body()
    }

    /// Asks the process to end, and waits until it has.
    pub async fn stop(mut self) {
        let pid = self.process.id().expect("it runs").to_string();
        let sent = Command::new("kill").args(["-s", "TERM", &pid]).status().await;
        assert!(sent.unwrap().success());
        let ended = in_time("the gateway ends", self.process.wait()).await.unwrap();
        assert!(ended.success(), "{ended}");
    }
}

async fn line_after(lines: &mut Lines<BufReader<impl AsyncRead + Unpin>>, start: &str) -> String {
    in_time(start, async {
        loop {
            let line = lines.next_line().await.unwrap();
            let line = line.unwrap_or_else(|| panic!("the gateway ended and never said {start:?}"));
            if let Some((_, rest)) = line.split_once(start) {
                return rest.to_owned();
            }
        }
    })
    .await
}
