//! Backends from a `Discover` stream, through the service.

use std::{
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    task::{Context, Poll},
    time::Duration,
};

use http::Request;
use tokio::{sync::mpsc, task::JoinHandle};
use tower::discover::{Change, ServiceList};
use tower_sticky::{
    BackendOptions, Backends, Mode, Reason, State, Verdict,
    discovery::{DiscoveryEnd, DiscoveryHandle, OnRemoved},
};

use crate::support::{Body, Client, Node, get, nodes, plain, send, with_cookie};

type Item = Result<Change<String, Node>, String>;

/// A stream that a test feeds.
struct Channel(mpsc::UnboundedReceiver<Item>);

impl futures_core::Stream for Channel {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.0.poll_recv(cx)
    }
}

/// A feed under way.
struct Fed {
    send: mpsc::UnboundedSender<Item>,
    handle: DiscoveryHandle,
    task: JoinHandle<DiscoveryEnd>,
}

impl Fed {
    fn new(backends: &Backends<Node>, leave: OnRemoved) -> Self {
        let (send, receive) = mpsc::unbounded_channel();
        let feed = backends.follow(Channel(receive)).on_removed(leave);
        Self { send, handle: feed.handle(), task: tokio::spawn(feed) }
    }

    async fn say(&self, item: Item) {
        self.send.send(item).unwrap();
        settle().await;
    }

    async fn insert(&self, id: &str, node: &Node) {
        self.say(Ok(Change::Insert(id.to_owned(), node.clone()))).await;
    }

    async fn remove(&self, id: &str) {
        self.say(Ok(Change::Remove(id.to_owned()))).await;
    }
}

/// Lets the feed do what it has been told to.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

fn ids(backends: &Backends<Node>) -> Vec<String> {
    backends.iter().map(|backend| backend.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_the_stream_inserts_joins_and_what_it_removes_leaves() {
    let backends = Backends::new();
    let service = plain(&backends).into_service();
    let fed = Fed::new(&backends, OnRemoved::Remove);
    assert_eq!(send(&service, get()).await.status, 503, "nobody is there yet");
    let (a, b) = (Node::new("a"), Node::new("b"));
    fed.insert("a", &a).await;
    fed.insert("b", &b).await;
    assert_eq!(ids(&backends), ["a", "b"], "without any traffic");
    assert_eq!(send(&service, with_cookie("sid=b")).await.body, "b");
    fed.remove("b").await;
    assert_eq!(ids(&backends), ["a"]);
    let answer = send(&service, with_cookie("sid=b")).await;
    assert_eq!(answer.why(), (Verdict::Assigned, Some("a"), Some(Reason::Unknown)));
    fed.remove("unheard of").await;
    assert_eq!(ids(&backends), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_list_of_services_is_followed_to_its_end_and_stays() {
    let backends = Backends::new();
    let list = vec![Node::new("x"), Node::new("y")];
    let end = backends.follow(ServiceList::new::<Request<Body>>(list)).await;
    assert!(matches!(end, DiscoveryEnd::Ended), "{end:?}");
    assert_eq!(ids(&backends), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn sessions_stay_with_an_id_that_is_readdressed() {
    let backends = Backends::new();
    let service = plain(&backends).into_service();
    let fed = Fed::new(&backends, OnRemoved::Remove);
    let (old, new, other) = (Node::new("old"), Node::new("new"), Node::new("other"));
    fed.insert("a", &old).await;
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.body, "old");
    fed.insert("b", &other).await;
    backends.set_weight("a", 3).unwrap();
    backends.set_limit("a", 50).unwrap();
    backends.set_mode("a", Mode::Draining).unwrap();
    old.told.refuses.store(true, SeqCst);
    assert_eq!(
        client.send(&service, get()).await.body,
        "other",
        "it is down, and the cookie moves"
    );
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    fed.insert("a", &new).await;
    let a = backends.get("a").unwrap();
    assert_eq!((a.weight, a.limit, a.mode), (3, 50, Mode::Draining), "the operator's word holds");
    assert_eq!(a.state, State::Ready, "what was known of its health is forgotten");
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!(answer.why(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(answer.body, "new");
    assert!(backends.get("a").unwrap().requests >= 2, "its counters go on");
}

#[tokio::test(start_paused = true)]
async fn an_error_item_keeps_the_set_and_the_stream_is_followed_on() {
    let backends = Backends::new();
    let fed = Fed::new(&backends, OnRemoved::Remove);
    let (a, b) = (Node::new("a"), Node::new("b"));
    fed.insert("a", &a).await;
    for _ in 0..3 {
        fed.say(Err("the registry is gone".to_owned())).await;
    }
    assert!(fed.handle.wait_until(|stats| stats.failures == 3).await);
    assert_eq!(ids(&backends), ["a"], "the last known set stays");
    fed.insert("b", &b).await;
    fed.handle.wait_until(|stats| stats.updates == 2).await;
    assert_eq!(ids(&backends), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_nothing_but_errors_is_not_asked_without_a_pause() {
    struct Broken(std::sync::Arc<AtomicUsize>);
    impl futures_core::Stream for Broken {
        type Item = Item;

        fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Item>> {
            self.0.fetch_add(1, SeqCst);
            Poll::Ready(Some(Err("always".to_owned())))
        }
    }
    let backends = Backends::new();
    let polls = std::sync::Arc::new(AtomicUsize::new(0));
    tokio::spawn(backends.follow(Broken(polls.clone())));
    tokio::time::sleep(Duration::from_secs(60)).await;
    let polls = polls.load(SeqCst);
    assert!((60..80).contains(&polls), "{polls} polls in a minute are about one a second");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_is_not_an_id_is_skipped() {
    let backends = Backends::new();
    let fed = Fed::new(&backends, OnRemoved::Remove);
    let (a, b) = (Node::new("a"), Node::new("b"));
    fed.insert("not an id", &a).await;
    fed.insert("", &a).await;
    fed.remove("not an id").await;
    fed.insert("b", &b).await;
    assert_eq!(ids(&backends), ["b"]);
    assert_eq!(fed.handle.stats().skipped, 3, "it was said");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stream_ends_the_feed_and_keeps_the_set() {
    let backends = Backends::new();
    let a = Node::new("a");
    let fed = Fed::new(&backends, OnRemoved::Remove);
    fed.insert("a", &a).await;
    drop(fed.send);
    assert!(matches!(fed.task.await.unwrap(), DiscoveryEnd::Ended));
    assert!(!fed.handle.wait_until(|stats| stats.updates > 99).await, "it waits for nobody");
    assert_eq!(ids(&backends), ["a"]);

    let fed = Fed::new(&backends, OnRemoved::Remove);
    fed.say(Err("broken for good".to_owned())).await;
    drop(fed.send);
    match fed.task.await.unwrap() {
        DiscoveryEnd::Failed(error) => assert_eq!(error.to_string(), "broken for good"),
        other => panic!("the last word was an error: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn with_the_last_handle_of_the_pool_its_feed_ends() {
    let backends = Backends::new();
    let service = plain(&backends).into_service();
    let fed = Fed::new(&backends, OnRemoved::Drain(Duration::from_secs(3600)));
    let a = Node::new("a");
    fed.insert("a", &a).await;
    fed.remove("a").await;
    drop(backends);
    settle().await;
    assert!(!fed.task.is_finished(), "the service holds the pool still");
    assert_eq!(a.told.alive.load(SeqCst), 2, "the test's and the pool's: the feed keeps none");
    drop(service);
    let end = tokio::time::timeout(Duration::from_secs(60), fed.task).await;
    assert!(matches!(end.expect("it ends at once").unwrap(), DiscoveryEnd::PoolGone));
    assert_eq!(a.told.alive.load(SeqCst), 1, "nothing is left of the pool");
}

#[tokio::test(start_paused = true)]
async fn a_feed_touches_only_what_it_brought() {
    let (backends, [hand, _]) = nodes(["hand", "b"]);
    let one = Fed::new(&backends, OnRemoved::Remove);
    let two = Fed::new(&backends, OnRemoved::Drain(Duration::from_secs(1)));
    let node = Node::new("fed");
    let body = |id: &'static str| {
        let service = plain(&backends).into_service();
        async move { send(&service, with_cookie(&format!("sid={id}"))).await.body }
    };
    one.insert("c", &node).await;
    for feed in [&one, &two] {
        feed.insert("hand", &node).await;
        assert_eq!(feed.handle.stats().skipped, 1, "a clash is said");
        assert_eq!(body("hand").await, "hand", "what was inserted by hand is not replaced");
        feed.remove("hand").await;
    }
    let other = Node::new("other");
    two.insert("c", &other).await;
    assert_eq!(body("c").await, "fed", "nor is what another feed brought");
    two.remove("c").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ids(&backends), ["hand", "b", "c"], "nor is any of it removed");
    assert!(backends.iter().all(|backend| backend.mode == Mode::Active), "nor drained");
    // What the hand takes away and gives back is the hand's.
    backends.remove("c").unwrap();
    backends.insert("c", hand.clone()).unwrap();
    one.remove("c").await;
    assert_eq!(ids(&backends), ["hand", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn what_a_feed_left_behind_is_adopted_by_the_next_one() {
    let backends = Backends::new();
    let (first, second) = (Node::new("first"), Node::new("second"));
    let fed = Fed::new(&backends, OnRemoved::Remove);
    fed.insert("a", &first).await;
    fed.insert("b", &first).await;
    fed.task.abort();
    settle().await;
    let fed = Fed::new(&backends, OnRemoved::Remove);
    fed.remove("b").await;
    assert_eq!(ids(&backends), ["a", "b"], "it has not named it, so it cannot take it away");
    fed.insert("a", &second).await;
    let service = plain(&backends).into_service();
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!((answer.body.as_str(), answer.why().0), ("second", Verdict::Pinned));
    fed.remove("a").await;
    assert_eq!(ids(&backends), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn the_local_node_may_be_among_the_named() {
    let backends = Backends::new();
    let peer = Node::new("peer");
    let fed = Fed::new(&backends, OnRemoved::Remove);
    fed.insert("me", &peer).await;
    fed.insert("peer", &peer).await;
    let layer = plain(&backends).local("me");
    let service = tower::Layer::layer(&layer, Node::new("inner"));
    fed.insert("me", &peer).await;
    fed.remove("me").await;
    assert_eq!(fed.handle.stats().skipped, 0, "it is no clash");
    assert_eq!(send(&service, with_cookie("sid=me")).await.body, "inner");
    assert_eq!(send(&service, with_cookie("sid=peer")).await.body, "peer");
}

#[tokio::test(start_paused = true)]
async fn who_leaves_may_drain_for_a_while() {
    let backends = Backends::new();
    let service = plain(&backends).into_service();
    let fed = Fed::new(&backends, OnRemoved::Drain(Duration::from_secs(60)));
    let (a, b) = (Node::new("a"), Node::new("b"));
    fed.insert("a", &a).await;
    fed.insert("b", &b).await;
    fed.remove("a").await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Draining);
    assert_eq!(send(&service, with_cookie("sid=a")).await.why().0, Verdict::Pinned);
    for _ in 0..4 {
        assert_eq!(send(&service, get()).await.body, "b", "it takes no new sessions");
    }
    tokio::time::sleep(Duration::from_secs(50)).await;
    fed.insert("a", &a).await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Active, "it is back");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(ids(&backends), ["a", "b"], "and stays");
    fed.remove("a").await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(ids(&backends), ["a", "b"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ids(&backends), ["b"], "its time is over");

    fed.remove("b").await;
    let (before, task) = (tokio::time::Instant::now(), fed.task);
    drop(fed.send);
    assert!(matches!(task.await.unwrap(), DiscoveryEnd::Ended));
    assert!(before.elapsed() >= Duration::from_secs(59), "the feed sees its drains through");
    assert!(backends.is_empty());
}

#[tokio::test(start_paused = true)]
async fn thousands_of_changes_at_once_are_taken_in_order() {
    let backends = Backends::new();
    let fed = Fed::new(&backends, OnRemoved::Remove);
    let node = Node::new("n");
    for i in 0..3000 {
        let change = match i % 3 {
            2 => Change::Remove(format!("b{}", i - 1)),
            _ => Change::Insert(format!("b{i}"), node.clone()),
        };
        fed.send.send(Ok(change)).unwrap();
    }
    settle().await;
    assert_eq!(backends.len(), 1000);
    assert!(backends.get("b0").is_some() && backends.get("b1").is_none());
    let updates = fed.handle.stats().updates;
    assert!(updates < 300, "they become visible in {updates} steps, not one by one");
    let service = plain(&backends).into_service();
    let answer = send(&service, with_cookie("sid=b2997")).await;
    assert_eq!(answer.why().1, Some("b2997"), "ids, never positions");
}

#[tokio::test(start_paused = true)]
async fn counters_survive_a_removal_while_requests_are_in_flight() {
    let (backends, [a, _b]) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    send(&service, with_cookie("sid=a")).await;
    a.told.gate.forget_permits(crate::support::UNGATED);
    let slow = tokio::spawn({
        let service = service.clone();
        async move { send(&service, with_cookie("sid=a")).await }
    });
    settle().await;
    a.told.refuses.store(true, SeqCst);
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
    a.told.gate.add_permits(crate::support::UNGATED);
    assert_eq!(slow.await.unwrap().body, "a", "it finished where it was");
    assert_eq!(backends.get("a").unwrap().in_flight, 0);

    // With nothing in flight, a removed backend is forgotten.
    backends.remove("a").unwrap();
    settle().await;
    backends.insert("a", new).unwrap();
    assert_eq!(backends.get("a").unwrap().requests, 0);
}

#[tokio::test(start_paused = true)]
async fn counters_survive_a_removal_by_a_feed_too() {
    let backends = Backends::new();
    let fed = Fed::new(&backends, OnRemoved::Remove);
    let (old, new) = (Node::new("old"), Node::new("new"));
    fed.insert("a", &old).await;
    let service = plain(&backends).into_service();
    old.told.gate.forget_permits(crate::support::UNGATED);
    let slow = tokio::spawn(async move { send(&service, get()).await });
    settle().await;
    fed.remove("a").await;
    assert!(backends.is_empty());
    fed.insert("a", &new).await;
    assert_eq!(backends.get("a").unwrap().in_flight, 1);
    old.told.gate.add_permits(crate::support::UNGATED);
    assert_eq!(slow.await.unwrap().body, "old");
    assert_eq!(backends.get("a").unwrap().in_flight, 0);
    fed.remove("a").await;
    assert!(backends.is_empty(), "it is the feed's own still");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_under_load_never_send_a_request_elsewhere() {
    const COMING: [&str; 4] = ["w", "x", "y", "z"];
    const CHANGES: usize = 4000;
    let (backends, _nodes) = nodes(["a", "b"]);
    let service = plain(&backends).into_service();
    let fed = Fed::new(&backends, OnRemoved::Remove);
    let over = std::sync::Arc::new(AtomicUsize::new(0));
    let clients = ["a", "b", "w", "x", "y", "z"].map(|id| {
        let (service, over) = (service.clone(), over.clone());
        tokio::spawn(async move {
            let (mut sent, mut pinned) = (0, 0);
            loop {
                let answer = send(&service, with_cookie(&format!("sid={id}"))).await;
                let (verdict, backend, _) = answer.why();
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
        fed.send.send(Ok(change)).unwrap();
        if i % 4 == 0 {
            tokio::task::yield_now().await;
        }
    }
    drop(fed.send);
    assert!(matches!(fed.task.await.unwrap(), DiscoveryEnd::Ended));
    over.store(1, SeqCst);
    for client in clients {
        let (id, sent, pinned) = client.await.unwrap();
        if ["a", "b"].contains(&id) {
            assert_eq!(pinned, sent, "nobody moves because others come and go");
        }
    }
    assert_eq!(backends.snapshot().stats.violations(), 0);
    assert!(backends.iter().all(|backend| backend.in_flight == 0));
}
