//! A gRPC client of three servers: each user, and each session, is served by one of them. One server is
//! killed.
//!
//! ```text
//! cargo run --example grpc_client
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
    Code, Request,
    transport::{Server as Grpc, server::TcpIncoming},
};
use tower_sticky::{Backends, StickyLayer, affinity, grpc::GrpcChannel};

const NAMES: [&str; 3] = ["a", "b", "c"];

fn start(name: &'static str) -> Server {
    Server::start(move |listener| {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = GreeterServer(Node::new(name));
        Grpc::builder().add_service(service).serve_with_incoming(incoming)
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut servers = NAMES.map(start);

    let backends = Backends::new();
    for (name, server) in NAMES.iter().zip(&servers) {
        backends.insert(name, GrpcChannel::new(&server.url())?)?;
    }
    let sticky = StickyLayer::new(backends, affinity::Key::header("x-user-id")).into_service();

    println!("by user: the metadata x-user-id decides");
    let mut by_user = GreeterClient::new(sticky.clone());
    for user in ["ann", "ben", "cleo", "dan"] {
        let mut places = Vec::new();
        for _ in 0..3 {
            let mut request =
                Request::new(HelloRequest { name: user.into(), ..Default::default() });
            request.metadata_mut().insert("x-user-id", user.parse()?);
            let reply = by_user.say_hello(request).await?.into_inner();
            places.push(format!("{} ({})", reply.server, reply.calls));
        }
        println!("  {user:5} server (calls there): {}", places.join(", "));
    }

    println!("by session: each client stays where it began, by itself");
    let sessions = [sticky.session(), sticky.session(), sticky.session()];
    for (number, session) in sessions.iter().enumerate() {
        let mut client = GreeterClient::new(session.clone());
        let mut places = Vec::new();
        for _ in 0..3 {
            places.push(client.say_hello(hello(number)).await?.into_inner().server);
        }
        println!("  session {number}: {}", places.join(", "));
    }

    let session = &sessions[0];
    let backend = session.backend().ok_or("the session has no server")?;
    for (name, server) in NAMES.iter().zip(&mut servers) {
        if backend == *name {
            server.kill();
        }
    }
    println!("server {backend} of session 0 is killed");
    let mut client = GreeterClient::new(session.clone());
    let mut reply = client.say_hello(hello(0)).await;
    // A call that was sent before the connection was seen to end may have been executed. Only the caller
    // knows whether it may be sent again: this one may.
    if reply.as_ref().is_err_and(|status| status.code() == Code::Unavailable) {
        reply = client.say_hello(hello(0)).await;
    }
    let reply = reply?.into_inner();
    println!("  the next call is answered all the same: by {}", reply.server);
    if let Some(outcome) = session.outcome() {
        let reason = outcome.reason().map(|reason| reason.to_string()).unwrap_or_default();
        println!("  what became of it: {}, because: {reason}", outcome.verdict());
    }
    let reply = client.say_hello(hello(0)).await?.into_inner();
    println!("  and there it stays: {}, call {}", reply.server, reply.calls);
    Ok(())
}

fn hello(session: usize) -> HelloRequest {
    HelloRequest { name: format!("session {session}"), ..Default::default() }
}
