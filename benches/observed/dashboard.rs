//! The dashboard and the metrics of a gateway with 2,000 backends, and what its requests feel of them.

use std::{
    env,
    fmt::Write,
    net::SocketAddr,
    path::PathBuf,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{
    runtime::Builder,
    task::JoinHandle,
    time::{Instant, interval, sleep},
};

use crate::{
    Failure,
    http::{Connection, backend},
    proxy_process::{self, Proxy, free_addrs},
    release,
};

const BACKENDS: usize = 2_000;
/// How often each page is asked for while nothing else happens.
const TIMES: usize = 20;
/// Clients that send their next request as soon as the last one is answered.
const CLIENTS: usize = 16;
/// How often the load is measured without and with somebody who looks on, and how long each time.
const ROUNDS: usize = 7;
const LASTS: Duration = Duration::from_secs(4);
/// As the script of the page asks.
const PAGE_EVERY: Duration = Duration::from_secs(2);
/// Prometheus asks every 15 s or so.
const SCRAPE_EVERY: Duration = Duration::from_secs(1);

const PATHS: [&str; 8] = [
    "/",
    "/?fragment=1",
    "/?page=39",
    "/?q=b19",
    "/view/moves",
    "/view/backends/b7",
    "/backends",
    "/metrics",
];

pub fn run() -> Result<(), Failure> {
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure())
}

async fn measure() -> Result<(), Failure> {
    let program = match env::var_os("GATEWAY") {
        Some(program) => PathBuf::from(program),
        None => release::build(&["gateway"], &["full"])?.join("gateway"),
    };
    let ([addr, admin], backend) = (free_addrs()?, backend().await?);
    let mut command = proxy_process::gateway(&program);
    command.stderr(Stdio::null());
    let gateway = Proxy::run(command, addr, &file(addr, admin, backend)).await?;
    for path in PATHS {
        let mut connection = Connection::open(admin).await?;
        let (mut times, mut bytes) = (Vec::new(), 0);
        for _ in 0..TIMES {
            let began = Instant::now();
            bytes = connection.ask("GET", path, "").await?.len();
            times.push(began.elapsed());
        }
        println!("dashboard: {path} has {bytes} bytes: {}", percentiles(&mut times));
    }
    let (mut quiet, mut watched, mut looks) = (Vec::new(), Vec::new(), Looks::default());
    load(gateway.addr).await?;
    for _ in 0..ROUNDS {
        quiet.push(Figures::of(load(gateway.addr).await?));
        let watcher = Watcher::start(admin);
        watched.push(Figures::of(load(gateway.addr).await?));
        looks.add(watcher.stop().await?);
    }
    println!("dashboard: requests while nobody looks: {}", Figures::median(&mut quiet));
    println!("dashboard: requests while somebody does: {}", Figures::median(&mut watched));
    println!("dashboard: meanwhile the page {}", percentiles(&mut looks.page));
    println!("dashboard: meanwhile the metrics {}", percentiles(&mut looks.metrics));
    Ok(())
}

fn file(addr: SocketAddr, admin: SocketAddr, backend: SocketAddr) -> String {
    let mut file = format!(
        "listen = \"{addr}\"\nadmin = \"{admin}\"\n\
         [[affinity]]\ntype = \"cookie\"\nname = \"SRV\"\nformat = \"plain\"\n"
    );
    for number in 0..BACKENDS {
        // Writing to a string cannot fail.
        let _ = writeln!(file, "[[backend]]\nid = \"b{number}\"\nurl = \"http://{backend}\"");
    }
    file
}

/// The times of the requests of all clients.
async fn load(addr: SocketAddr) -> Result<Vec<Duration>, Failure> {
    let clients: Vec<JoinHandle<Result<Vec<Duration>, Failure>>> = (0..CLIENTS)
        .map(|_| {
            tokio::spawn(async move {
                let mut connection = Connection::open(addr).await?;
                let (start, mut times) = (Instant::now(), Vec::new());
                while start.elapsed() < LASTS {
                    let began = Instant::now();
                    connection.ask("GET", "/", "").await?;
                    times.push(began.elapsed());
                }
                Ok(times)
            })
        })
        .collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await??);
    }
    Ok(all)
}

/// How long the page and the metrics took.
#[derive(Default)]
struct Looks {
    page: Vec<Duration>,
    metrics: Vec<Duration>,
}

impl Looks {
    fn add(&mut self, more: Self) {
        self.page.extend(more.page);
        self.metrics.extend(more.metrics);
    }
}

/// A browser with the dashboard, and a scraper.
struct Watcher {
    over: Arc<AtomicBool>,
    page: JoinHandle<Result<Vec<Duration>, Failure>>,
    metrics: JoinHandle<Result<Vec<Duration>, Failure>>,
}

impl Watcher {
    fn start(admin: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let page = tokio::spawn(look(admin, "/?fragment=1", PAGE_EVERY, over.clone()));
        let metrics = tokio::spawn(look(admin, "/metrics", SCRAPE_EVERY, over.clone()));
        Self { over, page, metrics }
    }

    async fn stop(self) -> Result<Looks, Failure> {
        self.over.store(true, Relaxed);
        Ok(Looks { page: self.page.await??, metrics: self.metrics.await?? })
    }
}

async fn look(
    admin: SocketAddr,
    path: &str,
    every: Duration,
    over: Arc<AtomicBool>,
) -> Result<Vec<Duration>, Failure> {
    let (mut connection, mut times) = (Connection::open(admin).await?, Vec::new());
    let mut ticks = interval(every);
    while !over.load(Relaxed) {
        tokio::select! {
            _ = ticks.tick() => {
                let began = Instant::now();
                connection.ask("GET", path, "").await?;
                times.push(began.elapsed());
            }
            () = sleep(Duration::from_millis(50)) => {}
        }
    }
    Ok(times)
}

/// Of one round.
struct Figures {
    p50: Duration,
    p99: Duration,
    per_second: f64,
}

impl Figures {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
        let per_second = times.len() as f64 / LASTS.as_secs_f64();
        Self { p50: at(50), p99: at(99), per_second }
    }

    /// The medians of all rounds.
    fn median(rounds: &mut [Self]) -> String {
        let middle = rounds.len() / 2;
        let mut of = |value: fn(&Self) -> f64| {
            rounds.sort_unstable_by(|a, b| value(a).total_cmp(&value(b)));
            rounds.get(middle).map_or(0.0, value)
        };
        format!(
            "p50 {:.3} ms, p99 {:.3} ms, {:.0} a second",
            of(|round| millis(round.p50)),
            of(|round| millis(round.p99)),
            of(|round| round.per_second),
        )
    }
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
    let longest = times.last().copied().unwrap_or_default();
    format!("takes {:.1} ms at the median, {:.1} ms at most", millis(at(50)), millis(longest))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
