//! Sockets that a service manager passes (sd_listen_fds(3)), and what it is told (sd_notify(3)).

use std::{
    io::{BufRead, BufReader},
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
    let mut told = String::new();
    let mut bytes = [0; 4096];
    while !told.contains("READY=1") {
        let length = manager.recv(&mut bytes).unwrap();
        told.push_str(std::str::from_utf8(&bytes[..length]).unwrap());
    }
    assert!(told.contains(&format!("MAINPID={}", service.0.id())), "{told}");
    assert_eq!(get(addr, "/").await.status, StatusCode::OK);
    std::fs::remove_file(&path).unwrap();
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
