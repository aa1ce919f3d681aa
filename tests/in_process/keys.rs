//! Affinity by hash, tokens in headers, and chains of several.

use std::{collections::HashMap, sync::atomic::Ordering::SeqCst, time::Duration};

use http::{Request, header};
use tower_sticky::{
    Backends, Failover, Key as Secret, Mode, Reason, StickyLayer, Verdict,
    affinity::{Affinity, Chain, ClientIp, Cookie, Header, Key, Table},
    strategy::RoundRobin,
};

use crate::support::{Answer, Body, Node, get, keys, nodes, send};

fn layer(backends: &Backends<Node>, affinity: impl Affinity) -> StickyLayer<Node> {
    StickyLayer::new(backends.clone(), affinity)
        .strategy(RoundRobin::new())
        .outcome_extensions(true)
}

fn with(name: &'static str, value: &str) -> Request<Body> {
    let mut request = get();
    request.headers_mut().insert(name, value.parse().unwrap());
    request
}

#[tokio::test]
async fn a_key_chooses_the_backend_without_any_state() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let other = Backends::from_iter(["c", "a", "b"].map(|name| (name, Node::new(name))));
    let services =
        [&backends, &other].map(|pool| layer(pool, Key::header("x-user-id")).into_service());
    let mut homes = HashMap::<String, usize>::new();
    for user in 0..60 {
        let user = format!("user-{user}");
        let answer = send(&services[0], with("x-user-id", &user)).await;
        assert_eq!(answer.why(), (Verdict::Pinned, Some(&*answer.body), None));
        assert_eq!(answer.set_cookies(), [""; 0]);
        let again = send(&services[1], with("x-user-id", &user)).await;
        assert_eq!(again.body, answer.body, "another gateway, another order, the same choice");
        *homes.entry(answer.body).or_default() += 1;
    }
    assert_eq!(homes.len(), 3, "{homes:?}");
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_sessions_of_a_dead_backend_go_to_the_next_in_rank_and_come_back() {
    let (backends, [a, ..]) = nodes(["a", "b", "c"]);
    let service = layer(&backends, Key::header("x-user-id")).into_service();
    let mut users = Vec::new();
    for user in 0..40 {
        let user = format!("user-{user}");
        users.push((send(&service, with("x-user-id", &user)).await.body, user));
    }
    a.told.refuses.store(true, SeqCst);
    let mut refuges = HashMap::new();
    for (home, user) in &users {
        let answer = send(&service, with("x-user-id", user)).await;
        if home == "a" {
            assert_eq!(
                answer.why().0,
                Verdict::Borrowed,
                "nothing is remembered, so nothing moves"
            );
            refuges.insert(user, answer.body);
        } else {
            assert_eq!(
                (answer.why().0, &answer.body),
                (Verdict::Pinned, home),
                "nobody else moves"
            );
        }
    }
    assert!(refuges.values().any(|refuge| refuge == "b"));
    assert!(refuges.values().any(|refuge| refuge == "c"));
    for (user, refuge) in &refuges {
        let answer = send(&service, with("x-user-id", user)).await;
        assert_eq!(answer.why(), (Verdict::Borrowed, Some(&**refuge), Some(Reason::Down)));
    }
    a.told.refuses.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (home, user) in &users {
        assert_eq!(&send(&service, with("x-user-id", user)).await.body, home, "all are home again");
    }
}

#[tokio::test]
async fn a_hash_follows_the_operator_and_the_policy() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let reject = layer(&backends, Key::header("u")).on_unavailable(Failover::Reject);
    let service = reject.into_service();
    let mut user = String::new();
    for candidate in 0..100 {
        user = candidate.to_string();
        if send(&service, with("u", &user)).await.body == "a" {
            break;
        }
    }
    for (mode, weight) in [(Mode::Draining, 1), (Mode::Disabled, 1), (Mode::Active, 0)] {
        backends.set_mode("a", mode).unwrap();
        backends.set_weight("a", weight).unwrap();
        let answer = send(&service, with("u", &user)).await;
        assert_eq!(answer.why(), (Verdict::Pinned, Some("b"), None), "{mode} is not in the rank");
    }
    backends.set_weight("a", 1).unwrap();
    a.told.refuses.store(true, SeqCst);
    assert_eq!(send(&service, with("u", &user)).await.status, 503);
}

#[tokio::test]
async fn keys_come_from_anywhere_in_the_request() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d"]);
    #[derive(Clone)]
    struct Account(u64);
    let by_header = layer(&backends, Key::header("u")).into_service();
    let by_cookie = layer(&backends, Key::cookie("u")).into_service();
    let by_query = layer(&backends, Key::query("u")).into_service();
    let by_extension =
        layer(&backends, Key::extension(|a: &Account| a.0.to_string().into_bytes())).into_service();
    let by_function = layer(
        &backends,
        Key::from_fn(|head| Some(head.uri().path().strip_prefix("/room/")?.as_bytes().to_vec())),
    )
    .into_service();
    for user in 0..20 {
        let home = send(&by_header, with("u", &user.to_string())).await.body;
        let cookie = format!("sid=9; u=\"{user}\"; u=7");
        assert_eq!(send(&by_cookie, with("cookie", &cookie)).await.body, home, "the first counts");
        let at = |uri: String| Request::get(uri).body(Body::default()).unwrap();
        let query = at(format!("/x?a=u&v=1&u={user}&u=7"));
        assert_eq!(send(&by_query, query).await.body, home);
        let encoded: String = user.to_string().bytes().map(|b| format!("%{b:02x}")).collect();
        assert_eq!(send(&by_query, at(format!("/x?u={encoded}"))).await.body, home, "decoded");
        let mut extended = get();
        extended.extensions_mut().insert(Account(user));
        assert_eq!(send(&by_extension, extended).await.body, home);
        assert_eq!(send(&by_function, at(format!("/room/{user}"))).await.body, home);
        let mut twice = with("u", &user.to_string());
        twice.headers_mut().append("u", "7".parse().unwrap());
        assert_eq!(send(&by_header, twice).await.body, home, "the first value counts");
    }
    for missing in [get(), with("u", "")] {
        assert_eq!(send(&by_header, missing).await.why().0, Verdict::Assigned, "the strategy");
    }
}

#[tokio::test]
async fn a_secret_changes_who_goes_where() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d"]);
    let secret = |byte: u8| Secret::from_bytes([[byte; 31].as_slice(), &[0]].concat()).unwrap();
    let places = async |key: Key| {
        let service = layer(&backends, key).into_service();
        let mut places = Vec::new();
        for user in 0..40 {
            places.push(send(&service, with("u", &user.to_string())).await.body);
        }
        places
    };
    let open = places(Key::header("u")).await;
    let one = places(Key::header("u").secret(secret(1))).await;
    assert_ne!(open, one);
    assert_ne!(one, places(Key::header("u").secret(secret(2))).await);
    assert_eq!(one, places(Key::header("u").secret(secret(1))).await, "shared, they agree");
}

fn token(answer: &Answer) -> Option<String> {
    answer.headers.get("x-sticky").map(|token| token.to_str().unwrap().to_owned())
}

#[tokio::test]
async fn a_token_in_a_header_has_all_promises_of_the_cookie() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let affinity = Header::sealed("x-sticky", keys()).idle_timeout(Duration::from_secs(60));
    let service = layer(&backends, affinity).into_service();
    let answer = send(&service, get()).await;
    let pin = token(&answer).expect("handed out in the response");
    assert_eq!(answer.headers["cache-control"], "private, no-cache=\"x-sticky\"");
    a.told.answers.lock().unwrap().push(("x-sticky", "from the backend".into()));
    let answer = send(&service, with("x-sticky", &pin)).await;
    assert_eq!(answer.why(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(token(&answer), None, "nothing changed; the backend's is dropped");
    for (bad, reason) in [("x", Reason::Malformed), (&pin[..78], Reason::Malformed)] {
        let answer = send(&service, with("x-sticky", bad)).await;
        assert_eq!(answer.why().2, Some(reason));
        assert!(token(&answer).is_some_and(|token| token != "from the backend"), "replaced");
    }
    let mut two = with("x-sticky", "gone");
    two.headers_mut().append("x-sticky", pin.parse().unwrap());
    assert_eq!(send(&service, two).await.why().1, Some("a"), "the first usable one wins");
    let in_cookie = send(&service, with("cookie", &format!("x-sticky={pin}"))).await;
    assert_eq!(in_cookie.why().0, Verdict::Assigned, "a header's token is no cookie");
    let cookie = layer(&backends, Cookie::sealed("x-sticky", keys())).into_service();
    let answer = send(&cookie, with("cookie", &format!("x-sticky={pin}"))).await;
    assert_eq!(answer.why().2, Some(Reason::Forged), "nor under the same name and key");
    drop(b);
    for bad in ["", "a b", "set-cookie", "Content-Length", "host"] {
        assert!(
            StickyLayer::try_new(Backends::<Node>::new(), Header::plain(bad)).is_err(),
            "{bad:?} cannot be ours"
        );
    }
}

#[tokio::test]
async fn the_token_is_taken_out_of_the_request() {
    let (backends, _nodes) = nodes(["a"]);
    let seen = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let spy = {
        let seen = seen.clone();
        tower::service_fn(move |request: Request<Body>| {
            seen.lock().unwrap().push(request.headers().contains_key("x-sticky"));
            async { Ok::<_, std::convert::Infallible>(http::Response::new(Body::default())) }
        })
    };
    drop(backends);
    for forward in [false, true] {
        let backends = Backends::from_iter([("a", spy.clone())]);
        let affinity = Header::plain("x-sticky").forward(forward);
        let service = StickyLayer::new(backends, affinity).into_service();
        send(&service, with("x-sticky", "a")).await;
        assert_eq!(seen.lock().unwrap().pop(), Some(forward));
    }
}

fn chain() -> Chain {
    Chain::of(Cookie::sealed("sid", keys()))
        .or(Header::sealed("x-sticky", keys()))
        .or(Key::header("x-user-id"))
}

#[tokio::test]
async fn a_chain_asks_in_order() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let service = layer(&backends, chain()).into_service();
    let by_key = layer(&backends, Key::header("x-user-id")).into_service();
    for user in 0..10 {
        let user = user.to_string();
        let home = send(&by_key, with("x-user-id", &user)).await.body;
        let first = send(&service, with("x-user-id", &user)).await;
        assert_eq!(first.why(), (Verdict::Assigned, Some(&*home), None), "lands right at once");
        let (cookie, header) = (first.token().unwrap(), token(&first).unwrap());
        let elsewhere = format!("{user}0");
        let mut request = with("x-user-id", &elsewhere);
        request.headers_mut().insert(header::COOKIE, format!("sid={cookie}").parse().unwrap());
        let answer = send(&service, request).await;
        assert_eq!(answer.why(), (Verdict::Pinned, Some(&*home), None), "the cookie wins");
        let mut request = with("x-sticky", &header);
        request.headers_mut().insert("x-user-id", elsewhere.parse().unwrap());
        let answer = send(&service, request).await;
        assert_eq!(answer.why(), (Verdict::Pinned, Some(&*home), None), "then the header");
        assert_eq!((answer.token(), token(&answer)), (None, None), "a good pin, nothing to write");
    }
}

#[tokio::test(start_paused = true)]
async fn parallel_first_requests_of_a_user_agree() {
    let (backends, nodes) = nodes(["a", "b", "c"]);
    let service = layer(&backends, chain()).into_service();
    for node in &nodes {
        node.told.gate.forget_permits(crate::support::UNGATED);
    }
    let requests: Vec<_> = (0..6)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, with("x-user-id", "42")).await.body })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(50)).await;
    for node in &nodes {
        node.told.gate.add_permits(crate::support::UNGATED);
    }
    let mut homes = Vec::new();
    for request in requests {
        homes.push(request.await.unwrap());
    }
    homes.dedup();
    assert_eq!(homes.len(), 1, "six slow first requests, one home: {homes:?}");
}

#[tokio::test]
async fn every_token_of_a_chain_is_taken_out() {
    let (backends, [a]) = nodes(["a"]);
    let service = layer(&backends, chain()).into_service();
    let first = send(&service, get()).await;
    let mut request = with("x-sticky", &token(&first).unwrap());
    let cookie = format!("x=1; sid={}", first.token().unwrap());
    request.headers_mut().insert(header::COOKIE, cookie.parse().unwrap());
    assert_eq!(send(&service, request).await.why().0, Verdict::Pinned);
    assert_eq!(a.told.cookies.lock().unwrap().last().unwrap(), "x=1");
}

fn from(peer: &str, trusted: bool, header: Option<(&'static str, &str)>) -> Request<Body> {
    let mut request = get();
    let addr = format!("{peer}:4711").parse().unwrap();
    request.extensions_mut().insert(tower_sticky::Peer::new(addr).trusted(trusted));
    if let Some((name, value)) = header {
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    request
}

#[tokio::test]
async fn the_clients_address_chooses() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d", "e", "f", "g", "h"]);
    let affinity = ClientIp::new().trusted_proxies(["10.0.0.0/8"]).unwrap();
    let service = layer(&backends, affinity).into_service();
    let home = async |request: Request<Body>| send(&service, request).await.body;
    let xff = Some(("x-forwarded-for", "6.6.6.6, 203.0.113.9, 10.1.1.1"));
    let forwarded = Some(("forwarded", "for=6.6.6.6, for=\"203.0.113.9:80\", for=10.1.1.1"));
    let mut differs = 0;
    for peer in 1..20 {
        let peer = format!("192.0.2.{peer}");
        let alone = home(from(&peer, false, None)).await;
        assert_eq!(home(from(&peer, false, xff)).await, alone, "an untrusted peer says anything");
        assert_eq!(home(from(&peer, false, forwarded)).await, alone);
        differs += usize::from(alone != home(from("203.0.113.9", false, None)).await);
    }
    assert!(differs > 10, "addresses spread");
    let client = home(from("203.0.113.9", false, None)).await;
    assert_eq!(home(from("10.9.9.9", false, xff)).await, client, "a trusted proxy's word");
    assert_eq!(home(from("10.9.9.9", false, forwarded)).await, client);
    assert_eq!(home(from("192.0.2.1", true, xff)).await, client, "trusted by its connection");
    let mapped = Some(("x-forwarded-for", "::ffff:203.0.113.9"));
    assert_eq!(home(from("10.9.9.9", false, mapped)).await, client, "IPv4-mapped is IPv4");
    let v6 = async |address: &str| {
        home(from("10.0.0.1", false, Some(("x-forwarded-for", address)))).await
    };
    assert_eq!(v6("2001:db8::1").await, v6("2001:db8::ffff:1:2").await, "one /64, one session");
    assert_eq!(send(&service, get()).await.why().0, Verdict::Assigned, "no address: the strategy");
}

#[tokio::test]
async fn the_clients_address_can_come_from_axum_or_a_function_and_be_cut() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d", "e", "f", "g", "h"]);
    let service = layer(&backends, ClientIp::new().ipv4_prefix(24)).into_service();
    let by_function = ClientIp::new()
        .peer_from(|head| head.headers().get("addr")?.to_str().ok()?.parse().ok())
        .ipv4_prefix(24);
    let by_function = layer(&backends, by_function).into_service();
    for net in 0..10 {
        let peer = format!("192.0.{net}.1");
        let home = send(&service, from(&peer, false, None)).await.body;
        let mut request = get();
        let addr: std::net::SocketAddr = format!("192.0.{net}.77:1").parse().unwrap();
        request.extensions_mut().insert(axum::extract::ConnectInfo(addr));
        assert_eq!(send(&service, request).await.body, home, "one network, one home");
        assert_eq!(send(&by_function, with("addr", &peer)).await.body, home);
    }
    let backends = Backends::<Node>::new;
    assert!(StickyLayer::try_new(backends(), ClientIp::new().ipv4_prefix(33)).is_err());
    assert!(ClientIp::new().trusted_proxies(["10.0.0.0/33"]).is_err());
}

#[tokio::test(start_paused = true)]
async fn maglev_is_a_choice_that_every_gateway_makes_alike() {
    let (backends, [a, ..]) = nodes(["a", "b", "c"]);
    let other = Backends::from_iter(["c", "a", "b"].map(|name| (name, Node::new(name))));
    let key = || Key::header("u").maglev(Table::Small);
    let services = [&backends, &other].map(|pool| layer(pool, key()).into_service());
    let mut homes = Vec::new();
    for user in 0..60 {
        let user = user.to_string();
        let answer = send(&services[0], with("u", &user)).await;
        assert_eq!(send(&services[1], with("u", &user)).await.body, answer.body);
        homes.push((user, answer.body));
    }
    a.told.refuses.store(true, SeqCst);
    for (user, home) in &homes {
        let answer = send(&services[0], with("u", user)).await;
        if home == "a" {
            assert_eq!(answer.why().0, Verdict::Borrowed);
        } else {
            assert_eq!(&answer.body, home, "health moves nobody else");
        }
    }
    a.told.refuses.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (user, home) in &homes {
        assert_eq!(&send(&services[0], with("u", user)).await.body, home);
    }
}

/// Holds every answer, and sends one request for each of these users.
async fn hold<'a>(
    service: &tower_sticky::StickyService<Node>,
    nodes: &[Node],
    users: impl Iterator<Item = &'a str>,
) -> Vec<tokio::task::JoinHandle<Answer>> {
    for node in nodes {
        node.told.gate.forget_permits(crate::support::UNGATED);
    }
    let mut requests = Vec::new();
    for user in users {
        let (service, request) = (service.clone(), with("u", user));
        requests.push(tokio::spawn(async move { send(&service, request).await }));
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    requests
}

#[tokio::test(start_paused = true)]
async fn a_bound_on_the_load_spreads_what_one_key_would_pile_up() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    let service = layer(&backends, Key::header("u").balance_factor(1.25)).into_service();
    let requests = hold(&service, &nodes, std::iter::repeat_n("everybody", 100)).await;
    let most = backends.iter().map(|backend| backend.in_flight).max().unwrap();
    assert_eq!(most, 32, "1.25 times a fair share of 25, rounded up");
    for node in &nodes {
        node.told.gate.add_permits(crate::support::UNGATED);
    }
    let mut reasons = HashMap::new();
    for request in requests {
        let (verdict, _, reason) = request.await.unwrap().why_owned();
        *reasons.entry((verdict, reason)).or_insert(0) += 1;
    }
    assert_eq!(reasons.len(), 2, "pinned, or borrowed because it was busy: {reasons:?}");
    assert!(reasons[&(Verdict::Borrowed, Some(Reason::Busy))] > 50);
    assert_eq!(backends.snapshot().stats.violations(), 0, "a stated policy");
    for bad in [0.5, f64::NAN, 1e9] {
        let key = Key::header("u").balance_factor(bad);
        assert!(StickyLayer::try_new(Backends::<Node>::new(), key).is_err(), "{bad}");
    }
}

#[tokio::test(start_paused = true)]
async fn parallel_first_requests_agree_below_a_bound_too() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(Key::header("u").balance_factor(1.0));
    let service = layer(&backends, chain).into_service();
    let users = ["one", "one", "one", "two", "one", "two", "two", "two", "one", "two"];
    let requests = hold(&service, &nodes, users.into_iter()).await;
    for node in &nodes {
        node.told.gate.add_permits(crate::support::UNGATED);
    }
    let mut homes = HashMap::<_, std::collections::HashSet<String>>::new();
    for (user, request) in users.into_iter().zip(requests) {
        homes.entry(user).or_default().insert(request.await.unwrap().body);
    }
    assert!(homes.values().all(|homes| homes.len() == 1), "one first choice each: {homes:?}");
    assert_ne!(homes["one"], homes["two"], "and the bound spread them");
}

#[test]
fn a_secret_and_none_cannot_both_be() {
    let key = Key::header("u").unkeyed_xxh3().secret(Secret::generate().unwrap());
    assert!(StickyLayer::try_new(Backends::<Node>::new(), key).is_err());
}
