//! `home_wait`: sessions wait for their backend while it restarts.

use std::{sync::atomic::Ordering::SeqCst, time::Duration};

use http::Request;
use tokio::{task::JoinHandle, time::Instant};
use tower_sticky::{
    BackendId, Backends, Failover, Health, Mode, NotSent, Reason, StickyLayer, StickyService,
    Verdict, affinity::Key,
};

use crate::support::{
    Answer, Body, Client, Node, after, get, nodes, plain, sealed, sealed_session, send, with_cookie,
};

const SECOND: Duration = Duration::from_secs(1);

struct Fixture {
    backends: Backends<Node>,
    a: Node,
    service: StickyService<Node>,
    client: Client,
}

impl Fixture {
    /// A session on `a`, which refuses from now on and can be redialed or not.
    async fn new(
        redialable: bool,
        layer: impl FnOnce(StickyLayer<Node>) -> StickyLayer<Node>,
    ) -> Self {
        let (backends, [a, _b]) = nodes(["a", "b"]);
        a.control.redialable.store(redialable, SeqCst);
        let service = layer(sealed(&backends).home_wait(SECOND)).into_service();
        let mut client = Client::default();
        assert_eq!(client.send(&service, get()).await.body, "a");
        a.control.refuses.store(true, SeqCst);
        Self { backends, a, service, client }
    }

    /// Sends a request of the session in a task.
    fn ask(&self, request: Request<Body>) -> JoinHandle<Answer> {
        let (service, mut client) = (self.service.clone(), self.client.clone());
        tokio::spawn(async move { client.send(&service, request).await })
    }

    fn waiting(&self) -> usize {
        self.backends.get("a").unwrap().waiting
    }
}

fn post(body: &'static str) -> Request<Body> {
    Request::post("/").body(Body::from(body)).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_quick_restart_moves_no_session_and_loses_no_request() {
    for redialable in [true, false] {
        let fixture = Fixture::new(redialable, |layer| layer).await;
        let first = fixture.ask(post(" got the body"));
        after(10).await;
        let more: Vec<_> = (0..20).map(|_| fixture.ask(post("!"))).collect();
        after(300).await;
        assert_eq!(fixture.waiting(), 21);
        fixture.a.control.refuses.store(false, SeqCst);
        let returned = Instant::now();
        assert_eq!(first.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None));
        for answer in more {
            let answer = answer.await.unwrap();
            assert_eq!((answer.decision().0, &*answer.body), (Verdict::Pinned, "a!"));
        }
        assert!(returned.elapsed() <= Duration::from_millis(51), "{:?}", returned.elapsed());
        assert_eq!(fixture.waiting(), 0);
        let stats = fixture.backends.snapshot().stats;
        assert_eq!((stats.moves(), stats.violations()), (0, 0), "redialable: {redialable}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_share_one_redial_every_25_to_50_ms() {
    let fixture = Fixture::new(true, |layer| layer).await;
    let all: Vec<_> = (0..50).map(|_| fixture.ask(get())).collect();
    after(800).await;
    let redials = fixture.a.control.redials.load(SeqCst);
    assert!((16..=32).contains(&redials), "{redials} in 800 ms");
    fixture.a.control.refuses.store(false, SeqCst);
    for answer in all {
        assert_eq!(answer.await.unwrap().body, "a");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_requests_continue_in_order() {
    let fixture = Fixture::new(true, |layer| layer).await;
    let mut all = Vec::new();
    for n in 0..20 {
        let mut request = get();
        request.headers_mut().insert("x-number", n.into());
        all.push(fixture.ask(request));
        after(1).await;
    }
    fixture.a.control.headers.lock().unwrap().clear();
    fixture.a.control.refuses.store(false, SeqCst);
    for answer in all {
        answer.await.unwrap();
    }
    let headers = fixture.a.control.headers.lock().unwrap();
    let order: Vec<_> = headers.iter().map(|h| h["x-number"].to_str().unwrap()).collect();
    let expected: Vec<_> = (0..20).map(|n| n.to_string()).collect();
    assert_eq!(order, expected);
}

#[tokio::test(start_paused = true)]
async fn home_wait_counts_once_per_outage() {
    for redialable in [true, false] {
        let fixture = Fixture::new(redialable, |layer| layer).await;
        let start = Instant::now();
        let first = fixture.ask(get());
        after(700).await;
        let later = fixture.ask(get());
        let moved = (Verdict::Moved, Some("b"), Some(Reason::ConnectFailed));
        let answer = first.await.unwrap();
        let why = answer.decision();
        assert_eq!((why.0, why.1), (moved.0, moved.1));
        assert_eq!(later.await.unwrap().decision().0, Verdict::Moved);
        assert_eq!(start.elapsed(), SECOND, "what was left of it");
        let start = Instant::now();
        assert_eq!(fixture.ask(get()).await.unwrap().decision().0, Verdict::Moved);
        assert_eq!(start.elapsed(), Duration::ZERO, "it costs later requests nothing");
        // It returns and refuses again: another outage.
        fixture.a.control.refuses.store(false, SeqCst);
        after(1_100).await;
        assert_eq!(send(&fixture.service, with_cookie("sid=x")).await.status, 200);
        assert_eq!(fixture.ask(get()).await.unwrap().body, "a");
        fixture.a.control.refuses.store(true, SeqCst);
        let again = fixture.ask(get());
        after(500).await;
        assert!(!again.is_finished());
        fixture.a.control.refuses.store(false, SeqCst);
        assert_eq!(again.await.unwrap().decision().0, Verdict::Pinned);
    }
}

#[tokio::test(start_paused = true)]
async fn home_wait_precedes_every_policy_and_adds_to_the_ready_timeout() {
    for (policy, expected) in [
        (Failover::Repin, Verdict::Moved),
        (Failover::Borrow, Verdict::Borrowed),
        (Failover::Reject, Verdict::Rejected),
    ] {
        let fixture = Fixture::new(true, |layer| {
            layer.on_unavailable(policy).ready_timeout(Duration::from_millis(100))
        })
        .await;
        let start = Instant::now();
        let answer = fixture.ask(get()).await.unwrap();
        assert_eq!(answer.decision().0, expected);
        let waited = start.elapsed();
        assert!((SECOND..=SECOND + SECOND / 10).contains(&waited), "{policy:?}: {waited:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn only_pinned_requests_wait() {
    let fixture = Fixture::new(true, |layer| layer).await;
    let pinned = fixture.ask(get());
    after(10).await;
    let start = Instant::now();
    for _ in 0..4 {
        assert_eq!(send(&fixture.service, get()).await.body, "b", "new sessions");
    }
    let (backends, nodes) = nodes(["a", "b"]);
    let by_key = StickyLayer::new(backends, Key::header("x-user"))
        .home_wait(SECOND)
        .outcome_extensions(true)
        .into_service();
    let mut request = get();
    request.headers_mut().insert("x-user", "ann".parse().unwrap());
    let home = send(&by_key, request.clone()).await.body;
    let home = nodes.iter().find(|node| node.name == home).unwrap();
    home.control.refuses.store(true, SeqCst);
    for _ in 0..2 {
        assert_eq!(send(&by_key, request.clone()).await.decision().0, Verdict::Borrowed, "keys");
    }
    assert_eq!(start.elapsed(), Duration::ZERO);
    pinned.abort();
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_queue_follow_the_policy_at_once() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    a.control.redialable.store(true, SeqCst);
    let layer = plain(&backends).home_wait(SECOND).max_waiters(3);
    let service = layer.on_unavailable(Failover::Borrow).into_service();
    a.control.refuses.store(true, SeqCst);
    let ask = || {
        let service = service.clone();
        tokio::spawn(async move { send(&service, with_cookie("sid=a")).await })
    };
    let all: Vec<_> = (0..5).map(|_| ask()).collect();
    after(1).await;
    let mut busy = 0;
    for answer in all {
        if answer.is_finished() {
            let answer = answer.await.unwrap();
            assert_eq!(answer.decision(), (Verdict::Borrowed, Some("b"), Some(Reason::Busy)));
            busy += 1;
        } else {
            answer.abort();
        }
    }
    assert_eq!(busy, 2);
    after(1).await;
    assert_eq!(backends.get("a").unwrap().waiting, 0, "cancelled requests leave the queue");
}

#[tokio::test(start_paused = true)]
async fn a_change_of_mode_ends_home_wait() {
    type Word = fn(&Backends<Node>);
    let words: [(Word, Verdict); 3] = [
        (|backends| backends.set_mode("a", Mode::Disabled).unwrap(), Verdict::Moved),
        (|backends| drop(backends.remove("a").unwrap()), Verdict::Assigned),
        (|backends| backends.set_mode("a", Mode::Drained).unwrap(), Verdict::Moved),
    ];
    for (word, expected) in words {
        let fixture = Fixture::new(true, |layer| layer).await;
        let start = Instant::now();
        let answer = fixture.ask(get());
        after(100).await;
        word(&fixture.backends);
        let answer = answer.await.unwrap();
        assert_eq!((answer.decision().0, &*answer.body), (expected, "b"));
        assert_eq!(start.elapsed(), Duration::from_millis(100));
    }
    // A draining backend keeps its sessions, so they wait.
    let fixture = Fixture::new(true, |layer| layer).await;
    let answer = fixture.ask(get());
    after(100).await;
    fixture.backends.set_mode("a", Mode::Draining).unwrap();
    after(100).await;
    fixture.a.control.refuses.store(false, SeqCst);
    assert_eq!(answer.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None));
}

#[tokio::test(start_paused = true)]
async fn a_refused_probe_begins_home_wait_and_a_fallen_one_does_not_end_it() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let probe = |node: Node, _: BackendId| async move {
        match node.control.refuses.load(SeqCst) {
            true => {
                Err(NotSent::new((), std::io::Error::from(std::io::ErrorKind::ConnectionRefused)))
            }
            false => Ok(()),
        }
    };
    let fast = Duration::from_millis(20);
    let health = Health::new().probe(probe).probe_interval(fast).fall(2).rise(1);
    let service = sealed(&backends).home_wait(SECOND).health(health).into_service();
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.body, "a");
    after(100).await;
    a.control.refuses.store(true, SeqCst);
    after(400).await;
    assert_eq!(backends.get("a").unwrap().state, tower_sticky::State::Down, "it has fallen");
    let ask = || {
        let (service, mut client) = (service.clone(), client.clone());
        tokio::spawn(async move { client.send(&service, get()).await })
    };
    let (start, answer) = (Instant::now(), ask());
    after(300).await;
    assert!(!answer.is_finished(), "it waits for one that fell less than a second ago");
    a.control.refuses.store(false, SeqCst);
    assert_eq!(answer.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None));
    assert!(start.elapsed() < Duration::from_millis(400));
    // After passed probes, the time counts from the first refused one.
    after(200).await;
    a.control.refuses.store(true, SeqCst);
    after(800).await;
    let (start, answer) = (Instant::now(), ask());
    assert_eq!(answer.await.unwrap().decision().0, Verdict::Moved);
    let waited = start.elapsed();
    assert!((150..=230).contains(&waited.as_millis()), "{waited:?}");
    after(1_000).await;
    let start = Instant::now();
    assert_eq!(ask().await.unwrap().decision(), (Verdict::Moved, Some("b"), Some(Reason::Down)));
    assert_eq!(start.elapsed(), Duration::ZERO, "one that fell earlier is not waited for");
}

#[tokio::test(start_paused = true)]
async fn a_request_disconnected_by_the_restart_returns_to_its_backend() {
    let fixture = Fixture::new(true, |layer| layer).await;
    fixture.a.control.refuses.store(false, SeqCst);
    fixture.a.control.disconnects.store(true, SeqCst);
    let answer = fixture.ask(get());
    after(1).await;
    fixture.a.control.disconnects.store(false, SeqCst);
    fixture.a.control.refuses.store(true, SeqCst);
    after(100).await;
    assert!(!answer.is_finished(), "it waits");
    fixture.a.control.refuses.store(false, SeqCst);
    assert_eq!(answer.await.unwrap().decision(), (Verdict::Pinned, Some("a"), None));

    // A backend that still accepts has not restarted.
    fixture.a.control.disconnects.store(true, SeqCst);
    let start = Instant::now();
    assert_eq!(fixture.ask(get()).await.unwrap().decision().0, Verdict::Moved);
    assert!(start.elapsed() <= Duration::from_millis(51), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn by_default_no_request_waits_for_a_restart() {
    let (_backends, [a, _b], service, mut client) = sealed_session(["a", "b"]).await;
    a.control.refuses.store(true, SeqCst);
    let start = Instant::now();
    assert_eq!(client.send(&service, get()).await.decision().0, Verdict::Moved);
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_new_session_does_not_wait_for_its_first_choice() {
    for disconnects in [false, true] {
        let (backends, [a, _b]) = nodes(["a", "b"]);
        let service = sealed(&backends).home_wait(SECOND).into_service();
        a.control.refuses.store(!disconnects, SeqCst);
        a.control.disconnects.store(disconnects, SeqCst);
        let begun = Instant::now();
        assert_eq!(send(&service, get()).await.body, "b");
        assert_eq!(begun.elapsed(), Duration::ZERO, "disconnects: {disconnects}");
    }
}
