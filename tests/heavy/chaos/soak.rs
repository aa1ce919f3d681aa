//! One gateway under faults for as many requests as wanted, and what it holds meanwhile.
//!
//! `SOAK_REQUESTS` is the number of requests, 5,000 by default. A line is printed every `SOAK_EVERY`
//! seconds, 10 by default:
//!
//! ```text
//! SOAK_REQUESTS=100000000 cargo test --release --workspace --all-features --test chaos soak -- --nocapture
//! ```

use std::{
    env, fmt, fs,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::Full;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tower_sticky_heavy_tests::{
    FOREVER,
    client::{Client, cookie},
};

use crate::{
    admin::Admin,
    alone,
    fleet::Fleet,
    kind::Kind,
    plan::{FAULTS, plan},
    random::Random,
    storm::{CALM, rage},
};

const CLIENTS: usize = 24;
/// The default name of the cookie.
const COOKIE: &str = "SERVER_ID";
/// Requests of one session.
const SESSION: u64 = 500;
/// One of so many requests is broken off by its client.
const ABORTED: u64 = 1_000;
/// The length of one plan of faults.
const PLAN: Duration = Duration::from_secs(4);
/// Memory may still grow for so long, while tables and pools fill up.
const WARM_UP: Duration = Duration::from_secs(60);
/// How much more memory the gateway may have after it has warmed up.
const GROWTH: f64 = 1.25;

fn number(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |text| text.parse().expect("a number"))
}

/// What the clients have seen.
#[derive(Debug, Default)]
struct Seen {
    requests: AtomicU64,
    /// Answers of another backend than the one before.
    moves: AtomicU64,
    /// Answers of the gateway itself: 502 and 503.
    failed: AtomicU64,
    /// Answers of the gateway itself with another status.
    senseless: AtomicU64,
    /// Connections that the gateway broke.
    broken: AtomicU64,
}

/// A client that begins a session now and then.
async fn visit(gateway: SocketAddr, seen: Arc<Seen>, mut random: Random, wanted: u64) {
    let mut client = Client::new(gateway);
    let (mut token, mut home) = (None::<String>, String::new());
    while seen.requests.fetch_add(1, Relaxed) < wanted {
        if random.among(0..SESSION) == 0 {
            (token, home) = (None, String::new());
        }
        let method = if random.among(0..4) == 0 { Method::POST } else { Method::GET };
        let mut request = Request::builder().method(method).uri("/files/");
        if let Some(token) = &token {
            request = request.header(header::COOKIE, format!("{COOKIE}={token}"));
        }
        let request = request.body(Full::new(Bytes::new())).unwrap();
        if random.among(0..ABORTED) == 0 {
            let _ = timeout(random.millis(0..3), client.send(request)).await;
            client = Client::new(gateway);
            continue;
        }
        let Ok(answer) = timeout(FOREVER, client.send(request)).await else {
            panic!("no answer comes: {client}");
        };
        let Ok(answer) = answer else {
            seen.broken.fetch_add(1, Relaxed);
            continue;
        };
        token = cookie(&answer, COOKIE).or(token);
        let server = answer.headers().get("x-server").and_then(|server| server.to_str().ok());
        match (server, answer.status().as_u16()) {
            (Some(server), _) => {
                seen.moves.fetch_add(u64::from(!home.is_empty() && home != server), Relaxed);
                server.clone_into(&mut home);
            }
            (None, 502 | 503) => drop(seen.failed.fetch_add(1, Relaxed)),
            (None, _) => drop(seen.senseless.fetch_add(1, Relaxed)),
        }
    }
}

/// What the gateway holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    /// Resident memory in KiB.
    memory: u64,
    descriptors: usize,
    tasks: u64,
}

impl Held {
    async fn now(gateway: u32, admin: Admin) -> Self {
        let status = fs::read_to_string(format!("/proc/{gateway}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        Self {
            memory: line.split_whitespace().next().unwrap().parse().unwrap(),
            descriptors: fs::read_dir(format!("/proc/{gateway}/fd")).unwrap().count(),
            tasks: admin.metric("sticky_gateway_tasks").await,
        }
    }
}

impl fmt::Display for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { memory, descriptors, tasks } = self;
        write!(f, "{memory:>8} KiB {descriptors:>6} descriptors {tasks:>6} tasks")
    }
}

/// Prints a line now and then, until all requests were sent. Returns what the gateway held.
async fn observe(gateway: u32, admin: Admin, seen: &Seen, wanted: u64) -> Vec<(Duration, Held)> {
    let every = Duration::from_secs(number("SOAK_EVERY", 10));
    let (began, mut lines, mut before) = (Instant::now(), Vec::new(), 0);
    while seen.requests.load(Relaxed) < wanted {
        let next = Instant::now() + every;
        while seen.requests.load(Relaxed) < wanted && Instant::now() < next {
            sleep(Duration::from_millis(50)).await;
        }
        let (held, after) = (Held::now(gateway, admin).await, began.elapsed());
        let requests = seen.requests.load(Relaxed).min(wanted);
        let rate = (requests - before) / every.as_secs().max(1);
        println!(
            "{:>6} s {requests:>11} requests {rate:>7} a second {held} {:>7} moves {:>6} failed {:>3} violations",
            after.as_secs(),
            seen.moves.load(Relaxed),
            seen.failed.load(Relaxed),
            admin.violations().await,
        );
        before = requests;
        lines.push((after, held));
    }
    lines
}

/// Memory is flat once the gateway has warmed up. In a short run nothing can be said about it.
fn check_memory(lines: &[(Duration, Held)]) {
    let warm = lines.iter().filter(|(after, _)| *after <= WARM_UP).map(|(_, held)| held.memory);
    let (Some(warm), Some((after, last))) = (warm.max(), lines.last()) else { return };
    if *after >= 2 * WARM_UP {
        let most = (warm as f64 * GROWTH) as u64;
        assert!(last.memory <= most, "{} KiB, after {warm} KiB in the first minute", last.memory);
    }
}

/// A second after the faults every backend is ready, and requests are answered as if nothing had happened.
async fn check_calm(fleet: &Fleet) {
    let (mut client, calm) = (Client::new(fleet.addr), Instant::now() + CALM);
    let get = || Request::get("/files/").body(Full::default()).unwrap();
    // Broken connections are evidence until a request is answered.
    while Instant::now() < calm {
        let _ = client.send(get()).await;
        sleep(Duration::from_millis(2)).await;
    }
    for backend in fleet.admin.backends().await {
        let now = (&backend["state"], &backend["mode"]);
        assert_eq!(now, (&Value::from("ready"), &Value::from("active")), "{backend}");
    }
    for _ in 0..100 {
        assert_eq!(client.send(get()).await.unwrap().status(), 200);
    }
}

async fn run(mut random: Random) {
    let wanted = number("SOAK_REQUESTS", 5_000);
    let fleet = Fleet::start(&Kind::Sealed).await;
    let (gateway, admin) = (fleet.gateway_id().await, fleet.admin);
    let first = Held::now(gateway, admin).await;
    println!("before the first request: {first}");
    let (seen, mut clients) = (Arc::new(Seen::default()), JoinSet::new());
    for _ in 0..CLIENTS {
        clients.spawn(visit(fleet.addr, seen.clone(), random.fork(), wanted));
    }
    let faults = async {
        while seen.requests.load(Relaxed) < wanted {
            rage(&fleet, plan(&mut random, PLAN, &FAULTS, false)).await;
        }
    };
    let (lines, ()) = tokio::join!(observe(gateway, admin, &seen, wanted), faults);
    clients.join_all().await;
    check_calm(&fleet).await;
    assert_eq!(seen.broken.load(Relaxed), 0, "no connection breaks");
    assert_eq!(seen.senseless.load(Relaxed), 0, "the gateway's own answers are 502 and 503");
    assert_eq!(admin.violations().await, 0);
    check_memory(&lines);
    // What is left are connections to the backends, mostly one for each client. Those beyond are closed after one and
    // a half times their idle timeout of a minute.
    let settled = Instant::now() + 2 * FOREVER;
    loop {
        let held = Held::now(gateway, admin).await;
        let spare = held.descriptors.saturating_sub(first.descriptors);
        if spare <= CLIENTS && held.tasks <= first.tasks + CLIENTS as u64 {
            println!("after the last request: {held}");
            break;
        }
        assert!(Instant::now() < settled, "something is left: {held}");
        sleep(Duration::from_millis(50)).await;
    }
}

#[test]
fn soak() {
    alone("soak", run);
}
