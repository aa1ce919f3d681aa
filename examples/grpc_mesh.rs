//! Three gRPC servers that are each other's peers: a client may call any of them, and is served by the one
//! that has its session. One of them is killed.
//!
//! ```text
//! cargo run --example grpc_mesh
//! ```

#![allow(missing_docs, unreachable_pub)]

#[path = "grpc/greeter.rs"]
mod greeter;
#[path = "grpc/node.rs"]
mod node;
#[path = "support/server.rs"]
mod server;

use std::error::Error;

use greeter::{GreeterClient, GreeterServer, HelloRequest};
use node::Node;
use server::Server;
use tonic::{
    Request,
    metadata::MetadataValue,
    transport::{Endpoint, Server as Grpc, server::TcpIncoming},
};
use tower_sticky::{Backends, KeyRing, StickyLayer, affinity, grpc::GrpcChannel};

const NAMES: [&str; 3] = ["node-a", "node-b", "node-c"];

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    // In production KeyRing::from_env("STICKY_KEY"), with the same keys on all nodes.
    let keys = KeyRing::generate()?;
    let (listeners, urls) = Server::bind_all(NAMES.len())?;
    let mut nodes = Vec::new();
    for (name, listener) in NAMES.into_iter().zip(listeners) {
        // Every node has the same list; `local` names the node itself.
        let peers = Backends::new();
        for (peer, url) in NAMES.iter().zip(&urls) {
            peers.insert(peer, GrpcChannel::new(url)?)?;
        }
        let affinity = affinity::Header::sealed("x-sticky", keys.clone());
        let sticky = StickyLayer::new(peers, affinity).local(name);
        nodes.push(Server::on(listener, move |listener| {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            let service = GreeterServer(Node::new(name));
            Grpc::builder().layer(sticky).add_service(service).serve_with_incoming(incoming)
        }));
    }

    let mut token: Option<MetadataValue<_>> = None;
    let mut owner = String::new();
    for round in 0..2 {
        for (name, url) in NAMES.iter().zip(&urls) {
            if round == 1 && owner == *name {
                continue;
            }
            let channel = Endpoint::from_shared(url.clone())?.connect_lazy();
            let mut request =
                Request::new(HelloRequest { name: "ann".into(), ..Default::default() });
            if let Some(token) = &token {
                request.metadata_mut().insert("x-sticky", token.clone());
            }
            let reply = GreeterClient::new(channel).say_hello(request).await?;
            let renewed = reply.metadata().get("x-sticky").cloned();
            let note = if renewed.is_some() { ", and gave a token" } else { "" };
            token = renewed.or(token);
            let reply = reply.into_inner();
            println!("  asked {name}: {} answered, call {}{note}", reply.server, reply.calls);
            if round == 0 {
                owner = reply.server;
            }
        }
        if round == 0
            && let Some(node) = NAMES.iter().position(|name| *name == owner)
        {
            nodes[node].kill();
            println!("{owner} is killed");
        }
    }
    Ok(())
}
