//! A layer takes the health checks of a pool over from another layer.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::Request;
use tower_sticky::{Health, State};

use crate::{
    probes::{health, start},
    support::{Body, after, nodes, plain, state, until},
};

#[tokio::test(start_paused = true)]
async fn probes_have_the_schedule_of_the_layer_that_started_last() {
    let (backends, [a]) = nodes(["a"]);
    let slow = start(&backends, health().probe_interval(Duration::from_secs(10)));
    after(30_000).await;
    let before = a.served();
    let fast = plain(&backends).health(health().probe_interval(Duration::from_secs(1)));
    assert!(fast.start_over::<Request<Body>>());
    after(10_000).await;
    let probes = a.served() - before;
    assert!((9..=14).contains(&probes), "{probes} in 10 seconds");
    // The first layer starts nothing while a task runs.
    assert!(slow.start::<Request<Body>>());
    let before = a.served();
    after(10_000).await;
    let probes = a.served() - before;
    assert!((9..=14).contains(&probes), "{probes} in 10 seconds");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_down_by_a_probe_stays_down_until_a_probe_succeeds() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let _first = start(&backends, health());
    a.control.call_fails.store(true, SeqCst);
    until(&backends, "a", State::Down).await;
    let other = plain(&backends).health(health().fall(5));
    assert!(other.start_over::<Request<Body>>());
    after(3_000).await;
    assert_eq!(state(&backends, "a"), State::Down, "it is known to be down");
    a.control.call_fails.store(false, SeqCst);
    until(&backends, "a", State::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn without_a_probe_what_probes_have_found_is_forgotten() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let _first = start(&backends, health());
    a.control.call_fails.store(true, SeqCst);
    until(&backends, "a", State::Down).await;
    let served = a.served();
    let without = plain(&backends).health(Health::new());
    assert!(without.start_over::<Request<Body>>());
    assert_eq!(state(&backends, "a"), State::Ready);
    after(10_000).await;
    assert_eq!((state(&backends, "a"), a.served()), (State::Ready, served), "no more probes");
    a.control.readiness_fails.store(true, SeqCst);
    until(&backends, "a", State::Suspect).await;
}

#[tokio::test(start_paused = true)]
async fn a_thousand_changes_leave_one_task() {
    let (backends, [a]) = nodes(["a"]);
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let layer = start(&backends, health());
    after(5_000).await;
    let before = tasks();
    for _ in 0..1_000 {
        assert!(layer.start_over::<Request<Body>>());
        tokio::task::yield_now().await;
    }
    after(5_000).await;
    assert_eq!(tasks(), before);
    let served = a.served();
    after(10_000).await;
    assert!(a.served() - served <= 14, "one probe a second");
    drop((layer, backends));
    after(5_000).await;
    assert_eq!(tasks(), 0);
}
