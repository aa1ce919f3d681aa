//! The command line.

use std::{path::PathBuf, process::exit, str::FromStr, time::Duration};

use crate::{Failure, peer::Peer, workload::Workload};

const HELP: &str = "\
The gateway beside other proxies, in interleaved rounds.

bash benches/peers/run.sh [OPTIONS]

  --workloads LIST   of small, sealed, many-backends, answers, uploads, connections, tls, tls-answers, tls-connections,
                     h2, h2-answers, websocket, idle; default: all
  --peers LIST       of gateway, haproxy, haproxy-fields, nginx, envoy, forwarder, pingora; default: those that are
                     installed
  --rounds N         of each workload; default 3
  --seconds N        of each run; default 3
  --idle N           idle connections; default 10000
";

/// What is measured, and how.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) workloads: Vec<Workload>,
    pub(crate) peers: Vec<Peer>,
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
    pub(crate) programs: Programs,
}

/// Where the programs are that are built for this.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) gateway: PathBuf,
    pub(crate) forwarder: PathBuf,
    pub(crate) pingora: Option<PathBuf>,
    pub(crate) envoy: Option<PathBuf>,
}

impl Options {
    pub(crate) fn parse(mut args: lexopt::Parser) -> Result<Self, Failure> {
        use lexopt::{Arg::Long, ValueExt};
        let programs = Programs::find()?;
        let mut options = Self {
            workloads: Workload::all(),
            peers: Peer::ALL.into_iter().filter(|peer| peer.is_installed(&programs)).collect(),
            rounds: 3,
            time: Duration::from_secs(3),
            programs,
        };
        while let Some(arg) = args.next()? {
            match arg {
                Long("workloads") => options.workloads = list(&args.value()?.string()?)?,
                Long("peers") => options.peers = list(&args.value()?.string()?)?,
                Long("rounds") => options.rounds = args.value()?.parse()?,
                Long("seconds") => options.time = Duration::from_secs(args.value()?.parse()?),
                Long("idle") => {
                    let count = args.value()?.parse()?;
                    for workload in &mut options.workloads {
                        if let Workload::Idle(idle) = workload {
                            *idle = count;
                        }
                    }
                }
                Long("help") => {
                    print!("{HELP}");
                    exit(0);
                }
                other => return Err(other.unexpected().into()),
            }
        }
        Ok(options)
    }
}

fn list<T: FromStr<Err = Failure>>(names: &str) -> Result<Vec<T>, Failure> {
    names.split(',').map(|name| name.trim().parse()).collect()
}

impl Programs {
    /// `run.sh` names in the environment what it has built and installed.
    fn find() -> Result<Self, Failure> {
        let named = |name: &str| std::env::var_os(name).filter(|path| !path.is_empty());
        let needed = |name: &str| {
            named(name).map(PathBuf::from).ok_or(format!("{name} names no program; use run.sh"))
        };
        Ok(Self {
            gateway: needed("GATEWAY")?,
            forwarder: needed("FORWARDER")?,
            pingora: named("PINGORA").map(PathBuf::from),
            envoy: named("ENVOY").map(PathBuf::from),
        })
    }
}
