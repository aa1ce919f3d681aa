//! Explanations: right for every way to recognise a session, and without a trace.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::Request;
use tower_sticky::{
    Explanation, Key, KeyRing, Mode, Peer, Reason, StickyLayer, Verdict,
    affinity::{
        Affinity, Chain, ClientIp, Cookie, Envelope, FindingKind, Header, Key as ByKey, Learned,
        Route,
    },
    store::MemoryStore,
    strategy::RoundRobin,
};

use crate::support::{
    Body, Client, Clock, Node, Warnings, get, header_token, keys, layer, nodes, send, with_cookie,
    with_header,
};

/// The outcome of a request, as the explanation foresees it.
fn foreseen(explanation: &Explanation) -> (Verdict, Option<&str>, Option<Reason>) {
    let forecast = &explanation.forecast;
    (forecast.verdict, forecast.backend.as_ref().map(|backend| backend.as_str()), forecast.reason)
}

/// The explanation of a request is what happens to it then. Nothing is counted meanwhile.
async fn explained_as_served(
    layer: &StickyLayer<Node>,
    request: impl Fn() -> Request<Body>,
) -> Explanation {
    let before = layer.backends().snapshot();
    let explanation = layer.explain(&request()).await;
    let after = layer.backends().snapshot();
    assert_eq!(before.backends, after.backends, "an explanation has counted something");
    assert_eq!(before.stats.requests(), after.stats.requests());
    let token_errors = |stats: &tower_sticky::Stats| {
        Reason::ALL.iter().map(|reason| stats.token_errors(*reason)).sum::<u64>()
    };
    assert_eq!(token_errors(&before.stats), token_errors(&after.stats));
    let answer = send(&layer.clone().into_service(), request()).await;
    let served = answer.decision();
    let forecast = foreseen(&explanation);
    assert_eq!(forecast.0, served.0, "{explanation}");
    if forecast.1.is_some() {
        assert_eq!(forecast.1, served.1, "{explanation}");
    }
    explanation
}

#[tokio::test]
async fn a_sealed_cookie_is_explained() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let ring = keys();
    let hour = Duration::from_secs(3600);
    let cookie = Cookie::sealed("sid", ring.clone()).idle_timeout(hour).absolute_timeout(8 * hour);
    let layer = layer(&backends, cookie);
    let service = layer.clone().into_service();
    let client = Client::assigned(&service).await;
    let token = client.token.clone().unwrap();
    let cookie = format!("x=1; sid={token}");
    let explanation = explained_as_served(&layer, || with_cookie(&cookie)).await;
    let home = foreseen(&explanation).1.unwrap().to_owned();
    let [finding] = &explanation.findings[..] else { panic!("{explanation}") };
    assert_eq!((finding.kind, &*finding.carrier), (FindingKind::SealedToken, "cookie sid"));
    assert_eq!((finding.problem, finding.key), (None, Some(0)));
    assert_eq!(finding.backend.as_ref().unwrap().as_str(), home);
    let issued = finding.issued.unwrap();
    assert_eq!(finding.idle_end, Some(finding.last_used.unwrap() + hour));
    assert_eq!(finding.absolute_end, Some(issued + 8 * hour));
    assert!(finding.epoch.unwrap() > 0 && finding.session.is_some());
    assert!(!explanation.to_string().contains(&token), "it has no usable token");

    // An old key.
    ring.set([Key::generate().unwrap(), first_key()]).unwrap();
    let explanation = layer.explain(&with_cookie(&cookie)).await;
    assert_eq!(explanation.findings[0].key, Some(1));

    // Its backend is disabled.
    backends.set_mode(&home, Mode::Disabled).unwrap();
    let explanation = layer.explain(&with_cookie(&cookie)).await;
    let other = if home == "a" { "b" } else { "a" };
    let moved = (Verdict::Moved, Some(other), Some(Reason::Disabled));
    assert_eq!(foreseen(&explanation), moved, "{explanation}");
    explained_as_served(&layer, || with_cookie(&cookie)).await;

    // It has left the pool.
    backends.remove(&home).unwrap();
    let explanation = explained_as_served(&layer, || with_cookie(&cookie)).await;
    assert_eq!(explanation.findings[0].problem, Some(Reason::Unknown));
    assert!(explanation.findings[0].backend.is_none());

    ring.set([Key::generate().unwrap()]).unwrap();
    let explanation = explained_as_served(&layer, || with_cookie(&cookie)).await;
    assert_eq!(explanation.findings[0].problem, Some(Reason::Forged));
    assert_eq!(explanation.findings[0].key, None);
}

fn first_key() -> Key {
    Key::from_bytes((0..32).collect::<Vec<u8>>()).unwrap()
}

#[tokio::test]
async fn plain_and_malformed_cookies_are_explained() {
    let (backends, nodes) = nodes(["a", "b"]);
    let layer = layer(&backends, Cookie::plain("sid"));
    let explanation = explained_as_served(&layer, || with_cookie("sid=b")).await;
    assert_eq!(foreseen(&explanation), (Verdict::Pinned, Some("b"), None));
    assert_eq!(explanation.findings[0].kind, FindingKind::PlainToken);
    assert_eq!(explanation.findings[0].issued, None, "a plain token has no dates");

    let explanation = explained_as_served(&layer, || with_cookie("sid=zz")).await;
    assert_eq!(explanation.findings[0].problem, Some(Reason::Unknown));
    let explanation = explained_as_served(&layer, get).await;
    assert!(explanation.findings.is_empty());
    assert_eq!(explanation.forecast.verdict, Verdict::Assigned);

    backends.set_mode("a", Mode::Disabled).unwrap();
    backends.set_mode("b", Mode::Disabled).unwrap();
    let explanation = explained_as_served(&layer, || with_cookie("sid=b")).await;
    assert_eq!(explanation.forecast.verdict, Verdict::Rejected);
    let requests = nodes.iter().map(|node| node.control.served.load(SeqCst)).sum::<usize>();
    assert_eq!(requests, 3, "explanations send nothing");
}

#[tokio::test]
async fn a_header_and_an_envelope_are_explained() {
    let (backends, nodes) = nodes(["a", "b"]);
    let by_header = layer(&backends, Header::sealed("x-sticky", keys()));
    let token = header_token(&send(&by_header.clone().into_service(), get()).await).unwrap();
    let explanation = explained_as_served(&by_header, || with_header("x-sticky", &token)).await;
    assert_eq!(explanation.findings[0].carrier, "header x-sticky");
    assert_eq!(explanation.forecast.verdict, Verdict::Pinned);

    let envelope = layer(&backends, Envelope::cookie("JSESSIONID", keys()));
    for node in &nodes {
        let field = ("set-cookie", "JSESSIONID=its-own-id; Path=/".to_owned());
        *node.control.response_headers.lock().unwrap() = vec![field];
    }
    let answer = send(&envelope.clone().into_service(), get()).await;
    let set = answer.set_cookies()[0].split(';').next().unwrap().to_owned();
    let explanation = explained_as_served(&envelope, || with_cookie(&set)).await;
    let finding = &explanation.findings[0];
    assert_eq!((finding.kind, &*finding.carrier), (FindingKind::Envelope, "cookie JSESSIONID"));
    assert_eq!((finding.problem, finding.key), (None, Some(0)));
    let text = explanation.to_string();
    assert!(!text.contains("its-own-id"), "the id of the application is usable: {text}");
}

#[tokio::test(start_paused = true)]
async fn a_learned_id_is_explained_without_a_touch() {
    let (backends, nodes) = nodes(["a", "b"]);
    let (store, idle) = (MemoryStore::new(100), Duration::from_secs(1600));
    let learned = Learned::cookie("JSESSIONID").store(store.clone()).idle_timeout(idle);
    let layer = layer(&backends, learned);
    let field = ("set-cookie", "JSESSIONID=one; Path=/".to_owned());
    *nodes[0].control.response_headers.lock().unwrap() = vec![field];
    let service = layer.clone().into_service();
    // Round robin: one of two requests is answered by the first node.
    send(&service, get()).await;
    send(&service, get()).await;
    nodes[0].control.response_headers.lock().unwrap().clear();
    let explanation = layer.explain(&with_cookie("JSESSIONID=one")).await;
    assert_eq!(foreseen(&explanation), (Verdict::Pinned, Some("a"), None), "{explanation}");
    assert_eq!(explanation.findings[0].kind, FindingKind::LearnedId);
    assert!(!explanation.to_string().contains("one\n"), "the id is usable");
    // Explanations do not keep the session from expiring.
    for _ in 0..4 {
        tokio::time::advance(idle / 4).await;
        layer.explain(&with_cookie("JSESSIONID=one")).await;
    }
    let explanation = layer.explain(&with_cookie("JSESSIONID=one")).await;
    assert_eq!(explanation.findings[0].problem, Some(Reason::ExpiredIdle), "{explanation}");
    let explanation = layer.explain(&with_cookie("JSESSIONID=two")).await;
    assert_eq!(explanation.forecast.verdict, Verdict::Assigned);
}

#[tokio::test]
async fn keys_addresses_and_routes_are_explained() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let by_key = layer(&backends, ByKey::header("x-user-id"));
    for user in ["ann", "bob", "eve"] {
        let explanation = explained_as_served(&by_key, || with_header("x-user-id", user)).await;
        assert_eq!(explanation.forecast.verdict, Verdict::Pinned);
        assert!(explanation.forecast.backend.is_some(), "the hash says where");
        assert_eq!(explanation.findings[0].carrier, "header x-user-id");
    }
    let by_address = layer(&backends, ClientIp::new());
    let from = || {
        let mut request = get();
        request.extensions_mut().insert(Peer::new("10.1.2.3:4".parse().unwrap()));
        request
    };
    let explanation = explained_as_served(&by_address, from).await;
    assert_eq!(explanation.findings[0].kind, FindingKind::ClientAddress);

    let plain = layer(&backends, Route::cookie("JSESSIONID").after('.'));
    let explanation = explained_as_served(&plain, || with_cookie("JSESSIONID=0A.b")).await;
    assert_eq!(foreseen(&explanation), (Verdict::Pinned, Some("b"), None));
    backends.set_mode("b", Mode::Disabled).unwrap();
    let explanation = explained_as_served(&plain, || with_cookie("JSESSIONID=0A.b")).await;
    assert_eq!(explanation.forecast.verdict, Verdict::Borrowed, "an id with a route cannot move");
    let explanation = explained_as_served(&plain, || with_cookie("JSESSIONID=0A.x")).await;
    assert_eq!(explanation.findings[0].problem, Some(Reason::Unknown));
}

#[tokio::test]
async fn a_chain_is_explained_by_the_member_that_decides() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(ByKey::header("x-user-id"));
    let layer = layer(&backends, chain);
    let both = || {
        let mut request = with_cookie("sid=nonsense");
        request.headers_mut().insert("x-user-id", "ann".parse().unwrap());
        request
    };
    let explanation = layer.explain(&both()).await;
    let kinds: Vec<_> = explanation.findings.iter().map(|finding| finding.kind).collect();
    assert_eq!(kinds, [FindingKind::SealedToken, FindingKind::Key]);
    assert_eq!(explanation.findings[0].problem, Some(Reason::Malformed));
    explained_as_served(&layer, both).await;
}

#[tokio::test]
async fn a_strict_layer_and_its_drains_are_explained() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let ring: KeyRing = keys();
    let strict = layer(&backends, Cookie::sealed("sid", ring)).strict(true);
    let explanation = explained_as_served(&strict, || with_cookie("sid=nonsense")).await;
    assert_eq!(explanation.forecast.verdict, Verdict::Rejected);
    assert_eq!(explanation.forecast.reason, Some(Reason::Malformed));

    let plain = layer(&backends, Cookie::plain("sid"));
    backends.set_mode("a", Mode::Draining).unwrap();
    let explanation = explained_as_served(&plain, || with_cookie("sid=a")).await;
    assert_eq!(foreseen(&explanation), (Verdict::Pinned, Some("a"), None));
    assert!(explanation.forecast.why.contains("draining"), "{explanation}");
}

#[tokio::test]
async fn the_strategy_is_not_asked() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let affinity: Box<dyn Affinity> = Box::new(Cookie::plain("sid"));
    let layer =
        StickyLayer::new(backends, affinity).strategy(RoundRobin::new()).outcome_extensions(true);
    let service = layer.clone().into_service();
    let first = send(&service, get()).await.owned_decision().1;
    for _ in 0..3 {
        assert!(layer.explain(&get()).await.forecast.backend.is_none());
    }
    let second = send(&service, get()).await.owned_decision().1;
    assert_ne!(first, second, "round robin was not advanced");
}

#[tokio::test(start_paused = true)]
async fn a_new_session_is_explained_when_no_backend_is_ready() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let layer = layer(&backends, Cookie::plain("sid"));
    for node in [&a, &b] {
        node.control.refuses.store(true, SeqCst);
    }
    assert_eq!(send(&layer.clone().into_service(), get()).await.status, 503);
    let explanation = layer.explain(&get()).await;
    assert_eq!(foreseen(&explanation), (Verdict::Assigned, None, None), "{explanation}");
    assert!(explanation.forecast.why.contains("only suspect backends"), "{explanation}");

    for id in ["a", "b"] {
        backends.set_mode(id, Mode::Disabled).unwrap();
    }
    let explanation = layer.explain(&get()).await;
    assert_eq!(foreseen(&explanation), (Verdict::Rejected, None, None), "{explanation}");
}

#[tokio::test(start_paused = true)]
async fn a_new_session_is_explained_while_the_first_backend_of_its_key_is_out() {
    let (backends, nodes) = nodes(["a", "b"]);
    let chain = Chain::of(Cookie::sealed("sid", keys())).or(ByKey::header("x-user-id"));
    let layer = layer(&backends, chain);
    let ann = || with_header("x-user-id", "ann");
    let explanation = layer.explain(&ann()).await;
    let home = foreseen(&explanation).1.expect("its key says where");
    let (homes, others): (Vec<_>, Vec<_>) = nodes.iter().partition(|node| node.name == home);
    homes[0].control.refuses.store(true, SeqCst);
    send(&layer.clone().into_service(), ann()).await;
    let explanation = explained_as_served(&layer, ann).await;
    let expected = (Verdict::Assigned, Some(others[0].name), None);
    assert_eq!(foreseen(&explanation), expected, "{explanation}");
}

#[tokio::test]
async fn a_sealed_route_is_explained_with_its_key() {
    let (backends, nodes) = nodes(["a"]);
    let ring = keys();
    let route = Route::cookie("JSESSIONID").after('.').sealed(ring.clone());
    let layer = layer(&backends, route).session_headers(true);
    send(&layer.clone().into_service(), get()).await;
    let told = nodes[0].control.headers.lock().unwrap().last().unwrap().clone();
    let told = tower_sticky::SessionInfo::from_headers(&told).unwrap();
    let cookie = format!("JSESSIONID=0A.{}", told.route().unwrap());
    let finding = layer.explain(&with_cookie(&cookie)).await.findings.remove(0);
    assert_eq!((finding.kind, finding.key), (FindingKind::Route, Some(0)));
    ring.set([Key::generate().unwrap(), first_key()]).unwrap();
    let finding = layer.explain(&with_cookie(&cookie)).await.findings.remove(0);
    assert_eq!((finding.problem, finding.key), (None, Some(1)), "an old key");
    assert_eq!(finding.backend.unwrap().as_str(), "a");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_learned_session_and_a_bad_envelope_are_explained() {
    let (backends, nodes) = nodes(["a"]);
    let hour = Duration::from_secs(3600);
    let learned = layer(&backends, Learned::cookie("app").absolute_timeout(8 * hour));
    let field = ("set-cookie", "app=one; Path=/".to_owned());
    *nodes[0].control.response_headers.lock().unwrap() = vec![field];
    send(&learned.clone().into_service(), get()).await;
    let finding = learned.explain(&with_cookie("app=one")).await.findings.remove(0);
    assert_eq!(finding.absolute_end, Some(finding.issued.unwrap() + 8 * hour));
    assert_eq!(finding.backend.unwrap().as_str(), "a");

    let envelope = |keys| layer(&backends, Envelope::cookie("app", keys));
    let answer = send(&envelope(keys()).into_service(), get()).await;
    let cookie = answer.set_cookies()[0].split(';').next().unwrap().to_owned();
    let other = envelope(KeyRing::generate().unwrap());
    let finding = other.explain(&with_cookie(&cookie)).await.findings.remove(0);
    assert_eq!((finding.kind, finding.problem), (FindingKind::Envelope, Some(Reason::Forged)));
}

#[tokio::test(start_paused = true)]
async fn a_suspect_and_a_busy_backend_are_explained_in_words() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let layer = layer(&backends, Cookie::plain("sid"));
    a.control.refuses.store(true, SeqCst);
    send(&layer.clone().into_service(), with_cookie("sid=a")).await;
    let forecast = layer.explain(&with_cookie("sid=a")).await.forecast;
    assert_eq!((forecast.verdict, forecast.reason), (Verdict::Moved, Some(Reason::Down)));
    assert!(forecast.why.contains("a is suspect"), "{}", forecast.why);
}

#[tokio::test]
async fn an_explanation_repeats_no_warning() {
    let (backends, [a]) = nodes(["a"]);
    let field = ("set-cookie", "sid=its-own-id; Path=/".to_owned());
    *a.control.response_headers.lock().unwrap() = vec![field];
    for is_envelope in [false, true] {
        let sealed = |ring: KeyRing| {
            let layer = match is_envelope {
                true => layer(&backends, Envelope::cookie("sid", ring)),
                false => layer(&backends, Cookie::sealed("sid", ring)),
            };
            layer.clock(Clock::new())
        };
        let unknown = Key::from_bytes((1..33).collect::<Vec<u8>>()).unwrap();
        let unknown = sealed(KeyRing::new([unknown]).unwrap()).into_service();
        let cookie = format!("sid={}", Client::assigned(&unknown).await.token.unwrap());
        // Without a subscriber, so that tests in other threads cannot be the first ones to warn.
        send(&sealed(keys()).into_service(), with_cookie(&cookie)).await;
        let (warnings, _guard) = Warnings::of_this_thread();
        let known = sealed(keys());
        for _ in 0..2 {
            let answer = send(&known.clone().into_service(), with_cookie(&cookie)).await;
            assert_eq!(answer.decision().2, Some(Reason::Forged));
            known.explain(&with_cookie(&cookie)).await;
        }
        assert_eq!(warnings.count(), 1, "the key is unknown, once a minute");
    }
}
