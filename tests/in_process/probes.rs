//! Active probes: their schedule, their results, and how they act on ejections.

use std::{
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};

use http::Request;
use tokio::time::Instant;
use tower_sticky::{
    BackendId, Backends, Cause, Health, HttpProbe, Probe, State, StickyLayer, Verdict,
};

use crate::support::{
    Body, Client, Node, after, get, health_changes, nodes, plain, send, state, until, with_cookie,
};

pub(crate) fn probe() -> HttpProbe<Body> {
    HttpProbe::get("/healthz").map_body(|_| Body::default())
}

/// Probes every second, with a seeded variation.
pub(crate) fn health() -> Health<HttpProbe<Body>> {
    Health::new().probe(probe()).seed(7)
}

pub(crate) fn start<P: Probe<Node>>(
    backends: &Backends<Node>,
    health: Health<P>,
) -> StickyLayer<Node> {
    let layer = plain(backends).health(health);
    assert!(layer.start::<Request<Body>>());
    layer
}

#[tokio::test(start_paused = true)]
async fn consecutive_probe_failures_take_a_backend_down_and_successes_restore_it() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let _layer = start(&backends, health());
    after(5_000).await;
    assert_eq!(health_changes(&mut events).await, [], "both are ready");
    a.control.call_fails.store(true, SeqCst);
    after(3_000).await;
    let down = ("a".to_owned(), State::Down, Cause::Probe);
    assert_eq!(health_changes(&mut events).await, [down], "three failures");
    assert_eq!(backends.get("a").unwrap().probe_failure.as_deref(), Some("garbage"));
    assert_eq!(backends.get("b").unwrap().probe_failure, None);
    a.control.call_fails.store(false, SeqCst);
    after(3_000).await;
    let up = ("a".to_owned(), State::Ready, Cause::Probe);
    assert_eq!(health_changes(&mut events).await, [up], "two successes");
    assert_eq!(backends.get("a").unwrap().probe_failure, None, "forgotten");
}

#[tokio::test(start_paused = true)]
async fn rise_and_fall_set_the_number_of_probes() {
    let (backends, [a]) = nodes(["a"]);
    let _layer = start(&backends, health().fall(5).rise(4));
    after(5_000).await;
    a.control.call_fails.store(true, SeqCst);
    let failing = Instant::now();
    until(&backends, "a", State::Down).await;
    let took = failing.elapsed();
    assert!(took > Duration::from_millis(900), "four more probes, at least 225 ms apart: {took:?}");
    a.control.call_fails.store(false, SeqCst);
    let before = a.served();
    until(&backends, "a", State::Ready).await;
    assert_eq!(a.served() - before, 4);
}

/// The times of the probes, in milliseconds.
async fn times(seed: u64, fails_from: u64, until: u64) -> Vec<u128> {
    let (backends, _nodes) = nodes(["a"]);
    let times = Arc::new(Mutex::new(Vec::new()));
    let begin = Instant::now();
    let noting = {
        let times = times.clone();
        move |_: Node, _: BackendId| {
            let now = begin.elapsed().as_millis();
            times.lock().unwrap().push(now);
            async move { if now < fails_from.into() { Ok(()) } else { Err("no") } }
        }
    };
    let layer = start(&backends, Health::new().probe(noting).seed(seed));
    after(until).await;
    drop((layer, backends));
    times.lock().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn intervals_vary_and_are_shorter_until_a_verdict() {
    let times_of = times(1, 10_000, 16_000).await;
    let gaps: Vec<_> = times_of.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(times_of[0] < 250, "the first one soon: {times_of:?}");
    assert!((225..=275).contains(&gaps[0]), "short before the first verdict: {gaps:?}");
    let failing = times_of.iter().position(|&at| at >= 10_000).unwrap();
    for gap in &gaps[1..failing] {
        assert!((900..=1101).contains(gap), "one second, varied by a tenth: {gaps:?}");
    }
    for gap in &gaps[failing..failing + 2] {
        assert!((225..=276).contains(gap), "short while failing: {gaps:?}");
    }
    for gap in &gaps[failing + 2..] {
        assert!((900..=1101).contains(gap), "long once it is down: {gaps:?}");
    }
    assert_ne!(gaps[2], gaps[3], "they vary");
    assert_eq!(times_of, times(1, 10_000, 16_000).await, "the same seed, the same times");
    assert_ne!(times_of, times(2, 10_000, 16_000).await);
}

#[tokio::test(start_paused = true)]
async fn a_hanging_probe_fails_and_delays_no_other() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    a.hold_responses();
    let timeout = Duration::from_secs(30);
    let _layer = start(&backends, health().probe_timeout(timeout));
    after(29_000).await;
    assert!(b.served() > 25, "b is probed meanwhile, {} times", b.served());
    assert_eq!(backends.get("a").unwrap().probe_failure, None, "no result yet");
    after(70_000).await;
    let down = ("a".to_owned(), State::Down, Cause::Probe);
    assert_eq!(health_changes(&mut events).await, [down]);
    let failure = backends.get("a").unwrap().probe_failure.unwrap();
    assert_eq!(failure, "it did not answer within 30s");
    assert_eq!(a.control.headers.lock().unwrap().len(), 4, "one at a time");
}

#[tokio::test(start_paused = true)]
async fn a_saturated_service_gives_no_result() {
    let (backends, [a]) = nodes(["a"]);
    let _layer = start(&backends, health());
    after(3_000).await;
    a.control.set_busy(true);
    after(20_000).await;
    assert_eq!(state(&backends, "a"), State::Busy, "busy is not down");
    assert_eq!(backends.get("a").unwrap().probe_failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_become_ready_fails() {
    let (backends, [a]) = nodes(["a"]);
    let slow_poll = health().readiness_interval(Duration::from_secs(1000));
    let mut events = backends.events();
    let _layer = start(&backends, slow_poll);
    after(3_000).await;
    a.control.readiness_fails.store(true, SeqCst);
    after(3_000).await;
    let down = ("a".to_owned(), State::Down, Cause::Probe);
    assert_eq!(health_changes(&mut events).await, [down]);
    let failure = backends.get("a").unwrap().probe_failure.unwrap();
    assert_eq!(failure, "its service failed to become ready");
}

#[tokio::test(start_paused = true)]
async fn a_probe_does_not_count_as_a_request() {
    let (backends, [a]) = nodes(["a"]);
    backends.set_limit("a", 1).unwrap();
    a.hold_responses();
    let layer = start(&backends, health().probe_timeout(Duration::from_secs(1000)));
    after(1_000).await;
    assert_eq!(a.control.headers.lock().unwrap().len(), 1, "a probe hangs in the backend");
    assert_eq!(a.control.clones.load(SeqCst), 2, "no clone is kept: the test's and the pool's");
    let status = backends.get("a").unwrap();
    assert_eq!((status.requests, status.in_flight, status.waiting), (0, 0, 0));
    let service = layer.into_service();
    let request = tokio::spawn(async move { send(&service, get()).await.body });
    after(1).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "the probe holds no permit");
    a.release_responses();
    assert_eq!(request.await.unwrap(), "a");
    after(3_000).await;
    let stats = backends.snapshot().stats;
    assert_eq!(backends.get("a").unwrap().requests, 1);
    assert_eq!(stats.outcome(Verdict::Assigned), 1, "the one request: {stats:?}");
}

#[tokio::test(start_paused = true)]
async fn a_passed_probe_ends_a_trial() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let service = start(&backends, health().consecutive_failures(1)).into_service();
    after(3_000).await;
    a.control.status.store(500, SeqCst);
    let mut client = Client { token: Some("a".to_owned()) };
    client.send(&service, get()).await;
    a.control.status.store(200, SeqCst);
    let a_is = |state, cause| [("a".to_owned(), state, cause)];
    assert_eq!(health_changes(&mut events).await, a_is(State::Suspect, Cause::Failures));
    after(900).await;
    assert_eq!(state(&backends, "a"), State::Suspect, "passed probes do not shorten the ejection");
    after(700).await;
    assert_eq!(health_changes(&mut events).await, a_is(State::Ready, Cause::Probe));
    assert_eq!(backends.get("a").unwrap().requests, 1, "no request had to try");
}

#[tokio::test(start_paused = true)]
async fn a_failed_probe_fails_a_trial() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let service = start(&backends, health().fall(1000).consecutive_failures(1)).into_service();
    after(3_000).await;
    a.control.status.store(500, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    let failed = a.control.polls.load(SeqCst);
    // One second, then two: only a failed trial doubles the ejection.
    after(1_600).await;
    a.control.status.store(200, SeqCst);
    after(900).await;
    assert_eq!(state(&backends, "a"), State::Suspect, "ejected again");
    after(1_500).await;
    assert_eq!(state(&backends, "a"), State::Ready);
    let changes = health_changes(&mut events).await;
    assert_eq!(changes.len(), 2, "suspect, and ready again: {changes:?}");
    assert!(a.control.polls.load(SeqCst) > failed);
}

#[tokio::test(start_paused = true)]
async fn probes_that_rise_end_an_ejection() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let long = health().ejection(Duration::from_secs(1000)).consecutive_failures(1);
    let service = start(&backends, long).into_service();
    after(3_000).await;
    a.control.status.store(500, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    after(5_000).await;
    assert_eq!(state(&backends, "a"), State::Down, "ejected, and the probes have it down");
    a.control.status.store(200, SeqCst);
    after(2_500).await;
    assert_eq!(state(&backends, "a"), State::Ready, "before the ejection ends");
    let causes: Vec<_> = health_changes(&mut events).await.into_iter().map(|e| e.2).collect();
    assert_eq!(causes, [Cause::Failures, Cause::Probe, Cause::Probe]);
}

#[tokio::test(start_paused = true)]
async fn the_longest_intervals_do_not_overflow() {
    let (backends, [a]) = nodes(["a"]);
    let ever = Duration::MAX;
    let health = health().probe_interval(ever).probe_timeout(ever).readiness_interval(ever);
    let rate = tower_sticky::SuccessRate::new().interval(ever);
    let health = health.ejection(ever).slow_start(ever).success_rate(rate).redial(ever, ever);
    let service = start(&backends, health.consecutive_failures(1)).into_service();
    backends.insert("b", Node::new("b")).unwrap();
    a.control.status.store(500, SeqCst);
    assert_eq!(send(&service, with_cookie("sid=a")).await.status, 500);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b");
    // In one step, because the driver would otherwise wake every second.
    tokio::time::advance(Duration::from_millis(3_000_000_000)).await;
    after(2000).await;
    assert_eq!(state(&backends, "a"), State::Suspect, "a tenth of a year is longer");
    a.control.status.store(200, SeqCst);
    tokio::time::advance(Duration::from_millis(400_000_000)).await;
    after(2000).await;
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "a");
}
