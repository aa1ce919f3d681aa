//! A discovery that is ended by its handle, and another one that takes its backends over.

use std::time::Duration;

use tower_sticky::{
    Backends, Mode,
    discovery::{DiscoveryEnd, OnRemoved},
};

use crate::{
    discovery::{Running, discovery, ids, settle},
    support::{Node, plain, send, with_cookie},
};

const DRAIN: OnRemoved = OnRemoved::Drain(Duration::from_secs(10));

#[tokio::test(start_paused = true)]
async fn withdrawn_backends_leave_at_once_or_after_their_drain() {
    let (backends, running) = discovery();
    running.insert("a", &Node::new("a")).await;
    backends.insert("fixed", Node::new("fixed")).unwrap();
    running.handle.withdraw();
    assert!(matches!(running.task.await.unwrap(), DiscoveryEnd::Withdrawn));
    assert_eq!(ids(&backends), ["fixed"], "it has only its own");

    let running = Running::new(&backends, OnRemoved::Remove);
    running.insert("a", &Node::new("a")).await;
    running.handle.set_on_removed(DRAIN);
    running.handle.withdraw();
    settle().await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Draining);
    running.insert("late", &Node::new("late")).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert_eq!(ids(&backends), ["fixed", "a"], "the source is followed no longer");
    assert!(matches!(running.task.await.unwrap(), DiscoveryEnd::Withdrawn));
    assert_eq!(ids(&backends), ["fixed"]);
}

#[tokio::test(start_paused = true)]
async fn another_discovery_takes_over_what_was_released() {
    let backends = Backends::new();
    let old = Running::new(&backends, DRAIN);
    let service = plain(&backends).into_service();
    for name in ["a", "b", "by-hand"] {
        old.insert(name, &Node::new("old")).await;
    }
    backends.set_mode("by-hand", Mode::Draining).unwrap();
    old.remove("b").await;
    let new = Running::new(&backends, DRAIN);
    new.insert("a", &Node::new("early")).await;
    assert_eq!(
        send(&service, with_cookie("sid=a")).await.body,
        "old",
        "it belongs to the other one"
    );
    old.handle.release();
    settle().await;
    for name in ["a", "b", "by-hand"] {
        new.insert(name, &Node::new("new")).await;
    }
    old.handle.withdraw();
    settle().await;
    let mode = |id: &str| backends.get(id).unwrap().mode;
    assert_eq!((mode("a"), mode("b")), (Mode::Active, Mode::Active), "it was listed again");
    assert_eq!(mode("by-hand"), Mode::Draining, "the operator has said so");
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "new", "the session stays");
    old.task.await.unwrap();
    assert_eq!(ids(&backends), ["a", "b", "by-hand"], "none has left");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_is_withdrawn_returns_with_another_discovery() {
    let backends = Backends::new();
    let old = Running::new(&backends, DRAIN);
    old.insert("a", &Node::new("old")).await;
    old.handle.withdraw();
    settle().await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Draining);
    let new = Running::new(&backends, DRAIN);
    new.insert("a", &Node::new("new")).await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Active);
    assert!(matches!(old.task.await.unwrap(), DiscoveryEnd::Withdrawn));
    assert_eq!(ids(&backends), ["a"], "it belongs to the new one");
}
