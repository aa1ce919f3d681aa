//! Several changes of a pool as one.

use std::{
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    time::Duration,
};

use tokio::time::{sleep, timeout};
use tower_sticky::{BackendOptions, Backends, Event, Mode, PoolError};

use crate::{
    discovery::ids,
    support::{Node, get, nodes, plain, send, spawn, with_cookie},
};

#[tokio::test(start_paused = true)]
async fn all_changes_are_made_in_their_order() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    let mut events = backends.events();
    let (c, new) = (Node::new("c"), Node::new("new"));
    backends
        .update(|change| {
            change
                .insert_with("c", c.clone(), BackendOptions::new().weight(3))
                .set_weight("c", 4)
                .replace("a", new.clone())
                .set_mode("a", Mode::Draining)
                .set_limit("a", 7)
                .set_backup("a", true)
                .set_zone("a", Some("z"))
                .remove("b");
        })
        .unwrap();
    assert_eq!(ids(&backends), ["a", "c"]);
    assert_eq!(backends.get("c").unwrap().weight, 4);
    let status = backends.get("a").unwrap();
    assert_eq!((status.mode, status.limit, status.backup), (Mode::Draining, 7, true));
    assert_eq!(status.zone.as_deref(), Some("z"));
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "new");
    assert_eq!(send(&service, with_cookie("sid=b")).await.body, "c");
    assert_eq!(a.served(), 0);
    let mut names = Vec::new();
    while let Ok(Some(event)) = timeout(Duration::from_millis(1), events.next()).await {
        names.push(match event {
            Event::Weight { .. } => "weight",
            Event::Mode { .. } => "mode",
            Event::Replaced { .. } => "replaced",
            Event::Joined { .. } => "joined",
            Event::Left { .. } => "left",
            _ => "other",
        });
    }
    assert_eq!(names, ["weight", "mode", "replaced", "joined", "left"]);
}

#[test]
fn a_pool_is_empty_while_it_has_no_member() {
    let backends: Backends<u8> = Backends::new();
    assert!(backends.is_empty());
    backends
        .update(|change| {
            change.insert("a", 1).insert("b", 2);
        })
        .unwrap();
    assert!(!backends.is_empty());
    backends
        .update(|change| {
            change.remove("a").remove("b");
        })
        .unwrap();
    assert!(backends.is_empty());
}

#[test]
fn with_an_error_nothing_has_changed() {
    let backends: Backends<u8> = Backends::from_iter([("a", 1), ("b", 2)]);
    let before = backends.snapshot().backends;
    let unknown = |id: &str| PoolError::Unknown(id.to_owned());
    let first = |change: &mut tower_sticky::PoolUpdate<u8>| {
        change.insert("c", 3).remove("a").set_weight("b", 9).set_own_zone(Some("z"));
    };
    for (last, expected) in [("a", unknown("a")), ("x", unknown("x"))] {
        let result = backends.update(|change| {
            first(change);
            change.set_weight(last, 1);
        });
        assert_eq!(result, Err(expected), "a removed one is unknown, too");
        assert_eq!(backends.snapshot().backends, before);
    }
    for id in ["b", ""] {
        let result = backends.update(|change| {
            first(change);
            change.insert(id, 4);
        });
        assert!(matches!(result, Err(PoolError::Config(_))), "{result:?}");
        assert_eq!(backends.snapshot().backends, before);
    }
    let taken = backends.insert("b", 4).unwrap_err().to_string();
    assert!(taken.contains("\"b\" is taken"), "{taken}");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_leaves_and_joins_again_is_another_one() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).into_service();
    backends.set_mode("a", Mode::Disabled).unwrap();
    a.hold_responses();
    let new = Node::new("new");
    backends
        .update(|change| {
            change.set_weight("a", 9).remove("a").insert("a", new).set_limit("a", 3);
        })
        .unwrap();
    let status = backends.get("a").unwrap();
    assert_eq!((status.mode, status.weight, status.limit), (Mode::Active, 1, 3));
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "new");
}

#[tokio::test(start_paused = true)]
async fn a_backend_that_joins_again_with_requests_in_flight_goes_on_counting() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).into_service();
    a.hold_responses();
    let slow = spawn(&service, with_cookie("sid=a"));
    sleep(Duration::from_millis(1)).await;
    backends.remove("a").unwrap();
    backends
        .update(|change| {
            change.insert("b", Node::new("b")).insert("a", a.clone()).set_weight("a", 5);
        })
        .unwrap();
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.weight), (1, 5));
    a.release_responses();
    slow.await.unwrap();
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn a_higher_limit_wakes_requests_that_wait() {
    let (backends, [a]) = nodes(["a"]);
    backends.set_limit("a", 1).unwrap();
    let service = plain(&backends).into_service();
    a.hold_responses();
    let first = spawn(&service, with_cookie("sid=a"));
    let second = spawn(&service, with_cookie("sid=a"));
    sleep(Duration::from_millis(1)).await;
    assert_eq!(backends.get("a").unwrap().waiting, 1);
    backends
        .update(|change| {
            change.set_limit("a", 2);
        })
        .unwrap();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(backends.get("a").unwrap().waiting, 0);
    a.release_responses();
    first.await.unwrap();
    second.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn drains_have_their_deadline() {
    let (backends, [_a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    send(&service, with_cookie("sid=a")).await;
    backends
        .update(|change| {
            change.drain("a", Duration::from_secs(5));
        })
        .unwrap();
    assert_eq!(backends.get("a").unwrap().mode, Mode::Draining);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "a");
    sleep(Duration::from_secs(7)).await;
    send(&service, get()).await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Drained);
}

#[test]
fn readers_see_all_of_it_or_nothing() {
    let backends: Backends<u8> = Backends::from_iter([("a", 1), ("b", 2), ("c", 3)]);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = || {
            while !over.load(SeqCst) {
                let ids = ids_of(&backends);
                assert!(ids == ["a", "b", "c"] || ids == ["c", "d", "e"], "{ids:?}");
            }
        };
        scope.spawn(reader);
        scope.spawn(reader);
        for _ in 0..2_000 {
            backends
                .update(|change| {
                    change.remove("a").remove("b").insert("d", 4).insert("e", 5);
                })
                .unwrap();
            backends
                .update(|change| {
                    change.remove("c").remove("d").remove("e");
                    change.insert("a", 1).insert("b", 2).insert("c", 3);
                })
                .unwrap();
        }
        over.store(true, SeqCst);
    });
}

fn ids_of(backends: &Backends<u8>) -> Vec<String> {
    backends.iter().map(|backend| backend.id.to_string()).collect()
}
