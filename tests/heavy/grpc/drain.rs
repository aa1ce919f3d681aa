//! Servers that are taken out of service.

use std::{collections::BTreeSet, time::Duration};

use tower_sticky::{
    DrainEnd, StickyLayer,
    affinity::{Header, Key},
    strategy::RoundRobin,
};
use tower_sticky_heavy_tests::in_time;

use crate::{
    greeter::GreeterClient,
    support::{TOKEN, cluster, hello, keys, token, with_token},
};

#[tokio::test]
async fn sessions_stay_new_ones_go_elsewhere_and_streams_finish() {
    let cluster = cluster(["a", "b"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Header::sealed(TOKEN, keys()));
    let sticky = layer.strategy(RoundRobin::new()).into_service();
    let mut client = GreeterClient::new(sticky.clone());
    let reply = client.say_hello(hello("x")).await.unwrap();
    let (pin, home) = (token(reply.metadata()), reply.into_inner().server);
    let (send, chat) = tokio::sync::mpsc::unbounded_channel();
    let chat = with_token(tokio_stream::wrappers::UnboundedReceiverStream::new(chat), pin.as_ref());
    send.send(hello("x")).unwrap();
    let mut chat = client.chat(chat).await.unwrap().into_inner();
    assert_eq!(chat.message().await.unwrap().unwrap().server, home);

    let drain = cluster.backends.drain(&home).deadline(Duration::from_secs(60)).start().unwrap();
    let reply = client.say_hello(with_token(hello("x"), pin.as_ref())).await.unwrap();
    assert_eq!((token(reply.metadata()), reply.into_inner().server), (None, home.clone()));
    for _ in 0..6 {
        let reply = client.say_hello(hello("x")).await.unwrap();
        assert_ne!(reply.into_inner().server, home, "new sessions go elsewhere");
    }
    for _ in 0..3 {
        send.send(hello("x")).unwrap();
        assert_eq!(chat.message().await.unwrap().unwrap().server, home);
    }
    drop(send);
    assert_eq!(chat.message().await.unwrap(), None, "the stream ends in its own way");
    drop(drain);
}

#[tokio::test]
async fn a_drain_is_over_when_the_handles_are_dropped() {
    let cluster = cluster(["a"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Key::header("x-user-id"));
    let session = layer.into_service().session();
    let mut client = GreeterClient::new(session.clone());
    client.say_hello(hello("x")).await.unwrap();
    let drain = cluster.backends.drain("a").start().unwrap();
    client.say_hello(hello("x")).await.unwrap();
    drop((session, client));
    assert_eq!(in_time("the drain ends", drain.ended()).await.end, DrainEnd::Completed);
}

#[tokio::test]
async fn a_server_that_says_goodbye_loses_no_call() {
    let cluster = cluster(["a", "b", "c"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Key::header("x-user-id"));
    let session = layer.into_service().session();
    let mut client = GreeterClient::new(session.clone());
    let (send, chat) = tokio::sync::mpsc::unbounded_channel();
    send.send(hello("x")).unwrap();
    let chat = tokio_stream::wrappers::UnboundedReceiverStream::new(chat);
    let mut chat = client.chat(chat).await.unwrap().into_inner();
    let home = chat.message().await.unwrap().unwrap().server;

    // It closes its port, and its connections with GOAWAY; what is there may finish.
    cluster.node(&home).leave.notify_one();
    let left = async {
        loop {
            let server = client.say_hello(hello("x")).await.unwrap().into_inner().server;
            if server != home {
                break server;
            }
            tokio::task::yield_now().await;
        }
    };
    let next = in_time("the session moves", left).await;
    let places: BTreeSet<_> =
        [next.clone(), client.say_hello(hello("x")).await.unwrap().into_inner().server].into();
    assert_eq!(places.len(), 1, "and stays");
    send.send(hello("x")).unwrap();
    let reply = in_time("the stream goes on", chat.message()).await.unwrap().unwrap();
    assert_eq!(reply.server, home);
    drop(send);
    assert_eq!(in_time("the stream ends", chat.message()).await.unwrap(), None);
    assert_eq!(cluster.backends.snapshot().stats.violations(), 0);
}
