//! Shops in processes of their own, behind a gateway in this process.

use std::{
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use tower_sticky::{
    Backends, KeyRing, NoInner, StickyLayer, StickyService,
    affinity::Cookie,
    proxy::Upstream,
    strategy::{Candidates, Strategy},
};

pub const NAMES: [&str; 3] = ["a", "b", "c"];

/// The shops `a`, `b` and `c`.
pub struct Processes {
    pub gateway: StickyService<Upstream, NoInner>,
    new_sessions: NewSessionsTo,
    shops: Vec<Process>,
}

/// Assigns new sessions to one shop. Weights would not do, because a shop with weight 0 is no replica.
#[derive(Debug, Clone, Default)]
struct NewSessionsTo(Arc<Mutex<&'static str>>);

impl Strategy for NewSessionsTo {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let name = *self.0.lock().unwrap();
        candidates.iter().position(|shop| shop.id().as_str() == name).unwrap_or_default()
    }
}

impl Processes {
    /// Starts the shops. The gateway names `replicas` replicas of each session to them. Each shop reads the
    /// addresses of all shops from its standard input.
    pub fn start(command: impl Fn(&str) -> Command, replicas: usize) -> Self {
        let mut shops: Vec<_> = NAMES.iter().map(|name| Process::start(command(name))).collect();
        let addresses =
            NAMES.iter().zip(&shops).map(|(name, shop)| format!("{name}={}", shop.addr));
        let addresses = addresses.collect::<Vec<_>>().join(" ");
        let backends = Backends::new();
        for (name, shop) in NAMES.iter().zip(&mut shops) {
            writeln!(shop.child.stdin.as_mut().unwrap(), "{addresses}").unwrap();
            let upstream = Upstream::new(&format!("http://{}", shop.addr)).unwrap();
            backends.insert(name, upstream.connect_timeout(Duration::from_secs(10))).unwrap();
        }
        let new_sessions = NewSessionsTo::default();
        let keys = KeyRing::generate().unwrap();
        let gateway = StickyLayer::new(backends, Cookie::sealed("sticky", keys))
            .strategy(new_sessions.clone())
            .session_headers(true)
            .replicas(replicas)
            .retry_idempotent(true)
            .into_service();
        Self { gateway, new_sessions, shops }
    }

    /// Assigns new sessions to this shop.
    pub fn new_sessions_at(&self, name: &'static str) {
        *self.new_sessions.0.lock().unwrap() = name;
    }

    /// Kills a shop (SIGKILL), and waits until it has ended.
    pub fn kill(&mut self, name: &str) {
        let position = NAMES.iter().position(|known| *known == name).unwrap();
        let child = &mut self.shops[position].child;
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "it had no time to clean up");
    }
}

/// Drop kills the process and waits for it.
struct Process {
    child: Child,
    addr: SocketAddr,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, addr: line.trim().parse().expect("it prints its address") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
