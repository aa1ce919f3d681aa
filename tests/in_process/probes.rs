//! Active probes: when they are made, what they find, and what follows.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
        },
    },
    time::Duration,
};

use http::Request;
use tokio::time::Instant;
use tower_sticky::{
    BackendId, Backends, BoxError, Cause, GrpcProbe, Health, HttpProbe, Mode, Probe, State,
    StickyLayer, Verdict, affinity::Cookie,
};

use crate::support::{
    Body, Client, Node, UNGATED, after, get, health_changes, nodes, plain, send, until, with_cookie,
};

fn probe() -> HttpProbe<Body> {
    HttpProbe::get("/healthz").map_body(|_| Body::default())
}

/// Probed every second, with a variation that is the same each time.
fn health() -> Health<HttpProbe<Body>> {
    Health::new().probe(probe()).seed(7)
}

fn start<P: Probe<Node>>(backends: &Backends<Node>, health: Health<P>) -> StickyLayer<Node> {
    let layer = plain(backends).health(health);
    assert!(layer.start::<Request<Body>>());
    layer
}

fn state(backends: &Backends<Node>, id: &str) -> State {
    backends.get(id).unwrap().state
}

#[tokio::test(start_paused = true)]
async fn failures_in_a_row_take_a_backend_out_and_successes_bring_it_back() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let _layer = start(&backends, health());
    after(5_000).await;
    assert_eq!(health_changes(&mut events).await, [], "both are well");
    a.told.breaks.store(true, SeqCst);
    after(3_000).await;
    let down = ("a".to_owned(), State::Down, Cause::Probe);
    assert_eq!(health_changes(&mut events).await, [down], "three failures");
    assert_eq!(backends.get("a").unwrap().probe_failure.as_deref(), Some("garbage"));
    assert_eq!(backends.get("b").unwrap().probe_failure, None);
    a.told.breaks.store(false, SeqCst);
    after(3_000).await;
    let up = ("a".to_owned(), State::Ready, Cause::Probe);
    assert_eq!(health_changes(&mut events).await, [up], "two successes");
    assert_eq!(backends.get("a").unwrap().probe_failure, None, "forgotten");
}

#[tokio::test(start_paused = true)]
async fn rise_and_fall_say_how_many() {
    let (backends, [a]) = nodes(["a"]);
    let _layer = start(&backends, health().fall(5).rise(4));
    after(5_000).await;
    a.told.breaks.store(true, SeqCst);
    let failing = Instant::now();
    until(&backends, "a", State::Down).await;
    let took = failing.elapsed();
    assert!(took > Duration::from_millis(900), "four more in doubt, of 225 ms and more: {took:?}");
    a.told.breaks.store(false, SeqCst);
    let before = a.served();
    until(&backends, "a", State::Ready).await;
    assert_eq!(a.served() - before, 4);
}

/// When each probe was made, in milliseconds.
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
async fn intervals_vary_and_are_shorter_while_in_doubt() {
    let times_of = times(1, 10_000, 16_000).await;
    let gaps: Vec<_> = times_of.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(times_of[0] < 250, "the first one soon: {times_of:?}");
    assert!((225..=275).contains(&gaps[0]), "no verdict yet: {gaps:?}");
    let failing = times_of.iter().position(|&at| at >= 10_000).unwrap();
    for gap in &gaps[1..failing] {
        assert!((900..=1101).contains(gap), "a second, and a tenth more or less: {gaps:?}");
    }
    for gap in &gaps[failing..failing + 2] {
        assert!((225..=276).contains(gap), "the verdict is in doubt: {gaps:?}");
    }
    for gap in &gaps[failing + 2..] {
        assert!((900..=1101).contains(gap), "it is down, no doubt: {gaps:?}");
    }
    assert_ne!(gaps[2], gaps[3], "they vary");
    assert_eq!(times_of, times(1, 10_000, 16_000).await, "the same seed, the same times");
    assert_ne!(times_of, times(2, 10_000, 16_000).await);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_fails_and_delays_no_other() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    a.told.gate.forget_permits(UNGATED);
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
    assert_eq!(a.told.headers.lock().unwrap().len(), 4, "one at a time");
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failed_probe_and_nothing_worse() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let panicking = |node: Node, backend: BackendId| async move {
        assert!(backend != *"a", "a mistake in the probe");
        drop(node);
        Ok::<_, Infallible>(())
    };
    let _layer = start(&backends, Health::new().probe(panicking));
    after(3_000).await;
    assert_eq!(state(&backends, "a"), State::Down);
    assert_eq!(backends.get("a").unwrap().probe_failure.unwrap(), "the probe panicked");
    assert_eq!(state(&backends, "b"), State::Ready);
    b.told.set_busy(true);
    after(2_000).await;
    assert_eq!(state(&backends, "b"), State::Busy, "the readiness poll goes on");
}

#[tokio::test(start_paused = true)]
async fn every_task_ends_with_the_pool() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
    a.told.gate.forget_permits(UNGATED);
    let layer = start(&backends, health().probe_timeout(Duration::from_secs(1000)));
    b.told.set_busy(true);
    after(5_000).await;
    assert_eq!(tasks(), before + 4, "the driver, and one per backend");
    backends.remove("c").unwrap();
    after(1).await;
    assert_eq!(tasks(), before + 3, "that of the departed ends at once");
    drop((backends, layer));
    after(1).await;
    assert_eq!(tasks(), before, "a hanging probe, and one that waits for its service, end too");
    for node in [a, b, c] {
        assert_eq!(node.told.alive.load(SeqCst), 1, "the test's own");
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_probe_there_is_one_task() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (backends, _nodes) = nodes(["a", "b"]);
    let _layer = start(&backends, Health::new());
    after(2_000).await;
    assert_eq!(tasks(), before + 1);
}

#[tokio::test(start_paused = true)]
async fn a_saturated_service_gives_no_result() {
    let (backends, [a]) = nodes(["a"]);
    let _layer = start(&backends, health());
    after(3_000).await;
    a.told.set_busy(true);
    after(20_000).await;
    assert_eq!(state(&backends, "a"), State::Busy, "busy is not dead");
    assert_eq!(backends.get("a").unwrap().probe_failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_cannot_become_ready_fails() {
    let (backends, [a]) = nodes(["a"]);
    let slow_poll = health().readiness_interval(Duration::from_secs(1000));
    let mut events = backends.events();
    let _layer = start(&backends, slow_poll);
    after(3_000).await;
    a.told.failed.store(true, SeqCst);
    after(3_000).await;
    let down = ("a".to_owned(), State::Down, Cause::Probe);
    assert_eq!(health_changes(&mut events).await, [down]);
    let failure = backends.get("a").unwrap().probe_failure.unwrap();
    assert_eq!(failure, "its service failed to become ready");
}

#[tokio::test(start_paused = true)]
async fn a_probe_is_not_a_request() {
    let (backends, [a]) = nodes(["a"]);
    backends.set_limit("a", 1).unwrap();
    a.told.gate.forget_permits(UNGATED);
    let layer = start(&backends, health().probe_timeout(Duration::from_secs(1000)));
    after(1_000).await;
    assert_eq!(a.told.headers.lock().unwrap().len(), 1, "a probe hangs in the backend");
    assert_eq!(a.told.alive.load(SeqCst), 2, "no clone is kept: the test's and the pool's");
    let status = backends.get("a").unwrap();
    assert_eq!((status.requests, status.in_flight, status.waiting), (0, 0, 0));
    let service = layer.into_service();
    let request = tokio::spawn(async move { send(&service, get()).await.body });
    after(1).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "the probe holds no slot");
    a.told.gate.add_permits(UNGATED);
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
    a.told.status.store(500, SeqCst);
    let mut client = Client { token: Some("a".to_owned()) };
    client.send(&service, get()).await;
    a.told.status.store(200, SeqCst);
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
    a.told.status.store(500, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    let failed = a.told.polled.load(SeqCst);
    // A second, and then two, for which nothing but a failed trial can be the reason.
    after(1_600).await;
    a.told.status.store(200, SeqCst);
    after(900).await;
    assert_eq!(state(&backends, "a"), State::Suspect, "ejected again");
    after(1_500).await;
    assert_eq!(state(&backends, "a"), State::Ready);
    let changes = health_changes(&mut events).await;
    assert_eq!(changes.len(), 2, "suspect, and well again: {changes:?}");
    assert!(a.told.polled.load(SeqCst) > failed);
}

#[tokio::test(start_paused = true)]
async fn probes_that_rise_end_an_ejection() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let long = health().ejection(Duration::from_secs(1000)).consecutive_failures(1);
    let service = start(&backends, long).into_service();
    after(3_000).await;
    a.told.status.store(500, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    after(5_000).await;
    assert_eq!(state(&backends, "a"), State::Down, "ejected, and the probes have it down");
    a.told.status.store(200, SeqCst);
    after(2_500).await;
    assert_eq!(state(&backends, "a"), State::Ready, "long before the ejection's 100 s are over");
    let causes: Vec<_> = health_changes(&mut events).await.into_iter().map(|e| e.2).collect();
    assert_eq!(causes, [Cause::Failures, Cause::Probe, Cause::Probe]);
}

#[tokio::test(start_paused = true)]
async fn disabled_backends_are_not_probed_and_draining_ones_are() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let _layer = start(&backends, health());
    backends.set_mode("a", Mode::Disabled).unwrap();
    backends.set_mode("b", Mode::Draining).unwrap();
    after(5_000).await;
    assert_eq!(a.served(), 0);
    assert!(b.served() >= 4);
    backends.set_mode("a", Mode::Active).unwrap();
    after(2_000).await;
    assert!(a.served() >= 1, "again");
}

#[tokio::test(start_paused = true)]
async fn the_local_node_is_not_probed() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let layer = plain(&backends).local("a").health(health());
    assert!(layer.start::<Request<Body>>());
    after(3_000).await;
    assert_eq!(a.served(), 0);
    assert!(b.served() > 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_service_is_judged_by_its_own_probes() {
    let (backends, [a]) = nodes(["a"]);
    let mut events = backends.events();
    let _layer = start(&backends, health().probe_timeout(Duration::from_secs(10)).fall(1));
    after(2_000).await;
    a.told.gate.forget_permits(UNGATED);
    after(2_000).await;
    let anew = Node::new("a anew");
    drop(backends.replace("a", anew.clone()).unwrap());
    after(1).await;
    assert_eq!(a.told.alive.load(SeqCst), 1, "the hanging probe of the old one is given up");
    after(11_000).await;
    assert_eq!(health_changes(&mut events).await, [], "what the old one does is no matter");
    assert!(anew.served() > 5, "the new one is probed, {} times", anew.served());
    anew.told.breaks.store(true, SeqCst);
    after(1_200).await;
    assert_eq!(state(&backends, "a"), State::Down);
    backends.replace("a", Node::new("a once more")).unwrap();
    let changes = health_changes(&mut events).await;
    let a_is = |state, cause| ("a".to_owned(), state, cause);
    assert_eq!(changes, [a_is(State::Down, Cause::Probe), a_is(State::Ready, Cause::Replaced)]);
    assert_eq!(backends.get("a").unwrap().probe_failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_comes_at_the_moment_of_the_change_is_not_the_new_services() {
    let (backends, _nodes) = nodes(["a"]);
    let mut events = backends.events();
    let pool = backends.clone();
    let replacing = move |node: Node, id: BackendId| {
        let pool = pool.clone();
        async move {
            if node.name == "anew" {
                return Ok(());
            }
            // There before anybody can give this probe up.
            pool.replace(id.as_str(), Node::new("anew")).map_err(|_| "it is not the local node")?;
            Err("the old one is dead")
        }
    };
    let _layer = start(&backends, Health::new().probe(replacing).fall(1));
    after(1_000).await;
    assert_eq!(health_changes(&mut events).await, []);
    assert_eq!(backends.get("a").unwrap().probe_failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_joins_is_probed_from_then_on() {
    let (backends, _nodes) = nodes(["a"]);
    let _layer = start(&backends, health().readiness_interval(Duration::from_secs(1000)));
    after(3_000).await;
    let dead = Node::new("dead");
    dead.told.refuses.store(true, SeqCst);
    backends.insert("dead", dead).unwrap();
    after(1_000).await;
    assert_eq!(state(&backends, "dead"), State::Down, "found before a session came to it");
}

/// A probe with a state of its own.
struct Lazy {
    connected: Arc<AtomicBool>,
    asked: AtomicUsize,
}

impl Probe<Node> for Lazy {
    async fn probe(&self, service: Node, backend: &BackendId) -> Result<(), BoxError> {
        assert_eq!(*backend, *service.name);
        self.connected.store(true, SeqCst);
        self.asked.fetch_add(1, Relaxed);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_can_be_of_any_type() {
    let (backends, _nodes) = nodes(["a"]);
    let connected = Arc::new(AtomicBool::new(false));
    let probe = Lazy { connected: connected.clone(), asked: 0.into() };
    let _layer = start(&backends, Health::new().probe(probe).probe_interval(Duration::ZERO));
    after(10).await;
    assert!(connected.load(SeqCst), "lazy connections come about");
}

#[tokio::test(start_paused = true)]
async fn the_request_is_what_was_asked_for() {
    let (backends, [a]) = nodes(["a"]);
    let probe =
        HttpProbe::head("/up?deep=1").host("shop").header("x-key", "1").header("x-key", "2");
    let layer = start(&backends, Health::new().probe(probe.map_body(|_| Body::default())));
    after(500).await;
    let headers = a.told.headers.lock().unwrap()[0].clone();
    assert_eq!(headers["host"], "shop");
    assert_eq!(headers.get_all("x-key").iter().collect::<Vec<_>>(), ["2"]);
    assert!(headers["user-agent"].to_str().unwrap().starts_with("tower-sticky/"));
    drop(layer);
}

#[tokio::test(start_paused = true)]
async fn status_and_body_decide() {
    for (status, probe, well) in [
        (200, HttpProbe::get("/"), true),
        (302, HttpProbe::get("/"), true),
        (404, HttpProbe::get("/"), false),
        (503, HttpProbe::get("/"), false),
        (404, HttpProbe::get("/").expect_status(404), true),
        (200, HttpProbe::get("/").expect_status(204), false),
        (302, HttpProbe::get("/").expect_statuses(200..=299), false),
        (200, HttpProbe::get("/").expect_body("a"), true),
        (200, HttpProbe::get("/").expect_body("ok"), false),
    ] {
        let (backends, [a]) = nodes(["a"]);
        a.told.status.store(status, SeqCst);
        let said = format!("{status} to {probe:?}");
        let _layer = start(&backends, Health::new().probe(probe.map_body(|_| Body::default())));
        after(2_000).await;
        assert_eq!(state(&backends, "a") == State::Ready, well, "{said}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_axum_router_can_be_a_backend() {
    use axum::{Router, routing};
    let ok = Router::new().route("/healthz", routing::get(async || "ok"));
    let backends = Backends::from_iter([("a", ok), ("b", Router::new())]);
    let probe = HttpProbe::get("/healthz").map_body(axum::body::Body::new);
    let layer =
        StickyLayer::new(backends.clone(), Cookie::plain("sid")).health(Health::new().probe(probe));
    assert!(layer.start::<axum::extract::Request>());
    after(2_000).await;
    let states: Vec<_> = backends.iter().map(|backend| backend.state).collect();
    assert_eq!(states, [State::Ready, State::Down], "b has no such path");
    assert_eq!(
        backends.get("b").unwrap().probe_failure.unwrap(),
        "it answered 404 Not Found, not 200 to 399"
    );
}

#[test]
fn what_cannot_work_is_said_when_the_layer_is_built() {
    let error = |probe: HttpProbe| {
        let (backends, _nodes) = nodes(["a"]);
        let health = Health::new().probe(probe.map_body(|_| Body::default()));
        plain(&backends).try_health(health).unwrap_err().to_string()
    };
    for path in ["", "healthz", "http://a/healthz", "/a b", "/a#b"] {
        let said = error(HttpProbe::get(path));
        assert!(said.contains(&format!("{path:?}")) && said.contains("begin with '/'"), "{said}");
    }
    assert!(error(HttpProbe::get("/").header("a b", "1")).contains("\"a b\""));
    assert!(error(HttpProbe::get("/").header("x-key", "1\r\n2")).contains("x-key"));
    assert!(error(HttpProbe::get("/").host("a\nb")).contains("host"));
    assert!(error(HttpProbe::get("/").expect_status(42)).contains("200 to 599"));
    assert!(error(HttpProbe::head("/").expect_body("x")).contains("HttpProbe::get"));
    let first = HttpProbe::get("/").expect_status(42).header("a b", "1");
    assert!(error(first).contains("200 to 599"), "the first mistake is the one that is told");
}

#[tokio::test(start_paused = true)]
async fn times_without_a_sensible_end_do_no_harm() {
    let (backends, [a]) = nodes(["a"]);
    let ever = Duration::MAX;
    let health = health().probe_interval(ever).probe_timeout(ever).readiness_interval(ever);
    let rate = tower_sticky::SuccessRate::new().interval(ever);
    let health = health.ejection(ever).slow_start(ever).success_rate(rate).redial(ever, ever);
    let service = start(&backends, health.consecutive_failures(1)).into_service();
    backends.insert("b", Node::new("b")).unwrap();
    a.told.status.store(500, SeqCst);
    assert_eq!(send(&service, with_cookie("sid=a")).await.status, 500);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b");
    // In one leap, and not second by second, as the pool looks after itself.
    tokio::time::advance(Duration::from_millis(3_000_000_000)).await;
    after(2000).await;
    assert_eq!(state(&backends, "a"), State::Suspect, "a tenth of a year is longer");
    a.told.status.store(200, SeqCst);
    tokio::time::advance(Duration::from_millis(400_000_000)).await;
    after(2000).await;
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "a");
}

#[test]
#[should_panic(expected = "begin with '/'")]
fn the_short_way_panics_with_the_same_words() {
    let (backends, _nodes) = nodes(["a"]);
    let probe = HttpProbe::get("nowhere").map_body(|_| Body::default());
    let _ = plain(&backends).health(Health::new().probe(probe));
}

#[test]
fn debug_output_shows_no_header() {
    let shown = format!("{:?}", HttpProbe::get("/up").header("authorization", "secret"));
    assert!(shown.contains("/up") && !shown.contains("secret"), "{shown}");
    let shown = format!("{:?}", GrpcProbe::new().service("shop.Cart"));
    assert!(shown.contains("shop.Cart"), "{shown}");
    let health = Health::new().probe(|_: Node, _: BackendId| async { Ok::<_, Infallible>(()) });
    assert!(format!("{health:?}").contains("rise"));
}
