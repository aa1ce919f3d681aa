//! The proxies, each a process with a configuration for the same three backends.

use std::{
    fmt::{self, Write},
    net::SocketAddr,
    path::Path,
};

use crate::{
    Failure,
    proxy_process::{self, Proxy},
    server::Server,
};

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

impl Proxy {
    /// Starts it, and waits until it accepts connections.
    pub(crate) async fn start(
        kind: Kind,
        programs: &Path,
        servers: &[Server],
    ) -> Result<Self, Failure> {
        let [addr] = proxy_process::free_addrs()?;
        let (command, config) = match kind {
            Kind::Gateway { home_wait } => {
                let command = proxy_process::gateway(&programs.join("gateway"));
                (command, gateway(home_wait, addr, servers)?)
            }
            Kind::HaProxy { redispatch } => {
                (proxy_process::haproxy(), haproxy(redispatch, addr, servers)?)
            }
        };
        Self::run(command, addr, &config).await
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
