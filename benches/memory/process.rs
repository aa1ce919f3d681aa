//! The proxies, each a process, and the memory that they have.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{net::TcpStream, time::sleep};

use crate::Failure;

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

/// The version of HAProxy, if it is installed.
pub(crate) fn haproxy_version() -> Option<String> {
    let output = Command::new("haproxy").arg("-v").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut words = text.split_whitespace();
    let version = words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    Some(format!("HAProxy {version}"))
}

/// Allows as many file descriptors as `connections` need, or as this process may have; the proxies inherit it.
pub(crate) fn raise_file_limit(connections: usize) -> Result<(), Failure> {
    // A proxy may need two for each.
    let wanted = Some(2 * connections as u64 + 10_000);
    if setrlimit(Resource::Nofile, Rlimit { current: wanted, maximum: wanted }).is_err() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(())
}

/// Builds the gateway in release mode, and returns its path. `GATEWAY` names another one.
pub(crate) fn build() -> Result<PathBuf, Failure> {
    if let Some(program) = env::var_os("GATEWAY") {
        return Ok(program.into());
    }
    let this = env::current_exe()?;
    let target = this.ancestors().nth(2).ok_or("this program is in no target directory")?;
    let built = Command::new(env!("CARGO"))
        .args(["build", "--locked", "--release", "--example", "gateway", "--target-dir"])
        .arg(target)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .status()?;
    match built.success() {
        true => Ok(target.join("release/examples/gateway")),
        false => Err("the gateway cannot be built".into()),
    }
}

/// A running proxy. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    child: Child,
    config: PathBuf,
}

impl Proxy {
    /// Starts it for so many connections, and waits until it accepts them.
    pub(crate) async fn start(
        kind: &Kind,
        backend: SocketAddr,
        connections: usize,
    ) -> Result<Self, Failure> {
        let addr = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let config = env::temp_dir().join(format!("memory-{}.conf", addr.port()));
        let connections = connections.max(1000) + 100;
        let (text, mut command) = match kind {
            Kind::Gateway(program) => {
                let mut command = Command::new(program);
                command.args(["--workers", "1", "--config"]);
                (gateway(addr, backend, connections), command)
            }
            Kind::HaProxy => {
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]);
                (haproxy(addr, backend, connections), command)
            }
        };
        fs::write(&config, text)?;
        command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut proxy = Self { addr, child: command.spawn()?, config };
        while TcpStream::connect(addr).await.is_err() {
            if let Some(status) = proxy.child.try_wait()? {
                return Err(format!("it does not start: {status}").into());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(proxy)
    }

    /// The resident memory of the process, in KiB.
    pub(crate) fn resident(&self) -> Result<f64, Failure> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()).ok_or("no VmRSS")?;
        Ok(number.parse()?)
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

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

fn gateway(addr: SocketAddr, backend: SocketAddr, connections: usize) -> String {
    format!(
        "listen = \"{addr}\"\n[limits]\nconnections = {connections}\nidle_timeout = \"120s\"\n\
         [[affinity]]\ntype = \"cookie\"\nname = \"SRV\"\nformat = \"plain\"\n\
         [[backend]]\nid = \"a\"\nurl = \"http://{backend}\"\n"
    )
}

fn haproxy(addr: SocketAddr, backend: SocketAddr, connections: usize) -> String {
    format!(
        "global\n nbthread 1\n no strict-limits\n maxconn {connections}\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 120s\n timeout server 120s\n\
         frontend clients\n bind {addr}\n default_backend servers\n\
         backend servers\n cookie SRV insert indirect nocache\n server a {backend} cookie a\n"
    )
}
