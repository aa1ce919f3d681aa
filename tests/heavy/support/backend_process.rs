//! A backend that is a process.

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        Arc, Mutex,
        mpsc::{self, Receiver},
    },
    thread::{self, JoinHandle},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{net::TcpSocket, task::spawn_blocking};
use tower_sticky::proxy::Upstream;

use crate::{FOREVER, until};

/// Which backends received each request, by its number. It survives a kill.
#[derive(Debug, Default, Clone)]
pub struct Log(Arc<Mutex<HashMap<usize, Vec<&'static str>>>>);

impl Log {
    /// The backends that received a request.
    pub fn of(&self, number: usize) -> Vec<&'static str> {
        self.0.lock().unwrap().get(&number).cloned().unwrap_or_default()
    }

    /// All requests that were received more than `times` times.
    pub fn more_than(&self, times: usize) -> HashMap<usize, Vec<&'static str>> {
        let log = self.0.lock().unwrap();
        let more = log.iter().filter(|(_, by)| by.len() > times);
        more.map(|(number, by)| (*number, by.clone())).collect()
    }
}

/// A reserved port, where connections are refused unless a process listens.
#[derive(Debug)]
pub struct Port {
    pub addr: SocketAddr,
    _socket: TcpSocket,
}

impl Port {
    pub fn reserve() -> Self {
        // Bound, but not listening: another socket with the same option may listen.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        Self { addr: socket.local_addr().unwrap(), _socket: socket }
    }

    pub fn upstream(&self) -> Upstream {
        Upstream::new(&format!("http://{}", self.addr)).unwrap()
    }
}

/// A backend that runs, or is dead and may be started again at the same address. It is killed when
/// this is dropped.
#[derive(Debug)]
pub struct Process {
    pub name: &'static str,
    pub port: Port,
    program: Program,
    log: Log,
    running: Option<Running>,
}

/// A program that receives a name, a port, and these arguments.
#[derive(Debug, Clone)]
pub struct Program {
    pub path: PathBuf,
    pub args: Vec<String>,
}

impl Program {
    /// The usual backend.
    pub fn backend() -> Self {
        Self::named("heavy-backend", Vec::new())
    }

    /// A program of this package. Cargo builds it before a test target, near its binary.
    pub fn named(name: &str, args: Vec<String>) -> Self {
        let this = std::env::current_exe().unwrap();
        let profile = this.ancestors().nth(2).unwrap();
        Self { path: profile.join(name), args }
    }
}

#[derive(Debug)]
struct Running {
    child: Child,
    reader: Option<JoinHandle<()>>,
    /// The mode that it has confirmed.
    doing: Receiver<String>,
}

impl Process {
    pub async fn start(name: &'static str, log: &Log) -> Self {
        let mut process = Self::new(name, Port::reserve(), Program::backend(), log);
        process.restart().await;
        process
    }

    /// A process that does not run yet.
    pub fn new(name: &'static str, port: Port, program: Program, log: &Log) -> Self {
        Self { name, port, program, log: log.clone(), running: None }
    }

    /// Starts it again at the same address.
    pub async fn restart(&mut self) {
        self.run(self.program.clone()).await;
    }

    /// The same, but from now on it answers everything with 500.
    pub async fn restart_failing(&mut self) {
        let mut program = self.program.clone();
        program.args.push("failing".to_owned());
        self.run(program).await;
    }

    async fn run(&mut self, program: Program) {
        assert!(self.running.is_none(), "{} runs already", self.name);
        let (name, port, log) = (self.name, self.port.addr.port(), self.log.clone());
        let running = spawn_blocking(move || Running::start(name, port, &program, log)).await;
        self.running = Some(running.unwrap());
    }

    pub fn upstream(&self) -> Upstream {
        self.port.upstream()
    }

    pub fn signal(&self, signal: Signal) {
        let id = self.running.as_ref().expect("it runs").child.id();
        let id = i32::try_from(id).ok().and_then(Pid::from_raw).unwrap();
        kill_process(id, signal).unwrap();
    }

    /// `kill -9`. When this returns it has ended, and its output was read.
    pub fn kill(&mut self) {
        self.running = None;
    }

    /// Makes it close its WebSockets.
    pub fn close_sockets(&mut self) {
        let running = self.running.as_mut().expect("it runs");
        running.child.stdin.as_mut().unwrap().write_all(b"close\n").unwrap();
    }

    /// Sets its mode, and waits until it confirms it.
    pub fn tell(&mut self, word: &str) {
        let running = self.running.as_mut().expect("it runs");
        writeln!(running.child.stdin.as_mut().unwrap(), "{word}").unwrap();
        assert_eq!(running.doing.recv_timeout(FOREVER).as_deref(), Ok(word));
    }

    /// Waits for its end after a signal.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("it runs");
        let mut status = None;
        until("the process ends", || {
            status = running.child.try_wait().unwrap();
            status.is_some()
        })
        .await;
        status.unwrap()
    }
}

impl Running {
    fn start(name: &'static str, port: u16, program: &Program, log: Log) -> Self {
        let mut child = Command::new(&program.path)
            .args([name, &port.to_string()])
            .args(&program.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = lines.next().expect("it prints its address").unwrap();
        assert!(first.starts_with("listening on "), "{first}");
        let (does, doing) = mpsc::channel();
        let reader = thread::spawn(move || {
            for line in lines {
                let line = line.unwrap();
                if let Some(word) = line.strip_prefix("now ") {
                    let _ = does.send(word.to_owned());
                }
                // Lines are written atomically, so a kill leaves no partial one.
                let number = line.strip_prefix("got ").and_then(|number| number.parse().ok());
                if let Some(number) = number {
                    log.0.lock().unwrap().entry(number).or_default().push(name);
                }
            }
        });
        Self { child, reader: Some(reader), doing }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}
