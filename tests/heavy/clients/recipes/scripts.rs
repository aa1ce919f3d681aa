//! Servers and clients in JavaScript and Python, whose packages `tests/run.sh` installs.

use std::{path::Path, process::Stdio};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};
use tower_sticky_heavy_tests::in_time;

/// A running script, which is killed when this is dropped.
pub struct Script {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    stdin: ChildStdin,
    pub name: String,
}

impl Script {
    /// Starts a script of `node/` or `python/`.
    pub fn start(name: &str, args: &[&str]) -> Self {
        let mut child = command(name)
            .args(args)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Node.js and Python are installed");
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let stdin = child.stdin.take().unwrap();
        Self { child, lines, stdin, name: format!("{name} {}", args.join(" ")) }
    }

    /// The next line that it prints.
    pub async fn line(&mut self) -> String {
        let line = in_time(&self.name, self.lines.next_line()).await.unwrap();
        line.unwrap_or_else(|| panic!("{} has ended", self.name))
    }

    /// Writes a line to its standard input.
    pub async fn tell(&mut self, line: &str) {
        self.stdin.write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Ends it with SIGKILL.
    pub async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// A server with its port.
pub struct Server {
    pub script: Script,
    pub port: u16,
}

impl Server {
    pub async fn start(name: &str, args: &[&str]) -> Self {
        Self::run(Script::start(name, &[&["server"], args].concat())).await
    }

    /// The gRPC server of the tests of peers.
    pub async fn grpc(name: &str) -> Self {
        Self::run(Script::start("../../peers/grpc_server.py", &[name])).await
    }

    async fn run(mut script: Script) -> Self {
        let port = script.line().await.parse().expect("a server prints its port first");
        Self { script, port }
    }
}

/// Three servers with these names, and their ports.
pub async fn three(script: &str) -> ([Server; 3], [u16; 3]) {
    let start = async |name| Server::start(script, &[name]).await;
    let servers = tokio::join!(start("one"), start("two"), start("three"));
    let servers = [servers.0, servers.1, servers.2];
    let ports = servers.each_ref().map(|server| server.port);
    (servers, ports)
}

fn command(name: &str) -> Command {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let is_python = name.ends_with(".py");
    let program = match is_python {
        true => here.join("../../target/peers-venv/bin/python"),
        false => "node".into(),
    };
    let packages = match is_python {
        true => program.clone(),
        false => here.join("clients/node/node_modules"),
    };
    assert!(packages.exists(), "the packages are not installed: see \"clients\" in tests/run.sh");
    let folder = if is_python { "python" } else { "node" };
    let mut command = Command::new(program);
    command.arg(here.join("clients").join(folder).join(name));
    command
}
