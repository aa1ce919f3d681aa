//! What other requests and backends have to do with a request in `home_wait`, and what follows it.

use std::{
    future::{Future, poll_fn},
    sync::atomic::Ordering::SeqCst,
    time::Duration,
};

use tokio::task::JoinHandle;
use tower_sticky::{Backends, State, StickyService, Verdict};

use crate::support::{Client, Node, after, get, load, nodes, refuse, sealed};

/// A session on the first of two backends, for which its requests wait a second.
async fn session() -> (Backends<Node>, [Node; 2], StickyService<Node>, Client) {
    let (backends, nodes) = nodes(["a", "b"]);
    let service = sealed(&backends).home_wait(Duration::from_secs(1)).into_service();
    let client = Client::assigned(&service).await;
    (backends, nodes, service, client)
}

/// Runs a future in a task that fails when it is polled all the time.
fn spawn_polled_seldom<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> JoinHandle<T> {
    let (mut future, mut polls) = (Box::pin(future), 0);
    tokio::spawn(poll_fn(move |cx| {
        polls += 1;
        assert!(polls < 100, "it is polled all the time");
        future.as_mut().poll(cx)
    }))
}

#[tokio::test(start_paused = true)]
async fn a_request_sleeps_while_another_one_tries_its_backend() {
    let (backends, [a, _b], service, mut client) = session().await;
    refuse(&a, true);
    let trial = client.spawn(&service, get());
    after(1).await;
    refuse(&a, false);
    a.hold_responses();
    after(99).await;
    assert_eq!(load(&backends, "a").0, 1, "it has not been answered yet");
    let other = spawn_polled_seldom(async move { client.send(&service, get()).await });
    after(300).await;
    assert!(!other.is_finished());
    a.release_responses();
    for answer in [trial.await.unwrap(), other.await.unwrap()] {
        assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_has_moved_does_not_wait_for_its_old_backend() {
    let (backends, [a, b], service, client) = session().await;
    a.control.redialable.store(true, SeqCst);
    refuse(&a, true);
    b.hold_responses();
    let request = client.spawn(&service, get());
    after(500).await;
    assert_eq!((load(&backends, "a"), load(&backends, "b")), ((0, 1), (0, 0)));
    after(600).await;
    assert_eq!((load(&backends, "a"), load(&backends, "b")), ((0, 0), (1, 0)));
    b.release_responses();
    assert_eq!(request.await.unwrap().decision().0, Verdict::Moved);
}

#[tokio::test(start_paused = true)]
async fn the_ready_timeout_begins_again_after_home_wait() {
    let (_backends, [a, b], service, client) = session().await;
    a.control.redialable.store(true, SeqCst);
    for node in [&a, &b] {
        node.control.set_busy(true);
    }
    let request = client.spawn(&service, get());
    // The timeout of a second begins now, and again when the request has waited for the restart.
    after(100).await;
    refuse(&a, true);
    a.control.set_busy(false);
    after(1_400).await;
    assert!(!request.is_finished(), "it waits for the other one");
    b.control.set_busy(false);
    let answer = request.await.unwrap();
    assert_eq!((answer.status, &*answer.body), (200, "b"));
}

#[tokio::test(start_paused = true)]
async fn a_backend_is_redialed_at_its_usual_pace_when_no_request_waits_any_more() {
    let (_backends, [a, _b], service, mut client) = session().await;
    a.control.redialable.store(true, SeqCst);
    refuse(&a, true);
    assert_eq!(client.send(&service, get()).await.decision().0, Verdict::Moved);
    let redials = || a.control.redials.load(SeqCst);
    let during = redials();
    assert!(during >= 16, "{during} in the second that it has waited");
    after(10_000).await;
    let later = redials() - during;
    assert!(later <= 20, "{later} in ten seconds");
}

/// How a request ends whose backend refuses it, or breaks its connection, only after it has recovered from an outage.
async fn failed_after_recovery(breaks: bool, max_attempts: usize) -> (Verdict, String) {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let layer = sealed(&backends).home_wait(Duration::from_secs(1)).max_attempts(max_attempts);
    let service = layer.into_service();
    let client = Client::assigned(&service).await;
    let fails = |fails| match breaks {
        false => a.control.refuses_after_gate.store(fails, SeqCst),
        true => a.control.returns_after_gate.store(fails, SeqCst),
    };
    a.control.redialable.store(true, SeqCst);
    a.hold_responses();
    fails(true);
    let slow = client.spawn(&service, get());
    after(10).await;
    a.control.refuses.store(true, SeqCst);
    let waits = client.spawn(&service, get());
    after(10).await;
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    // It returns, and gets the second request, before the first one has failed.
    a.control.refuses.store(false, SeqCst);
    fails(false);
    after(100).await;
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
    a.release_responses();
    assert_eq!(waits.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None));
    let slow = slow.await.unwrap();
    (slow.decision().0, slow.body.to_string())
}

#[tokio::test(start_paused = true)]
async fn a_request_whose_backend_has_recovered_before_its_connection_fails_tries_it_again() {
    for breaks in [false, true] {
        let again = failed_after_recovery(breaks, 2).await;
        assert_eq!(again, (Verdict::Pinned, "a".to_owned()), "{breaks}");
        let once = failed_after_recovery(breaks, 1).await;
        assert_eq!(once, (Verdict::Moved, "b".to_owned()), "{breaks}: it had its one attempt");
    }
}
