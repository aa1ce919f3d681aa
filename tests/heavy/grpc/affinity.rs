//! Sessions are recognised by key, token or handle, and stay on their server.

use std::collections::{BTreeMap, BTreeSet};

use tokio_stream::StreamExt;
use tonic::transport::Endpoint;
use tower_sticky::{
    Backends, Mode, StickyLayer,
    affinity::{Header, Key},
    grpc::GrpcChannel,
    strategy::RoundRobin,
};

use crate::{
    greeter::GreeterClient,
    server::Server,
    support::{TOKEN, call, cluster, hello, keys, pool, token, with_payload, with_token},
};

#[tokio::test]
async fn plain_channels_work_by_key_and_by_session_handle() {
    let cluster = cluster(["a", "b"]);
    let plain = |n: usize| Endpoint::from_shared(cluster.servers[n].url()).unwrap().connect_lazy();
    let (channel_a, channel_b) = (plain(0), plain(1));

    let channels = Backends::from_iter([("a", channel_a), ("b", channel_b)]);
    let sticky = StickyLayer::new(channels, Key::header("x-user-id")).into_service();
    let mut client = GreeterClient::new(sticky.clone()); // by user
    let mut session = GreeterClient::new(sticky.session()); // or: this client remembers its pin

    let mut used = BTreeSet::new();
    for user in ["ann", "ben", "cleo", "dan", "eve", "fay"] {
        let mut servers = BTreeSet::new();
        for _ in 0..3 {
            let request = call(hello("x"), "x-user-id", user);
            servers.insert(client.say_hello(request).await.unwrap().into_inner().server);
        }
        assert_eq!(servers.len(), 1, "{user} has one server");
        used.extend(servers);
    }
    assert_eq!(used.len(), 2, "users are distributed over both servers");
    let pinned = session.say_hello(hello("x")).await.unwrap().into_inner().server;
    for _ in 0..5 {
        assert_eq!(session.say_hello(hello("x")).await.unwrap().into_inner().server, pinned);
    }
}

#[tokio::test]
async fn a_token_in_the_initial_metadata_pins_all_kinds_of_calls() {
    let cluster = cluster(["a", "b", "c"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Header::sealed(TOKEN, keys()))
        .strategy(RoundRobin::new());
    let mut client = GreeterClient::new(layer.into_service());
    let mut used = BTreeSet::new();
    for kind in 0..4 {
        let (metadata, pinned) = match kind {
            0 => {
                let reply = client.say_hello(hello("x")).await.unwrap();
                (reply.metadata().clone(), reply.into_inner().server)
            }
            1 => {
                let reply = client.watch(hello("x")).await.unwrap();
                let metadata = reply.metadata().clone();
                (metadata, reply.into_inner().next().await.unwrap().unwrap().server)
            }
            2 => {
                let reply = client.collect(tokio_stream::iter([hello("x")])).await.unwrap();
                (reply.metadata().clone(), reply.into_inner().server)
            }
            _ => {
                let reply = client.chat(tokio_stream::iter([hello("x")])).await.unwrap();
                let metadata = reply.metadata().clone();
                (metadata, reply.into_inner().next().await.unwrap().unwrap().server)
            }
        };
        let pin = token(&metadata).expect("the first response has a token");

        let reply = client.say_hello(with_token(hello("x"), Some(&pin))).await.unwrap();
        assert_eq!(token(reply.metadata()), None, "no new token is needed");
        assert_eq!(reply.get_ref().server, pinned);
        let reply = client.watch(with_token(hello("x"), Some(&pin))).await.unwrap();
        let replies: Vec<_> = reply.into_inner().map(|reply| reply.unwrap().server).collect().await;
        assert_eq!(replies, [&*pinned; 3], "a stream stays on its server");
        let stream = tokio_stream::iter([hello("x"), hello("y")]);
        let reply = client.collect(with_token(stream, Some(&pin))).await.unwrap().into_inner();
        assert_eq!((&reply.server, reply.calls), (&pinned, 2));
        let stream = tokio_stream::iter([hello("x"), hello("y")]);
        let reply = client.chat(with_token(stream, Some(&pin))).await.unwrap();
        let replies: Vec<_> = reply.into_inner().map(|reply| reply.unwrap().server).collect().await;
        assert_eq!(replies, [&*pinned; 2]);
        used.insert(pinned);
    }
    assert_eq!(used.len(), 3, "round robin uses all servers");
    for node in &cluster.nodes {
        assert!(
            !node.seen.token.load(std::sync::atomic::Ordering::SeqCst),
            "the token is removed from requests"
        );
    }
}

#[tokio::test]
async fn a_trailers_only_response_has_a_token() {
    let cluster = cluster(["a", "b", "c"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Header::sealed(TOKEN, keys()));
    let mut client = GreeterClient::new(layer.strategy(RoundRobin::new()).into_service());
    let status = client.say_hello(hello("fail")).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::NotFound, "the status of the server");
    let pin = token(status.metadata()).expect("a failed call is pinned too");
    let pinned = cluster.nodes.iter().find(|node| node.calls() == 1).unwrap();
    for _ in 0..5 {
        let reply = client.say_hello(with_token(hello("x"), Some(&pin))).await.unwrap();
        assert_eq!(reply.into_inner().server, pinned.name);
    }
    let status = client.watch(with_token(hello("fail"), Some(&pin))).await.unwrap_err();
    assert_eq!((status.code(), token(status.metadata())), (tonic::Code::NotFound, None));
}

#[tokio::test]
async fn a_session_handle_keeps_every_kind_of_call_on_one_server() {
    let cluster = cluster(["a", "b", "c"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Key::header("x-user-id"));
    let sticky = layer.strategy(RoundRobin::new()).into_service();
    let sessions = [sticky.session(), sticky.session(), sticky.session()];
    let mut used = BTreeSet::new();
    for session in &sessions {
        let mut client = GreeterClient::new(session.clone());
        let mut servers = BTreeSet::new();
        servers.insert(client.say_hello(hello("x")).await.unwrap().into_inner().server);
        let mut watched = client.watch(hello("x")).await.unwrap().into_inner();
        servers.insert(watched.next().await.unwrap().unwrap().server);
        let stream = tokio_stream::iter([with_payload("1"), with_payload("2")]);
        servers.insert(client.collect(stream).await.unwrap().into_inner().server);
        let chat = client.chat(tokio_stream::iter([hello("x")])).await.unwrap();
        servers.insert(chat.into_inner().next().await.unwrap().unwrap().server);
        assert_eq!(servers.len(), 1, "a session has one server");
        assert_eq!(
            servers.first().map(String::as_str),
            session.backend().as_ref().map(|id| id.as_str())
        );
        used.extend(servers);
    }
    assert_eq!(used.len(), 3, "round robin uses all servers");
}

#[tokio::test]
async fn sessions_are_assigned_by_weight() {
    let cluster = cluster(["a", "b"]);
    cluster.backends.set_weight("a", 3).unwrap();
    let layer = StickyLayer::new(cluster.backends.clone(), Key::header("x-user-id"));
    let sticky = layer.strategy(RoundRobin::new()).into_service();
    let mut assigned = BTreeMap::<_, usize>::new();
    let mut open = Vec::new();
    for _ in 0..40 {
        let mut client = GreeterClient::new(sticky.session());
        *assigned
            .entry(client.say_hello(hello("x")).await.unwrap().into_inner().server)
            .or_default() += 1;
        open.push(client);
    }
    assert_eq!(assigned, BTreeMap::from([("a".into(), 30), ("b".into(), 10)]));
}

#[tokio::test]
async fn a_pin_to_a_server_that_is_not_connected_yet_is_used() {
    let cluster = cluster(["a", "b", "c"]);
    let keys = keys();
    let stack =
        |backends| StickyLayer::new(backends, Header::sealed(TOKEN, keys.clone())).into_service();
    let before = cluster.backends.clone();
    before.set_mode("a", Mode::Disabled).unwrap();
    before.set_mode("c", Mode::Disabled).unwrap();
    let reply = GreeterClient::new(stack(before)).say_hello(hello("x")).await.unwrap();
    let pin = token(reply.metadata());

    let new_pool = pool(&cluster.nodes, &cluster.servers);
    let mut client = GreeterClient::new(stack(new_pool.clone()));
    for _ in 0..3 {
        let reply = client.say_hello(with_token(hello("x"), pin.as_ref())).await.unwrap();
        assert_eq!(reply.into_inner().server, "b", "the new client has the same pin");
    }
    assert_eq!(new_pool.snapshot().stats.violations(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_calls_of_a_session_reach_one_server() {
    let cluster = cluster(["a", "b", "c", "d"]);
    // Room for all calls: a channel with a full queue is busy, so new sessions use other servers.
    let channel = |server: &Server| {
        let endpoint = Endpoint::from_shared(server.url()).unwrap();
        GrpcChannel::from(endpoint.buffer_size(64 * 56))
    };
    let channels = cluster.nodes.iter().zip(&cluster.servers);
    let backends = Backends::from_iter(channels.map(|(node, server)| (node.name, channel(server))));
    let layer = StickyLayer::new(backends.clone(), Key::header("x-user-id"));
    let sticky = layer.into_service();
    let mut sessions = tokio::task::JoinSet::new();
    for _ in 0..64 {
        let session = sticky.session();
        sessions.spawn(async move {
            let mut calls = tokio::task::JoinSet::new();
            for _ in 0..56 {
                let mut client = GreeterClient::new(session.clone());
                calls.spawn(async move {
                    client.say_hello(hello("x")).await.unwrap().into_inner().server
                });
            }
            let servers: BTreeSet<_> = calls.join_all().await.into_iter().collect();
            assert_eq!(servers.len(), 1, "all calls of a session reach one server");
            servers
        });
    }
    let used: BTreeSet<_> = sessions.join_all().await.into_iter().flatten().collect();
    assert_eq!(used.len(), 4, "sessions are distributed over all servers");
    assert_eq!(cluster.calls(), 64 * 56, "no call is lost or repeated");
    assert_eq!(backends.snapshot().stats.violations(), 0);
}
