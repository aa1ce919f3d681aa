//! Suspect backends: others are preferred, but a suspect is tried before a request is refused.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use tower_sticky::{
    Failover, State, StickyService, Verdict,
    affinity::{Cookie, Header, Key, Learned},
};

use crate::support::{
    Answer, Client, First, Node, after, get, keys, layer, nodes, plain, post, refuse, sealed,
    sealed_session, send, spawn, state, with_cookie,
};

#[tokio::test(start_paused = true)]
async fn a_returned_backend_serves_at_once_when_no_other_can() {
    for redialable in [false, true] {
        let (backends, [a, b]) = nodes(["a", "b"]);
        let service = sealed(&backends).into_service();
        for node in [&a, &b] {
            refuse(node, true);
            node.control.redialable.store(redialable, SeqCst);
        }
        assert_eq!(send(&service, get()).await.status, 503);
        assert_eq!([state(&backends, "a"), state(&backends, "b")], [State::Suspect; 2]);
        // At once, whatever the schedule of redials.
        refuse(&a, false);
        for request in [get(), post()] {
            assert_eq!(send(&service, request).await.body, "a", "redialable: {redialable}");
        }
        assert_eq!(state(&backends, "a"), State::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn suspects_are_tried_by_age_of_failure_up_to_max_attempts() {
    let names = ["a", "b", "c", "d"];
    let (backends, nodes) = nodes(names);
    let layer = plain(&backends).max_attempts(2).on_unavailable(Failover::Reject);
    let service = layer.into_service();
    // They fail in the order c, a, d, b.
    for id in ["c", "a", "d", "b"] {
        let node = nodes.iter().find(|node| node.name == id).unwrap();
        refuse(node, true);
        send(&service, with_cookie(&format!("sid={id}"))).await;
        after(1).await;
    }
    let polled = || nodes.each_ref().map(|node| node.control.polls.load(SeqCst));
    let before = polled();
    let answer = send(&service, get()).await;
    assert_eq!(answer.status, 503);
    let asked: Vec<_> = (0..4).filter(|i| polled()[*i] > before[*i]).map(|i| names[i]).collect();
    assert_eq!(asked, ["a", "c"], "the two that failed least recently");
    refuse(&nodes[2], false);
    after(1).await;
    assert_eq!(send(&service, get()).await.status, 503, "d and b are the first two now");
    assert_eq!(send(&service, get()).await.body, "c");
}

#[tokio::test(start_paused = true)]
async fn a_dead_backend_moves_each_of_its_sessions_once() {
    // For each kind of affinity.
    let dead = |a: &Node, breaks: bool| match breaks {
        true => a.control.disconnects.store(true, SeqCst),
        false => refuse(a, true),
    };
    for breaks in [true, false] {
        for kind in ["plain", "sealed", "header", "learned"] {
            let (backends, [a, ..]) = nodes(["a", "b", "c"]);
            let layer = match kind {
                "plain" => plain(&backends),
                "sealed" => sealed(&backends),
                "header" => layer(&backends, Header::sealed("x-sid", keys())),
                _ => layer(&backends, Learned::cookie("app")),
            };
            let service = layer.into_service();
            let mut tokens: Vec<(usize, Option<String>)> = (0..30).map(|n| (n, None)).collect();
            let mut homes = Vec::new();
            for session in &mut tokens {
                homes.push(step(&service, kind, session).await.body);
            }
            let at_a = homes.iter().filter(|home| *home == "a").count() as u64;
            assert!(at_a >= 3, "{kind}");
            dead(&a, breaks);
            for _ in 0..3 {
                for (session, home) in tokens.iter_mut().zip(&mut homes) {
                    let answer = step(&service, kind, session).await;
                    let (verdict, ..) = answer.decision();
                    let expected = if home == "a" { Verdict::Moved } else { Verdict::Pinned };
                    assert_eq!(verdict, expected, "{kind}, breaks: {breaks}");
                    *home = answer.body;
                }
            }
            let stats = backends.snapshot().stats;
            assert_eq!((stats.moves(), stats.violations()), (at_a, 0), "{kind}, breaks: {breaks}");
        }
    }
}

/// Sends one request of a session that keeps its token in a cookie, in a header, or as its own id.
async fn step(
    service: &StickyService<Node>,
    kind: &str,
    (number, token): &mut (usize, Option<String>),
) -> Answer {
    let mut request = get();
    let headers = request.headers_mut();
    match (kind, &token) {
        ("learned", _) => {
            headers.insert("cookie", format!("app=id-{number}").parse().unwrap());
        }
        ("header", Some(token)) => {
            headers.insert("x-sid", token.parse().unwrap());
        }
        (_, Some(token)) => {
            headers.insert("cookie", format!("sid={token}").parse().unwrap());
        }
        (_, None) => {}
    }
    let answer = send(service, request).await;
    let header = answer.headers.get("x-sid").map(|value| value.to_str().unwrap().to_owned());
    *token = answer.token().or(header).or(token.take());
    answer
}

#[tokio::test(start_paused = true)]
async fn a_key_always_borrows_the_same_backend_and_returns() {
    let names = ["a", "b", "c", "d", "e"];
    let gateways: [_; 2] = std::array::from_fn(|_| {
        let (backends, nodes) = nodes(names);
        let service = layer(&backends, Key::header("x-user")).into_service();
        (nodes, service)
    });
    let user = |n: usize| {
        let mut request = get();
        request.headers_mut().insert("x-user", format!("user-{n}").parse().unwrap());
        request
    };
    let mut refuges = Vec::new();
    for (nodes, service) in &gateways {
        let mut homes = Vec::new();
        for n in 0..40 {
            homes.push(send(service, user(n)).await.body);
        }
        refuse(&nodes[0], true);
        let mut found = Vec::new();
        for _ in 0..3 {
            for (n, home) in homes.iter().enumerate() {
                let answer = send(service, user(n)).await;
                let expected = if home == "a" { Verdict::Borrowed } else { Verdict::Pinned };
                assert_eq!(answer.decision().0, expected);
                found.push(answer.body);
            }
        }
        let (first, rest) = found.split_at(40);
        assert_eq!([first, first].concat(), rest, "each key borrows one backend");
        refuges.push(first.to_vec());
        refuse(&nodes[0], false);
        after(1_100).await;
        for (n, home) in homes.iter().enumerate() {
            assert_eq!(send(service, user(n)).await.body, *home, "its backend serves it again");
        }
    }
    assert_eq!(refuges[0], refuges[1], "on every gateway");
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_busy_backend_rather_than_a_hanging_suspect() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    backends.set_limit("b", 1).unwrap();
    let service = plain(&backends).into_service();
    a.control.redialable.store(true, SeqCst);
    refuse(&a, true);
    send(&service, with_cookie("sid=a")).await;
    a.control.redial_hangs.store(true, SeqCst);
    after(150).await;
    b.hold_responses();
    let holder = spawn(&service, with_cookie("sid=b"));
    after(1).await;
    let waiting = spawn(&service, get());
    after(500).await;
    let counts = ["a", "b"].map(|id| backends.get(id).unwrap().waiting);
    assert_eq!(counts, [0, 1], "it waits for the busy one alone");
    b.release_responses();
    assert_eq!(waiting.await.unwrap().body, "b");
    holder.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_accepted_and_closed_connection_is_not_refused() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.control.closes_early.store(true, SeqCst);
    a.control.redialable.store(true, SeqCst);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b", "the request was not sent");
    after(10_000).await;
    assert_eq!(state(&backends, "a"), State::Suspect, "accepting a connection is no success");
    a.control.closes_early.store(false, SeqCst);
    assert_eq!(send(&service, get()).await.body, "a", "a response is");
    assert_eq!(state(&backends, "a"), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn no_request_is_sent_more_than_three_times() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    for node in &nodes {
        node.control.disconnects.store(true, SeqCst);
    }
    let service = sealed(&backends).into_service();
    let mut sent = 0;
    for _ in 0..20 {
        let answer = send(&service, get()).await;
        assert_eq!(answer.status, 502, "it may have been executed");
        let served = nodes.iter().map(Node::served).sum::<usize>();
        assert!((1..=3).contains(&(served - sent)), "{} times", served - sent);
        sent = served;
    }
}

#[tokio::test(start_paused = true)]
async fn a_draining_suspect_serves_its_session_when_no_other_can() {
    let (backends, [a, b], service, mut client) = sealed_session(["a", "b"]).await;
    backends.set_mode("a", tower_sticky::Mode::Draining).unwrap();
    refuse(&b, true);
    assert_eq!(send(&service, get()).await.status, 503, "no new session on a draining backend");
    refuse(&a, true);
    assert_eq!(client.send(&service, get()).await.status, 503);
    refuse(&a, false);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
}

#[tokio::test(start_paused = true)]
async fn a_voluntary_move_is_undone_when_its_request_disconnects() {
    use tower_sticky::Mode;
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let cookie = Cookie::sealed("sid", keys()).idle_timeout(Duration::from_secs(3600));
    let service = layer(&backends, cookie).on_unavailable(Failover::Repin).into_service();
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.body, "a");
    let drain = backends.drain("a").hand_over(1000).start().unwrap();
    b.control.disconnects.store(true, SeqCst);
    let answer = client.send(&service, get()).await;
    assert_eq!((answer.status, &*answer.body), (200, "a"), "it stays on its backend");
    drop(drain);
    assert_eq!(backends.get("a").unwrap().mode, Mode::Draining);
}

#[tokio::test(start_paused = true)]
async fn a_redial_has_a_moment_before_a_request_tries_another_suspect() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.control.redialable.store(true, SeqCst);
    for node in [&a, &b] {
        refuse(node, true);
    }
    assert_eq!(send(&service, get()).await.status, 503);
    for node in [&a, &b] {
        refuse(node, false);
    }
    a.control.redial_hangs.store(true, SeqCst);
    let waiting = spawn(&service, get());
    after(50).await;
    a.control.redial_hangs.store(false, SeqCst);
    assert_eq!(waiting.await.unwrap().body, "a", "a redial costs nothing");
    assert_eq!(b.served(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_has_recovered_meanwhile_is_tried_before_any_suspect() {
    let (backends, [a, b, c, d]) = nodes(["a", "b", "c", "d"]);
    let service = plain(&backends).strategy(First).max_attempts(1).into_service();
    b.control.redialable.store(true, SeqCst);
    for node in [&a, &b] {
        refuse(node, true);
    }
    assert_eq!(send(&service, get()).await.body, "c");
    refuse(&b, false);
    refuse(&c, true);
    d.control.refuses_after_gate.store(true, SeqCst);
    d.hold_responses();
    let request = spawn(&service, get());
    after(150).await;
    assert_eq!([state(&backends, "a"), state(&backends, "b")], [State::Suspect, State::Ready]);
    d.release_responses();
    assert_eq!(request.await.unwrap().body, "b", "not in the only attempt at a suspect");
}

#[tokio::test(start_paused = true)]
async fn a_redial_that_fails_is_one_of_the_attempts() {
    let (backends, nodes) = nodes(["a", "b", "c"]);
    for node in &nodes {
        node.control.redialable.store(true, SeqCst);
        refuse(node, true);
    }
    assert_eq!(send(&plain(&backends).into_service(), get()).await.status, 503);
    nodes[1].control.redial_hangs.store(true, SeqCst);
    let request = spawn(&plain(&backends).max_attempts(2).into_service(), get());
    after(5).await;
    nodes[1].control.redial_hangs.store(false, SeqCst);
    assert_eq!(request.await.unwrap().status, 503);
    let redials = nodes.each_ref().map(|node| node.control.redials.load(SeqCst));
    assert_eq!(redials, [1, 1, 0], "two, although not at the same time");
}

#[tokio::test(start_paused = true)]
async fn a_redial_has_a_moment_before_a_request_waits_for_a_busy_backend() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    backends.set_limit("b", 1).unwrap();
    let service = plain(&backends).into_service();
    a.control.redialable.store(true, SeqCst);
    refuse(&a, true);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b");
    refuse(&a, false);
    a.control.redial_hangs.store(true, SeqCst);
    b.hold_responses();
    let holder = spawn(&service, with_cookie("sid=b"));
    after(1).await;
    let waiting = spawn(&service, get());
    after(50).await;
    a.control.redial_hangs.store(false, SeqCst);
    assert_eq!(waiting.await.unwrap().body, "a", "it has returned while the other one is busy");
    b.release_responses();
    assert_eq!(holder.await.unwrap().body, "b");
}
