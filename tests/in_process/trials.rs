//! Trials: one request at a time finds out whether a suspect serves again.

use std::sync::atomic::Ordering::SeqCst;

use tower_sticky::{Cause, Health, Reason, State, Verdict};

use crate::support::{
    Client, First, MS, after, get, health_changes, load, nodes, plain, post, refuse, sealed,
    sealed_session, send, spawn, state, with_cookie,
};

#[tokio::test(start_paused = true)]
async fn one_request_tries_a_hanging_suspect_and_no_other_is_delayed() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    refuse(&a, true);
    send(&service, get()).await;
    refuse(&a, false);
    a.control.refuses_after_gate.store(true, SeqCst);
    a.hold_responses();
    after(100).await;
    let trial = spawn(&service, get());
    after(1).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "the trial");
    for _ in 0..20 {
        assert_eq!(send(&service, get()).await.body, "b", "others go elsewhere");
    }
    // No other backend is left: the others wait for the trial, up to their timeout.
    refuse(&b, true);
    let others: Vec<_> = (0..20).map(|_| spawn(&service, get())).collect();
    after(500).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "one at a time");
    assert!(others.iter().all(|other| !other.is_finished()));
    after(600).await;
    for other in others {
        let answer = other.await.unwrap();
        assert_eq!((answer.status, &answer.headers["retry-after"]), (503, &"1".parse().unwrap()));
    }
    a.control.refuses_after_gate.store(false, SeqCst);
    trial.abort();
    a.release_responses();
    after(1).await;
    let backend = backends.get("a").unwrap();
    assert_eq!((backend.in_flight, backend.waiting), (0, 0), "nothing is left");
    assert_eq!(send(&service, get()).await.body, "a");
}

#[tokio::test(start_paused = true)]
async fn requests_waiting_for_a_trial_continue_with_its_result() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).into_service();
    refuse(&a, true);
    assert_eq!(send(&service, get()).await.status, 503);
    refuse(&a, false);
    a.hold_responses();
    let all: Vec<_> = (0..10).map(|_| spawn(&service, get())).collect();
    after(100).await;
    assert_eq!(load(&backends, "a"), (1, 9));
    a.release_responses();
    for answer in all {
        assert_eq!(answer.await.unwrap().body, "a");
    }
    assert_eq!(backends.get("a").unwrap().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn the_queue_for_a_trial_is_bounded() {
    let (backends, [a]) = nodes(["a"]);
    // Requests without a session use half of the queue.
    let service = plain(&backends).max_waiters(6).into_service();
    refuse(&a, true);
    send(&service, get()).await;
    refuse(&a, false);
    a.hold_responses();
    let all: Vec<_> = (0..10).map(|_| spawn(&service, get())).collect();
    after(1).await;
    assert_eq!(backends.get("a").unwrap().waiting, 3);
    assert_eq!(all.iter().filter(|answer| answer.is_finished()).count(), 6, "at once");
    a.release_responses();
    let mut statuses = Vec::new();
    for answer in all {
        statuses.push(answer.await.unwrap().status);
    }
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 4);
    assert!(statuses.iter().all(|status| [200, 503].contains(status)));
}

#[tokio::test(start_paused = true)]
async fn a_pinned_request_waits_for_the_trial_of_its_backend_instead_of_moving() {
    for trial_is_answered in [true, false] {
        let (_backends, [a, _b], service, client) = sealed_session(["a", "b"]).await;
        a.control.redialable.store(false, SeqCst);
        refuse(&a, true);
        send(&service, with_cookie("sid=x")).await;
        send(&service, with_cookie("sid=x")).await;
        refuse(&a, false);
        after(100).await;
        a.hold_responses();
        let trial = spawn(&service, get());
        after(1).await;
        let mut pinned = client.clone();
        let pinned = tokio::spawn({
            let service = service.clone();
            async move { pinned.send(&service, get()).await }
        });
        after(900).await;
        assert!(!pinned.is_finished(), "it waits");
        if trial_is_answered {
            a.release_responses();
            assert_eq!(pinned.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None));
        } else {
            after(101).await;
            let answer = pinned.await.unwrap();
            assert_eq!(answer.decision(), (Verdict::Moved, Some("b"), Some(Reason::Down)));
        }
        trial.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_ends_a_disconnect_and_idempotent_requests_are_tried_first() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.control.disconnects.store(true, SeqCst);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b");
    assert_eq!(state(&backends, "a"), State::Suspect);
    after(100).await;
    let served = a.served();
    for _ in 0..5 {
        assert_eq!(
            send(&service, post()).await.body,
            "b",
            "a request that is not idempotent avoids it"
        );
    }
    assert_eq!(a.served(), served);
    a.control.disconnects.store(false, SeqCst);
    assert_eq!(send(&service, get()).await.body, "a", "the trial");
    assert_eq!(state(&backends, "a"), State::Ready);
    assert!(b.served() >= 6);
}

#[tokio::test(start_paused = true)]
async fn after_a_while_any_request_may_be_the_trial() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.control.disconnects.store(true, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    a.control.disconnects.store(false, SeqCst);
    after(1_100).await;
    assert_eq!(send(&service, post()).await.body, "a");
    assert_eq!(state(&backends, "a"), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn one_disconnected_request_moves_no_other_session() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut sessions = [Client::default(), Client::default()];
    for session in &mut sessions {
        session.send(&service, get()).await;
        send(&service, get()).await;
    }
    a.control.disconnects.store(true, SeqCst);
    assert_eq!(sessions[0].send(&service, get()).await.decision().0, Verdict::Moved);
    assert_eq!(state(&backends, "a"), State::Suspect);
    a.control.disconnects.store(false, SeqCst);
    let answer = sessions[1].send(&service, get()).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None), "it is the trial");
    assert_eq!(state(&backends, "a"), State::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_trial_does_not_use_up_the_retry() {
    let (backends, [a, b, c]) = nodes(["a", "b", "c"]);
    let service = plain(&backends).strategy(First).into_service();
    a.control.disconnects.store(true, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    after(100).await;
    b.control.disconnects.store(true, SeqCst);
    let served = a.served() + b.served() + c.served();
    let answer = send(&service, get()).await;
    let served = a.served() + b.served() + c.served() - served;
    assert_eq!((answer.status, served), (200, 3), "the trial of a, then b, and then c");
}

#[tokio::test(start_paused = true)]
async fn ejected_backends_serve_when_no_other_is_left() {
    let (backends, [a]) = nodes(["a"]);
    let mut events = backends.events();
    let health = Health::new().consecutive_failures(1).max_ejected(1.0);
    let service = plain(&backends).health(health).into_service();
    a.control.status.store(500, SeqCst);
    send(&service, get()).await;
    a.control.status.store(200, SeqCst);
    assert_eq!(state(&backends, "a"), State::Suspect);
    let all: Vec<_> = (0..10).map(|_| spawn(&service, get())).collect();
    for answer in all {
        assert_eq!(answer.await.unwrap().status, 200, "any number at a time");
    }
    assert_eq!(
        state(&backends, "a"),
        State::Suspect,
        "an ejection for failures keeps its duration"
    );
    after(1_001).await;
    assert_eq!(send(&service, get()).await.status, 200);
    assert_eq!(state(&backends, "a"), State::Ready);
    assert_eq!(health_changes(&mut events).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_trial_waits_for_a_busy_backend() {
    let (backends, [a]) = nodes(["a"]);
    let service = sealed(&backends).into_service();
    a.control.refuses.store(true, SeqCst);
    send(&service, get()).await;
    a.control.refuses.store(false, SeqCst);
    tokio::time::sleep(1100 * MS).await;
    a.control.set_busy(true);
    let control = a.control.clone();
    let later = async {
        tokio::time::sleep(500 * MS).await;
        control.set_busy(false);
    };
    let (answer, ()) = tokio::join!(send(&service, get()), later);
    assert_eq!(answer.status, 200);
    assert_eq!(backends.get("a").unwrap().state, State::Ready);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_an_older_request_does_not_end_a_suspicion() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    a.hold_responses();
    let slow = spawn(&service, with_cookie("sid=a"));
    tokio::time::sleep(MS).await;
    a.control.refuses.store(true, SeqCst);
    send(&service, with_cookie("sid=a")).await;
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    a.release_responses();
    assert_eq!(slow.await.unwrap().status, 200);
    assert_eq!(backends.get("a").unwrap().state, State::Suspect, "it still refuses");
}

#[tokio::test(start_paused = true)]
async fn a_bad_answer_to_a_trial_is_an_answer_where_failures_are_not_counted() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let mut events = backends.events();
    let service = plain(&backends).into_service();
    a.control.disconnects.store(true, SeqCst);
    assert_eq!(send(&service, with_cookie("sid=a")).await.body, "b");
    a.control.disconnects.store(false, SeqCst);
    a.control.status.store(500, SeqCst);
    after(100).await;
    let answer = send(&service, get()).await;
    assert_eq!((answer.status, &*answer.body), (500, "a"), "the trial");
    let a_is = |state, cause| ("a".to_owned(), state, cause);
    let expected = [a_is(State::Suspect, Cause::Broken), a_is(State::Ready, Cause::Answered)];
    assert_eq!(health_changes(&mut events).await, expected);
}
