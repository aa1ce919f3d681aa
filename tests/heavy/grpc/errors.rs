//! The errors of this crate as a Tonic client receives them.

use std::{io, time::Duration};

use http::{Request, Response};
use tonic::{Code, Status, body::Body, transport::Endpoint};
use tower::service_fn;
use tower_sticky::{
    Backends, Busy, Failover, Mode, StickyError, StickyLayer,
    affinity::{Header, Key},
    grpc::GrpcChannel,
};
use tower_sticky_heavy_tests::{in_time, until};

use crate::{
    greeter::GreeterClient,
    support::{Node, TOKEN, call, cluster, hello, keys, refusing},
};

fn by_user(backends: &Backends<GrpcChannel>) -> StickyLayer<GrpcChannel> {
    StickyLayer::new(backends.clone(), Key::header("x-user-id"))
        .retry_after(Duration::from_millis(1500))
}

/// The status of a failed call with `Respond` and with `Propagate`.
async fn statuses(
    layer: StickyLayer<GrpcChannel>,
    request: fn() -> tonic::Request<crate::greeter::HelloRequest>,
) -> (Status, Status) {
    let mut responding = GreeterClient::new(layer.clone().into_service());
    let mut propagating = GreeterClient::new(layer.propagate_errors().into_service());
    let responded = in_time("the response", responding.say_hello(request())).await.unwrap_err();
    let propagated = in_time("the error", propagating.say_hello(request())).await.unwrap_err();
    (responded, propagated)
}

fn pushback(status: &Status) -> Option<&str> {
    status.metadata().get("grpc-retry-pushback-ms").map(|value| value.to_str().unwrap())
}

/// The error of this crate that is the source of a status.
fn cause(status: &Status) -> &StickyError {
    let source = std::error::Error::source(status).expect("the status has a source");
    source.downcast_ref().expect("the source is a StickyError")
}

fn by_ann() -> tonic::Request<crate::greeter::HelloRequest> {
    call(hello("x"), "x-user-id", "ann")
}

#[tokio::test]
async fn no_backend_is_unavailable() {
    let (responded, propagated) = statuses(by_user(&Backends::new()), by_ann).await;
    assert_eq!((responded.code(), pushback(&responded)), (Code::Unavailable, Some("1500")));
    assert_eq!(responded.message(), "no server is available for this session");
    assert_eq!(propagated.code(), Code::Unavailable);
    assert!(matches!(cause(&propagated), StickyError::NoBackend));
}

#[tokio::test]
async fn a_session_whose_backend_cannot_serve_is_unavailable() {
    let cluster = cluster(["a"]);
    let layer = by_user(&cluster.backends).on_unavailable(Failover::Reject);
    let mut responding = GreeterClient::new(layer.clone().into_service().session());
    let mut propagating = GreeterClient::new(layer.propagate_errors().into_service().session());
    responding.say_hello(hello("x")).await.unwrap();
    propagating.say_hello(hello("x")).await.unwrap();
    cluster.backends.set_mode("a", Mode::Disabled).unwrap();
    let responded = responding.say_hello(hello("x")).await.unwrap_err();
    assert_eq!((responded.code(), pushback(&responded)), (Code::Unavailable, Some("1500")));
    let propagated = propagating.say_hello(hello("x")).await.unwrap_err();
    assert_eq!(propagated.code(), Code::Unavailable);
    assert!(matches!(cause(&propagated), StickyError::Unavailable { .. }), "{propagated:?}");
}

#[tokio::test]
async fn a_refused_connection_is_unavailable() {
    let layer = || by_user(&Backends::from_iter([("a", refusing())]));
    let mut client = GreeterClient::new(layer().into_service());
    let responded = client.say_hello(by_ann()).await.unwrap_err();
    assert_eq!((responded.code(), pushback(&responded)), (Code::Unavailable, Some("1500")));
    let mut client = GreeterClient::new(layer().propagate_errors().into_service());
    let propagated = client.say_hello(by_ann()).await.unwrap_err();
    assert_eq!(propagated.code(), Code::Unavailable);
    assert!(matches!(cause(&propagated), StickyError::NotSent { .. }), "{propagated:?}");
}

#[tokio::test]
async fn a_refused_connection_of_a_plain_channel_is_unavailable() {
    let port = refusing().uri().clone();
    let channels = Backends::from_iter([("a", Endpoint::from(port).connect_lazy())]);
    let layer = StickyLayer::new(channels, Key::header("x-user-id"));
    let mut client = GreeterClient::new(layer.clone().into_service());
    let responded = client.say_hello(by_ann()).await.unwrap_err();
    assert_eq!((responded.code(), pushback(&responded)), (Code::Unavailable, None));
    let mut client = GreeterClient::new(layer.propagate_errors().into_service());
    let propagated = client.say_hello(by_ann()).await.unwrap_err();
    assert_eq!(propagated.code(), Code::Unavailable);
}

#[tokio::test]
async fn busy_is_resource_exhausted() {
    let cluster = cluster(["a"]);
    cluster.backends.set_limit("a", 1).unwrap();
    let layer = by_user(&cluster.backends)
        .on_busy(Busy::wait(Duration::from_millis(1)).then(Failover::Reject));
    let mut first = GreeterClient::new(layer.clone().into_service());
    let held =
        tokio::spawn(async move { first.say_hello(call(hello("wait"), "x-user-id", "ann")).await });
    until("the limit is reached", || cluster.calls() == 1).await;
    let (responded, propagated) = statuses(layer, by_ann).await;
    assert_eq!((responded.code(), pushback(&responded)), (Code::ResourceExhausted, Some("1500")));
    assert_eq!(propagated.code(), Code::ResourceExhausted);
    assert!(matches!(cause(&propagated), StickyError::Busy { .. }));
    held.abort();
}

#[tokio::test]
async fn an_unknown_session_is_a_failed_precondition() {
    let cluster = cluster(["a"]);
    let layer = StickyLayer::new(cluster.backends.clone(), Header::sealed(TOKEN, keys()));
    let forged = || call(hello("x"), TOKEN, "forged");
    let (responded, propagated) = statuses(layer.strict(true), forged).await;
    assert_eq!((responded.code(), pushback(&responded)), (Code::FailedPrecondition, None));
    assert_eq!(propagated.code(), Code::FailedPrecondition);
    assert!(matches!(cause(&propagated), StickyError::UnknownSession { .. }));
    assert_eq!(cluster.calls(), 0);
}

#[tokio::test]
async fn a_timeout_is_deadline_exceeded() {
    let node = Node::new("a");
    let server = node.serve();
    let endpoint = Endpoint::from_shared(server.url()).unwrap().timeout(Duration::from_millis(20));
    let backends = Backends::from_iter([("a", GrpcChannel::from(endpoint))]);
    let (responded, propagated) =
        statuses(by_user(&backends), || call(hello("wait"), "x-user-id", "a")).await;
    assert_eq!((responded.code(), pushback(&responded)), (Code::DeadlineExceeded, None));
    assert_eq!(propagated.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn a_call_whose_server_is_killed_is_unavailable_and_not_repeated() {
    for propagates in [false, true] {
        let mut cluster = cluster(["a", "b"]);
        let layer = by_user(&cluster.backends);
        let waiting = || call(hello("wait"), "x-user-id", "ann");
        let call = tokio::spawn(async move {
            if propagates {
                let service = layer.propagate_errors().into_service();
                GreeterClient::new(service).say_hello(waiting()).await
            } else {
                GreeterClient::new(layer.into_service()).say_hello(waiting()).await
            }
        });
        until("a server has the call", || cluster.calls() == 1).await;
        let pinned = cluster.nodes.iter().find(|node| node.calls() == 1).unwrap().name;
        cluster.kill(pinned).await;
        let status = in_time("the call ends", call).await.unwrap().unwrap_err();
        assert_eq!((status.code(), pushback(&status)), (Code::Unavailable, None), "{status:?}");
        assert_eq!(cluster.calls(), 1, "it may have been executed");
    }
}

#[tokio::test]
async fn a_failed_inner_service_is_internal_unless_it_returns_a_status() {
    let failing = |error: fn() -> tower_sticky::BoxError| {
        service_fn(move |_: Request<Body>| async move { Err::<Response<Body>, _>(error()) })
    };
    let layer = by_user(&Backends::new());
    let broken = failing(|| io::Error::other("no disk").into());
    let mut client = GreeterClient::new(layer.last_resort(broken));
    let status = client.say_hello(hello("x")).await.unwrap_err();
    assert_eq!((status.code(), pushback(&status)), (Code::Internal, None));
    let mut client = GreeterClient::new(layer.clone().propagate_errors().last_resort(broken));
    assert_eq!(client.say_hello(hello("x")).await.unwrap_err().code(), Code::Internal);

    let refusing = failing(|| Status::unauthenticated("who are you").into());
    let mut client = GreeterClient::new(layer.last_resort(refusing));
    assert_eq!(client.say_hello(hello("x")).await.unwrap_err().code(), Code::Unauthenticated);
    let mut client = GreeterClient::new(layer.propagate_errors().last_resort(refusing));
    let status = client.say_hello(hello("x")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "who are you"));
}

#[tokio::test]
async fn a_stream_that_is_cut_off_by_a_drain_is_unavailable() {
    let cluster = cluster(["a"]);
    let mut client = GreeterClient::new(by_user(&cluster.backends).into_service());
    let mut stream = client.watch(hello("wait")).await.unwrap().into_inner();
    stream.message().await.unwrap().expect("the first reply");
    let drain = cluster.backends.drain("a").deadline(Duration::from_millis(10)).start().unwrap();
    let status = in_time("the stream ends", stream.message()).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    drain.ended().await;
}

#[tokio::test]
async fn the_status_of_the_backend_is_returned_unchanged() {
    let cluster = cluster(["a"]);
    let mut client =
        GreeterClient::new(by_user(&cluster.backends).propagate_errors().into_service());
    let status = client.say_hello(hello("fail")).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "no such name"));
}
