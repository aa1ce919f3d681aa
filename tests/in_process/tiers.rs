//! Backups and zones: the order in which backends take new sessions.

use std::sync::atomic::Ordering::SeqCst;

use tower_sticky::{BackendOptions, Backends, Mode, Reason, State, StickyService, Verdict};

use crate::support::{Client, Node, after, get, plain, refuse, sealed, send, spawn, state};

/// A pool of `a` and `b` with these options.
fn two(a: BackendOptions, b: BackendOptions) -> (Backends<Node>, [Node; 2]) {
    let (backends, nodes) = (Backends::new(), ["a", "b"].map(Node::new));
    backends.insert_with("a", nodes[0].clone(), a).unwrap();
    backends.insert_with("b", nodes[1].clone(), b).unwrap();
    (backends, nodes)
}

fn with_backup() -> (Backends<Node>, [Node; 2]) {
    two(BackendOptions::new(), BackendOptions::new().backup(true))
}

/// A session on the backup while the primary is disabled; it returns by option.
async fn session_on_backup() -> (Backends<Node>, [Node; 2], StickyService<Node>, Client) {
    let (backends, nodes) = with_backup();
    let service = sealed(&backends).return_from_backup(true).into_service();
    let mut client = Client::default();
    backends.set_mode("a", Mode::Disabled).unwrap();
    assert_eq!(client.send(&service, get()).await.body, "b");
    (backends, nodes, service, client)
}

#[tokio::test(start_paused = true)]
async fn a_backup_takes_sessions_only_when_no_primary_is_up() {
    let (backends, [a, _b]) = with_backup();
    let service = sealed(&backends).into_service();
    for _ in 0..5 {
        assert_eq!(send(&service, get()).await.body, "a", "the primary is up");
    }
    let mut client = Client::assigned(&service).await;
    a.control.refuses.store(true, SeqCst);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::ConnectFailed)));
    assert_eq!(send(&service, get()).await.body, "b", "no primary is up");

    backends.set_mode("a", Mode::Disabled).unwrap();
    backends.replace("a", Node::new("a")).unwrap();
    assert_eq!(send(&service, get()).await.body, "b", "the primary is disabled");
    backends.set_mode("a", Mode::Active).unwrap();
    assert_eq!(send(&service, get()).await.body, "a", "the primary is back");
    let stays = client.send(&service, get()).await;
    assert_eq!(stays.decision(), (Verdict::Pinned, Some("b"), None), "sessions stay by default");
}

#[tokio::test(start_paused = true)]
async fn by_option_sessions_return_from_a_backup() {
    let (backends, [_a, b], service, mut client) = session_on_backup().await;
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("b"), None));
    backends.set_mode("a", Mode::Active).unwrap();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Moved, Some("a"), Some(Reason::Rebalanced)));
    assert_eq!(client.send(&service, get()).await.decision(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(b.served(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_return_moves_no_session() {
    let (backends, [a, _b], service, mut client) = session_on_backup().await;
    backends.set_mode("a", Mode::Active).unwrap();
    a.control.refuses.store(true, SeqCst);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None), "it stayed where it was");
    assert!(answer.token().is_none(), "and nothing is reported");
    assert_eq!(backends.snapshot().stats.moves(), 0);
    assert_eq!(backends.snapshot().stats.violations(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_a_busy_primary() {
    let (backends, [a, b]) = with_backup();
    let service = plain(&backends).into_service();
    a.control.set_busy(true);
    let waiting = spawn(&service, get());
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    a.control.set_busy(false);
    assert_eq!(waiting.await.unwrap().body, "a");
    assert_eq!(b.served(), 0, "a backup serves when no primary is up");
}

#[tokio::test(start_paused = true)]
async fn keys_choose_among_primaries() {
    let (backends, _nodes) = with_backup();
    let key = tower_sticky::affinity::Key::header("x-user");
    let service = tower_sticky::StickyLayer::new(backends.clone(), key).into_service();
    for user in 0..20 {
        let mut request = get();
        request.headers_mut().insert("x-user", user.into());
        assert_eq!(send(&service, request).await.body, "a");
    }
    backends.set_mode("a", Mode::Disabled).unwrap();
    let mut request = get();
    request.headers_mut().insert("x-user", 1.into());
    assert_eq!(send(&service, request).await.body, "b");
}

#[tokio::test(start_paused = true)]
async fn new_sessions_prefer_the_local_zone_and_pins_hold_across_zones() {
    let (backends, [a, _b]) =
        two(BackendOptions::new().zone("east"), BackendOptions::new().zone("west"));
    let service = sealed(&backends).into_service();
    let mut abroad = Client::default();
    backends.set_own_zone(Some("west"));
    assert_eq!(abroad.send(&service, get()).await.body, "b");
    backends.set_own_zone(Some("east"));
    for _ in 0..5 {
        assert_eq!(send(&service, get()).await.body, "a", "its zone is our own");
    }
    assert_eq!(abroad.send(&service, get()).await.decision(), (Verdict::Pinned, Some("b"), None));
    a.control.refuses.store(true, SeqCst);
    assert_eq!(send(&service, get()).await.body, "b", "better abroad than nowhere");
    backends.set_zone("a", None).unwrap();
    backends.set_own_zone(None);
    assert_eq!(backends.get("a").unwrap().zone, None);
}

#[tokio::test(start_paused = true)]
async fn a_suspect_backup_is_not_tried_while_a_primary_is_up() {
    let (backends, [_a, b]) = with_backup();
    let service = plain(&backends).into_service();
    backends.set_mode("a", Mode::Disabled).unwrap();
    b.control.refuses.store(true, SeqCst);
    assert_eq!(send(&service, get()).await.status, 503);
    backends.set_mode("a", Mode::Active).unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
    let polls = b.control.polls.load(SeqCst);
    for _ in 0..3 {
        assert_eq!(send(&service, get()).await.body, "a");
    }
    assert_eq!(b.control.polls.load(SeqCst), polls, "its trial is due, but it is a backup");
}

#[tokio::test(start_paused = true)]
async fn a_backend_becomes_a_backup_and_a_primary_again() {
    let (backends, _nodes) = crate::support::nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    backends.set_backup("a", true).unwrap();
    for _ in 0..3 {
        assert_eq!(send(&service, get()).await.body, "b");
    }
    backends.set_backup("a", false).unwrap();
    backends.set_backup("b", true).unwrap();
    for _ in 0..3 {
        assert_eq!(send(&service, get()).await.body, "a");
    }
    assert!(backends.set_backup("x", true).is_err());
}

#[tokio::test(start_paused = true)]
async fn a_suspect_backup_is_tried_when_nothing_else_is_left() {
    let (backends, [_a, b]) = with_backup();
    let service = plain(&backends).into_service();
    backends.set_mode("a", Mode::Disabled).unwrap();
    b.control.refuses.store(true, SeqCst);
    assert_eq!(send(&service, get()).await.status, 503);
    b.control.refuses.store(false, SeqCst);
    assert_eq!(send(&service, get()).await.body, "b");
}

#[tokio::test(start_paused = true)]
async fn keys_choose_a_backup_when_no_primary_has_a_weight() {
    let (backends, _nodes) = with_backup();
    backends.set_weight("a", 0).unwrap();
    let key = tower_sticky::affinity::Key::header("x-user");
    let service = tower_sticky::StickyLayer::new(backends, key).into_service();
    for user in 0..5 {
        let mut request = get();
        request.headers_mut().insert("x-user", user.into());
        assert_eq!(send(&service, request).await.body, "b");
    }
}

#[tokio::test(start_paused = true)]
async fn sessions_with_replicas_move_to_a_primary_before_any_backup() {
    let (backends, [a, _b]) = with_backup();
    backends.insert("c", Node::new("c")).unwrap();
    let service = sealed(&backends).replicas(1).into_service();
    let mut sessions = Vec::new();
    while sessions.len() < 12 {
        let mut client = Client::default();
        if client.send(&service, get()).await.body == "a" {
            sessions.push(client);
        }
    }
    refuse(&a, true);
    for mut session in sessions {
        assert_eq!(session.send(&service, get()).await.body, "c", "whatever the rank");
    }
}

#[tokio::test(start_paused = true)]
async fn no_session_returns_to_a_busy_primary() {
    let (backends, [a, _b], service, mut client) = session_on_backup().await;
    backends.set_mode("a", Mode::Active).unwrap();
    a.control.set_busy(true);
    after(1_500).await;
    assert_eq!(state(&backends, "a"), State::Busy);
    a.control.set_busy(false);
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("b"), None), "busy when last seen");
}
