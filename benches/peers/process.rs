//! A running proxy, on its core.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    Failure, PROXY_CORE,
    backends::Backends,
    config::{self, Site},
    options::Options,
    peer::{Peer, Setup},
    proxy_process::{self, Proxy},
    system,
};

/// Clients of any proxy.
pub(crate) const CONNECTIONS: usize = 20_000;
/// Of a proxy that does not respond.
const PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(crate) struct Running {
    proxy: Proxy,
    pub(crate) tls_addr: SocketAddr,
    /// The cookie of a session, as a client sends it.
    pub(crate) cookie: String,
}

impl Running {
    /// Starts it, and waits until it accepts connections.
    pub(crate) async fn start(
        peer: Peer,
        setup: Setup,
        options: &Options,
        backends: &Backends,
    ) -> Result<Self, Failure> {
        let [addr, tls_addr] = proxy_process::free_addrs()?;
        let site = Site {
            addr,
            tls_addr,
            certificate: &backends.certificate,
            backends: backends.of(setup),
            setup,
            connections: CONNECTIONS,
        };
        let folder = env::temp_dir().join(format!("peer-{}", addr.port()));
        fs::create_dir_all(&folder)?;
        let (command, config) = command(peer, &site, options, &folder)?;
        let mut command = on_core(PROXY_CORE, &command);
        // 32 bytes.
        command
            .env("PEERS_KEY", "YSBrZXkgb2YgMzIgYnl0ZXMgZm9yIGJlbmNobWFya3M=")
            .stderr(Stdio::null());
        let proxy = Proxy::run(command, addr, &config).await?;
        let cookie = timeout(PATIENCE, session(addr)).await??;
        Ok(Self { proxy, tls_addr, cookie })
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.proxy.addr
    }

    /// The time that all of its threads have had a core.
    pub(crate) fn cpu(&self) -> Result<Duration, Failure> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.proxy.child.id()))? {
            let times = fs::read_to_string(task?.path().join("schedstat"))?;
            let on_core = times.split_whitespace().next().ok_or("schedstat is empty")?;
            nanos += on_core.parse::<u64>()?;
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// The resident memory of the process, in KiB.
    pub(crate) fn resident(&self) -> Result<f64, Failure> {
        system::resident(self.proxy.child.id())
    }
}

/// The program with its arguments, and the content of its file.
fn command(
    peer: Peer,
    site: &Site<'_>,
    options: &Options,
    folder: &Path,
) -> Result<(Command, String), Failure> {
    let programs = &options.programs;
    let simple = |program: &Option<PathBuf>| -> Result<(Command, String), Failure> {
        let program = program.as_ref().ok_or_else(|| format!("{peer} is not installed"))?;
        let mut command = Command::new(program);
        command.arg(site.addr.to_string());
        command.args(site.backends.iter().map(SocketAddr::to_string));
        Ok((command, String::new()))
    };
    Ok(match peer {
        Peer::Gateway => (proxy_process::gateway(&programs.gateway), config::gateway(site)?),
        Peer::HaProxy => (proxy_process::haproxy(), config::haproxy(site, "")?),
        Peer::HaProxyFields => {
            (proxy_process::haproxy(), config::haproxy(site, config::HAPROXY_FIELDS)?)
        }
        Peer::Nginx => {
            let mut command = Command::new("nginx");
            command.arg("-p").arg(folder).args(["-e", "stderr", "-c"]);
            (command, config::nginx(site, folder)?)
        }
        Peer::Envoy => {
            let mut command =
                Command::new(programs.envoy.as_ref().ok_or("envoy is not installed")?);
            command.args(["--concurrency", "1", "--disable-hot-restart", "-l", "off", "-c"]);
            (command, config::envoy(site))
        }
        Peer::Forwarder => simple(&Some(programs.forwarder.clone()))?,
        Peer::Pingora => simple(&programs.pingora)?,
    })
}

/// The same command on one core.
pub(crate) fn on_core(core: &str, command: &Command) -> Command {
    let mut pinned = Command::new("taskset");
    pinned.args(["-c", core]).arg(command.get_program()).args(command.get_args());
    pinned
}

/// Opens a session. Where the proxy has no cookie, one is sent nevertheless, so that requests are alike.
async fn session(addr: SocketAddr) -> Result<String, Failure> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await?;
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await?;
    let text = String::from_utf8_lossy(&response);
    if !text.starts_with("HTTP/1.1 200") {
        return Err(format!("its first response is {:?}", text.lines().next()).into());
    }
    let field = text.lines().find(|line| line.to_ascii_lowercase().starts_with("set-cookie:"));
    let pair = field.and_then(|line| line.split_once(':')?.1.trim().split(';').next());
    Ok(pair.unwrap_or("SRV=s0").to_owned())
}
