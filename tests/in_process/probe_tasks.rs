//! Which backends are probed, and when the task of a probe starts and ends.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use http::Request;
use tokio::time::Instant;
use tower_sticky::{BackendId, Cause, Health, Mode, State};

use crate::{
    probes::{health, start},
    support::{Body, Node, after, health_changes, nodes, plain, state},
};

#[tokio::test(start_paused = true)]
async fn every_task_ends_with_the_pool() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
    a.hold_responses();
    let layer = start(&backends, health().probe_timeout(Duration::from_secs(1000)));
    b.control.set_busy(true);
    after(5_000).await;
    assert_eq!(tasks(), before + 4, "the driver, and one per backend");
    backends.remove("c").unwrap();
    after(1).await;
    assert_eq!(tasks(), before + 3, "the task of a removed backend ends at once");
    drop((backends, layer));
    after(1).await;
    assert_eq!(tasks(), before, "a hanging probe, and one that waits for its service, end too");
    for node in [a, b, c] {
        assert_eq!(node.control.clones.load(SeqCst), 1, "only the test's own clone is left");
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

/// The most probes of `backends` that are in flight at once, and their number.
async fn in_flight(health: Health, backends: usize) -> (usize, usize) {
    let pool = tower_sticky::Backends::new();
    for number in 0..backends {
        pool.insert(format!("b{number}"), Node::new("b")).unwrap();
    }
    let (now, most, all) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicUsize::new(0));
    let counts = Arc::new((now, most, all));
    let counted = counts.clone();
    let probe = move |_: Node, _: BackendId| {
        let counts = counted.clone();
        async move {
            let (now, most, all) = &*counts;
            most.fetch_max(now.fetch_add(1, SeqCst) + 1, SeqCst);
            all.fetch_add(1, SeqCst);
            tokio::time::sleep(Duration::from_millis(400)).await;
            now.fetch_sub(1, SeqCst);
            Ok::<_, Infallible>(())
        }
    };
    let layer = start(&pool, health.probe(probe).seed(7));
    after(20_000).await;
    drop(layer);
    assert!(pool.iter().all(|backend| backend.probe_failure.is_none()), "waiting is no failure");
    (counts.1.load(SeqCst), counts.2.load(SeqCst))
}

#[tokio::test(start_paused = true)]
async fn probes_in_flight_are_bounded() {
    let (most, all) = in_flight(Health::new().probes_in_flight(3), 20).await;
    assert_eq!(most, 3);
    assert!((3 * 45..=3 * 51).contains(&all), "three every 400 ms, always: {all} in 20 s");
    let (most, _) = in_flight(Health::new().probes_in_flight(0), 5).await;
    assert_eq!(most, 1, "at least one");
    let (most, all) = in_flight(Health::new(), 300).await;
    assert!(most <= 256 && all > 300 * 10, "the default, {most} at once and {all} in 20 s");
}

/// So that many backends share timers.
#[tokio::test(start_paused = true)]
async fn probes_start_on_a_grid_of_a_thousandth_of_their_interval() {
    let pool = tower_sticky::Backends::new();
    for number in 0..20 {
        pool.insert(format!("b{number}"), Node::new("b")).unwrap();
    }
    let times = Arc::new(Mutex::new(Vec::new()));
    let began = times.clone();
    let probe = move |_: Node, _: BackendId| {
        began.lock().unwrap().push(Instant::now());
        std::future::ready(Ok::<_, Infallible>(()))
    };
    let health = Health::new().probe_interval(Duration::from_secs(10));
    let _layer = start(&pool, health.probe(probe).seed(7));
    after(25_000).await;
    let times = times.lock().unwrap();
    assert!(times.len() >= 40, "{}", times.len());
    for time in times.iter() {
        assert_eq!((*time - times[0]).as_millis() % 10, 0, "{:?}", *time - times[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_aborted_probe_makes_room_for_others() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    a.hold_responses();
    let long = Duration::from_secs(1000);
    let _layer = start(&backends, health().probe_timeout(long).probes_in_flight(1));
    after(5_000).await;
    let before = b.served();
    backends.remove("a").unwrap();
    after(5_000).await;
    assert!(b.served() > before, "the permit of a removed backend is free again");
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
async fn a_replaced_service_is_judged_by_its_own_probes() {
    let (backends, [a]) = nodes(["a"]);
    let mut events = backends.events();
    let _layer = start(&backends, health().probe_timeout(Duration::from_secs(10)).fall(1));
    after(2_000).await;
    a.hold_responses();
    after(2_000).await;
    let anew = Node::new("a anew");
    drop(backends.replace("a", anew.clone()).unwrap());
    after(1).await;
    assert_eq!(a.control.clones.load(SeqCst), 1, "the hanging probe of the old one is given up");
    after(11_000).await;
    assert_eq!(health_changes(&mut events).await, [], "results of the old service are ignored");
    assert!(anew.served() > 5, "the new one is probed, {} times", anew.served());
    anew.control.call_fails.store(true, SeqCst);
    after(1_200).await;
    assert_eq!(state(&backends, "a"), State::Down);
    backends.replace("a", Node::new("a once more")).unwrap();
    let changes = health_changes(&mut events).await;
    let a_is = |state, cause| ("a".to_owned(), state, cause);
    assert_eq!(changes, [a_is(State::Down, Cause::Probe), a_is(State::Ready, Cause::Replaced)]);
    assert_eq!(backends.get("a").unwrap().probe_failure, None);
}

#[tokio::test(start_paused = true)]
async fn a_probe_result_of_a_replaced_service_is_ignored() {
    let (backends, _nodes) = nodes(["a"]);
    let mut events = backends.events();
    let pool = backends.clone();
    let replacing = move |node: Node, id: BackendId| {
        let pool = pool.clone();
        async move {
            if node.name == "anew" {
                return Ok(());
            }
            // Replaced before this probe can be cancelled.
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
async fn an_inserted_backend_is_probed() {
    let (backends, _nodes) = nodes(["a"]);
    let _layer = start(&backends, health().readiness_interval(Duration::from_secs(1000)));
    after(3_000).await;
    let dead = Node::new("dead");
    dead.control.refuses.store(true, SeqCst);
    backends.insert("dead", dead).unwrap();
    after(1_000).await;
    assert_eq!(state(&backends, "dead"), State::Down, "found before a session came to it");
}

#[tokio::test(start_paused = true)]
async fn a_panicking_probe_counts_as_failed() {
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
    b.control.set_busy(true);
    after(2_000).await;
    assert_eq!(state(&backends, "b"), State::Busy, "the readiness poll goes on");
}

#[tokio::test(start_paused = true)]
async fn backends_that_can_be_probed_at_once_are_probed_soon() {
    let pool = tower_sticky::Backends::new();
    let nodes = [(); 8].map(|()| Node::new("b"));
    for (number, node) in nodes.iter().enumerate() {
        pool.insert(format!("b{number}"), node.clone()).unwrap();
    }
    let health = health().probe_interval(Duration::from_secs(10)).probes_in_flight(8);
    let _layer = start(&pool, health);
    after(2_600).await;
    let probed = nodes.iter().filter(|node| node.served() > 0).count();
    assert_eq!(probed, 8, "in a quarter of the interval");
}
