//! The proxies, each a process with a configuration for the same three backends.

use std::{
    fmt::{self, Write},
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{net::TcpStream, time::sleep};

use crate::{Failure, server::Server};

#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    /// How long sessions wait for the return of their backend.
    Gateway { home_wait: &'static str },
    /// Whether a refused request goes to another server; else it is retried on the same one, three
    /// times.
    HaProxy { redispatch: bool },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Gateway { home_wait: "0s" } => "gateway".to_owned(),
            Self::Gateway { home_wait } => format!("gateway, home_wait {home_wait}"),
            Self::HaProxy { redispatch: true } => "HAProxy, redispatch 1".to_owned(),
            Self::HaProxy { redispatch: false } => "HAProxy, retries at home".to_owned(),
        };
        f.pad(&text)
    }
}

/// The version of HAProxy, if it is installed.
pub(crate) fn haproxy_version() -> Option<String> {
    let output = Command::new("haproxy").arg("-v").output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    let mut words = said.split_whitespace();
    let version = words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    Some(format!("HAProxy {version}"))
}

/// A running proxy. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    child: Child,
    config: PathBuf,
}

impl Proxy {
    /// Starts it, and waits until it accepts connections.
    pub(crate) async fn start(
        kind: Kind,
        programs: &Path,
        servers: &[Server],
    ) -> Result<Self, Failure> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = std::env::temp_dir().join(format!("restarts-{}.conf", addr.port()));
        let mut command = match kind {
            Kind::Gateway { home_wait } => {
                fs::write(&config, gateway(home_wait, addr, servers)?)?;
                let mut command = Command::new(programs.join("gateway"));
                command.args(["--workers", "1", "--config"]).arg(&config);
                command
            }
            Kind::HaProxy { redispatch } => {
                fs::write(&config, haproxy(redispatch, addr, servers)?)?;
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(&config);
                command
            }
        };
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
        let mut proxy = Self { addr, child, config };
        while TcpStream::connect(addr).await.is_err() {
            if let Some(status) = proxy.child.try_wait()? {
                return Err(format!("it does not start: {status}").into());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(proxy)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

fn gateway(home_wait: &str, addr: SocketAddr, servers: &[Server]) -> Result<String, fmt::Error> {
    let mut file = format!(
        "listen = \"{addr}\"\n\
         [limits]\nconnections = 1000\n\
         [[affinity]]\ntype = \"cookie\"\nname = \"SRV\"\nformat = \"plain\"\n"
    );
    if home_wait != "0s" {
        writeln!(file, "[failover]\nhome_wait = \"{home_wait}\"")?;
    }
    for server in servers {
        writeln!(file, "[[backend]]\nid = \"{}\"\nurl = \"http://{}\"", server.name, server.addr)?;
    }
    Ok(file)
}

fn haproxy(redispatch: bool, addr: SocketAddr, servers: &[Server]) -> Result<String, fmt::Error> {
    let retry = match redispatch {
        true => " option redispatch 1\n retry-on conn-failure empty-response\n",
        false => " no option redispatch\n",
    };
    let mut file = format!(
        "global\n nbthread 1\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 60s\n timeout server 60s\n\
         frontend clients\n bind {addr}\n default_backend servers\n\
         backend servers\n balance leastconn\n cookie SRV insert indirect nocache\n{retry}"
    );
    for server in servers {
        let name = server.name;
        writeln!(file, " server {name} {} cookie {name}", server.addr)?;
    }
    Ok(file)
}
