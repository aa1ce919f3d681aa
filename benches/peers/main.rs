//! The gateway beside other proxies: `bash benches/peers/run.sh` installs those, and runs this.
//!
//! Each proxy has one thread, on a core of its own; the load generators and the backends have another one. In each
//! round a workload is put on each of the proxies in turn, so that what changes on the machine meets all of them.

#![allow(missing_docs)]

mod backends;
#[path = "../certificate.rs"]
mod certificate;
mod config;
mod load;
mod options;
mod peer;
mod process;
#[path = "../proxy_process.rs"]
mod proxy_process;
mod report;
mod sockets;
#[path = "../system.rs"]
mod system;
mod workload;

use std::{
    collections::{HashMap, hash_map::Entry},
    error::Error,
    time::Duration,
};

use crate::{
    backends::Backends, load::Loaded, options::Options, process::Running, report::Report,
    workload::Workload,
};

type Failure = Box<dyn Error + Send + Sync>;

/// The cores: of the proxies, and of everything else.
const PROXY_CORE: &str = "0";
const LOAD_CORE: &str = "1";
/// Before the first round of a workload, so that connections to the backends are open.
const WARM_UP: Duration = Duration::from_millis(300);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let options = Options::parse(lexopt::Parser::from_env())?;
    system::raise_file_limit(process::CONNECTIONS)?;
    let backends = Backends::start().await?;
    println!("{}", report::machine());
    for peer in &options.peers {
        println!("{peer}: {}", peer.version(&options.programs));
    }
    let mut running = HashMap::new();
    let mut report = Report::new(&options);
    for workload in &options.workloads {
        for round in 0..options.rounds {
            for &peer in &options.peers {
                let Some(setup) = workload.setup(peer) else { continue };
                let measured = async {
                    let start = || Running::start(peer, setup, &options, &backends);
                    if !workload.has_requests() {
                        // What others have left in its memory does not count.
                        return measure(*workload, &start().await?, options.time).await;
                    }
                    let proxy = match running.entry((peer, setup)) {
                        Entry::Occupied(proxy) => proxy.into_mut(),
                        Entry::Vacant(place) => place.insert(start().await?),
                    };
                    if round == 0 {
                        workload.run(proxy, WARM_UP).await?;
                    }
                    measure(*workload, proxy, options.time).await
                };
                let measured = measured.await;
                if let Err(error) = &measured {
                    println!("{workload}, {peer}: {error}");
                }
                report.add(*workload, peer, measured.ok());
            }
        }
        report.print_workload(*workload);
    }
    report.print();
    Ok(())
}

/// What one run has cost the proxy.
async fn measure(
    workload: Workload,
    proxy: &Running,
    time: Duration,
) -> Result<(Loaded, Cost), Failure> {
    let before = (proxy.cpu()?, proxy.resident()?);
    let loaded = workload.run(proxy, time).await?;
    let cpu = proxy.cpu()?.saturating_sub(before.0);
    let resident = match loaded.resident {
        Some(resident) => resident - before.1,
        None => proxy.resident()?,
    };
    Ok((loaded, Cost { cpu, resident }))
}

/// What a run has cost.
#[derive(Debug, Clone, Copy)]
struct Cost {
    cpu: Duration,
    /// KiB: of the process, or for idle connections what they have added.
    resident: f64,
}
