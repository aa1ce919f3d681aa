//! An Axum gateway in front of gRPC servers, and tokens shared by gateways and client stacks.

use std::{collections::BTreeSet, time::Duration};

use axum::Router;
use bytes::Bytes;
use http::{Request, Response, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use tonic::{
    Code,
    transport::{Channel, Endpoint, Server as Grpc, server::TcpIncoming},
};
use tonic_web::GrpcWebLayer;
use tower::ServiceExt;
use tower_sticky::{
    Backends, KeyRing, Mode, StickyLayer, affinity::Header, proxy::Upstream, strategy::RoundRobin,
};
use tower_sticky_heavy_tests::{in_time, until};

use crate::{
    greeter::{GreeterClient, GreeterServer, HelloReply},
    server::Server,
    support::{Cluster, Node, TOKEN, call, cluster, hello, keys, token, with_payload, with_token},
};

/// An Axum gateway with HTTP/2 without TLS on both sides.
fn gateway(cluster: &Cluster, keys: &KeyRing) -> (Server, Backends<Upstream>) {
    let upstream = |server: &Server| Upstream::new(&server.url()).unwrap().http2(true);
    let backends = cluster.nodes.iter().zip(&cluster.servers);
    let backends =
        Backends::from_iter(backends.map(|(node, server)| (node.name, upstream(server))));
    (serve(backends.clone(), keys), backends)
}

fn serve(backends: Backends<Upstream>, keys: &KeyRing) -> Server {
    let layer = StickyLayer::new(backends, Header::sealed(TOKEN, keys.clone()));
    let app = Router::new().fallback_service(layer.strategy(RoundRobin::new()).into_service());
    Server::start(async move |listener| axum::serve(listener, app).await)
}

fn client(server: &Server) -> GreeterClient<Channel> {
    GreeterClient::new(Endpoint::from_shared(server.url()).unwrap().connect_lazy())
}

#[tokio::test]
async fn all_kinds_of_calls_pass_with_metadata_and_trailers() {
    let cluster = cluster(["a", "b", "c"]);
    let (gateway, backends) = gateway(&cluster, &keys());
    let mut client = client(&gateway);
    let mut used = BTreeSet::new();
    for _ in 0..3 {
        let reply = client.say_hello(with_payload(vec![1; 1 << 20])).await.unwrap();
        let pin = token(reply.metadata()).expect("a token in the initial metadata");
        assert_eq!(reply.get_ref().payload.len(), 1 << 20);
        let pinned = reply.into_inner().server;
        let stream = tokio_stream::iter(vec![hello("x"); 3]);
        let reply = client.collect(with_token(stream, Some(&pin))).await.unwrap().into_inner();
        assert_eq!((&reply.server, reply.calls), (&pinned, 3));
        let stream = tokio_stream::iter(vec![hello("x"); 3]);
        let mut chat = client.chat(with_token(stream, Some(&pin))).await.unwrap().into_inner();
        while let Some(reply) = chat.message().await.unwrap() {
            assert_eq!(reply.server, pinned);
        }
        assert!(chat.trailers().await.unwrap().is_some(), "the status is in the trailers");
        let status = client.watch(with_token(hello("fail"), Some(&pin))).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::NotFound, "no such name"));
        used.insert(pinned);
    }
    assert_eq!(used.len(), 3);
    let status = client.say_hello(hello("fail")).await.unwrap_err();
    assert!(token(status.metadata()).is_some(), "trailers-only answers have the token");
    for node in ["a", "b", "c"] {
        backends.set_mode(node, Mode::Disabled).unwrap();
    }
    let status = client.say_hello(hello("x")).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "an error of the gateway is a status");
}

#[tokio::test]
async fn deadlines_and_cancellation_pass_through_the_gateway() {
    let cluster = cluster(["a"]);
    let (gateway, backends) = gateway(&cluster, &keys());
    let mut client = client(&gateway);
    let node = cluster.node("a");
    let (mut limit, mut sent) = (Duration::from_millis(30), Vec::new());
    // On a slow machine a call may end before it reaches the server.
    while node.seen.timeouts.lock().unwrap().is_empty() {
        let mut request = tonic::Request::new(hello("wait"));
        request.set_timeout(limit);
        sent.push(request.metadata().get("grpc-timeout").unwrap().to_str().unwrap().to_owned());
        in_time("the call is cancelled", client.say_hello(request)).await.unwrap_err();
        limit *= 2;
    }
    let seen = || node.seen.timeouts.lock().unwrap().clone();
    until("the server cancels the call", || node.cancelled() == seen().len()).await;
    assert!(seen().iter().all(|timeout| sent.contains(timeout)), "{:?}", seen());
    let before = node.cancelled();

    let mut stream = client.watch(hello("wait")).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();
    drop(stream);
    until("the stream is cancelled", || node.cancelled() == before + 1).await;
    until("nothing is in flight", || backends.get("a").unwrap().in_flight == 0).await;
}

#[tokio::test]
async fn a_token_is_valid_in_gateways_and_in_clients() {
    let cluster = cluster(["a", "b", "c"]);
    let keys = keys();
    let (gateway, backends) = gateway(&cluster, &keys);
    let mut through_gateway = client(&gateway);
    let layer = StickyLayer::new(cluster.backends.clone(), Header::sealed(TOKEN, keys));
    let mut direct = GreeterClient::new(layer.strategy(RoundRobin::new()).into_service());
    for _ in 0..3 {
        let reply = through_gateway.say_hello(hello("x")).await.unwrap();
        let (pin, pinned) = (token(reply.metadata()), reply.into_inner().server);
        let reply = direct.say_hello(with_token(hello("x"), pin.as_ref())).await.unwrap();
        assert_eq!((token(reply.metadata()), reply.into_inner().server), (None, pinned));
    }
    direct.say_hello(hello("x")).await.unwrap();
    for _ in 0..3 {
        let reply = direct.say_hello(hello("x")).await.unwrap();
        let (pin, pinned) = (token(reply.metadata()), reply.into_inner().server);
        let reply = through_gateway.say_hello(with_token(hello("x"), pin.as_ref())).await.unwrap();
        assert_eq!((token(reply.metadata()), reply.into_inner().server), (None, pinned));
    }
    let violations = backends.snapshot().stats.violations();
    assert_eq!((violations, cluster.backends.snapshot().stats.violations()), (0, 0));
}

/// A unary gRPC-Web call over HTTP/1.1, with the trailers in the body.
async fn call_grpc_web(gateway: &Server, pin: Option<&str>) -> Response<Bytes> {
    let message = prost::Message::encode_to_vec(&hello("x"));
    let mut frame = vec![0];
    frame.extend((message.len() as u32).to_be_bytes());
    frame.extend(message);
    let mut request = Request::post(format!("{}/hello.Greeter/SayHello", gateway.url()))
        .header(CONTENT_TYPE, "application/grpc-web+proto")
        .header("x-grpc-web", "1")
        .body(Full::new(Bytes::from(frame)))
        .unwrap();
    if let Some(pin) = pin {
        request.headers_mut().insert(TOKEN, pin.parse().unwrap());
    }
    let answer = Upstream::new(&gateway.url()).unwrap().oneshot(request).await.unwrap();
    let (parts, body) = answer.into_parts();
    Response::from_parts(parts, body.collect().await.unwrap().to_bytes())
}

#[tokio::test]
async fn grpc_web_calls_of_a_session_reach_one_server() {
    let servers = ["a", "b", "c"].map(|name| {
        let server = Server::start(move |listener| {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Grpc::builder()
                .accept_http1(true)
                .layer(GrpcWebLayer::new())
                .add_service(GreeterServer(Node::new(name)))
                .serve_with_incoming(incoming)
        });
        (name, server)
    });
    let backends =
        servers.iter().map(|(name, server)| (*name, Upstream::new(&server.url()).unwrap()));
    let gateway = serve(Backends::from_iter(backends), &keys());
    let mut used = BTreeSet::new();
    for _ in 0..3 {
        let first = call_grpc_web(&gateway, None).await;
        let pin = first.headers()[TOKEN].to_str().unwrap();
        let pinned = reply(&first).server;
        for _ in 0..3 {
            let next = call_grpc_web(&gateway, Some(pin)).await;
            assert_eq!(reply(&next).server, pinned);
            assert!(!next.headers().contains_key(TOKEN));
        }
        used.insert(pinned);
    }
    assert_eq!(used.len(), 3);
}

fn reply(answer: &Response<Bytes>) -> HelloReply {
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()[CONTENT_TYPE], "application/grpc-web+proto");
    let body = answer.body();
    let length = u32::from_be_bytes(body[1..5].try_into().unwrap()) as usize;
    let trailers = String::from_utf8_lossy(&body[5 + length..]);
    assert!(trailers.contains("grpc-status:0"), "{trailers}");
    prost::Message::decode(&body[5..5 + length]).unwrap()
}

#[tokio::test]
async fn metadata_of_the_caller_reaches_the_server() {
    let cluster = cluster(["a"]);
    let (gateway, _) = gateway(&cluster, &keys());
    let reply = client(&gateway).say_hello(call(hello("x"), "x-user-id", "ann")).await.unwrap();
    assert_eq!(reply.into_inner().server, "a");
}
