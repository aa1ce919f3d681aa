//! Rebalancing: idle sessions move to backends with fewer sessions.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use tower_sticky::{
    Backends, BoxError, Move, Reason, Rebalance, StickyLayer, StickyService, Verdict,
    affinity::{Cookie, Header, Key},
    strategy::RoundRobin,
};

use crate::support::{Client, Clock, Node, get, keys, nodes};

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

fn layer(backends: &Backends<Node>, clock: &Clock) -> StickyLayer<Node> {
    StickyLayer::new(backends.clone(), Cookie::sealed("sid", keys()).idle_timeout(60 * MINUTE))
        .strategy(RoundRobin::new())
        .clock(clock.clone())
        .outcome_extensions(true)
}

fn at_once() -> Rebalance {
    Rebalance::new().idle_for(5 * MINUTE).max_per_second(1000)
}

/// A pool of nodes, and a service that moves idle sessions at once.
fn rebalancing<const N: usize>(
    names: [&'static str; N],
) -> (Backends<Node>, Clock, StickyService<Node>) {
    let (backends, _nodes) = nodes(names);
    let clock = Clock::new();
    let service = layer(&backends, &clock).rebalance(at_once()).unwrap().into_service();
    (backends, clock, service)
}

/// Advances both clocks.
async fn after(clock: &Clock, duration: Duration) {
    clock.advance(duration.as_secs() as i64);
    tokio::time::sleep(duration).await;
}

macro_rules! visit {
    ($clients:expr, $service:expr) => {{
        let mut moved = 0;
        for client in &mut $clients {
            tokio::time::sleep(Duration::from_millis(1)).await;
            let answer = client.send(&$service, get()).await;
            assert_eq!(answer.status, 200);
            let (verdict, _, reason) = answer.decision();
            match verdict {
                Verdict::Moved => assert_eq!(reason, Some(Reason::Rebalanced)),
                // A session is counted once its token has returned.
                Verdict::Assigned => {
                    assert_eq!(reason, None);
                    assert_eq!(client.send(&$service, get()).await.decision().0, Verdict::Pinned);
                }
                verdict => assert_eq!((verdict, reason), (Verdict::Pinned, None)),
            }
            moved += usize::from(verdict == Verdict::Moved);
        }
        moved
    }};
}

/// The clients of `count` sessions on `a`, which `b` joins.
async fn sessions_before_b(
    backends: &Backends<Node>,
    service: &StickyService<Node>,
    count: usize,
) -> Vec<Client> {
    let mut clients = vec![Client::default(); count];
    visit!(clients, *service);
    backends.insert("b", Node::new("b")).unwrap();
    clients
}

fn sessions(backends: &Backends<Node>) -> Vec<u64> {
    backends.iter().map(|backend| backend.sessions_seen).collect()
}

#[tokio::test(start_paused = true)]
async fn after_scale_out_idle_sessions_move_until_balanced() {
    let (backends, clock, service) = rebalancing(["a", "b"]);
    let mut clients = vec![Client::default(); 120];
    assert_eq!(visit!(clients, service), 0);
    backends.insert("c", Node::new("c")).unwrap();
    after(&clock, 3 * SECOND).await;
    assert_eq!(visit!(clients, service), 0, "they are at work");
    after(&clock, 8 * MINUTE).await;
    let moved = visit!(clients, service);
    let spread = sessions(&backends);
    // The average is 40; the two old backends may keep 50, and counts are exact to some percent.
    assert!((14..=46).contains(&moved), "{moved} of 120 moved, to {spread:?}");
    assert!(spread[2] >= 14 && spread[2] <= 44, "the new one is not above the average: {spread:?}");
    for _ in 0..5 {
        after(&clock, 8 * MINUTE).await;
        let again = visit!(clients, service);
        assert!(again <= 10, "it is even enough, and {again} more moved");
    }
    let stats = backends.snapshot().stats;
    assert_eq!(stats.violations(), 0);
    assert_eq!(stats.outcome(Verdict::Moved), stats.moves());
}

#[tokio::test(start_paused = true)]
async fn active_sessions_are_not_rebalanced() {
    let (backends, clock, service) = rebalancing(["a"]);
    let mut clients = sessions_before_b(&backends, &service, 30).await;
    for _ in 0..20 {
        after(&clock, 2 * MINUTE).await;
        assert_eq!(visit!(clients, service), 0);
    }
    assert_eq!(sessions(&backends)[1], 0);
}

/// How many sessions move when the backends have this many idle ones.
async fn moves(spread: [usize; 3]) -> usize {
    let (backends, clock, service) = rebalancing(["a", "b", "c"]);
    let mut clients = Vec::new();
    for (id, count) in ["a", "b", "c"].into_iter().zip(spread) {
        for other in ["a", "b", "c"] {
            backends.set_weight(other, u32::from(other == id)).unwrap();
        }
        let mut here = vec![Client::default(); count];
        visit!(here, service);
        clients.extend(here);
    }
    for id in ["a", "b", "c"] {
        backends.set_weight(id, 1).unwrap();
    }
    after(&clock, 10 * MINUTE).await;
    visit!(clients, service)
}

#[tokio::test(start_paused = true)]
async fn imbalance_within_the_tolerance_moves_no_session() {
    assert_eq!(moves([10, 8, 8]).await, 0, "10 is less than 1.25 times the average");
    assert_eq!(moves([5, 3, 3]).await, 0, "one more of 3 would be above the average");
    assert_eq!(moves([6, 3, 3]).await, 1, "one of 6 moves");
}

#[tokio::test(start_paused = true)]
async fn a_session_seen_since_its_token_was_sealed_is_not_idle() {
    let (backends, clock, service) = rebalancing(["a"]);
    let mut clients = sessions_before_b(&backends, &service, 10).await;
    after(&clock, Duration::from_secs(99)).await;
    visit!(clients, service);
    after(&clock, Duration::from_secs(211)).await;
    assert_eq!(visit!(clients, service), 0, "the token is 310 s old, and the last visit 211 s ago");
}

#[tokio::test(start_paused = true)]
async fn no_session_is_rebalanced_by_default() {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let service = layer(&backends, &clock).into_service();
    let mut clients = sessions_before_b(&backends, &service, 30).await;
    after(&clock, 20 * MINUTE).await;
    assert_eq!(visit!(clients, service), 0);
}

#[tokio::test(start_paused = true)]
async fn rebalancing_is_limited_per_second() {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let rebalance = at_once().max_per_second(2);
    let service = layer(&backends, &clock).rebalance(rebalance).unwrap().into_service();
    let mut clients = sessions_before_b(&backends, &service, 40).await;
    after(&clock, 10 * MINUTE).await;
    assert_eq!(visit!(clients[..10], service), 1, "all at about the same time");
    tokio::time::sleep(SECOND / 2).await;
    assert_eq!(visit!(clients[10..20], service), 1);
    tokio::time::sleep(SECOND / 4).await;
    assert_eq!(visit!(clients[20..30], service), 0, "not yet");
    tokio::time::sleep(SECOND / 4).await;
    assert_eq!(visit!(clients[30..], service), 1);
}

#[tokio::test(start_paused = true)]
async fn rebalancing_runs_the_handoff_hook() {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let moves: Arc<Mutex<Vec<Move>>> = Arc::default();
    let layer = layer(&backends, &clock).before_move(SECOND, {
        let moves = moves.clone();
        move |session| {
            moves.lock().unwrap().push(session);
            async {
                tokio::time::sleep(SECOND / 10).await;
                Ok::<(), BoxError>(())
            }
        }
    });
    let service = layer.rebalance(at_once()).unwrap().into_service();
    let mut clients = sessions_before_b(&backends, &service, 10).await;
    after(&clock, 10 * MINUTE).await;
    let moved = visit!(clients, service);
    let moves = moves.lock().unwrap().clone();
    assert!(moved > 0);
    assert_eq!(moves.len(), moved, "once for each session that moved");
    for session in &moves {
        assert_eq!((session.from().as_str(), session.to().as_str()), ("a", "b"));
    }
    let ids: std::collections::HashSet<_> = moves.iter().map(Move::id).collect();
    assert_eq!(ids.len(), moved, "each has an id of its own");
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_when_its_handoff_fails() {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let asked = Arc::new(AtomicUsize::new(0));
    let layer = layer(&backends, &clock).before_move(SECOND, {
        let asked = asked.clone();
        move |_| {
            let hangs = asked.fetch_add(1, SeqCst).is_multiple_of(2);
            async move {
                if hangs {
                    std::future::pending::<()>().await;
                }
                Err("the disk is full")
            }
        }
    });
    let service = layer.rebalance(at_once()).unwrap().into_service();
    let mut clients = sessions_before_b(&backends, &service, 4).await;
    after(&clock, 10 * MINUTE).await;
    let start = tokio::time::Instant::now();
    assert_eq!(visit!(clients, service), 0);
    assert_eq!(asked.load(SeqCst), 4);
    let took = start.elapsed().as_millis();
    assert!((2000..2100).contains(&took), "two hung for as long as they may: {took} ms");
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_session_stays_when_its_new_backend_refuses() {
    let (backends, clock, service) = rebalancing(["a"]);
    let mut clients = vec![Client::default(); 4];
    visit!(clients, service);
    let b = Node::new("b");
    b.control.refuses.store(true, SeqCst);
    backends.insert("b", b).unwrap();
    after(&clock, 10 * MINUTE).await;
    assert_eq!(visit!(clients, service), 0, "served by its own backend");
    assert_eq!(backends.snapshot().stats.violations(), 0);
    assert_eq!(backends.snapshot().stats.moves(), 0);
}

#[test]
fn invalid_rebalance_options_are_rejected() {
    let (backends, _nodes) = nodes(["a"]);
    let refuse = |rebalance: Rebalance| {
        let layer = StickyLayer::new(backends.clone(), Header::sealed("x-sid", keys()));
        layer.rebalance(rebalance).unwrap_err().to_string()
    };
    assert!(refuse(Rebalance::new().tolerance(1.0)).contains("tolerance 1 "));
    assert!(refuse(Rebalance::new().tolerance(f64::NAN)).contains("NaN"));
    assert!(refuse(Rebalance::new().idle_for(Duration::ZERO)).contains("one second"));
    assert!(refuse(Rebalance::new().max_per_second(0)).contains("0 sessions per second"));
    let layer = StickyLayer::new(backends.clone(), Key::header("x-user"));
    let error = layer.rebalance(Rebalance::new()).unwrap_err().to_string();
    assert!(error.contains("only sealed tokens"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn sessions_of_a_strict_layer_stay() {
    let (backends, _nodes) = nodes(["a"]);
    let clock = Clock::new();
    let layer = layer(&backends, &clock).strict(true);
    let service = layer.rebalance(at_once()).unwrap().into_service();
    let mut clients = sessions_before_b(&backends, &service, 10).await;
    after(&clock, 10 * MINUTE).await;
    assert_eq!(visit!(clients, service), 0);
}

#[tokio::test(start_paused = true)]
async fn sessions_of_a_draining_backend_are_not_rebalanced() {
    let (backends, clock, service) = rebalancing(["a"]);
    let mut clients = sessions_before_b(&backends, &service, 10).await;
    after(&clock, 10 * MINUTE).await;
    backends.set_mode("a", tower_sticky::Mode::Draining).unwrap();
    assert_eq!(visit!(clients, service), 0, "they stay until they end");
}
