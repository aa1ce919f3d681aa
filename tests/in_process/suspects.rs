//! Suspects: others are preferred, and nobody is refused before they have been tried.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::{Method, Request};
use tokio::task::JoinHandle;
use tower_sticky::{
    Backends, Failover, Health, Reason, State, StickyService, Verdict,
    affinity::{Cookie, Header, Key, Learned},
};

use crate::support::{
    Answer, Body, Client, Node, UNGATED, after, get, health_changes, keys, nodes, plain, sealed,
    send, with_cookie,
};

fn state(backends: &Backends<Node>, id: &str) -> State {
    backends.get(id).unwrap().state
}

fn refuse(node: &Node, refuses: bool) {
    node.told.refuses.store(refuses, SeqCst);
}

fn post() -> Request<Body> {
    let mut request = get();
    *request.method_mut() = Method::POST;
    request
}

fn ask(service: &StickyService<Node>, request: Request<Body>) -> JoinHandle<Answer> {
    let service = service.clone();
    tokio::spawn(async move { send(&service, request).await })
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_has_returned_serves_at_once_when_nobody_else_can() {
    for redialable in [false, true] {
        let (backends, [a, b]) = nodes(["a", "b"]);
        let service = sealed(&backends).into_service();
        for node in [&a, &b] {
            refuse(node, true);
            node.told.redialable.store(redialable, SeqCst);
        }
        assert_eq!(send(&service, get()).await.status, 503);
        assert_eq!([state(&backends, "a"), state(&backends, "b")], [State::Suspect; 2]);
        // Not a moment later, and whatever the schedule of the looks says.
        refuse(&a, false);
        for request in [get(), post()] {
            assert_eq!(send(&service, request).await.body, "a", "redialable: {redialable}");
        }
        assert_eq!(state(&backends, "a"), State::Ready);
    }
}

#[tokio::test(start_paused = true)]
async fn suspects_are_tried_in_the_order_of_their_failures_and_not_too_many() {
    let names = ["a", "b", "c", "d"];
    let (backends, nodes) = nodes(names);
    let layer = plain(&backends).max_attempts(2).on_unavailable(Failover::Reject);
    let service = layer.into_service();
    // They fail one after the other: c, a, d, b.
    for id in ["c", "a", "d", "b"] {
        let node = nodes.iter().find(|node| node.name == id).unwrap();
        refuse(node, true);
        send(&service, with_cookie(&format!("sid={id}"))).await;
        after(1).await;
    }
    let polled = || nodes.each_ref().map(|node| node.told.polled.load(SeqCst));
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
async fn one_request_tries_a_suspect_that_hangs_and_the_others_are_not_held_up() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    refuse(&a, true);
    send(&service, get()).await;
    refuse(&a, false);
    a.told.refuses_later.store(true, SeqCst);
    a.told.gate.forget_permits(UNGATED);
    after(100).await;
    let trial = ask(&service, get());
    after(1).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "the trial");
    for _ in 0..20 {
        assert_eq!(send(&service, get()).await.body, "b", "others go elsewhere");
    }
    // Nobody else is left: they wait for what the trial finds, and no longer than they may.
    refuse(&b, true);
    let others: Vec<_> = (0..20).map(|_| ask(&service, get())).collect();
    after(500).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "one at a time");
    assert!(others.iter().all(|other| !other.is_finished()));
    after(600).await;
    for other in others {
        let answer = other.await.unwrap();
        assert_eq!((answer.status, &answer.headers["retry-after"]), (503, &"1".parse().unwrap()));
    }
    a.told.refuses_later.store(false, SeqCst);
    trial.abort();
    a.told.gate.add_permits(UNGATED);
    after(1).await;
    let backend = backends.get("a").unwrap();
    assert_eq!((backend.in_flight, backend.waiting), (0, 0), "nothing is left");
    assert_eq!(send(&service, get()).await.body, "a");
}

#[tokio::test(start_paused = true)]
async fn those_who_wait_for_a_trial_go_on_with_its_result() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).into_service();
    refuse(&a, true);
    assert_eq!(send(&service, get()).await.status, 503);
    refuse(&a, false);
    a.told.gate.forget_permits(UNGATED);
    let all: Vec<_> = (0..10).map(|_| ask(&service, get())).collect();
    after(100).await;
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.waiting), (1, 9));
    a.told.gate.add_permits(UNGATED);
    for answer in all {
        assert_eq!(answer.await.unwrap().body, "a");
    }
    assert_eq!(backends.get("a").unwrap().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn no_more_wait_for_a_suspect_than_may() {
    let (backends, [a]) = nodes(["a"]);
    // Requests without a session get half of the places.
    let service = plain(&backends).max_waiters(6).into_service();
    refuse(&a, true);
    send(&service, get()).await;
    refuse(&a, false);
    a.told.gate.forget_permits(UNGATED);
    let all: Vec<_> = (0..10).map(|_| ask(&service, get())).collect();
    after(1).await;
    assert_eq!(backends.get("a").unwrap().waiting, 3);
    assert_eq!(all.iter().filter(|answer| answer.is_finished()).count(), 6, "at once");
    a.told.gate.add_permits(UNGATED);
    let mut statuses = Vec::new();
    for answer in all {
        statuses.push(answer.await.unwrap().status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 4);
    assert!(statuses.iter().all(|status| [200, 503].contains(status)));
}

#[tokio::test(start_paused = true)]
async fn a_pinned_request_waits_for_the_trial_of_its_backend_instead_of_moving() {
    for trial_is_answered in [true, false] {
        let (backends, [a, _b]) = nodes(["a", "b"]);
        let service = sealed(&backends).into_service();
        let mut client = Client::default();
        client.send(&service, get()).await;
        a.told.redialable.store(false, SeqCst);
        refuse(&a, true);
        send(&service, with_cookie("sid=x")).await;
        send(&service, with_cookie("sid=x")).await;
        refuse(&a, false);
        after(100).await;
        a.told.gate.forget_permits(UNGATED);
        let trial = ask(&service, get());
        after(1).await;
        let mut pinned = client.clone();
        let pinned = tokio::spawn({
            let service = service.clone();
            async move { pinned.send(&service, get()).await }
        });
        after(900).await;
        assert!(!pinned.is_finished(), "it waits");
        if trial_is_answered {
            a.told.gate.add_permits(UNGATED);
            assert_eq!(pinned.await.unwrap().why(), (Verdict::Pinned, Some("a"), None));
        } else {
            after(101).await;
            let answer = pinned.await.unwrap();
            assert_eq!(answer.why(), (Verdict::Moved, Some("b"), Some(Reason::Down)));
        }
        trial.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn broken_connections_end_by_an_answer_and_requests_that_can_be_repeated_come_first() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.told.hangs_up.store(true, SeqCst);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b");
    assert_eq!(state(&backends, "a"), State::Suspect);
    after(100).await;
    let served = a.served();
    for _ in 0..5 {
        assert_eq!(send(&service, post()).await.body, "b", "it could be lost there");
    }
    assert_eq!(a.served(), served);
    a.told.hangs_up.store(false, SeqCst);
    assert_eq!(send(&service, get()).await.body, "a", "the trial");
    assert_eq!(state(&backends, "a"), State::Ready);
    assert!(b.served() >= 6);
}

#[tokio::test(start_paused = true)]
async fn where_only_others_come_one_of_them_is_the_trial_in_the_end() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.told.hangs_up.store(true, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    a.told.hangs_up.store(false, SeqCst);
    after(1_100).await;
    assert_eq!(send(&service, post()).await.body, "a");
    assert_eq!(state(&backends, "a"), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn one_bad_request_moves_no_other_session() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut sessions = [Client::default(), Client::default()];
    for session in &mut sessions {
        session.send(&service, get()).await;
        send(&service, get()).await;
    }
    a.told.hangs_up.store(true, SeqCst);
    assert_eq!(sessions[0].send(&service, get()).await.why().0, Verdict::Moved);
    assert_eq!(state(&backends, "a"), State::Suspect);
    a.told.hangs_up.store(false, SeqCst);
    let answer = sessions[1].send(&service, get()).await;
    assert_eq!(answer.why(), (Verdict::Pinned, Some("a"), None), "it is the trial, at once");
    assert_eq!(state(&backends, "a"), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_dead_backend_moves_each_of_its_sessions_once() {
    // For each way to hold a session: a layer, and a request of the session `n` with its token.
    let dead = |a: &Node, breaks: bool| match breaks {
        true => a.told.hangs_up.store(true, SeqCst),
        false => refuse(a, true),
    };
    for breaks in [true, false] {
        for kind in ["plain", "sealed", "header", "learned"] {
            let (backends, [a, ..]) = nodes(["a", "b", "c"]);
            let layer = match kind {
                "plain" => plain(&backends),
                "sealed" => sealed(&backends),
                "header" => with(&backends, Header::sealed("x-sid", keys())),
                _ => with(&backends, Learned::cookie("app")),
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
                    let (verdict, ..) = answer.why();
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

fn with(
    backends: &Backends<Node>,
    affinity: impl tower_sticky::affinity::Affinity,
) -> tower_sticky::StickyLayer<Node> {
    tower_sticky::StickyLayer::new(backends.clone(), affinity)
        .strategy(tower_sticky::strategy::RoundRobin::new())
        .outcome_extensions(true)
}

/// One request of a session that keeps what it is told, in a cookie, a header, or as its own id.
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
async fn a_key_borrows_always_the_same_backend_and_comes_home() {
    let names = ["a", "b", "c", "d", "e"];
    let gateways: [_; 2] = std::array::from_fn(|_| {
        let (backends, nodes) = nodes(names);
        let service = with(&backends, Key::header("x-user")).into_service();
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
                assert_eq!(answer.why().0, expected);
                found.push(answer.body);
            }
        }
        let (first, rest) = found.split_at(40);
        assert_eq!([first, first].concat(), rest, "never a third");
        refuges.push(first.to_vec());
        refuse(&nodes[0], false);
        after(1_100).await;
        for (n, home) in homes.iter().enumerate() {
            assert_eq!(send(service, user(n)).await.body, *home, "back when it returns");
        }
    }
    assert_eq!(refuges[0], refuges[1], "on every gateway");
}

#[tokio::test(start_paused = true)]
async fn a_busy_backend_is_waited_for_rather_than_a_suspect_that_hangs() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    backends.set_limit("b", 1).unwrap();
    let service = plain(&backends).into_service();
    a.told.redialable.store(true, SeqCst);
    refuse(&a, true);
    send(&service, with_cookie("sid=a")).await;
    a.told.redials_hang.store(true, SeqCst);
    after(150).await;
    b.told.gate.forget_permits(UNGATED);
    let holder = ask(&service, with_cookie("sid=b"));
    after(1).await;
    let waiting = ask(&service, get());
    after(500).await;
    b.told.gate.add_permits(UNGATED);
    assert_eq!(waiting.await.unwrap().body, "b");
    holder.await.unwrap();
}

/// Everybody to the first backend that is well.
#[derive(Debug)]
struct First;

impl tower_sticky::strategy::Strategy for First {
    fn choose(&self, _: &tower_sticky::strategy::Candidates<'_>) -> usize {
        0
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_does_not_cost_a_request_its_other_backend() {
    let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
    let service = plain(&backends).strategy(First).into_service();
    a.told.hangs_up.store(true, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    after(100).await;
    b.told.hangs_up.store(true, SeqCst);
    let served = a.served() + b.served() + c.served();
    let answer = send(&service, get()).await;
    let served = a.served() + b.served() + c.served() - served;
    assert_eq!((answer.status, served), (200, 3), "the trial of a, then b, and then c");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_accepted_and_closed_is_no_refusal() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.told.closes.store(true, SeqCst);
    a.told.redialable.store(true, SeqCst);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b", "the request was not sent");
    after(10_000).await;
    assert_eq!(state(&backends, "a"), State::Suspect, "it accepts, which shows nothing");
    a.told.closes.store(false, SeqCst);
    assert_eq!(send(&service, get()).await.body, "a", "an answer does");
    assert_eq!(state(&backends, "a"), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn no_request_is_sent_more_than_three_times() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    for node in &nodes {
        node.told.hangs_up.store(true, SeqCst);
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
async fn those_that_fail_otherwise_serve_when_nobody_else_is_left() {
    let (backends, [a]) = nodes(["a"]);
    let mut events = backends.events();
    let health = Health::new().consecutive_failures(1).max_ejected(1.0);
    let service = plain(&backends).health(health).into_service();
    a.told.status.store(500, SeqCst);
    send(&service, get()).await;
    a.told.status.store(200, SeqCst);
    assert_eq!(state(&backends, "a"), State::Suspect);
    let all: Vec<_> = (0..10).map(|_| ask(&service, get())).collect();
    for answer in all {
        assert_eq!(answer.await.unwrap().status, 200, "any number at a time");
    }
    assert_eq!(state(&backends, "a"), State::Suspect, "an ejection for answers keeps its time");
    after(1_001).await;
    assert_eq!(send(&service, get()).await.status, 200);
    assert_eq!(state(&backends, "a"), State::Ready);
    assert_eq!(health_changes(&mut events).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_drained_session_is_served_by_its_suspect_backend_when_nobody_else_can() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    backends.set_mode("a", tower_sticky::Mode::Draining).unwrap();
    refuse(&b, true);
    assert_eq!(send(&service, get()).await.status, 503, "no new session on a draining backend");
    refuse(&a, true);
    assert_eq!(client.send(&service, get()).await.status, 503);
    refuse(&a, false);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.why(), (Verdict::Pinned, Some("a"), None));
}

#[tokio::test(start_paused = true)]
async fn a_session_that_moves_without_need_stays_when_its_request_breaks_there() {
    use tower_sticky::Mode;
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let cookie = Cookie::sealed("sid", keys()).idle_timeout(Duration::from_secs(3600));
    let service = with(&backends, cookie).on_unavailable(Failover::Repin).into_service();
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.body, "a");
    let drain = backends.drain("a").hand_over(1000).start().unwrap();
    b.told.hangs_up.store(true, SeqCst);
    let answer = client.send(&service, get()).await;
    assert_eq!((answer.status, &*answer.body), (200, "a"), "it could stay, and does");
    drop(drain);
    assert_eq!(backends.get("a").unwrap().mode, Mode::Draining);
}
