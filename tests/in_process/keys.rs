//! Affinity by the hash of a key of the request.

use std::{collections::HashMap, sync::atomic::Ordering::SeqCst, time::Duration};

use http::Request;
use tower_sticky::{
    Backends, Failover, Key as Secret, Mode, Reason, StickyLayer, Verdict,
    affinity::{Key, Table},
};

use crate::support::{Body, Node, get, layer, nodes, send, with_header};

#[tokio::test]
async fn a_key_chooses_the_backend_without_any_state() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let other = Backends::from_iter(["c", "a", "b"].map(|name| (name, Node::new(name))));
    let services =
        [&backends, &other].map(|pool| layer(pool, Key::header("x-user-id")).into_service());
    let mut homes = HashMap::<String, usize>::new();
    for user in 0..60 {
        let user = format!("user-{user}");
        let answer = send(&services[0], with_header("x-user-id", &user)).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some(&*answer.body), None));
        assert_eq!(answer.set_cookies(), [""; 0]);
        let again = send(&services[1], with_header("x-user-id", &user)).await;
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
        users.push((send(&service, with_header("x-user-id", &user)).await.body, user));
    }
    a.control.refuses.store(true, SeqCst);
    let mut refuges = HashMap::new();
    for (home, user) in &users {
        let answer = send(&service, with_header("x-user-id", user)).await;
        if home == "a" {
            assert_eq!(
                answer.decision().0,
                Verdict::Borrowed,
                "nothing is remembered, so nothing moves"
            );
            refuges.insert(user, answer.body);
        } else {
            assert_eq!(
                (answer.decision().0, &answer.body),
                (Verdict::Pinned, home),
                "no other session moves"
            );
        }
    }
    assert!(refuges.values().any(|refuge| refuge == "b"));
    assert!(refuges.values().any(|refuge| refuge == "c"));
    for (user, refuge) in &refuges {
        let answer = send(&service, with_header("x-user-id", user)).await;
        assert_eq!(answer.decision(), (Verdict::Borrowed, Some(&**refuge), Some(Reason::Down)));
    }
    a.control.refuses.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (home, user) in &users {
        assert_eq!(
            &send(&service, with_header("x-user-id", user)).await.body,
            home,
            "all are back on their backends"
        );
    }
}

#[tokio::test]
async fn a_hash_respects_modes_weights_and_the_policy() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let reject = layer(&backends, Key::header("u")).on_unavailable(Failover::Reject);
    let service = reject.into_service();
    let mut user = String::new();
    for candidate in 0..100 {
        user = candidate.to_string();
        if send(&service, with_header("u", &user)).await.body == "a" {
            break;
        }
    }
    for (mode, weight) in [(Mode::Draining, 1), (Mode::Disabled, 1), (Mode::Active, 0)] {
        backends.set_mode("a", mode).unwrap();
        backends.set_weight("a", weight).unwrap();
        let answer = send(&service, with_header("u", &user)).await;
        assert_eq!(
            answer.decision(),
            (Verdict::Pinned, Some("b"), None),
            "{mode} is not in the rank"
        );
    }
    backends.set_weight("a", 1).unwrap();
    a.control.refuses.store(true, SeqCst);
    assert_eq!(send(&service, with_header("u", &user)).await.status, 503);
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
        let home = send(&by_header, with_header("u", &user.to_string())).await.body;
        let cookie = format!("sid=9; u=\"{user}\"; u=7");
        assert_eq!(
            send(&by_cookie, with_header("cookie", &cookie)).await.body,
            home,
            "the first counts"
        );
        let at = |uri: String| Request::get(uri).body(Body::default()).unwrap();
        let query = at(format!("/x?a=u&v=1&u={user}&u=7"));
        assert_eq!(send(&by_query, query).await.body, home);
        let encoded: String = user.to_string().bytes().map(|b| format!("%{b:02x}")).collect();
        assert_eq!(send(&by_query, at(format!("/x?u={encoded}"))).await.body, home, "decoded");
        let mut extended = get();
        extended.extensions_mut().insert(Account(user));
        assert_eq!(send(&by_extension, extended).await.body, home);
        assert_eq!(send(&by_function, at(format!("/room/{user}"))).await.body, home);
        let mut twice = with_header("u", &user.to_string());
        twice.headers_mut().append("u", "7".parse().unwrap());
        assert_eq!(send(&by_header, twice).await.body, home, "the first value counts");
    }
    for missing in [get(), with_header("u", "")] {
        assert_eq!(send(&by_header, missing).await.decision().0, Verdict::Assigned, "the strategy");
    }
}

#[tokio::test]
async fn a_secret_changes_the_choice_of_backends() {
    let (backends, _nodes) = nodes(["a", "b", "c", "d"]);
    let secret = |byte: u8| Secret::from_bytes([[byte; 31].as_slice(), &[0]].concat()).unwrap();
    let places = async |key: Key| {
        let service = layer(&backends, key).into_service();
        let mut places = Vec::new();
        for user in 0..40 {
            places.push(send(&service, with_header("u", &user.to_string())).await.body);
        }
        places
    };
    let open = places(Key::header("u")).await;
    let one = places(Key::header("u").secret(secret(1))).await;
    assert_ne!(open, one);
    assert_ne!(one, places(Key::header("u").secret(secret(2))).await);
    assert_eq!(one, places(Key::header("u").secret(secret(1))).await, "shared, they agree");
}

#[tokio::test(start_paused = true)]
async fn maglev_is_the_same_on_every_gateway() {
    let (backends, [a, ..]) = nodes(["a", "b", "c"]);
    let other = Backends::from_iter(["c", "a", "b"].map(|name| (name, Node::new(name))));
    let key = || Key::header("u").maglev(Table::Small);
    let services = [&backends, &other].map(|pool| layer(pool, key()).into_service());
    let mut homes = Vec::new();
    for user in 0..60 {
        let user = user.to_string();
        let answer = send(&services[0], with_header("u", &user)).await;
        assert_eq!(send(&services[1], with_header("u", &user)).await.body, answer.body);
        homes.push((user, answer.body));
    }
    a.control.refuses.store(true, SeqCst);
    for (user, home) in &homes {
        let answer = send(&services[0], with_header("u", user)).await;
        if home == "a" {
            assert_eq!(answer.decision().0, Verdict::Borrowed);
        } else {
            assert_eq!(&answer.body, home, "health moves no other session");
        }
    }
    a.control.refuses.store(false, SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    for (user, home) in &homes {
        assert_eq!(&send(&services[0], with_header("u", user)).await.body, home);
    }
}

#[test]
fn a_secret_contradicts_an_unkeyed_hash() {
    let key = Key::header("u").unkeyed_xxh3().secret(Secret::generate().unwrap());
    assert!(StickyLayer::try_new(Backends::<Node>::new(), key).is_err());
}

#[test]
fn names_and_prefixes_that_cannot_be_are_refused() {
    use tower_sticky::affinity::{Affinity, Chain, ClientIp, Learned, Route};
    let refused = |affinity: Box<dyn Affinity>| {
        let layer = StickyLayer::try_new(Backends::<Node>::new(), affinity);
        layer.err().map(|error| error.to_string())
    };
    let long = "a".repeat(129);
    let cases: [(Box<dyn Affinity>, &str); 8] = [
        (Box::new(Key::query("")), "empty"),
        (Box::new(Key::cookie("")), "empty"),
        (Box::new(Learned::cookie("")), "the cookie \"\""),
        (Box::new(Route::path_parameter("a;b").after('.')), "cannot stand in a path"),
        (Box::new(Route::cookie("a").after('.').name(&*long, "a")), "128 bytes"),
        (Box::new(Route::cookie("a").after('.').name("", "a")), "128 bytes"),
        (Box::new(ClientIp::new().ipv4_prefix(33)), "32 bits"),
        (Box::new(ClientIp::new().ipv6_prefix(129)), "128 of IPv6"),
    ];
    for (affinity, word) in cases {
        let error = refused(affinity).unwrap();
        assert!(error.contains(word), "{error:?} should name {word:?}");
    }
    assert_eq!(refused(Box::new(ClientIp::new().ipv4_prefix(32).ipv6_prefix(128))), None);
    let chain = |members: usize| {
        let first = Chain::of(Key::header("x-0"));
        (1..members).fold(first, |chain, n| chain.or(Key::header(format!("x-{n}"))))
    };
    assert_eq!(refused(Box::new(chain(64))), None);
    assert!(refused(Box::new(chain(65))).unwrap().contains("65 members"));
    assert_eq!(refused(Box::new(chain(1))), None);
}

#[tokio::test]
async fn keys_write_no_token_and_chains_count_theirs() {
    use tower_sticky::affinity::{Chain, Cookie};
    let (backends, _nodes) = nodes(["a", "b"]);
    let issued = || backends.snapshot().stats.tokens_issued();
    let by_key = StickyLayer::new(backends.clone(), Key::header("x-user")).into_service();
    for _ in 0..2 {
        send(&by_key, get()).await;
    }
    assert_eq!(issued(), 0);
    let chain = Chain::of(Cookie::plain("sid")).or(Key::header("x-user"));
    send(&StickyLayer::new(backends.clone(), chain).into_service(), get()).await;
    assert_eq!(issued(), 1);
}
