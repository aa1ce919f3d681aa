//! A mesh of Tonic servers that forward calls to each other.

use std::collections::BTreeMap;

use tonic::{
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint, Server as Grpc, server::TcpIncoming},
};
use tower::Service;
use tower_sticky::{
    Backends, KeyRing, StickyLayer,
    affinity::{Affinity, Header, Key},
    grpc::GrpcChannel,
};

use crate::{
    greeter::{GreeterClient, GreeterServer},
    server::Server,
    support::{Node, TOKEN, call, channel, hello, keys, let_runtime_notice, token, with_token},
};

const NAMES: [&str; 3] = ["node-a", "node-b", "node-c"];

struct Mesh {
    nodes: Vec<Node>,
    servers: Vec<Server>,
    urls: Vec<String>,
}

/// A backend through which a node calls another.
trait Peer:
    Service<
        http::Request<tonic::body::Body>,
        Response = http::Response<tonic::body::Body>,
        Error: Into<tower_sticky::BoxError>,
        Future: Send,
    > + Clone
    + Send
    + Sync
    + 'static
{
}

impl Peer for Channel {}
impl Peer for GrpcChannel {}

/// Starts a node.
fn start(
    node: Node,
    listener: std::net::TcpListener,
    peers: Backends<impl Peer>,
    affinity: impl Affinity,
) -> Server {
    let sticky = StickyLayer::new(peers, affinity).local(node.name);
    Server::on(listener, move |listener| {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = GreeterServer(node);
        Grpc::builder().layer(sticky).add_service(service).serve_with_incoming(incoming)
    })
}

fn mesh<P: Peer, A: Affinity>(peer: impl Fn(&str) -> P, affinity: impl Fn() -> A) -> Mesh {
    let listeners = NAMES.map(|_| Server::bind("127.0.0.1:0"));
    let urls: Vec<_> =
        listeners.iter().map(|l| format!("http://{}", l.local_addr().unwrap())).collect();
    let nodes: Vec<_> = NAMES.into_iter().map(Node::new).collect();
    let servers = nodes.iter().zip(listeners).map(|(node, listener)| {
        // A node does not call itself, so its own entry is not used.
        let url = |name: &str, url| {
            if name == node.name { peer("http://127.0.0.1:1") } else { peer(url) }
        };
        let peers = NAMES.iter().zip(&urls).map(|(name, address)| (*name, url(name, address)));
        start(node.clone(), listener, Backends::from_iter(peers), affinity())
    });
    Mesh { servers: servers.collect(), nodes, urls }
}

impl Mesh {
    /// A client of one node, without affinity.
    fn client(&self, entry: usize) -> GreeterClient<Channel> {
        GreeterClient::new(plain(&self.urls[entry]))
    }

    fn calls(&self) -> usize {
        self.nodes.iter().map(Node::calls).sum()
    }

    /// Calls each node in `entries` with a token. Returns the servers that have responded, and the last
    /// token.
    async fn call_each(
        &self,
        entries: &[usize],
        mut pin: Option<AsciiMetadataValue>,
    ) -> (Vec<String>, Option<AsciiMetadataValue>) {
        let mut servers = Vec::new();
        for entry in entries {
            let request = with_token(hello("x"), pin.as_ref());
            let reply = self.client(*entry).say_hello(request).await.unwrap();
            pin = token(reply.metadata()).or(pin);
            servers.push(reply.into_inner().server);
        }
        (servers, pin)
    }
}

fn plain(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).unwrap().connect_lazy()
}

fn sealed(keys: &KeyRing) -> impl Fn() -> Header {
    let keys = keys.clone();
    move || Header::sealed(TOKEN, keys.clone())
}

#[tokio::test]
async fn every_node_forwards_a_session_to_its_owner() {
    let mesh = mesh(channel, sealed(&keys()));
    let mut owners = BTreeMap::<_, usize>::new();
    for session in 0..6 {
        let first = session % 3;
        let (servers, pin) = mesh.call_each(&[first, 0, 1, 2, 2, 1, 0], None).await;
        assert_eq!(servers, vec![servers[0].clone(); 7], "all nodes agree on the owner");
        assert!(pin.is_some());
        *owners.entry(servers[0].clone()).or_default() += 1;
        // Errors and streams are forwarded too.
        let status = mesh.client(first).say_hello(with_token(hello("fail"), pin.as_ref())).await;
        assert_eq!(status.unwrap_err().code(), tonic::Code::NotFound);
        let stream = tokio_stream::iter(vec![hello("x"); 3]);
        let reply = mesh.client((first + 1) % 3).collect(with_token(stream, pin.as_ref())).await;
        assert_eq!(reply.unwrap().into_inner().server, servers[0]);
    }
    assert_eq!(mesh.calls(), 6 * 9, "each call is served once");
}

#[tokio::test]
async fn every_node_forwards_a_key_to_its_owner_over_plain_channels() {
    let mesh = mesh(plain, || Key::header("x-user-id"));
    let mut owners = BTreeMap::<_, usize>::new();
    for user in ["ann", "ben", "cleo", "dan", "eve", "fay", "gus", "hal"] {
        let mut servers = Vec::new();
        for entry in 0..3 {
            let request = call(hello("x"), "x-user-id", user);
            servers.push(mesh.client(entry).say_hello(request).await.unwrap().into_inner().server);
        }
        assert_eq!(servers, vec![servers[0].clone(); 3], "{user}");
        *owners.entry(servers[0].clone()).or_default() += 1;
    }
    assert!(owners.len() > 1, "{owners:?}");
    assert_eq!(mesh.calls(), 8 * 3);
}

#[tokio::test]
async fn a_session_moves_when_its_owner_is_killed_and_stays_there() {
    let keys = keys();
    let mut mesh = mesh(channel, sealed(&keys));
    let (servers, pin) = mesh.call_each(&[0, 1, 2], None).await;
    let owner = NAMES.iter().position(|name| *name == servers[0]).unwrap();
    let others = [(owner + 1) % 3, (owner + 2) % 3];
    mesh.servers[owner].kill();
    let_runtime_notice().await;

    let (servers, moved) =
        mesh.call_each(&[others[0], others[1], others[0], others[1]], pin.clone()).await;
    assert_eq!(servers, vec![servers[0].clone(); 4], "the session has a new owner");
    assert_ne!(servers[0], NAMES[owner]);
    assert_ne!(moved, pin, "the session has a new token");

    let addr = mesh.urls[owner].strip_prefix("http://").unwrap();
    let peers = NAMES.iter().zip(&mesh.urls).map(|(name, url)| (*name, channel(url)));
    let peers: Backends<GrpcChannel> = Backends::from_iter(peers);
    let node = mesh.nodes[owner].clone();
    mesh.servers[owner] = start(node, Server::bind(addr), peers, sealed(&keys)());
    let (responded, last) =
        mesh.call_each(&[owner, others[0], owner, others[1]], moved.clone()).await;
    assert_eq!(responded, vec![servers[0].clone(); 4], "the session stays on its new owner");
    assert_eq!(last, moved);
    let (new, _) = mesh.call_each(&[owner], None).await;
    assert!(NAMES.contains(&&*new[0]), "the restarted node accepts new sessions");
}
