//! Nodes that are each other's peers: whichever living one is asked, the session's own node answers, or
//! else another one does.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use rustix::process::Signal;
use tokio::{
    sync::Mutex,
    task::{JoinSet, block_in_place},
    time::{Instant, sleep, sleep_until},
};
use tower_sticky_heavy_tests::{
    backend_process::{Log, Port, Process, Program},
    client::Client,
};

use crate::{
    alone,
    check::{CONNECTIONS, Findings},
    exchange::{Exchange, Visitor},
    kind::Kind,
    length,
    random::Random,
    storm::CALM,
    timeline::{NAMES, Spell, Timeline, What},
};

const NODES: usize = 3;
const CLIENTS: usize = 12;

struct Mesh {
    nodes: Vec<Mutex<Process>>,
    places: Vec<SocketAddr>,
    timeline: Timeline,
    log: Log,
    over: AtomicBool,
}

impl Mesh {
    async fn start() -> Arc<Self> {
        let ports: Vec<_> = (0..NODES).map(|_| Port::reserve()).collect();
        let places: Vec<_> = ports.iter().map(|port| port.addr).collect();
        let peers = NAMES.iter().zip(&places);
        let peers = peers.map(|(name, addr)| format!("{name}=http://{addr}")).collect();
        let program = Program::named("heavy-node", peers);
        let (log, mut nodes) = (Log::default(), Vec::new());
        for (name, port) in NAMES.into_iter().zip(ports) {
            let mut node = Process::new(name, port, program.clone(), &log);
            node.restart().await;
            nodes.push(Mutex::new(node));
        }
        Arc::new(Self { nodes, places, timeline: Timeline::default(), log, over: false.into() })
    }

    async fn restart(&self, node: usize, what: What, lasts: Duration) {
        let mut process = self.nodes[node].lock().await;
        let spell = self.timeline.begin(node, what);
        if what == What::Kill {
            block_in_place(|| process.kill());
        } else {
            process.signal(Signal::TERM);
            process.ended().await;
        }
        sleep(lasts).await;
        process.restart().await;
        self.timeline.end(spell);
    }

    /// Restarts one node after the other; two may be down at the same time.
    async fn rage(self: &Arc<Self>, random: &mut Random) {
        let (begun, mut tasks) = (Instant::now(), JoinSet::new());
        let mut at = Duration::from_millis(200);
        while at + Duration::from_millis(500) < length() {
            sleep_until(begun + at).await;
            let node = random.among(0..NODES as u64) as usize;
            let (what, lasts) = (random.one_of(&[What::Kill, What::Term]), random.millis(20..250));
            let mesh = self.clone();
            tasks.spawn(async move { mesh.restart(node, what, lasts).await });
            at += random.millis(100..300);
        }
        tasks.join_all().await;
    }

    /// Sends requests to nodes that are not known to be down, one after the other.
    async fn visit(self: Arc<Self>, mut visitor: Visitor) -> Vec<Exchange> {
        let mut clients: Vec<_> = self.places.iter().map(|place| Client::new(*place)).collect();
        let mut life = Vec::new();
        while !self.over.load(Relaxed) {
            let node = visitor.random.among(0..NODES as u64) as usize;
            if self.timeline.is_well_now(node) {
                life.push(visitor.ask(&mut clients[node], node).await);
            }
            sleep(visitor.random.millis(0..8)).await;
        }
        life
    }
}

/// The invariants of every request.
fn check(spells: &[Spell], life: &[Exchange], quiet: Instant, findings: &mut Findings) {
    let mut home: Option<&Exchange> = None;
    for exchange in life {
        let met = |node, after| {
            let meets = |spell: &Spell| spell.meets(exchange.sent, exchange.ended, after);
            spells.iter().any(|spell| spell.backend == node && meets(spell))
        };
        let broke = (0..NODES).any(|node| met(node, Duration::ZERO));
        match &exchange.answer {
            Err(_) if !met(exchange.asked, CONNECTIONS) => {
                findings.add("A living node has broken a connection off.", exchange);
            }
            Ok((_, None)) if met(exchange.asked, Duration::ZERO) => {}
            // A request that cannot be retried may fail with its node.
            Ok((status, None)) if *status == 502 && !exchange.may_be_repeated() && broke => {}
            Ok((_, None)) => {
                findings.add("A request failed although the node that was asked lives.", exchange);
            }
            _ => {}
        }
        if exchange.sent >= quiet && exchange.server().is_none() {
            findings.add("A request failed after the faults.", exchange);
        }
        if exchange.server().is_none() {
            continue;
        }
        if let Some(last) = home
            && last.server() != exchange.server()
        {
            let needed = spells.iter().any(|spell| {
                Some(spell.backend) == last.server()
                    && spell.meets(last.sent, exchange.ended, spell.aftermath)
            });
            if !needed || exchange.sent >= quiet {
                findings.add("A session moved without need.", &[last, exchange]);
            }
        }
        home = Some(exchange);
    }
}

async fn run(mut random: Random) {
    let mesh = Mesh::start().await;
    let mut visits = JoinSet::new();
    for _ in 0..CLIENTS {
        visits.spawn(mesh.clone().visit(Visitor::new(Kind::Sealed, random.fork())));
    }
    mesh.rage(&mut random).await;
    sleep(CALM).await;
    let quiet = Instant::now();
    sleep(CALM / 2).await;
    mesh.over.store(true, Relaxed);
    let (lives, spells) = (visits.join_all().await, mesh.timeline.spells());
    let mut findings = Findings::default();
    for life in &lives {
        check(&spells, life, quiet, &mut findings);
    }
    let often = mesh.log.more_than(1);
    for exchange in lives.iter().flatten().filter(|exchange| !exchange.may_be_repeated()) {
        if let Some(by) = often.get(&exchange.number) {
            findings.add("A request was executed too often.", &(by, exchange));
        }
    }
    println!("{} restarts, {} requests", spells.len(), lives.iter().map(Vec::len).sum::<usize>());
    findings.assert_none();
}

#[test]
fn mesh() {
    alone("mesh", run);
}
