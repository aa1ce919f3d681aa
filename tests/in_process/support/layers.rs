//! Pools of nodes, and the layers in front of them.

use std::sync::atomic::Ordering::SeqCst;

use tower_sticky::{
    Backends, Key, KeyRing, StickyLayer, StickyService,
    affinity::{Affinity, Cookie},
    strategy::{Candidates, RoundRobin, Strategy},
};

use super::{Client, Node};

/// A pool of nodes with these names, and the nodes.
pub fn nodes<const N: usize>(names: [&'static str; N]) -> (Backends<Node>, [Node; N]) {
    let nodes = names.map(Node::new);
    (Backends::from_iter(nodes.iter().map(|node| (node.name, node.clone()))), nodes)
}

pub fn keys() -> KeyRing {
    KeyRing::new([Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap()]).unwrap()
}

pub fn plain(backends: &Backends<Node>) -> StickyLayer<Node> {
    layer(backends, Cookie::plain("sid"))
}

pub fn sealed(backends: &Backends<Node>) -> StickyLayer<Node> {
    layer(backends, Cookie::sealed("sid", keys()))
}

/// A pool of nodes behind a sealed cookie, and a client with a session on the first of them.
pub async fn sealed_session<const N: usize>(
    names: [&'static str; N],
) -> (Backends<Node>, [Node; N], StickyService<Node>, Client) {
    let (backends, nodes) = nodes(names);
    let service = sealed(&backends).into_service();
    let client = Client::assigned(&service).await;
    (backends, nodes, service, client)
}

/// Round robin, with outcomes in the extensions of responses.
pub fn layer(backends: &Backends<Node>, affinity: impl Affinity) -> StickyLayer<Node> {
    StickyLayer::new(backends.clone(), affinity)
        .strategy(RoundRobin::new())
        .outcome_extensions(true)
}

/// Chooses the first candidate.
#[derive(Debug)]
pub struct First;

impl Strategy for First {
    fn choose(&self, _: &Candidates<'_>) -> usize {
        0
    }
}

pub fn refuse(node: &Node, refuses: bool) {
    node.control.refuses.store(refuses, SeqCst);
}
