//! Clients that carry an id of the application: Socket.IO in the query, and tus in the path.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use tower_sticky_heavy_tests::{in_time, process::Gateway};

const KEY: &str = "q83vEjRWeJCrze8SNFZ4kKvN7xI0VniQq83vEjRWeJA=";

/// A script of `node/`, whose packages `tests/run.sh` installs.
fn script(name: &str) -> Command {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/clients/node");
    assert!(
        std::path::Path::new(folder).join("node_modules").exists(),
        "the packages are not installed: run `npm ci` in tests/heavy/clients/node"
    );
    let mut command = Command::new("node");
    command.arg(format!("{folder}/{name}")).kill_on_drop(true).stdin(Stdio::null());
    command
}

/// A server in a process of its own, with its port.
async fn server(name: &str, args: &[&str]) -> (Child, u16) {
    let mut server = script(name);
    server.arg("server").args(args).stdout(Stdio::piped());
    let mut server = server.spawn().expect("Node.js is installed");
    let mut lines = BufReader::new(server.stdout.take().unwrap()).lines();
    let line = in_time("the server listens", lines.next_line()).await.unwrap().unwrap();
    (server, line.parse().unwrap())
}

/// What the clients of a script say.
async fn clients(name: &str, args: &[&str]) -> String {
    let mut clients = script(name);
    clients.arg("clients").args(args).stdout(Stdio::piped());
    let output = in_time("the clients end", clients.output()).await.unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A gateway with this affinity in front of the backends at these ports, round robin.
async fn gateway(affinity: &str, ports: &[u16]) -> Gateway {
    let mut file = format!(
        "[session_headers]\nenabled = true\n[strategy]\ntype = \"round-robin\"\n[[affinity]]\n{affinity}\n"
    );
    for (number, port) in ports.iter().enumerate() {
        file.push_str(&format!(
            "[[backend]]\nid = \"b{number}\"\nurl = \"http://127.0.0.1:{port}\"\n"
        ));
    }
    Gateway::configured_with(&file, &[("STICKY_KEY", KEY)]).await
}

#[tokio::test]
async fn socket_io_stays_on_its_server() {
    let servers = [
        server("socket_io.mjs", &["one"]).await,
        server("socket_io.mjs", &["two"]).await,
        server("socket_io.mjs", &["three"]).await,
    ];
    let ports = servers.each_ref().map(|(_, port)| *port);
    let route = "type = \"route\"\nquery = \"sid\"\nseparator = \".\"\nformat = \"sealed\"\n\
                 keys = [\"env:STICKY_KEY\"]";
    let cookie = "type = \"cookie\"\nkeys = [\"env:STICKY_KEY\"]";
    for (affinity, jar) in [(route, "no-jar"), (cookie, "jar")] {
        let gateway = gateway(affinity, &ports).await;
        let url = format!("http://{}", gateway.addr);
        for transports in ["polling", "polling,websocket", "websocket"] {
            let said = clients("socket_io.mjs", &[&url, transports, "40", jar]).await;
            assert_eq!(said, "40 of 40 on 3 servers", "{transports}, {jar}");
        }
    }
}

#[tokio::test]
async fn an_upload_resumes_on_the_server_that_has_its_beginning() {
    for location in ["absolute", "relative"] {
        let folders = [(); 3].map(|()| Folder::new());
        let mut servers = Vec::new();
        for folder in &folders {
            servers.push(server("tus.mjs", &[folder.path(), location]).await);
        }
        let ports: Vec<_> = servers.iter().map(|(_, port)| *port).collect();
        let learned = "type = \"learned\"\nlocation = \"/files/{id}\"\nend_on_delete = true";
        let gateway = gateway(learned, &ports).await;
        let url = format!("http://{}/files", gateway.addr);
        assert_eq!(clients("tus.mjs", &[&url, "20"]).await, "20 of 20", "{location}");
    }
}

/// An empty folder, which is removed at the end.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> Self {
        use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tus-{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
