//! Shops that are processes, behind a gateway in this one.

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

/// Shops `a`, `b` and `c`, each a process of its own.
pub struct Processes {
    pub gateway: StickyService<Upstream, NoInner>,
    newcomers: Newcomers,
    shops: Vec<Process>,
}

/// Where new sessions go. With weights that could not be said: a shop without one is no replica.
#[derive(Debug, Clone, Default)]
struct Newcomers(Arc<Mutex<&'static str>>);

impl Strategy for Newcomers {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let wanted = *self.0.lock().unwrap();
        candidates.iter().position(|shop| shop.id().as_str() == wanted).unwrap_or_default()
    }
}

impl Processes {
    /// Shops that are started like this; the gateway tells them so many replicas of each session. On its
    /// standard input each shop hears where all of them are.
    pub fn start(command: impl Fn(&str) -> Command, replicas: usize) -> Self {
        let mut shops: Vec<_> = NAMES.iter().map(|name| Process::start(command(name))).collect();
        let places = NAMES.iter().zip(&shops).map(|(name, shop)| format!("{name}={}", shop.addr));
        let places = places.collect::<Vec<_>>().join(" ");
        let backends = Backends::new();
        for (name, shop) in NAMES.iter().zip(&mut shops) {
            writeln!(shop.child.stdin.as_mut().unwrap(), "{places}").unwrap();
            let upstream = Upstream::new(&format!("http://{}", shop.addr)).unwrap();
            backends.insert(name, upstream.connect_timeout(Duration::from_secs(10))).unwrap();
        }
        let newcomers = Newcomers::default();
        let keys = KeyRing::generate().unwrap();
        let gateway = StickyLayer::new(backends, Cookie::sealed("sticky", keys))
            .strategy(newcomers.clone())
            .session_headers(true)
            .replicas(replicas)
            .retry_idempotent(true)
            .into_service();
        Self { gateway, newcomers, shops }
    }

    /// New sessions go to this shop.
    pub fn new_sessions_at(&self, name: &'static str) {
        *self.newcomers.0.lock().unwrap() = name;
    }

    /// `kill -9` of one. When this returns it is dead.
    pub fn kill(&mut self, name: &str) {
        let position = NAMES.iter().position(|known| *known == name).unwrap();
        let child = &mut self.shops[position].child;
        child.kill().unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9), "nobody had the time to tidy up");
    }
}

/// It is killed and reaped when this is dropped.
struct Process {
    child: Child,
    addr: SocketAddr,
}

impl Process {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, addr: line.trim().parse().expect("it says where it listens") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
