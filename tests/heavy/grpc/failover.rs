//! A call that was not sent goes elsewhere, untouched; nothing else is repeated.

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
        Node, TOKEN, channel, cluster, dead, hello, keys, noticed, token, with_payload, with_token,
    },
};

/// Two pools' worth of trouble: the strategy's first choice is a port where nobody listens.
fn behind_a_dead_port() -> (Node, Server, StickyLayer<GrpcChannel>) {
    let node = Node::new("b");
    let server = node.serve();
    let backends = Backends::from_iter([("a", dead()), ("b", channel(&server.url()))]);
    let layer = StickyLayer::new(backends, Key::header("x-user-id")).strategy(RoundRobin::new());
    (node, server, layer)
}

#[tokio::test]
async fn a_call_that_could_not_connect_moves_with_its_messages_untouched() {
    let payload = Bytes::from(vec![7; 1 << 20]);
    for kind in 0..4 {
        let (node, _server, layer) = behind_a_dead_port();
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
        assert_eq!(node.calls(), 1, "once");
    }
}

#[tokio::test]
async fn a_session_whose_server_was_killed_between_calls_moves_and_stays() {
    let mut cluster = cluster(["a", "b", "c"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Header::sealed(TOKEN, keys()));
    let sticky = layer.into_service();
    let mut by_token = GreeterClient::new(sticky.clone());
    let reply = by_token.say_hello(hello("x")).await.unwrap();
    let pin = token(reply.metadata());
    let home = reply.into_inner().server;
    let session = sticky.session_named("ann");
    let mut by_session = GreeterClient::new(session.clone());
    by_session.say_hello(hello("x")).await.unwrap();

    cluster.kill(&home).await;
    let reply = by_token.say_hello(with_token(hello("x"), pin.as_ref())).await.unwrap();
    let moved = token(reply.metadata()).expect("the session has moved");
    let new_home = reply.into_inner().server;
    assert_ne!(new_home, home);
    for _ in 0..3 {
        let reply = by_token.say_hello(with_token(hello("x"), Some(&moved))).await.unwrap();
        assert_eq!((token(reply.metadata()), reply.into_inner().server), (None, new_home.clone()));
    }

    let home = session.backend().unwrap();
    if cluster.node(home.as_str()).name != new_home {
        cluster.kill(home.as_str()).await;
    }
    let servers = [(); 3].map(|()| by_session.clone());
    let mut places = BTreeSet::new();
    for mut client in servers {
        places.insert(client.say_hello(hello("x")).await.unwrap().into_inner().server);
    }
    assert_eq!(places.len(), 1, "it moved once, if at all");
    assert_eq!(cluster.backends.snapshot().stats.violations(), 0);
}

#[tokio::test]
async fn a_stream_whose_server_is_killed_ends_and_the_next_call_goes_elsewhere() {
    let mut cluster = cluster(["a", "b"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Key::header("x-user-id"));
    let session = layer.into_service().session();
    let mut client = GreeterClient::new(session.clone());
    let mut stream = client.watch(hello("wait")).await.unwrap().into_inner();
    let home = stream.message().await.unwrap().unwrap().server;
    cluster.kill(&home).await;
    in_time("the stream ends", stream.message()).await.unwrap_err();
    assert_eq!(cluster.calls(), 1, "a stream that has begun is not begun again");
    let server = client.say_hello(hello("x")).await.unwrap().into_inner().server;
    assert_ne!(server, home);
    assert_eq!(session.outcome().unwrap().verdict(), Verdict::Moved);
}

#[tokio::test]
async fn a_server_that_comes_back_on_its_port_is_connected_to_again() {
    let node = Node::new("a");
    let mut server = node.serve();
    let addr = server.addr.to_string();
    let mut backend = channel(&server.url());
    let mut client = GreeterClient::new(backend.clone());
    client.say_hello(hello("x")).await.unwrap();
    server.kill();
    noticed().await;
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
fn a_channel_whose_worker_ended_with_its_runtime_is_built_anew() {
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let node = Node::new("a");
    let server = node.serve();
    let plain =
        runtime().block_on(async { Endpoint::from_shared(server.url()).unwrap().connect_lazy() });
    let kept = channel(&server.url());
    runtime().block_on(async {
        GreeterClient::new(kept.clone()).say_hello(hello("x")).await.unwrap();
    });
    // Their runtimes are gone.
    runtime().block_on(async {
        let failed = GreeterClient::new(plain).say_hello(hello("x")).await;
        assert!(failed.is_err(), "a plain channel is dead for good");
        let mut others = [kept.clone(), kept.clone(), kept];
        for backend in &mut others {
            GreeterClient::new(backend.clone()).say_hello(hello("x")).await.unwrap();
        }
    });
    assert_eq!(node.calls(), 4);
}

#[test]
fn without_a_runtime_there_is_an_error_and_no_panic() {
    let mut backend = channel("http://127.0.0.1:1");
    let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
    let ready = Service::<http::Request<tonic::body::Body>>::poll_ready(&mut backend, &mut cx);
    assert!(matches!(ready, std::task::Poll::Ready(Err(_))));
    let answer = Service::call(&mut backend, http::Request::new(tonic::body::Body::empty()));
    let mut answer = std::pin::pin!(answer);
    assert!(matches!(answer.as_mut().poll(&mut cx), std::task::Poll::Ready(Err(_))));
}

#[test]
fn urls_are_checked() {
    for url in ["10.0.0.1:1", "https://a:1", "/x", "unix:/x", "", "http://"] {
        let error = GrpcChannel::new(url).unwrap_err().to_string();
        assert!(error.contains("use http://host:port"), "{error}");
    }
    let backend = GrpcChannel::new("http://[::1]:50051").unwrap();
    assert_eq!(backend.uri(), "http://[::1]:50051");
}

#[tokio::test]
async fn a_server_that_does_not_accept_is_left_after_the_connect_timeout() {
    // Its queue of connections is full, so that connecting hangs.
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
        let reply = in_time("an answer", client.say_hello(with_payload("whole"))).await.unwrap();
        assert_eq!((&*reply.get_ref().server, &*reply.get_ref().payload), ("b", &b"whole"[..]));
        assert_eq!(node.calls(), 1);
    }
}
