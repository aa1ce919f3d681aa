//! Tonic servers that are each other's peers.

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
    support::{Node, TOKEN, call, channel, hello, keys, noticed, token, with_token},
};

const NAMES: [&str; 3] = ["node-a", "node-b", "node-c"];

struct Mesh {
    nodes: Vec<Node>,
    servers: Vec<Server>,
    urls: Vec<String>,
}

/// One node; the nodes' backends may be of any kind.
fn join<S>(
    node: Node,
    place: std::net::TcpListener,
    peers: Backends<S>,
    affinity: impl Affinity,
) -> Server
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Error: Into<tower_sticky::BoxError>,
    S::Future: Send,
{
    let sticky = StickyLayer::new(peers, affinity).local(node.name);
    Server::on(place, move |listener| {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = GreeterServer(node);
        Grpc::builder().layer(sticky).add_service(service).serve_with_incoming(incoming)
    })
}

fn mesh<S, A>(peer: impl Fn(&str) -> S, affinity: impl Fn() -> A) -> Mesh
where
    S: Service<http::Request<tonic::body::Body>, Response = http::Response<tonic::body::Body>>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Error: Into<tower_sticky::BoxError>,
    S::Future: Send,
    A: Affinity,
{
    let places = NAMES.map(|_| Server::bind("127.0.0.1:0"));
    let urls: Vec<_> =
        places.iter().map(|place| format!("http://{}", place.local_addr().unwrap())).collect();
    let nodes: Vec<_> = NAMES.into_iter().map(Node::new).collect();
    let joined = nodes.iter().zip(places).map(|(node, place)| {
        // Nobody needs to reach himself, so a node's own entry may be anything.
        let url = |name: &str, url| {
            if name == node.name { peer("http://127.0.0.1:1") } else { peer(url) }
        };
        let peers = NAMES.iter().zip(&urls).map(|(name, place)| (*name, url(name, place)));
        join(node.clone(), place, Backends::from_iter(peers), affinity())
    });
    Mesh { servers: joined.collect(), nodes, urls }
}

impl Mesh {
    /// A client that knows one node and nothing of sessions.
    fn client(&self, entry: usize) -> GreeterClient<Channel> {
        GreeterClient::new(plain(&self.urls[entry]))
    }

    fn calls(&self) -> usize {
        self.nodes.iter().map(Node::calls).sum()
    }

    /// Asks each entry in `entries` with a token, and tells who answered and what token is valid now.
    async fn ask(
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
async fn any_node_is_an_entry_and_each_session_has_one_owner() {
    let mesh = mesh(channel, sealed(&keys()));
    let mut owners = BTreeMap::<_, usize>::new();
    for session in 0..6 {
        let first = session % 3;
        let (servers, pin) = mesh.ask(&[first, 0, 1, 2, 2, 1, 0], None).await;
        assert_eq!(servers, vec![servers[0].clone(); 7], "one owner, whoever is asked");
        assert!(pin.is_some());
        *owners.entry(servers[0].clone()).or_default() += 1;
        // Failures and streams pass between peers as well.
        let status = mesh.client(first).say_hello(with_token(hello("fail"), pin.as_ref())).await;
        assert_eq!(status.unwrap_err().code(), tonic::Code::NotFound);
        let stream = tokio_stream::iter(vec![hello("x"); 3]);
        let reply = mesh.client((first + 1) % 3).collect(with_token(stream, pin.as_ref())).await;
        assert_eq!(reply.unwrap().into_inner().server, servers[0]);
    }
    assert_eq!(mesh.calls(), 6 * 9, "each call is served once: no loops");
}

#[tokio::test]
async fn keys_are_owned_by_one_node_over_plain_channels_too() {
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
async fn an_owner_dies_and_starts_again() {
    let keys = keys();
    let mut mesh = mesh(channel, sealed(&keys));
    let (servers, pin) = mesh.ask(&[0, 1, 2], None).await;
    let owner = NAMES.iter().position(|name| *name == servers[0]).unwrap();
    let others = [(owner + 1) % 3, (owner + 2) % 3];
    mesh.servers[owner].kill();
    noticed().await;

    let (servers, moved) =
        mesh.ask(&[others[0], others[1], others[0], others[1]], pin.clone()).await;
    assert_eq!(servers, vec![servers[0].clone(); 4], "the session has a new owner");
    assert_ne!(servers[0], NAMES[owner]);
    assert_ne!(moved, pin, "and a new token");

    let addr = mesh.urls[owner].strip_prefix("http://").unwrap();
    let peers = NAMES.iter().zip(&mesh.urls).map(|(name, url)| (*name, channel(url)));
    let peers: Backends<GrpcChannel> = Backends::from_iter(peers);
    let node = mesh.nodes[owner].clone();
    mesh.servers[owner] = join(node, Server::bind(addr), peers, sealed(&keys)());
    let (back, kept) = mesh.ask(&[owner, others[0], owner, others[1]], moved.clone()).await;
    assert_eq!(
        back,
        vec![servers[0].clone(); 4],
        "it stays where it is, through the restarted node too"
    );
    assert_eq!(kept, moved);
    let (fresh, _) = mesh.ask(&[owner], None).await;
    assert!(NAMES.contains(&&*fresh[0]), "and that node takes new ones");
}
