//! Where two rules meet: a trial that is busy, a session that is borrowed and due, a node that is
//! local and full.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_sticky::{
    Backends, Busy, Failover, Health, Mode, Reason, SessionAction, State, StickyError, StickyLayer,
    StickyService, UpgradeGuard, Verdict, WallClock,
    affinity::{Affinity, Chain, Cookie, Header, Key},
    strategy::RoundRobin,
};

use crate::support::{
    Body, Client, Node, UNGATED, get, keys, nodes, plain, sealed, send, with_cookie,
};

const MS: Duration = Duration::from_millis(1);

#[derive(Debug, Clone)]
struct Clock(Arc<Mutex<u64>>);

impl Clock {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(1_800_000_000)))
    }

    fn advance(&self, seconds: u64) {
        *self.0.lock().unwrap() += seconds;
    }
}

impl WallClock for Clock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(*self.0.lock().unwrap())
    }
}

fn layer(backends: &Backends<Node>, affinity: impl Affinity) -> StickyLayer<Node> {
    StickyLayer::new(backends.clone(), affinity)
        .strategy(RoundRobin::new())
        .outcome_extensions(true)
}

/// A node `a` that is local, with a peer `b`.
fn local(affinity: impl Affinity) -> (Backends<Node>, StickyLayer<Node>) {
    let backends = Backends::from_iter([("b", Node::new("b"))]);
    let layer = layer(&backends, affinity).local("a");
    (backends, layer)
}

#[tokio::test]
async fn a_session_that_is_borrowed_does_not_expire_meanwhile() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let clock = Clock::new();
    let cookie = Cookie::sealed("sid", keys()).idle_timeout(Duration::from_secs(1800));
    let layer = layer(&backends, cookie).clock(clock.clone());
    let service = layer.on_unavailable(Failover::Borrow).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    backends.set_mode("a", Mode::Disabled).unwrap();
    for _ in 0..4 {
        clock.advance(600);
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.why(), (Verdict::Borrowed, Some("b"), Some(Reason::Disabled)));
    }
    backends.set_mode("a", Mode::Active).unwrap();
    assert_eq!(client.send(&service, get()).await.why(), (Verdict::Pinned, Some("a"), None));
}

#[tokio::test(start_paused = true)]
async fn the_bound_is_that_of_the_key_that_decides() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    let chain = Chain::of(Key::header("user")).or(Key::header("ip").balance_factor(1.0));
    let service = layer(&backends, chain).into_service();
    for node in &nodes {
        node.told.gate.forget_permits(UNGATED);
    }
    let mut requests = Vec::new();
    for name in ["ip", "user"] {
        for _ in 0..8 {
            let (service, mut request) = (service.clone(), get());
            request.headers_mut().insert(name, "1".parse().unwrap());
            requests.push(tokio::spawn(async move { send(&service, request).await }));
            tokio::time::sleep(MS).await;
        }
        let most = backends.iter().map(|backend| backend.in_flight).max().unwrap();
        assert_eq!(most, if name == "ip" { 2 } else { 10 }, "{name}");
    }
    for node in &nodes {
        node.told.gate.add_permits(UNGATED);
    }
}

#[tokio::test]
async fn chains_within_chains_know_where_a_pin_came_from() {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let idle = Duration::from_secs(1800);
    let tokens = Chain::of(Header::sealed("x-sticky", keys()).idle_timeout(idle))
        .or(Cookie::sealed("sid", keys()).idle_timeout(idle));
    let chain = Chain::of(Key::header("never")).or(tokens);
    let service = layer(&backends, chain).clock(clock.clone()).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    clock.advance(900);
    let answer = client.send(&service, get()).await;
    assert!(answer.token().is_some(), "the cookie is due");
    assert!(!answer.headers.contains_key("x-sticky"), "the header was not used");
}

#[test]
fn a_chain_uses_each_carrier_once() {
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(Cookie::plain("sid"));
    let error = StickyLayer::try_new(Backends::<Node>::new(), chain).unwrap_err().to_string();
    assert!(error.contains("\"sid\""), "{error}");
    let headers = Chain::of(Header::plain("X-Sticky")).or(Header::plain("x-sticky"));
    assert!(StickyLayer::try_new(Backends::<Node>::new(), headers).is_err());
    let both = Chain::of(Header::plain("sid")).or(Cookie::plain("sid"));
    assert!(StickyLayer::try_new(Backends::<Node>::new(), both).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_finds_its_backend_busy_waits_for_it() {
    let (backends, [a]) = nodes(["a"]);
    let service = sealed(&backends).into_service();
    a.told.refuses.store(true, SeqCst);
    send(&service, get()).await;
    a.told.refuses.store(false, SeqCst);
    tokio::time::sleep(1100 * MS).await;
    a.told.set_busy(true);
    let told = a.told.clone();
    let later = async {
        tokio::time::sleep(500 * MS).await;
        told.set_busy(false);
    };
    let (answer, ()) = tokio::join!(send(&service, get()), later);
    assert_eq!(answer.status, 200);
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
}

#[tokio::test(start_paused = true)]
async fn an_answer_from_before_a_failure_proves_nothing() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.told.gate.forget_permits(UNGATED);
    let slow = tokio::spawn({
        let service = service.clone();
        async move { send(&service, with_cookie("sid=a")).await.status }
    });
    tokio::time::sleep(MS).await;
    a.told.refuses.store(true, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    a.told.gate.add_permits(UNGATED);
    assert_eq!(slow.await.unwrap(), 200);
    assert_eq!(backends.get("a").unwrap().state, State::Suspect, "it refuses still");
}

#[tokio::test(start_paused = true)]
async fn the_local_node_has_limits_and_patience_like_any_other() {
    let (backends, layer) = local(Cookie::plain("sid"));
    backends.set_limit("a", 1).unwrap();
    let a = Node::new("a");
    a.told.gate.forget_permits(UNGATED);
    let service = layer.layer(a.clone());
    let mut requests = Vec::new();
    for _ in 0..3 {
        let service = service.clone();
        requests.push(tokio::spawn(async move { send(&service, with_cookie("sid=a")).await.body }));
    }
    tokio::time::sleep(10 * MS).await;
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.waiting), (1, 2));
    tokio::time::sleep(300 * MS).await;
    a.told.gate.add_permits(UNGATED);
    let mut bodies = Vec::new();
    for request in requests {
        bodies.push(request.await.unwrap());
    }
    bodies.sort();
    assert_eq!(bodies, ["a", "b", "b"], "two were borrowed by the peer");

    a.told.set_busy(true);
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!(answer.why(), (Verdict::Borrowed, Some("b"), Some(Reason::Busy)), "not for ever");
    a.told.set_busy(false);
    a.told.failed.store(true, SeqCst);
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!(answer.why(), (Verdict::Moved, Some("b"), Some(Reason::NotReady)));
}

#[tokio::test]
async fn an_upgrade_on_the_local_node_is_in_flight_until_it_ends() {
    let (backends, layer) = local(Cookie::plain("sid"));
    let ends = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let ends = ends.clone();
        service_fn(move |_: Request<Body>| {
            let (hold, end) = UpgradeGuard::pair();
            ends.lock().unwrap().push(end);
            let mut response = Response::new(Body::default());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            response.extensions_mut().insert(hold);
            async { Ok::<_, Infallible>(response) }
        })
    };
    let service = layer.layer(handler);
    send(&service, with_cookie("sid=a")).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "the tunnel is open");
    ends.lock().unwrap().clear();
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
}

/// The way to a node that is, against what the list says, this one.
#[derive(Clone)]
struct Mirror {
    node: Arc<OnceLock<StickyService<Mirror, Node>>>,
    hops: Arc<AtomicUsize>,
}

impl Service<Request<Body>> for Mirror {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        request.extensions_mut().clear();
        let (node, hops) = (self.node.get().unwrap().clone(), self.hops.fetch_add(1, SeqCst));
        Box::pin(async move {
            if hops > 20 {
                return Err("round and round".into());
            }
            let (parts, body) = node.oneshot(request).await?.into_parts();
            Ok(Response::from_parts(parts, Body::from(body.collect().await?.to_bytes())))
        })
    }
}

#[tokio::test]
async fn a_mistake_in_the_list_of_nodes_makes_no_loop() {
    for sealed in [false, true] {
        let mirror = Mirror { node: Arc::default(), hops: Arc::default() };
        let cookie = if sealed { Cookie::sealed("sid", keys()) } else { Cookie::plain("sid") };
        let backends = Backends::from_iter([("b", mirror.clone())]);
        let layer = StickyLayer::new(backends, cookie).strategy(RoundRobin::new()).local("a");
        let service = layer.layer(Node::new("a"));
        assert!(mirror.node.set(service.clone()).is_ok());
        for _ in 0..4 {
            assert_eq!(send(&service, get()).await.body, "a");
        }
        assert_eq!(mirror.hops.load(SeqCst), 2, "every other one is forwarded, once");
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_been_executed_is_no_503() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).retry_idempotent(true).propagate_errors().into_service();
    a.told.hangs_up.store(true, SeqCst);
    b.told.refuses.store(true, SeqCst);
    let error = service.oneshot(with_cookie("x=1")).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, StickyError::Backend { backend, .. } if *backend == "a"), "{error}");
    assert_eq!(error.status(), 502);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_another_backend_answers_takes_its_session_along() {
    for (policy, verdict, home) in
        [(Failover::Repin, Verdict::Moved, "b"), (Failover::Borrow, Verdict::Borrowed, "a")]
    {
        let (backends, [a, _b]) = nodes(["a", "b"]);
        let service = sealed(&backends).on_unavailable(policy).into_service();
        let mut client = Client::default();
        client.send(&service, get()).await;
        a.told.hangs_up.store(true, SeqCst);
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.why(), (verdict, Some("b"), Some(Reason::ConnectFailed)));
        assert_eq!(answer.token().is_some(), verdict == Verdict::Moved, "in the same step");
        a.told.hangs_up.store(false, SeqCst);
        assert_eq!(client.send(&service, get()).await.body, home, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn no_duration_is_too_long() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let health = Health::new().ejection(Duration::MAX).readiness_interval(Duration::MAX);
    let layer = sealed(&backends).ready_timeout(Duration::MAX).health(health);
    let service = layer.on_busy(Busy::wait(Duration::MAX)).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    a.told.set_busy(true);
    let told = a.told.clone();
    let later = async {
        tokio::time::sleep(500 * MS).await;
        told.set_busy(false);
    };
    let (answer, ()) = tokio::join!(client.send(&service, get()), later);
    assert_eq!(answer.why().0, Verdict::Pinned, "it waited");
    a.told.refuses.store(true, SeqCst);
    assert_eq!(client.send(&service, get()).await.why().0, Verdict::Moved);
}

#[tokio::test]
async fn a_pin_on_a_request_passed_by_is_the_same_session() {
    let (backends, [a]) = nodes(["a"]);
    let clock = Clock::new();
    let cookie = Cookie::sealed("sid", keys()).absolute_timeout(Duration::from_secs(3600));
    let layer = layer(&backends, cookie).clock(clock.clone());
    let service = layer.bypass_if(|head| head.uri().path() == "/static").into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    clock.advance(3000);
    *a.told.word.lock().unwrap() = Some(SessionAction::Pin);
    let request = Request::get("/static").body(Body::default()).unwrap();
    assert!(client.send(&service, request).await.token().is_some());
    *a.told.word.lock().unwrap() = None;
    clock.advance(3000);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.why().2, Some(Reason::ExpiredAbsolute), "its first date never changes");
}

#[tokio::test]
async fn a_strict_client_can_begin_anew() {
    let (backends, _nodes) = nodes(["a"]);
    let service = sealed(&backends).strict(true).into_service();
    let answer = send(&service, with_cookie("sid=old")).await;
    assert_eq!(answer.status, 410);
    assert_eq!(answer.token().as_deref(), Some(""), "the token that is worth nothing goes");
}

#[tokio::test]
async fn a_large_pool_that_is_idle_is_not_busy() {
    let limited = || tower::ServiceBuilder::new().concurrency_limit(9).concurrency_limit(9);
    let backends =
        Backends::from_iter((0..150).map(|i| (format!("b{i}"), limited().service(Node::new("x")))));
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid"));
    assert!(layer.start::<Request<Body>>());
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    assert!(backends.iter().all(|backend| backend.state == State::Ready));
}

#[tokio::test]
async fn a_bad_token_beside_a_good_one_in_a_chain_is_replaced() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(Header::plain("x-sticky"));
    let service = layer(&backends, chain).into_service();
    let mut request = with_cookie("sid=bad");
    request.headers_mut().insert("x-sticky", "b".parse().unwrap());
    let answer = send(&service, request).await;
    assert_eq!(answer.why(), (Verdict::Pinned, Some("b"), None));
    let token = answer.token().expect("the bad one is replaced");
    let answer = send(&service, with_cookie(&format!("sid={token}"))).await;
    assert_eq!(answer.why(), (Verdict::Pinned, Some("b"), None), "by one that is as good");
    let mut request = get();
    request.headers_mut().insert("x-sticky", "b".parse().unwrap());
    assert_eq!(send(&service, request).await.token(), None, "a missing one is not added");
}

#[tokio::test(start_paused = true)]
async fn a_candidate_that_stops_taking_sessions_meanwhile_is_not_asked() {
    let (_, [b, c]) = nodes(["b", "c"]);
    // `a` refuses after a while, in which the operator drains `b`.
    let slow = service_fn(|request: Request<Body>| async move {
        tokio::time::sleep(100 * MS).await;
        Err::<Response<Body>, BoxError>(tower_sticky::NotSent::new(request, "refused").into())
    });
    let pool = Backends::from_iter([
        ("a", tower::util::BoxCloneSyncService::new(slow)),
        ("b", tower::util::BoxCloneSyncService::new(b.clone())),
        ("c", tower::util::BoxCloneSyncService::new(c.clone())),
    ]);
    let first = StickyLayer::new(pool.clone(), Cookie::plain("sid")).strategy(RoundRobin::new());
    let service = first.into_service();
    let drain = async {
        tokio::time::sleep(50 * MS).await;
        pool.set_mode("b", Mode::Draining).unwrap();
    };
    let (answer, ()) = tokio::join!(send(&service, get()), drain);
    assert_eq!(answer.body, "c");
}
