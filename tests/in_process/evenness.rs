//! How new sessions are spread: by weight at equal load, also while a backend is busy or suspect.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use tower_sticky::{State, StickyLayer, StickyService, affinity::Cookie};

use crate::support::{Client, Node, get, nodes, plain, send, spawn};

const MS: Duration = Duration::from_millis(1);

/// How many of `of` new sessions each backend receives.
async fn spread<const N: usize>(service: &StickyService<Node>, of: usize) -> [usize; N] {
    let names = ["a", "b", "c", "d"];
    let mut got = [0; N];
    for _ in 0..of {
        let body = send(service, get()).await.body;
        got[names.iter().position(|name| *name == body).unwrap()] += 1;
    }
    got
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_busy_backend_is_spread_over_the_others() {
    let (backends, [_a, _b, c, _d]) = nodes(["a", "b", "c", "d"]);
    let service = plain(&backends).into_service();
    assert_eq!(spread(&service, 12).await, [3, 3, 3, 3]);
    c.control.set_busy(true);
    assert_eq!(spread(&service, 12).await, [4, 4, 0, 4], "each request finds out");
    tokio::time::sleep(2000 * MS).await;
    assert_eq!(backends.get("c").unwrap().state, State::Busy);
    assert_eq!(spread(&service, 12).await, [4, 4, 0, 4], "it is known");
    c.control.set_busy(false);
    tokio::time::sleep(2000 * MS).await;
    assert_eq!(spread(&service, 12).await, [3, 3, 3, 3], "it makes up for nothing");
    backends.set_limit("c", 1).unwrap();
    c.hold_responses();
    let held = tokio::spawn({
        let (service, mut client) = (service.clone(), Client { token: Some("c".to_owned()) });
        async move { client.send(&service, get()).await.body }
    });
    tokio::task::yield_now().await;
    assert_eq!(spread(&service, 12).await, [4, 4, 0, 4], "at its limit");
    c.release_responses();
    assert_eq!(held.await.unwrap(), "c");
}

#[tokio::test(start_paused = true)]
async fn pinned_requests_do_not_advance_round_robin() {
    let (backends, _nodes) = nodes(["a", "b", "c"]);
    let service = plain(&backends).into_service();
    let mut pinned = Client { token: Some("b".to_owned()) };
    let mut turns = Vec::new();
    for _ in 0..6 {
        pinned.send(&service, get()).await;
        turns.push(send(&service, get()).await.body);
    }
    assert_eq!(turns, ["a", "b", "c", "a", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn the_share_of_a_suspect_is_spread_over_the_others() {
    let (backends, [_a, _b, c, _d]) = nodes(["a", "b", "c", "d"]);
    let service = plain(&backends).into_service();
    c.control.refuses.store(true, SeqCst);
    let got: [usize; 4] = spread(&service, 120).await;
    assert_eq!(got[2], 0);
    assert!([0, 1, 3].iter().all(|one| got[*one].abs_diff(40) <= 1), "{got:?}");
}

#[tokio::test(start_paused = true)]
async fn an_idle_pool_is_used_by_weight_by_default() {
    let (backends, [_a, _b, c]) = nodes(["a", "b", "c"]);
    backends.set_weight("a", 2).unwrap();
    let service = StickyLayer::new(backends.clone(), Cookie::plain("sid")).into_service();
    assert_eq!(spread(&service, 400).await, [200, 100, 100]);
    c.control.set_busy(true);
    let got: [usize; 3] = spread(&service, 300).await;
    assert!(got[0].abs_diff(200) <= 1 && got[1].abs_diff(100) <= 1, "{got:?}");
}

/// Chooses a position that no list has.
#[derive(Debug)]
struct Beyond;

impl tower_sticky::strategy::Strategy for Beyond {
    fn choose(&self, _: &tower_sticky::strategy::Candidates<'_>) -> usize {
        usize::MAX
    }
}

#[tokio::test(start_paused = true)]
async fn a_position_beyond_the_candidates_means_the_last_one() {
    let (backends, [_a, _b, c]) = nodes(["a", "b", "c"]);
    let service = plain(&backends).strategy(Beyond).into_service();
    assert_eq!(send(&service, get()).await.body, "c");
    backends.set_limit("c", 1).unwrap();
    c.hold_responses();
    let held = spawn(&service, get());
    tokio::time::sleep(MS).await;
    assert_eq!(send(&service, get()).await.body, "b", "c is at its limit");
    c.release_responses();
    assert_eq!(held.await.unwrap().body, "c");
}

/// Records the latencies that it is told.
#[derive(Debug, Default)]
struct Timed(std::sync::Mutex<Vec<(String, Duration)>>);

impl tower_sticky::strategy::Strategy for Timed {
    fn choose(&self, _: &tower_sticky::strategy::Candidates<'_>) -> usize {
        0
    }

    fn wants_latency(&self) -> bool {
        true
    }

    fn answered(&self, backend: tower_sticky::strategy::Candidate<'_>, latency: Duration) {
        self.0.lock().unwrap().push((backend.id().to_string(), latency));
    }
}

#[tokio::test(start_paused = true)]
async fn a_strategy_learns_how_long_every_answer_took() {
    let (backends, [_a, b]) = nodes(["a", "b"]);
    let timed = std::sync::Arc::new(Timed::default());
    let service = plain(&backends).strategy(timed.clone()).into_service();
    send(&service, get()).await;
    b.hold_responses();
    let pinned = Client { token: Some("b".to_owned()) }.spawn(&service, get());
    tokio::time::sleep(70 * MS).await;
    b.release_responses();
    pinned.await.unwrap();
    let told = timed.0.lock().unwrap().clone();
    assert_eq!(told, [("a".to_owned(), Duration::ZERO), ("b".to_owned(), 70 * MS)]);
}
