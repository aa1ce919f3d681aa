//! The contract of Tower's `Service` and `Layer`.

use std::{
    convert::Infallible,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use axum::{Router, routing::get as route_get};
use http::{Request, Response};
use tower::{
    BoxError, Layer, Service, ServiceBuilder, ServiceExt, buffer::Buffer,
    limit::ConcurrencyLimitLayer, service_fn,
};
use tower_sticky::{
    Backends, NoInner, Propagate, ResponseFuture, StickyBody, StickyError, StickyLayer,
    StickyService, affinity::Cookie,
};

use crate::support::{Body, Node, get, load, nodes, plain, sealed, send};

fn assert_send_sync<T: Send + Sync>() {}

fn assert_send<T: Send>() {}

/// A request body that is neither `Clone` nor `Sync`.
type OddBody = http_body_util::combinators::UnsyncBoxBody<bytes::Bytes, BoxError>;

#[test]
fn futures_are_send_and_shared_types_are_sync() {
    assert_send_sync::<StickyLayer<Node>>();
    assert_send_sync::<StickyService<Node>>();
    assert_send_sync::<StickyService<Node, Node, Propagate>>();
    assert_send_sync::<Backends<Node>>();
    assert_send_sync::<StickyError>();
    assert_send::<ResponseFuture<Node, NoInner, tower_sticky::Respond, Body>>();
    assert_send::<StickyBody<Body>>();
}

#[tokio::test]
async fn bodies_need_be_neither_clone_nor_sync_nor_unpin() {
    let echo = service_fn(|request: Request<OddBody>| async {
        Ok::<_, Infallible>(Response::new(request.into_body()))
    });
    let backends = Backends::from_iter([("a", echo)]);
    let service = StickyLayer::new(backends, Cookie::plain("sid")).into_service();
    fn send_service<S: Service<Request<OddBody>> + Send>(service: S) -> S
    where
        S::Future: Send,
    {
        service
    }
    let body = OddBody::new(http_body_util::BodyExt::map_err(Body::from("x"), |e| match e {}));
    let response = send_service(service).oneshot(Request::new(body)).await.unwrap();
    assert_eq!(response.status(), 200);
}

#[test]
fn the_service_is_always_ready() {
    let (backends, [a]) = nodes(["a"]);
    a.control.set_busy(true);
    let mut service = plain(&backends).into_service();
    let mut cx = Context::from_waker(Waker::noop());
    let ready = Service::<Request<Body>>::poll_ready(&mut service, &mut cx);
    assert!(matches!(ready, Poll::Ready(Ok(()))));
}

/// Counts the requests inside at the same time.
#[derive(Clone)]
struct Inside {
    now: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

impl Service<Request<Body>> for Inside {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future =
        std::pin::Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send + 'static>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move {
            let now = this.now.fetch_add(1, SeqCst) + 1;
            this.most.fetch_max(now, SeqCst);
            tokio::time::sleep(Duration::from_millis(1)).await;
            this.now.fetch_sub(1, SeqCst);
            Ok(Response::new(Body::from("in")))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_of_1_admits_one_at_a_time_without_starvation() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let inside = Inside { now: now.clone(), most: most.clone() };
    let limited = ConcurrencyLimitLayer::new(1).layer(inside);
    let backends = Backends::from_iter([("a", limited)]);
    let layer = StickyLayer::new(backends, Cookie::plain("sid"))
        .health(tower_sticky::Health::new().readiness_interval(Duration::from_millis(1)))
        .ready_timeout(Duration::from_secs(10));
    let service = layer.into_service();
    let tasks: Vec<_> = (0..64)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, get()).await.status })
        })
        .collect();
    for task in tasks {
        assert_eq!(task.await.unwrap(), 200, "the probe never keeps the permit");
    }
    assert_eq!((most.load(SeqCst), now.load(SeqCst)), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_future_dropped_at_any_await_releases_everything() {
    let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let limited = ConcurrencyLimitLayer::new(1).layer(Inside { now, most });
    let backends = Backends::from_iter([("a", limited)]);
    backends.set_limit("a", 2).unwrap();
    let service = StickyLayer::new(backends.clone(), Cookie::plain("sid")).into_service();
    for polls in 0..12 {
        let mut holder = Box::pin(service.clone().oneshot(get()));
        let mut dropped = Box::pin(service.clone().oneshot(get()));
        let mut cx = Context::from_waker(Waker::noop());
        let mut done = [false; 2];
        for _ in 0..polls {
            for (future, done) in [&mut holder, &mut dropped].into_iter().zip(&mut done) {
                *done = *done || future.as_mut().poll(&mut cx).is_ready();
            }
            tokio::time::advance(Duration::from_micros(200)).await;
        }
        drop((holder, dropped));
        assert_eq!(load(&backends, "a"), (0, 0), "dropped after {polls} polls");
        assert_eq!(send(&service, get()).await.status, 200, "nothing is held after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_readiness_error_the_next_request_uses_a_new_clone() {
    let (backends, [a]) = nodes(["a"]);
    a.control.readiness_fails.store(true, SeqCst);
    let service = plain(&backends).into_service();
    assert_eq!(send(&service, get()).await.status, 503);
    a.control.readiness_fails.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(send(&service, get()).await.status, 200, "the readiness poll found it ready again");
}

#[tokio::test(start_paused = true)]
async fn layers_spawn_no_task_and_the_last_handle_ends_the_driver() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let tasks = metrics.num_alive_tasks();
    let (backends, [a]) = nodes(["a"]);
    let layer = plain(&backends);
    let services: Vec<_> = (0..100).map(|_| layer.layer(a.clone())).collect();
    assert_eq!(metrics.num_alive_tasks(), tasks, "layer() spawns nothing");
    assert_eq!(send(&services[0], get()).await.status, 200);
    assert_eq!(metrics.num_alive_tasks(), tasks + 1, "the first call starts the driver");
    assert_eq!(send(&services[99], get()).await.status, 200);
    assert_eq!(metrics.num_alive_tasks(), tasks + 1, "one driver for all of them");
    drop((layer, backends, services));
    tokio::task::yield_now().await;
    tokio::task::yield_now().await;
    assert_eq!(metrics.num_alive_tasks(), tasks, "the driver ended at once");
    assert_eq!(a.control.clones.load(SeqCst), 1, "no clone of a backend is kept anywhere");
}

#[test]
fn the_driver_restarts_after_its_runtime_has_ended() {
    let (backends, [a]) = nodes(["a"]);
    let service = sealed(&backends).into_service();
    for _ in 0..2 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        a.control.polls.store(0, SeqCst);
        runtime.block_on(async {
            send(&service, get()).await;
            tokio::time::sleep(Duration::from_millis(3500)).await;
        });
        assert!(a.control.polls.load(SeqCst) >= 4, "polled at the start and every second");
    }
}

#[tokio::test]
async fn a_buffer_serves_services_that_are_not_clone() {
    struct NotClone(Node);
    impl Service<Request<Body>> for NotClone {
        type Response = Response<Body>;
        type Error = BoxError;
        type Future = <Node as Service<Request<Body>>>::Future;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            self.0.poll_ready(cx)
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            self.0.call(request)
        }
    }
    let backends = Backends::from_iter([("a", Buffer::new(NotClone(Node::new("a")), 8))]);
    let service = StickyLayer::new(backends, Cookie::plain("sid")).into_service();
    assert_eq!(send(&service, get()).await.body, "a");
}

#[tokio::test]
async fn propagate_hands_out_typed_errors() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).propagate_errors().into_service();
    a.control.call_fails.store(true, SeqCst);
    let error = service.clone().oneshot(get()).await.unwrap_err();
    assert!(matches!(&error, StickyError::Backend { backend, .. } if *backend == "a"));
    assert_eq!(error.to_string(), "backend a failed: garbage");
    backends.remove("a").unwrap();
    let error = service.oneshot(get()).await.unwrap_err();
    assert!(matches!(error, StickyError::NoBackend));
    assert_eq!(error.status(), 503);
}

#[tokio::test]
async fn grpc_requests_get_grpc_errors() {
    let (backends, []) = nodes([]);
    let service = plain(&backends).into_service();
    let mut request = get();
    request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
    *request.version_mut() = http::Version::HTTP_2;
    let answer = send(&service, request).await;
    assert_eq!((answer.status, &answer.headers["grpc-status"]), (200, &"14".parse().unwrap()));
    assert_eq!(answer.headers["content-type"], "application/grpc");
}

#[tokio::test]
async fn grpc_is_spoken_over_http_2_only() {
    let (backends, []) = nodes([]);
    let service = plain(&backends).into_service();
    for version in [http::Version::HTTP_10, http::Version::HTTP_11] {
        let mut request = get();
        request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        *request.version_mut() = version;
        let answer = send(&service, request).await;
        assert_eq!(answer.status, 503, "{version:?}: a client of HTTP/1 does not read trailers");
        assert!(!answer.headers.contains_key("grpc-status"));
    }
}

#[tokio::test]
async fn axum_accepts_the_layer_and_the_service() {
    let backend = service_fn(|_: axum::extract::Request| async {
        Ok::<_, Infallible>(axum::response::Response::new(axum::body::Body::from("backend")))
    });
    let layer = || {
        let backends = Backends::from_iter([("a", backend)]);
        StickyLayer::new(backends, Cookie::plain("sid"))
    };
    let inner = || route_get(|| async { "inner" });
    let routers: [Router; 8] = [
        Router::new().route("/x", inner()).layer(layer()),
        Router::new().route("/x", inner()).route_layer(layer()),
        Router::new().route("/x", inner().layer(layer())),
        Router::new().fallback_service(layer().into_service()),
        Router::new().nest_service("/x", layer().into_service()),
        Router::new().route_service("/x", layer().into_service()),
        Router::new().route("/x", inner()).layer(ServiceBuilder::new().layer(layer())),
        Router::new().fallback_service(
            ServiceBuilder::new()
                .layer(axum::error_handling::HandleErrorLayer::new(|_: BoxError| async {
                    http::StatusCode::BAD_GATEWAY
                }))
                .map_err(BoxError::from)
                .service(layer().propagate_errors().into_service()),
        ),
    ];
    for (position, router) in routers.into_iter().enumerate() {
        let request = Request::get("/x").body(axum::body::Body::empty()).unwrap();
        let response = router.oneshot(request).await.unwrap();
        let pinned = response.headers().contains_key("set-cookie");
        let body = axum::body::to_bytes(response.into_body(), 1000).await.unwrap();
        assert_eq!((&body[..], pinned), (&b"backend"[..], true), "mount point {position}");
    }
}

#[tokio::test]
async fn the_inner_service_answers_only_when_no_backend_can() {
    let (backends, [a]) = nodes(["a"]);
    let layer = plain(&backends);
    let sorry = Node::new("sorry");
    let service = layer.last_resort(sorry.clone());
    assert_eq!(send(&service, get()).await.body, "a");
    a.control.refuses.store(true, SeqCst);
    for _ in 0..2 {
        let answer = send(&service, get()).await;
        assert_eq!(answer.body, "sorry");
        assert_eq!(answer.decision().0, tower_sticky::Verdict::LastResort);
        assert_eq!(answer.token(), None, "it is never pinned");
        let told = sorry.control.outcomes.lock().unwrap().pop().flatten().unwrap();
        assert_eq!(told.verdict(), tower_sticky::Verdict::LastResort);
    }
}

#[test]
fn a_response_in_flight_is_counted_until_its_body_has_ended() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).into_service();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let in_flight = || backends.get("a").unwrap().in_flight;
        let response = service.clone().oneshot(get()).await.unwrap();
        assert_eq!(in_flight(), 1, "the body is not read yet");
        backends.remove("a").unwrap();
        backends.insert("a", a.clone()).unwrap();
        drop(response);
        let response = service.clone().oneshot(get()).await.unwrap();
        let mut body = response.into_body();
        let mut cx = Context::from_waker(Waker::noop());
        let mut body = pin!(&mut body);
        while let Poll::Ready(Some(frame)) = http_body::Body::poll_frame(body.as_mut(), &mut cx) {
            frame.unwrap();
        }
        assert_eq!(in_flight(), 0, "the body has ended, though it is still there");
    });
}
