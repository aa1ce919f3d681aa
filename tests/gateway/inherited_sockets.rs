//! Sockets that a service manager passes (sd_listen_fds(3)), and what it is told (sd_notify(3)).

use std::{
    io::{BufRead, BufReader, ErrorKind},
    net::TcpListener,
    os::unix::net::UnixDatagram,
    process::{Child, Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use http::StatusCode;

use crate::{
    backends::echo,
    client::get,
    example::binary,
    line::signal,
    process::{ConfigFile, run},
};

/// A gateway that is killed with this guard.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passed_socket_is_served_and_readiness_is_told() {
    let backend = echo("a").await;
    let config =
        ConfigFile::new(&format!("[[listener]]\naddress = \"fd:0\"\n{}", backend.entry("a")));
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = socket.local_addr().unwrap();
    let path = config.path().with_extension("notify");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let mut command = Command::new(binary("gateway"));
    command
        .args(["--config", config.path().to_str().unwrap()])
        .env("LISTEN_FDS", "1")
        .env("NOTIFY_SOCKET", &path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .fd_mappings(vec![FdMapping { parent_fd: socket.into(), child_fd: 3 }])
        .unwrap();
    let mut service = Service(command.spawn().unwrap());
    let mut line = String::new();
    BufReader::new(service.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim_end(), format!("listening on http://{addr}"));
    let first = service.0.id();
    assert_eq!(told_main(&manager), first);
    assert_eq!(get(addr, "/").await.status, StatusCode::OK);
    // The process that replaces it is the main one then, with the same socket.
    signal(first, "USR2");
    let second = told_main(&manager);
    assert_ne!(second, first);
    assert!(service.0.wait().unwrap().success(), "the old one has nothing left to do");
    assert_eq!(get(addr, "/").await.status, StatusCode::OK);
    signal(second, "TERM");
    let mut told = String::new();
    while !told.contains("STOPPING=1") {
        told = receive(&manager);
    }
    std::fs::remove_file(&path).unwrap();
}

/// What the service manager is told next.
fn receive(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 4096];
    let length = loop {
        match manager.recv(&mut bytes) {
            // A child of the test has ended meanwhile.
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            received => break received.unwrap(),
        }
    };
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// Waits until a process says that it is ready, and that it is the main one.
fn told_main(manager: &UnixDatagram) -> u32 {
    loop {
        let told = receive(manager);
        if told.contains("READY=1") {
            let main = told.lines().find_map(|line| line.strip_prefix("MAINPID="));
            return main.unwrap_or_else(|| panic!("{told}")).parse().unwrap();
        }
    }
}

#[tokio::test]
async fn a_socket_that_was_not_passed_is_an_error() {
    let backend = "[[backend]]\nid = \"a\"\nurl = \"http://127.0.0.1:1\"\n";
    let config = ConfigFile::new(&format!("[[listener]]\naddress = \"fd:2\"\n{backend}"));
    let output = run(&["--config", config.path().to_str().unwrap()], &[]).await;
    assert_eq!(output.status.code(), Some(2));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("listener[0].address") && stderr.contains("LISTEN_FDS"), "{stderr}");
}
