//! Sessions whose ids contain the name of their backend.

use std::{collections::HashSet, sync::atomic::Ordering::SeqCst, time::Duration};

use http::{Request, StatusCode};
use tower_sticky::{
    Backends, Failover, Key, KeyRing, Mode, Reason, SessionInfo, StickyLayer, StickyService,
    Strict, Verdict,
    affinity::{Affinity, Chain, Cookie, Key as ByKey, Route},
    strategy::RoundRobin,
};

use crate::support::{Body, Node, get, keys, layer, nodes, send, with_cookie, with_header};

fn at(uri: &str) -> Request<Body> {
    let mut request = get();
    *request.uri_mut() = uri.parse().unwrap();
    request
}

/// The route that the backend was told with its last request.
fn told(node: &Node) -> String {
    let headers = node.control.headers.lock().unwrap();
    let info = SessionInfo::from_headers(headers.last().unwrap()).unwrap();
    info.route().unwrap().to_owned()
}

fn key(first: u8) -> Key {
    Key::from_bytes((first..first + 32).collect::<Vec<u8>>()).unwrap()
}

/// Makes a request with an id.
type Requests = Box<dyn Fn(&str) -> Request<Body>>;

#[tokio::test]
async fn an_id_with_a_plain_route_goes_to_its_backend() {
    let (backends, _nodes) = nodes(["node1", "node2", "a.b"]);
    let cases: Vec<(Route, Requests)> = vec![
        (
            Route::cookie("JSESSIONID").after('.'),
            Box::new(|id| with_cookie(&format!("x=1; JSESSIONID={id}"))),
        ),
        (Route::header("x-upload").after('.'), Box::new(|id| with_header("x-upload", id))),
        (Route::query("sid").after('.'), Box::new(|id| at(&format!("/socket?t=1&sid={id}")))),
        (Route::path("/files/{id}").after('.'), Box::new(|id| at(&format!("/files/{id}/part/3")))),
        (
            Route::path_parameter("jsessionid").after('.'),
            Box::new(|id| at(&format!("/cart;jsessionid={id}?x=y"))),
        ),
    ];
    for (route, request) in cases {
        let name = format!("{route:?}");
        let service = layer(&backends, route).into_service();
        for (id, backend) in [("0A1B2C.node1", "node1"), ("x.y.node2", "node2"), ("0.a.b", "a.b")] {
            for _ in 0..2 {
                let answer = send(&service, request(id)).await;
                assert_eq!(answer.decision(), (Verdict::Pinned, Some(backend), None), "{name}");
                assert_eq!(answer.set_cookies(), [""; 0], "nothing is added");
            }
        }
        for (id, reason) in [
            ("0A1B2C.node3", Reason::Unknown),
            ("0A1B2C.", Reason::Unknown),
            ("0A1B2C", Reason::Malformed),
            ("node1", Reason::Malformed),
            ("0A1B2C.NODE1", Reason::Unknown),
        ] {
            let answer = send(&service, request(id)).await;
            let (verdict, backend, why) = answer.owned_decision();
            assert_eq!((verdict, why), (Verdict::Assigned, Some(reason)), "{name}: {id}");
            let again = send(&service, request(id)).await;
            assert_eq!(again.decision().1, backend.as_deref(), "one id goes to one backend");
        }
        let answer = send(&service, get()).await;
        assert_eq!((answer.decision().0, answer.decision().2), (Verdict::Assigned, None));
    }
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

#[tokio::test]
async fn the_route_may_precede_the_separator_or_be_the_whole_id() {
    let (backends, _nodes) = nodes(["a", "b~c"]);
    let before = layer(&backends, Route::path("/u/{id}").before('~')).into_service();
    let whole = layer(&backends, Route::cookie("route")).into_service();
    for (service, request, backend) in [
        (&before, at("/u/a~8f3a/part/3"), "a"),
        (&before, at("/u/b%7ec~8f3a"), "b~c"),
        (&whole, with_cookie("route=a"), "a"),
        (&whole, with_cookie("route=\"b~c\""), "b~c"),
        (&whole, with_cookie("route=old; route=a"), "a"),
    ] {
        let answer = send(service, request).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some(backend), None));
    }
}

#[tokio::test]
async fn backends_may_have_names_in_routes() {
    let (backends, [a, ..]) = nodes(["a", "b"]);
    let route = Route::cookie("S").after('.').name("node1", "a").name("node2", "gone");
    let service = layer(&backends, route).session_headers(true).into_service();
    for (id, decision) in [
        ("x.node1", (Verdict::Pinned, Some("a"), None)),
        ("x.b", (Verdict::Pinned, Some("b"), None)),
    ] {
        assert_eq!(send(&service, with_cookie(&format!("S={id}"))).await.decision(), decision);
    }
    assert_eq!(told(&a), "node1");
    let gone = send(&service, with_cookie("S=x.node2")).await;
    assert_eq!(gone.decision().2, Some(Reason::Unknown));
}

#[tokio::test]
async fn backends_are_told_a_route_only_if_ids_contain_one() {
    let (backends, [a]) = nodes(["a"]);
    let route = || Route::cookie("S").after('.').name("node1", "a");
    let cases: [(Box<dyn Affinity>, Option<&str>); 3] = [
        (Box::new(Cookie::plain("sid")), None),
        (Box::new(Chain::of(Cookie::plain("sid")).or(ByKey::header("u"))), None),
        (Box::new(Chain::of(Cookie::plain("sid")).or(route())), Some("node1")),
    ];
    for (affinity, expected) in cases {
        send(&layer(&backends, affinity).session_headers(true).into_service(), get()).await;
        let headers = a.control.headers.lock().unwrap().pop().unwrap();
        assert_eq!(SessionInfo::from_headers(&headers).unwrap().route(), expected);
    }
}

/// Both backends with their sealed routes.
async fn sealed_routes(backends: &Backends<Node>, nodes: &[Node; 2], keys: KeyRing) -> [String; 2] {
    let route = Route::query("sid").after('.').sealed(keys);
    let service =
        layer(backends, route).strategy(RoundRobin::new()).session_headers(true).into_service();
    send(&service, get()).await;
    send(&service, get()).await;
    [told(&nodes[0]), told(&nodes[1])]
}

#[tokio::test]
async fn a_backend_learns_its_sealed_route_and_gets_the_requests_with_it() {
    let (backends, nodes) = nodes(["a", "b"]);
    let [a, b] = sealed_routes(&backends, &nodes, keys()).await;
    assert_ne!(a, b);
    for route in [&a, &b] {
        assert_eq!(route.len(), 13);
        assert!(route.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7')), "{route}");
    }
    let service = layer(&backends, Route::query("sid").after('.').sealed(keys())).into_service();
    for (route, backend) in [(&a, "a"), (&b, "b"), (&a.to_uppercase(), "a")] {
        let answer = send(&service, at(&format!("/?sid=x.y.{route}"))).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some(backend), None));
    }
}

#[tokio::test]
async fn forged_truncated_and_foreign_routes_choose_no_backend() {
    let (backends, nodes) = nodes(["a", "b"]);
    let [a, _] = sealed_routes(&backends, &nodes, keys()).await;
    let [other_key, _] = sealed_routes(&backends, &nodes, KeyRing::new([key(100)]).unwrap()).await;
    let pool = Backends::named("other");
    let pool_nodes = ["a", "b"].map(Node::new);
    for node in &pool_nodes {
        pool.insert(node.name, node.clone()).unwrap();
    }
    let [other_pool, _] = sealed_routes(&pool, &pool_nodes, keys()).await;
    let service = layer(&backends, Route::query("sid").after('.').sealed(keys())).into_service();
    let changed = a.replace(a.chars().next().unwrap(), "7");
    for (route, reason) in [
        (&*other_key, Reason::Forged),
        (&other_pool, Reason::Forged),
        (&changed, Reason::Forged),
        (&a[..12], Reason::Malformed),
        (&format!("{a}a"), Reason::Malformed),
        ("a", Reason::Malformed),
        ("", Reason::Malformed),
        ("aaaaaaaaaaaa1", Reason::Malformed),
    ] {
        let answer = send(&service, at(&format!("/?sid=x.{route}"))).await;
        assert_eq!((answer.decision().0, answer.decision().2), (Verdict::Assigned, Some(reason)));
    }
    backends.remove("a").unwrap();
    let answer = send(&service, at(&format!("/?sid=x.{a}"))).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("b"), Some(Reason::Unknown)));
}

#[tokio::test]
async fn gateways_agree_while_keys_are_rotated() {
    let (backends, nodes) = nodes(["a", "b"]);
    let (old, new) = (key(0), key(64));
    let ring = KeyRing::new([old.clone()]).unwrap();
    let [old_route, _] = sealed_routes(&backends, &nodes, ring.clone()).await;
    let service =
        layer(&backends, Route::query("sid").after('.').sealed(ring.clone())).into_service();
    ring.set([old.clone(), new.clone()]).unwrap();
    let other = KeyRing::new([new.clone(), old.clone()]).unwrap();
    let [new_route, _] = sealed_routes(&backends, &nodes, other.clone()).await;
    assert_ne!(old_route, new_route, "the backend is told the code under the first key");
    let other = layer(&backends, Route::query("sid").after('.').sealed(other));
    let other = other.session_headers(true).into_service();
    for service in [&service, &other] {
        for route in [&old_route, &new_route] {
            let answer = send(service, at(&format!("/?sid=x.{route}"))).await;
            assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
        }
    }
    assert_eq!(told(&nodes[0]), new_route, "also after requests with a route");
    ring.set([new]).unwrap();
    let answer = send(&service, at(&format!("/?sid=x.{old_route}"))).await;
    assert_eq!(answer.decision().2, Some(Reason::Forged), "its key has left the ring");
}

#[tokio::test(start_paused = true)]
async fn a_session_is_borrowed_while_its_backend_is_out_and_returns() {
    let (backends, [a, ..]) = nodes(["a", "b", "c"]);
    let route = || Route::cookie("S").after('.');
    let gateways: [StickyService<Node>; 2] =
        [(); 2].map(|()| layer(&backends, route()).into_service());
    let id = |n: usize| with_cookie(&format!("S={n}.a"));
    a.control.refuses.store(true, SeqCst);
    let mut helpers = HashSet::new();
    for n in 0..40 {
        let first = send(&gateways[0], id(n)).await.owned_decision();
        assert_eq!(first.0, Verdict::Borrowed, "{first:?}");
        for gateway in &gateways {
            let again = send(gateway, id(n)).await;
            assert_eq!(again.decision().0, Verdict::Borrowed);
            assert_eq!(again.decision().1, first.1.as_deref(), "always the same backend");
        }
        helpers.insert(first.1);
    }
    assert_eq!(helpers.len(), 2, "ids are distributed over the others");
    a.control.refuses.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for n in 0..40 {
        let answer = send(&gateways[0], id(n)).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    }
    let stats = backends.snapshot().stats;
    assert_eq!((stats.moves(), stats.violations()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn policies_apply_as_to_every_pin() {
    let (backends, [a, ..]) = nodes(["a", "b"]);
    let with = |change: fn(StickyLayer<Node>) -> StickyLayer<Node>| {
        change(layer(&backends, Route::cookie("S").after('.'))).into_service()
    };
    let id = || with_cookie("S=x.a");
    let repin = with(|layer| layer.on_unavailable(Failover::Repin));
    let reject = with(|layer| layer.on_unavailable(Failover::Reject));
    let strict = with(|layer| layer.strict(Strict::new().status(StatusCode::GONE).unwrap()));
    backends.set_mode("a", Mode::Draining).unwrap();
    assert_eq!(send(&repin, id()).await.decision(), (Verdict::Pinned, Some("a"), None));
    backends.set_mode("a", Mode::Disabled).unwrap();
    let answer = send(&repin, id()).await;
    assert_eq!(answer.decision(), (Verdict::Borrowed, Some("b"), Some(Reason::Disabled)));
    for service in [&reject, &strict] {
        assert_eq!(send(service, id()).await.status, 503);
    }
    assert_eq!(send(&strict, with_cookie("S=x.gone")).await.status, 410);
    backends.set_mode("a", Mode::Active).unwrap();
    a.control.set_busy(true);
    let answer = send(&repin, id()).await;
    assert_eq!(answer.decision(), (Verdict::Borrowed, Some("b"), Some(Reason::Busy)));
}

#[tokio::test(start_paused = true)]
async fn a_session_waits_for_a_restarting_backend() {
    let (backends, [a, ..]) = nodes(["a", "b"]);
    a.control.redialable.store(true, SeqCst);
    let service = layer(&backends, Route::cookie("S").after('.'))
        .home_wait(Duration::from_secs(1))
        .into_service();
    a.control.refuses.store(true, SeqCst);
    let waiting = crate::support::spawn(&service, with_cookie("S=x.a"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    a.control.refuses.store(false, SeqCst);
    assert_eq!(waiting.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None));
}

#[tokio::test]
async fn a_route_takes_its_place_in_a_chain() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let route = || Route::query("sid").after('.');
    let after_cookie = Chain::of(Cookie::plain("sid")).or(route());
    let service = layer(&backends, after_cookie).into_service();
    let mut request = at("/?sid=x.a");
    request.headers_mut().insert("cookie", "sid=b".parse().unwrap());
    assert_eq!(send(&service, request).await.decision(), (Verdict::Pinned, Some("b"), None));
    let answer = send(&service, at("/?sid=x.a")).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(answer.set_cookies(), [""; 0], "the route needs no cookie");
    let before_cookie = Chain::of(route()).or(Cookie::plain("sid"));
    let service = layer(&backends, before_cookie).into_service();
    let mut request = at("/?sid=x.gone");
    request.headers_mut().insert("cookie", "sid=b".parse().unwrap());
    let answer = send(&service, request).await;
    assert_eq!(
        answer.decision(),
        (Verdict::Pinned, Some("b"), None),
        "an unusable route is skipped"
    );
}

#[tokio::test(start_paused = true)]
async fn a_route_serves_while_the_owner_of_an_earlier_key_is_out() {
    let mut served = 0;
    for (route, user) in (0..12).map(|user| (["a", "b", "c"][user % 3], user.to_string())) {
        let (backends, nodes) = nodes(["a", "b", "c"]);
        let chain = Chain::of(ByKey::header("u")).or(Route::query("sid").after('.'));
        let service = layer(&backends, chain).into_service();
        let request = || {
            let mut request = at(&format!("/?sid=x.{route}"));
            request.headers_mut().insert("u", user.parse().unwrap());
            request
        };
        let owner = send(&service, request()).await.owned_decision().1.unwrap();
        if owner != route {
            let node = nodes.iter().find(|node| node.name == owner).unwrap();
            node.control.refuses.store(true, SeqCst);
            let answer = send(&service, request()).await;
            assert_eq!(answer.decision().1, Some(route), "{owner} is out");
            served += 1;
        }
    }
    assert!(served > 4, "most owners are not the route's backend");
}

#[tokio::test]
async fn bad_routes_are_refused_when_they_are_built() {
    let (backends, _nodes) = nodes(["a"]);
    for (route, why) in [
        (Route::cookie(""), "empty"),
        (Route::header("host"), "HTTP itself"),
        (Route::path("files"), "slash"),
        (Route::path("/files"), "braces"),
        (Route::query("sid").after('x'), "neither a letter"),
        (Route::query("sid").before('é'), "neither a letter"),
        (Route::query("sid").name("", "a"), "1 to 128"),
        (Route::query("sid").name("n".repeat(129), "a"), "1 to 128"),
        (Route::query("sid").name("n", "a").name("n", "b"), "two backends"),
        (Route::query("sid").name("n", "a b"), "backend id"),
        (Route::query("sid").name("n", "a").sealed(keys()), "no names"),
    ] {
        let error = StickyLayer::try_new(backends.clone(), route).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    let longest = Route::query("sid").name("n".repeat(128), "a");
    assert!(StickyLayer::try_new(backends, longest).is_ok());
}

#[tokio::test]
async fn sealed_routes_to_backends_that_join_are_known() {
    let (backends, [a]) = nodes(["a"]);
    let sealed = Route::cookie("JSESSIONID").after('.').sealed(keys());
    let service = layer(&backends, sealed).session_headers(true).into_service();
    send(&service, get()).await;
    let first = told(&a);
    send(&service, with_cookie(&format!("JSESSIONID=0.{first}"))).await;
    let b = Node::new("b");
    backends.insert("b", b.clone()).unwrap();
    for _ in 0..2 {
        send(&service, get()).await;
    }
    let route = told(&b);
    assert_ne!(route, first);
    let answer = send(&service, with_cookie(&format!("JSESSIONID=0.{route}"))).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None));
}
