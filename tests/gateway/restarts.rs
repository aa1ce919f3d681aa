//! Backends that are restarted one after the other under load: no request fails that could be served, and
//! no session moves without need.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{Method, StatusCode};
use serde_json::Value;
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::{
    client::get,
    crowd::{self, Exchange},
    example::binary,
    process::{FOREVER, Gateway},
    server::{Ending, Log, Outage, Pace, Server, restart_in_turn},
};

const CLIENTS: usize = 16;
const PACE: Pace = Pace {
    length: Duration::from_secs(6),
    interval: Duration::from_millis(700),
    down: Duration::from_millis(100),
};
/// The gateway may notice the end of a process a little later than this test.
const MARGIN: Duration = Duration::from_millis(100);

/// The record of all requests and outages.
struct Record {
    sessions: Vec<Vec<Exchange>>,
    outages: Vec<Outage>,
    log: Log,
}

async fn run(failover: &str, ending: Ending, methods: &[Method]) -> Record {
    let log = Log::default();
    let program = binary("backend");
    let mut servers = ["a", "b", "c"].map(|name| Server::start(program.clone(), name, &log));
    let mut file = format!(
        "admin = \"127.0.0.1:0\"\n{failover}\n\
         [[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\n"
    );
    for server in &servers {
        let (id, addr) = (server.name, server.addr);
        file += &format!("[[backend]]\nid = \"{id}\"\nurl = \"http://{addr}\"\n");
    }
    let mut gateway = Gateway::on_one_worker(&file).await;
    let admin = gateway.admin_addr().await;

    let over = Arc::new(AtomicBool::new(false));
    let end = over.clone();
    let restarts = spawn_blocking(move || {
        let outages = restart_in_turn(&mut servers, ending, PACE);
        end.store(true, Relaxed);
        (outages, servers)
    });
    let sessions = crowd::ask(gateway.addr, CLIENTS, methods, over).await;
    let (outages, _servers) = restarts.await.unwrap();
    assert_eq!(outages.len(), 7);
    let stats = get(admin, "/stats").await.json();
    assert_eq!(stats["violations"], 0, "{stats}");
    timeout(FOREVER, idle(admin)).await.expect("nothing is in flight and nothing waits in the end");
    Record { sessions, outages, log }
}

/// Waits until no request is in flight.
async fn idle(admin: SocketAddr) {
    let rests = |backend: &Value| backend["in_flight"] == 0 && backend["waiting"] == 0;
    while !get(admin, "/backends").await.json().as_array().unwrap().iter().all(rests) {
        sleep(Duration::from_millis(5)).await;
    }
}

impl Record {
    /// The outage that made a session leave `server` after its request `last` there.
    fn reason(&self, server: &str, last: &Exchange, next: &Exchange) -> Option<usize> {
        self.outages.iter().position(|outage| {
            outage.server == server && last.sent <= outage.gone && outage.begun <= next.ended
        })
    }

    /// All requests that failed.
    fn failures(&self) -> Vec<&Exchange> {
        self.sessions.iter().flatten().filter(|exchange| !exchange.is_answered()).collect()
    }

    /// How often sessions have moved: at most once per outage of their backend, and never without one.
    fn moves(&self) -> usize {
        let mut moves = 0;
        for (session, exchanges) in self.sessions.iter().enumerate() {
            let mut reasons = BTreeSet::new();
            let answered: Vec<_> = exchanges.iter().filter(|one| one.is_answered()).collect();
            for pair in answered.windows(2) {
                let [last, next] = [pair[0], pair[1]];
                let own = last.server.as_deref().unwrap_or_default();
                if next.server.as_deref() == Some(own) {
                    continue;
                }
                let reason = self.reason(own, last, next);
                let reason = reason
                    .unwrap_or_else(|| panic!("session {session} had no need to leave {own}"));
                assert!(reasons.insert(reason), "session {session} left {own} twice in one outage");
                moves += 1;
            }
        }
        moves
    }

    /// A request that cannot be repeated fails only with its backend.
    fn check_posts(&self, ending: Ending) {
        for exchanges in &self.sessions {
            let mut own = "";
            for exchange in exchanges {
                let times = self.log.times(exchange.number);
                if exchange.is_answered() {
                    own = exchange.server.as_deref().unwrap_or_default();
                    assert_eq!(times, 1, "a POST with a response was executed once: {exchange:?}");
                    continue;
                }
                assert_eq!(
                    exchange.status,
                    Some(StatusCode::BAD_GATEWAY),
                    "a POST is not refused while a backend is ready: {exchange:?}"
                );
                let with_it = |outage: &&Outage| {
                    outage.server == own
                        && exchange.sent <= outage.gone + MARGIN
                        && exchange.ended >= outage.begun
                };
                let met = self.outages.iter().find(with_it);
                assert!(met.is_some(), "{own} did not end during this POST: {exchange:?}");
                let most = if ending == Ending::Term { 0 } else { 1 };
                assert!(times <= most, "{own} executed it and did not finish: {exchange:?}");
            }
        }
    }
}

async fn no_get_fails(ending: Ending) {
    let record = run("", ending, &[Method::GET]).await;
    let failures = record.failures();
    let all: usize = record.sessions.iter().map(Vec::len).sum();
    assert!(failures.is_empty(), "{} of {all} failed: {:?} …", failures.len(), failures[0]);
    println!("{ending:?}: {all} requests, {} moves", record.moves());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_get_fails_when_backends_are_killed() {
    no_get_fails(Ending::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_get_fails_when_backends_stop_gracefully() {
    no_get_fails(Ending::Term).await;
}

async fn a_post_fails_only_with_its_backend(ending: Ending) {
    let record = run("", ending, &[Method::POST]).await;
    let (all, failed): (usize, _) =
        (record.sessions.iter().map(Vec::len).sum(), record.failures().len());
    println!("{ending:?}: {failed} of {all} requests failed");
    record.check_posts(ending);
    println!("{ending:?}: {} moves", record.moves());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_fails_only_if_its_backend_is_killed() {
    a_post_fails_only_with_its_backend(Ending::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_fails_only_if_its_backend_stops_before_it_starts() {
    a_post_fails_only_with_its_backend(Ending::Term).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_home_wait_sessions_stay_over_a_restart() {
    for ending in [Ending::Kill, Ending::Term] {
        // Longer than a restart takes, also on a slow machine.
        let record = run("[failover]\nhome_wait = \"10s\"", ending, &[Method::GET]).await;
        let failures = record.failures();
        assert!(failures.is_empty(), "{} failed: {:?} …", failures.len(), failures[0]);
        assert_eq!(record.moves(), 0, "every backend returns within home_wait");
    }
}
