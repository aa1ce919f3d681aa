//! A gateway whose file names its listeners.

#![allow(
    unreachable_pub,
    missing_debug_implementations,
    reason = "a module of the tests of the gateway, and of the library of the heavy tests"
)]

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::TcpStream,
    process::{Child, Command},
};

use crate::{example::binary, process::ConfigFile};

/// A gateway that listens as its file says. It is killed when this is dropped.
pub struct Listening {
    child: Child,
    /// What it prints, without `listening on `.
    pub urls: Vec<String>,
    _file: ConfigFile,
}

impl Listening {
    /// Starts it, and waits until it has named so many listeners.
    pub async fn start(config: &str, listeners: usize) -> Self {
        let file = ConfigFile::new(config);
        let mut child = Command::new(binary("gateway"))
            .args(["--workers", "1", "--config", file.path().to_str().unwrap()])
            .env("RUST_LOG", "error")
            .kill_on_drop(true)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut urls = Vec::new();
        for _ in 0..listeners {
            let line = lines.next_line().await.unwrap().expect("the gateway starts");
            urls.push(line.strip_prefix("listening on ").unwrap().to_owned());
        }
        Self { child, urls, _file: file }
    }

    /// The address of a listener on TCP, as `HOST:PORT`.
    pub fn addr(&self, position: usize) -> &str {
        self.urls[position].split_once("://").unwrap().1
    }

    /// Connects to a listener on TCP.
    #[allow(dead_code, reason = "not every target needs it")]
    pub async fn connect(&self, position: usize) -> TcpStream {
        TcpStream::connect(self.addr(position)).await.unwrap()
    }

    /// Sends it a signal, for example `HUP`.
    pub async fn signal(&self, name: &str) {
        let id = self.child.id().unwrap().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().await;
        assert!(sent.unwrap().success(), "the signal is sent");
    }

    /// Stops it, which must succeed.
    #[allow(dead_code, reason = "not every target needs it")]
    pub async fn stop(mut self) {
        self.signal("TERM").await;
        assert!(self.child.wait().await.unwrap().success(), "the gateway stops in order");
    }
}
