//! Servers whose behaviour depends on the name in the request, and helpers of the tests.

use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio_stream::{Stream, StreamExt};
use tonic::{
    Request, Response, Status, Streaming,
    metadata::{AsciiMetadataValue, MetadataMap},
    transport::{Server as Grpc, server::TcpIncoming},
};
use tower_sticky::{
    Backends, KeyRing, StickyLayer, StickySession, affinity::Key, grpc::GrpcChannel,
};

use crate::{
    greeter::{Greeter, GreeterServer, HelloReply, HelloRequest, Replies},
    server::Server,
};

pub const TOKEN: &str = "x-sticky";

/// A server, and what it has recorded.
#[derive(Clone)]
pub struct Node {
    pub name: &'static str,
    pub seen: Arc<Recorded>,
    /// Starts a graceful shutdown.
    pub shutdown: Arc<Notify>,
}

#[derive(Default)]
pub struct Recorded {
    /// Calls that reached the service.
    pub calls: AtomicUsize,
    /// Calls that were cancelled or have timed out.
    pub cancelled: AtomicUsize,
    /// Whether a request had a token.
    pub token: AtomicBool,
    pub timeouts: Mutex<Vec<String>>,
}

impl Node {
    pub fn new(name: &'static str) -> Self {
        Self { name, seen: Arc::default(), shutdown: Arc::default() }
    }

    pub fn calls(&self) -> usize {
        self.seen.calls.load(SeqCst)
    }

    pub fn cancelled(&self) -> usize {
        self.seen.cancelled.load(SeqCst)
    }

    pub fn serve(&self) -> Server {
        self.serve_on(Server::bind("127.0.0.1:0"))
    }

    pub fn serve_on(&self, listener: std::net::TcpListener) -> Server {
        let node = self.clone();
        Server::on(listener, move |listener| {
            let (shutdown, service) = (node.shutdown.clone(), GreeterServer(node));
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Grpc::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(incoming, async move { shutdown.notified().await })
        })
    }

    fn record(&self, metadata: &MetadataMap) {
        self.seen.calls.fetch_add(1, SeqCst);
        if metadata.contains_key(TOKEN) {
            self.seen.token.store(true, SeqCst);
        }
        if let Some(timeout) = metadata.get("grpc-timeout") {
            self.seen.timeouts.lock().unwrap().push(timeout.to_str().unwrap().to_owned());
        }
    }

    fn reply(&self, calls: u64, payload: Bytes) -> HelloReply {
        HelloReply { message: "hello".into(), server: self.name.into(), calls, payload }
    }

    async fn wait_forever(&self) -> Status {
        let _cancelled = Cancelled(self.seen.clone());
        pending().await
    }
}

struct Cancelled(Arc<Recorded>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, SeqCst);
    }
}

/// The name `fail` makes a call fail, `wait` makes it wait for ever, `flood` makes it return an endless
/// stream.
impl Greeter for Node {
    async fn say_hello(
        self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        self.record(request.metadata());
        let request = request.into_inner();
        match &*request.name {
            "fail" => Err(Status::not_found("no such name")),
            "wait" => Err(self.wait_forever().await),
            _ => Ok(Response::new(self.reply(1, request.payload))),
        }
    }

    async fn watch(self, request: Request<HelloRequest>) -> Result<Response<Replies>, Status> {
        self.record(request.metadata());
        let HelloRequest { name, payload } = request.into_inner();
        let first = tokio_stream::once(Ok(self.reply(1, payload.clone())));
        let rest: Pin<Box<dyn Stream<Item = _> + Send>> = match &*name {
            "fail" => return Err(Status::not_found("no such name")),
            "wait" => {
                Box::pin(futures_util::stream::once(async move { Err(self.wait_forever().await) }))
            }
            "flood" => {
                Box::pin(tokio_stream::iter(2..).map(move |n| Ok(self.reply(n, payload.clone()))))
            }
            _ => {
                Box::pin(tokio_stream::iter(2..=3).map(move |n| Ok(self.reply(n, payload.clone()))))
            }
        };
        Ok(Response::new(Box::pin(first.chain(rest))))
    }

    async fn collect(
        self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<HelloReply>, Status> {
        self.record(request.metadata());
        let mut requests = request.into_inner();
        let (mut calls, mut payload) = (0, Vec::new());
        while let Some(request) = requests.next().await {
            calls += 1;
            payload.extend_from_slice(&request?.payload);
        }
        Ok(Response::new(self.reply(calls, payload.into())))
    }

    async fn chat(
        self,
        request: Request<Streaming<HelloRequest>>,
    ) -> Result<Response<Replies>, Status> {
        self.record(request.metadata());
        let mut calls = 0;
        let replies = request.into_inner().map(move |request| {
            calls += 1;
            Ok(self.reply(calls, request?.payload))
        });
        Ok(Response::new(Box::pin(replies)))
    }
}

/// Running servers, and their pool.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub servers: Vec<Server>,
    pub backends: Backends<GrpcChannel>,
}

pub fn cluster<const N: usize>(names: [&'static str; N]) -> Cluster {
    let nodes: Vec<_> = names.into_iter().map(Node::new).collect();
    let servers: Vec<_> = nodes.iter().map(Node::serve).collect();
    let backends = pool(&nodes, &servers);
    Cluster { nodes, servers, backends }
}

/// A pool of these servers, with new channels.
pub fn pool(nodes: &[Node], servers: &[Server]) -> Backends<GrpcChannel> {
    let channels = nodes.iter().zip(servers);
    Backends::from_iter(channels.map(|(node, server)| (node.name, channel(&server.url()))))
}

impl Cluster {
    pub fn node(&self, name: &str) -> &Node {
        self.nodes.iter().find(|node| node.name == name).unwrap()
    }

    /// A session of its own over these servers.
    pub fn session(&self) -> StickySession<GrpcChannel> {
        let layer = StickyLayer::new(self.backends.clone(), Key::header("x-user-id"));
        layer.into_service().session()
    }

    pub async fn kill(&mut self, name: &str) {
        let position = self.nodes.iter().position(|node| node.name == name).unwrap();
        self.servers[position].kill();
        let_runtime_notice().await;
    }

    pub fn calls(&self) -> usize {
        self.nodes.iter().map(Node::calls).sum()
    }
}

/// Lets the runtime poll its sockets, and so notice which connections have ended.
pub async fn let_runtime_notice() {
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
}

pub fn channel(url: &str) -> GrpcChannel {
    GrpcChannel::new(url).unwrap()
}

/// A channel to a port that refuses connections.
pub fn refusing() -> GrpcChannel {
    let listener = Server::bind("127.0.0.1:0");
    channel(&format!("http://{}", listener.local_addr().unwrap()))
}

pub fn keys() -> KeyRing {
    KeyRing::generate().unwrap()
}

pub fn hello(name: &str) -> HelloRequest {
    HelloRequest { name: name.into(), payload: Bytes::new() }
}

pub fn with_payload(payload: impl Into<Bytes>) -> HelloRequest {
    HelloRequest { name: "ann".into(), payload: payload.into() }
}

/// A call with one field of metadata.
pub fn call<T>(message: T, name: &'static str, value: &str) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert(name, value.parse().unwrap());
    request
}

/// A call with a token, if there is one.
pub fn with_token<T>(message: T, token: Option<&AsciiMetadataValue>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(token) = token {
        request.metadata_mut().insert(TOKEN, token.clone());
    }
    request
}

pub fn token(metadata: &MetadataMap) -> Option<AsciiMetadataValue> {
    metadata.get(TOKEN).cloned()
}
