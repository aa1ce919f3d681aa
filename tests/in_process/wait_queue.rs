//! The queue of requests that wait for a busy backend: its length, its quotas and its order.

use std::{
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};

use tower_sticky::{
    Backends, Busy, Failover, State, StickyService,
    strategy::{Candidates, RoundRobin, Strategy},
};

use crate::support::{Client, MS, Node, get, load, nodes, plain, sealed, send};

/// Waits long, and lets no other backend serve the session.
const PATIENT: Busy = Busy::wait(Duration::from_secs(60)).then(Failover::Reject);

/// A service whose requests wait for up to a minute.
fn patient(backends: &Backends<Node>, waiters: usize) -> StickyService<Node> {
    patient_with(backends, waiters, RoundRobin::new())
}

fn patient_with(
    backends: &Backends<Node>,
    waiters: usize,
    strategy: impl Strategy,
) -> StickyService<Node> {
    let layer = sealed(backends).strategy(strategy).on_busy(PATIENT);
    layer.ready_timeout(Duration::from_secs(60)).max_waiters(waiters).into_service()
}

/// The numbers and statuses of answered requests, in order.
type Answers = Arc<Mutex<Vec<(usize, u16)>>>;

/// Sends one numbered request of `client` without waiting for its response.
async fn start(service: &StickyService<Node>, client: &Client, number: usize, answers: &Answers) {
    let (mut client, service, answers) = (client.clone(), service.clone(), answers.clone());
    tokio::spawn(async move {
        let status = client.send(&service, get()).await.status;
        answers.lock().unwrap().push((number, status));
    });
    tokio::task::yield_now().await;
}

/// Sends the first requests of `count` clients.
async fn start_new(service: &StickyService<Node>, count: usize) -> Answers {
    let answers = Answers::default();
    for number in 0..count {
        start(service, &Client::default(), number, &answers).await;
    }
    answers
}

/// A backend with this limit, which has received, or keeps waiting, the first requests of `count` clients.
async fn start_with_limit(
    limit: usize,
    count: usize,
) -> (Backends<Node>, Node, StickyService<Node>, Answers) {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 1024);
    backends.set_limit("a", limit).unwrap();
    a.hold_responses();
    let answers = start_new(&service, count).await;
    (backends, a, service, answers)
}

/// The numbers of the requests answered with `status`, in order.
fn answered(answers: &Answers, status: u16) -> Vec<usize> {
    let answers = answers.lock().unwrap();
    answers.iter().filter(|answer| answer.1 == status).map(|answer| answer.0).collect()
}

/// Clients with sessions on the only backend.
async fn clients<const N: usize>(service: &StickyService<Node>) -> [Client; N] {
    let mut clients = [(); N].map(|()| Client::default());
    for client in &mut clients {
        client.send(service, get()).await;
    }
    clients
}

#[tokio::test(start_paused = true)]
async fn a_replayed_token_does_not_starve_the_others() {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 1024);
    let [replayed] = clients(&service).await;
    let others: [_; 10] = clients(&service).await;
    backends.set_limit("a", 1).unwrap();
    a.hold_responses();
    let answers = Answers::default();
    for _ in 0..1000 {
        start(&service, &replayed, 0, &answers).await;
    }
    assert_eq!(backends.get("a").unwrap().waiting, 512, "one session gets half of the places");
    assert_eq!(answered(&answers, 503).len(), 487, "more are refused at once");
    for (number, other) in (1..).zip(&others) {
        start(&service, other, number, &answers).await;
    }
    assert_eq!(load(&backends, "a"), (1, 522), "there are places for the others");
    a.release_responses();
    tokio::time::sleep(MS).await;
    let served = answered(&answers, 200);
    let first: Vec<_> = served[..21].iter().copied().filter(|number| *number > 0).collect();
    assert_eq!(
        first,
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        "they are served first: {:?}",
        &served[..21]
    );
    assert_eq!(served.len(), 523, "all that waited are served");
    assert_eq!(load(&backends, "a"), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn waiting_sessions_are_served_round_robin() {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 1024);
    let [one, two, three] = clients(&service).await;
    backends.set_limit("a", 1).unwrap();
    a.hold_responses();
    let answers = Answers::default();
    start(&service, &one, 0, &answers).await;
    let new = Client::default();
    let waiting = [&one, &one, &one, &two, &two, &three, &new, &new];
    for (number, client) in (1..).zip(waiting) {
        start(&service, client, number, &answers).await;
    }
    assert_eq!(backends.get("a").unwrap().waiting, 8);
    a.release_responses();
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200), [0, 1, 4, 6, 7, 2, 5, 8, 3]);
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_shared_while_a_service_is_not_ready() {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 8);
    let [replayed, other] = clients(&service).await;
    a.control.set_busy(true);
    let answers = Answers::default();
    for _ in 0..8 {
        start(&service, &replayed, 0, &answers).await;
    }
    assert_eq!(answered(&answers, 503).len(), 4, "one session gets half of the places");
    start(&service, &other, 1, &answers).await;
    assert_eq!(backends.get("a").unwrap().waiting, 5);
    backends.set_limit("a", 1).unwrap();
    a.hold_responses();
    start(&service, &other, 1, &answers).await;
    start(&service, &other, 1, &answers).await;
    assert_eq!(backends.get("a").unwrap().waiting, 6, "of those that are left, half");
    a.control.set_busy(false);
    tokio::time::sleep(MS).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "a limit holds for those that wait");
    a.release_responses();
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_admits_waiting_requests() {
    let (backends, a, _service, answers) = start_with_limit(1, 6).await;
    assert_eq!(load(&backends, "a"), (1, 5));
    backends.set_limit("a", 3).unwrap();
    tokio::time::sleep(MS).await;
    assert_eq!(load(&backends, "a"), (3, 3), "as many as now fit, beside the one in flight");
    backends.set_limit("a", 0).unwrap();
    tokio::time::sleep(MS).await;
    assert_eq!(load(&backends, "a"), (6, 0), "without a limit no request waits");
    a.release_responses();
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn requests_in_flight_count_under_a_lowered_limit() {
    let (backends, a, service, answers) = start_with_limit(2, 2).await;
    backends.set_limit("a", 1).unwrap();
    start(&service, &Client::default(), 2, &answers).await;
    tokio::time::sleep(MS).await;
    assert_eq!(load(&backends, "a"), (2, 1), "they finish before another is admitted");
    a.control.gate.add_permits(1);
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200), [0, 1, 2]);
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_session_use_half_of_the_queue() {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 8);
    let sessions: [_; 4] = clients(&service).await;
    a.control.set_busy(true);
    let answers = Answers::default();
    for _ in 0..10 {
        start(&service, &Client::default(), 0, &answers).await;
    }
    assert_eq!(backends.get("a").unwrap().waiting, 4, "half of the places");
    for session in &sessions {
        start(&service, session, 1, &answers).await;
    }
    assert_eq!(answered(&answers, 503), [0; 6], "a request with a session still finds room");
    a.control.set_busy(false);
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200).len(), 8);
}

#[tokio::test(start_paused = true)]
async fn sessions_with_plain_tokens_may_fill_the_queue() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).on_busy(PATIENT).max_waiters(8).into_service();
    a.control.set_busy(true);
    let answers = Answers::default();
    for _ in 0..9 {
        start(&service, &Client { token: Some("a".to_owned()) }, 0, &answers).await;
    }
    assert_eq!((backends.get("a").unwrap().waiting, answered(&answers, 503).len()), (8, 1));
}

#[tokio::test(start_paused = true)]
async fn a_backend_at_its_limit_is_busy_and_is_not_polled() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    backends.set_limit("a", 1).unwrap();
    let service = patient(&backends, 8);
    let state = || backends.get("a").unwrap().state;
    assert_eq!(state(), State::Ready);
    a.hold_responses();
    let answers = Answers::default();
    start(&service, &Client::default(), 1, &answers).await;
    assert_eq!(state(), State::Busy, "at its limit");
    let asked = a.control.polls.load(SeqCst);
    for _ in 0..4 {
        assert_eq!(send(&service, get()).await.body, "b");
    }
    assert_eq!(a.control.polls.load(SeqCst), asked);
    backends.set_limit("a", 2).unwrap();
    assert_eq!(state(), State::Ready, "there is room again");
    backends.set_limit("a", 1).unwrap();
    assert_eq!(state(), State::Busy);
    backends.set_limit("a", 0).unwrap();
    assert_eq!(state(), State::Ready, "it has no limit");
    backends.set_limit("a", 1).unwrap();
    a.release_responses();
    tokio::time::sleep(MS).await;
    assert_eq!((state(), answered(&answers, 200)), (State::Ready, vec![1]), "it has answered");
    assert_eq!(b.served(), 4);
}

/// Round robin that records its candidates.
#[derive(Debug, Default)]
struct Spy(RoundRobin, Mutex<Vec<String>>);

impl Strategy for Spy {
    fn choose(&self, candidates: &Candidates<'_>) -> usize {
        let ids: Vec<_> = candidates.iter().map(|one| one.id().to_string()).collect();
        self.1.lock().unwrap().push(ids.concat());
        self.0.choose(candidates)
    }
}

#[tokio::test(start_paused = true)]
async fn a_backend_at_its_limit_is_not_a_candidate_while_another_has_room() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let spy = Arc::new(Spy::default());
    let service = patient_with(&backends, 8, spy.clone());
    let asked = || std::mem::take(&mut *spy.1.lock().unwrap());
    a.hold_responses();
    b.hold_responses();
    backends.set_limit("a", 1).unwrap();
    backends.set_limit("b", 1).unwrap();
    let answers = start_new(&service, 3).await;
    assert_eq!(asked()[..3], ["ab", "b", "ab"], "the third finds no backend with room, and waits");
    a.release_responses();
    b.release_responses();
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200).len(), 3);
}
