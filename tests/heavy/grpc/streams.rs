//! Deadlines, cancellation, large messages and flow control.

use std::time::Duration;

use bytes::Bytes;
use tokio_stream::StreamExt;
use tonic::{Code, Request};
use tower_sticky::{StickyLayer, affinity::Key};
use tower_sticky_heavy_tests::{in_time, until};

use crate::{
    greeter::{GreeterClient, HelloRequest},
    support::{cluster, hello, with_payload},
};

#[tokio::test]
async fn a_dropped_call_is_cancelled_on_the_server() {
    let cluster = cluster(["a"]);
    let session = cluster.session();
    let mut client = GreeterClient::new(session.clone());
    let call = tokio::spawn({
        let mut client = client.clone();
        async move { client.say_hello(hello("wait")).await }
    });
    let stream = client.watch(hello("wait")).await.unwrap();
    let mut stream = stream.into_inner();
    stream.message().await.unwrap().unwrap();
    let node = cluster.node("a");
    until("the server has both calls", || node.calls() == 2).await;
    assert_eq!(cluster.backends.get("a").unwrap().in_flight, 2);
    call.abort();
    until("the call is cancelled", || node.cancelled() == 1).await;
    drop(stream);
    until("the stream is cancelled", || node.cancelled() == 2).await;
    until("nothing is in flight", || cluster.backends.get("a").unwrap().in_flight == 0).await;
}

#[tokio::test]
async fn a_deadline_reaches_the_server() {
    let cluster = cluster(["a"]);
    let mut client = GreeterClient::new(cluster.session());
    let mut request = Request::new(hello("wait"));
    request.set_timeout(Duration::from_millis(30));
    let timeout = request.metadata().get("grpc-timeout").unwrap().to_str().unwrap().to_owned();
    let status = in_time("the call is cancelled", client.say_hello(request)).await.unwrap_err();
    // Either the client's deadline or the server's, which Tonic reports as cancelled.
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    let node = cluster.node("a");
    until("the server cancels the call", || node.cancelled() == 1).await;
    assert_eq!(*node.seen.timeouts.lock().unwrap(), [timeout]);
    client.say_hello(hello("x")).await.unwrap();
    assert_eq!(node.calls(), 2, "the session stays on its server");
}

#[tokio::test]
async fn large_messages_pass_in_both_directions() {
    let cluster = cluster(["a", "b"]);
    let mut client = GreeterClient::new(cluster.session());
    let payload: Bytes = (0..3 << 20).map(|n| n as u8).collect::<Vec<_>>().into();
    let reply = client.say_hello(with_payload(payload.clone())).await.unwrap().into_inner();
    assert_eq!(reply.payload, payload);
    let many = tokio_stream::iter(vec![with_payload(payload.clone()); 4]);
    let replies = client.chat(many).await.unwrap().into_inner();
    let lengths: Vec<_> = replies.map(|reply| reply.unwrap().payload.len()).collect().await;
    assert_eq!(lengths, [payload.len(); 4]);
}

#[tokio::test]
async fn a_slow_reader_does_not_block_another_session() {
    let cluster = cluster(["a"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Key::header("x-user-id"));
    let sticky = layer.into_service();
    let flood = HelloRequest { name: "flood".into(), payload: vec![1; 64 << 10].into() };
    let mut slow = GreeterClient::new(sticky.session());
    let mut stream = slow.watch(flood).await.unwrap().into_inner();
    stream.message().await.unwrap().unwrap();

    // The stream is not read, so the server can send only as much as fits in the stream's window.
    let mut other = GreeterClient::new(sticky.session());
    let payload = vec![2; 256 << 10];
    for _ in 0..50 {
        let call = other.say_hello(with_payload(payload.clone()));
        let reply = in_time("the other session is served", call).await.unwrap();
        assert_eq!(reply.into_inner().payload.len(), payload.len());
    }
    for calls in 2..200 {
        let reply = in_time("the stream continues", stream.message()).await.unwrap().unwrap();
        assert_eq!(reply.calls, calls, "no message is lost");
    }
}
