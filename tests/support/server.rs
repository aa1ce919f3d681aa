//! Backends that are processes: they are killed or told to stop, and come back at the same address.

#![allow(dead_code)] // Each program uses its part of it.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{net::TcpSocket, time::Instant};

/// How often a backend has received each request, by its number. Output before a kill counts.
#[derive(Debug, Default, Clone)]
pub(crate) struct Log(Arc<Mutex<HashMap<usize, usize>>>);

impl Log {
    pub(crate) fn times(&self, number: usize) -> usize {
        self.counts().get(&number).copied().unwrap_or_default()
    }

    fn counts(&self) -> MutexGuard<'_, HashMap<usize, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A backend that runs, or is down and may be started again. It is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) addr: SocketAddr,
    /// Bound and not listening: reserves the port while the process is down.
    _port: TcpSocket,
    program: PathBuf,
    log: Log,
    process: Option<(Child, JoinHandle<()>)>,
}

/// How a process is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGKILL.
    Kill,
    /// SIGTERM, and then it is waited for.
    Term,
}

/// The duration of the restarts, their interval, and the downtime.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) length: Duration,
    pub(crate) interval: Duration,
    pub(crate) down: Duration,
}

/// The end of a process, which is started again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Outage {
    pub(crate) server: &'static str,
    /// Just before the signal.
    pub(crate) begun: Instant,
    /// When the process was gone.
    pub(crate) gone: Instant,
}

impl Server {
    /// Starts the program of the example `backend`, and waits until it listens.
    pub(crate) fn start(program: PathBuf, name: &'static str, log: &Log) -> Self {
        let port = TcpSocket::new_v4().expect("there are sockets");
        port.set_reuseaddr(true).expect("sockets can be that");
        port.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("there is a free port");
        let addr = port.local_addr().expect("it is bound");
        let mut server = Self { name, addr, _port: port, program, log: log.clone(), process: None };
        server.run();
        server
    }

    fn run(&mut self) {
        let mut child = Command::new(&self.program)
            .args([self.name, &self.addr.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = child.stdout.take().expect("it is a pipe");
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let first = lines.next().unwrap_or_default();
        assert!(first.starts_with("listening on "), "{} must listen: {first}", self.name);
        let log = self.log.clone();
        let reader = thread::spawn(move || {
            for line in lines {
                let number = line.strip_prefix("got ").and_then(|number| number.parse().ok());
                if let Some(number) = number {
                    *log.counts().entry(number).or_default() += 1;
                }
            }
        });
        self.process = Some((child, reader));
    }

    /// Ends the process, waits, and starts the next one.
    pub(crate) fn restart(&mut self, ending: Ending, down: Duration) -> Outage {
        let begun = Instant::now();
        self.end(ending);
        let gone = Instant::now();
        thread::sleep(down);
        self.run();
        Outage { server: self.name, begun, gone }
    }

    /// When this returns the process has ended, and all its output is in the log.
    fn end(&mut self, ending: Ending) {
        let Some((mut child, reader)) = self.process.take() else { return };
        match ending {
            Ending::Kill => drop(child.kill()),
            Ending::Term => {
                let id = child.id().to_string();
                let sent = Command::new("kill").args(["-s", "TERM", &id]).status();
                assert!(sent.is_ok_and(|status| status.success()), "the signal is sent");
            }
        }
        let _ = child.wait();
        let _ = reader.join();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end(Ending::Kill);
    }
}

/// Restarts one server after the other, one in each interval; there is none in the first and none in
/// what is left at the end.
pub(crate) fn restart_in_turn(servers: &mut [Server], ending: Ending, pace: Pace) -> Vec<Outage> {
    let begun = Instant::now();
    let wait_for = |due| thread::sleep((begun + due).saturating_duration_since(Instant::now()));
    let mut outages = Vec::new();
    let mut due = pace.interval;
    while due + pace.interval <= pace.length {
        wait_for(due);
        let server = outages.len() % servers.len();
        outages.push(servers[server].restart(ending, pace.down));
        due += pace.interval;
    }
    wait_for(pace.length);
    outages
}
