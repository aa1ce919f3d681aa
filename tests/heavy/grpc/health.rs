//! Servers that are ill while their channels say that they are ready: the probe finds them, and sessions
//! move.

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
    support::{Node, channel, dead, hello, noticed},
};

/// A server with the health service, and what tells it how it is.
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

fn says_it_is_ready(backend: &GrpcChannel) -> bool {
    let mut cx = Context::from_waker(Waker::noop());
    let mut backend = backend.clone();
    let ready = Service::<http::Request<tonic::body::Body>>::poll_ready(&mut backend, &mut cx);
    matches!(ready, Poll::Ready(Ok(())))
}

async fn is_found_down(backends: &Backends<GrpcChannel>, id: &str) {
    until("the probe finds it", || backends.get(id).unwrap().state == State::Down).await;
}

#[tokio::test]
async fn a_server_that_says_it_does_not_serve_loses_its_sessions_and_gets_new_ones_later() {
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
    let home = client.say_hello(hello("x")).await.unwrap().into_inner().server;

    let (_, (server, reporter)) = servers.iter().find(|(name, _)| *name == home).unwrap();
    reporter.set_service_status("hello.Greeter", ServingStatus::NotServing).await;
    is_found_down(&backends, &home).await;
    assert!(says_it_is_ready(&channel(&server.url())), "the channel knows nothing");
    let other = client.say_hello(hello("x")).await.unwrap().into_inner().server;
    assert_ne!(other, home);
    assert_eq!(session.outcome().unwrap().reason(), Some(Reason::Down));

    reporter.set_service_status("hello.Greeter", ServingStatus::Serving).await;
    until("it is well again", || backends.get(&home).unwrap().state == State::Ready).await;
    assert_eq!(client.say_hello(hello("x")).await.unwrap().into_inner().server, other, "it stays");
}

#[tokio::test]
async fn a_dead_port_a_dead_server_and_a_hung_one_are_found_and_no_call_is_tried_on_them() {
    let (well, reporter) = serve("well");
    let (mut dying, dying_reporter) = serve("dying");
    for reporter in [reporter, dying_reporter] {
        reporter.set_service_status("hello.Greeter", ServingStatus::Serving).await;
    }
    // It accepts connections, and says nothing.
    let hung = Server::start(async |listener| {
        let mut kept = Vec::new();
        while let Ok(connection) = listener.accept().await {
            kept.push(connection);
        }
    });
    let backends = Backends::from_iter([
        ("dead", dead()),
        ("dying", channel(&dying.url())),
        ("hung", channel(&hung.url())),
        ("well", channel(&well.url())),
    ]);
    let layer = probed(&backends);
    assert!(layer.start::<http::Request<tonic::body::Body>>());
    is_found_down(&backends, "dead").await;
    is_found_down(&backends, "hung").await;
    let sticky = layer.into_service();
    for _ in 0..4 {
        let mut client = GreeterClient::new(sticky.session());
        let server = client.say_hello(hello("x")).await.unwrap().into_inner().server;
        assert!(["dying", "well"].contains(&&*server), "{server}");
    }
    dying.kill();
    noticed().await;
    is_found_down(&backends, "dying").await;
    for (id, url) in [("dying", dying.url()), ("hung", hung.url())] {
        assert!(says_it_is_ready(&channel(&url)), "{id}: a channel says so all the same");
    }
    for _ in 0..4 {
        let mut client = GreeterClient::new(sticky.session());
        assert_eq!(client.say_hello(hello("x")).await.unwrap().into_inner().server, "well");
    }
}
