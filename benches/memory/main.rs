//! The memory that connections cost the gateway, and HAProxy beside it.
//!
//! ```text
//! cargo run --release -p tower-sticky-benches --bin memory           # 10,000 idle connections
//! cargo run --release -p tower-sticky-benches --bin memory -- 1000
//! ```
//!
//! Each row is the resident memory of the proxy's process over what it had before, divided by the number of
//! connections; beside it what the sockets of its clients hold in the system, from `ss`. Idle connections have
//! had one request each. Slow readers have asked for 100 MB and read nothing; slow uploads of 100 MB go to a
//! backend that reads nothing. Each proxy has one thread. It takes a minute.

#![allow(missing_docs)]

mod backend;
#[path = "../certificate.rs"]
mod certificate;
mod clients;
mod process;
#[path = "../proxy_process.rs"]
mod proxy_process;
#[path = "../release.rs"]
mod release;
#[path = "../system.rs"]
mod system;

use std::{env, error::Error, time::Duration};

use tokio::time::sleep;

use crate::{certificate::Certificate, clients::Opener, process::Kind, proxy_process::Proxy};

type Failure = Box<dyn Error + Send + Sync>;

const IDLE: usize = 10_000;
const SLOW: usize = 200;
/// Until idle connections are parked, and until nothing moves any more.
const SETTLE: Duration = Duration::from_secs(5);

/// What the connections speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Http1,
    /// HTTP/1.1 over TLS 1.3.
    Tls,
    Http2,
}

impl Protocol {
    fn name(self) -> &'static str {
        match self {
            Self::Http1 => "HTTP/1.1",
            Self::Tls => "TLS",
            Self::Http2 => "HTTP/2",
        }
    }
}

/// What the connections do.
#[derive(Debug, Clone, Copy)]
enum Load {
    Idle,
    SlowReaders,
    SlowUploads,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let idle = match env::args().nth(1) {
        Some(count) => count.parse()?,
        None => IDLE,
    };
    system::raise_file_limit(idle)?;
    let gateway = process::build()?;
    let backend = backend::start().await?;
    let certificate = Certificate::make(&env::temp_dir())?;
    let opener = Opener::new(&certificate)?;
    let mut kinds = vec![Kind::Gateway(gateway)];
    match proxy_process::haproxy_version() {
        Some(version) => {
            println!("beside {version}");
            kinds.push(Kind::HaProxy);
        }
        None => println!("haproxy is not installed: only the gateway is measured"),
    }
    println!("{:<34}{:>12}{:>12}   in sockets", "KiB per connection", "connections", "resident");
    for (load, count) in [(Load::Idle, idle), (Load::SlowReaders, SLOW), (Load::SlowUploads, SLOW)]
    {
        for protocol in [Protocol::Http1, Protocol::Tls, Protocol::Http2] {
            let is_tls = protocol == Protocol::Tls;
            if is_tls && !matches!(load, Load::Idle) {
                continue;
            }
            for kind in &kinds {
                let name = format!("{}, {load:?}, {}", kind.name(), protocol.name());
                let measured = async {
                    let used = is_tls.then_some(&certificate);
                    let proxy = Proxy::start(kind, backend, idle, used).await?;
                    measure(&proxy, &opener, load, count, protocol).await
                };
                match measured.await {
                    Ok((resident, sockets)) => {
                        let sockets = sockets.map_or("unknown".to_owned(), |it| format!("{it:.1}"));
                        println!("{name:<34}{count:>12}{resident:>12.1}   {sockets}");
                    }
                    Err(error) => println!("{name:<34}could not be measured: {error}"),
                }
            }
        }
    }
    Ok(())
}

/// KiB per connection: resident, and in the system's buffers.
async fn measure(
    proxy: &Proxy,
    opener: &Opener,
    load: Load,
    count: usize,
    protocol: Protocol,
) -> Result<(f64, Option<f64>), Failure> {
    // What the first request allocates belongs to no connection.
    drop(opener.open(proxy.addr, Load::Idle, 4, protocol).await?);
    sleep(Duration::from_secs(1)).await;
    let before = proxy.resident()?;
    let clients = opener.open(proxy.addr, load, count, protocol).await?;
    sleep(SETTLE).await;
    let (after, sockets) = (proxy.resident()?, proxy.sockets());
    drop(clients);
    let each = |kib: f64| kib / count as f64;
    Ok((each(after - before), sockets.map(each)))
}
