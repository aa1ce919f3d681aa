//! Files and processes of other programs.

use std::{
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use tower_sticky_heavy_tests::{
    certificates::{Authority, Identity},
    client::Client,
    in_time,
};

/// A directory that is removed at the end.
pub struct Dir(PathBuf);

impl Dir {
    pub fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("tower-sticky-peers-{}-{number}", std::process::id());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }

    /// The path of a new file.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The paths of a certificate and its key.
    pub fn identity(&self, name: &str, identity: &Identity) -> (String, String) {
        let certificate = self.file(&format!("{name}.pem"), &identity.certificate);
        (certificate, self.file(&format!("{name}.key"), &identity.key))
    }

    /// The path of the authority's certificate.
    pub fn authority(&self, authority: &Authority) -> String {
        self.file("ca.pem", authority.pem())
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A server in a process of its own, which is killed at the end.
pub struct Server {
    child: Child,
    pub addr: SocketAddr,
}

impl Server {
    /// Starts a server that gets its port, and waits until it accepts connections. The port may be taken meanwhile.
    pub fn start(name: &str, command: impl Fn(u16) -> Command) -> Self {
        for _ in 0..20 {
            let addr = free_addr();
            let mut command = command(addr.port());
            let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
            let child = spawned.unwrap_or_else(|error| panic!("{name} cannot be started: {error}"));
            let mut server = Self { child, addr };
            if server.accepts() {
                return server;
            }
        }
        panic!("{name} does not start");
    }

    fn accepts(&mut self) -> bool {
        for _ in 0..2000 {
            if TcpStream::connect(self.addr).is_ok() {
                return true;
            }
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }

    /// Sends a signal, for example `HUP`.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(sent.unwrap().success());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Masters end their workers at this signal.
        self.signal("TERM");
        for _ in 0..200 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_addr() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Runs a program that ends by itself.
pub async fn run(program: &str, args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program);
    let output = command.args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    in_time(program, output).await.unwrap()
}

/// A section `[[listener]]` with TLS under these certificates, and `more` options of TLS.
pub fn tls_listener(certificates: &[(String, String)], more: &str) -> String {
    let pairs = certificates.iter();
    let pairs = pairs.map(|(cert, key)| format!("{{ cert = \"{cert}\", key = \"{key}\" }}"));
    let pairs = pairs.collect::<Vec<_>>().join(", ");
    format!("[[listener]]\naddress = \"127.0.0.1:0\"\ntls = {{ certificates = [{pairs}]{more} }}\n")
}

/// A GET through the gateway, with its cookies.
pub async fn get(client: &mut Client, path: &str, cookie: Option<&str>) -> Response<Bytes> {
    let mut request = Request::get(path);
    if let Some(cookie) = cookie {
        request = request.header("cookie", format!("SERVER_ID={cookie}"));
    }
    let request = request.body(Full::default()).unwrap();
    in_time("a response", client.send(request)).await.unwrap()
}

/// The body of a successful GET.
pub async fn text(client: &mut Client, path: &str) -> String {
    let response = get(client, path, None).await;
    assert_eq!(response.status(), StatusCode::OK, "{:?}", response.body());
    String::from_utf8(response.into_body().to_vec()).unwrap()
}
