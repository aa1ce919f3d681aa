//! Some backends in a pool, and a gateway in front of them.

use std::time::Duration;

use tower_sticky::{
    Backends, Health, KeyRing, StickyLayer, affinity::Cookie, proxy::Upstream, strategy::RoundRobin,
};
use tower_sticky_heavy_tests::{
    FOREVER,
    backend_process::{Log, Process},
    gateway::Gateway,
    until,
};

use crate::session::Session;

pub struct Setup {
    pub backends: Backends<Upstream>,
    pub processes: Vec<Process>,
    pub gateway: Gateway,
    pub log: Log,
    /// Whether a GET may be retried on a second backend.
    repeats: bool,
}

/// A layer with round robin that retries a GET on a second backend, and never tries a suspect again,
/// however slow the test is.
pub fn layer(backends: &Backends<Upstream>) -> StickyLayer<Upstream> {
    StickyLayer::new(backends.clone(), Cookie::sealed("sid", KeyRing::generate().unwrap()))
        .strategy(RoundRobin::new())
        .health(Health::new().ejection(10 * FOREVER))
        .retry_idempotent(true)
        .outcome_extensions(true)
}

/// A layer that soon tries a suspect again.
pub fn hopeful(layer: StickyLayer<Upstream>) -> StickyLayer<Upstream> {
    layer.health(Health::new().ejection(Duration::from_millis(500)))
}

impl Setup {
    pub async fn new(names: &[&'static str]) -> Self {
        Self::with(names, |layer| layer).await
    }

    pub async fn with(
        names: &[&'static str],
        options: impl FnOnce(StickyLayer<Upstream>) -> StickyLayer<Upstream>,
    ) -> Self {
        let log = Log::default();
        let mut processes = Vec::new();
        for name in names {
            processes.push(Process::start(name, &log).await);
        }
        let backends = Backends::from_iter(processes.iter().map(|p| (p.name, p.upstream())));
        let service = options(layer(&backends)).into_service();
        let gateway = Gateway::start(service).await;
        Self { backends, processes, gateway, log, repeats: true }
    }

    /// Retries no request.
    pub fn without_repeats(mut self) -> Self {
        self.repeats = false;
        self
    }

    pub fn session(&self) -> Session {
        Session::new(self.gateway.addr)
    }

    /// Begins the first session of each backend, in their order.
    pub async fn one_session_each(&self) -> Vec<Session> {
        let mut sessions = Vec::new();
        for process in &self.processes {
            let mut session = self.session();
            let answer = session.get("/").await;
            assert_eq!(answer.why(), ("assigned", process.name, ""));
            sessions.push(session);
        }
        sessions
    }

    /// Exchanges some requests, so that the gateway has noticed all events of its sockets.
    pub async fn settle(&self, alive: &mut Session) {
        for _ in 0..2 {
            assert_eq!(alive.get("/").await.status, 200);
        }
    }

    /// Waits until nothing is in flight.
    pub async fn idle(&self) {
        let idle =
            || self.backends.iter().all(|b| (b.in_flight, b.waiting, b.streams) == (0, 0, 0));
        until("nothing is in flight, waits or streams", idle).await;
    }

    /// Checks the invariants of every row. The rest is checked when this is dropped.
    pub async fn end(self) {
        self.idle().await;
        assert_eq!(self.backends.snapshot().stats.violations(), 0, "there is no violation");
        // The processes end first, so that the log is complete.
        drop(self.processes);
        let times = if self.repeats { 2 } else { 1 };
        let too_often = self.log.more_than(times);
        assert!(too_often.is_empty(), "some requests were executed too often: {too_often:?}");
        let twice = self.log.more_than(1);
        let wrong = twice.iter().filter(|(number, _)| *number % 2 == 0).collect::<Vec<_>>();
        assert!(wrong.is_empty(), "some were repeated that must not be: {wrong:?}");
    }
}
