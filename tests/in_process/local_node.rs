//! An application whose nodes forward the sessions of their peers.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    task::{Context, Poll},
};

use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use tower::{BoxError, Layer, Service, ServiceExt, service_fn};
use tower_sticky::{
    Backends, Failover, Mode, Reason, StickyLayer, StickyService, UpgradeGuard, Verdict,
    affinity::{Affinity, Chain, Cookie, Envelope, Key},
    strategy::RoundRobin,
};

use crate::support::{
    Body, Client, First, MS, Node, get, keys, layer, load, nodes, refuse, send, with_cookie,
    with_header,
};

/// A connection to another node of the mesh, as a proxy would make it.
#[derive(Clone, Default)]
struct Peer {
    node: Arc<OnceLock<StickyService<Peer, Node>>>,
    hops: Arc<AtomicUsize>,
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        // Extensions do not cross a network.
        request.extensions_mut().clear();
        let node = self.node.get().expect("the mesh is complete").clone();
        let hops = self.hops.fetch_add(1, SeqCst);
        Box::pin(async move {
            if hops > 20 {
                return Err("the request loops".into());
            }
            let (mut parts, body) = node.oneshot(request).await?.into_parts();
            parts.extensions.clear();
            let body = body.collect().await?.to_bytes();
            Ok(Response::from_parts(parts, Body::from(body)))
        })
    }
}

/// A client whose session is on `a`, whichever node it has begun at.
async fn client_on_a(entry: &StickyService<Peer, Node>) -> Client {
    let mut client = Client::default();
    while client.send(entry, get()).await.body != "a" {
        client = Client::default();
    }
    client
}

/// Two nodes, `a` and `b`, with the same list of backends.
fn mesh(sealed: bool) -> [(StickyService<Peer, Node>, Node); 2] {
    let ways = [Peer::default(), Peer::default()];
    let nodes = ["a", "b"].map(|name| {
        let peers = [("a", ways[0].clone()), ("b", ways[1].clone())];
        let cookie = if sealed { Cookie::sealed("sid", keys()) } else { Cookie::plain("sid") };
        let strategy = tower_sticky::strategy::RoundRobin::new();
        let layer = StickyLayer::new(Backends::from_iter(peers), cookie)
            .strategy(strategy)
            .outcome_extensions(true)
            .local(name);
        let node = Node::new(name);
        (layer.layer(node.clone()), node)
    });
    for (way, (service, _)) in ways.iter().zip(&nodes) {
        assert!(way.node.set(service.clone()).is_ok());
    }
    nodes
}

#[tokio::test]
async fn a_session_is_served_by_its_node_whichever_node_is_asked() {
    for sealed in [false, true] {
        let [(entry_a, a), (entry_b, b)] = mesh(sealed);
        let mut client = Client::default();
        let answer = client.send(&entry_a, get()).await;
        assert_eq!(answer.decision(), (Verdict::Assigned, Some("a"), None));
        let answer = client.send(&entry_b, get()).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "forwarded to the peer");
        let answer = client.send(&entry_a, get()).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "served here");
        assert_eq!((a.served(), b.served()), (3, 0));
        let outcomes = a.control.outcomes.lock().unwrap();
        let verdicts: Vec<_> = outcomes.iter().map(|o| o.as_ref().unwrap().verdict()).collect();
        assert_eq!(verdicts, [Verdict::Assigned, Verdict::Local, Verdict::Pinned]);
        let stats = entry_b.backends().snapshot().stats;
        assert_eq!((stats.outcome(Verdict::Pinned), stats.violations()), (1, 0));
    }
}

#[tokio::test]
async fn a_forwarded_request_is_never_forwarded_again() {
    let [(entry_a, a), (entry_b, b)] = mesh(true);
    // The nodes disagree: to `a` the backend `a` is disabled, to `b` it is fine.
    entry_a.backends().set_mode("a", tower_sticky::Mode::Disabled).unwrap();
    let mut client = Client::default();
    let answer = client.send(&entry_b, get()).await;
    assert_eq!(answer.body, "a", "b chose a, and a served what it was given");
    assert_eq!((a.served(), b.served()), (1, 0), "no loop");
    assert_eq!(answer.set_cookies().len(), 1, "only the entry node writes the pin");
}

#[tokio::test]
async fn a_client_cannot_pretend_to_be_a_peer() {
    let [(entry_a, _a), (_, b)] = mesh(true);
    let mut pin = Client::default();
    let mut body = String::new();
    while body != "b" {
        pin = Client::default();
        body = pin.send(&entry_a, get()).await.body;
    }
    let served = b.served();
    let mut request = with_cookie(&format!("sid={}", pin.token.unwrap()));
    request.headers_mut().insert("x-sticky-forwarded", "a".parse().unwrap());
    assert_eq!(send(&entry_a, request).await.decision(), (Verdict::Pinned, Some("b"), None));
    assert_eq!(b.served(), served + 1);
}

#[tokio::test]
async fn a_peer_that_is_gone_is_failed_over_to_the_local_node() {
    let way = Node::new("b");
    let backends = Backends::from_iter([("b", way.clone())]);
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid"))
        .outcome_extensions(true)
        .local("a");
    let service = layer.layer(Node::new("a"));
    assert_eq!(backends.len(), 2, "the local node is a member");
    assert!(backends.get("a").unwrap().local);
    assert!(backends.replace("a", way.clone()).is_err(), "its service is the inner service");
    way.control.refuses.store(true, SeqCst);
    let answer = send(&service, with_cookie("sid=b")).await;
    assert_eq!((answer.body.as_str(), answer.decision().0), ("a", Verdict::Moved));
    assert_eq!(answer.token().as_deref(), Some("a"));
}

#[tokio::test(start_paused = true)]
async fn the_local_node_serves_a_request_that_two_peers_disconnected() {
    let mut twice = 0;
    for _ in 0..20 {
        let (backends, [a, b]) = nodes(["a", "b"]);
        let layer = StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys()))
            .outcome_extensions(true)
            .local("c");
        let here = Node::new("c");
        let service = layer.layer(here.clone());
        let mut client = Client::default();
        while client.send(&service, get()).await.body != "a" {
            client = Client::default();
        }
        let served = (a.served(), b.served(), here.served());
        a.control.disconnects.store(true, SeqCst);
        b.control.disconnects.store(true, SeqCst);
        let mut other = client.clone();
        let answer = client.send(&service, get()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "c"));
        assert_eq!(answer.decision(), (Verdict::Moved, Some("c"), Some(Reason::ConnectFailed)));
        assert_eq!((a.served(), here.served()), (served.0 + 1, served.2 + 1));
        twice += b.served() - served.1;
        assert_eq!(client.send(&service, get()).await.decision().0, Verdict::Pinned);

        // A draining local node takes no session by this path.
        backends.set_mode("c", Mode::Draining).unwrap();
        let sent = a.served() + b.served();
        assert_eq!(other.send(&service, get()).await.status, 502);
        assert!((1..=3).contains(&(a.served() + b.served() - sent)));
    }
    assert!((1..20).contains(&twice), "the rank decides which is tried first: {twice}");
}

#[tokio::test(start_paused = true)]
async fn a_busy_local_node_is_waited_for_when_two_peers_have_disconnected() {
    // The policy is for sessions, and this one is new.
    for policy in [Failover::Repin, Failover::Reject] {
        let (backends, here) = (Backends::new(), Node::new("a"));
        let layer = layer(&backends, Cookie::sealed("sid", keys())).strategy(First);
        let service = layer.on_unavailable(policy).local("a").layer(here.clone());
        let peers = ["b", "c", "d"].map(Node::new);
        for peer in &peers {
            peer.control.disconnects.store(true, SeqCst);
            backends.insert(peer.name, peer.clone()).unwrap();
        }
        here.control.set_busy(true);
        let request = tokio::spawn(async move { send(&service, get()).await });
        tokio::time::sleep(100 * MS).await;
        here.control.set_busy(false);
        let answer = request.await.unwrap();
        assert_eq!((answer.status, &*answer.body), (200, "a"), "{policy:?}");
        let sent: usize = peers.iter().map(Node::served).sum();
        assert_eq!(sent, 2, "it is not sent to a third one: {policy:?}");
    }
}

#[tokio::test]
async fn a_session_action_reaches_the_forwarding_node() {
    let [(entry_a, a), (entry_b, _)] = mesh(true);
    let client = client_on_a(&entry_a).await;
    a.control.action.lock().unwrap().replace(tower_sticky::SessionAction::End);
    for entry in [&entry_a, &entry_b] {
        let answer = client.clone().send(entry, get()).await;
        assert_eq!(answer.token().as_deref(), Some(""), "the session has ended");
        assert!(
            !answer.headers.contains_key("x-sticky-action"),
            "the header is only sent between nodes"
        );
    }
}

#[tokio::test]
async fn a_forwarded_request_that_cannot_be_served_is_rejected() {
    let [(entry_a, a), (entry_b, b)] = mesh(true);
    let mut client = client_on_a(&entry_a).await;
    let served = b.served();
    a.control.readiness_fails.store(true, SeqCst);
    let answer = client.send(&entry_b, get()).await;
    assert_eq!(answer.status, 503, "it is not forwarded again");
    assert_eq!(b.served(), served);
}

/// A node `a` that is local, with a peer `b`.
fn local(affinity: impl Affinity) -> (Backends<Node>, StickyLayer<Node>) {
    let backends = Backends::from_iter([("b", Node::new("b"))]);
    let layer = layer(&backends, affinity).local("a");
    (backends, layer)
}

#[tokio::test(start_paused = true)]
async fn the_local_node_has_limits_and_timeouts() {
    let (backends, layer) = local(Cookie::plain("sid"));
    backends.set_limit("a", 1).unwrap();
    let a = Node::new("a");
    a.hold_responses();
    let service = layer.layer(a.clone());
    let mut requests = Vec::new();
    for _ in 0..3 {
        let service = service.clone();
        requests.push(tokio::spawn(async move { send(&service, with_cookie("sid=a")).await.body }));
    }
    tokio::time::sleep(10 * MS).await;
    assert_eq!(load(&backends, "a"), (1, 2));
    tokio::time::sleep(300 * MS).await;
    a.release_responses();
    let mut bodies = Vec::new();
    for request in requests {
        bodies.push(request.await.unwrap());
    }
    bodies.sort();
    assert_eq!(bodies, ["a", "b", "b"], "two were borrowed by the peer");

    a.control.set_busy(true);
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!(
        answer.decision(),
        (Verdict::Borrowed, Some("b"), Some(Reason::Busy)),
        "not for ever"
    );
    a.control.set_busy(false);
    a.control.readiness_fails.store(true, SeqCst);
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::NotReady)));
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

#[tokio::test]
async fn a_wrong_peer_address_causes_no_loop() {
    for sealed in [false, true] {
        // The address of `b` is, by mistake, that of this node.
        let mirror = Peer::default();
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

#[tokio::test]
async fn a_local_node_without_a_service_serves_nothing() {
    let (backends, [_b]) = nodes(["b"]);
    let layer = layer(&backends, Cookie::plain("sid")).local("a");
    let answer = send(&layer.into_service(), with_cookie("sid=a")).await;
    assert_eq!((answer.body.as_str(), answer.decision().0), ("b", Verdict::Moved));
}

#[tokio::test]
async fn the_first_member_of_a_chain_that_remembers_names_the_peers() {
    let way = Node::new("b");
    let chain = || Chain::of(Key::header("user")).or(Cookie::sealed("sid", keys()));
    let (here, seen) = (Node::new("a"), Arc::new(Mutex::new(Vec::new())));
    let mesh = StickyLayer::new(Backends::from_iter([("b", way.clone())]), chain());
    let mesh = mesh.strategy(RoundRobin::new()).session_headers(true);
    let service = mesh.local("a").layer(here.clone());
    for _ in 0..2 {
        send(&service, get()).await;
    }
    let forwarded = way.control.headers.lock().unwrap().last().cloned().unwrap();
    let inner = service_fn({
        let seen = seen.clone();
        move |request: Request<Body>| {
            let info = tower_sticky::SessionInfo::of(request.extensions()).cloned();
            seen.lock().unwrap().push(info);
            async { Ok::<_, Infallible>(Response::new(Body::default())) }
        }
    });
    let layer = StickyLayer::new(Backends::<Node>::new(), chain()).local("b");
    let peer = layer.session_extensions(true).outcome_extensions(true).layer(inner);
    let mut request = get();
    *request.headers_mut() = forwarded.clone();
    assert_eq!(send(&peer, request).await.decision().0, Verdict::Local, "{forwarded:?}");
    assert!(seen.lock().unwrap().pop().flatten().is_some(), "a sealed token proves it");
    let mut request = get();
    request.headers_mut().insert("x-sticky-forwarded", "b".parse().unwrap());
    assert_eq!(send(&peer, request).await.decision().0, Verdict::Assigned, "anybody can say that");
}

#[tokio::test]
async fn with_envelopes_a_client_cannot_pretend_to_be_a_peer() {
    let (_backends, layer) = local(Envelope::cookie("sid", keys()));
    let service = layer.layer(Node::new("a"));
    for _ in 0..2 {
        let answer = send(&service, with_header("x-sticky-forwarded", "a")).await;
        assert_eq!(answer.decision().0, Verdict::Assigned);
    }
}

#[tokio::test(start_paused = true)]
async fn failures_of_a_service_do_not_count_for_the_local_node_that_replaces_it() {
    let (backends, [former, _b]) = nodes(["a", "b"]);
    let layer = layer(&backends, Cookie::plain("sid"));
    refuse(&former, true);
    assert_eq!(send(&layer.clone().into_service(), with_cookie("sid=a")).await.body, "b");
    let service = layer.local("a").layer(Node::new("a"));
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
}
