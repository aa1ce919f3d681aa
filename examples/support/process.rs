//! A server that is a process of its own, so that it can really be killed: this program, started once
//! more with other arguments.

#![allow(dead_code)] // Each program uses its part of it.

use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread,
};

use tokio::net::TcpListener;

/// A process that runs until it is killed or dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts this program with these arguments, and waits until it says where it listens.
    pub fn start(args: &[&str]) -> io::Result<(Self, SocketAddr)> {
        let mut command = Command::new(env::current_exe()?);
        let child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        // From here on it is killed, whatever goes wrong.
        let mut process = Self { child };
        let mut line = String::new();
        if let Some(stdout) = process.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let addr = line.trim().parse().map_err(|_| io::Error::other("it does not listen"))?;
        Ok((process, addr))
    }

    /// Says one line to it.
    pub fn say(&mut self, line: &str) -> io::Result<()> {
        match &mut self.child.stdin {
            Some(stdin) => writeln!(stdin, "{line}"),
            None => Ok(()),
        }
    }

    /// `kill -9`. When this returns it is gone.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()?;
        self.child.wait().map(drop)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// In the child: listens on a free port, and tells the parent where.
pub async fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    Ok(listener)
}

/// In the child: waits for a line that the parent [says](Process::say).
pub fn hear() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line)
}

/// In the child: ends it with its parent. However that comes to its end, our input ends then too.
pub fn end_with_parent() {
    drop(thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(0);
    }));
}
