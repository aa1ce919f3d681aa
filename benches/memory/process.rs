//! The proxies with their configurations, and the memory that they have.

use std::{
    env,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
};

use crate::{
    Failure,
    certificate::Certificate,
    proxy_process::{self, Proxy},
    release, system,
};

#[derive(Debug)]
pub(crate) enum Kind {
    /// The path of the program.
    Gateway(PathBuf),
    HaProxy,
}

impl Kind {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Gateway(_) => "gateway",
            Self::HaProxy => "HAProxy",
        }
    }
}

/// Builds the gateway in release mode, and returns its path. `GATEWAY` names another one.
pub(crate) fn build() -> Result<PathBuf, Failure> {
    match env::var_os("GATEWAY") {
        Some(program) => Ok(program.into()),
        None => Ok(release::build(&["gateway"], &["tls"])?.join("gateway")),
    }
}

impl Proxy {
    /// Starts it for so many connections, and waits until it accepts them.
    pub(crate) async fn start(
        kind: &Kind,
        backend: SocketAddr,
        connections: usize,
        certificate: Option<&Certificate>,
    ) -> Result<Self, Failure> {
        let [addr] = proxy_process::free_addrs()?;
        let connections = connections.max(1000) + 100;
        let (mut command, config) = match kind {
            Kind::Gateway(program) => {
                let config = gateway(addr, backend, connections, certificate);
                (proxy_process::gateway(program), config)
            }
            Kind::HaProxy => {
                let config = haproxy(addr, backend, connections, certificate);
                (proxy_process::haproxy(), config)
            }
        };
        command.stderr(Stdio::null());
        Self::run(command, addr, &config).await
    }

    /// The resident memory of the process, in KiB.
    pub(crate) fn resident(&self) -> Result<f64, Failure> {
        system::resident(self.child.id())
    }

    /// What the sockets of its clients hold in the system, in KiB; `None` without `ss`.
    pub(crate) fn sockets(&self) -> Option<f64> {
        let port = format!("sport = :{}", self.addr.port());
        let output = Command::new("ss").args(["-tmnH", &port]).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        // skmem:(r<received>,rb<limit>,t<sent>,tb<limit>,f<forward>,w<queued>,…), in bytes.
        let bytes = text.split("skmem:(").skip(1).map(|memory| {
            let fields = memory.split([',', ')']);
            let held = fields.filter_map(|field| field.strip_prefix(['r', 'w']));
            held.filter_map(|number| number.parse::<f64>().ok()).sum::<f64>()
        });
        Some(bytes.sum::<f64>() / 1024.0)
    }
}

fn gateway(
    addr: SocketAddr,
    backend: SocketAddr,
    connections: usize,
    certificate: Option<&Certificate>,
) -> String {
    let tls = certificate.map_or(String::new(), |Certificate { cert, key, .. }| {
        format!("tls = {{ certificates = [{{ cert = {cert:?}, key = {key:?} }}] }}\n")
    });
    format!(
        "[[listener]]\naddress = \"{addr}\"\n{tls}\
         [limits]\nconnections = {connections}\nidle_timeout = \"120s\"\n\
         [[affinity]]\ntype = \"cookie\"\nname = \"SRV\"\nformat = \"plain\"\n\
         [[backend]]\nid = \"a\"\nurl = \"http://{backend}\"\n"
    )
}

fn haproxy(
    addr: SocketAddr,
    backend: SocketAddr,
    connections: usize,
    certificate: Option<&Certificate>,
) -> String {
    let tls = certificate
        .map_or(String::new(), |certificate| format!(" ssl crt {}", certificate.pem.display()));
    format!(
        "global\n nbthread 1\n no strict-limits\n maxconn {connections}\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 120s\n timeout server 120s\n\
         frontend clients\n bind {addr}{tls}\n default_backend servers\n\
         backend servers\n cookie SRV insert indirect nocache\n server a {backend} cookie a\n"
    )
}
