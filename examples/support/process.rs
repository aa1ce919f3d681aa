//! A server in a process of its own, so that it can be killed: this program, started again with other
//! arguments.

#![allow(dead_code, reason = "each program uses a part of it")]

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
    /// Starts this program with these arguments, and waits until it prints the address it listens on.
    pub fn start(args: &[&str]) -> io::Result<(Self, SocketAddr)> {
        let mut command = Command::new(env::current_exe()?);
        let child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        // From here on it is killed on every error.
        let mut process = Self { child };
        let mut line = String::new();
        if let Some(stdout) = process.child.stdout.take() {
            BufReader::new(stdout).read_line(&mut line)?;
        }
        let addr =
            line.trim().parse().map_err(|_| io::Error::other("the process printed no address"))?;
        Ok((process, addr))
    }

    /// Writes a line to its standard input.
    pub fn write_line(&mut self, line: &str) -> io::Result<()> {
        match &mut self.child.stdin {
            Some(stdin) => writeln!(stdin, "{line}"),
            None => Ok(()),
        }
    }

    /// `kill -9`, and waits for the end of the process.
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

/// In the child: listens on a free port, and prints the address for the parent.
pub async fn listen() -> io::Result<TcpListener> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    writeln!(io::stdout(), "{}", listener.local_addr()?)?;
    Ok(listener)
}

/// In the child: waits for a line that the parent [writes](Process::write_line).
pub fn read_line() -> io::Result<String> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    Ok(line)
}

/// In the child: exits when the parent does, however it ends, because standard input ends then.
pub fn end_with_parent() {
    drop(thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        std::process::exit(0);
    }));
}
