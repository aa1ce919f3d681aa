//! What an outcome says beside the decision: session, epoch, attempts and waits.

use std::time::Duration;

use tower_sticky::{Outcome, Verdict};

use crate::support::{
    Answer, Client, after, get, nodes, plain, refuse, sealed, sealed_session, send,
};

fn outcome(answer: &Answer) -> &Outcome {
    answer.outcome.as_ref().expect("the response has an outcome")
}

#[tokio::test(start_paused = true)]
async fn an_outcome_follows_its_session_and_counts_attempts() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    let first = client.send(&service, get()).await;
    let pinned = client.send(&service, get()).await;
    refuse(&a, true);
    let moved = client.send(&service, get()).await;
    assert_eq!(outcome(&moved).verdict(), Verdict::Moved);
    let session = outcome(&first).session();
    assert!(session.is_some());
    for answer in [&pinned, &moved] {
        assert_eq!(outcome(answer).session(), session, "it stays the same");
    }
    let other = send(&service, get()).await;
    assert_ne!(outcome(&other).session(), session, "another session has another hash");
    let epochs = [&first, &pinned, &moved].map(|answer| outcome(answer).epoch().unwrap());
    assert_eq!(epochs[0], epochs[1]);
    assert!(epochs[1] < epochs[2], "it grows with a move: {epochs:?}");
    assert_eq!([&first, &pinned, &moved].map(|answer| outcome(answer).attempts()), [1, 1, 2]);
    assert_eq!(outcome(&moved).waited(), None, "nothing was waited for");
}

#[tokio::test(start_paused = true)]
async fn an_outcome_says_how_long_the_request_has_waited() {
    let (_backends, [a], service, mut client) = sealed_session(["a"]).await;
    a.control.set_busy(true);
    let request = client.spawn(&service, get());
    after(120).await;
    a.control.set_busy(false);
    let answer = request.await.unwrap();
    assert_eq!(outcome(&answer).waited(), Some(Duration::from_millis(120)));
    assert_eq!(outcome(&answer).attempts(), 1);
    assert_eq!(outcome(&client.send(&service, get()).await).waited(), None);
}

#[tokio::test(start_paused = true)]
async fn tokens_that_do_not_tell_sessions_apart_have_neither_session_nor_epoch() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).into_service();
    let mut client = Client::assigned(&service).await;
    let answer = client.send(&service, get()).await;
    assert_eq!((outcome(&answer).session(), outcome(&answer).epoch()), (None, None));
    refuse(&a, true);
    let rejected = client.send(&service, get()).await;
    assert_eq!(outcome(&rejected).verdict(), Verdict::Rejected);
    assert!(outcome(&rejected).attempts() >= 1, "the refused connection");
}
