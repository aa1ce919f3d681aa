//! The affinity cookie: which tokens are a pin, and what the client receives.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::header;
use tower_sticky::{
    Backends, ConfigError, Key, KeyRing, Peer, Reason, StickyLayer, Verdict,
    affinity::{Conflict, Cookie, Header, SameSite, Secure},
};

use crate::support::{Client, Node, get, keys, layer, nodes, plain, sealed, send, with_cookie};

#[tokio::test]
async fn a_plain_token_is_the_backend_id() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    let answer = send(&service, get()).await;
    assert_eq!(answer.set_cookies(), ["sid=a; HttpOnly; SameSite=Lax; Path=/"]);
    assert_eq!(answer.headers["cache-control"], "private, no-cache=\"set-cookie\"");
    assert_eq!(send(&service, with_cookie("sid=b")).await.decision().0, Verdict::Pinned);
}

#[tokio::test]
async fn sealed_tokens_of_two_clients_of_one_backend_differ() {
    let (backends, _nodes) = nodes(["a"]);
    let service = sealed(&backends).into_service();
    let tokens = [send(&service, get()).await.token(), send(&service, get()).await.token()];
    assert_ne!(tokens[0], tokens[1]);
    assert_eq!(tokens[0].as_ref().unwrap().len(), 90);
}

#[tokio::test]
async fn unusable_tokens_are_replaced_and_have_distinct_reasons() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let other_pool = Backends::named("other");
    other_pool.insert("a", Node::new("a")).unwrap();
    let other_pool = send(&sealed(&other_pool).into_service(), get()).await.token().unwrap();
    let other_name = StickyLayer::new(backends.clone(), Cookie::sealed("sid2", keys()));
    let other_name = send(&other_name.into_service(), get()).await;
    let other_name = other_name.set_cookies()[0]["sid2=".len()..][..90].to_owned();
    let other_key =
        StickyLayer::new(backends.clone(), Cookie::sealed("sid", KeyRing::generate().unwrap()));
    let other_key = send(&other_key.into_service(), get()).await.token().unwrap();
    let good = send(&sealed(&backends).into_service(), get()).await.token().unwrap();
    let mut flipped = good.clone().into_bytes();
    flipped[40] = if flipped[40] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    let long = "x".repeat(5000);

    let service = sealed(&backends).into_service();
    for (token, reason) in [
        ("", Reason::Malformed),
        ("a", Reason::Malformed),
        (&long, Reason::Malformed),
        (&good[1..], Reason::Malformed),
        (&flipped, Reason::Forged),
        (&other_pool, Reason::OtherPool),
        (&other_name, Reason::Forged),
        (&other_key, Reason::Forged),
    ] {
        let answer = send(&service, with_cookie(&format!("sid={token}"))).await;
        let (verdict, _, why) = answer.decision();
        assert_eq!((verdict, why), (Verdict::Assigned, Some(reason)), "{token:?}");
        assert!(answer.token().is_some(), "{token:?} is replaced");
    }
    let service = plain(&backends).into_service();
    for (token, reason) in [
        ("", Reason::Malformed),
        (&long, Reason::Malformed),
        ("c", Reason::Unknown),
        ("A", Reason::Unknown),
        ("a%20", Reason::Unknown),
    ] {
        let answer = send(&service, with_cookie(&format!("sid={token}"))).await;
        assert_eq!(answer.decision().2, Some(reason), "{token:?}");
        assert!(answer.token().is_some(), "{token:?} is replaced");
    }
    let stats = backends.snapshot().stats;
    assert_eq!(stats.token_errors(Reason::Forged), 3);
    assert_eq!(stats.token_errors(Reason::Malformed), 6);
}

#[tokio::test]
async fn the_first_usable_of_several_tokens_wins() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    for cookie in ["sid=gone; sid=b; sid=a", "sid=; x=1; sid=\"b\"", "xsid=a; sid=b"] {
        assert_eq!(
            send(&service, with_cookie(cookie)).await.decision(),
            (Verdict::Pinned, Some("b"), None)
        );
    }
    let mut split = get();
    for field in ["x=1", "sid=gone", "sid=b"] {
        split.headers_mut().append(header::COOKIE, field.parse().unwrap());
    }
    assert_eq!(send(&service, split).await.decision().1, Some("b"), "HTTP/2 splits the field");
    for other in ["SID=b", "sidx=b", "x=sid=b", "$sid=b"] {
        let answer = send(&service, with_cookie(other)).await;
        assert_eq!(answer.decision().2, None, "{other:?} is none of ours");
        assert_eq!(answer.decision().0, Verdict::Assigned);
    }
}

#[tokio::test]
async fn the_token_is_removed_from_the_request() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).into_service();
    let sent = || a.control.cookies.lock().unwrap().pop().unwrap();
    for (cookie, seen) in [
        ("sid=a", ""),
        ("x=1; sid=a; y=\"2\"", "x=1; y=\"2\""),
        ("sid=bad; x=1; sid=a", "x=1"),
        ("x=1", "x=1"),
    ] {
        send(&service, with_cookie(cookie)).await;
        assert_eq!(sent(), seen, "{cookie:?}");
    }
    let forward = layer(&backends, Cookie::plain("sid").forward(true)).into_service();
    send(&forward, with_cookie("x=1; sid=a")).await;
    assert_eq!(sent(), "x=1; sid=a", "forwarded by option");
}

#[tokio::test]
async fn a_backend_cookie_of_the_same_name_is_replaced_or_preserved() {
    let (backends, [a]) = nodes(["a"]);
    let logout = "sid=; Max-Age=0; Path=/";
    a.control.response_headers.lock().unwrap().push(("set-cookie", logout.into()));
    a.control.response_headers.lock().unwrap().push(("set-cookie", "x=1".into()));
    let service = plain(&backends).into_service();
    let ours = "sid=a; HttpOnly; SameSite=Lax; Path=/";
    assert_eq!(send(&service, get()).await.set_cookies(), ["x=1", ours], "ours replaces it");
    assert_eq!(send(&service, with_cookie("sid=a")).await.set_cookies(), ["x=1"]);
    let preserve = layer(&backends, Cookie::plain("sid").conflict(Conflict::Preserve));
    let service = preserve.into_service();
    for request in [get(), with_cookie("sid=a")] {
        assert_eq!(
            send(&service, request).await.set_cookies(),
            [logout, "x=1"],
            "the backend's cookie is kept"
        );
    }
    *a.control.response_headers.lock().unwrap() = vec![("set-cookie", "x=1".into())];
    assert_eq!(send(&service, get()).await.set_cookies(), ["x=1", ours], "no cookie of its name");
}

#[tokio::test]
async fn responses_with_the_cookie_are_not_cached_by_shared_caches() {
    let (backends, [a]) = nodes(["a"]);
    a.control.response_headers.lock().unwrap().push(("cache-control", "public, max-age=60".into()));
    let service = plain(&backends).into_service();
    let answer = send(&service, get()).await;
    assert_eq!(answer.headers["cache-control"], "private, no-cache=\"set-cookie\", max-age=60");
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!(
        answer.headers["cache-control"], "public, max-age=60",
        "it has no cookie of the layer"
    );
}

#[tokio::test]
async fn secure_is_set_only_for_a_trusted_https_indication() {
    let (backends, _nodes) = nodes(["a"]);
    let service = plain(&backends).into_service();
    let addr = "10.0.0.1:1".parse().unwrap();
    let secure = async |peer: Option<Peer>, said: bool| {
        let mut request = get();
        request.extensions_mut().extend(
            peer.map(|peer| {
                let mut extensions = http::Extensions::new();
                extensions.insert(peer);
                extensions
            })
            .unwrap_or_default(),
        );
        if said {
            request.headers_mut().insert("x-forwarded-proto", "https".parse().unwrap());
        }
        send(&service, request).await.set_cookies()[0].contains("Secure")
    };
    assert!(secure(Some(Peer::new(addr).https(true)), false).await);
    assert!(secure(Some(Peer::new(addr).trusted(true)), true).await);
    assert!(!secure(Some(Peer::new(addr)), true).await, "an untrusted peer is ignored");
    assert!(!secure(None, true).await, "no peer is known");
}

#[tokio::test]
async fn secure_is_kept_when_a_session_moves() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    let request = || {
        let mut request = with_cookie("sid=a");
        request.extensions_mut().insert(Peer::new("10.0.0.1:1".parse().unwrap()).https(true));
        request
    };
    a.control.refuses.store(true, std::sync::atomic::Ordering::SeqCst);
    for reason in [Reason::ConnectFailed, Reason::Down] {
        let answer = send(&service, request()).await;
        assert_eq!(answer.decision().2, Some(reason));
        assert_eq!(answer.set_cookies(), ["sid=b; HttpOnly; SameSite=Lax; Secure; Path=/"]);
    }
}

#[tokio::test]
async fn of_two_tokens_of_one_session_the_later_epoch_is_used() {
    for by_header in [false, true] {
        let (backends, [a, b]) = nodes(["a", "b"]);
        let layer = |backends: &Backends<Node>| match by_header {
            true => layer(backends, Header::sealed("sid", keys())),
            false => layer(backends, Cookie::sealed("sid", keys())),
        };
        let service = layer(&backends).into_service();
        let request = |tokens: &[&str]| {
            let mut request = get();
            for token in tokens {
                match by_header {
                    true => request.headers_mut().append("sid", token.parse().unwrap()),
                    false => {
                        let cookie = format!("sid={token}").parse().unwrap();
                        request.headers_mut().append("cookie", cookie)
                    }
                };
            }
            request
        };
        let token = |answer: &crate::support::Answer| {
            let header = answer.headers.get("sid").map(|value| value.to_str().unwrap().to_owned());
            answer.token().or(header)
        };
        let old = token(&send(&service, request(&[])).await).unwrap();
        a.control.refuses.store(true, SeqCst);
        let new = token(&send(&service, request(&[&old])).await).unwrap();
        a.control.refuses.store(false, SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
        // A later session on the other backend, from a gateway that has no other one.
        let gateway = layer(&Backends::from_iter([("a", a.clone())])).into_service();
        let other = token(&send(&gateway, request(&[])).await).unwrap();
        for tokens in [[&*old, &new], [&new, &old]] {
            let answer = send(&service, request(&tokens)).await;
            assert_eq!(
                answer.decision(),
                (Verdict::Pinned, Some("b"), None),
                "header: {by_header}"
            );
            assert_eq!(token(&answer), None, "nothing changed");
        }
        // Of two sessions the first one is used, whatever the epochs.
        let first = send(&service, request(&[&new, &other])).await;
        assert_eq!(first.decision(), (Verdict::Pinned, Some("b"), None));
        let answer = send(&service, request(&[&new, "nonsense"])).await;
        assert_eq!(
            answer.decision(),
            (Verdict::Pinned, Some("b"), None),
            "one good token is enough"
        );
        drop(b);
    }
}

#[tokio::test]
async fn a_token_of_another_pool_has_its_own_reason() {
    let services = ["shop", "forum"].map(|pool| {
        let backends = Backends::named(pool);
        backends.insert("a", Node::new("a")).unwrap();
        (backends.clone(), sealed(&backends).into_service())
    });
    let mut client = Client::default();
    client.send(&services[0].1, get()).await;
    let answer = client.send(&services[1].1, get()).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("a"), Some(Reason::OtherPool)));
    assert!(answer.token().is_some(), "it is replaced");
    let stats = services[1].0.snapshot().stats;
    let errors = (stats.token_errors(Reason::OtherPool), stats.token_errors(Reason::Forged));
    assert_eq!(errors, (1, 0));
}

#[tokio::test]
async fn key_rotation_moves_no_session() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let (old, new) = (Key::generate().unwrap(), Key::generate().unwrap());
    let ring = KeyRing::new([old.clone()]).unwrap();
    let service = layer(&backends, Cookie::sealed("sid", ring.clone())).into_service();
    let mut clients = [(); 10].map(|()| Client::default());
    for client in &mut clients {
        client.send(&service, get()).await;
    }
    ring.set([new.clone(), old]).unwrap();
    for client in &mut clients {
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.decision().0, Verdict::Pinned);
        assert!(answer.token().is_some(), "sealed again under the first key");
        assert!(client.send(&service, get()).await.token().is_none(), "once");
    }
    ring.set([new]).unwrap();
    for client in &mut clients {
        assert_eq!(client.send(&service, get()).await.decision().0, Verdict::Pinned);
    }
}

#[tokio::test]
async fn a_second_gateway_with_the_keys_accepts_the_tokens() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    // Another order, as in another process: ids decide, not positions.
    let other = Backends::from_iter(["c", "b", "a"].map(|name| (name, Node::new(name))));
    let [first, second] = [&backends, &other].map(|pool| sealed(pool).into_service());
    for _ in 0..6 {
        let mut client = Client::default();
        let body = client.send(&first, get()).await.body;
        let answer = client.send(&second, get()).await;
        assert_eq!((answer.decision().0, answer.body), (Verdict::Pinned, body));
    }
}

#[tokio::test]
async fn a_plain_token_is_as_long_as_the_longest_id() {
    let (backends, _nodes) = nodes(["a"]);
    let long = "x".repeat(128);
    backends.insert(&long, Node::new("long")).unwrap();
    let service = plain(&backends).into_service();
    let answer = send(&service, with_cookie(&format!("sid={long}"))).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some(&*long), None));
    let answer = send(&service, with_cookie(&format!("sid={long}x"))).await;
    assert_eq!(answer.decision().2, Some(Reason::Malformed));
}

#[test]
fn invalid_configuration_is_rejected_at_build_time() {
    let refused = |cookie: Cookie| -> ConfigError {
        let backends: Backends<Node> = Backends::new();
        StickyLayer::try_new(backends, cookie).expect_err("it cannot work")
    };
    let second = Duration::from_secs(1);
    for (cookie, word) in [
        (Cookie::plain("a b"), "name"),
        (Cookie::plain("a".repeat(129)), "name"),
        (Cookie::plain("a").same_site(SameSite::None), "SameSite=None"),
        (Cookie::plain("__Host-a").secure(Secure::Always).domain("x.org"), "__Host-"),
        (Cookie::plain("__Secure-a"), "__Secure-"),
        (Cookie::plain("a").partitioned(true), "Partitioned"),
        (Cookie::plain("a").path("x"), "path"),
        (Cookie::plain("a").idle_timeout(second), "plain"),
        (Cookie::plain("a").absolute_timeout(second), "plain"),
        (Cookie::sealed("a", keys()).permanent(), "absolute"),
        (Cookie::sealed("a", keys()).expires(true), "permanent"),
        (Cookie::sealed("a", keys()).idle_timeout(Duration::from_millis(1)), "idle"),
    ] {
        let error = refused(cookie).to_string();
        assert!(error.contains(word), "{error:?} should name {word:?}");
    }
    assert!(Backends::try_from_iter([("a", ()), ("a", ())]).is_err(), "duplicate id");
    assert!(Backends::try_from_iter([("", ())]).is_err(), "empty id");
    let backends = Backends::from_iter([("a", ())]);
    assert!(backends.insert("a", ()).is_err(), "duplicate id");
    assert!(backends.remove("b").is_err(), "unknown id");
}

#[tokio::test]
async fn a_cookie_of_every_path_is_read_whatever_the_request_target_is() {
    let (backends, _nodes) = nodes(["a", "b"]);
    for path in ["/", ""] {
        let service = layer(&backends, Cookie::plain("sid").path(path)).into_service();
        let mut request = with_cookie("sid=b");
        *request.method_mut() = http::Method::OPTIONS;
        *request.uri_mut() = "*".parse().unwrap();
        let answer = send(&service, request).await;
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None), "{path:?}");
    }
}
