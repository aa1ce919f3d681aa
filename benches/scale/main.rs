//! A gateway with many backends: its start, a reload that changes one of them, and single changes by the admin
//! interface; and the same reload of HAProxy, if that is installed.
//!
//! ```text
//! cargo run --release -p tower-sticky-benches --bin scale
//! ```
//!
//! The bars: 10,000 backends start within 300 ms and 100,000 within 4 s; a reload of 10,000 with one changed takes at
//! most 100 ms, and no request meanwhile takes twice the 99th percentile without reloads; one PUT, PATCH or DELETE
//! takes at most 1 ms. Requests are sent one after the other by one client. It takes half a minute.

#![allow(missing_docs)]

mod http;
#[path = "../proxy_process.rs"]
mod proxy_process;
#[path = "../release.rs"]
mod release;

use std::{
    env,
    error::Error,
    fmt::Write,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    http::{Connection, backend},
    proxy_process::{Proxy, free_addrs, haproxy, haproxy_version},
};

type Failure = Box<dyn Error + Send + Sync>;

/// How long requests are sent without changes.
const QUIET: Duration = Duration::from_secs(2);
const RELOADS: usize = 20;
const CHANGES: usize = 50;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let program = match env::var_os("GATEWAY") {
        Some(program) => PathBuf::from(program),
        None => release::build(&["gateway"], &[])?.join("gateway"),
    };
    let backend = backend().await?;
    for count in [10_000, 100_000] {
        measure(&program, backend, count).await?;
    }
    match haproxy_version() {
        Some(version) => beside(&version, backend).await?,
        None => println!("haproxy is not installed"),
    }
    Ok(())
}

async fn measure(program: &Path, backend: SocketAddr, count: usize) -> Result<(), Failure> {
    let [addr, admin] = free_addrs()?;
    let file = |weight| gateway_file(addr, admin, backend, count, weight);
    let began = Instant::now();
    let mut command = proxy_process::gateway(program);
    command.stderr(Stdio::null());
    let gateway = Proxy::run(command, addr, &file(1)).await?;
    println!("{count} backends: start {:.0} ms", millis(began.elapsed()));
    let mut control = Connection::open(admin).await?;
    let load = Load::start(gateway.addr);
    sleep(QUIET).await;
    let quiet = load.stop().await?;
    let load = Load::start(gateway.addr);
    let mut reloads = Vec::new();
    for round in 0..RELOADS {
        gateway.rewrite(&file(2 + round % 2))?;
        let began = Instant::now();
        let answer = control.ask("POST", "/reload", "").await?;
        reloads.push(began.elapsed());
        if !answer.contains("backend.b0.weight") {
            return Err(format!("the reload has failed: {answer}").into());
        }
        sleep(Duration::from_millis(50)).await;
    }
    let during = load.stop().await?;
    println!("  reload of one changed backend: {}", percentiles(&mut reloads));
    println!("  requests without changes: {}", percentiles(&mut quiet.clone()));
    println!("  requests meanwhile:       {}", percentiles(&mut during.clone()));
    for (name, method, body) in [
        ("PUT", "PUT", r#"{"url":"http://127.0.0.1:9"}"#),
        ("PATCH", "PATCH", r#"{"weight":3}"#),
        ("DELETE", "DELETE", ""),
    ] {
        let mut times = Vec::new();
        for number in 0..CHANGES {
            let began = Instant::now();
            control.ask(method, &format!("/backends/new{number}"), body).await?;
            times.push(began.elapsed());
        }
        println!("  one {name}: {}", percentiles(&mut times));
    }
    Ok(())
}

/// The reload of HAProxy with 10,000 servers in its master-worker mode, until the new worker answers.
async fn beside(version: &str, backend: SocketAddr) -> Result<(), Failure> {
    let [addr] = free_addrs()?;
    let file = |weight| haproxy_file(addr, backend, 10_000, weight);
    let mut command = haproxy();
    command.arg("-c").stdout(Stdio::null()).stderr(Stdio::null());
    let path = env::temp_dir().join(format!("scale-{}.cfg", addr.port()));
    fs::write(&path, file(1))?;
    let began = Instant::now();
    let checked = command.arg(&path).status();
    let check = began.elapsed();
    let began = Instant::now();
    let mut command = haproxy();
    command.stderr(Stdio::null());
    let started = Proxy::run(command, addr, &file(1)).await.map(drop);
    let start = began.elapsed();
    fs::remove_file(&path)?;
    checked?;
    started?;
    // A reload of HAProxy is the start of another process beside the one that serves.
    println!(
        "{version}, 10,000 servers: start {:.0} ms, which a reload is too (check of the file {:.0} ms)",
        millis(start),
        millis(check)
    );
    Ok(())
}

fn gateway_file(
    addr: SocketAddr,
    admin: SocketAddr,
    backend: SocketAddr,
    count: usize,
    weight: usize,
) -> String {
    let mut file = format!(
        "listen = \"{addr}\"\nadmin = \"{admin}\"\n\
         [[affinity]]\ntype = \"cookie\"\nname = \"SRV\"\nformat = \"plain\"\n"
    );
    for number in 0..count {
        let weight = if number == 0 { weight } else { 1 };
        let _ = writeln!(
            file,
            "[[backend]]\nid = \"b{number}\"\nurl = \"http://{backend}\"\nweight = {weight}"
        );
    }
    file
}

fn haproxy_file(addr: SocketAddr, backend: SocketAddr, count: usize, weight: usize) -> String {
    let mut file = format!(
        "global\n nbthread 1\n no strict-limits\n maxconn 1000\n\
         defaults\n mode http\n timeout connect 1s\n timeout client 60s\n timeout server 60s\n\
         frontend clients\n bind {addr}\n default_backend servers\n\
         backend servers\n cookie SRV insert indirect nocache\n"
    );
    for number in 0..count {
        let weight = if number == 0 { weight } else { 1 };
        let _ = writeln!(file, " server b{number} {backend} cookie b{number} weight {weight}");
    }
    file
}

/// One client that sends all the time, with a cookie of one backend.
struct Load {
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<Result<Vec<Duration>, Failure>>,
}

impl Load {
    fn start(addr: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let stop = over.clone();
        let task = tokio::spawn(async move {
            let mut connection = Connection::open(addr).await?;
            let mut times = Vec::new();
            while !stop.load(Relaxed) {
                let began = Instant::now();
                connection.ask("GET", "/", "").await?;
                times.push(began.elapsed());
            }
            Ok(times)
        });
        Self { over, task }
    }

    async fn stop(self) -> Result<Vec<Duration>, Failure> {
        self.over.store(true, Relaxed);
        self.task.await?
    }
}

fn percentiles(times: &mut [Duration]) -> String {
    times.sort_unstable();
    let at = |share: f64| {
        let position = ((times.len() as f64 * share) as usize).min(times.len().saturating_sub(1));
        times.get(position).map_or(0.0, |time| millis(*time))
    };
    format!("p50 {:.2} ms, p99 {:.2} ms, max {:.2} ms", at(0.5), at(0.99), at(1.0))
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}
