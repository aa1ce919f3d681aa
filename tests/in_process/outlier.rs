//! Ejection by consecutive failures or success rate, and the share of a pool that may be ejected.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::Version;
use tower_sticky::{
    BackendId, Backends, Cause, Failover, Health, HttpProbe, NoInner, State, StickyLayer,
    StickyService, SuccessRate, affinity::Cookie, strategy::RoundRobin,
};

use crate::support::{
    Body, Client, Node, after, get, health_changes, nodes, plain, sealed, send, with_cookie,
};

type Service = StickyService<Node, NoInner>;

fn service(backends: &Backends<Node>, health: Health) -> Service {
    plain(backends).health(health).into_service()
}

fn state(backends: &Backends<Node>, id: &str) -> State {
    backends.get(id).unwrap().state
}

fn out(backends: &Backends<Node>) -> Vec<String> {
    let out = backends.iter().filter(|backend| backend.state != State::Ready);
    out.map(|backend| backend.id.to_string()).collect()
}

fn a_is(state: State, cause: Cause) -> [(String, State, Cause); 1] {
    [("a".to_owned(), state, cause)]
}

/// Sends one request pinned to the backend `id`.
async fn ask(service: &Service, id: &str) -> u16 {
    send(service, with_cookie(&format!("sid={id}"))).await.status
}

fn fails(node: &Node, fails: bool) {
    node.control.status.store(if fails { 500 } else { 200 }, SeqCst);
}

#[tokio::test(start_paused = true)]
async fn consecutive_failures_eject_and_a_success_resets_the_count() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let service = service(&backends, Health::new().consecutive_failures(3));
    for answer in [true, true, false, true, true] {
        fails(&a, answer);
        assert_eq!(ask(&service, "a").await, if answer { 500 } else { 200 });
    }
    assert_eq!(health_changes(&mut events).await, [], "never three in a row");
    ask(&service, "a").await;
    assert_eq!(health_changes(&mut events).await, a_is(State::Suspect, Cause::Failures));
    fails(&a, false);
    after(1_100).await;
    assert_eq!(ask(&service, "a").await, 200);
    assert_eq!(health_changes(&mut events).await, a_is(State::Ready, Cause::Answered), "a trial");
}

#[tokio::test(start_paused = true)]
async fn a_failing_answer_fails_the_trial() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = service(&backends, Health::new().consecutive_failures(2));
    fails(&a, true);
    ask(&service, "a").await;
    ask(&service, "a").await;
    assert_eq!(state(&backends, "a"), State::Suspect);
    after(1_100).await;
    assert_eq!(ask(&service, "a").await, 500, "the trial");
    fails(&a, false);
    after(1_900).await;
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b", "two seconds this time");
    after(200).await;
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "a");
    assert_eq!(state(&backends, "a"), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn by_default_responses_do_not_eject() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = service(&backends, Health::new());
    fails(&a, true);
    for _ in 0..50 {
        assert_eq!(ask(&service, "a").await, 500);
    }
    a.control.call_fails.store(true, SeqCst);
    for _ in 0..50 {
        assert_eq!(ask(&service, "a").await, 502);
    }
    assert_eq!(state(&backends, "a"), State::Ready);
    a.control.call_fails.store(false, SeqCst);
    a.control.refuses.store(true, SeqCst);
    ask(&service, "a").await;
    a.control.refuses.store(false, SeqCst);
    after(100).await;
    ask(&service, "a").await;
    assert_eq!(state(&backends, "a"), State::Ready, "for a connection any answer will do");
}

#[tokio::test(start_paused = true)]
async fn failed_calls_count_and_client_errors_do_not() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let service = service(&backends, Health::new().consecutive_failures(3));
    for answer in [&a.control.call_fails, &a.control.call_fails] {
        answer.store(true, SeqCst);
        ask(&service, "a").await;
        answer.store(false, SeqCst);
    }
    fails(&a, true);
    ask(&service, "a").await;
    assert_eq!(health_changes(&mut events).await, a_is(State::Suspect, Cause::Failures));
    b.control.status.store(499, SeqCst);
    for _ in 0..10 {
        assert_eq!(ask(&service, "b").await, 499);
    }
    assert_eq!(state(&backends, "b"), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn grpc_unavailable_counts_as_a_failure() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = service(&backends, Health::new().consecutive_failures(2));
    let call = async |grpc: bool, status: &str| {
        *a.control.response_headers.lock().unwrap() = vec![("grpc-status", status.to_owned())];
        let mut request = with_cookie("sid=a");
        if grpc {
            *request.version_mut() = Version::HTTP_2;
            request.headers_mut().insert("content-type", "application/grpc+proto".parse().unwrap());
        }
        assert_eq!(send(&service, request).await.body, "a");
    };
    for (grpc, status) in [(true, "14"), (true, "0"), (true, "14"), (true, "13"), (false, "14")] {
        call(grpc, status).await;
    }
    call(true, "14").await;
    assert_eq!(state(&backends, "a"), State::Ready, "never two in a row");
    call(true, "14").await;
    assert_eq!(state(&backends, "a"), State::Suspect);
}

#[tokio::test(start_paused = true)]
async fn a_failure_from_before_the_ejection_does_not_fail_the_trial() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = service(&backends, Health::new().consecutive_failures(1));
    a.hold_responses();
    let late = tokio::spawn({
        let service = service.clone();
        async move { ask(&service, "a").await }
    });
    after(1).await;
    a.control.call_fails.store(true, SeqCst);
    assert_eq!(ask(&service, "a").await, 502, "ejected meanwhile");
    a.control.call_fails.store(false, SeqCst);
    after(1_100).await;
    fails(&a, true);
    a.release_responses();
    assert_eq!(late.await.unwrap(), 500);
    fails(&a, false);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "a", "the trial is still open");
    assert_eq!(state(&backends, "a"), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_success_rate_outlier_is_ejected() {
    const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];
    let (backends, nodes) = nodes(NAMES);
    let mut events = backends.events();
    let rate = SuccessRate::new().interval(Duration::from_secs(5)).min_requests(20);
    let service = service(&backends, Health::new().success_rate(rate));
    ask(&service, "b").await;
    let traffic = async |failing: usize, requests: usize| {
        for name in &NAMES[..5] {
            let node = nodes.iter().find(|node| node.name == *name).unwrap();
            for request in 0..requests {
                fails(node, *name == "a" && request < failing);
                ask(&service, name).await;
            }
        }
    };
    traffic(19, 19).await;
    after(5_001).await;
    assert_eq!(health_changes(&mut events).await, [], "too few requests");
    traffic(0, 20).await;
    after(5_000).await;
    assert_eq!(health_changes(&mut events).await, [], "all alike; f has had none");
    traffic(8, 20).await;
    assert_eq!(health_changes(&mut events).await, [], "not before the interval is over");
    after(5_000).await;
    assert_eq!(health_changes(&mut events).await, a_is(State::Suspect, Cause::SuccessRate));
    after(1_100).await;
    ask(&service, "a").await;
    assert_eq!(health_changes(&mut events).await, a_is(State::Ready, Cause::Answered));
    after(10_000).await;
    assert_eq!(health_changes(&mut events).await, [], "each interval by itself");
}

#[tokio::test(start_paused = true)]
async fn no_more_than_max_ejected_is_ejected() {
    for (share, most) in [(0.0, 0), (0.1, 1), (0.5, 2), (0.75, 3), (1.0, 4), (7.0, 4), (-1.0, 0)] {
        let (backends, nodes) = nodes(["a", "b", "c", "d"]);
        for node in &nodes {
            fails(node, true);
        }
        let health = Health::new().consecutive_failures(1).max_ejected(share);
        let service = service(&backends, health);
        for node in &nodes {
            ask(&service, node.name).await;
        }
        assert_eq!(out(&backends).len(), most, "of four, with {share}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_client_with_a_failing_page_ejects_at_most_half_of_a_pool() {
    let (backends, nodes) = nodes(["a", "b", "c"]);
    for node in &nodes {
        fails(node, true);
    }
    let service = sealed(&backends).health(Health::new().consecutive_failures(5)).into_service();
    let mut client = Client::default();
    for _ in 0..15 {
        assert_eq!(client.send(&service, get()).await.status, 500);
    }
    assert_eq!(out(&backends).len(), 1, "half of three");
    nodes.iter().for_each(|node| fails(node, false));
    for _ in &nodes {
        assert_eq!(send(&service, get()).await.status, 200, "no request is refused");
    }
}

#[tokio::test(start_paused = true)]
async fn max_ejected_does_not_limit_refused_connections() {
    let (backends, nodes) = nodes(["a", "b", "c", "d"]);
    for node in &nodes {
        node.control.refuses.store(true, SeqCst);
    }
    let service = service(&backends, Health::new().max_ejected(0.0));
    send(&service, get()).await;
    assert_eq!(out(&backends).len(), 4, "every refusing backend is suspect");
}

#[tokio::test(start_paused = true)]
async fn the_next_failure_ejects_when_another_backend_has_returned() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let health = Health::new().consecutive_failures(3).max_ejected(0.5);
    let layer = plain(&backends).health(health).on_unavailable(Failover::Borrow);
    let service = layer.into_service();
    fails(&a, true);
    fails(&b, true);
    for _ in 0..3 {
        ask(&service, "a").await;
    }
    for _ in 0..4 {
        ask(&service, "b").await;
    }
    assert_eq!(out(&backends), ["a"], "b would be one too many");
    after(1_100).await;
    fails(&a, false);
    ask(&service, "b").await;
    assert_eq!(out(&backends), ["a"], "one on trial is not in yet");
    ask(&service, "a").await;
    assert_eq!(out(&backends), [""; 0]);
    ask(&service, "b").await;
    assert_eq!(out(&backends), ["b"], "its failures went on counting");
}

#[tokio::test(start_paused = true)]
async fn a_failed_trial_ejects_again() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let health = Health::new().consecutive_failures(1).max_ejected(0.5);
    let service = service(&backends, health);
    fails(&a, true);
    assert_eq!(ask(&service, "a").await, 500);
    after(1_100).await;
    assert_eq!(ask(&service, "a").await, 500, "the trial");
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b", "ejected again");
}

#[tokio::test(start_paused = true)]
async fn max_ejected_holds_for_concurrent_failures() {
    let names = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let (backends, nodes) = nodes(names);
    let service = service(&backends, Health::new().consecutive_failures(1).max_ejected(0.25));
    for node in &nodes {
        node.hold_responses();
        fails(node, true);
    }
    let asking = names.map(|name| {
        let service = service.clone();
        tokio::spawn(async move { ask(&service, name).await })
    });
    after(1).await;
    for node in &nodes {
        node.release_responses();
    }
    for asked in asking {
        assert_eq!(asked.await.unwrap(), 500);
    }
    assert_eq!(out(&backends).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn backends_down_by_probes_do_not_count_as_ejected() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let dead = |_: Node, id: BackendId| async move { if id == *"a" { Err("no") } else { Ok(()) } };
    let health = Health::new().probe(dead).consecutive_failures(1).max_ejected(0.5);
    let layer = StickyLayer::new(backends.clone(), Cookie::plain("sid"))
        .strategy(RoundRobin::new())
        .health(health);
    let service = layer.into_service();
    ask(&service, "b").await;
    after(3_000).await;
    assert_eq!(out(&backends), ["a"]);
    fails(&b, true);
    ask(&service, "b").await;
    assert_eq!(out(&backends), ["a", "b"]);
    drop(a);
}

/// Counts the ejections of `a` in two minutes, in which it fails during one second of three and
/// receives ten requests per second.
async fn ejections_of_a_flapping_backend(
    backends: &Backends<Node>,
    service: &Service,
    a: &Node,
) -> usize {
    let mut events = backends.events();
    let mut ejections = 0;
    for tenth in 0..1_200 {
        fails(a, tenth / 10 % 3 == 0);
        ask(service, "a").await;
        after(100).await;
        let changes = health_changes(&mut events).await;
        ejections += changes.iter().filter(|change| change.1 == State::Suspect).count();
    }
    ejections
}

#[tokio::test(start_paused = true)]
async fn ejections_of_a_flapping_backend_grow() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = service(&backends, Health::new().consecutive_failures(1));
    let ejections = ejections_of_a_flapping_backend(&backends, &service, &a).await;
    // After 1, 2, 4 and 8 s each ejection lasts 10 s: about 14 in 120 s, where 1 s would make 40.
    assert!((4..=14).contains(&ejections), "{ejections} times in two minutes");
}

#[tokio::test(start_paused = true)]
async fn a_session_does_not_follow_a_flapping_backend() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.body, "a");
    for tenth in 0..600 {
        a.control.refuses.store(tenth / 10 % 3 == 1, SeqCst);
        assert_eq!(client.send(&service, get()).await.status, 200);
        // Other sessions keep trying it.
        send(&service, get()).await;
        after(100).await;
    }
    let moves = backends.snapshot().stats.moves();
    assert_eq!(moves, 1, "it moved once, and stayed");
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_ready_when_every_source_says_so() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let probe = HttpProbe::get("/").map_body(|_| Body::default());
    let health = Health::new().probe(probe).seed(3).rise(3).ejection(Duration::from_secs(20));
    let layer = plain(&backends).health(health);
    let service = layer.into_service();
    ask(&service, "a").await;
    after(5_000).await;
    // Unavailable for two reasons, and ready only when both have ended.
    a.control.refuses.store(true, SeqCst);
    ask(&service, "a").await;
    assert_eq!(health_changes(&mut events).await, a_is(State::Suspect, Cause::ConnectFailed));
    after(1_900).await;
    a.control.readiness_fails.store(true, SeqCst);
    after(2_000).await;
    a.control.refuses.store(false, SeqCst);
    after(10_000).await;
    assert_eq!(health_changes(&mut events).await, a_is(State::Down, Cause::Probe));
    a.control.readiness_fails.store(false, SeqCst);
    after(1_100).await;
    assert_eq!(
        state(&backends, "a"),
        State::Down,
        "ready to be called, but the probes have not risen"
    );
    after(2_500).await;
    assert_eq!(health_changes(&mut events).await, a_is(State::Ready, Cause::Probe));
}
