//! Calls that were not sent fail over unchanged. No other calls are repeated.

use std::{collections::BTreeSet, time::Duration};

use bytes::Bytes;
use tokio_stream::StreamExt;
use tonic::{Code, transport::Endpoint};
use tower::{Service, ServiceExt};
use tower_sticky::{
    Backends, Reason, StickyLayer, Verdict,
    affinity::{Header, Key},
    grpc::GrpcChannel,
    strategy::RoundRobin,
};
use tower_sticky_heavy_tests::in_time;

use crate::{
    greeter::{GreeterClient, HelloReply},
    server::Server,
    support::{
        Node, TOKEN, channel, cluster, hello, keys, let_runtime_notice, refusing, token,
        with_payload, with_token,
    },
};

/// A pool whose first backend refuses connections.
fn with_a_refusing_backend() -> (Node, Server, StickyLayer<GrpcChannel>) {
    let node = Node::new("b");
    let server = node.serve();
    let backends = Backends::from_iter([("a", refusing()), ("b", channel(&server.url()))]);
    let layer = StickyLayer::new(backends, Key::header("x-user-id")).strategy(RoundRobin::new());
    (node, server, layer)
}

#[tokio::test]
async fn a_call_that_could_not_connect_fails_over_with_its_messages() {
    let payload = Bytes::from(vec![7; 1 << 20]);
    for kind in 0..4 {
        let (node, _server, layer) = with_a_refusing_backend();
        let session = layer.into_service().session();
        let mut client = GreeterClient::new(session.clone());
        let one = || with_payload(payload.clone());
        let two = || tokio_stream::iter([with_payload(payload.clone()), with_payload("end")]);
        let replies: Vec<HelloReply> = match kind {
            0 => vec![client.say_hello(one()).await.unwrap().into_inner()],
            1 => {
                let stream = client.watch(one()).await.unwrap().into_inner();
                stream.map(|reply| reply.unwrap()).collect().await
            }
            2 => {
                let reply = client.collect(two()).await.unwrap().into_inner();
                assert_eq!(reply.payload.len(), payload.len() + 3);
                vec![HelloReply { payload: reply.payload.slice(..payload.len()), ..reply }]
            }
            _ => {
                let stream = client.chat(two()).await.unwrap().into_inner();
                stream.map(|reply| reply.unwrap()).take(1).collect().await
            }
        };
        for reply in replies {
            assert_eq!((&*reply.server, &reply.payload), ("b", &payload), "kind {kind}");
        }
        let outcome = session.outcome().unwrap();
        assert_eq!(outcome.reason(), Some(Reason::ConnectFailed), "kind {kind}");
        assert_eq!(node.calls(), 1, "the call is served once");
    }
}

#[tokio::test]
async fn a_session_moves_once_when_its_server_is_killed() {
    let mut cluster = cluster(["a", "b", "c"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Header::sealed(TOKEN, keys()));
    let sticky = layer.into_service();
    let mut by_token = GreeterClient::new(sticky.clone());
    let reply = by_token.say_hello(hello("x")).await.unwrap();
    let pin = token(reply.metadata());
    let pinned = reply.into_inner().server;
    let session = sticky.session_named("ann");
    let mut by_session = GreeterClient::new(session.clone());
    by_session.say_hello(hello("x")).await.unwrap();

    cluster.kill(&pinned).await;
    let reply = by_token.say_hello(with_token(hello("x"), pin.as_ref())).await.unwrap();
    let moved = token(reply.metadata()).expect("the session has moved");
    let new_server = reply.into_inner().server;
    assert_ne!(new_server, pinned);
    for _ in 0..3 {
        let reply = by_token.say_hello(with_token(hello("x"), Some(&moved))).await.unwrap();
        assert_eq!(
            (token(reply.metadata()), reply.into_inner().server),
            (None, new_server.clone())
        );
    }

    let pinned = session.backend().unwrap();
    if cluster.node(pinned.as_str()).name != new_server {
        cluster.kill(pinned.as_str()).await;
    }
    let servers = [(); 3].map(|()| by_session.clone());
    let mut used = BTreeSet::new();
    for mut client in servers {
        used.insert(client.say_hello(hello("x")).await.unwrap().into_inner().server);
    }
    assert_eq!(used.len(), 1, "all calls reach one server");
    assert_eq!(cluster.backends.snapshot().stats.violations(), 0);
}

#[tokio::test]
async fn a_stream_of_a_killed_server_ends_and_the_next_call_fails_over() {
    let mut cluster = cluster(["a", "b"]);
    let session = cluster.session();
    let mut client = GreeterClient::new(session.clone());
    let mut stream = client.watch(hello("wait")).await.unwrap().into_inner();
    let pinned = stream.message().await.unwrap().unwrap().server;
    cluster.kill(&pinned).await;
    in_time("the stream ends", stream.message()).await.unwrap_err();
    assert_eq!(cluster.calls(), 1, "a started stream is not repeated");
    let server = client.say_hello(hello("x")).await.unwrap().into_inner().server;
    assert_ne!(server, pinned);
    assert_eq!(session.outcome().unwrap().verdict(), Verdict::Moved);
}

#[tokio::test]
async fn a_restarted_server_is_connected_again() {
    let node = Node::new("a");
    let mut server = node.serve();
    let addr = server.addr.to_string();
    let mut backend = channel(&server.url());
    let mut client = GreeterClient::new(backend.clone());
    client.say_hello(hello("x")).await.unwrap();
    server.kill();
    let_runtime_notice().await;
    let status = client.say_hello(hello("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    let _server = node.serve_on(Server::bind(&addr));
    client.say_hello(hello("x")).await.unwrap();
    <GrpcChannel as ServiceExt<http::Request<tonic::body::Body>>>::ready(&mut backend)
        .await
        .unwrap();
    GreeterClient::new(backend).say_hello(hello("x")).await.unwrap();
}

#[test]
fn a_channel_whose_worker_has_ended_is_replaced() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = Node::new("a");
    let server = node.serve();
    let plain =
        runtime().block_on(async { Endpoint::from_shared(server.url()).unwrap().connect_lazy() });
    let replaced = channel(&server.url());
    runtime().block_on(async {
        GreeterClient::new(replaced.clone()).say_hello(hello("x")).await.unwrap();
    });
    // The runtimes of both channels have ended.
    runtime().block_on(async {
        let failed = GreeterClient::new(plain).say_hello(hello("x")).await;
        assert!(failed.is_err(), "a plain channel is not replaced");
        let mut others = [replaced.clone(), replaced.clone(), replaced];
        for backend in &mut others {
            GreeterClient::new(backend.clone()).say_hello(hello("x")).await.unwrap();
        }
    });
    assert_eq!(node.calls(), 4);
}

#[test]
fn a_call_without_a_runtime_is_an_error() {
    let mut backend = channel("http://127.0.0.1:1");
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let ready = Service::<http::Request<tonic::body::Body>>::poll_ready(&mut backend, &mut cx);
    assert!(matches!(ready, std::task::Poll::Ready(Err(_))));
    let answer = Service::call(&mut backend, http::Request::new(tonic::body::Body::empty()));
    let mut answer = std::pin::pin!(answer);
    assert!(matches!(answer.as_mut().poll(&mut cx), std::task::Poll::Ready(Err(_))));
}

#[test]
fn invalid_urls_are_errors() {
    for url in ["10.0.0.1:1", "https://a:1", "/x", "unix:/x", "", "http://"] {
        let error = GrpcChannel::new(url).unwrap_err().to_string();
        assert!(error.contains("use http://host:port"), "{error}");
    }
    let backend = GrpcChannel::new("http://[::1]:50051").unwrap();
    assert_eq!(backend.uri(), "http://[::1]:50051");
}

#[tokio::test]
async fn a_call_fails_over_after_the_connect_timeout() {
    // The backlog of the listener is full, so connecting hangs.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let addr = listener.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(Ok(filler)) =
        tokio::time::timeout(Duration::from_millis(200), tokio::net::TcpStream::connect(addr)).await
    {
        fillers.push(filler);
    }
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).unwrap();
    let short = endpoint.clone().connect_timeout(Duration::from_millis(50));
    for hung in [GrpcChannel::from(short), GrpcChannel::from(endpoint)] {
        let node = Node::new("b");
        let server = node.serve();
        let backends = Backends::from_iter([("a", hung), ("b", channel(&server.url()))]);
        let layer = StickyLayer::new(backends, Key::header("x-user-id"));
        let sticky = layer.strategy(RoundRobin::new()).into_service();
        let mut client = GreeterClient::new(sticky.session());
        let reply = in_time("the response", client.say_hello(with_payload("whole"))).await.unwrap();
        assert_eq!((&*reply.get_ref().server, &*reply.get_ref().payload), ("b", &b"whole"[..]));
        assert_eq!(node.calls(), 1);
    }
}
