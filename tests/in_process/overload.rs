//! Backends that are busy: at their limit, or with a service that is not ready.

use std::{
    sync::{Arc, Mutex, atomic::Ordering::SeqCst},
    time::Duration,
};

use tower_sticky::{
    Backends, Busy, Failover, Reason, State, StickyService, Verdict,
    strategy::{Candidates, RoundRobin, Strategy},
};

use crate::support::{Client, Node, UNGATED, get, nodes, plain, sealed, send};

const MS: Duration = Duration::from_millis(1);

/// Makes answers of `node` wait; the permits are given back by adding them.
fn close(node: &Node) {
    node.told.gate.forget_permits(UNGATED);
}

fn open(node: &Node) {
    node.told.gate.add_permits(UNGATED);
}

#[tokio::test(start_paused = true)]
async fn a_pinned_request_waits_and_then_borrows() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    a.told.set_busy(true);
    let started = tokio::time::Instant::now();
    let answer = client.send(&service, get()).await;
    assert_eq!(answer.why(), (Verdict::Borrowed, Some("b"), Some(Reason::Busy)));
    assert_eq!(answer.token(), None, "the pin stays");
    assert!((200 * MS..210 * MS).contains(&started.elapsed()), "{:?}", started.elapsed());

    let (mut waiting, told) = (client.clone(), a.told.clone());
    let request = tokio::spawn({
        let service = service.clone();
        async move { waiting.send(&service, get()).await }
    });
    tokio::time::sleep(100 * MS).await;
    told.set_busy(false);
    assert_eq!(request.await.unwrap().why(), (Verdict::Pinned, Some("a"), None), "in time");
}

#[tokio::test(start_paused = true)]
async fn busy_may_move_or_reject() {
    for (then, why) in [
        (Failover::Repin, (Verdict::Moved, Some("b"), Some(Reason::Busy))),
        (Failover::Reject, (Verdict::Rejected, Some("a"), Some(Reason::Busy))),
    ] {
        let (backends, [a, _b]) = nodes(["a", "b"]);
        let service = sealed(&backends).on_busy(Busy::wait(50 * MS).then(then)).into_service();
        let mut client = Client::default();
        client.send(&service, get()).await;
        a.told.set_busy(true);
        let answer = client.send(&service, get()).await;
        assert_eq!(answer.why(), why);
        assert_eq!(answer.token().is_some(), then == Failover::Repin);
        assert_eq!(answer.headers.contains_key("retry-after"), then == Failover::Reject);
    }
}

#[tokio::test(start_paused = true)]
async fn a_new_session_does_not_wait_while_another_backend_is_free() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = sealed(&backends).into_service();
    a.told.set_busy(true);
    let started = tokio::time::Instant::now();
    for _ in 0..4 {
        let answer = send(&service, get()).await;
        assert_eq!(answer.why(), (Verdict::Assigned, Some("b"), None));
    }
    assert!(started.elapsed() < MS, "nobody waits");
}

#[tokio::test(start_paused = true)]
async fn when_all_are_busy_a_request_waits_for_its_turn_or_the_deadline() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let service = sealed(&backends).ready_timeout(300 * MS).into_service();
    a.told.set_busy(true);
    b.told.set_busy(true);
    let started = tokio::time::Instant::now();
    let answer = send(&service, get()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.why(), (Verdict::Rejected, Some("a"), Some(Reason::Busy)));
    assert!((300 * MS..310 * MS).contains(&started.elapsed()), "one deadline for the whole");
    let told = b.told.clone();
    let wait = async {
        tokio::time::sleep(100 * MS).await;
        a.told.set_busy(false);
        told.set_busy(false);
    };
    let (answer, ()) = tokio::join!(send(&service, get()), wait);
    assert_eq!((answer.status, answer.why().0), (200, Verdict::Assigned));
}

#[tokio::test(start_paused = true)]
async fn a_limit_holds_and_wins_over_affinity() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    backends.set_limit("a", 2).unwrap();
    let service = sealed(&backends).into_service();
    let mut client = Client::default();
    client.send(&service, get()).await;
    close(&a);
    let mut replayed = Vec::new();
    for _ in 0..6 {
        let (mut client, service) = (client.clone(), service.clone());
        replayed.push(tokio::spawn(async move { client.send(&service, get()).await }));
    }
    tokio::time::sleep(100 * MS).await;
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.waiting), (2, 4), "one token replayed by many");
    assert_eq!(send(&service, get()).await.body, "b", "others are not starved");
    tokio::time::sleep(200 * MS).await;
    assert_eq!(backends.get("a").unwrap().waiting, 0, "four have borrowed");
    open(&a);
    let mut served = Vec::new();
    for replayed in replayed {
        served.push(replayed.await.unwrap().body);
    }
    served.sort();
    assert_eq!(served, ["a", "a", "b", "b", "b", "b"]);
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
    assert_eq!(b.served(), 5);
}

#[tokio::test(start_paused = true)]
async fn slots_pass_to_those_who_wait_in_turn() {
    let (backends, [a]) = nodes(["a"]);
    backends.set_limit("a", 1).unwrap();
    let service = sealed(&backends).into_service();
    close(&a);
    let mut requests = Vec::new();
    for _ in 0..5 {
        requests.push(tokio::spawn({
            let service = service.clone();
            async move { send(&service, get()).await.status }
        }));
        tokio::task::yield_now().await;
    }
    tokio::time::sleep(10 * MS).await;
    assert_eq!(backends.get("a").unwrap().waiting, 4);
    requests.remove(2).abort();
    open(&a);
    for request in requests {
        assert_eq!(request.await.unwrap(), 200);
    }
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.waiting, status.requests), (0, 0, 4));
}

#[tokio::test(start_paused = true)]
async fn only_so_many_wait() {
    let (backends, [a]) = nodes(["a"]);
    a.told.set_busy(true);
    // None of them has a session: they get half of the places.
    let service = sealed(&backends).max_waiters(4).into_service();
    let requests: Vec<_> = (0..5)
        .map(|_| {
            let service = service.clone();
            tokio::spawn(async move { send(&service, get()).await.status })
        })
        .collect();
    tokio::time::sleep(10 * MS).await;
    assert_eq!(requests.iter().filter(|request| request.is_finished()).count(), 3, "refused");
    a.told.set_busy(false);
    let mut statuses = Vec::new();
    for request in requests {
        statuses.push(request.await.unwrap());
    }
    statuses.sort();
    assert_eq!(statuses, [200, 200, 503, 503, 503]);
    assert_eq!(a.told.served.load(SeqCst), 2);
}

/// Waits for as long as it takes, and nobody else may serve the session.
const PATIENT: Busy = Busy::wait(Duration::from_secs(60)).then(Failover::Reject);

/// A service in front of `backends` whose requests have time.
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

/// Who was answered, and how, in order.
type Answers = Arc<Mutex<Vec<(usize, u16)>>>;

/// Sends one request of `client`, under a number, without waiting for its answer.
async fn start(service: &StickyService<Node>, client: &Client, number: usize, answers: &Answers) {
    let (mut client, service, answers) = (client.clone(), service.clone(), answers.clone());
    tokio::spawn(async move {
        let status = client.send(&service, get()).await.status;
        answers.lock().unwrap().push((number, status));
    });
    tokio::task::yield_now().await;
}

/// The numbers of those that were answered with `status`, in order.
fn answered(answers: &Answers, status: u16) -> Vec<usize> {
    let answers = answers.lock().unwrap();
    answers.iter().filter(|answer| answer.1 == status).map(|answer| answer.0).collect()
}

/// Clients whose sessions are on the one backend there is.
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
    close(&a);
    let answers = Answers::default();
    for _ in 0..1000 {
        start(&service, &replayed, 0, &answers).await;
    }
    assert_eq!(backends.get("a").unwrap().waiting, 512, "one session gets half of the places");
    assert_eq!(answered(&answers, 503).len(), 487, "more are refused at once");
    for (number, other) in (1..).zip(&others) {
        start(&service, other, number, &answers).await;
    }
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.waiting), (1, 522), "there are places for the others");
    open(&a);
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
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.waiting), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn sessions_that_wait_take_turns() {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 1024);
    let [one, two, three] = clients(&service).await;
    backends.set_limit("a", 1).unwrap();
    close(&a);
    let answers = Answers::default();
    start(&service, &one, 0, &answers).await;
    let new = Client::default();
    let waiting = [&one, &one, &one, &two, &two, &three, &new, &new];
    for (number, client) in (1..).zip(waiting) {
        start(&service, client, number, &answers).await;
    }
    assert_eq!(backends.get("a").unwrap().waiting, 8);
    open(&a);
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200), [0, 1, 4, 6, 7, 2, 5, 8, 3]);
}

#[tokio::test(start_paused = true)]
async fn places_are_shared_also_while_a_service_is_not_ready() {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 8);
    let [replayed, other] = clients(&service).await;
    a.told.set_busy(true);
    let answers = Answers::default();
    for _ in 0..8 {
        start(&service, &replayed, 0, &answers).await;
    }
    assert_eq!(answered(&answers, 503).len(), 4, "one session gets half of the places");
    start(&service, &other, 1, &answers).await;
    assert_eq!(backends.get("a").unwrap().waiting, 5);
    backends.set_limit("a", 1).unwrap();
    close(&a);
    start(&service, &other, 1, &answers).await;
    start(&service, &other, 1, &answers).await;
    assert_eq!(backends.get("a").unwrap().waiting, 6, "of those that are left, half");
    a.told.set_busy(false);
    tokio::time::sleep(MS).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1, "a limit holds for those that wait");
    open(&a);
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn a_raised_limit_serves_those_that_wait() {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 1024);
    backends.set_limit("a", 1).unwrap();
    close(&a);
    let answers = Answers::default();
    for number in 0..6 {
        start(&service, &Client::default(), number, &answers).await;
    }
    let counts = || {
        let status = backends.get("a").unwrap();
        (status.in_flight, status.waiting)
    };
    assert_eq!(counts(), (1, 5));
    backends.set_limit("a", 3).unwrap();
    tokio::time::sleep(MS).await;
    assert_eq!(counts(), (3, 3), "as many as now fit, beside the one in flight");
    backends.set_limit("a", 0).unwrap();
    tokio::time::sleep(MS).await;
    assert_eq!(counts(), (6, 0), "without a limit nobody waits");
    open(&a);
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200).len(), 6);
}

#[tokio::test(start_paused = true)]
async fn those_in_flight_count_under_a_lowered_limit() {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 1024);
    backends.set_limit("a", 2).unwrap();
    close(&a);
    let answers = Answers::default();
    for number in 0..2 {
        start(&service, &Client::default(), number, &answers).await;
    }
    backends.set_limit("a", 1).unwrap();
    start(&service, &Client::default(), 2, &answers).await;
    tokio::time::sleep(MS).await;
    let status = backends.get("a").unwrap();
    assert_eq!((status.in_flight, status.waiting), (2, 1), "they finish, and nobody comes before");
    a.told.gate.add_permits(1);
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200), [0, 1, 2]);
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn requests_without_a_session_leave_room_for_those_with_one() {
    let (backends, [a]) = nodes(["a"]);
    let service = patient(&backends, 8);
    let sessions: [_; 4] = clients(&service).await;
    a.told.set_busy(true);
    let answers = Answers::default();
    for _ in 0..10 {
        start(&service, &Client::default(), 0, &answers).await;
    }
    assert_eq!(backends.get("a").unwrap().waiting, 4, "half of the places");
    for session in &sessions {
        start(&service, session, 1, &answers).await;
    }
    assert_eq!(answered(&answers, 503), [0; 6], "who has a session still finds a place");
    a.told.set_busy(false);
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200).len(), 8);
}

#[tokio::test(start_paused = true)]
async fn sessions_with_plain_tokens_may_take_all_places() {
    let (backends, [a]) = nodes(["a"]);
    let service = plain(&backends).on_busy(PATIENT).max_waiters(8).into_service();
    a.told.set_busy(true);
    let answers = Answers::default();
    for _ in 0..9 {
        start(&service, &Client { token: Some("a".to_owned()) }, 0, &answers).await;
    }
    assert_eq!((backends.get("a").unwrap().waiting, answered(&answers, 503).len()), (8, 1));
}

#[tokio::test(start_paused = true)]
async fn a_backend_at_its_limit_is_busy_and_is_not_asked() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    backends.set_limit("a", 1).unwrap();
    let service = patient(&backends, 8);
    let state = || backends.get("a").unwrap().state;
    assert_eq!(state(), State::Ready);
    close(&a);
    let answers = Answers::default();
    start(&service, &Client::default(), 1, &answers).await;
    assert_eq!(state(), State::Busy, "at its limit");
    let asked = a.told.polled.load(SeqCst);
    for _ in 0..4 {
        assert_eq!(send(&service, get()).await.body, "b");
    }
    assert_eq!(a.told.polled.load(SeqCst), asked);
    backends.set_limit("a", 2).unwrap();
    assert_eq!(state(), State::Ready, "there is room again");
    backends.set_limit("a", 1).unwrap();
    assert_eq!(state(), State::Busy);
    backends.set_limit("a", 0).unwrap();
    assert_eq!(state(), State::Ready, "nothing limits it");
    backends.set_limit("a", 1).unwrap();
    open(&a);
    tokio::time::sleep(MS).await;
    assert_eq!((state(), answered(&answers, 200)), (State::Ready, vec![1]), "it has answered");
    assert_eq!(b.served(), 4);
}

/// Round robin that says whom it was asked about.
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
async fn a_backend_at_its_limit_is_no_candidate_while_another_is_below_its_own() {
    let (backends, [a, b]) = nodes(["a", "b"]);
    let spy = Arc::new(Spy::default());
    let service = patient_with(&backends, 8, spy.clone());
    let asked = || std::mem::take(&mut *spy.1.lock().unwrap());
    close(&a);
    close(&b);
    backends.set_limit("a", 1).unwrap();
    backends.set_limit("b", 1).unwrap();
    let answers = Answers::default();
    for number in 0..3 {
        start(&service, &Client::default(), number, &answers).await;
    }
    assert_eq!(asked()[..3], ["ab", "b", "ab"], "the third finds nobody with room, and waits");
    open(&a);
    open(&b);
    tokio::time::sleep(MS).await;
    assert_eq!(answered(&answers, 200).len(), 3);
}
