//! Backends from a `Discover` stream: what joins, what leaves, and when the task ends.

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
    Backends, Mode, Reason, State, Verdict,
    discovery::{DiscoveryEnd, DiscoveryHandle, OnRemoved},
};

use crate::support::{Body, Client, Node, get, nodes, plain, send, with_cookie};

pub(crate) type Item = Result<Change<String, Node>, String>;

/// A stream whose items a test sends.
struct Channel(mpsc::UnboundedReceiver<Item>);

impl futures_core::Stream for Channel {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Item>> {
        self.0.poll_recv(cx)
    }
}

/// A running discovery.
pub(crate) struct Running {
    pub(crate) send: mpsc::UnboundedSender<Item>,
    pub(crate) handle: DiscoveryHandle,
    pub(crate) task: JoinHandle<DiscoveryEnd>,
}

impl Running {
    pub(crate) fn new(backends: &Backends<Node>, leave: OnRemoved) -> Self {
        let (send, receive) = mpsc::unbounded_channel();
        let feed = backends.follow(Channel(receive)).on_removed(leave);
        Self { send, handle: feed.handle(), task: tokio::spawn(feed) }
    }

    pub(crate) async fn send_item(&self, item: Item) {
        self.send.send(item).unwrap();
        settle().await;
    }

    pub(crate) async fn insert(&self, id: &str, node: &Node) {
        self.send_item(Ok(Change::Insert(id.to_owned(), node.clone()))).await;
    }

    pub(crate) async fn remove(&self, id: &str) {
        self.send_item(Ok(Change::Remove(id.to_owned()))).await;
    }
}

/// An empty pool, and a discovery whose removals remove backends.
pub(crate) fn discovery() -> (Backends<Node>, Running) {
    let backends = Backends::new();
    let running = Running::new(&backends, OnRemoved::Remove);
    (backends, running)
}

/// Lets the discovery handle what was sent.
pub(crate) async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

pub(crate) fn ids(backends: &Backends<Node>) -> Vec<String> {
    backends.iter().map(|backend| backend.id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn inserts_join_the_pool_and_removals_leave_it() {
    let (backends, running) = discovery();
    let service = plain(&backends).into_service();
    assert_eq!(send(&service, get()).await.status, 503, "the pool is empty");
    let (a, b) = (Node::new("a"), Node::new("b"));
    running.insert("a", &a).await;
    running.insert("b", &b).await;
    assert_eq!(ids(&backends), ["a", "b"], "without any traffic");
    assert_eq!(send(&service, with_cookie("sid=b")).await.body, "b");
    running.remove("b").await;
    assert_eq!(ids(&backends), ["a"]);
    let answer = send(&service, with_cookie("sid=b")).await;
    assert_eq!(answer.decision(), (Verdict::Assigned, Some("a"), Some(Reason::Unknown)));
    running.remove("unheard of").await;
    assert_eq!(ids(&backends), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn a_finite_list_of_services_stays_after_its_end() {
    let backends = Backends::new();
    let list = vec![Node::new("x"), Node::new("y")];
    let end = backends.follow(ServiceList::new::<Request<Body>>(list)).await;
    assert!(matches!(end, DiscoveryEnd::Ended), "{end:?}");
    assert_eq!(ids(&backends), ["0", "1"]);
}

#[tokio::test(start_paused = true)]
async fn sessions_stay_with_an_id_whose_service_is_replaced() {
    let (backends, running) = discovery();
    let service = plain(&backends).into_service();
    let (old, new, other) = (Node::new("old"), Node::new("new"), Node::new("other"));
    running.insert("a", &old).await;
    let mut client = Client::default();
    assert_eq!(client.send(&service, get()).await.body, "old");
    running.insert("b", &other).await;
    backends.set_weight("a", 3).unwrap();
    backends.set_limit("a", 50).unwrap();
    backends.set_mode("a", Mode::Draining).unwrap();
    old.control.refuses.store(true, SeqCst);
    assert_eq!(
        client.send(&service, get()).await.body,
        "other",
        "it is down, and the cookie moves"
    );
    assert_eq!(backends.get("a").unwrap().state, State::Suspect);
    running.insert("a", &new).await;
    let a = backends.get("a").unwrap();
    assert_eq!(
        (a.weight, a.limit, a.mode),
        (3, 50, Mode::Draining),
        "the operator's settings are kept"
    );
    assert_eq!(a.state, State::Ready, "what was known of its health is forgotten");
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!(answer.decision(), (Verdict::Pinned, Some("a"), None));
    assert_eq!(answer.body, "new");
    assert!(backends.get("a").unwrap().requests >= 2, "its counters go on");
}

#[tokio::test(start_paused = true)]
async fn an_error_item_changes_nothing_and_the_stream_goes_on() {
    let (backends, running) = discovery();
    let (a, b) = (Node::new("a"), Node::new("b"));
    running.insert("a", &a).await;
    for _ in 0..3 {
        running.send_item(Err("the registry is gone".to_owned())).await;
    }
    assert!(running.handle.wait_until(|stats| stats.failures == 3).await);
    assert_eq!(ids(&backends), ["a"], "the last known set stays");
    running.insert("b", &b).await;
    running.handle.wait_until(|stats| stats.updates == 2).await;
    assert_eq!(ids(&backends), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_errors_is_polled_with_pauses() {
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
async fn an_invalid_id_is_skipped() {
    let (backends, running) = discovery();
    let (a, b) = (Node::new("a"), Node::new("b"));
    running.insert("not an id", &a).await;
    running.insert("", &a).await;
    running.remove("not an id").await;
    running.insert("b", &b).await;
    assert_eq!(ids(&backends), ["b"]);
    assert_eq!(running.handle.stats().skipped, 3, "it is counted");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_stream_keeps_its_backends() {
    let (backends, running) = discovery();
    let a = Node::new("a");
    running.insert("a", &a).await;
    drop(running.send);
    assert!(matches!(running.task.await.unwrap(), DiscoveryEnd::Ended));
    assert!(!running.handle.wait_until(|stats| stats.updates > 99).await, "it does not wait");
    assert_eq!(ids(&backends), ["a"]);

    let running = Running::new(&backends, OnRemoved::Remove);
    running.send_item(Err("broken for good".to_owned())).await;
    drop(running.send);
    match running.task.await.unwrap() {
        DiscoveryEnd::Failed(error) => assert_eq!(error.to_string(), "broken for good"),
        other => panic!("the last item was an error: {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn discovery_ends_with_the_last_handle_of_the_pool() {
    let backends = Backends::new();
    let service = plain(&backends).into_service();
    let running = Running::new(&backends, OnRemoved::Drain(Duration::from_secs(3600)));
    let a = Node::new("a");
    running.insert("a", &a).await;
    running.remove("a").await;
    drop(backends);
    settle().await;
    assert!(!running.task.is_finished(), "the service still holds the pool");
    assert_eq!(a.control.clones.load(SeqCst), 2, "the clones are the test's and the pool's");
    drop(service);
    let end = tokio::time::timeout(Duration::from_secs(60), running.task).await;
    assert!(matches!(end.expect("it ends at once").unwrap(), DiscoveryEnd::PoolGone));
    assert_eq!(a.control.clones.load(SeqCst), 1, "the pool is released");
}

#[tokio::test(start_paused = true)]
async fn discovery_changes_only_its_own_backends() {
    let (backends, [hand, _]) = nodes(["hand", "b"]);
    let one = Running::new(&backends, OnRemoved::Remove);
    let two = Running::new(&backends, OnRemoved::Drain(Duration::from_secs(1)));
    let node = Node::new("fed");
    let body = |id: &'static str| {
        let service = plain(&backends).into_service();
        async move { send(&service, with_cookie(&format!("sid={id}"))).await.body }
    };
    one.insert("c", &node).await;
    for feed in [&one, &two] {
        feed.insert("hand", &node).await;
        assert_eq!(feed.handle.stats().skipped, 1, "a conflict is counted");
        assert_eq!(body("hand").await, "hand", "a backend inserted by hand is not replaced");
        feed.remove("hand").await;
    }
    let other = Node::new("other");
    two.insert("c", &other).await;
    assert_eq!(body("c").await, "fed", "a backend of another discovery is not replaced");
    two.remove("c").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ids(&backends), ["hand", "b", "c"], "none of them is removed");
    assert!(backends.iter().all(|backend| backend.mode == Mode::Active), "none of them is drained");
    // A backend that is removed and inserted by hand belongs to no discovery.
    backends.remove("c").unwrap();
    backends.insert("c", hand.clone()).unwrap();
    one.remove("c").await;
    assert_eq!(ids(&backends), ["hand", "b", "c"]);
}

#[tokio::test(start_paused = true)]
async fn the_next_discovery_adopts_backends_of_an_ended_one() {
    let (backends, running) = discovery();
    let (first, second) = (Node::new("first"), Node::new("second"));
    running.insert("a", &first).await;
    running.insert("b", &first).await;
    running.task.abort();
    settle().await;
    let running = Running::new(&backends, OnRemoved::Remove);
    running.remove("b").await;
    assert_eq!(ids(&backends), ["a", "b"], "a backend it did not insert is not removed");
    running.insert("a", &second).await;
    let service = plain(&backends).into_service();
    let answer = send(&service, with_cookie("sid=a")).await;
    assert_eq!((answer.body.as_str(), answer.decision().0), ("second", Verdict::Pinned));
    running.remove("a").await;
    assert_eq!(ids(&backends), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn the_local_node_may_be_among_the_discovered() {
    let (backends, running) = discovery();
    let peer = Node::new("peer");
    running.insert("me", &peer).await;
    running.insert("peer", &peer).await;
    let layer = plain(&backends).local("me");
    let service = tower::Layer::layer(&layer, Node::new("inner"));
    running.insert("me", &peer).await;
    running.remove("me").await;
    assert_eq!(running.handle.stats().skipped, 0, "it is no clash");
    assert_eq!(send(&service, with_cookie("sid=me")).await.body, "inner");
    assert_eq!(send(&service, with_cookie("sid=peer")).await.body, "peer");
}

#[tokio::test(start_paused = true)]
async fn removed_backends_may_drain_first() {
    let backends = Backends::new();
    let service = plain(&backends).into_service();
    let running = Running::new(&backends, OnRemoved::Drain(Duration::from_secs(60)));
    let (a, b) = (Node::new("a"), Node::new("b"));
    running.insert("a", &a).await;
    running.insert("b", &b).await;
    running.remove("a").await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Draining);
    assert_eq!(send(&service, with_cookie("sid=a")).await.decision().0, Verdict::Pinned);
    for _ in 0..4 {
        assert_eq!(send(&service, get()).await.body, "b", "it takes no new sessions");
    }
    tokio::time::sleep(Duration::from_secs(50)).await;
    running.insert("a", &a).await;
    assert_eq!(backends.get("a").unwrap().mode, Mode::Active, "it is back");
    tokio::time::sleep(Duration::from_secs(50)).await;
    assert_eq!(ids(&backends), ["a", "b"], "and stays");
    running.remove("a").await;
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(ids(&backends), ["a", "b"]);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(ids(&backends), ["b"], "its drain is over");

    running.remove("b").await;
    let (before, task) = (tokio::time::Instant::now(), running.task);
    drop(running.send);
    assert!(matches!(task.await.unwrap(), DiscoveryEnd::Ended));
    assert!(before.elapsed() >= Duration::from_secs(59), "the discovery waits for its drains");
    assert!(backends.is_empty());
}
