//! Counters and pins stay right while a `Discover` stream changes the pool.

use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use tower::discover::Change;
use tower_sticky::{
    BackendOptions, Mode, State, Verdict,
    discovery::{DiscoveryEnd, OnRemoved},
};

use crate::{
    discovery::{Running, discovery, settle},
    support::{Node, get, nodes, plain, send, spawn, with_cookie},
};

#[tokio::test(start_paused = true)]
async fn thousands_of_changes_at_once_are_taken_in_order() {
    let (backends, running) = discovery();
    let node = Node::new("n");
    for i in 0..3000 {
        let change = match i % 3 {
            2 => Change::Remove(format!("b{}", i - 1)),
            _ => Change::Insert(format!("b{i}"), node.clone()),
        };
        running.send.send(Ok(change)).unwrap();
    }
    settle().await;
    assert_eq!(backends.len(), 1000);
    assert!(backends.get("b0").is_some() && backends.get("b1").is_none());
    let updates = running.handle.stats().updates;
    assert!(updates < 300, "they become visible in {updates} steps, not one by one");
    let service = plain(&backends).into_service();
    let answer = send(&service, with_cookie("sid=b2997")).await;
    assert_eq!(answer.decision().1, Some("b2997"), "ids, never positions");
}

#[tokio::test(start_paused = true)]
async fn counters_survive_a_removal_while_requests_are_in_flight() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    send(&service, with_cookie("sid=a")).await;
    a.hold_responses();
    let slow = spawn(&service, with_cookie("sid=a"));
    settle().await;
    a.control.refuses.store(true, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    backends.set_mode("a", Mode::Disabled).unwrap();
    backends.remove("a").unwrap();

    let new = Node::new("a anew");
    backends.insert_with("a", new.clone(), BackendOptions::new().weight(2).limit(2)).unwrap();
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.requests), (1, 3), "its counters go on");
    assert_eq!((status.weight, status.limit), (2, 2), "as it was inserted this time");
    assert_eq!((status.mode, status.state), (Mode::Active, State::Ready), "as a new one is");
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "a anew");
    a.release_responses();
    assert_eq!(slow.await.unwrap().body, "a", "it finished where it was");
    assert_eq!(backends.get("a").unwrap().in_flight, 0);

    // With nothing in flight, the counters of a removed backend are dropped.
    backends.remove("a").unwrap();
    settle().await;
    backends.insert("a", new).unwrap();
    assert_eq!(backends.get("a").unwrap().requests, 0);
}

#[tokio::test(start_paused = true)]
async fn counters_survive_a_removal_by_discovery() {
    let (backends, running) = discovery();
    let (old, new) = (Node::new("old"), Node::new("new"));
    running.insert("a", &old).await;
    let service = plain(&backends).into_service();
    old.hold_responses();
    let slow = tokio::spawn(async move { send(&service, get()).await });
    settle().await;
    running.remove("a").await;
    assert!(backends.is_empty());
    running.insert("a", &new).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1);
    old.release_responses();
    assert_eq!(slow.await.unwrap().body, "old");
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
    running.remove("a").await;
    assert!(backends.is_empty(), "it still belongs to the discovery");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_load_never_send_a_request_elsewhere() {
    const COMING: [&str; 4] = ["w", "x", "y", "z"];
    const CHANGES: usize = 4000;
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    let running = Running::new(&backends, OnRemoved::Remove);
    let over = std::sync::Arc::new(AtomicUsize::new(0));
    let clients = ["a", "b", "w", "x", "y", "z"].map(|id| {
        let (service, over) = (service.clone(), over.clone());
        tokio::spawn(async move {
            let (mut sent, mut pinned) = (0, 0);
            loop {
                let answer = send(&service, with_cookie(&format!("sid={id}"))).await;
                let (verdict, backend, _) = answer.decision();
                assert_eq!(backend, Some(&*answer.body), "the one that was chosen has answered");
                if verdict == Verdict::Pinned {
                    assert_eq!(answer.body, id, "a pinned request is served by its own backend");
                    pinned += 1;
                }
                sent += 1;
                if over.load(SeqCst) == 1 {
                    return (id, sent, pinned);
                }
                tokio::task::yield_now().await;
            }
        })
    });
    for i in 0..CHANGES {
        let id = COMING[i % 4].to_owned();
        let change = match (i / 4) % 3 {
            2 => Change::Remove(id),
            _ => Change::Insert(id, Node::new(COMING[i % 4])),
        };
        running.send.send(Ok(change)).unwrap();
        if i % 4 == 0 {
            tokio::task::yield_now().await;
        }
    }
    drop(running.send);
    assert!(matches!(running.task.await.unwrap(), DiscoveryEnd::Ended));
    over.store(1, SeqCst);
    for client in clients {
        let (id, sent, pinned) = client.await.unwrap();
        if ["a", "b"].contains(&id) {
            assert_eq!(pinned, sent, "no session moves because others join or leave");
        }
    }
    assert_eq!(backends.snapshot().stats.violations(), 0);
    assert!(backends.iter().all(|backend| backend.in_flight == 0));
}
