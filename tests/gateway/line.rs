//! A gateway that is started anew on the same sockets, again and again (SIGUSR2).

use std::{net::SocketAddr, path::PathBuf};

use http::Method;
use serde_json::Value;

use crate::{
    client::{get, send},
    process::{Gateway, processes},
};

/// A gateway whose successors are killed with this guard.
pub(crate) struct Line {
    pub(crate) gateway: Gateway,
    pub(crate) admin: SocketAddr,
    config: PathBuf,
    /// What it prints of its listeners.
    listening: Vec<String>,
}

impl Line {
    /// Starts a gateway with this file, whose listeners are so many.
    pub(crate) async fn start(file: &str, listeners: usize) -> Self {
        let mut gateway = Gateway::listening(file).await;
        let mut listening = vec![format!("{}://{}", gateway.scheme, gateway.addr)];
        while listening.len() < listeners {
            listening.push(url(&gateway.stdout_line().await));
        }
        let admin = gateway.admin_addr().await;
        let config = gateway.file.as_ref().unwrap().path().to_owned();
        Self { gateway, admin, config, listening }
    }

    /// The address of a listener.
    pub(crate) fn addr(&self, position: usize) -> SocketAddr {
        self.listening[position].split_once("://").unwrap().1.parse().unwrap()
    }

    /// The processes that run with this configuration, in the order of their start.
    pub(crate) fn processes(&self) -> Vec<u32> {
        let path = self.config.to_str().unwrap().as_bytes();
        processes(|line| line.contains(&path))
    }

    /// The next process is to listen at these addresses.
    pub(crate) fn listens_at(&mut self, listening: &[&str]) {
        self.listening = listening.iter().map(|&url| url.to_owned()).collect();
    }

    /// Starts the newest process anew, and waits until the next one accepts.
    pub(crate) async fn restart(&mut self) {
        let newest = *self.processes().last().unwrap();
        signal(newest, "USR2");
        for expected in &self.listening {
            assert_eq!(url(&self.gateway.stdout_line().await), *expected);
        }
        self.gateway.stderr_line(&format!("admin interface on http://{}", self.admin)).await;
    }

    pub(crate) async fn patch(&self, id: &str, body: &Value) {
        let path = format!("/backends/{id}");
        let answer = send(self.admin, Method::PATCH, &path, &[], &body.to_string()).await;
        assert!(answer.status.is_success(), "{answer:?}");
    }

    /// Weight, mode and limit of each backend, by their ids.
    pub(crate) async fn backends(&self) -> Vec<(Value, Value, Value, Value)> {
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

/// The address in a line such as `listening on http://127.0.0.1:8080`.
fn url(line: &str) -> String {
    line.strip_prefix("listening on ").unwrap_or_else(|| panic!("{line}")).to_owned()
}

pub(crate) fn signal(id: u32, name: &str) {
    let kill = std::process::Command::new("kill").args(["-s", name, &id.to_string()]).status();
    assert!(kill.unwrap().success() || name == "KILL", "the signal is sent");
}
