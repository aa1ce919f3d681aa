//! The cost of restarts of backends under load, behind the gateway and behind HAProxy.
//!
//! ```text
//! cargo run --release -p tower-sticky-benches --bin restarts
//! ```
//!
//! Three backends, each a process, are killed in turn, one every 0.7 s, and are back 0.1 s later. Sixteen
//! clients with cookies send meanwhile: first 250 requests a second each, which every proxy can serve, so that
//! only the restarts matter; then as fast as they receive responses, bound by the CPU. Each proxy has one
//! thread. It takes two minutes.

#![allow(missing_docs)]

#[path = "../../tests/support/crowd.rs"]
mod crowd;
mod figures;
#[path = "../../tests/support/kept_connection.rs"]
mod kept_connection;
mod proxy;
#[path = "../proxy_process.rs"]
mod proxy_process;
#[path = "../release.rs"]
mod release;
#[path = "../../tests/support/server.rs"]
mod server;

use std::{
    error::Error,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Method;
use tokio::{task::spawn_blocking, time::sleep};

use crate::{
    crowd::Exchange,
    figures::{HEAD, Row},
    proxy::Kind,
    proxy_process::Proxy,
    server::{Ending, Log, Pace, Server, restart_in_turn},
};

type Failure = Box<dyn Error + Send + Sync>;

const CLIENTS: usize = 16;
/// Of each client.
const PACED: Duration = Duration::from_millis(4);
const UNDISTURBED: Duration = Duration::from_secs(4);
const PACE: Pace = Pace {
    length: Duration::from_secs(8),
    interval: Duration::from_millis(700),
    down: Duration::from_millis(100),
};

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let programs = release::build(&["gateway", "backend"], &[])?;
    let mut kinds = vec![Kind::Gateway { home_wait: "0s" }, Kind::Gateway { home_wait: "1s" }];
    match proxy_process::haproxy_version() {
        Some(version) => {
            println!("beside {version}");
            kinds.extend([Kind::HaProxy { redispatch: true }, Kind::HaProxy { redispatch: false }]);
        }
        None => println!("haproxy is not installed: only the gateway is measured"),
    }
    for (load, interval) in [("4,000 requests a second", PACED), ("no rest", Duration::ZERO)] {
        println!("\n{load}{HEAD}");
        for kind in &kinds {
            match measure(*kind, interval, &programs).await {
                Ok(row) => println!("{kind:<28}{row}"),
                Err(error) => println!("{kind:<28}could not be measured: {error}"),
            }
        }
    }
    Ok(())
}

async fn measure(kind: Kind, interval: Duration, programs: &Path) -> Result<Row, Failure> {
    let quiet = undisturbed(kind, interval, programs).await?;
    let restarts = restarts(kind, interval, programs).await?;
    Ok(Row::new(&restarts, &quiet))
}

fn servers(programs: &Path) -> [Server; 3] {
    let (program, log) = (programs.join("backend"), Log::default());
    ["a", "b", "c"].map(|name| Server::start(program.clone(), name, &log))
}

async fn undisturbed(
    kind: Kind,
    interval: Duration,
    programs: &Path,
) -> Result<Vec<Vec<Exchange>>, Failure> {
    let servers = servers(programs);
    let proxy = Proxy::start(kind, programs, &servers).await?;
    let over = Arc::new(AtomicBool::new(false));
    let end = async {
        sleep(UNDISTURBED).await;
        over.store(true, Relaxed);
    };
    let asking = crowd::ask_every(interval, proxy.addr, CLIENTS, &[Method::GET], over.clone());
    Ok(tokio::join!(asking, end).0)
}

async fn restarts(
    kind: Kind,
    interval: Duration,
    programs: &Path,
) -> Result<Vec<Vec<Exchange>>, Failure> {
    let mut servers = servers(programs);
    let proxy = Proxy::start(kind, programs, &servers).await?;
    let over = Arc::new(AtomicBool::new(false));
    let end = over.clone();
    let restarts = spawn_blocking(move || {
        restart_in_turn(&mut servers, Ending::Kill, PACE);
        end.store(true, Relaxed);
        servers
    });
    let sessions = crowd::ask_every(interval, proxy.addr, CLIENTS, &[Method::GET], over).await;
    restarts.await?;
    Ok(sessions)
}
