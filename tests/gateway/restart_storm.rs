//! Restarts in place, one after the other, under clients of every kind: nothing is refused, reset, failed or moved.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::ClientConfig;
use serde_json::json;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    runtime::Builder,
    sync::watch,
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep, timeout},
};
use tokio_rustls::TlsConnector;

use crate::{
    authority::Authority,
    backends::{echo, upgrading},
    client::{Answer, get, read, read_head, was_not_processed},
    files::Files,
    line::Line,
    process::FOREVER,
};

const RESTARTS: usize = 20;
const CLIENTS: usize = 16;

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

type Body = Full<Bytes>;

/// How a client sends its requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// One connection for each request.
    Fresh,
    /// A connection that is kept until the gateway says that it closes, and that is idle for a while now and then.
    Kept,
    Http2,
}

/// A way to the gateway.
#[derive(Clone)]
struct Way {
    plain: SocketAddr,
    encrypted: Option<(SocketAddr, Arc<ClientConfig>)>,
}

impl Way {
    async fn connect(&self, http2: bool) -> Box<dyn Stream> {
        let Some((addr, config)) = &self.encrypted else {
            return Box::new(TcpStream::connect(self.plain).await.expect("it is not refused"));
        };
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = vec![if http2 { b"h2".to_vec() } else { b"http/1.1".to_vec() }];
        let socket = TcpStream::connect(addr).await.expect("it is not refused");
        let connector = TlsConnector::from(Arc::new(config));
        let connected = connector.connect("a.test".try_into().unwrap(), socket).await;
        Box::new(connected.expect("the handshake is finished"))
    }
}

/// A kept connection.
enum Sender {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Sender {
    async fn open(way: &Way, kind: Kind) -> Self {
        let io = TokioIo::new(way.connect(kind == Kind::Http2).await);
        if kind == Kind::Http2 {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
            drop(tokio::spawn(connection));
            return Self::Http2(sender);
        }
        let (sender, connection) = http1::handshake(io).await.unwrap();
        drop(tokio::spawn(connection));
        Self::Http1(sender)
    }

    /// The answer, or `None` when the connection was closed by GOAWAY before the request was sent. An HTTP/1.1
    /// connection must be there as long as the gateway has not said that it closes.
    async fn ask(&mut self, request: Request<Body>) -> Option<Answer> {
        match self {
            Self::Http1(sender) => {
                sender.ready().await.expect("it has not said that it closes");
                let answer = sender.send_request(request).await;
                Some(read(answer.expect("the connection is not reset")).await)
            }
            Self::Http2(sender) => {
                sender.ready().await.ok()?;
                match sender.try_send_request(request).await {
                    Ok(answer) => Some(read(answer).await),
                    Err(error) if was_not_processed(&error) => None,
                    Err(error) => panic!("the request was sent and has failed: {error:?}"),
                }
            }
        }
    }
}

/// A client with a session. Its requests must all be answered by its backend.
struct Client {
    way: Way,
    kind: Kind,
    cookie: String,
    home: String,
    kept: Option<Sender>,
}

impl Client {
    async fn request(&mut self) {
        loop {
            let mut sender = match self.kept.take() {
                Some(sender) => sender,
                None => Sender::open(&self.way, self.kind).await,
            };
            let request = Request::get("http://a.test/").header("cookie", &self.cookie);
            let request = match self.kind {
                Kind::Http2 => request,
                Kind::Fresh | Kind::Kept => request.uri("/").header("host", "a.test"),
            };
            let request = request.body(Body::default()).unwrap();
            let answer = timeout(FOREVER, sender.ask(request)).await.expect("an answer in time");
            let Some(answer) = answer else { continue };
            assert_eq!((answer.status, answer.backend()), (StatusCode::OK, self.home.clone()));
            let closes = answer.header("connection") == "close";
            self.kept = (self.kind != Kind::Fresh && !closes).then_some(sender);
            return;
        }
    }

    /// Sends until it is stopped. How many requests were answered.
    async fn run(mut self, number: usize, stopped: watch::Receiver<bool>) -> usize {
        let mut served = 0;
        while !*stopped.borrow() {
            self.request().await;
            served += 1;
            if self.kind != Kind::Fresh && served % 8 == 0 {
                // Longer than a stop keeps idle connections.
                sleep(Duration::from_millis(250 + 40 * number as u64)).await;
            }
        }
        served
    }
}

/// An upgraded connection.
async fn tunnel(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = "GET / HTTP/1.1\r\nhost: a.test\r\ncookie: SERVER_ID=ws\r\nconnection: upgrade\r\n\
                   upgrade: shout\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let head = read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    stream
}

async fn shout(stream: &mut TcpStream) {
    stream.write_all(b"still there").await.unwrap();
    let mut answer = [0; 11];
    let read = timeout(FOREVER, stream.read_exact(&mut answer)).await;
    read.expect("an echo in time").expect("the tunnel is open");
    assert_eq!(&answer, b"STILL THERE");
}

/// A listener with TLS, and clients that trust it.
fn tls() -> (Files, String, Arc<ClientConfig>) {
    let authority = Authority::new("ca");
    let identity = authority.sign(&["a.test"]);
    let files = Files::new();
    let (cert, key) = files.identity(&identity);
    let listener = format!(
        "[[listener]]\naddress = \"localhost:0\"\ntls = {{ certificates = [{{ cert = {cert:?}, key = {key:?} }}] }}\n"
    );
    let config = authority.client_config(rustls::DEFAULT_VERSIONS).with_no_client_auth();
    (files, listener, Arc::new(config))
}

/// Two of each kind, without and with TLS, and more of those in clear text.
fn clients(line: &Line, config: &Arc<ClientConfig>) -> Vec<Client> {
    let kinds = [Kind::Fresh, Kind::Kept, Kind::Http2];
    let client = |number: usize| {
        let encrypted = (number % 5 >= 3).then(|| (line.addr(1), config.clone()));
        let home = if number.is_multiple_of(2) { "a" } else { "b" };
        Client {
            way: Way { plain: line.addr(0), encrypted },
            kind: kinds[number % kinds.len()],
            cookie: format!("SERVER_ID={home}"),
            home: home.to_owned(),
            kept: None,
        }
    };
    (0..CLIENTS).map(client).collect()
}

/// Runs clients until they are stopped, on this thread: hyper may never answer a request that is sent while another
/// thread drops its connection (hyper, issue 4122). How many requests each was answered.
fn run(clients: Vec<Client>, stopped: &watch::Receiver<bool>) -> Vec<usize> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let clients = clients.into_iter().enumerate();
        let runs = clients.map(|(number, client)| client.run(number, stopped.clone()));
        runs.collect::<JoinSet<_>>().join_all().await
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn twenty_restarts_lose_nothing() {
    let (a, b, ws) = (echo("a").await, echo("b").await, upgrading().await);
    let (_files, listener, config) = tls();
    let file = format!(
        "admin = \"127.0.0.1:0\"\n[[listener]]\naddress = \"127.0.0.1:0\"\n{listener}\
         [[affinity]]\ntype = \"cookie\"\nformat = \"plain\"\n{}{}{}weight = 0\n",
        a.entry("a"),
        b.entry("b"),
        ws.entry("ws")
    );
    let mut line = Line::start(&file, 2).await;
    line.patch("b", &json!({ "mode": "draining", "deadline": "1h" })).await;
    let before = line.backends().await;
    let mut tunnels = Vec::new();
    for _ in 0..CLIENTS {
        tunnels.push(tunnel(line.addr(0)).await);
    }
    let (stop, stopped) = watch::channel(false);
    let clients = clients(&line, &config);
    let clients = spawn_blocking(move || run(clients, &stopped));
    for _ in 0..RESTARTS {
        line.restart().await;
        sleep(Duration::from_millis(50)).await;
    }
    stop.send_replace(true);
    for served in clients.await.expect("nothing was lost") {
        assert!(served >= RESTARTS / 2);
    }
    assert_eq!(get(line.admin, "/stats").await.json()["moves"], 0);
    assert_eq!(line.backends().await, before, "the drain goes on");
    for tunnel in &mut tunnels {
        shout(tunnel).await;
    }
    until(&line, 2, "only the first one has connections left").await;
    drop(tunnels);
    until(&line, 1, "the first one ends with its last connection").await;
}

async fn until(line: &Line, processes: usize, why: &str) {
    let deadline = Instant::now() + FOREVER;
    while line.processes().len() > processes {
        assert!(Instant::now() < deadline, "{why}: {:?}", line.processes());
        sleep(Duration::from_millis(50)).await;
    }
}
