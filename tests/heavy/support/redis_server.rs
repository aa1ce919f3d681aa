//! A real Redis of the test's own, that can be killed, hung and started again.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    thread,
    time::Duration,
};

use tower_sticky::store::client::{Client, ClientTlsConfig, TlsCertificates};

use crate::certificates::{Authority, Identity};

/// A `redis-server` on a free port of the loopback interface, with nothing on disk. It is killed and
/// reaped when this is dropped, also when it hangs and when the test fails.
pub struct RedisServer {
    args: Vec<String>,
    port: u16,
    /// If it also listens for TLS.
    tls_port: Option<u16>,
    dir: PathBuf,
    config: Option<PathBuf>,
    child: Option<Child>,
}

impl RedisServer {
    /// Starts one and waits until it answers.
    pub fn start() -> Self {
        Self::with(&[])
    }

    /// The same, with more arguments, for example `&["--requirepass", "secret"]`.
    pub fn with(args: &[&str]) -> Self {
        Self::configured(args, None, None)
    }

    /// The same with a second port, for TLS, under a certificate that `authority` has signed. When
    /// `mutual`, clients need one from there as well.
    pub fn with_tls(authority: &Authority, mutual: bool, args: &[&str]) -> Self {
        Self::configured(args, None, Some((authority, mutual)))
    }

    fn configured(args: &[&str], config: Option<&str>, tls: Option<(&Authority, bool)>) -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let number = NEXT.fetch_add(1, Relaxed);
        let name = format!("tower-sticky-redis-{}-{number}", std::process::id());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&dir).unwrap();
        let mut args: Vec<_> = args.iter().map(|arg| (*arg).to_owned()).collect();
        if let Some((authority, mutual)) = tls {
            let identity = authority.server();
            for (option, name, text) in [
                ("--tls-ca-cert-file", "ca.pem", authority.pem()),
                ("--tls-cert-file", "server.pem", identity.certificate),
                ("--tls-key-file", "server.key", identity.key),
            ] {
                let path = dir.join(name);
                std::fs::write(&path, text).unwrap();
                args.extend([option.to_owned(), path.to_str().unwrap().to_owned()]);
            }
            let clients = if mutual { "yes" } else { "no" };
            args.extend(["--tls-auth-clients".to_owned(), clients.to_owned()]);
        }
        let config = config.map(|text| {
            let path = dir.join("config");
            std::fs::write(&path, text).unwrap();
            path
        });
        let mut server = Self { args, port: 0, tls_port: None, dir, config, child: None };
        // Another process may take the port before the server has it.
        for _ in 0..20 {
            server.port = free_port();
            server.tls_port = tls.map(|_| free_port());
            if server.try_spawn() {
                return server;
            }
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// A sentinel that watches one server under this name.
    pub fn sentinel(master: &str, server: SocketAddr) -> Self {
        // It writes what it finds out into its configuration, so that must be a file.
        let config = format!("sentinel monitor {master} {} {} 1\n", server.ip(), server.port());
        Self::configured(&["--sentinel"], Some(&config), None)
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its address as clients take it.
    pub fn url(&self) -> String {
        format!("redis://{}/", self.addr())
    }

    /// Where it listens for TLS.
    pub fn tls_addr(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.tls_port.expect("it was started with TLS")))
    }

    /// Its address over TLS, as clients take it.
    pub fn tls_url(&self) -> String {
        format!("rediss://{}/", self.tls_addr())
    }

    /// A client over TLS that trusts only one authority, and sends a certificate if one is given.
    pub fn tls_client(&self, trusted: &Authority, own: Option<Identity>) -> Client {
        let client_tls = own.map(|own| ClientTlsConfig {
            client_cert: own.certificate.into_bytes(),
            client_key: own.key.into_bytes(),
        });
        let root_cert = Some(trusted.pem().into_bytes());
        let certificates = TlsCertificates { client_tls, root_cert };
        Client::build_with_tls(self.tls_url(), certificates).unwrap()
    }

    /// Makes a server with `--cluster-enabled yes` a complete cluster of one node.
    pub async fn form_cluster(&self) {
        assert_eq!(self.command(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]), "+OK");
        let is_ok = || self.command(&["CLUSTER", "INFO"]).contains("cluster_state:ok");
        super::until("the cluster is complete", is_ok).await;
    }

    /// The file with the certificate of the authority that has signed the server's certificate.
    pub fn authority_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Sends one command on a connection of its own, and gives the answer as Redis writes it (RESP2):
    /// `+OK`, `:1`, `$3` and so on, without the end of the line; of a bulk string only the content.
    pub fn command(&self, words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
        self.command_bytes(&words)
    }

    /// The same for words that are not text.
    pub fn command_bytes(&self, words: &[&[u8]]) -> String {
        self.try_command(words).expect("redis-server answers")
    }

    /// The same after having said a password.
    pub fn command_after_auth(&self, password: &str, words: &[&str]) -> String {
        let words: Vec<_> = words.iter().map(|word| word.as_bytes()).collect();
        let mut stream = self.connect().expect("redis-server is there");
        let said = ask(&mut stream, &[b"AUTH", password.as_bytes()]).expect("it answers");
        assert_eq!(said, "+OK", "the password is right");
        ask(&mut stream, &words).expect("redis-server answers")
    }

    fn try_command(&self, words: &[&[u8]]) -> std::io::Result<String> {
        ask(&mut self.connect()?, words)
    }

    fn connect(&self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(self.addr())?;
        stream.set_read_timeout(Some(super::FOREVER))?;
        Ok(stream)
    }

    /// The name of the only key that is there.
    pub fn key(&self) -> String {
        let key = self.command(&["RANDOMKEY"]);
        assert_eq!(self.command(&["DBSIZE"]), ":1", "there is one key");
        key
    }

    /// How often a command was called since the start or [`reset_calls`](Self::reset_calls), as `INFO
    /// commandstats` says; in lower case, for example `"evalsha"`.
    pub fn calls(&self, command: &str) -> u64 {
        let info = self.command(&["INFO", "commandstats"]);
        let prefix = format!("cmdstat_{command}:calls=");
        let line = info.lines().find_map(|line| line.strip_prefix(&prefix));
        line.and_then(|rest| rest.split(',').next()?.parse().ok()).unwrap_or(0)
    }

    /// Begins to count anew.
    pub fn reset_calls(&self) {
        self.command(&["CONFIG", "RESETSTAT"]);
    }

    /// Kills it (SIGKILL): connections are reset, everything in it is lost.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts it again on the same port, empty.
    pub fn restart(&mut self) {
        self.kill();
        for _ in 0..100 {
            if self.try_spawn() {
                return;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("redis-server does not start again on port {}", self.port);
    }

    /// Stops it (SIGSTOP): it takes connections and bytes, and answers nothing.
    pub fn hang(&self) {
        self.signal("STOP");
    }

    /// Lets it go on after [`hang`](Self::hang).
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let child = self.child.as_ref().expect("redis-server runs");
        let sent = Command::new("kill").args(["-s", name, &child.id().to_string()]).status();
        assert!(sent.unwrap().success(), "the signal is sent");
    }

    /// Whether it runs and answers; waits for that as long as it runs.
    fn try_spawn(&mut self) -> bool {
        let mut command = Command::new("redis-server");
        command.args(&self.config);
        let mut child = command
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1"])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(["--dir".as_ref(), self.dir.as_os_str()])
            .args(&self.args)
            .args(
                self.tls_port
                    .map(|port| ["--tls-port".to_owned(), port.to_string()])
                    .iter()
                    .flatten(),
            )
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        loop {
            if !matches!(child.try_wait(), Ok(None)) {
                return false;
            }
            // With a password it answers that it wants one, which is an answer.
            if self.try_command(&[b"PING"]).is_ok() {
                self.child = Some(child);
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One command and its answer.
fn ask(stream: &mut TcpStream, words: &[&[u8]]) -> std::io::Result<String> {
    let mut request = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        request.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        request.extend_from_slice(word);
        request.extend_from_slice(b"\r\n");
    }
    stream.write_all(&request)?;
    let mut answer = BufReader::new(stream);
    let mut line = String::new();
    answer.read_line(&mut line)?;
    if line.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let line = line.trim_end();
    let Some(Ok(length)) = line.strip_prefix('$').map(str::parse::<usize>) else {
        return Ok(line.to_owned());
    };
    let mut bulk = vec![0; length];
    answer.read_exact(&mut bulk)?;
    Ok(String::from_utf8_lossy(&bulk).into_owned())
}
