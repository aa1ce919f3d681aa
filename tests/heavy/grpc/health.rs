//! Probes detect servers that have failed although their channels are ready, and sessions fail over.

use std::{
    task::{Context, Poll, Waker},
    time::Duration,
};

use tonic::transport::{Server as Grpc, server::TcpIncoming};
use tonic_health::{ServingStatus, server::HealthReporter};
use tower::Service;
use tower_sticky::{
    Backends, GrpcProbe, Health, Reason, State, StickyLayer, affinity::Key, grpc::GrpcChannel,
    strategy::RoundRobin,
};
use tower_sticky_heavy_tests::until;

use crate::{
    greeter::{GreeterClient, GreeterServer},
    server::Server,
    support::{Node, channel, hello, let_runtime_notice, refusing},
};

/// A server with the health service, and the handle that sets its status.
fn serve(name: &'static str) -> (Server, HealthReporter) {
    let (reporter, health) = tonic_health::server::health_reporter();
    let server = Server::start(move |listener| {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let service = GreeterServer(Node::new(name));
        Grpc::builder().add_service(health).add_service(service).serve_with_incoming(incoming)
    });
    (server, reporter)
}

fn probed(backends: &Backends<GrpcChannel>) -> StickyLayer<GrpcChannel> {
    let probe = Health::new()
        .probe(GrpcProbe::new().service("hello.Greeter"))
        .probe_interval(Duration::from_millis(20))
        .probe_timeout(Duration::from_millis(500));
    StickyLayer::new(backends.clone(), Key::header("x-user-id"))
        .strategy(RoundRobin::new())
        .health(probe)
}

fn is_ready(backend: &GrpcChannel) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let mut backend = backend.clone();
    let ready = Service::<http::Request<tonic::body::Body>>::poll_ready(&mut backend, &mut cx);
    matches!(ready, Poll::Ready(Ok(())))
}

async fn until_down(backends: &Backends<GrpcChannel>, id: &str) {
    until("the probe fails", || backends.get(id).unwrap().state == State::Down).await;
}

#[tokio::test]
async fn sessions_of_a_server_that_is_not_serving_move() {
    let servers = ["a", "b"].map(|name| (name, serve(name)));
    for (_, (_, reporter)) in &servers {
        reporter.set_service_status("hello.Greeter", ServingStatus::Serving).await;
    }
    let backends = Backends::from_iter(
        servers.iter().map(|(name, (server, _))| (*name, channel(&server.url()))),
    );
    let sticky = probed(&backends).into_service();
    let session = sticky.session();
    let mut client = GreeterClient::new(session.clone());
    let pinned = client.say_hello(hello("x")).await.unwrap().into_inner().server;

    let (_, (server, reporter)) = servers.iter().find(|(name, _)| *name == pinned).unwrap();
    reporter.set_service_status("hello.Greeter", ServingStatus::NotServing).await;
    until_down(&backends, &pinned).await;
    assert!(is_ready(&channel(&server.url())), "the channel is ready");
    let other = client.say_hello(hello("x")).await.unwrap().into_inner().server;
    assert_ne!(other, pinned);
    assert_eq!(session.outcome().unwrap().reason(), Some(Reason::Down));

    reporter.set_service_status("hello.Greeter", ServingStatus::Serving).await;
    until("the backend is ready again", || backends.get(&pinned).unwrap().state == State::Ready)
        .await;
    assert_eq!(
        client.say_hello(hello("x")).await.unwrap().into_inner().server,
        other,
        "the session stays on the new server"
    );
}

#[tokio::test]
async fn no_call_is_sent_to_servers_that_refuse_connections_have_ended_or_hang() {
    let (healthy, reporter) = serve("healthy");
    let (mut dying, dying_reporter) = serve("dying");
    for reporter in [reporter, dying_reporter] {
        reporter.set_service_status("hello.Greeter", ServingStatus::Serving).await;
    }
    // Accepts connections and does not answer.
    let hung = Server::start(async |listener| {
        let mut connections = Vec::new();
        while let Ok(connection) = listener.accept().await {
            connections.push(connection);
        }
    });
    let backends = Backends::from_iter([
        ("dead", refusing()),
        ("dying", channel(&dying.url())),
        ("hung", channel(&hung.url())),
        ("healthy", channel(&healthy.url())),
    ]);
    let layer = probed(&backends);
    assert!(layer.start::<http::Request<tonic::body::Body>>());
    until_down(&backends, "dead").await;
    until_down(&backends, "hung").await;
    let sticky = layer.into_service();
    for _ in 0..4 {
        let mut client = GreeterClient::new(sticky.session());
        let server = client.say_hello(hello("x")).await.unwrap().into_inner().server;
        assert!(["dying", "healthy"].contains(&&*server), "{server}");
    }
    dying.kill();
    let_runtime_notice().await;
    until_down(&backends, "dying").await;
    for (id, url) in [("dying", dying.url()), ("hung", hung.url())] {
        assert!(is_ready(&channel(&url)), "the channel of {id} is ready");
    }
    for _ in 0..4 {
        let mut client = GreeterClient::new(sticky.session());
        assert_eq!(client.say_hello(hello("x")).await.unwrap().into_inner().server, "healthy");
    }
}
