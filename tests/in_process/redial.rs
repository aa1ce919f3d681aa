//! Redials: a refused backend is reconnected in the background until it accepts.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::{Method, Request};
use tower_sticky::{Backends, Cause, Health, Mode, State, StickyService};

use crate::{
    probes,
    support::{
        Body, Client, Node, after, get, health_changes, nodes, plain, refuse, sealed, send, spawn,
        state, until, with_cookie,
    },
};

fn redialable<const N: usize>(names: [&'static str; N]) -> (Backends<Node>, [Node; N]) {
    let (backends, nodes) = nodes(names);
    nodes.iter().for_each(|node| node.control.redialable.store(true, SeqCst));
    (backends, nodes)
}

fn post_as(cookie: &str) -> Request<Body> {
    let mut request = with_cookie(cookie);
    *request.method_mut() = Method::POST;
    request
}

/// Two backends, of which `a` refuses and its redial hangs.
async fn hanging_redial() -> (Backends<Node>, [Node; 2], StickyService<Node>) {
    let (backends, nodes) = redialable(["a", "b"]);
    let service = plain(&backends).into_service();
    nodes[0].control.redial_hangs.store(true, SeqCst);
    nodes[0].control.refuses.store(true, SeqCst);
    send(&service, get()).await;
    after(150).await;
    (backends, nodes, service)
}

fn three_hundred() -> (Backends<Node>, Vec<Node>) {
    let names = (0..300).map(|i| &*format!("n{i}").leak());
    let nodes: Vec<_> = names.map(Node::new).collect();
    nodes.iter().for_each(|node| node.control.redialable.store(true, SeqCst));
    (Backends::from_iter(nodes.iter().map(|node| (node.name, node.clone()))), nodes)
}

fn redialed(node: &Node) -> usize {
    node.control.redials.load(SeqCst)
}

#[tokio::test(start_paused = true)]
async fn a_successful_redial_restores_a_refused_backend() {
    let (backends, [a, _b]) = redialable(["a", "b"]);
    let mut events = backends.events();
    let service = plain(&backends).into_service();
    a.control.refuses.store(true, SeqCst);
    send(&service, get()).await;
    let polled = a.control.polls.load(SeqCst);
    for (pause, redials) in [(79, 0), (22, 1), (138, 1), (63, 2), (257, 2), (143, 3)] {
        after(pause).await;
        assert_eq!(redialed(&a), redials, "after 100, 200 and 400 ms, or a fifth less");
    }
    after(10_000).await;
    let (before, rest) = (redialed(&a), 10_000);
    after(rest).await;
    assert!((9..=13).contains(&(redialed(&a) - before)), "at most a second apart");
    assert_eq!(send(&service, get()).await.body, "b");
    a.control.refuses.store(false, SeqCst);
    until(&backends, "a", State::Ready).await;
    let changes: Vec<_> = health_changes(&mut events).await;
    let a_is = |state, cause| ("a".to_owned(), state, cause);
    let expected =
        [a_is(State::Suspect, Cause::ConnectFailed), a_is(State::Ready, Cause::Connected)];
    assert_eq!(changes, expected);
    assert!(a.control.polls.load(SeqCst) <= polled + 25, "only the readiness poll polled it");
    assert_eq!(a.served(), 0);
}

#[tokio::test(start_paused = true)]
async fn connections_from_before_a_recovery_are_no_evidence_when_they_break_late() {
    let (backends, [a, _b]) = redialable(["a", "b"]);
    let service = plain(&backends).into_service();
    a.hold_responses();
    let held: Vec<_> = (0..3).map(|_| spawn(&service, post_as("sid=a"))).collect();
    after(1).await;
    refuse(&a, true);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b");
    refuse(&a, false);
    until(&backends, "a", State::Ready).await;
    // The backend has restarted. What broke then is noticed only now.
    a.control.breaks_after_gate.store(true, SeqCst);
    a.release_responses();
    for request in held {
        assert_eq!(request.await.unwrap().status, 502);
    }
    assert_eq!(state(&backends, "a"), State::Ready);
    // New ones are evidence.
    for _ in 0..2 {
        assert_eq!(send(&service, post_as("sid=a")).await.status, 502);
    }
    assert_eq!(state(&backends, "a"), State::Suspect);
}

#[tokio::test(start_paused = true)]
async fn the_redial_interval_is_an_option() {
    let (backends, [a, _b]) = redialable(["a", "b"]);
    let (first, longest) = (Duration::from_secs(5), Duration::from_secs(20));
    let service = plain(&backends).health(Health::new().redial(first, longest)).into_service();
    a.control.refuses.store(true, SeqCst);
    send(&service, get()).await;
    after(3_900).await;
    assert_eq!(redialed(&a), 0);
    after(1_200).await;
    assert_eq!(redialed(&a), 1);
    after(600_000).await;
    assert!((30..=40).contains(&redialed(&a)), "{} times", redialed(&a));
}

#[tokio::test(start_paused = true)]
async fn a_pool_redials_a_hundred_times_a_second_at_most() {
    let (backends, nodes) = three_hundred();
    let service = plain(&backends).max_attempts(300).into_service();
    for node in &nodes {
        node.control.refuses.store(true, SeqCst);
    }
    assert_eq!(send(&service, get()).await.status, 503, "all refuse");
    after(10_000).await;
    let all = || nodes.iter().map(redialed).sum::<usize>();
    let before = all();
    after(10_000).await;
    let redials = all() - before;
    assert!((900..=1_010).contains(&redials), "{redials} in ten seconds");
    assert!(nodes.iter().all(|node| redialed(node) > 0), "no session is forgotten");
    for node in &nodes {
        node.control.refuses.store(false, SeqCst);
    }
    after(5_000).await;
    assert!(backends.iter().all(|backend| backend.state == State::Ready));
}

#[tokio::test(start_paused = true)]
async fn backends_with_sessions_are_redialed_first() {
    let (backends, nodes) = three_hundred();
    let service = sealed(&backends).into_service();
    let mut client = Client::assigned(&service).await;
    let home = client.send(&service, get()).await.body;
    after(3_000).await;
    for node in &nodes {
        node.control.refuses.store(true, SeqCst);
    }
    assert_eq!(send(&service, get()).await.status, 503, "all refuse");
    after(10_000).await;
    let home = nodes.iter().find(|node| node.name == home).unwrap();
    let before = redialed(home);
    after(10_000).await;
    let redials = redialed(home) - before;
    assert!(redials >= 8, "{redials} in ten seconds, where the others have their turn three times");
}

#[tokio::test(start_paused = true)]
async fn a_redial_from_before_a_recovery_is_no_evidence_when_it_fails_late() {
    let (backends, [a, _b]) = redialable(["a", "b"]);
    let layer = probes::start(&backends, probes::health());
    let service = layer.into_service();
    a.control.redial_hangs.store(true, SeqCst);
    refuse(&a, true);
    send(&service, with_cookie("sid=a")).await;
    after(150).await;
    assert_eq!((redialed(&a), state(&backends, "a")), (1, State::Suspect));
    refuse(&a, false);
    until(&backends, "a", State::Ready).await;
    refuse(&a, true);
    a.control.redial_hangs.store(false, SeqCst);
    after(15).await;
    assert_eq!((redialed(&a), state(&backends, "a")), (1, State::Ready), "a probe came through");
}

#[tokio::test(start_paused = true)]
async fn a_hanging_redial_delays_no_request() {
    let (backends, [a, b], service) = hanging_redial().await;
    assert_eq!(redialed(&a), 1, "under way");
    for _ in 0..10 {
        assert_eq!(send(&service, get()).await.body, "b");
    }
    b.control.refuses.store(true, SeqCst);
    let waiting = spawn(&service, get());
    after(999).await;
    assert!(!waiting.is_finished(), "it waits for as long as it may");
    after(2).await;
    assert_eq!(waiting.await.unwrap().status, 503);
    // `b` has returned: a hanging redial of `a` must not delay it.
    b.control.refuses.store(false, SeqCst);
    assert_eq!(send(&service, get()).await.body, "b");
    a.control.refuses.store(false, SeqCst);
    after(20_000).await;
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    assert!(redialed(&a) >= 2, "one that takes longer than 10 s is given up");
    a.control.redial_hangs.store(false, SeqCst);
    until(&backends, "a", State::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_accepts_but_does_not_answer_stays_suspect() {
    let (backends, [a, _b]) = redialable(["a", "b"]);
    let service = plain(&backends).into_service();
    a.control.disconnects.store(true, SeqCst);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b");
    after(60_000).await;
    assert_eq!(redialed(&a), 1, "it accepts: more of them tell nothing");
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    assert_eq!(send(&service, get()).await.body, "b", "a trial that failed, and cost nothing");
    a.control.disconnects.store(false, SeqCst);
    after(1_000).await;
    assert_eq!(send(&service, get()).await.body, "a", "an answer");
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_disconnected_backend_is_ready_when_it_accepts_again() {
    let (backends, [a, _b]) = redialable(["a", "b"]);
    let service = plain(&backends).into_service();
    a.control.disconnects.store(true, SeqCst);
    a.control.refuses.store(true, SeqCst);
    a.control.refuses.store(false, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    a.control.disconnects.store(false, SeqCst);
    a.control.refuses.store(true, SeqCst);
    after(50).await;
    a.control.refuses.store(false, SeqCst);
    until(&backends, "a", State::Ready).await;
    assert_eq!(a.served(), 1, "without a request");
}

#[tokio::test(start_paused = true)]
async fn a_replaced_service_is_ready() {
    let (backends, [a, _b], service) = hanging_redial().await;
    let new = Node::new("new");
    new.control.redialable.store(true, SeqCst);
    backends.replace("a", new.clone()).unwrap();
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
    a.control.redial_hangs.store(false, SeqCst);
    after(20).await;
    assert_eq!(backends.get("a").unwrap().state, State::Ready, "the old one is of no interest");
    new.control.refuses.store(true, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    after(150).await;
    assert_eq!(redialed(&new), 1);
}

#[tokio::test(start_paused = true)]
async fn a_disabled_backend_is_not_redialed() {
    let (backends, [a, _b]) = redialable(["a", "b"]);
    let service = plain(&backends).into_service();
    a.control.refuses.store(true, SeqCst);
    send(&service, get()).await;
    backends.set_mode("a", Mode::Disabled).unwrap();
    after(10_500).await;
    assert_eq!(redialed(&a), 0);
    a.control.refuses.store(false, SeqCst);
    backends.set_mode("a", Mode::Active).unwrap();
    after(1).await;
    assert_eq!((redialed(&a), backends.get("a").unwrap().state), (1, State::Ready), "at once then");
}

#[tokio::test(start_paused = true)]
async fn frequent_requests_do_not_delay_the_next_redial() {
    let (backends, [a, b]) = redialable(["a", "b"]);
    let service = plain(&backends).into_service();
    for node in [&a, &b] {
        node.control.refuses.store(true, SeqCst);
    }
    for _ in 0..10 {
        assert_eq!(send(&service, get()).await.status, 503, "after one more look at each");
    }
    assert!(redialed(&a) >= 8 && redialed(&b) >= 8);
    for node in [&a, &b] {
        node.control.refuses.store(false, SeqCst);
    }
    after(120).await;
    for id in ["a", "b"] {
        assert_eq!(backends.get(id).unwrap().state, State::Ready, "the first one in its time");
    }
}

#[tokio::test(start_paused = true)]
async fn redials_end_with_the_pool() {
    let (backends, [a, _b]) = redialable(["a", "b"]);
    let layer = plain(&backends);
    assert!(layer.start::<Request<Body>>());
    let service = layer.into_service();
    a.control.refuses.store(true, SeqCst);
    send(&service, get()).await;
    drop((service, backends));
    after(150).await;
    let before = redialed(&a);
    after(10_000).await;
    assert_eq!(redialed(&a), before);
}
