//! Slow start: a new or returning backend takes a growing share of new sessions.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use http::Request;
use tower_sticky::{
    Backends, Health, HttpProbe, Mode, State, StickyLayer, Verdict, affinity,
    strategy::{Candidates, LeastConnections, P2c, PeakEwma, Random, RoundRobin, Strategy},
};

use crate::support::{Body, Client, Node, after, get, nodes, plain, send, until, with_cookie};

const WHOLE: Duration = Duration::from_secs(20);

fn layer(backends: &Backends<Node>) -> StickyLayer<Node> {
    plain(backends).health(Health::new().slow_start(WHOLE))
}

/// Starts the background task, and lets it run.
async fn start(layer: &StickyLayer<Node>) {
    assert!(layer.start::<Request<Body>>());
    after(1).await;
}

/// How many of 1,000 new sessions each backend receives.
async fn shares<const N: usize>(layer: &StickyLayer<Node>, ids: [&str; N]) -> [usize; N] {
    let service = layer.clone().into_service();
    let mut shares = [0; N];
    for _ in 0..1_000 {
        let body = send(&service, get()).await.body;
        shares[ids.iter().position(|id| *id == body).unwrap()] += 1;
    }
    shares
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_joins_takes_a_growing_share() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let layer = layer(&backends);
    start(&layer).await;
    assert_eq!(shares(&layer, ["a", "b"]).await, [500, 500], "those of the start begin at once");
    backends.insert("c", Node::new("c")).unwrap();
    let mut taken = Vec::new();
    for _ in 0..5 {
        taken.push(shares(&layer, ["a", "b", "c"]).await[2]);
        after(5_000).await;
    }
    // x of 256 + 256 + x, for x = 26, 83, 141, 198, 256.
    let expected = [48, 140, 216, 279, 333];
    for (taken, expected) in taken.iter().zip(expected) {
        assert!(taken.abs_diff(expected) <= 12, "about {expected} of 1,000: {taken}");
    }
    assert_eq!(taken.len(), 5);
}

#[tokio::test(start_paused = true)]
async fn by_default_a_backend_takes_its_whole_share_at_once() {
    let (backends, _nodes) = nodes(["a", "b"]);
    let layer = plain(&backends);
    start(&layer).await;
    backends.insert("c", Node::new("c")).unwrap();
    let shares = shares(&layer, ["a", "b", "c"]).await;
    assert!(shares.iter().all(|share| share.abs_diff(333) <= 1), "{shares:?}");
}

#[tokio::test(start_paused = true)]
async fn before_the_driver_runs_there_is_no_slow_start() {
    let (backends, _nodes) = nodes(["a"]);
    let layer = layer(&backends);
    backends.insert("b", Node::new("b")).unwrap();
    start(&layer).await;
    assert_eq!(shares(&layer, ["a", "b"]).await, [500, 500]);
}

#[tokio::test(start_paused = true)]
async fn a_returning_backend_starts_slowly() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let probe = HttpProbe::get("/").map_body(|_| Body::default());
    let health = Health::new().slow_start(WHOLE).probe(probe).seed(1);
    let layer = plain(&backends).health(health);
    assert!(layer.start::<Request<Body>>());
    after(2_000).await;
    let about_a_tenth = async |why: &str| {
        let [a, b] = shares(&layer, ["a", "b"]).await;
        assert!((80..150).contains(&a) && a + b == 1_000, "{why}: {a} of 1,000");
    };
    let wait_for = async |state| until(&backends, "a", state).await;
    let fail_until_down = async |fails: &AtomicBool| {
        fails.store(true, SeqCst);
        wait_for(State::Down).await;
        fails.store(false, SeqCst);
        wait_for(State::Ready).await;
    };

    fail_until_down(&a.control.call_fails).await;
    about_a_tenth("from the probes' verdict").await;

    after(20_100).await;
    assert_eq!(shares(&layer, ["a", "b"]).await, [500, 500]);
    a.control.refuses.store(true, SeqCst);
    send(&layer.clone().into_service(), with_cookie("sid=a")).await;
    wait_for(State::Down).await;
    a.control.refuses.store(false, SeqCst);
    wait_for(State::Ready).await;
    about_a_tenth("from an ejection").await;

    after(20_100).await;
    fail_until_down(&a.control.readiness_fails).await;
    about_a_tenth("from failed readiness").await;

    after(20_100).await;
    backends.set_mode("a", Mode::Disabled).unwrap();
    backends.set_mode("a", Mode::Active).unwrap();
    about_a_tenth("from being disabled").await;

    after(20_100).await;
    backends.drain("a").deadline(Duration::ZERO).await.unwrap();
    backends.set_mode("a", Mode::Active).unwrap();
    about_a_tenth("from a drain that was over").await;

    after(20_100).await;
    backends.set_mode("a", Mode::Draining).unwrap();
    backends.set_mode("a", Mode::Active).unwrap();
    assert_eq!(
        shares(&layer, ["a", "b"]).await,
        [500, 500],
        "one that was still being drained was there all along"
    );
    a.control.set_busy(true);
    wait_for(State::Busy).await;
    a.control.set_busy(false);
    wait_for(State::Ready).await;
    assert_eq!(shares(&layer, ["a", "b"]).await, [500, 500], "and so was a busy one");
}

#[tokio::test(start_paused = true)]
async fn pins_and_hashes_are_not_affected() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let pinned = layer(&backends).into_service();
    let hashed = StickyLayer::new(backends.clone(), affinity::Key::header("x-user"))
        .health(Health::new().slow_start(WHOLE))
        .into_service();
    let user = |user: usize| {
        let mut request = get();
        request.headers_mut().insert("x-user", user.to_string().parse().unwrap());
        request
    };
    let mut before = Vec::new();
    for key in 0..200 {
        before.push(send(&hashed, user(key)).await.body);
    }
    let mut client = Client { token: Some("a".to_owned()) };
    client.send(&pinned, get()).await;
    backends.set_mode("a", Mode::Disabled).unwrap();
    backends.set_mode("a", Mode::Active).unwrap();
    for _ in 0..20 {
        assert_eq!(
            client.send(&pinned, get()).await.decision(),
            (Verdict::Pinned, Some("a"), None)
        );
    }
    for (key, expected) in before.iter().enumerate() {
        assert_eq!(send(&hashed, user(key)).await.body, *expected, "all gateways agree");
    }
    assert!(a.served() > 50);
}

/// Records the weight and the share that it sees.
#[derive(Debug)]
struct Shown(std::sync::Mutex<Vec<(u32, u64)>>);

impl Strategy for Shown {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let shown = candidates.iter().map(|candidate| (candidate.weight(), candidate.share()));
        *self.0.lock().unwrap() = shown.collect();
        0
    }
}

#[tokio::test(start_paused = true)]
async fn a_custom_strategy_sees_weight_and_share() {
    let (backends, _nodes) = nodes(["a"]);
    let shown = std::sync::Arc::new(Shown(Default::default()));
    let service = layer(&backends).strategy(shown.clone()).into_service();
    send(&service, get()).await;
    after(1).await;
    let options = tower_sticky::BackendOptions::new().weight(3);
    backends.insert_with("b", Node::new("b"), options).unwrap();
    send(&service, get()).await;
    assert_eq!(*shown.0.lock().unwrap(), [(1, 256), (3, 3 * 26)]);
    after(21_000).await;
    send(&service, get()).await;
    assert_eq!(*shown.0.lock().unwrap(), [(1, 256), (3, 3 * 256)]);
}

#[tokio::test(start_paused = true)]
async fn every_strategy_applies_slow_start() {
    let strategies: [std::sync::Arc<dyn Strategy>; 5] = [
        std::sync::Arc::new(RoundRobin::new()),
        std::sync::Arc::new(Random::seeded(1)),
        std::sync::Arc::new(LeastConnections::new()),
        std::sync::Arc::new(P2c::seeded(1)),
        std::sync::Arc::new(PeakEwma::new().seeded(1)),
    ];
    for strategy in strategies {
        let name = format!("{strategy:?}");
        let (backends, _nodes) = nodes(["a", "b", "c"]);
        let layer = layer(&backends).strategy(strategy);
        start(&layer).await;
        backends.insert("new", Node::new("new")).unwrap();
        let taken = shares(&layer, ["a", "b", "c", "new"]).await;
        assert!(taken[3] > 15, "it has something from the start: {taken:?}, {name}");
        assert!(taken[3] < 60, "the new one has a tenth of the others' share: {taken:?}, {name}");
        after(10_000).await;
        let taken = shares(&layer, ["a", "b", "c", "new"]).await;
        assert!((100..210).contains(&taken[3]), "half-way, 141 of 909: {taken:?}, {name}");
        after(11_000).await;
        let taken = shares(&layer, ["a", "b", "c", "new"]).await;
        assert!(taken[3] > 150, "and then as much as they have: {taken:?}, {name}");
    }
}
