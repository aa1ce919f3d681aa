//! A proxy under measurement: a process with a configuration file.

use std::{
    env, fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tokio::{net::TcpStream, time::sleep};

use crate::Failure;

/// A running proxy. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    pub(crate) addr: SocketAddr,
    pub(crate) child: Child,
    config: PathBuf,
}

impl Proxy {
    /// Starts the proxy with `config` in a file, whose path becomes the last argument of `command`; an
    /// empty one is none. Waits until it accepts connections at `addr`.
    pub(crate) async fn run(
        mut command: Command,
        addr: SocketAddr,
        config: &str,
    ) -> Result<Self, Failure> {
        // Envoy goes by the name of the file, and the others do not.
        let file = env::temp_dir().join(format!("proxy-{}.yaml", addr.port()));
        if !config.is_empty() {
            fs::write(&file, config)?;
            command.arg(&file);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let mut proxy = Self { addr, child: command.spawn()?, config: file };
        while TcpStream::connect(addr).await.is_err() {
            if let Some(status) = proxy.child.try_wait()? {
                return Err(format!("it does not start: {status}").into());
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(proxy)
    }
}

impl Proxy {
    /// Writes another configuration into its file.
    #[allow(dead_code, reason = "only one of the programs reloads")]
    pub(crate) fn rewrite(&self, config: &str) -> Result<(), Failure> {
        Ok(fs::write(&self.config, config)?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.config);
    }
}

/// Addresses for a proxy to listen at. They differ: all are taken before the first is free again.
pub(crate) fn free_addrs<const N: usize>() -> Result<[SocketAddr; N], Failure> {
    let mut addrs = [SocketAddr::from(([127, 0, 0, 1], 0)); N];
    let mut taken = Vec::new();
    for addr in &mut addrs {
        let listener = TcpListener::bind(*addr)?;
        *addr = listener.local_addr()?;
        taken.push(listener);
    }
    Ok(addrs)
}

/// The gateway with one thread. The path of its file is to follow.
pub(crate) fn gateway(program: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["--workers", "1", "--config"]);
    command
}

/// HAProxy in the foreground. The path of its file is to follow.
pub(crate) fn haproxy() -> Command {
    let mut command = Command::new("haproxy");
    command.args(["-db", "-f"]);
    command
}

/// The version of HAProxy, if it is installed.
pub(crate) fn haproxy_version() -> Option<String> {
    let output = Command::new("haproxy").arg("-v").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let mut words = text.split_whitespace();
    let version = words.find(|word| word.starts_with(|first: char| first.is_ascii_digit()))?;
    Some(format!("HAProxy {version}"))
}
