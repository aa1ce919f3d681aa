//! The gateway as a process, which is restarted at the same address.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tower_sticky_heavy_tests::{
    backend_process::{Port, Process},
    example::binary,
    until,
};

use crate::kind::Kind;

/// A running gateway. It is killed when it is dropped.
pub struct Gateway {
    pub port: Port,
    pub admin: Port,
    file: PathBuf,
    child: Option<Child>,
}

impl Gateway {
    /// Starts it, and waits until it listens.
    pub fn start<'a>(kind: &Kind, backends: impl Iterator<Item = &'a Process>) -> Self {
        let (port, admin) = (Port::reserve(), Port::reserve());
        let mut text = format!(
            "listen = \"{}\"\nadmin = \"{}\"\nserver_timing = true\n\
             [limits]\nresponse_timeout = \"10s\"\n{}",
            port.addr,
            admin.addr,
            kind.section()
        );
        for process in backends {
            let (name, addr) = (process.name, process.port.addr);
            text += &format!("[[backend]]\nid = \"{name}\"\nurl = \"http://{addr}\"\n");
        }
        let name = format!("chaos-{}.toml", port.addr.port());
        let file = std::env::temp_dir().join(name);
        std::fs::write(&file, text).unwrap();
        let mut gateway = Self { port, admin, file, child: None };
        gateway.run();
        gateway
    }

    /// Starts the program.
    pub fn run(&mut self) {
        let mut child = Command::new(binary("gateway"))
            .arg("--config")
            .arg(&self.file)
            .env("RUST_LOG", std::env::var("CHAOS_LOG").as_deref().unwrap_or("error"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stderr.take().unwrap());
        let (mut all, mut line) = (String::new(), String::new());
        // This line comes when it listens.
        while !line.starts_with("admin interface on ") {
            line.clear();
            let read = said.read_line(&mut line).unwrap();
            all += &line;
            assert!(read > 0, "the gateway starts: {all}");
        }
        // Its output is read and printed, so that the pipe does not fill up.
        std::thread::spawn(move || {
            for line in said.lines().map_while(Result::ok) {
                println!("the gateway says: {line}");
            }
        });
        self.child = Some(child);
    }

    /// The id of its process.
    pub fn id(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    /// Ends the program, by SIGKILL or by SIGTERM.
    pub async fn end(&mut self, kills: bool) {
        let mut child = self.child.take().expect("it runs");
        if kills {
            child.kill().unwrap();
        } else {
            let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).unwrap();
            kill_process(id, Signal::TERM).unwrap();
        }
        until("the gateway ends", || child.try_wait().unwrap().is_some()).await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = std::fs::remove_file(&self.file);
    }
}
