//! Servers that drain or shut down.

use std::{collections::BTreeSet, time::Duration};

use tower_sticky::{DrainEnd, StickyLayer, affinity::Header, strategy::RoundRobin};
use tower_sticky_heavy_tests::in_time;

use crate::{
    greeter::GreeterClient,
    support::{TOKEN, cluster, hello, keys, token, with_token},
};

#[tokio::test]
async fn a_draining_server_keeps_its_sessions_and_streams() {
    let cluster = cluster(["a", "b"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Header::sealed(TOKEN, keys()));
    let sticky = layer.strategy(RoundRobin::new()).into_service();
    let mut client = GreeterClient::new(sticky.clone());
    let reply = client.say_hello(hello("x")).await.unwrap();
    let (pin, pinned) = (token(reply.metadata()), reply.into_inner().server);
    let (send, chat) = tokio::sync::mpsc::unbounded_channel();
    let chat = with_token(tokio_stream::wrappers::UnboundedReceiverStream::new(chat), pin.as_ref());
    send.send(hello("x")).unwrap();
    let mut chat = client.chat(chat).await.unwrap().into_inner();
    assert_eq!(chat.message().await.unwrap().unwrap().server, pinned);

    let drain = cluster.backends.drain(&pinned).deadline(Duration::from_secs(60)).start().unwrap();
    let reply = client.say_hello(with_token(hello("x"), pin.as_ref())).await.unwrap();
    assert_eq!((token(reply.metadata()), reply.into_inner().server), (None, pinned.clone()));
    for _ in 0..6 {
        let reply = client.say_hello(hello("x")).await.unwrap();
        assert_ne!(reply.into_inner().server, pinned, "new sessions use the other server");
    }
    for _ in 0..3 {
        send.send(hello("x")).unwrap();
        assert_eq!(chat.message().await.unwrap().unwrap().server, pinned);
    }
    drop(send);
    assert_eq!(chat.message().await.unwrap(), None, "the stream ends without an error");
    drop(drain);
}

#[tokio::test]
async fn a_drain_ends_when_the_session_handles_are_dropped() {
    let cluster = cluster(["a"]);
    let session = cluster.session();
    let mut client = GreeterClient::new(session.clone());
    client.say_hello(hello("x")).await.unwrap();
    let drain = cluster.backends.drain("a").start().unwrap();
    client.say_hello(hello("x")).await.unwrap();
    drop((session, client));
    assert_eq!(in_time("the drain ends", drain.ended()).await.end, DrainEnd::Completed);
}

#[tokio::test]
async fn no_call_is_lost_when_a_server_sends_goaway() {
    let cluster = cluster(["a", "b", "c"]);
    let session = cluster.session();
    let mut client = GreeterClient::new(session.clone());
    let (send, chat) = tokio::sync::mpsc::unbounded_channel();
    send.send(hello("x")).unwrap();
    let chat = tokio_stream::wrappers::UnboundedReceiverStream::new(chat);
    let mut chat = client.chat(chat).await.unwrap().into_inner();
    let pinned = chat.message().await.unwrap().unwrap().server;

    // The server stops listening, sends GOAWAY, and finishes its streams.
    cluster.node(&pinned).shutdown.notify_one();
    let moved = async {
        loop {
            let server = client.say_hello(hello("x")).await.unwrap().into_inner().server;
            if server != pinned {
                break server;
            }
            tokio::task::yield_now().await;
        }
    };
    let next = in_time("the session moves", moved).await;
    let used: BTreeSet<_> =
        [next.clone(), client.say_hello(hello("x")).await.unwrap().into_inner().server].into();
    assert_eq!(used.len(), 1, "the session stays on the new server");
    send.send(hello("x")).unwrap();
    let reply = in_time("the stream goes on", chat.message()).await.unwrap().unwrap();
    assert_eq!(reply.server, pinned);
    drop(send);
    assert_eq!(in_time("the stream ends", chat.message()).await.unwrap(), None);
    assert_eq!(cluster.backends.snapshot().stats.violations(), 0);
}
