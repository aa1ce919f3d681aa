//! A thousand reloads under load: nothing fails, nobody moves, and nothing is left behind.

use std::{net::SocketAddr, time::Duration};

use http::{Method, StatusCode};
use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep},
};

use crate::{
    backends::{Held, echo, held},
    client::{Answer, Client, get, send},
    process::{FOREVER, Gateway},
};

const RELOADS: usize = 1_000;
/// Reloads before what the process has is counted.
const WARM_UP: usize = 200;
const CLIENTS: usize = 16;
const IN_FLIGHT: usize = 50;
/// For so many reloads the same requests are in flight.
const TURN: usize = 50;
/// By how many tasks the counts may differ, as connections come and go. Of 800 reloads that leave one, it would be 800.
const TASKS: usize = 50;
/// By how much the resident memory may grow, in KiB. A leak of 40 KiB for each reload would be found.
const GROWTH: u64 = 32 << 10;

/// What differs between the files. Every fifth replaces the server with its threads.
const CONFIGS: [&str; 5] = [
    "",
    "[limits]\nready_timeout = \"2s\"",
    "[strategy]\ntype = \"random\"",
    "[health]\nredial = \"50ms\"\n[failover]\nhome_wait = \"1s\"",
    "server_timing = true",
];

fn clients(addr: SocketAddr, stopped: &watch::Receiver<bool>) -> Vec<JoinHandle<usize>> {
    let client = |_| {
        let stopped = stopped.clone();
        tokio::spawn(async move {
            let mut client = Client::new(addr);
            let home = client.get("/").await.backend();
            let mut served = 0;
            while !*stopped.borrow() {
                let answer = client.get("/").await;
                assert_eq!((answer.status, answer.backend()), (StatusCode::OK, home.clone()));
                served += 1;
            }
            served
        })
    };
    (0..CLIENTS).map(client).collect()
}

/// Requests that have arrived at the backend and wait there.
async fn begin(addr: SocketAddr, slow: &Held) -> Vec<JoinHandle<Answer>> {
    let request = |_| {
        let cookie = [("cookie", "SERVER_ID=slow")];
        tokio::spawn(async move { send(addr, Method::GET, "/", &cookie, "").await })
    };
    let requests = (0..IN_FLIGHT).map(request).collect();
    for _ in 0..IN_FLIGHT {
        slow.arrival().await;
    }
    requests
}

async fn finish(in_flight: Vec<JoinHandle<Answer>>, slow: &Held) {
    for _ in 0..IN_FLIGHT {
        slow.release();
    }
    for request in in_flight {
        let answer = request.await.unwrap();
        assert_eq!((answer.status, answer.backend()), (StatusCode::OK, "slow".to_owned()));
    }
}

/// What a process has.
#[derive(Debug, Default)]
struct Footprint {
    descriptors: usize,
    threads: usize,
    /// In KiB.
    memory: u64,
    tasks: usize,
}

impl Footprint {
    async fn of(gateway: &Gateway, admin: SocketAddr) -> Self {
        let metrics = get(admin, "/metrics").await.text();
        let tasks = metrics.lines().filter(|line| line.starts_with("sticky_gateway_tasks{"));
        let tasks: Vec<usize> =
            tasks.map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
        assert_eq!(tasks.len(), 2, "of the main thread, and of the workers");
        Self {
            descriptors: gateway.descriptors(),
            threads: gateway.threads(),
            memory: gateway.resident(),
            tasks: tasks.iter().sum(),
        }
    }

    /// Whether nothing was left behind since `before`.
    fn is_as(&self, before: &Self) -> bool {
        self.descriptors <= before.descriptors
            && self.threads <= before.threads
            && self.memory <= before.memory + GROWTH
            && self.tasks <= before.tasks + TASKS
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_reloads_lose_and_leave_nothing() {
    let (a, b, slow) = (echo("a").await, echo("b").await, held("slow").await);
    let file = |config: &str| {
        format!(
            "admin = \"127.0.0.1:0\"\n{config}\n[[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\n\
             {}{}{}weight = 0\n",
            a.entry("a"),
            b.entry("b"),
            slow.backend.entry("slow")
        )
    };
    let mut gateway = Gateway::configured(&file("")).await;
    let (addr, admin) = (gateway.addr, gateway.admin_addr().await);
    let mut in_flight = begin(addr, &slow).await;
    let (stop, stopped) = watch::channel(false);
    let clients = clients(addr, &stopped);
    let mut before = Footprint::default();
    for round in 0..RELOADS {
        gateway.rewrite(&file(CONFIGS[round % CONFIGS.len()]));
        let answer = send(admin, Method::POST, "/reload", &[], "").await;
        // The first file is as the one of the start.
        assert_eq!(answer.json()["version"], round + 1, "{answer:?}");
        if round == WARM_UP {
            before = Footprint::of(&gateway, admin).await;
        }
        if round % TURN == TURN - 1 {
            finish(in_flight, &slow).await;
            in_flight = begin(addr, &slow).await;
        }
    }
    stop.send_replace(true);
    for client in clients {
        assert!(client.await.expect("nothing has failed") > 10);
    }
    finish(in_flight, &slow).await;
    let stats = get(admin, "/stats").await.json();
    assert_eq!((&stats["moves"], &stats["violations"]), (&json!(0), &json!(0)));
    let deadline = Instant::now() + FOREVER;
    loop {
        let now = Footprint::of(&gateway, admin).await;
        if now.is_as(&before) {
            return;
        }
        assert!(Instant::now() < deadline, "{now:?} after {before:?}");
        sleep(Duration::from_millis(100)).await;
    }
}
